"""Stops and take-profits while a candle plays, worked by hand."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from support import env_of, equity, flat_rows, instrument, market_of, phases, wallet

from envs.account import ActionType, CandleEvent, Leg, Protection, Side
from envs.futures_env import FuturesEnv

D = Decimal
STOP_5 = {"scheme": "quantity", "stop_loss_fraction": 0.05}
BOTH_5 = {"scheme": "quantity", "stop_loss_fraction": 0.05, "take_profit_fraction": 0.05}


def events_of(result: Any) -> tuple[CandleEvent, ...]:
    events = result[4]["events"]
    assert isinstance(events, tuple)
    return events


def held_with(env: FuturesEnv, quantity: float, protection: Protection) -> Any:
    """A step that goes to `quantity` and hangs `protection` on it."""
    plan = env.plan(np.array([quantity]))
    entries = tuple(replace(entry, protection=protection) for entry in plan.entries)
    env.execute(replace(plan, entries=entries))
    return env.advance()


@pytest.mark.parametrize(
    ("quantity", "candle", "price", "pnl"),
    [
        (2.0, (100, 101, 94, 98), 95.0, -10.0),  # long: 2 * (95 - 100)
        (-2.0, (100, 106, 99, 102), 105.0, -10.0),  # short: -2 * (105 - 100)
    ],
)
def test_stop_inside_a_candle(quantity: float, candle: Any, price: float, pnl: float) -> None:
    env = env_of(market_of([(100, 100, 100, 100), candle, (100, 100, 100, 100)]), action=STOP_5)
    env.reset()
    _, result = phases(env, quantity)
    (event,) = events_of(result)
    assert event.action_type is ActionType.STOP_LOSS
    assert event.fill.leg is Leg.STOP
    assert event.fill.side is (Side.SELL if quantity > 0 else Side.BUY)
    assert (event.fill.quantity, float(event.fill.price)) == (D(2), price)
    assert float(event.fill.realized_pnl) == pytest.approx(pnl)
    assert env.account().is_flat
    # Commissions: 2 * 100 * 0.001 in, 2 * price * 0.001 out.
    assert wallet(env) == pytest.approx(1000 + pnl - 0.2 - 2 * price * 0.001)


def test_a_touch_of_the_stop_is_enough_and_a_near_miss_is_not() -> None:
    for low, hit in ((95.0, True), (95.1, False)):
        env = env_of(market_of([(100, 100, 100, 100), (100, 100, low, 98), (98, 98, 98, 98)]), action=STOP_5)
        env.reset()
        _, result = phases(env, 2.0)
        assert bool(events_of(result)) is hit


def test_a_stop_pays_slippage_against_the_taker() -> None:
    rows = [(100, 100, 100, 100), (100, 100, 94, 98), (98, 98, 98, 98)]
    env = env_of(market_of(rows), action=STOP_5, slippage_bps=10.0)
    env.reset()
    _, result = phases(env, 2.0)
    # 95 * (1 - 0.001) = 94.905, commission 2 * 94.905 * 0.001.
    (event,) = events_of(result)
    assert float(event.fill.price) == pytest.approx(94.905)
    assert float(event.fill.commission) == pytest.approx(0.18981)


def test_a_gap_through_the_stop_fills_at_the_open() -> None:
    rows = [(100, 100, 100, 100), (100, 100, 99, 99), (90, 97, 89, 97), (97, 97, 97, 97)]
    env = env_of(market_of(rows), action=STOP_5)
    env.reset()
    phases(env, 2.0)
    _, result = phases(env, 2.0)
    (event,) = events_of(result)
    assert (event.action_type, float(event.fill.price)) == (ActionType.STOP_LOSS, 90.0)


@pytest.mark.parametrize(("high", "price"), [(106, 105.0), (105, 105.0)])
def test_take_profit_inside_a_candle(high: float, price: float) -> None:
    env = env_of(market_of([(100, 100, 100, 100), (100, high, 99, 101), (101, 101, 101, 101)]), action=BOTH_5)
    env.reset()
    _, result = phases(env, 2.0)
    (event,) = events_of(result)
    assert (event.action_type, event.fill.leg) == (ActionType.TAKE_PROFIT, Leg.TAKE_PROFIT)
    assert float(event.fill.price) == price
    assert float(event.fill.realized_pnl) == pytest.approx(10)
    assert wallet(env) == pytest.approx(1000 + 10 - 0.2 - 0.21)


def test_take_profit_of_a_short() -> None:
    env = env_of(market_of([(100, 100, 100, 100), (100, 101, 94, 99), (99, 99, 99, 99)]), action=BOTH_5)
    env.reset()
    _, result = phases(env, -2.0)
    (event,) = events_of(result)
    assert (event.action_type, float(event.fill.price)) == (ActionType.TAKE_PROFIT, 95.0)


def test_a_gap_through_the_take_profit_fills_at_the_open() -> None:
    rows = [(100, 100, 100, 100), (100, 101, 99, 101), (108, 109, 107, 108), (108, 108, 108, 108)]
    env = env_of(market_of(rows), action=BOTH_5, slippage_bps=10.0)
    env.reset()
    phases(env, 2.0)
    _, result = phases(env, 2.0)
    (event,) = events_of(result)
    assert event.action_type is ActionType.TAKE_PROFIT
    assert float(event.fill.price) == pytest.approx(108 * 0.999)


@pytest.mark.parametrize("quantity", [2.0, -2.0])
def test_stop_and_take_profit_in_one_candle_the_stop_is_taken(quantity: float) -> None:
    env = env_of(market_of([(100, 100, 100, 100), (100, 106, 94, 100), (100, 100, 100, 100)]), action=BOTH_5)
    env.reset()
    _, result = phases(env, quantity)
    (event,) = events_of(result)
    assert event.action_type is ActionType.STOP_LOSS
    assert float(event.fill.price) == (95.0 if quantity > 0 else 105.0)


def test_triggers_lie_on_the_tick_nearer_to_the_price() -> None:
    rows = [(100.3, 100.3, 100.3, 100.3), (100.3, 100.3, 100.3, 100.3), (100.3, 100.3, 100.3, 100.3)]
    expected = {2.0: ("95.3", "105.3"), -2.0: ("105.3", "95.3")}  # 100.3 -+ 5.015
    for quantity, (stop, take_profit) in expected.items():
        env = env_of(market_of(rows), action=BOTH_5)
        env.reset()
        phases(env, quantity)
        protection = env.account().positions["BTCUSDT"].protection
        assert protection == Protection(D(stop), D(take_profit), None)


def test_triggers_follow_an_increase_and_stay_on_a_reduction() -> None:
    env = env_of(market_of(flat_rows(100, 100, 102, 102, 98, 98, 98)), action=BOTH_5)
    env.reset()
    stops = []
    for quantity in (2.0, 2.0, 3.0, 1.0, -1.0, 0.0):
        phases(env, quantity)
        stops.append(env.account().positions["BTCUSDT"].protection.stop_price)
    # Opened at the close of 100: 95. Held: 95. Increased at the close of 102: 96.9. Reduced: 96.9.
    # Flipped at the close of 98: 102.9. Closed: none.
    assert stops == [D("95.0"), D("95.0"), D("96.9"), D("96.9"), D("102.9"), None]


def test_triggers_without_a_position_are_gone() -> None:
    rows = [(100, 100, 100, 100), (100, 100, 94, 100), (100, 100, 90, 100), (100, 110, 100, 110)]
    env = env_of(market_of(rows), action=BOTH_5, episode_candles=3)
    env.reset()
    phases(env, 2.0)  # stopped out at 95
    before = wallet(env)
    _, second = phases(env, 0.0)
    _, third = phases(env, 0.0)
    assert events_of(second) == events_of(third) == ()
    assert wallet(env) == before


@pytest.mark.parametrize(
    ("stop", "guard", "price", "leg"),
    [
        ("95", "92", 95.0, Leg.STOP),
        ("92", "95", 95.0, Leg.PROTECTIVE_STOP),
        (None, "95", 95.0, Leg.PROTECTIVE_STOP),
        ("95", "95", 95.0, Leg.STOP),
    ],
)
def test_of_stop_and_protective_stop_the_nearer_one_fires(
    stop: str | None, guard: str, price: float, leg: Leg
) -> None:
    env = env_of(market_of([(100, 100, 100, 100), (100, 100, 90, 98), (98, 98, 98, 98)]))
    env.reset()
    result = held_with(env, 2.0, Protection(D(stop) if stop else None, None, D(guard)))
    (event,) = events_of(result)
    assert (event.action_type, event.fill.leg) == (ActionType.STOP_LOSS, leg)
    assert float(event.fill.price) == price


def test_protective_stop_of_a_short_lies_above() -> None:
    env = env_of(market_of([(100, 100, 100, 100), (100, 110, 100, 102), (102, 102, 102, 102)]))
    env.reset()
    result = held_with(env, -2.0, Protection(D(107), None, D(104)))
    (event,) = events_of(result)
    assert (event.fill.leg, float(event.fill.price)) == (Leg.PROTECTIVE_STOP, 104.0)


def test_an_entry_that_opens_beyond_its_stop_is_closed_at_the_same_open() -> None:
    # Stop 95 from the close of 100; candle 1 opens at 93, buys there, and is beyond the stop at once.
    rows = [(100, 100, 100, 100), (93, 99, 92, 99), (99, 99, 99, 99)]
    env = env_of(market_of(rows), action=STOP_5, taker_fee_fraction=0.0)
    env.reset()
    _, result = phases(env, 2.0)
    (event,) = events_of(result)
    assert float(event.fill.price) == 93.0
    assert equity(env) == 1000.0


def test_every_symbol_has_its_own_triggers() -> None:
    market = market_of(
        {
            "AAAUSDT": [(100, 100, 100, 100), (100, 100, 94, 96), (96, 96, 96, 96)],
            "BBBUSDT": [(10, 10, 10, 10), (10, 10.6, 10, 10.6), (10.6, 10.6, 10.6, 10.6)],
        }
    )
    rules = [instrument("AAAUSDT"), instrument("BBBUSDT", tick="0.01")]
    env = env_of(market, instruments=rules, action=BOTH_5, taker_fee_fraction=0.0)
    env.reset()
    _, result = phases(env, 2.0, 30.0)
    events = {event.fill.symbol: event for event in events_of(result)}
    assert events["AAAUSDT"].action_type is ActionType.STOP_LOSS
    assert events["BBBUSDT"].action_type is ActionType.TAKE_PROFIT
    # 2 * (95 - 100) + 30 * (10.5 - 10)
    assert equity(env) == pytest.approx(1000 - 10 + 15)
