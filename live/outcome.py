"""What becomes of orders at the exchange: of one that is sent, and of all of a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from envs.account import CandleEvent, Fill, Order, OrderResult, OrderStatus, PlannedOrder
from envs.errors import ExchangeError, OrderRejectedError, OutcomeUnknownError
from live.exchange.base import Exchange

_MARGIN_INSUFFICIENT = -2019


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a step's orders.

    Attributes:
        results: one per symbol, in the environment's order.
        events: fills beside the orders.
        funding_usdt: by symbol, booked with the candle's open.
        failure: why the exchange cannot be relied on; empty when it can.
        open_orders: how many rest at the exchange; None when that was not read.
    """

    results: tuple[OrderResult, ...]
    events: tuple[CandleEvent, ...] = ()
    funding_usdt: Mapping[str, Decimal] = field(default_factory=dict)
    failure: str = ""
    open_orders: int | None = None


async def place(exchange: Exchange, entry: PlannedOrder, order: Order, agent: str) -> OrderResult:
    """Send one order. What it may fail with is in the result."""
    try:
        report = await exchange.place(order)
    except OrderRejectedError as error:
        text = "margin is insufficient" if error.code == _MARGIN_INSUFFICIENT else str(error)
        return OrderResult(entry, OrderStatus.REJECTED, error=text)
    except OutcomeUnknownError as error:
        return OrderResult(entry, OrderStatus.UNKNOWN, error=str(error))
    except ExchangeError as error:
        return OrderResult(entry, OrderStatus.FAILED, error=str(error))
    fills = tuple(replace(fill, leg=order.leg, agent=agent) for fill in report.fills)
    if report.executed_quantity >= order.quantity:
        return OrderResult(entry, OrderStatus.FILLED, fills)
    status = OrderStatus.PARTIAL if fills else OrderStatus.REJECTED
    text = f"{report.status.lower()} after {report.executed_quantity} of {order.quantity}"
    return OrderResult(entry, status, fills, error=text)


def fills_of(results: Iterable[OrderResult]) -> list[Fill]:
    """All fills of some orders, in their order."""
    return [fill for result in results for fill in result.fills]
