"""Liquidation, worked by hand and against Binance's published liquidation price.

    LP = (WB - TMM_other + UPNL_other + cum - s * q * EP) / (q * mmr - s * q)

WB wallet balance, TMM and UPNL maintenance margin and unrealized PnL of the other positions, cum the maintenance
amount and mmr the rate of the bracket that q * LP lies in, s = +1 for a long and -1 for a short, EP entry price.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from support import env_of, flat_rows, instrument, market_of, phases, wallet

from envs.account import ActionType, CandleEvent, OrderStatus, Protection
from envs.futures_env import FuturesEnv

D = Decimal
ONE_BRACKET = [("1000000", "0.01", 100)]


def liquidation_price(
    wallet_usdt: float, sign: int, quantity: float, entry: float, rate: float, cum: float, other: float = 0.0
) -> float:
    """Binance's formula; `other` is UPNL_other - TMM_other."""
    return (wallet_usdt + other + cum - sign * quantity * entry) / (quantity * rate - sign * quantity)


def events_of(result: Any) -> tuple[CandleEvent, ...]:
    events = result[4]["events"]
    assert isinstance(events, tuple)
    return events


def leveraged(rows: Any, brackets: Any = ONE_BRACKET, **settings: Any) -> FuturesEnv:
    """An environment at leverage 20 with a liquidation fee of 0.4 %, less than the maintenance rate."""
    rules = [instrument(s, brackets=brackets, liquidation_fee="0.004") for s in market_of(rows).symbols]
    return env_of(market_of(rows), instruments=rules, exchange_leverage=20, **settings)


def falling_to(low: float) -> list[tuple[float, float, float, float]]:
    return [(100, 100, 100, 100), (100, 100, low, low), (low, low, low, low)]


def rising_to(high: float) -> list[tuple[float, float, float, float]]:
    return [(100, 100, 100, 100), (100, high, 100, high), (high, high, high, high)]


def test_long_liquidation_price() -> None:
    env = leveraged(falling_to(80))
    env.reset()
    _, result = phases(env, 50.0)
    # Wallet 1000 - 5 of commission. LP = (995 - 5000) / (50 * 0.01 - 50) = -4005 / -49.5 = 80.909...
    expected = -4005 / -49.5
    assert liquidation_price(995, 1, 50, 100, 0.01, 0) == pytest.approx(expected, rel=1e-15)
    (event,) = events_of(result)
    assert event.action_type is ActionType.LIQUIDATION and event.fill.liquidation
    assert float(event.fill.price) == pytest.approx(expected, rel=1e-12)
    # There equity is the maintenance margin, 1 % of 4045.45 = 40.45; the fee takes 0.4 %, 16.18.
    assert float(event.fill.commission) == pytest.approx(0.004 * 50 * expected, rel=1e-12)
    assert wallet(env) == pytest.approx((0.01 - 0.004) * 50 * expected, rel=1e-9)  # 24.27
    assert result[2] is True and env.account().is_flat
    assert env.totals()["liquidations"] == 1


def test_short_liquidation_price() -> None:
    env = leveraged(rising_to(120))
    env.reset()
    _, result = phases(env, -50.0)
    # LP = (995 + 5000) / (50 * 0.01 + 50) = 5995 / 50.5 = 118.7128...
    expected = 5995 / 50.5
    assert liquidation_price(995, -1, 50, 100, 0.01, 0) == pytest.approx(expected, rel=1e-15)
    assert float(events_of(result)[0].fill.price) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("beyond", [0.0, 0.01, -0.01])
def test_the_liquidation_price_decides_to_the_last_digit(beyond: float) -> None:
    price = -4005 / -49.5
    env = leveraged(falling_to(price + beyond))
    env.reset()
    _, result = phases(env, 50.0)
    # A low a cent above it does no harm. At the price itself float noise may fall either way.
    if beyond:
        assert bool(events_of(result)) is (beyond < 0)


