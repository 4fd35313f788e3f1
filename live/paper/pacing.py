"""Paced feeds: candles spread over wall time.

Each candle becomes a path: open, the extreme nearer to the open, the other extreme, close; each leg a third of
the candle's time, in steps of about a quarter of a second of wall time (at least one). Prices on the way are
on the tick grid. Orders fill at the price of the moment, and triggers and liquidation where the path crosses
them, in the order of the path. That differs from lock-step, where a candle is played by the pessimistic rules
of the simulator: only lock-step agrees with a backtest.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from live.paper.play import Candle

if TYPE_CHECKING:
    from live.paper.exchange import PaperExchange

_STEP_S = 0.25
_MAX_STEPS_PER_LEG = 100
_LEGS = 3


@dataclass(frozen=True, slots=True)
class PathPoint:
    """Prices of all symbols at a time inside a candle."""

    time_ms: int
    prices: dict[str, Decimal]


def candle_path(
    candle: Candle, open_ms: int, close_ms: int, steps_per_leg: int, ticks: dict[str, Decimal]
) -> list[PathPoint]:
    """The points after the open: `steps_per_leg` on each leg, the last at the close."""
    corners = {symbol: _corners(candle, symbol) for symbol in candle.open}
    total = _LEGS * steps_per_leg
    points = []
    for step in range(1, total + 1):
        leg, part = divmod(step, steps_per_leg)
        prices = {}
        for symbol, corner in corners.items():
            price = corner[leg]
            if part:
                raw = price + (corner[leg + 1] - price) * part / steps_per_leg
                tick = ticks[symbol]
                price = (raw / tick).to_integral_value() * tick
                low, high = candle.low[symbol], candle.high[symbol]
                price = min(high, max(low, price))
            prices[symbol] = price
        points.append(PathPoint(open_ms + (close_ms - open_ms) * step // total, prices))
    return points


async def run_paced(exchange: PaperExchange) -> None:
    """Play the feed to its end at its speed. Feed time runs on between the points.

    An exchange that was restarted goes on from the time that it stood at.
    """
    speed = exchange.feed.speed
    assert speed is not None
    start_ms = exchange.engine.clock_ms
    begun_s = time.monotonic()
    if exchange.real_time:
        begun_s -= time.time() - start_ms / 1000
    horizon_ms = start_ms

    def feed_ms() -> int:
        passed = int(start_ms + (time.monotonic() - begun_s) * 1000 * speed)
        return max(exchange.engine.clock_ms, min(passed, horizon_ms))

    exchange.follow_clock(feed_ms)
    interval_ms = exchange.feed.market.interval_ms
    steps = round(interval_ms / 1000 / speed / _LEGS / _STEP_S)
    steps = max(1, min(_MAX_STEPS_PER_LEG, steps))
    ticks = {symbol: one.tick_size for symbol, one in exchange.engine.instruments.items()}

    async def wait_until(time_ms: int) -> None:
        nonlocal horizon_ms
        horizon_ms = time_ms
        await asyncio.sleep(max(0.0, begun_s + (time_ms - start_ms) / 1000 / speed - time.monotonic()))
        exchange.engine.clock_ms = time_ms

    if exchange.between:
        await wait_until(exchange.history.open_time_ms(exchange.index))
        exchange.open_candle()
    while exchange.remaining:
        open_ms, close_ms = exchange.history.open_time_ms(exchange.index), exchange.close_ms
        funding_ms = exchange.history.funding_time_inside(exchange.index)
        funded = funding_ms == open_ms or exchange.inside_booked
        path = candle_path(exchange.history.candle(exchange.index), open_ms, close_ms, steps, ticks)
        for point in path:
            if point.time_ms < start_ms:
                exchange.retrace(point.prices, 1 / len(path))
                continue
            if not funded and funding_ms <= point.time_ms:
                await wait_until(funding_ms)
                exchange.book_funding_inside()
                exchange.flush()
                funded = True
            await wait_until(point.time_ms)
            exchange.move_to(point.prices, 1 / len(path))
        exchange.end_candle()
        await wait_until(close_ms + 1)
        exchange.open_candle()


def _corners(candle: Candle, symbol: str) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    begin, high, low = candle.open[symbol], candle.high[symbol], candle.low[symbol]
    first, second = (high, low) if high - begin <= begin - low else (low, high)
    return begin, first, second, candle.close[symbol]
