"""Which rows of a history a call may see: time windows, and what Binance no longer finds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TypeVar

from envs.time_grid import DAY_MS
from live.paper.calls import Call
from live.paper.errors import refusal
from live.paper.orders import AlgoOrder, Order

WINDOW_MS = 7 * DAY_MS
UNFILLED_KEPT_MS = 3 * DAY_MS
KEPT_MS = 90 * DAY_MS

Row = TypeVar("Row")


def time_window(call: Call) -> tuple[int, int]:
    """startTime and endTime, at most 7 days apart (-4165); by default the last 7 days."""
    start, end = call.params.integer("startTime"), call.params.integer("endTime")
    if start is None and end is None:
        end = call.exchange.now_ms
        return end - WINDOW_MS, end
    if end is None:
        assert start is not None
        return start, start + WINDOW_MS
    if start is None:
        return end - WINDOW_MS, end
    if end - start > WINDOW_MS:
        raise refusal(-4165, 7)
    return start, end


def between(rows: Sequence[Row], start_ms: int, end_ms: int, time_ms: Callable[[Row], int]) -> Sequence[Row]:
    """The rows with start <= time <= end of rows that ascend by time."""
    first = bisect_left(rows, start_ms, key=time_ms)
    return rows[first : bisect_left(rows, end_ms + 1, key=time_ms)]


def is_findable(order: Order | AlgoOrder, now_ms: int) -> bool:
    """Whether an order can still be looked up.

    Gone are orders that were cancelled or expired without a fill more than 3 days after they were placed, and
    all that ended and were placed more than 90 days ago.
    """
    if order.is_open:
        return True
    age_ms = now_ms - order.time_ms
    ordinary = order.order if isinstance(order, AlgoOrder) else order
    unfilled = ordinary is None or not ordinary.executed_quantity
    if unfilled and order.status in ("CANCELED", "EXPIRED"):
        return age_ms <= UNFILLED_KEPT_MS
    return age_ms <= KEPT_MS