def test_long_across_a_bracket_border() -> None:
    # 5000 USDT lie in the second bracket (5 %, cum = 4200 * 0.04 = 168), the liquidation price in the first.
    brackets = [("4200", "0.01", 100), ("1000000", "0.05", 20)]
    env = leveraged(falling_to(70), brackets)
    env.reset()
    _, result = phases(env, 50.0)
    expected = liquidation_price(995, 1, 50, 100, 0.01, 0)  # 80.909: 4045 USDT <= 4200
    assert 50 * expected < 4200
    assert float(events_of(result)[0].fill.price) == pytest.approx(expected, rel=1e-12)


def test_short_across_a_bracket_border() -> None:
    # 5000 USDT lie in the first bracket, the liquidation price in the second: cum = 5500 * 0.04 = 220.
    brackets = [("5500", "0.01", 100), ("1000000", "0.05", 20)]
    env = leveraged(rising_to(130), brackets)
    env.reset()
    _, result = phases(env, -50.0)
    expected = liquidation_price(995, -1, 50, 100, 0.05, 220)  # (995 + 220 + 5000) / (2.5 + 50) = 118.38
    assert expected == pytest.approx(6215 / 52.5)
    assert 50 * expected > 5500
    assert float(events_of(result)[0].fill.price) == pytest.approx(expected, rel=1e-12)


def test_a_stop_nearer_than_the_liquidation_comes_first() -> None:
    env = leveraged(falling_to(70), action={"scheme": "quantity", "stop_loss_fraction": 0.1})
    env.reset()
    _, result = phases(env, 50.0)
    (event,) = events_of(result)
    assert (event.action_type, float(event.fill.price)) == (ActionType.STOP_LOSS, 90.0)
    assert wallet(env) == pytest.approx(995 - 500 - 4.5)
    assert result[2] is False


def test_a_liquidation_nearer_than_the_stop_comes_first() -> None:
    env = leveraged(falling_to(70), action={"scheme": "quantity", "stop_loss_fraction": 0.2})
    env.reset()
    _, result = phases(env, 50.0)
    (event,) = events_of(result)
    assert event.action_type is ActionType.LIQUIDATION  # 80.909 lies above 80
    assert float(event.fill.price) == pytest.approx(4005 / 49.5, rel=1e-12)


def test_a_gap_through_stop_and_liquidation_is_a_liquidation_at_the_open() -> None:
    rows = [*flat_rows(100, 100), (75, 76, 74, 75), (75, 75, 75, 75)]
    env = leveraged(rows, action={"scheme": "quantity", "stop_loss_fraction": 0.1})
    env.reset()
    phases(env, 50.0)
    execution, result = phases(env, 50.0)
    (row,) = execution.results
    assert (row.planned.action_type, row.status) == (ActionType.LIQUIDATION, OrderStatus.FILLED)
    assert float(row.fills[0].price) == 75.0
    # 995 + 50 * (75 - 100) = -255: the wallet stays at 0, the insurance fund covers 255, no fee is left to take.
    assert execution.account.wallet_usdt == 0
    assert row.fills[0].commission == 0
    assert env.totals()["insurance"] == pytest.approx(255)
    assert events_of(result) == ()  # told once, by the execution
    assert result[2] is True


def test_a_gap_to_the_stop_but_not_to_the_liquidation_is_a_stop() -> None:
    rows = [*flat_rows(100, 100), (85, 86, 60, 85), (85, 85, 85, 85)]
    env = leveraged(rows, action={"scheme": "quantity", "stop_loss_fraction": 0.1})
    env.reset()
    phases(env, 50.0)
    _, result = phases(env, 50.0)
    (event,) = events_of(result)
    assert (event.action_type, float(event.fill.price)) == (ActionType.STOP_LOSS, 85.0)


def test_orders_of_a_liquidated_step_are_not_filled() -> None:
    rows = {"AAAUSDT": flat_rows(100, 100, 75, 75), "BBBUSDT": flat_rows(*[100] * 4)}
    env = leveraged(rows)
    env.reset()
    phases(env, 50.0, 0.0)
    execution, _ = phases(env, 50.0, 1.0)
    first, second = execution.results
    assert first.planned.action_type is ActionType.LIQUIDATION
    assert (second.status, second.error, second.fills) == (OrderStatus.NONE, "liquidated", ())
    assert env.account().is_flat


