"""Where the prices come from: history replayed, or a synthetic market; lock-step or paced.

A feed is a market, the index of the first candle to be played, and a speed. The candles before that index
are history that clients can ask for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from envs.candles import CandleSet
from envs.errors import ConfigError
from envs.market import Market
from envs.synthetic import synthetic_market
from envs.time_grid import grid_offset_ms, interval_to_ms


@dataclass(frozen=True, slots=True)
class ReplayFeed:
    """Recorded candles, played one after another.

    Attributes:
        market: candles and funding of all symbols.
        start_index: candles before it are history; it is the first to be played (1 <= start_index <= T).
        speed: candle time per wall time (60 plays an hour in a minute); None is lock-step, where time moves
            only by the control route.
        marks: mark-price candles by symbol, for display only (funding is already in the market).
    """

    market: Market
    start_index: int
    speed: float | None = None
    marks: Mapping[str, CandleSet] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.start_index <= len(self.market):
            raise ConfigError(
                f"start_index is {self.start_index}; it must be from 1 to {len(self.market)}, the number of "
                f"candles, so that there is a candle before the start"
            )
        if self.speed is not None and not self.speed > 0:
            raise ConfigError(f"speed is {self.speed}; give a number above 0, or None for lock-step")

    @property
    def start_ms(self) -> int:
        """Feed time at the start: the open of the first candle to be played."""
        if self.start_index < len(self.market):
            return int(self.market.open_time_ms[self.start_index])
        return int(self.market.open_time_ms[-1]) + self.market.interval_ms

    def starts_now(self, wall_ms: int) -> bool:
        """Whether the feed, started at `wall_ms`, runs in real time: speed 1, first candle open now."""
        return self.speed == 1.0 and 0 <= wall_ms - self.start_ms < self.market.interval_ms


def synthetic_feed(
    symbols: Sequence[str],
    *,
    interval: str = "1m",
    candles: int = 10_000,
    history: int = 1_500,
    seed: int = 0,
    speed: float | None = None,
    begin_ms: int | None = None,
) -> ReplayFeed:
    """A feed over a seeded synthetic market of `history` closed candles and `candles` to be played.

    At speed 1 the first candle to be played is the one that is open now on the wall clock, so that the
    exchange runs in real time; else the market begins at a fixed date and a seed gives the same prices
    always. `begin_ms` is the open time of the first candle of a market that was made before.
    """
    interval_ms = interval_to_ms(interval)
    start: int | str = "2023-01-01"
    if begin_ms is not None:
        start = begin_ms
    elif speed == 1.0:
        now_ms = int(time.time() * 1000)
        offset_ms = grid_offset_ms(interval_ms)
        start = now_ms - (now_ms - offset_ms) % interval_ms - history * interval_ms
    market = synthetic_market(symbols, interval=interval, n=history + candles, seed=seed, start=start)
    return ReplayFeed(market, history, speed)
