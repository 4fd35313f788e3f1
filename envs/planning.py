"""From an action to a plan of rounded orders: one function for the simulated and the live environment."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs import kernel
from envs.account import (
    ActionType,
    Leg,
    Order,
    Plan,
    PlannedOrder,
    Protection,
    Side,
    classify,
)
from envs.decisions import DECISION_HIGH, DECISION_LOW, decided_targets, with_decision
from envs.errors import ActionError
from envs.instruments import Instrument
from envs.settings import EnvConfig, config_record, symbol_table

NO_MARGIN = "margin is insufficient"
"""What the exchange says of an order that it refuses for margin."""

_CUT_NOTES = (
    (kernel.CUT_GROSS, "scaled to max_leverage"),
    (kernel.CUT_BRACKET, "cut to the largest position at this leverage"),
    (kernel.CUT_MAX_QUANTITY, "cut to the exchange's maximum market order"),
)


def to_decimal(value: float) -> Decimal:
    """The shortest decimal that reads back as the same float: 0.1 gives Decimal('0.1')."""
    return Decimal(repr(float(value)))


def check_action(action: Any, size: int | tuple[int, ...]) -> NDArray[np.float64]:
    """The action as float64 [size], or of the shape `size`.

    Raises:
        ActionError: another shape, not numbers, or not finite.
    """
    shape = (size,) if isinstance(size, int) else size
    try:
        vector = np.asarray(action, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ActionError(f"action {action!r} is not made of numbers of the shape {shape}") from error
    if vector.shape != shape:
        raise ActionError(f"action has shape {vector.shape}; expected {shape}, one entry per symbol")
    if not np.isfinite(vector).all():
        raise ActionError(f"action {vector.tolist()} is not finite; the step is refused")
    return vector


def action_space(config: EnvConfig, n: int) -> gym.spaces.Box:
    """The actions of an environment with `n` symbols: those that its scheme reads."""
    match config.action.scheme:
        case "decision":
            low = np.tile(DECISION_LOW, (n, 1))
            high = np.tile(DECISION_HIGH, (n, 1))
            return gym.spaces.Box(low, high, (n, len(DECISION_LOW)), np.float64)
        case "quantity":
            return gym.spaces.Box(-np.inf, np.inf, (n,), np.float32)
        case _:
            return gym.spaces.Box(-1.0, 1.0, (n,), np.float32)


class Planner:
    """Sizes and rounds orders for one account by the kernel's `plan_orders`."""

    def __init__(self, config: EnvConfig, instruments: Sequence[Instrument]) -> None:
        self.instruments = tuple(instruments)
        self.action_space = action_space(config, len(self.instruments))
        self.decides = config.action.scheme == "decision"
        self.config_record = config_record(config)
        self.symbol_table = symbol_table(self.instruments, config)

    def plan(
        self,
        action: Any,
        *,
        step: int,
        candle_close_ms: int,
        equity_usdt: float,
        position: Any,
        close: NDArray[np.float64],
        order: Any,
    ) -> Plan:
        """The plan for `action`, of the shape of `action_space`.

        `position` is [n] of POSITION_DTYPE and `close` [n] the closes decided on; `order` [n] of ORDER_DTYPE is
        overwritten.

        Raises:
            ActionError: the action has another shape or is not finite.
        """
        asked = check_action(action, self.action_space.shape)
        vector = asked
        if self.decides:
            vector = decided_targets(asked, position["quantity"], close, equity_usdt)
        kernel.plan_orders(
            self.config_record[0], self.symbol_table, position, equity_usdt, close, vector, order
        )
        entries = tuple(
            self._entry(instrument, float(vector[i]), position[i], float(close[i]), order[i])
            for i, instrument in enumerate(self.instruments)
        )
        if self.decides:
            entries = tuple(
                with_decision(entry, row, float(vector[i]), instrument)
                for i, (entry, row, instrument) in enumerate(
                    zip(entries, asked, self.instruments, strict=True)
                )
            )
        return Plan(step=step, candle_close_ms=candle_close_ms, entries=entries)

    def _entry(
        self, instrument: Instrument, action: float, position: Any, close: float, row: Any
    ) -> PlannedOrder:
        held = quantity_decimal(position["quantity"], instrument)
        price = to_decimal(close)
        code = row["code"]
        if code == kernel.PLAN_HOLD:
            return PlannedOrder(instrument.symbol, action, ActionType.HOLD, None, held, price)
        quantity = quantity_decimal(row["quantity"], instrument)
        if code == kernel.PLAN_BELOW_MINIMUM:
            note = below_minimum_note(quantity, price, instrument)
            kind = classify(held, held + quantity)
            return PlannedOrder(instrument.symbol, action, kind, None, held, price, note=note, skipped=True)
        target = quantity_decimal(row["target"], instrument)
        order = Order(
            symbol=instrument.symbol,
            side=Side.BUY if quantity > 0 else Side.SELL,
            quantity=abs(quantity),
            reduce_only=held * quantity < 0 and abs(quantity) <= abs(held),
            leg=Leg.ORDER,
        )
        protection = None
        if row["set_triggers"]:
            protection = Protection(
                stop_price=_trigger_price(row["stop_price"], instrument),
                take_profit_price=_trigger_price(row["take_profit_price"], instrument),
            )
        note = cut_note(int(row["cut"]))
        kind = classify(held, target)
        return PlannedOrder(instrument.symbol, action, kind, order, target, price, protection, note)


def below_minimum_note(quantity: Decimal, price: Decimal, instrument: Instrument) -> str:
    """Why an order for `quantity` (signed) is not sent."""
    return (
        f"order of {abs(quantity)} {instrument.base_asset} is worth {abs(quantity) * price:f} USDT, below the "
        f"minimum notional of {instrument.min_notional_usdt}"
    )


def cut_note(cut: int) -> str:
    """Why an order is smaller than the action asked for, by the kernel's flags; empty where it is not."""
    return "; ".join(text for flag, text in _CUT_NOTES if cut & flag)


def quantity_decimal(value: float, instrument: Instrument) -> Decimal:
    """A float quantity that lies on the step grid, as an exact Decimal."""
    return (to_decimal(value) / instrument.step_size).to_integral_value() * instrument.step_size


def _trigger_price(value: float, instrument: Instrument) -> Decimal | None:
    if value == 0.0:
        return None
    return (to_decimal(value) / instrument.tick_size).to_integral_value() * instrument.tick_size