def test_the_fee_is_limited_to_what_is_left() -> None:
    rules = [instrument(liquidation_fee="0.0125", brackets=ONE_BRACKET)]
    env = env_of(market_of(falling_to(70)), instruments=rules, exchange_leverage=20)
    env.reset()
    _, result = phases(env, 50.0)
    # At the liquidation price 1 % is left, the fee would be 1.25 %.
    left = 0.01 * 50 * 4005 / 49.5
    assert float(events_of(result)[0].fill.commission) == pytest.approx(left, rel=1e-9)
    assert wallet(env) == pytest.approx(0.0, abs=1e-9)
    assert wallet(env) >= 0.0
    assert env.totals()["insurance"] == pytest.approx(0.0, abs=1e-9)


def test_one_symbols_loss_liquidates_both() -> None:
    rows = {
        "AAAUSDT": [(100, 100, 100, 100), (100, 100, 60, 60), (60, 60, 60, 60)],
        "BBBUSDT": flat_rows(100, 100, 100),
    }
    env = leveraged(rows)
    env.reset()
    _, result = phases(env, 30.0, 30.0)
    # Wallet 1000 - 2 * 3. A fraction x of the way down A stands at 100 - 40 x, B at 100:
    # 994 - 30 * 40 x = 0.01 * 30 * (100 - 40 x + 100), so x = 934 / 1188 and A = 68.552...
    expected = 100 - 40 * 934 / 1188
    assert liquidation_price(994, 1, 30, 100, 0.01, 0, other=-30.0) == pytest.approx(expected, rel=1e-12)
    events = {event.fill.symbol: event for event in events_of(result)}
    assert {event.action_type for event in events.values()} == {ActionType.LIQUIDATION}
    assert float(events["AAAUSDT"].fill.price) == pytest.approx(expected, rel=1e-12)
    assert float(events["BBBUSDT"].fill.price) == 100.0
    assert env.account().is_flat
    # Maintenance margin 1 % of both notionals, less the fee of 0.4 % of both.
    assert wallet(env) == pytest.approx(0.006 * 30 * (expected + 100), rel=1e-9)


def test_all_symbols_move_together_each_to_its_adverse_extreme() -> None:
    # A long 20 falls to 80 while a short 20 in B rises to 140: x = (996 - 40) / (20*20 + 20*40 + 0.2*(40 - 20)).
    rows = {
        "AAAUSDT": [(100, 105, 80, 90), (100, 105, 80, 90), (90, 90, 90, 90)],
        "BBBUSDT": [(100, 140, 95, 99), (100, 140, 95, 99), (99, 99, 99, 99)],
    }
    rows["AAAUSDT"][0] = rows["BBBUSDT"][0] = (100, 100, 100, 100)
    env = leveraged(rows)
    env.reset()
    _, result = phases(env, 20.0, -20.0)
    # equity 996 - 400 x - 800 x, maintenance 0.01 * (20 * (100 - 20 x) + 20 * (100 + 40 x)) = 40 + 4 x
    x = 956 / 1204
    prices = {event.fill.symbol: float(event.fill.price) for event in events_of(result)}
    assert prices == {
        "AAAUSDT": pytest.approx(100 - 20 * x, rel=1e-12),
        "BBBUSDT": pytest.approx(100 + 40 * x, rel=1e-12),
    }


def test_a_symbol_stopped_before_the_liquidation_keeps_its_own_profit_and_loss() -> None:
    rows = {
        "AAAUSDT": [(100, 100, 100, 100), (100, 100, 80, 90), (90, 90, 90, 90)],
        "BBBUSDT": [(100, 100, 100, 100), (100, 100, 60, 60), (60, 60, 60, 60)],
    }
    env = leveraged(rows)
    env.reset()
    plan = env.plan(np.array([10.0, 40.0]))
    entries = (replace(plan.entries[0], protection=Protection(stop_price=D(95))), plan.entries[1])
    env.execute(replace(plan, entries=entries))
    result = env.advance()
    events = {event.fill.symbol: event for event in events_of(result)}
    stopped, liquidated = events["AAAUSDT"], events["BBBUSDT"]
    # A stops at x = 5 / 20 for 10 * (95 - 100) = -50, with commission 0.95.
    assert stopped.action_type is ActionType.STOP_LOSS
    assert float(stopped.fill.realized_pnl) == pytest.approx(-50)
    assert float(stopped.fill.commission) == pytest.approx(0.95)
    # B alone then: wallet 1000 - 1 - 4 - 50 - 0.95 = 944.05; LP = (944.05 - 4000) / (0.4 - 40).
    assert liquidated.action_type is ActionType.LIQUIDATION
    assert float(liquidated.fill.price) == pytest.approx((944.05 - 4000) / (0.4 - 40), rel=1e-12)


