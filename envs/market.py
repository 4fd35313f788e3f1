"""The market that an account trades in: aligned candles of n symbols, and what funding costs in each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from envs.candles import CandleSet, TimeLike, frozen_array
from envs.errors import CandleError, ConfigError
from envs.funding import FundingSeries
from envs.time_grid import HOUR_MS, format_time

CONSTANT_FUNDING_SOURCE = "constant"

# Settlements before the first candle, so that a mean over recent rates is known from the first row on.
_CONSTANT_LEAD = 100

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Market:
    """Candles of n symbols at the same times, with their fundings, as `build_market` makes it. Read-only.

    Attributes:
        symbols: [n], in the order of every second axis.
        interval_ms: length of a candle.
        open_time_ms: int64 [T], UTC.
        open, high, low, close: float64 [T, n], quote per unit of base.
        volume: float64 [T, n], in the base asset.
        funding_open: float64 [T, n], quote per unit of base: the sum of mark * rate over the settlements at
            open_time_ms[t]. A position of q units, held before the orders at that time, pays q times this.
        funding_inner: float64 [T, n], the same for settlements strictly inside candle t; they fall on what is
            held after the orders.
        synthetic: True when any of the candles are.
        candles: the aligned candle sets, one per symbol.
        funding: per symbol the settled rates up to the last candle, those before the first candle included;
            None where there is no funding.
    """

    symbols: tuple[str, ...]
    interval_ms: int
    open_time_ms: npt.NDArray[np.int64]
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    funding_open: Floats
    funding_inner: Floats
    synthetic: bool
    candles: tuple[CandleSet, ...]
    funding: tuple[FundingSeries | None, ...]

    def __len__(self) -> int:
        return len(self.open_time_ms)

    def __repr__(self) -> str:
        return (
            f"Market({', '.join(self.symbols)} {self.candles[0].interval}, {len(self)} candles, "
            f"{format_time(self.open_time_ms[0])} to {format_time(self.open_time_ms[-1])}"
            f"{', synthetic' if self.synthetic else ''})"
        )

    @cached_property
    def close_time_ms(self) -> npt.NDArray[np.int64]:
        """int64 [T]: the last millisecond of each candle."""
        return self.candles[0].close_time_ms

    def slice(self, start: TimeLike = None, end: TimeLike = None) -> Market:
        """Candles with start <= open time < end. Fundings before the first candle stay known.

        Raises:
            CandleError: no candle lies there.
        """
        first_candles = self.candles[0].slice(start, end)
        first = int(np.searchsorted(self.open_time_ms, first_candles.open_time_ms[0]))
        return self.rows(first, first + len(first_candles))

    def rows(self, first: int, last: int) -> Market:
        """Candles first <= t < last by row."""
        part = slice(first, last)
        candles = tuple(one.rows(first, last) for one in self.candles)
        end_ms = int(candles[0].close_time_ms[-1]) + 1
        return Market(
            symbols=self.symbols,
            interval_ms=self.interval_ms,
            open_time_ms=self.open_time_ms[part],
            open=self.open[part],
            high=self.high[part],
            low=self.low[part],
            close=self.close[part],
            volume=self.volume[part],
            funding_open=self.funding_open[part],
            funding_inner=self.funding_inner[part],
            synthetic=self.synthetic,
            candles=candles,
            funding=tuple(None if one is None else one.slice(end=end_ms) for one in self.funding),
        )

    def data_hash(self) -> str:
        """SHA-256 (hex) of the symbols, the candles and what funding costs in each of them."""
        return self._hash

    @cached_property
    def _hash(self) -> str:
        digest = hashlib.sha256(" ".join(one.data_hash() for one in self.candles).encode())
        digest.update(self.funding_open.tobytes())
        digest.update(self.funding_inner.tobytes())
        return digest.hexdigest()

    def kernel_array(self) -> Floats:
        """float64 [T, n, 6], C-contiguous: open, high, low, close, funding_open, funding_inner."""
        return self._kernel_array

    @cached_property
    def _kernel_array(self) -> Floats:
        columns = (self.open, self.high, self.low, self.close, self.funding_open, self.funding_inner)
        return frozen_array(np.stack(columns, axis=-1), np.float64)


def build_market(
    candles: Sequence[CandleSet],
    *,
    funding: Mapping[str, FundingSeries] | None = None,
    marks: Mapping[str, CandleSet] | None = None,
    constant_funding_rate: float = 0.0001,
    funding_interval_hours: int = 8,
) -> Market:
    """Align the candles of one or more symbols to their common times, and lay the fundings on them.

    A settlement costs rate * mark per unit of base. The mark is the open of the symbol's mark candle that
    begins at the settlement, where `marks` has one, else the open of the candle that the settlement falls in.

    Args:
        candles: one set per symbol, of one interval.
        funding: settled rates by symbol; they must cover the candles.
        marks: mark-price candles by symbol, of any interval.
        constant_funding_rate: the rate for symbols without a series, as a fraction; 0 for none.
        funding_interval_hours: how often that rate is charged, from midnight UTC; 0 for never.

    Raises:
        CandleError: different intervals, no common time, or fundings that do not cover the candles.
        ConfigError: no symbol, one twice, or fundings or marks of a symbol that has no candles.
    """
    funding = {} if funding is None else funding
    marks = {} if marks is None else marks
    symbols = tuple(one.symbol for one in candles)
    _check_symbols(symbols, funding, marks)
    if not -0.5 < constant_funding_rate < 0.5:
        raise ConfigError(
            f"constant_funding_rate is {constant_funding_rate}; give a fraction (0.0001 is 0.01 %)"
        )
    if funding_interval_hours < 0 or funding_interval_hours > 24:
        raise ConfigError(
            f"funding_interval_hours is {funding_interval_hours}; give 1 to 24, or 0 to switch funding off"
        )
    aligned = _align(candles)
    shape = (len(aligned[0]), len(aligned))
    funding_open, funding_inner = np.zeros(shape), np.zeros(shape)
    series: list[FundingSeries | None] = []
    for column, one in enumerate(aligned):
        known = funding.get(one.symbol)
        if known is not None:
            _check_coverage(one, known)
        elif constant_funding_rate != 0 and funding_interval_hours != 0:
            known = constant_funding(one, constant_funding_rate, funding_interval_hours)
        if known is not None:
            known = known.slice(end=int(one.close_time_ms[-1]) + 1)
            _lay_funding(one, known, marks.get(one.symbol), funding_open[:, column], funding_inner[:, column])
        series.append(known)

    def stacked(name: str) -> Floats:
        return frozen_array(np.stack([getattr(one, name) for one in aligned], axis=1), np.float64)

    return Market(
        symbols=symbols,
        interval_ms=aligned[0].interval_ms,
        open_time_ms=aligned[0].open_time_ms,
        open=stacked("open"),
        high=stacked("high"),
        low=stacked("low"),
        close=stacked("close"),
        volume=stacked("volume"),
        funding_open=frozen_array(funding_open, np.float64),
        funding_inner=frozen_array(funding_inner, np.float64),
        synthetic=any(one.synthetic for one in aligned),
        candles=aligned,
        funding=tuple(series),
    )


def constant_funding(candles: CandleSet, rate: float, interval_hours: int = 8) -> FundingSeries:
    """A series that charges `rate` every `interval_hours` from midnight UTC, over and before the candles."""
    start_ms, end_ms = int(candles.open_time_ms[0]), int(candles.close_time_ms[-1])
    day_ms = 24 * HOUR_MS
    step_ms = interval_hours * HOUR_MS
    first_day = (start_ms - _CONSTANT_LEAD * step_ms) // day_ms
    days = np.arange(first_day, end_ms // day_ms + 1, dtype=np.int64) * day_ms
    times = (days[:, None] + np.arange(0, day_ms, step_ms, dtype=np.int64)).ravel()
    times = times[times <= end_ms]
    return FundingSeries(candles.symbol, times, np.full(len(times), float(rate)), CONSTANT_FUNDING_SOURCE)


def _check_symbols(
    symbols: tuple[str, ...], funding: Mapping[str, FundingSeries], marks: Mapping[str, CandleSet]
) -> None:
    if not symbols:
        raise ConfigError("a market needs the candles of at least one symbol")
    for symbol in symbols:
        if symbols.count(symbol) > 1:
            raise ConfigError(f"{symbol} is there twice; give each symbol's candles once")
    for kind, given in (("funding", funding), ("mark candles", marks)):
        for key, series in given.items():
            if key not in symbols:
                raise ConfigError(f"{kind} of {key} without its candles; symbols: {', '.join(symbols)}")
            if series.symbol != key:
                raise ConfigError(f"the {kind} given for {key} are those of {series.symbol}")


def _align(candles: Sequence[CandleSet]) -> tuple[CandleSet, ...]:
    for one in candles:
        if one.interval_ms != candles[0].interval_ms:
            raise CandleError(
                f"{candles[0].symbol} has {candles[0].interval} candles and {one.symbol} {one.interval} "
                f"candles; resample them to one interval"
            )
    # Each set is without gaps, so what they share is one span.
    start_ms = max(int(one.open_time_ms[0]) for one in candles)
    last_ms = min(int(one.open_time_ms[-1]) for one in candles)
    spans = "; ".join(
        f"{one.symbol} {format_time(one.open_time_ms[0])} to {format_time(one.open_time_ms[-1])}"
        for one in candles
    )
    if start_ms > last_ms:
        raise CandleError(f"the candles share no time: {spans}; give spans that overlap")
    aligned = tuple(one.slice(start_ms, last_ms + one.interval_ms) for one in candles)
    for one in aligned:
        if not np.array_equal(one.open_time_ms, aligned[0].open_time_ms):
            raise CandleError(
                f"{aligned[0].symbol} and {one.symbol} candles begin at different times: {spans}"
            )
    return aligned


def _check_coverage(candles: CandleSet, funding: FundingSeries) -> None:
    if len(funding) == 0:
        raise CandleError(f"{funding.symbol} funding: it is empty; give rates, or none for a constant rate")
    spacing_ms = funding.spacing_ms
    first_ms, last_ms = int(funding.time_ms[0]), int(funding.time_ms[-1])
    start_ms, end_ms = int(candles.open_time_ms[0]), int(candles.close_time_ms[-1])
    if start_ms < first_ms - spacing_ms or end_ms > last_ms + spacing_ms:
        raise CandleError(
            f"{candles.symbol}: the candles run from {format_time(start_ms)} to {format_time(end_ms)}, the "
            f"fundings only from {format_time(first_ms)} to {format_time(last_ms)}; crop the candles "
            f"(start, end) to the fundings, or give no fundings for a constant rate"
        )
    # Settlements are at most eight hours apart; contracts may move to shorter intervals.
    holes = np.flatnonzero(np.diff(funding.time_ms) > max(spacing_ms, 8 * HOUR_MS))
    for row in holes:
        before_ms, after_ms = int(funding.time_ms[row]), int(funding.time_ms[row + 1])
        if before_ms < end_ms and after_ms > start_ms:
            raise CandleError(
                f"{candles.symbol}: no funding between {format_time(before_ms)} and {format_time(after_ms)} "
                f"(rows {row} and {row + 1}); fetch what is missing, or crop the candles (start, end)",
                row=int(row) + 1,
            )


def _lay_funding(
    candles: CandleSet, funding: FundingSeries, marks: CandleSet | None, at_open: Floats, inside: Floats
) -> None:
    """Add mark * rate of each settlement to the candle that it falls in (arrays [T], changed in place)."""
    known = funding.slice(start=int(candles.open_time_ms[0]))
    row = np.searchsorted(candles.open_time_ms, known.time_ms, side="right") - 1
    mark = candles.open[row]
    if marks is not None:
        place = np.minimum(np.searchsorted(marks.open_time_ms, known.time_ms), len(marks) - 1)
        mark = np.where(marks.open_time_ms[place] == known.time_ms, marks.open[place], mark)
    boundary = candles.open_time_ms[row] == known.time_ms
    cost = mark * known.rate
    np.add.at(at_open, row[boundary], cost[boundary])
    np.add.at(inside, row[~boundary], cost[~boundary])
