"""A simulated account as the kernel keeps it and as the domain's types show it: translation both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import kernel
from envs.account import (
    AccountSnapshot,
    ActionType,
    CandleEvent,
    Fill,
    Leg,
    Order,
    OrderResult,
    OrderStatus,
    PlannedOrder,
    Position,
    Protection,
    Side,
)
from envs.instruments import Instrument
from envs.planning import NO_MARGIN, quantity_decimal, to_decimal

_EVENT_ACTIONS = {
    kernel.EVENT_STOP: (ActionType.STOP_LOSS, Leg.STOP),
    kernel.EVENT_PROTECTIVE_STOP: (ActionType.STOP_LOSS, Leg.PROTECTIVE_STOP),
    kernel.EVENT_TAKE_PROFIT: (ActionType.TAKE_PROFIT, Leg.TAKE_PROFIT),
    kernel.EVENT_LIQUIDATION: (ActionType.LIQUIDATION, Leg.ORDER),
}


class KernelBook:
    """One account of the kernel: its records, and what the domain's types make of them.

    Args:
        instruments: the exchange's rules, in the order of the symbols.
        symbol_table: the same as the kernel reads them, [n] of `kernel.SYMBOL_DTYPE`.
        agent: name in fills and client order ids.

    Attributes:
        account: [1] of `kernel.ACCOUNT_DTYPE`.
        position, order: [n] of `kernel.POSITION_DTYPE` and of `kernel.ORDER_DTYPE`.
    """

    def __init__(self, instruments: Sequence[Instrument], symbol_table: NDArray[Any], agent: str) -> None:
        n = len(instruments)
        self.instruments = instruments
        self.symbol_table = symbol_table
        self.agent = agent
        self.account = np.zeros(1, kernel.ACCOUNT_DTYPE)
        self.position = np.zeros(n, kernel.POSITION_DTYPE)
        self.order = np.zeros(n, kernel.ORDER_DTYPE)
        self._funding_seen = [0.0] * n

    def snapshot(self, row: NDArray[np.float64], time_ms: int) -> AccountSnapshot:
        """The account marked at the closes of `row`, [n, 6] of the market's rows, at `time_ms`."""
        positions = {
            instrument.symbol: _position(self.position[i], instrument, float(row[i, kernel.CLOSE]))
            for i, instrument in enumerate(self.instruments)
        }
        initial = sum(
            abs(p["quantity"]) * row[i, kernel.CLOSE] / self.symbol_table[i]["leverage"]
            for i, p in enumerate(self.position)
        )
        maintenance = kernel.maintenance_at(self.symbol_table, self.position, row)
        return AccountSnapshot(
            time_ms=time_ms,
            wallet_usdt=to_decimal(self.account[0]["wallet"]),
            positions=positions,
            initial_margin_usdt=to_decimal(initial),
            maintenance_margin_usdt=to_decimal(maintenance),
        )

    # --- to the kernel -----------------------------------------------------------------------------------

    def load_orders(self, entries: Sequence[PlannedOrder]) -> None:
        """Write the orders, one entry per symbol, for `kernel.execute_orders`."""
        for row, entry in zip(self.order, entries, strict=True):
            row["outcome"] = kernel.OUTCOME_NONE
            row["code"] = kernel.PLAN_HOLD
            row["quantity"] = row["fill_price"] = row["fee"] = row["pnl"] = 0.0
            row["set_triggers"] = 0
            if entry.order is not None:
                row["code"] = kernel.PLAN_ORDER
                row["quantity"] = float(entry.order.signed_quantity)

    def load_protection(self, entries: Sequence[PlannedOrder]) -> None:
        """Set the triggers of positions whose orders filled, or that had none."""
        for position, row, entry in zip(self.position, self.order, entries, strict=True):
            protection = entry.protection
            filled = entry.order is None or row["outcome"] == kernel.OUTCOME_FILLED
            if protection is None or position["quantity"] == 0.0 or not filled:
                continue
            position["stop_price"] = float(protection.stop_price or 0)
            position["take_profit_price"] = float(protection.take_profit_price or 0)
            position["guard_price"] = float(protection.guard_price or 0)

    # --- from the kernel ---------------------------------------------------------------------------------

    def closing_entries(self, row: NDArray[np.float64], reason: str) -> list[PlannedOrder]:
        """An entry per symbol that closes what is held, at the closes of `row`."""
        entries = []
        for i, instrument in enumerate(self.instruments):
            held = quantity_decimal(self.position[i]["quantity"], instrument)
            order = None
            if held != 0:
                side = Side.SELL if held > 0 else Side.BUY
                order = Order(instrument.symbol, side, abs(held), reduce_only=True, leg=Leg.EMERGENCY)
            price = to_decimal(row[i, kernel.CLOSE])
            kind = ActionType.EMERGENCY_CLOSE if order else ActionType.HOLD
            entries.append(PlannedOrder(instrument.symbol, 0.0, kind, order, Decimal(0), price, note=reason))
        return entries

    def results(
        self, entries: Sequence[PlannedOrder], close_ms: int, *, liquidated: bool
    ) -> tuple[OrderResult, ...]:
        """What became of the orders decided at `close_ms`; `liquidated`: the account was, before they could fill."""
        result = self._liquidation_result if liquidated else self._result
        return tuple(result(i, entry, close_ms) for i, entry in enumerate(entries))

    def events(self, close_ms: int) -> tuple[CandleEvent, ...]:
        """What the exchange did by itself in the candle that closed at `close_ms`."""
        return tuple(
            self._event(i, close_ms, close_ms)
            for i, position in enumerate(self.position)
            if position["event"] != kernel.EVENT_NONE
        )

    def take_funding(self) -> dict[str, Decimal]:
        """Funding by symbol since it was last taken, USDT."""
        taken = {}
        for i, instrument in enumerate(self.instruments):
            total = float(self.position[i]["funding"])
            taken[instrument.symbol] = to_decimal(total - self._funding_seen[i])
            self._funding_seen[i] = total
        return taken

    def skip_funding(self) -> None:
        """What was charged so far has been told of elsewhere."""
        self._funding_seen = [float(funding) for funding in self.position["funding"]]

    def _result(self, i: int, entry: PlannedOrder, close_ms: int) -> OrderResult:
        row = self.order[i]
        if entry.order is None:
            status = OrderStatus.SKIPPED if entry.skipped else OrderStatus.NONE
            return OrderResult(entry, status, error=entry.note if entry.skipped else "")
        if row["outcome"] == kernel.OUTCOME_NO_MARGIN:
            return OrderResult(entry, OrderStatus.REJECTED, error=NO_MARGIN)
        order = entry.order
        fill = self._fill(
            i,
            order.signed_quantity,
            float(row["fill_price"]),
            float(row["fee"]),
            float(row["pnl"]),
            order.leg,
            close_ms,
            close_ms + 1,
        )
        return OrderResult(entry, OrderStatus.FILLED, (fill,))

    def _liquidation_result(self, i: int, entry: PlannedOrder, close_ms: int) -> OrderResult:
        if self.position[i]["event"] != kernel.EVENT_LIQUIDATION:
            return OrderResult(
                replace(entry, order=None, action_type=ActionType.HOLD), OrderStatus.NONE, error="liquidated"
            )
        event = self._event(i, close_ms, close_ms + 1)
        planned = replace(entry, order=None, action_type=event.action_type)
        return OrderResult(planned, OrderStatus.FILLED, (event.fill,), error="liquidated at the open")

    def _event(self, i: int, close_ms: int, time_ms: int) -> CandleEvent:
        position = self.position[i]
        action_type, leg = _EVENT_ACTIONS[int(position["event"])]
        fill = self._fill(
            i,
            quantity_decimal(position["event_quantity"], self.instruments[i]),
            float(position["event_price"]),
            float(position["event_fee"]),
            float(position["event_pnl"]),
            leg,
            close_ms,
            time_ms,
            liquidation=action_type is ActionType.LIQUIDATION,
        )
        return CandleEvent(action_type, fill)

    def _fill(
        self,
        i: int,
        signed: Decimal,
        price: float,
        fee: float,
        pnl: float,
        leg: Leg,
        close_ms: int,
        time_ms: int,
        *,
        liquidation: bool = False,
    ) -> Fill:
        """A fill at `time_ms` whose client order id names the candle that closed at `close_ms`."""
        symbol = self.instruments[i].symbol
        number = str(int(self.position[i]["fills"]))
        return Fill(
            symbol=symbol,
            trade_id=number,
            order_id=number,
            client_order_id=f"{self.agent}_{symbol}_{close_ms}{leg}",
            side=Side.BUY if signed > 0 else Side.SELL,
            quantity=abs(signed),
            price=to_decimal(price),
            commission=to_decimal(fee),
            realized_pnl=to_decimal(pnl),
            time_ms=time_ms,
            liquidation=liquidation,
            leg=leg,
            agent=self.agent,
            exchange="simulation",
        )


def _position(row: Any, instrument: Instrument, close: float) -> Position:
    return Position(
        symbol=instrument.symbol,
        quantity=quantity_decimal(row["quantity"], instrument),
        entry_price=to_decimal(row["entry_price"]),
        mark_price=to_decimal(close),
        protection=Protection(
            stop_price=to_decimal(row["stop_price"]) if row["stop_price"] else None,
            take_profit_price=to_decimal(row["take_profit_price"]) if row["take_profit_price"] else None,
            guard_price=to_decimal(row["guard_price"]) if row["guard_price"] else None,
        ),
        candles_held=int(row["candles_held"]),
    )
