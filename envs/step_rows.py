"""From the arrays of steps that were run ahead to the rows of the step log, in the log's exact numbers, and to text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from envs import kernel
from envs.account import ZERO, ActionType, Leg, OrderStatus, PositionSide, Side, classify
from envs.futures_env import AheadSteps
from envs.instruments import Instrument
from envs.planning import NO_MARGIN, below_minimum_note, cut_note, quantity_decimal, to_decimal
from envs.risk_state import drawdown_fraction
from envs.step_log import SCHEMA, Standing, format_value

EVENTS = {
    kernel.EVENT_STOP: (ActionType.STOP_LOSS, Leg.STOP),
    kernel.EVENT_PROTECTIVE_STOP: (ActionType.STOP_LOSS, Leg.PROTECTIVE_STOP),
    kernel.EVENT_TAKE_PROFIT: (ActionType.TAKE_PROFIT, Leg.TAKE_PROFIT),
}

(
    _, _ORDER_QUANTITY, _FILL_PRICE, _FEE, _, _, _, _, _, _, _, _EVENT_QUANTITY, _EVENT_PRICE, _EVENT_FEE, _,
    _FILLS, _END_FILLS, _CODE, _CUT, _OUTCOME, _EVENT,
) = range(len(kernel.BAR_DTYPE.names or ()))  # fmt: skip

_AFTER_ORDERS = ("quantity", "entry_price", "funding_open")
_AT_CLOSE = ("end_quantity", "end_entry_price", "funding_inner")

# Columns action_type to commission of a row without an order.
_HOLD = (ActionType.HOLD.value, "", OrderStatus.NONE.value, "", "", ZERO, None, ZERO)
_END = (ActionType.END.value, *_HOLD[1:])

# Steps that are unpacked at a time: lists of Python's numbers take several times the room of arrays.
_BLOCK = 8192

_DAY_MS = 86_400_000

# Columns whose text is kept from row to row.
_KEPT = 8

Row = tuple[Any, ...]


class Steps(Protocol):
    """What a walk goes through."""

    agent: str
    symbols: tuple[str, ...]
    instruments: tuple[Instrument, ...]
    ahead: AheadSteps
    ended: bool
    close: NDArray[np.float64]
    time_ms: NDArray[np.int64]


class _Held:
    """One symbol's position in exact numbers."""

    __slots__ = (
        "_entry_float",
        "_quantity_float",
        "columns",
        "entry",
        "instrument",
        "price",
        "quantity",
        "unrealized",
    )

    def __init__(self, instrument: Instrument, price: float) -> None:
        self.instrument = instrument
        self.price = to_decimal(price)
        self.quantity = self.unrealized = ZERO
        self.entry = to_decimal(0.0)
        self.columns: Row = (False, PositionSide.FLAT.value, self.entry, ZERO)
        self._quantity_float = self._entry_float = 0.0

    def hold(self, quantity: float, entry: float) -> bool:
        """Take over what the kernel says is held; whether it is something else than before."""
        if quantity == self._quantity_float and entry == self._entry_float:
            return False
        self._quantity_float, self._entry_float = quantity, entry
        self.quantity, self.entry = quantity_decimal(quantity, self.instrument), to_decimal(entry)
        side = (
            PositionSide.LONG if quantity > 0 else PositionSide.SHORT if quantity < 0 else PositionSide.FLAT
        )
        self.columns = (self.quantity != 0, side.value, self.entry, abs(self.quantity))
        self._value()
        return True

    def mark(self, price: float) -> None:
        """A candle has closed at this price."""
        self.price = Decimal(repr(price))
        self._value()

    def _value(self) -> None:
        self.unrealized = self.quantity * (self.price - self.entry) if self._quantity_float else ZERO