def test_a_stop_frees_maintenance_margin_but_its_loss_counts_for_the_others() -> None:
    # The same two symbols without A's stop: both go together, and later prices differ.
    rows = {
        "AAAUSDT": [(100, 100, 100, 100), (100, 100, 80, 90), (90, 90, 90, 90)],
        "BBBUSDT": [(100, 100, 100, 100), (100, 100, 60, 60), (60, 60, 60, 60)],
    }
    env = leveraged(rows)
    env.reset()
    _, result = phases(env, 10.0, 40.0)
    # 995 - 200 x - 1600 x = 0.01 * (10 * (100 - 20 x) + 40 * (100 - 40 x)) = 50 - 18 x: x = 945 / 1782.
    x = 945 / 1782
    prices = {event.fill.symbol: float(event.fill.price) for event in events_of(result)}
    assert prices == {"AAAUSDT": pytest.approx(100 - 20 * x), "BBBUSDT": pytest.approx(100 - 40 * x)}


def test_the_wallet_is_covered_when_a_close_leaves_less_than_nothing() -> None:
    env = leveraged(
        falling_to(88), slippage_bps=3000.0, action={"scheme": "quantity", "stop_loss_fraction": 0.1}
    )
    env.reset()
    _, result = phases(env, 20.0)
    # With slippage of 30 % it buys at 130 and the stop at 90 sells at 63: 20 * (63 - 130) = -1340.
    (event,) = events_of(result)
    assert (event.action_type, float(event.fill.price)) == (ActionType.STOP_LOSS, pytest.approx(63))
    # 1000 - 2.6 - 1340 - 1.26 = -343.86.
    assert wallet(env) == 0.0
    assert env.totals()["insurance"] == pytest.approx(343.86)
    assert result[2] is True  # nothing is left to trade with


@pytest.mark.parametrize("quantity", [13.7, 20.0])
def test_equity_identity_holds_through_a_liquidation(quantity: float) -> None:
    rows = [*flat_rows(100, 100), (30, 30, 20, 25), (25, 25, 25, 25)]
    env = leveraged(rows)
    env.reset()
    phases(env, quantity)
    phases(env, quantity)
    t = env.totals()
    assert t["equity"] == pytest.approx(
        1000 + t["realized_pnl"] - t["fees"] + t["funding"] + t["insurance"], abs=1e-9
    )
    assert t["equity"] >= 0


def test_where_stop_and_liquidation_are_reached_together_it_is_a_liquidation() -> None:
    # Candle 2 opens at 89, through the stop at 90 and with 995 - 550 = 445 of equity. A funding inside it takes
    # 50 * 89 * 0.1 = 445: at the open, where the stop would fill, equity is below the maintenance margin.
    rows = [*flat_rows(100, 100), (89, 89, 88, 89), (89, 89, 89, 89)]
    market = market_of(rows, funding={"BTCUSDT": [(0, 0.0), (150, 0.1)]})
    rules = [instrument(brackets=ONE_BRACKET, liquidation_fee="0.004")]
    env = env_of(
        market,
        instruments=rules,
        exchange_leverage=20,
        action={"scheme": "quantity", "stop_loss_fraction": 0.1},
    )
    env.reset()
    phases(env, 50.0)
    _, result = phases(env, 50.0)
    (event,) = events_of(result)
    assert (event.action_type, float(event.fill.price)) == (ActionType.LIQUIDATION, 89.0)
