"""What an agent may look at besides the observation: `info["view"]`, read on demand.

An agent that reads numbers has the observation. One that reads words wants prices, the account and the rules. The
loop hands every agent a view; building one costs nothing, and what is not read is not computed. It passes on what
may be seen, never a candle that has not closed, and nothing that acts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from envs.account import AccountSnapshot
from envs.instruments import Instrument
from envs.settings import EnvConfig

VIEW = "view"
"""The key in the `info` that an agent is given."""


@dataclass(frozen=True, eq=False)
class RecentCandles:
    """Closed candles, oldest first. Copies: the environment goes on, they stay.

    Attributes:
        open_time_ms: int64 [K], UTC.
        open, high, low, close, volume: float64 [K, n]; volume in the base asset.
    """

    open_time_ms: NDArray[np.int64]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64]


class ViewSource(Protocol):
    """What a view is of: `FuturesEnv` and `LiveEnv` are two."""

    symbols: tuple[str, ...]
    instruments: tuple[Instrument, ...]
    config: EnvConfig

    @property
    def interval_ms(self) -> int:
        """Length of a candle."""

    def account(self) -> AccountSnapshot:
        """The account, marked at the last close."""

    def recent_candles(self, count: int) -> RecentCandles:
        """The last `count` closed candles, or as many as there are."""

    def stale_symbols(self) -> Sequence[str]:
        """Symbols whose last closed candle is too old to trade on."""


class MarketView:
    """An environment as it stands at the last close."""

    def __init__(self, source: ViewSource) -> None:
        self._source = source

    @property
    def symbols(self) -> tuple[str, ...]:
        """In the order of the actions."""
        return self._source.symbols

    @property
    def instruments(self) -> Mapping[str, Instrument]:
        """The exchange's rules, by symbol."""
        return {one.symbol: one for one in self._source.instruments}

    @property
    def config(self) -> EnvConfig:
        """Settings of the environment."""
        return self._source.config

    @property
    def interval_ms(self) -> int:
        """Length of a candle."""
        return self._source.interval_ms

    def account(self) -> AccountSnapshot:
        """The account, marked at the last close; its time is that close."""
        return self._source.account()

    def recent_candles(self, count: int) -> RecentCandles:
        """The last `count` closed candles, or as many as there are."""
        return self._source.recent_candles(count)

    def stale_symbols(self) -> tuple[str, ...]:
        """Symbols whose last closed candle is too old to trade on."""
        return tuple(self._source.stale_symbols())
