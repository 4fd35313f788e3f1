"""Risk limits, and the judgement of one planned order.

`judge` is a pure function: the wrapper `RiskControl` (envs/risk_control.py) feeds it and acts on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

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
from envs.instruments import Instrument
from envs.planning import to_decimal
from envs.risk_state import RiskState, drawdown_fraction
from envs.time_grid import HOUR_MS


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
        recent = sum(1 for t in state.order_times_ms if context.account.time_ms - t < HOUR_MS)
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
