"""Orders and fills, worked by hand: 1000 USDT, commission 0.1 %, no slippage unless a test sets one."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from support import env_of, equity, flat_rows, instrument, market_of, phases, wallet

from envs.account import ActionType, OrderStatus, PositionSide, Side
from envs.errors import ActionError

D = Decimal


def test_open_fills_at_the_next_open_and_marks_at_its_close() -> None:
    env = env_of(market_of([(100, 100, 100, 100), (102, 106, 101, 105), (105, 105, 105, 105)]))
    env.reset()
    execution, _ = phases(env, 2.0)
    (result,) = execution.results
    (fill,) = result.fills
    assert result.planned.action_type is ActionType.OPEN_LONG
    assert (fill.side, fill.quantity, fill.price) == (Side.BUY, D(2), D("102.0"))
    assert float(fill.commission) == pytest.approx(2 * 102 * 0.001, rel=1e-15)  # 0.204
    assert wallet(env) == pytest.approx(1000 - 0.204)
    # The row after execution is marked at the close that was decided on: 2 * (100 - 102) = -4.
    assert float(execution.account.equity_usdt) == pytest.approx(1000 - 0.204 - 4)
    # After the candle: 2 * (105 - 102) = 6.
    assert equity(env) == pytest.approx(1000 - 0.204 + 6)


def test_open_short_earns_when_the_price_falls() -> None:
    env = env_of(market_of([(100, 100, 100, 100), (100, 100, 90, 90), (90, 90, 90, 90)]))
    env.reset()
    execution, _ = phases(env, -3.0)
    assert execution.results[0].planned.action_type is ActionType.OPEN_SHORT
    assert execution.results[0].fills[0].side is Side.SELL
    assert env.account().positions["BTCUSDT"].side is PositionSide.SHORT
    # Commission 3 * 100 * 0.001 = 0.3; profit -3 * (90 - 100) = 30.
    assert equity(env) == pytest.approx(1000 - 0.3 + 30)


def test_increase_reduce_close() -> None:
    env = env_of(market_of(flat_rows(100, 102, 110, 120, 90, 90)))
    env.reset()
    phases(env, 2.0)  # 2 at 102, commission 0.204

    execution, _ = phases(env, 3.0)  # 1 more at 110, commission 0.11
    assert execution.results[0].planned.action_type is ActionType.INCREASE_LONG
    entry = (2 * 102 + 1 * 110) / 3  # 104.666...
    assert float(env.account().positions["BTCUSDT"].entry_price) == pytest.approx(entry, rel=1e-15)
    assert execution.results[0].fills[0].realized_pnl == 0
    assert wallet(env) == pytest.approx(1000 - 0.204 - 0.11)

    execution, _ = phases(env, 1.0)  # 2 of 3 sold at 120, commission 0.24
    fill = execution.results[0].fills[0]
    assert execution.results[0].planned.action_type is ActionType.REDUCE_LONG
    assert float(fill.realized_pnl) == pytest.approx(2 * (120 - entry))  # 30.666...
    assert float(env.account().positions["BTCUSDT"].entry_price) == pytest.approx(entry, rel=1e-15)
    assert wallet(env) == pytest.approx(1000 - 0.204 - 0.11 - 0.24 + 2 * (120 - entry))

    execution, _ = phases(env, 0.0)  # the last one sold at 90, commission 0.09
    assert execution.results[0].planned.action_type is ActionType.CLOSE_LONG
    assert float(execution.results[0].fills[0].realized_pnl) == pytest.approx(90 - entry)  # -14.666...
    position = env.account().positions["BTCUSDT"]
    assert (position.quantity, position.entry_price, position.side) == (0, 0, PositionSide.FLAT)
    # Bought 2 at 102 and 1 at 110, sold 2 at 120 and 1 at 90: 330 - 314 = 16. Commissions: 0.644.
    assert wallet(env) == pytest.approx(1000 + 16 - 0.644)
    assert equity(env) == pytest.approx(wallet(env), rel=1e-15)


def test_flip_is_one_order_one_fill_and_enters_at_its_price() -> None:
    env = env_of(market_of(flat_rows(100, 102, 110, 108)))
    env.reset()
    phases(env, 2.0)
    execution, _ = phases(env, -1.0)
    (result,) = execution.results
    (fill,) = result.fills
    assert result.planned.action_type is ActionType.FLIP_TO_SHORT
    assert result.planned.order is not None and not result.planned.order.reduce_only
    # From +2 to -1: sell 3 at 110. The closed 2 earn 2 * (110 - 102) = 16; commission 3 * 110 * 0.001 = 0.33.
    assert (fill.side, fill.quantity) == (Side.SELL, D(3))
    assert float(fill.realized_pnl) == pytest.approx(16)
    position = env.account().positions["BTCUSDT"]
    assert (position.quantity, position.entry_price) == (D(-1), D("110.0"))
    assert wallet(env) == pytest.approx(1000 - 0.204 + 16 - 0.33)
    assert env.totals()["trades"] == 2


def test_slippage_moves_the_fill_against_the_taker_both_ways() -> None:
    env = env_of(market_of(flat_rows(100, 200, 200, 200)), slippage_bps=50.0)
    env.reset()
    bought, _ = phases(env, 1.0)
    sold, _ = phases(env, 0.0)
    # 50 bps of 200 is 1: buy at 201, sell at 199; the commission is on the fill's price.
    assert float(bought.results[0].fills[0].price) == pytest.approx(201)
    assert float(bought.results[0].fills[0].commission) == pytest.approx(0.201)
    assert float(sold.results[0].fills[0].price) == pytest.approx(199)
    assert float(sold.results[0].fills[0].commission) == pytest.approx(0.199)
    assert wallet(env) == pytest.approx(1000 - 2 - 0.4)


def test_the_fill_price_is_not_rounded_to_the_tick() -> None:
    env = env_of(market_of(flat_rows(100, 100.1, 100)), slippage_bps=1.0)
    env.reset()
    execution, _ = phases(env, 1.0)
    assert float(execution.results[0].fills[0].price) == pytest.approx(100.1 * 1.0001, rel=1e-15)  # 100.11001


def test_configured_commission_replaces_the_instruments() -> None:
    env = env_of(market_of(flat_rows(100, 100, 100)), taker_fee_fraction=0.0)
    env.reset()
    phases(env, 5.0)
    assert wallet(env) == 1000.0


@pytest.mark.parametrize(
    ("action", "quantity"),
    [(1.2345, "1.234"), (1.2349999, "1.234"), (-1.2349, "-1.234"), (0.3, "0.3"), (2.001, "2.001")],
)
def test_quantities_round_toward_zero_to_the_step(action: float, quantity: str) -> None:
    env = env_of(market_of(flat_rows(100, 100, 100)))
    env.reset()
    phases(env, action)
    assert env.account().positions["BTCUSDT"].quantity == D(quantity)


def test_an_order_below_the_minimum_notional_is_skipped_and_says_so() -> None:
    env = env_of(market_of(flat_rows(100, 100, 100)))  # minimum 5 USDT
    env.reset()
    execution, _ = phases(env, 0.04)  # worth 4
    (result,) = execution.results
    assert result.status is OrderStatus.SKIPPED
    assert result.planned.action_type is ActionType.OPEN_LONG
    assert result.error == "order of 0.04 BTC is worth 4.000 USDT, below the minimum notional of 5"
    assert env.account().is_flat and wallet(env) == 1000.0


def test_an_order_of_just_the_minimum_notional_is_sent() -> None:
    env = env_of(market_of(flat_rows(100, 100, 100)))
    env.reset()
    execution, _ = phases(env, 0.05)
    assert execution.results[0].status is OrderStatus.FILLED


def test_a_close_is_exempt_from_the_minimum_notional_and_a_reduction_is_not() -> None:
    env = env_of(market_of(flat_rows(100, 100, 50, 50, 50)))
    env.reset()
    phases(env, 0.06)
    reduced, _ = phases(env, 0.03)  # at the close of 100: 3 USDT
    assert reduced.results[0].status is OrderStatus.SKIPPED
    closed, _ = phases(env, 0.0)  # at the close of 50 all of it is worth 3 USDT
    assert closed.results[0].status is OrderStatus.FILLED
    assert env.account().is_flat


def test_orders_are_cut_to_the_maximum_market_quantity() -> None:
    env = env_of(market_of(flat_rows(100, 100, 100, 100, 100)), instruments=[instrument(max_quantity="3")])
    env.reset()
    first, _ = phases(env, 5.0)
    assert first.results[0].fills[0].quantity == 3
    assert first.results[0].planned.note == "cut to the exchange's maximum market order"
    second, _ = phases(env, 5.0)
    assert second.results[0].fills[0].quantity == 2  # the missing 2
    flip, _ = phases(env, -5.0)  # would take 10
    assert flip.results[0].fills[0].quantity == 3
    assert flip.results[0].planned.action_type is ActionType.REDUCE_LONG
    assert env.account().positions["BTCUSDT"].quantity == 2


def test_positions_are_cut_to_the_bracket_of_the_leverage_setting() -> None:
    rules = instrument(brackets=[("10000", "0.01", 100), ("50000", "0.02", 20), ("100000", "0.05", 5)])
    env = env_of(
        market_of(flat_rows(100, 100, 100)),
        instruments=[rules],
        initial_capital_usdt=20_000.0,
        exchange_leverage=20,
    )
    env.reset()
    execution, _ = phases(env, 1000.0)  # 100,000 USDT; leverage 20 allows 50,000
    assert execution.results[0].fills[0].quantity == 500
    assert execution.results[0].planned.note == "cut to the largest position at this leverage"


def test_gross_exposure_is_scaled_to_max_leverage() -> None:
    market = market_of({"BTCUSDT": flat_rows(100, 100, 100), "ETHUSDT": flat_rows(10, 10, 10)})
    env = env_of(market, max_leverage=2.0, action={"scheme": "target"})
    env.reset()
    execution, _ = phases(env, 1.0, -1.0)
    # Each wants 1 * 2 * 1000 = 2000; together 4000 against 2000: halved to 1000 each.
    assert [float(fill.quantity) for r in execution.results for fill in r.fills] == [10.0, 100.0]
    assert [r.planned.note for r in execution.results] == ["scaled to max_leverage"] * 2


def test_target_scheme_holds_within_the_rebalance_band() -> None:
    env = env_of(
        market_of(flat_rows(*[100] * 5)),
        max_leverage=2.0,
        taker_fee_fraction=0.0,
        action={"scheme": "target", "rebalance_band": 0.02},
    )
    env.reset()
    phases(env, 0.5)  # 0.5 * 2 * 1000 = 1000 USDT: 10 units
    assert env.account().positions["BTCUSDT"].quantity == 10
    held, _ = phases(env, 0.509)  # 1018: 18 more is less than 2 % of 1000
    assert held.results[0].planned.action_type is ActionType.HOLD
    assert held.results[0].status is OrderStatus.NONE
    moved, _ = phases(env, 0.51)  # 1020: 20 is not less than 20
    assert moved.results[0].planned.action_type is ActionType.INCREASE_LONG
    assert env.account().positions["BTCUSDT"].quantity == D("10.2")


def test_target_actions_beyond_one_count_as_one() -> None:
    env = env_of(market_of(flat_rows(100, 100, 100)), max_leverage=1.0, action={"scheme": "target"})
    env.reset()
    phases(env, -7.0)
    assert env.account().positions["BTCUSDT"].quantity == -10


@pytest.mark.parametrize("flip", [True, False])
def test_signal_scheme(flip: bool) -> None:
    env = env_of(
        market_of(flat_rows(*[100] * 8)),
        max_leverage=1.0,
        taker_fee_fraction=0.0,
        action={"scheme": "signal", "hold_threshold": 0.1, "signal_fraction": 0.5, "flip": flip},
    )
    env.reset()

    def act(value: float) -> tuple[ActionType, float]:
        execution, _ = phases(env, value)
        return execution.results[0].planned.action_type, float(env.account().positions["BTCUSDT"].quantity)

    assert act(0.09) == (ActionType.HOLD, 0)
    assert act(0.1) == (ActionType.OPEN_LONG, 5)  # half of 1000 at 100
    assert act(0.9) == (ActionType.HOLD, 5)  # stronger, but on the same side: not resized
    assert act(-0.05) == (ActionType.HOLD, 5)
    if flip:
        assert act(-0.1) == (ActionType.FLIP_TO_SHORT, -5)
        assert act(1.0) == (ActionType.FLIP_TO_LONG, 5)
    else:
        assert act(-0.1) == (ActionType.CLOSE_LONG, 0)
        assert act(-0.1) == (ActionType.OPEN_SHORT, -5)


def test_a_signal_gets_what_the_kept_positions_leave() -> None:
    market = market_of({"AAAUSDT": flat_rows(*[100] * 4), "BBBUSDT": flat_rows(*[100] * 4)})
    env = env_of(
        market,
        max_leverage=1.0,
        taker_fee_fraction=0.0,
        action={"scheme": "signal", "signal_fraction": 0.7},
    )
    env.reset()
    phases(env, 1.0, 0.0)  # 700 of 1000
    execution, _ = phases(env, 1.0, -1.0)  # wants 700 too; 300 is left beside the kept 700
    assert [float(p.quantity) for p in env.account().positions.values()] == [7.0, -3.0]
    assert execution.results[1].planned.note == "scaled to max_leverage"


@pytest.mark.parametrize("held", [0.5, -0.5, 0.0])
def test_a_signal_of_zero_holds_whatever_the_threshold(held: float) -> None:
    env = env_of(
        market_of(flat_rows(*[100] * 4)),
        max_leverage=1.0,
        action={"scheme": "signal", "hold_threshold": 0.0, "signal_fraction": 0.5},
    )
    env.reset()
    phases(env, held)
    before = env.account().positions["BTCUSDT"].quantity
    execution, _ = phases(env, 0.0)
    assert execution.results[0].planned.action_type is ActionType.HOLD
    assert env.account().positions["BTCUSDT"].quantity == before


def test_an_order_without_margin_is_rejected() -> None:
    env = env_of(
        market_of([(100, 100, 100, 100), (101, 101, 101, 101), (101, 101, 101, 101)]),
        max_leverage=10.0,
        exchange_leverage=10,
    )
    env.reset()
    # 100 units sized at 100 use all of 1000 * 10. At 101 they need 1010, and 10.1 of commission: refused.
    execution, _ = phases(env, 100.0)
    assert execution.results[0].status is OrderStatus.REJECTED
    assert execution.results[0].error == "margin is insufficient"
    assert wallet(env) == 1000.0
    # 97 units need 979.7; 1000 - 9.797 is left: filled.
    execution, _ = phases(env, 97.0)
    assert execution.results[0].status is OrderStatus.FILLED


@pytest.mark.parametrize("reducing_first", [True, False])
def test_reductions_go_first_and_free_their_margin(reducing_first: bool) -> None:
    market = market_of({"AAAUSDT": flat_rows(*[100] * 4), "BBBUSDT": flat_rows(*[100] * 4)})
    env = env_of(market, max_leverage=10.0, exchange_leverage=10)
    env.reset()
    old, new = ((90.0, 0.0), (0.0, 90.0)) if reducing_first else ((0.0, 90.0), (90.0, 0.0))
    phases(env, *old)  # 9000 USDT: margin 900, commission 9
    execution, _ = phases(env, *new)
    # Closing costs 9 more: 982 left. The other side needs 900 of 982 - 9; both at once would need 1800.
    assert [r.status for r in execution.results] == [OrderStatus.FILLED] * 2
    assert wallet(env) == pytest.approx(1000 - 3 * 9)


def test_two_enlarging_orders_share_what_margin_there_is() -> None:
    market = market_of({"AAAUSDT": flat_rows(*[100] * 3), "BBBUSDT": flat_rows(*[100] * 3)})
    env = env_of(market, max_leverage=10.0, exchange_leverage=10)
    env.reset()
    # 50 units each: 500 + 500 of margin, but after the first commission of 5 only 990 would be left.
    execution, _ = phases(env, 50.0, 50.0)
    assert [r.status for r in execution.results] == [OrderStatus.FILLED, OrderStatus.REJECTED]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_not_finite_changes_nothing(bad: float) -> None:
    env = env_of(market_of(flat_rows(100, 100, 100)))
    env.reset()
    with pytest.raises(ActionError, match="not finite"):
        env.plan(np.array([bad]))
    with pytest.raises(ActionError, match="not finite"):
        env.step(np.array([bad]))
    assert wallet(env) == 1000.0 and env.candle_index == 0
    phases(env, 1.0)
    assert env.candle_index == 1


@pytest.mark.parametrize("bad", [[1.0, 2.0], [[1.0]], 1.0, [], ["buy"], None])
def test_an_action_of_another_shape_is_refused_by_both_ways_to_step(bad: object) -> None:
    env = env_of(market_of(flat_rows(100, 100, 100)))
    env.reset()
    with pytest.raises(ActionError):
        env.plan(bad)  # type: ignore[arg-type]
    with pytest.raises(ActionError):
        env.step(bad)  # type: ignore[arg-type]
    assert env.candle_index == 0


def test_one_number_is_not_spread_over_two_symbols() -> None:
    market = market_of({"AAAUSDT": flat_rows(*[100] * 3), "BBBUSDT": flat_rows(*[100] * 3)})
    env = env_of(market)
    env.reset()
    with pytest.raises(ActionError, match="one entry per symbol"):
        env.step(np.array([1.0]))


def test_a_second_execution_in_one_step_is_refused() -> None:
    env = env_of(market_of(flat_rows(100, 100, 100)))
    env.reset()
    plan = env.plan(np.array([1.0]))
    env.execute(plan)
    with pytest.raises(ActionError, match="already called"):
        env.execute(plan)


def test_candles_held_counts_closes_since_the_position_was_opened() -> None:
    env = env_of(market_of(flat_rows(*[100] * 8)))
    env.reset()
    held = []
    for quantity in (1.0, 1.0, 2.0, 1.0, -1.0, -1.0, 0.0):
        phases(env, quantity)
        held.append(env.account().positions["BTCUSDT"].candles_held)
    # Opened 1, kept 2, increased 3, reduced 4; flipped 1, kept 2; flat 0.
    assert held == [1, 2, 3, 4, 1, 2, 0]


def test_peak_and_drawdown_marks() -> None:
    env = env_of(market_of(flat_rows(100, 100, 110, 99, 104.5, 121, 121)), taker_fee_fraction=0.0)
    env.reset()
    seen = []
    for _ in range(5):
        phases(env, 10.0)
        totals = env.totals()
        seen.append((totals["equity"], totals["peak_equity"], totals["drawdown"], totals["max_drawdown"]))
    # 10 units from 100: equity 1000, 1100, 990, 1045, 1210.
    assert seen == [
        (1000, 1000, 0, 0),
        (1100, 1100, 0, 0),
        (990, 1100, pytest.approx(0.1), pytest.approx(0.1)),
        (1045, 1100, pytest.approx(0.05), pytest.approx(0.1)),
        (1210, 1210, 0, pytest.approx(0.1)),
    ]
