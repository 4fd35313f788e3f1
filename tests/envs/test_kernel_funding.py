"""Funding, worked by hand: no commission, no slippage, hourly candles unless a test says otherwise."""

from __future__ import annotations

from decimal import Decimal

import pytest
from support import candle_set, env_of, flat_rows, market_of, phases, wallet

ROWS = flat_rows(100, 100, 110, 110, 110)


def test_at_a_boundary_the_position_before_the_orders_pays() -> None:
    # Settled at 02:00, the open of candle 2. Two units are held from candle 1 on, and closed at that very open.
    env = env_of(market_of(ROWS, funding={"BTCUSDT": [(120, 0.01)]}), taker_fee_fraction=0.0)
    env.reset()
    phases(env, 2.0)
    assert wallet(env) == 1000.0
    execution, result = phases(env, 0.0)
    # -2 * 110 * 0.01 = -2.2, the mark being the open of candle 2; then the close earns 2 * (110 - 100) = 20.
    assert float(execution.funding_usdt["BTCUSDT"]) == pytest.approx(-2.2)
    assert float(execution.account.wallet_usdt) == pytest.approx(1000 - 2.2 + 20)
    assert result[4]["funding_usdt"]["BTCUSDT"] == 0


def test_at_a_boundary_an_order_filled_there_pays_nothing() -> None:
    env = env_of(market_of(ROWS, funding={"BTCUSDT": [(120, 0.01)]}), taker_fee_fraction=0.0)
    env.reset()
    phases(env, 0.0)
    execution, _ = phases(env, 2.0)  # bought at 02:00, after the funding
    assert execution.funding_usdt["BTCUSDT"] == 0
    assert wallet(env) == 1000.0


def test_the_plan_at_the_close_before_does_not_know_the_funding_yet() -> None:
    env = env_of(market_of(ROWS, funding={"BTCUSDT": [(120, 0.01)]}), taker_fee_fraction=0.0)
    env.reset()
    phases(env, 2.0)
    assert wallet(env) == 1000.0  # at the close of candle 1, a millisecond before 02:00


def test_inside_a_candle_the_position_after_the_orders_pays() -> None:
    # Settled at 02:30, inside candle 2, on what was bought at its open; the mark is that open, 110.
    env = env_of(market_of(ROWS, funding={"BTCUSDT": [(150, 0.01)]}), taker_fee_fraction=0.0)
    env.reset()
    phases(env, 0.0)
    execution, result = phases(env, 2.0)
    assert execution.funding_usdt["BTCUSDT"] == 0
    assert float(result[4]["funding_usdt"]["BTCUSDT"]) == pytest.approx(-2.2)
    assert wallet(env) == pytest.approx(1000 - 2.2)


def test_inside_a_candle_a_position_closed_at_its_open_pays_nothing() -> None:
    env = env_of(market_of(ROWS, funding={"BTCUSDT": [(150, 0.01)]}), taker_fee_fraction=0.0)
    env.reset()
    phases(env, 2.0)
    phases(env, 0.0)
    assert wallet(env) == pytest.approx(1000 + 20)
    assert env.totals()["funding"] == 0.0


@pytest.mark.parametrize(("quantity", "rate", "amount"), [(2, 0.01, -2), (-2, 0.01, 2), (2, -0.01, 2)])
def test_longs_pay_positive_rates_and_shorts_receive_them(
    quantity: float, rate: float, amount: float
) -> None:
    env = env_of(market_of(flat_rows(*[100] * 4), funding={"BTCUSDT": [(120, rate)]}), taker_fee_fraction=0.0)
    env.reset()
    phases(env, quantity)
    execution, _ = phases(env, quantity)
    assert float(execution.funding_usdt["BTCUSDT"]) == pytest.approx(amount)
    assert env.totals()["funding"] == pytest.approx(amount)


def test_the_mark_series_prices_the_funding_where_it_is_given() -> None:
    marks = {"BTCUSDT": candle_set(flat_rows(100, 101, 112, 113, 114))}
    market = market_of(ROWS, funding={"BTCUSDT": [(120, 0.01)]}, marks=marks)
    env = env_of(market, taker_fee_fraction=0.0)
    env.reset()
    phases(env, 2.0)
    execution, _ = phases(env, 2.0)
    assert float(execution.funding_usdt["BTCUSDT"]) == pytest.approx(-2 * 112 * 0.01)


def test_a_long_candle_pays_at_its_open_and_inside() -> None:
    # 12-hour candles and 8-hour funding: candle 2 opens at 24:00 (boundary) and holds 32:00 (inside).
    market = market_of(
        flat_rows(100, 100, 110, 120),
        interval="12h",
        funding={"BTCUSDT": [(hour * 60, 0.001 * (1 + hour / 8)) for hour in range(0, 48, 8)]},
    )
    env = env_of(market, taker_fee_fraction=0.0)
    env.reset()
    first, result = phases(env, 2.0)  # opened at 12:00
    assert first.funding_usdt["BTCUSDT"] == 0
    # 16:00 lies inside candle 1: rate 0.003, mark 100, 2 units.
    assert float(result[4]["funding_usdt"]["BTCUSDT"]) == pytest.approx(-2 * 100 * 0.003)
    second, result = phases(env, -1.0)  # flipped at 24:00
    # 24:00 on the old +2 at 110, rate 0.004; 32:00 on the new -1 at 110, rate 0.005.
    assert float(second.funding_usdt["BTCUSDT"]) == pytest.approx(-2 * 110 * 0.004)
    assert float(result[4]["funding_usdt"]["BTCUSDT"]) == pytest.approx(1 * 110 * 0.005)
    assert env.totals()["funding"] == pytest.approx(-0.6 - 0.88 + 0.55)


def test_funding_can_liquidate_at_the_open() -> None:
    # 90 units at 100: maintenance 1 % of 9000 = 90, equity 1000. A rate of 10.2 % takes 918 of it.
    env = env_of(
        market_of(flat_rows(*[100] * 4), funding={"BTCUSDT": [(120, 0.102)]}),
        taker_fee_fraction=0.0,
        exchange_leverage=20,
    )
    env.reset()
    phases(env, 90.0)
    execution, result = phases(env, 90.0)
    # 1000 - 918 = 82 <= 90: closed at 100 for the fee of 1 % of 9000 = 90, of which 82 is there.
    assert execution.results[0].planned.action_type == "liquidation"
    assert float(execution.funding_usdt["BTCUSDT"]) == pytest.approx(-918)
    assert float(execution.results[0].fills[0].commission) == pytest.approx(82)
    assert execution.account.wallet_usdt == Decimal("0.0")
    assert result[2] is True


def test_each_symbol_pays_its_own() -> None:
    market = market_of(
        {"AAAUSDT": flat_rows(*[100] * 4), "BBBUSDT": flat_rows(*[10] * 4)},
        funding={"AAAUSDT": [(120, 0.01)], "BBBUSDT": [(120, 0.02)]},
    )
    env = env_of(market, taker_fee_fraction=0.0)
    env.reset()
    phases(env, 1.0, -30.0)
    execution, _ = phases(env, 1.0, -30.0)
    assert {s: round(float(v), 9) for s, v in execution.funding_usdt.items()} == {"AAAUSDT": -1, "BBBUSDT": 6}
    assert wallet(env) == pytest.approx(1005)
