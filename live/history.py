"""The rolling history of a live run: recent candles of n symbols, and the window of features made of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from envs import kernel
from envs.candle_rules import check_values
from envs.candle_tail import FIELDS, CandleTail
from envs.candles import CandleSet
from envs.errors import MarketDataError
from envs.features import FeatureConfig, LatestFeatures, market_features
from envs.funding import FundingSeries
from envs.market import Market
from envs.scaler import FeatureScaler, identity_scaler
from envs.view import RecentCandles
from live.exchange.base import Candle, FundingRate

_CLOSE = FIELDS.index("close")
# Room for candles to come, so that appending one rarely moves the others.
_ROOM = 1024


class LiveHistory:
    """Keeps as many closed candles as the features need and computes the newest row at every close.

    A row computed from the last `config.memory` candles equals the row of the whole history (see
    `envs.features`), so a live observation equals the backtest's.

    Args:
        symbols: in the order of the action vector.
        interval_ms: candle length.
        config: the features.
        scaler: the training run's, or None.
        window_size: candles in the observation.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        interval_ms: int,
        config: FeatureConfig,
        scaler: FeatureScaler | None,
        window_size: int,
    ) -> None:
        self.symbols = tuple(symbols)
        self.interval_ms = interval_ms
        self._config = config
        self._latest = LatestFeatures(config, self.symbols)
        self.names = self._latest.names
        self._scaler = identity_scaler(self.names) if scaler is None else scaler
        self._memory = config.memory
        self._window_size = window_size
        # The candles lie in columns _first <= t < _end.
        self._times = np.empty(0, np.int64)
        self._values = np.empty((len(self.symbols), len(FIELDS), 0))
        self._first = self._end = 0
        self._funding: dict[str, tuple[list[int], list[float]]] = {s: ([], []) for s in self.symbols}
        self._series: dict[str, FundingSeries | None] = dict.fromkeys(self.symbols)
        # Parts of the next row, each with the candle and the fundings that it was computed from.
        self._prepared: dict[str, tuple[Candle, FundingSeries | None, list[float]]] = {}
        self.window = np.zeros((window_size, len(self.names)), np.float32)

    @property
    def candles_needed(self) -> int:
        """Closed candles to load before the first decision, where the exchange has that many."""
        return self._memory + self._window_size

    @property
    def uses_funding(self) -> bool:
        """Whether a feature reads settled funding rates."""
        return self._config.settlements > 0

    @property
    def settlements_needed(self) -> int:
        """How many settled rates the features reach back."""
        return self._config.settlements

    @property
    def last_open_ms(self) -> int:
        """Open time of the newest closed candle."""
        return int(self._times[self._end - 1])

    @property
    def last_close_ms(self) -> int:
        """Close time of the newest closed candle."""
        return self.last_open_ms + self.interval_ms - 1

    @property
    def closes(self) -> NDArray[np.float64]:
        """Newest closes, float64 [n]."""
        return self._values[:, _CLOSE, self._end - 1].copy()

    def recent(self, count: int) -> RecentCandles:
        """The newest `count` closed candles, or as many as are kept."""
        first = max(self._first, self._end - count)
        values = self._values[:, :, first : self._end]
        columns = (values[:, at].T.copy() for at in range(len(FIELDS)))
        return RecentCandles(self._times[first : self._end].copy(), *columns)

    def newest_candles(self) -> dict[str, Candle]:
        """The newest closed candle of each symbol."""
        newest = self._values[:, :, self._end - 1].tolist()
        return {
            symbol: Candle(symbol, self.last_open_ms, self.interval_ms, *values)
            for symbol, values in zip(self.symbols, newest, strict=True)
        }

    def kernel_row(self) -> NDArray[np.float64]:
        """The newest candle as the kernel reads it, float64 [n, 6]; funding is not known here and 0."""
        row = np.zeros((len(self.symbols), 6))
        row[:, : kernel.CLOSE + 1] = self._values[:, : kernel.CLOSE + 1, self._end - 1]
        return row

    def load(self, candles: Mapping[str, Sequence[Candle]]) -> None:
        """Begin with these closed candles, which must end at the same time for every symbol.

        Raises:
            MarketDataError: too few candles, a gap, or symbols that end at different times.
        """
        count = min(len(candles[symbol]) for symbol in self.symbols)
        # A young listing has less history than the features would like; so had a backtest at its start.
        least = self._config.warmup + self._window_size
        if count < least:
            raise MarketDataError(
                f"the exchange gave {count} closed candles; the indicators and the window need {least}: "
                "wait for more history, or use shorter periods"
            )
        count = min(count, self.candles_needed)
        first = candles[self.symbols[0]][-count:]
        times = np.array([candle.open_time_ms for candle in first], np.int64)
        if (np.diff(times) != self.interval_ms).any():
            raise MarketDataError("the exchange's candle history has a gap; try again later")
        self._values = np.empty((len(self.symbols), len(FIELDS), count + _ROOM))
        for index, symbol in enumerate(self.symbols):
            rows = candles[symbol][-count:]
            if [row.open_time_ms for row in rows] != times.tolist():
                raise MarketDataError(
                    f"{symbol} and {self.symbols[0]} have candles at different times; try again later"
                )
            self._values[index, :, :count] = [[getattr(row, name) for row in rows] for name in FIELDS]
        self._prepared.clear()
        self._times = np.concatenate((times, np.zeros(_ROOM, np.int64)))
        self._first, self._end = 0, count
        self._recompute_window()

    def add_funding(self, rates: Sequence[FundingRate]) -> None:
        """Remember settled rates; those already known are skipped."""
        for rate in rates:
            times, values = self._funding[rate.symbol]
            # Settlements are booked a few ms after the hour.
            time_ms = rate.time_ms - rate.time_ms % 1000
            if not times or time_ms > times[-1]:
                times.append(time_ms)
                values.append(rate.rate)
                self._series[rate.symbol] = None

    def last_funding_ms(self, symbol: str) -> int:
        """Time of the newest known settlement, 0 when there is none."""
        times = self._funding[symbol][0]
        return times[-1] if times else 0

    def append(self, candles: Mapping[str, Candle]) -> None:
        """Add the next closed candle of every symbol and compute its feature row.

        Raises:
            MarketDataError: a candle is not the next one, or breaks a rule that every candle keeps.
        """
        open_ms = self.last_open_ms + self.interval_ms
        if self._end == len(self._times):
            self._make_room()
        for index, symbol in enumerate(self.symbols):
            candle = candles[symbol]
            if candle.open_time_ms != open_ms:
                raise MarketDataError(
                    f"{symbol}: got the candle of {candle.open_time_ms}, expected that of {open_ms}"
                )
            self._values[index, :, self._end] = [getattr(candle, name) for name in FIELDS]
        self._check(candles, open_ms)
        self._times[self._end] = open_ms
        self._end += 1
        self._first = max(self._first, self._end - self.candles_needed)
        tails = self._tails()
        parts = [self._part(tail, candles[tail.symbol]) for tail in tails]
        self._prepared.clear()
        row = self._latest.joined(parts, tails)
        self.window[:-1] = self.window[1:]
        self.window[-1] = self._scaler.transform(row)

    def _part(self, tail: CandleTail, candle: Candle) -> list[float]:
        funding = self._funding_series(tail.symbol)
        prepared = self._prepared.get(tail.symbol)
        if prepared is not None and prepared[0] is candle and prepared[1] is funding:
            return prepared[2]
        return self._latest.of_symbol(tail, funding)

    def prepare(self, candle: Candle) -> None:
        """Compute a symbol's part of the next row now, while the other symbols' candles are awaited.

        `append` uses it if it is given the same candle. A candle that is not the next one, or cannot be, is left to it.
        """
        open_ms = self.last_open_ms + self.interval_ms
        if self._end == len(self._times):
            self._make_room()
        index, end = self.symbols.index(candle.symbol), self._end
        self._values[index, :, end] = [getattr(candle, name) for name in FIELDS]
        if candle.open_time_ms != open_ms or not _is_sound(candle):
            return
        self._times[end] = open_ms
        first = max(self._first, end + 1 - self.candles_needed)
        columns = self._values[index, :, first : end + 1]
        tail = CandleTail(candle.symbol, self.interval_ms, self._times[first : end + 1], columns)
        funding = self._funding_series(candle.symbol)
        self._prepared[candle.symbol] = (candle, funding, self._latest.of_symbol(tail, funding))

    def rehearse(self) -> Iterator[None]:
        """Compute what `append` does, on the candles that are there, symbol by symbol; nothing is kept."""
        for tail in self._tails():
            self._latest.of_symbol(tail, self._funding_series(tail.symbol))
            yield
        self._scaler.transform(self.window[-1].astype(np.float64))

    def _tails(self) -> list[CandleTail]:
        times = self._times[self._first : self._end]
        return [
            CandleTail(symbol, self.interval_ms, times, self._values[index, :, self._first : self._end])
            for index, symbol in enumerate(self.symbols)
        ]

    def _make_room(self) -> None:
        count = self._end - self._first
        self._values[:, :, :count] = self._values[:, :, self._first : self._end].copy()
        self._times[:count] = self._times[self._first : self._end].copy()
        self._first, self._end = 0, count

    def _check(self, candles: Mapping[str, Candle], open_ms: int) -> None:
        """Refuse candles that cannot be; the whole check names what is wrong with them."""
        for symbol in self.symbols:
            candle = candles[symbol]
            if not _is_sound(candle):
                times = np.array([open_ms], np.int64)
                columns = {name: np.array([getattr(candle, name)], np.float64) for name in FIELDS}
                check_values(times, columns, f"{symbol} candles from the exchange")

    def correct(self, candle: Candle) -> None:
        """Put a candle that came late in the place of its stand-in; a candle of another time is ignored."""
        places = self._first + np.flatnonzero(self._times[self._first : self._end] == candle.open_time_ms)
        if candle.symbol not in self.symbols or not len(places):
            return
        row = self._values[self.symbols.index(candle.symbol), :, places[0]]
        values = [getattr(candle, name) for name in FIELDS]
        if row.tolist() != values:
            self._prepared.clear()
            row[:] = values
            self._recompute_window()

    def _recompute_window(self) -> None:
        features = self._features()
        self.window[:] = self._scaler.transform(features[-self._window_size :])

    def _features(self) -> NDArray[np.float64]:
        """Unscaled features of all candles that are kept, float64 [candles, F]."""
        times = self._times[self._first : self._end]
        values = np.moveaxis(self._values[:, :, self._first : self._end], 2, 0)
        sets = tuple(
            CandleSet(
                symbol,
                self.interval_ms,
                times,
                open=values[:, index, 0],
                high=values[:, index, 1],
                low=values[:, index, 2],
                close=values[:, index, 3],
                volume=values[:, index, 4],
                source="live",
            )
            for index, symbol in enumerate(self.symbols)
        )
        nothing = np.zeros((len(times), len(self.symbols)))
        market = Market(
            symbols=self.symbols,
            interval_ms=self.interval_ms,
            open_time_ms=times,
            open=values[..., 0],
            high=values[..., 1],
            low=values[..., 2],
            close=values[..., 3],
            volume=values[..., 4],
            funding_open=nothing,
            funding_inner=nothing,
            synthetic=False,
            candles=sets,
            funding=tuple(self._funding_series(symbol) for symbol in self.symbols),
        )
        return market_features(market, self._config).values

    def _funding_series(self, symbol: str) -> FundingSeries | None:
        times, values = self._funding[symbol]
        if self._series[symbol] is None and times:
            self._series[symbol] = FundingSeries(symbol, np.array(times, np.int64), np.array(values), "live")
        return self._series[symbol]


def _is_sound(one: Candle) -> bool:
    """Whether a candle can be. No comparison holds for NaN."""
    return (
        0.0 < one.low <= one.open <= one.high < math.inf
        and one.low <= one.close <= one.high
        and 0.0 <= one.volume < math.inf
    )
