"""Risk limits, their persisted state, and the judgement of one planned order.

`judge` is a pure function: the wrapper `RiskControl` (envs/wrappers.py) feeds it and acts on it.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from envs.account import (
    ZERO,
    AccountSnapshot,
    Approved,
    Order,
    PlannedOrder,
    Protection,
    Refused,
    classify,
)
from envs.config import StrictModel
from envs.errors import ConfigError, PerpgymError
from envs.instruments import Instrument
from envs.planning import to_decimal

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_BLOCK = 4096


class RiskLimits(StrictModel):
    """Limits between the agent and the exchange. None switches a limit off.

    max_drawdown_fraction: 1 - equity / peak equity at which the emergency protocol closes everything.
    daily_loss_fraction: loss since midnight UTC beyond which positions may only shrink.
    max_leverage: largest gross notional after an order, as a multiple of equity.
    max_position_notional_usdt, max_order_notional_usdt: per symbol; an order is cut down to them.
    max_orders_per_hour: orders that enlarge positions, over the last hour of candle time.
    allowed_symbols: None allows every symbol of the environment.
    protective_stop: keep a stop at the price where the drawdown limit would be reached.
    emergency_tries, emergency_delay_s: tries to get flat, and the first wait between them; it doubles.
    """

    max_drawdown_fraction: float | None = Field(None, gt=0.0, le=1.0)
    daily_loss_fraction: float | None = Field(None, gt=0.0, le=1.0)
    max_leverage: float | None = Field(None, gt=0.0)
    max_position_notional_usdt: float | None = Field(None, gt=0.0)
    max_order_notional_usdt: float | None = Field(None, gt=0.0)
    max_orders_per_hour: int | None = Field(None, ge=1)
    allowed_symbols: tuple[str, ...] | None = None
    protective_stop: bool = False
    emergency_tries: int = Field(5, ge=1, le=50)
    emergency_delay_s: float = Field(1.0, ge=0.0, le=60.0)


@dataclass(frozen=True, slots=True)
class RiskState:
    """What the risk layer must remember across restarts. Money in USDT, times in UTC ms."""

    initial_equity_usdt: Decimal
    peak_equity_usdt: Decimal
    day_start_ms: int
    day_start_equity_usdt: Decimal
    max_drawdown_fraction: Decimal = ZERO
    order_times_ms: tuple[int, ...] = ()
    halted_reason: str = ""
    last_candle_close_ms: int = 0

    def marked(self, equity_usdt: Decimal, time_ms: int) -> RiskState:
        """The state after seeing `equity_usdt` at the close `time_ms`."""
        peak = max(self.peak_equity_usdt, equity_usdt)
        drawdown = drawdown_fraction(equity_usdt, peak)
        day_start = day_start_of(time_ms)
        new_day = day_start > self.day_start_ms
        return replace(
            self,
            peak_equity_usdt=peak,
            max_drawdown_fraction=max(self.max_drawdown_fraction, drawdown),
            day_start_ms=day_start if new_day else self.day_start_ms,
            day_start_equity_usdt=equity_usdt if new_day else self.day_start_equity_usdt,
            order_times_ms=tuple(t for t in self.order_times_ms if time_ms - t < _HOUR_MS),
            last_candle_close_ms=time_ms,
        )


def day_start_of(close_ms: int) -> int:
    """Midnight of the UTC day that begins with, or goes on at, the instant after a candle's close.

    The last close before midnight thus opens the new day, and the day's first candle counts for it.
    """
    instant = close_ms + 1
    return instant - instant % _DAY_MS


def drawdown_fraction(equity_usdt: Decimal, peak_usdt: Decimal) -> Decimal:
    """1 - equity / peak; 0 at a new peak, above 1 for a debt."""
    return ZERO if peak_usdt <= 0 else 1 - equity_usdt / peak_usdt


def transfer_scale(amount_usdt: Decimal, equity_usdt: Decimal) -> Decimal:
    """Factor for a peak when `amount_usdt` was paid in (or out, below zero) and `equity_usdt` came of it.

    The drawdown is a fraction of the money that is there, so that moving money leaves it as it is.
    """
    before = equity_usdt - amount_usdt
    return equity_usdt / before if before > 0 and equity_usdt > 0 else Decimal(1)


def fresh_state(equity_usdt: Decimal, time_ms: int) -> RiskState:
    """The state of an account seen for the first time."""
    return RiskState(
        initial_equity_usdt=equity_usdt,
        peak_equity_usdt=equity_usdt,
        day_start_ms=day_start_of(time_ms),
        day_start_equity_usdt=equity_usdt,
        last_candle_close_ms=time_ms,
    )


class RiskStore(Protocol):
    """Where the risk state survives a restart."""

    def load(self) -> RiskState | None:
        """The stored state, or None when there is none yet."""

    def save(self, state: RiskState) -> None:
        """Store `state` atomically."""

    def note(self, state: RiskState) -> None:
        """Store `state`, which orders wait for: without waiting for the disk. `save` follows after the orders."""


class FileRiskStore:
    """The risk state as a JSON file, replaced atomically.

    What is noted stands in a file beside it, with a checksum. It survives a kill, but perhaps no power cut; it counts
    when it is whole and about a later candle than what was saved.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.noted_path = path.with_suffix(".noted")
        self._has_noted = False

    def load(self) -> RiskState | None:
        """See `RiskStore.load`.

        Raises:
            ConfigError: the file is damaged. It is never guessed at: it holds the peak and the halt.
        """
        try:
            saved = _state_of(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            # Whoever deletes the state means its note, too: it must not come back over the next one.
            self.noted_path.unlink(missing_ok=True)
            return None
        except _UNREADABLE as error:
            raise ConfigError(
                f"risk state {self.path} cannot be read ({error}): it holds the peak equity and whether the run is "
                "halted; restore it, or delete it to start from the account's equity of today"
            ) from error
        noted = self._noted()
        return (
            noted if noted is not None and noted.last_candle_close_ms > saved.last_candle_close_ms else saved
        )

    def _noted(self) -> RiskState | None:
        """What was noted; None where that is nothing, or not whole."""
        try:
            text, _, checksum = self.noted_path.read_text(encoding="utf-8").rstrip().rpartition("\n")
            return _state_of(text) if checksum == _checksum_of(text) else None
        except _UNREADABLE:
            return None

    def save(self, state: RiskState) -> None:
        """See `RiskStore.save`.

        Raises:
            PerpgymError: it cannot be written. A run must not go on without its memory of peak and halt.
        """
        temporary = self.path.with_suffix(".tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                file.write(_text_of(state))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            if state.halted_reason:
                _sync_folder(self.path.parent)
            if not self._has_noted:
                # Of an earlier session. A simulated market may begin again before its time.
                self.noted_path.unlink(missing_ok=True)
        except OSError as error:
            raise self._cannot_be_written(error) from error

    def note(self, state: RiskState) -> None:
        """See `RiskStore.note`.

        Raises:
            PerpgymError: it cannot be written.
        """
        self._has_noted = True
        try:
            file = os.open(self.noted_path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                # Over what is there, without giving its blocks back first: that takes ten times as long.
                text = _text_of(state)
                data = f"{text}\n{_checksum_of(text)}".encode()
                data = data.ljust(-(-len(data) // _BLOCK) * _BLOCK)
                if os.write(file, data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if os.fstat(file).st_size > len(data):
                    os.ftruncate(file, len(data))
            finally:
                os.close(file)
        except OSError as error:
            raise self._cannot_be_written(error) from error

    def _cannot_be_written(self, error: OSError) -> PerpgymError:
        return PerpgymError(
            f"risk state {self.path} cannot be written ({error.strerror}): it holds the peak equity and the halt; "
            "make room or give the run another folder"
        )


_UNREADABLE = (OSError, ValueError, KeyError, TypeError, ArithmeticError)


def _sync_folder(folder: Path) -> None:
    """Have the disk know the names of a folder's files, too: a halt survives a power cut from now on."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum_of(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _text_of(state: RiskState) -> str:
    values: dict[str, Any] = {
        name: str(value) if isinstance(value, Decimal) else value
        for name in RiskState.__dataclass_fields__
        for value in (getattr(state, name),)
    }
    return json.dumps(values, indent=1)


def _state_of(text: str) -> RiskState:
    """The state in a file's text; one of `_UNREADABLE` when there is none."""
    values = json.loads(text)
    state = RiskState(
        initial_equity_usdt=Decimal(values["initial_equity_usdt"]),
        peak_equity_usdt=Decimal(values["peak_equity_usdt"]),
        day_start_ms=int(values["day_start_ms"]),
        day_start_equity_usdt=Decimal(values["day_start_equity_usdt"]),
        max_drawdown_fraction=Decimal(values["max_drawdown_fraction"]),
        order_times_ms=tuple(int(t) for t in values["order_times_ms"]),
        halted_reason=str(values["halted_reason"]),
        last_candle_close_ms=int(values["last_candle_close_ms"]),
    )
    for name in RiskState.__dataclass_fields__:
        value = getattr(state, name)
        if isinstance(value, Decimal) and not value.is_finite():
            raise ValueError(f"{name} is {value}")
    return state


@dataclass(frozen=True, slots=True)
class RiskContext:
    """What an order is judged against.

    Attributes:
        account: before the step's orders, marked at the close decided on.
        quantities: signed position per symbol, counting the orders of this step approved so far.
        leverage: leverage setting at the exchange, per symbol.
    """

    limits: RiskLimits
    state: RiskState
    account: AccountSnapshot
    instruments: Mapping[str, Instrument]
    leverage: Mapping[str, int]
    quantities: Mapping[str, Decimal]
    stale_symbols: frozenset[str] = field(default_factory=frozenset)


def judge(entry: PlannedOrder, context: RiskContext) -> Approved[PlannedOrder] | Refused:
    """Approve, reduce or refuse one planned order; the checks come in the order of docs/risk.md.

    Orders that only shrink a position pass every check that exists to stop positions from growing: it must
    always be possible to take risk off. Where growing is forbidden, a flip still closes.
    """
    order = entry.order
    if order is None:
        return Approved(entry)
    if context.state.halted_reason:
        return Refused("halted", "not halted", context.state.halted_reason)
    if entry.symbol in context.stale_symbols:
        return Refused("stale_candle", "a closed candle of this step", "none in time")
    if _shrinks(order, context):
        return Approved(entry)
    refusal = _losses(context)
    if refusal is not None:
        return _to_close(entry, context, refusal)
    verdict = _cut_to_caps(entry, context)
    if isinstance(verdict, Refused) or verdict.value.order is None or _shrinks(verdict.value.order, context):
        return verdict
    refusal = _rate_or_symbol(entry.symbol, context)
    return verdict if refusal is None else _to_close(entry, context, refusal)


def _shrinks(order: Order, context: RiskContext) -> bool:
    held = context.quantities[order.symbol]
    return held * order.signed_quantity < 0 and order.quantity <= abs(held)


def _losses(context: RiskContext) -> Refused | None:
    """Drawdown and daily loss."""
    limits, state, equity = context.limits, context.state, context.account.equity_usdt
    if limits.max_drawdown_fraction is not None:
        drawdown = drawdown_fraction(equity, state.peak_equity_usdt)
        if drawdown >= to_decimal(limits.max_drawdown_fraction):
            return Refused("max_drawdown", str(limits.max_drawdown_fraction), f"{drawdown:.6f}")
    if limits.daily_loss_fraction is not None:
        loss = drawdown_fraction(equity, state.day_start_equity_usdt)
        if loss >= to_decimal(limits.daily_loss_fraction):
            return Refused("daily_loss", str(limits.daily_loss_fraction), f"{loss:.6f}")
    return None


def _rate_or_symbol(symbol: str, context: RiskContext) -> Refused | None:
    limits, state = context.limits, context.state
    if limits.max_orders_per_hour is not None:
        recent = sum(1 for t in state.order_times_ms if context.account.time_ms - t < _HOUR_MS)
        if recent >= limits.max_orders_per_hour:
            return Refused("orders_per_hour", str(limits.max_orders_per_hour), str(recent))
    if limits.allowed_symbols is not None and symbol not in limits.allowed_symbols:
        return Refused("symbol_allowed", ", ".join(limits.allowed_symbols) or "none", symbol)
    return None


def _caps(symbol: str, context: RiskContext) -> list[tuple[str, Decimal]]:
    """Largest notional by check, USDT: of the position after the order, or of the order for max_order_notional."""
    limits, account = context.limits, context.account
    equity = max(account.equity_usdt, ZERO)
    others = {
        s: abs(q) * account.positions[s].mark_price for s, q in context.quantities.items() if s != symbol
    }
    caps: list[tuple[str, Decimal]] = []
    if limits.max_leverage is not None:
        room = to_decimal(limits.max_leverage) * equity - sum(others.values(), ZERO)
        caps.append(("max_leverage", max(room, ZERO)))
    if limits.max_position_notional_usdt is not None:
        caps.append(("max_position_notional", to_decimal(limits.max_position_notional_usdt)))
    if limits.max_order_notional_usdt is not None:
        caps.append(("max_order_notional", to_decimal(limits.max_order_notional_usdt)))
    margins = sum((notional / context.leverage[s] for s, notional in others.items()), ZERO)
    caps.append(("available_margin", max(equity - margins, ZERO) * context.leverage[symbol]))
    return caps


def _cut_to_caps(entry: PlannedOrder, context: RiskContext) -> Approved[PlannedOrder] | Refused:
    """The entry with an order that every cap allows, or a refusal by the check that leaves no order."""
    order = entry.order
    assert order is not None
    held, price = context.quantities[entry.symbol], entry.price
    change = order.signed_quantity
    reasons: list[str] = []
    for check, cap_usdt in _caps(entry.symbol, context):
        of_order = check == "max_order_notional"
        asked = order.signed_quantity if of_order else held + order.signed_quantity
        left = change if of_order else held + change
        if abs(left) * price <= cap_usdt:
            continue
        reasons.append(f"{check} {cap_usdt:.2f} USDT")
        largest = (cap_usdt / price).copy_sign(left)
        change = largest if of_order else largest - held
        if held * order.signed_quantity < 0:
            # A flip is never cut below its close, nor to a new position too small to open by itself.
            opened = (abs(change) - abs(held)) * price
            if opened < context.instruments[entry.symbol].min_notional_usdt:
                change = -held
        if not _worth_sending(entry, context, change):
            return Refused(check, f"{cap_usdt:.2f} USDT", f"{abs(asked) * price:.2f} USDT")
    return _resized(entry, context, change, "; ".join(reasons)) if reasons else Approved(entry)


def _to_close(
    entry: PlannedOrder, context: RiskContext, refusal: Refused
) -> Approved[PlannedOrder] | Refused:
    """Refuse, unless the order flips: then it is cut down to closing the position."""
    order, held = entry.order, context.quantities[entry.symbol]
    assert order is not None
    return _resized(entry, context, -held, str(refusal)) if held * order.signed_quantity < 0 else refusal


def _worth_sending(entry: PlannedOrder, context: RiskContext, change: Decimal) -> bool:
    """Whether an order for `change` goes the way that was asked, and is large enough for the exchange."""
    order = entry.order
    assert order is not None
    instrument = context.instruments[entry.symbol]
    change = instrument.round_quantity(change)
    if change * order.signed_quantity <= 0:
        return False  # the layer cuts orders, it does not turn them round
    closes = context.quantities[entry.symbol] + change == 0
    return closes or abs(change) * entry.price >= instrument.min_notional_usdt


def _resized(
    entry: PlannedOrder, context: RiskContext, change: Decimal, reason: str
) -> Approved[PlannedOrder]:
    """The entry with a smaller order."""
    order = entry.order
    assert order is not None
    held = context.quantities[entry.symbol]
    change = context.instruments[entry.symbol].round_quantity(change)
    target = held + change
    resized = replace(
        entry,
        action_type=classify(held, target),
        order=replace(
            order, quantity=abs(change), reduce_only=held * change < 0 and abs(change) <= abs(held)
        ),
        target_quantity=target,
        protection=entry.protection if target != 0 else None,
        note="; ".join(part for part in (entry.note, f"reduced by {reason}") if part),
    )
    return Approved(resized, reduced_from=entry, reason=reason)


def guard_prices(
    quantities: Mapping[str, Decimal],
    account: AccountSnapshot,
    *,
    peak_equity_usdt: Decimal,
    limit_fraction: Decimal,
    cost_fraction: Decimal,
    instruments: Mapping[str, Instrument],
) -> dict[str, Decimal]:
    """Stop prices at which the drawdown limit would be reached, if every position moved against us alike.

    With room = equity - peak * (1 - limit) and gross = sum |q| * close, the common adverse move is
    r = (room - cost * gross) / gross, cost being fee and slippage of closing; a long's stop is close * (1 - r),
    a short's close * (1 + r), on the tick nearer to the price. A position has none where that is no price of the
    instrument's: below its least, zero included, or above its greatest. There the exchange takes no order.
    """
    gross = sum((abs(q) * account.positions[s].mark_price for s, q in quantities.items()), ZERO)
    if gross == 0:
        return {}
    room = account.equity_usdt - peak_equity_usdt * (1 - limit_fraction)
    move = max(ZERO, room / gross - cost_fraction)
    prices = {}
    for symbol, quantity in quantities.items():
        if quantity == 0:
            continue
        close = account.positions[symbol].mark_price
        instrument = instruments[symbol]
        raw = close * (1 - move) if quantity > 0 else close * (1 + move)
        price = instrument.round_price(raw, up=quantity > 0)
        if instrument.min_price <= price <= instrument.max_price:
            prices[symbol] = price
    return prices


def with_guard(entry: PlannedOrder, current: Protection, guard: Decimal | None) -> PlannedOrder:
    """The entry with the protective stop added to the triggers that it sets, or to those already there."""
    base = entry.protection if entry.protection is not None else current
    return replace(entry, protection=replace(base, guard_price=guard))
