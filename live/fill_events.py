"""What fills that no step asked for did to positions: the events that a step log shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from envs.account import ActionType, CandleEvent, Fill, Leg, classify
from live.exchange.base import parse_client_order_id


def events_of(
    fills: Sequence[Fill], after: Mapping[str, Decimal], *, recovered: bool = False
) -> tuple[CandleEvent, ...]:
    """What fills that no step asked for did to positions that are now `after` (signed, by symbol)."""
    held = dict(after)
    for fill in fills:
        held[fill.symbol] -= fill.signed_quantity
    events = []
    for fill in fills:
        events.append(_event(fill, held[fill.symbol], recovered=recovered))
        held[fill.symbol] += fill.signed_quantity
    return tuple(events)


def _event(fill: Fill, held: Decimal, *, recovered: bool) -> CandleEvent:
    parsed = parse_client_order_id(fill.client_order_id)
    if fill.liquidation:
        kind = ActionType.LIQUIDATION
    elif parsed is not None and parsed.leg in (Leg.STOP, Leg.PROTECTIVE_STOP):
        kind = ActionType.STOP_LOSS
    elif parsed is not None and parsed.leg is Leg.TAKE_PROFIT:
        kind = ActionType.TAKE_PROFIT
    elif parsed is not None and parsed.leg is Leg.EMERGENCY:
        kind = ActionType.EMERGENCY_CLOSE
    else:
        kind = classify(held, held + fill.signed_quantity)
    if recovered:
        note = f"recovered after a restart: order {fill.client_order_id or fill.order_id}"
    elif parsed is None and not fill.liquidation:
        note = f"not our order: {fill.client_order_id or fill.order_id}"
    else:
        note = ""
    return CandleEvent(kind, fill, note)