class RowWalk:
    """Goes through the arrays once, as the step log does.

    Args:
        steps: what to go through.
        start: the log's running figures before it.
    """

    def __init__(self, steps: Steps, start: Standing) -> None:
        self._steps = steps
        self._initial = start.initial_usdt
        self._first_step = start.step
        self._peak = start.peak_usdt
        self._largest = start.max_drawdown_fraction
        self._reward, self._funding = dict(start.reward), dict(start.funding)
        self._held = [_Held(*one) for one in zip(steps.instruments, steps.close[0].tolist(), strict=True)]
        self._wallet_float = steps.ahead.wallet
        self._wallet = to_decimal(self._wallet_float)
        for one, position in zip(self._held, steps.ahead.position, strict=True):
            one.hold(float(position["quantity"]), float(position["entry_price"]))
        self._equity = self._wallet + sum((one.unrealized for one in self._held), ZERO)
        self._drawdown = drawdown_fraction(self._equity, self._peak)
        self._pnl = self._equity - self._initial
        # A day begins with the instant after a close.
        days = (steps.time_ms + 1) // _DAY_MS
        changes = np.flatnonzero(np.diff(days))
        self._day_step = int(changes[-1]) if len(changes) else -1
        self.day_start_equity: Decimal | None = None
        """Equity at the last close that began a day."""

    def standing(self) -> Standing:
        """The running figures, at the end those after the last row."""
        return Standing(
            step=self._first_step + len(self._steps.ahead.steps),
            initial_usdt=self._initial,
            peak_usdt=self._peak,
            max_drawdown_fraction=self._largest,
            reward=dict(self._reward),
            funding=dict(self._funding),
        )

    def rows(self) -> Iterator[Row]:
        """Every row as the values of a StepRecord."""
        steps, ahead, held = self._steps, self._steps.ahead, self._held
        symbols, rewards, fundings = steps.symbols, self._reward, self._funding
        number, n = self._first_step, len(held)
        for start in range(0, len(ahead.steps), _BLOCK):
            block = slice(start, start + _BLOCK)
            bars = ahead.bars[block].reshape(-1)
            # Flat lists of numbers: lists of lists would keep Python's garbage collector busy.
            times = steps.time_ms[start : start + _BLOCK + 1].tolist()
            closes = steps.close[start + 1 : start + _BLOCK + 1].reshape(-1).tolist()
            actions, codes, events = (bars[name].tolist() for name in ("action", "code", "event"))
            after_orders = tuple(bars[name].tolist() for name in _AFTER_ORDERS)
            at_close = tuple(bars[name].tolist() for name in _AT_CLOSE)
            accounts = (ahead.steps[block][name].tolist() for name in ("wallet", "end_wallet", "reward"))
            for k, (wallet, end_wallet, reward) in enumerate(zip(*accounts, strict=True)):
                at = k * n
                before = [one.quantity for one in held]
                self._book(wallet, after_orders, at)
                time_ms = times[k]
                for i, symbol in enumerate(symbols):
                    funding = after_orders[2][at + i]
                    if funding:
                        fundings[symbol] += to_decimal(funding)
                    order = _HOLD
                    if codes[at + i] != kernel.PLAN_HOLD:
                        order = _order(bars[at + i].tolist(), before[i], held[i])
                    yield self._row(time_ms, number, i, actions[at + i], order)
                for i, one in enumerate(held):
                    one.mark(closes[at + i])
                self._book(end_wallet, at_close, at, marked=True)
                if start + k == self._day_step:
                    self.day_start_equity = self._equity
                number += 1
                for i, symbol in enumerate(symbols):
                    rewards[symbol] += reward
                    funding = at_close[2][at + i]
                    if funding:
                        fundings[symbol] += to_decimal(funding)
                for i in range(n):
                    if events[at + i]:
                        yield self._row(times[k + 1], number, i, None, _event(bars[at + i].tolist(), held[i]))
        if steps.ended:
            for i in range(len(held)):
                yield self._row(int(steps.time_ms[-1]), number, i, None, _END)

    def _book(self, wallet: float, now: Sequence[list[float]], at: int, *, marked: bool = False) -> None:
        """Take over the account, and renew equity, peak and drawdown where something has changed.

        `now` holds quantities and entry prices, those of the first symbol at `at`.
        """
        changed = False
        if wallet != self._wallet_float:
            self._wallet, self._wallet_float = to_decimal(wallet), wallet
            changed = True
        total = ZERO
        quantities, entries = now[0], now[1]
        for i, one in enumerate(self._held, at):
            if one.hold(quantities[i], entries[i]):
                changed = True
            if quantities[i]:
                changed |= marked
                total += one.unrealized
        if changed:
            self._equity = equity = self._wallet + total
            if equity > self._peak:
                self._peak = equity
            self._drawdown = drawdown = drawdown_fraction(equity, self._peak)
            if drawdown > self._largest:
                self._largest = drawdown
            self._pnl = equity - self._initial

    def _row(self, time_ms: int, step: int, i: int, action: float | None, order: Row) -> Row:
        one = self._held[i]
        symbol = self._steps.symbols[i]
        funding, reward = self._funding[symbol], self._reward[symbol]
        self._funding[symbol], self._reward[symbol] = ZERO, 0.0
        return (
            SCHEMA,
            time_ms,
            step,
            self._steps.agent,
            symbol,
            action,
            one.price,
            self._wallet,
            self._equity,
            self._drawdown,
            self._largest,
            self._pnl,
            *one.columns,
            one.unrealized,
            *order,
            funding,
            reward,
        )


