"""The rolling history of a live run: recent candles of n symbols, and the window of features made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from envs import kernel
from envs.candles import CandleSet
from envs.errors import MarketDataError
from envs.features import FeatureConfig, feature_names, market_features
from envs.funding import FundingSeries
from envs.market import Market
from envs.scaler import FeatureScaler, identity_scaler
from envs.view import RecentCandles
from live.exchange.base import Candle, FundingRate

_FIELDS = ("open", "high", "low", "close", "volume")


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
        self.names = feature_names(config, self.symbols)
        self._scaler = identity_scaler(self.names) if scaler is None else scaler
        self._memory = config.memory
        self._window_size = window_size
        self._open_time_ms = np.empty(0, np.int64)
        self._values = np.empty((0, len(self.symbols), len(_FIELDS)))
        self._funding: dict[str, tuple[list[int], list[float]]] = {s: ([], []) for s in self.symbols}
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
        return int(self._open_time_ms[-1])

    @property
    def last_close_ms(self) -> int:
        """Close time of the newest closed candle."""
        return self.last_open_ms + self.interval_ms - 1

    @property
    def closes(self) -> NDArray[np.float64]:
        """Newest closes, float64 [n]."""
        return np.ascontiguousarray(self._values[-1, :, 3])

    def recent(self, count: int) -> RecentCandles:
        """The newest `count` closed candles, or as many as are kept: at least those that the features need."""
        values = self._values[-count:].copy()
        columns = (np.ascontiguousarray(values[..., column]) for column in range(len(_FIELDS)))
        return RecentCandles(self._open_time_ms[-count:].copy(), *columns)

    def kernel_row(self) -> NDArray[np.float64]:
        """The newest candle as the kernel reads it, float64 [n, 6]; funding is not known here and 0."""
        row = np.zeros((len(self.symbols), 6))
        row[:, : kernel.CLOSE + 1] = self._values[-1, :, : kernel.CLOSE + 1]
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
        self._values = np.empty((count, len(self.symbols), len(_FIELDS)))
        for index, symbol in enumerate(self.symbols):
            rows = candles[symbol][-count:]
            if [row.open_time_ms for row in rows] != times.tolist():
                raise MarketDataError(
                    f"{symbol} and {self.symbols[0]} have candles at different times; try again later"
                )
            self._values[:, index, :] = [[getattr(row, name) for name in _FIELDS] for row in rows]
        self._open_time_ms = times
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

    def last_funding_ms(self, symbol: str) -> int:
        """Time of the newest known settlement, 0 when there is none."""
        times = self._funding[symbol][0]
        return times[-1] if times else 0

    def append(self, candles: Mapping[str, Candle]) -> None:
        """Add the next closed candle of every symbol and compute its feature row."""
        open_ms = self.last_open_ms + self.interval_ms
        row = np.empty((1, len(self.symbols), len(_FIELDS)))
        for index, symbol in enumerate(self.symbols):
            candle = candles[symbol]
            if candle.open_time_ms != open_ms:
                raise MarketDataError(
                    f"{symbol}: got the candle of {candle.open_time_ms}, expected that of {open_ms}"
                )
            row[0, index] = [getattr(candle, name) for name in _FIELDS]
        keep = self.candles_needed
        self._open_time_ms = np.append(self._open_time_ms, open_ms)[-keep:]
        self._values = np.concatenate((self._values, row))[-keep:]
        features = self._features(self._memory)
        self.window[:-1] = self.window[1:]
        self.window[-1] = self._scaler.transform(features[-1:])[0]

    def correct(self, candle: Candle) -> None:
        """Put a candle that came late in the place of its stand-in; a candle of another time is ignored."""
        places = np.flatnonzero(self._open_time_ms == candle.open_time_ms)
        if candle.symbol not in self.symbols or not len(places):
            return
        row = self._values[places[0], self.symbols.index(candle.symbol)]
        values = [getattr(candle, name) for name in _FIELDS]
        if row.tolist() != values:
            row[:] = values
            self._recompute_window()

    def _recompute_window(self) -> None:
        features = self._features(self.candles_needed)
        self.window[:] = self._scaler.transform(features[-self._window_size :])

    def _features(self, candles: int) -> NDArray[np.float64]:
        """Unscaled features over the newest `candles` candles, float64 [candles, F]."""
        times = self._open_time_ms[-candles:]
        values = self._values[-candles:]
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
        nothing = np.zeros(values.shape[:2])
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
        if not times:
            return None
        return FundingSeries(symbol, np.array(times, np.int64), np.array(values), "live")
