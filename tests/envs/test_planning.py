"""From an action to a plan: Decimals, names, notes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import instrument

from envs import kernel
from envs.account import ActionType, Plan, Protection, Side, classify
from envs.errors import ActionError, InstrumentError
from envs.instruments import default_instruments
from envs.planning import Planner, check_action, quantity_decimal, to_decimal
from envs.settings import EnvConfig, symbol_table

D = Decimal


def plan_of(
    vector: Any, *, held: float = 0.0, close: float = 100.0, equity: float = 1000.0, **settings: Any
) -> Plan:
    config = EnvConfig.parse({"max_leverage": 2.0, **settings})
    position = np.zeros(1, kernel.POSITION_DTYPE)
    position["quantity"] = held
    return Planner(config, [instrument()]).plan(
        vector,
        step=7,
        candle_close_ms=123,
        equity_usdt=equity,
        position=position,
        close=np.array([close]),
        order=np.zeros(1, kernel.ORDER_DTYPE),
    )


def test_a_plan_names_step_candle_and_order() -> None:
    plan = plan_of([0.5])
    assert (plan.step, plan.candle_close_ms) == (7, 123)
    (entry,) = plan.entries
    assert entry.order is not None
    assert (entry.order.side, entry.order.quantity, entry.order.reduce_only) == (Side.BUY, D("10.000"), False)
    assert (entry.action, entry.price, entry.target_quantity) == (0.5, D("100.0"), D("10.000"))
    assert (entry.action_type, entry.note, entry.protection) == (ActionType.OPEN_LONG, "", None)


@pytest.mark.parametrize(
    ("held", "action", "kind", "reduce_only"),
    [
        (5.0, 0.5, ActionType.INCREASE_LONG, False),
        (15.0, 0.5, ActionType.REDUCE_LONG, True),
        (15.0, 0.0, ActionType.CLOSE_LONG, True),
        (15.0, -0.5, ActionType.FLIP_TO_SHORT, False),
        (0.0, -0.5, ActionType.OPEN_SHORT, False),
        (-5.0, -0.5, ActionType.INCREASE_SHORT, False),
        (-15.0, -0.5, ActionType.REDUCE_SHORT, True),
        (-15.0, 0.0, ActionType.CLOSE_SHORT, True),
        (-15.0, 0.5, ActionType.FLIP_TO_LONG, False),
        (10.0, 0.5, ActionType.HOLD, None),
    ],
)
def test_every_change_has_its_name(
    held: float, action: float, kind: ActionType, reduce_only: bool | None
) -> None:
    (entry,) = plan_of([action], held=held).entries
    assert entry.action_type is kind
    assert (entry.order.reduce_only if entry.order else None) is reduce_only
    assert entry.target_quantity == D(str(held)) + (entry.order.signed_quantity if entry.order else 0)
    assert classify(D(str(held)), entry.target_quantity) is kind


def test_triggers_come_as_decimals_on_the_tick() -> None:
    (entry,) = plan_of(
        [0.5],
        close=100.3,
        action={"scheme": "target", "stop_loss_fraction": 0.05, "take_profit_fraction": 0.1},
    ).entries
    assert entry.protection == Protection(D("95.3"), D("110.3"), None)


def test_a_reduction_leaves_the_triggers_as_they_are() -> None:
    (entry,) = plan_of([0.5], held=15.0, action={"scheme": "target", "stop_loss_fraction": 0.05}).entries
    assert entry.protection is None


def test_no_equity_no_exposure() -> None:
    (entry,) = plan_of([1.0], held=3.0, equity=-5.0).entries
    assert entry.action_type is ActionType.CLOSE_LONG


@pytest.mark.parametrize("bad", [[1.0, 2.0], 1.0, [[1.0]], [], None, "buy", ["buy"], [None], [float("nan")]])
def test_actions_that_cannot_be_read(bad: Any) -> None:
    with pytest.raises(ActionError) as caught:
        check_action(bad, 1)
    assert caught.value.exit_code == 2


def test_readable_actions() -> None:
    np.testing.assert_array_equal(check_action([1], 1), [1.0])
    np.testing.assert_array_equal(check_action(np.array([0.5, -2], np.float32), 2), [0.5, -2.0])


def test_to_decimal_is_the_shortest_that_reads_back() -> None:
    assert to_decimal(0.1) == D("0.1")
    assert to_decimal(np.float64(1e-7)) == D("1E-7")
    assert to_decimal(60000) == D("60000.0")


@given(st.sampled_from(sorted(default_instruments())), st.integers(min_value=-(10**9), max_value=10**9))
def test_quantities_survive_the_way_through_the_kernel_exactly(symbol: str, steps: int) -> None:
    """Decimal to float and back: what a plan orders is what the kernel fills, to the last step."""
    rules = default_instruments()[symbol]
    per_unit = symbol_table([rules], EnvConfig())[0]["steps_per_unit"]
    value = steps / per_unit
    quantity = quantity_decimal(value, rules)
    assert quantity == steps * rules.step_size
    assert float(quantity) == value


@given(st.integers(min_value=1, max_value=10**7), st.sampled_from([1.0, 10.0, 1000.0]))
def test_whole_steps_never_loses_a_whole_step(steps: int, per_unit: float) -> None:
    quantity = steps / per_unit
    assert kernel.whole_steps(quantity, per_unit) == steps
    assert kernel.whole_steps(quantity * (1 - 1e-15), per_unit) == steps
    assert kernel.whole_steps((steps - 0.01) / per_unit, per_unit) == steps - 1


def test_too_many_brackets_are_refused() -> None:
    many = instrument(brackets=[(str(1000 * (i + 1)), str(D("0.001") * (i + 1)), 200 - i) for i in range(21)])
    with pytest.raises(InstrumentError, match="21 leverage brackets"):
        symbol_table([many], EnvConfig())