def _order(bar: Row, held: Decimal, position: _Held) -> Row:
    """Columns action_type to commission of a step that wanted an order, as StepLog writes them."""
    instrument = position.instrument
    change = quantity_decimal(bar[_ORDER_QUANTITY], instrument)
    kind = classify(held, held + change).value
    if bar[_CODE] == kernel.PLAN_BELOW_MINIMUM:
        note = below_minimum_note(change, position.price, instrument)
        return (kind, "", OrderStatus.SKIPPED.value, note, "", ZERO, None, ZERO)
    side = (Side.BUY if change > 0 else Side.SELL).value
    if bar[_OUTCOME] == kernel.OUTCOME_NO_MARGIN:
        return (kind, side, OrderStatus.REJECTED.value, NO_MARGIN, "", ZERO, None, ZERO)
    price, fee = to_decimal(bar[_FILL_PRICE]), to_decimal(bar[_FEE])
    error = cut_note(bar[_CUT]) if bar[_CUT] else ""
    return (kind, side, OrderStatus.FILLED.value, error, str(bar[_FILLS]), abs(change), price, fee)


def _event(bar: Row, position: _Held) -> Row:
    """The same columns of a stop or take-profit."""
    change = quantity_decimal(bar[_EVENT_QUANTITY], position.instrument)
    side = (Side.BUY if change > 0 else Side.SELL).value
    price, fee = to_decimal(bar[_EVENT_PRICE]), to_decimal(bar[_EVENT_FEE])
    kind = EVENTS[bar[_EVENT]][0].value
    return (kind, side, OrderStatus.FILLED.value, "", str(bar[_END_FILLS]), abs(change), price, fee)


# --- text -------------------------------------------------------------------------------------------------


def _text(value: Decimal) -> str:
    """`format_value` of a Decimal, faster where the number has no exponent."""
    text = str(value)
    if "E" in text or not value:
        return format_value(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def csv_blocks(rows: Iterator[Row]) -> Iterator[bytes]:
    """The rows as lines of the step log's file, some thousand at a time."""
    lines: list[str] = []
    # Most numbers stay what they are for many rows: the same objects, and the same text.
    known: dict[str, tuple[list[Any], list[str]]] = {}
    names: dict[str, str] = {}
    for row in rows:
        (schema, time_ms, step, agent, symbol, action, price, balance, equity, drawdown, largest, pnl, is_open,
         side, entry, quantity, unrealized, kind, operation, result, error, trade, filled, fill_price, commission,
         funding, reward) = row  # fmt: skip
        if error:
            lines.append(_quoted(row))
        else:
            if symbol not in known:
                known[symbol] = ([None] * _KEPT, [""] * _KEPT)
                names[agent] = _quoted((agent,))[:-1]
            seen, text = known[symbol]
            for i, value in enumerate((balance, equity, drawdown, largest, pnl, entry, quantity, unrealized)):
                if value is not seen[i]:
                    seen[i], text[i] = value, _text(value)
            lines.append(
                f"{schema},{time_ms},{step},{names[agent]},{symbol},{'' if action is None else repr(action)},"
                f"{_text(price)},{text[0]},{text[1]},{text[2]},{text[3]},{text[4]},"
                f"{'true' if is_open else 'false'},{side},{text[5]},{text[6]},{text[7]},{kind},{operation},"
                f"{result},,{trade},{_text(filled) if filled else '0'},"
                f"{'' if fill_price is None else _text(fill_price)},{_text(commission) if commission else '0'},"
                f"{_text(funding) if funding else '0'},{reward!r}\n"
            )
        if len(lines) >= _BLOCK:
            yield "".join(lines).encode()
            lines.clear()
    if lines:
        yield "".join(lines).encode()


def _quoted(row: Row) -> str:
    """A row with text in it, by the writer that StepLog uses."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([format_value(value) for value in row])
    return buffer.getvalue()
