"""Candles of one symbol: load, validate, slice, resample, store.

A `CandleSet` is valid by construction: sorted, on its interval's grid, without gaps, prices above 0 and
inside [low, high]. Whatever breaks a rule is a `CandleError` that names the zero-based row, its time, the
values and what to do; nothing is repaired in silence. Fundings (`envs/funding.py`) can be had from here too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from envs.candle_rules import (
    PRICE_COLUMNS,
    Floats,
    Times,
    check_grid,
    check_no_gap,
    check_order,
    check_values,
    infer_interval_ms,
)
from envs.candle_rules import fill_gaps as fill_candle_gaps
from envs.errors import CandleError
from envs.funding import FundingSeries, load_funding
from envs.table_files import Table, as_floats, as_times_ms, read_table, write_parquet
from envs.time_grid import (
    format_time,
    grid_offset_ms,
    interval_name,
    interval_to_ms,
    parse_time_ms,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CandleSet",
    "FundingSeries",
    "interval_name",
    "interval_to_ms",
    "load_candles",
    "load_funding",
    "parse_time_ms",
]

TimeLike = str | int | date | datetime | None
"""What `parse_time_ms` reads."""

DEFAULT_MARKET = "USD-M perp"

_FILE_NAME = re.compile(r"(?:^|_)(?P<symbol>[A-Z0-9]{4,20})[-_](?P<interval>\d{1,2}[mhdw])(?=[-_.]|$)")


def frozen_array(values: npt.ArrayLike, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """The values as a contiguous read-only array; copied unless they are (part of) one that nobody can write to.

    A read-only view does not suffice: pandas hands out such views of data that may still change.
    """
    array = np.ascontiguousarray(values, dtype=dtype)
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if array.flags.writeable or owner.flags.writeable or owner.base is not None:
        array = array.copy()
        array.flags.writeable = False
    return array


@dataclass(frozen=True, eq=False)
class CandleSet:
    """Candles of one symbol, without gaps. Arrays are read-only, one entry per candle.

    Attributes:
        symbol: e.g. BTCUSDT.
        interval_ms: length of a candle in ms.
        open_time_ms: int64 [T], UTC; candle t covers [open_time_ms[t], open_time_ms[t] + interval_ms).
        open, high, low, close: float64 [T], quote per unit of base.
        volume: float64 [T], in the base asset; zeros for mark-price candles.
        source: where they came from, for people.
        synthetic: True when no market ever traded them.
        market: `USD-M perp`, `spot` or `synthetic`.
        filled: how many of the candles were put in for missing ones.

    Raises:
        CandleError: a rule is broken; see `envs/candle_rules.py`.
    """

    symbol: str
    interval_ms: int
    open_time_ms: Times
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    source: str
    synthetic: bool = False
    market: str = DEFAULT_MARKET
    filled: int = 0

    def __post_init__(self) -> None:
        label = f"{self.symbol} candles"
        interval_name(self.interval_ms)
        object.__setattr__(self, "open_time_ms", frozen_array(self.open_time_ms, np.int64))
        for name in (*PRICE_COLUMNS, "volume"):
            object.__setattr__(self, name, frozen_array(getattr(self, name), np.float64))
            if getattr(self, name).shape != self.open_time_ms.shape or self.open_time_ms.ndim != 1:
                raise CandleError(
                    f"{label}: {name} has shape {getattr(self, name).shape} and open_time_ms "
                    f"{self.open_time_ms.shape}; give one-dimensional arrays of one length"
                )
        if len(self.open_time_ms) == 0:
            raise CandleError(f"{label}: there are none; give at least one candle")
        check_order(self.open_time_ms, label)
        check_grid(self.open_time_ms, self.interval_ms, label)
        check_no_gap(self.open_time_ms, self.interval_ms, label)
        check_values(self.open_time_ms, self._columns(), label)

    def __len__(self) -> int:
        return len(self.open_time_ms)

    def __repr__(self) -> str:
        return (
            f"CandleSet({self.symbol} {self.interval}, {len(self)} candles, "
            f"{format_time(self.open_time_ms[0])} to {format_time(self.open_time_ms[-1])}"
            f"{', synthetic' if self.synthetic else ''})"
        )

    @property
    def interval(self) -> str:
        """Name of the interval, e.g. `1h`."""
        return interval_name(self.interval_ms)

    @cached_property
    def close_time_ms(self) -> Times:
        """int64 [T]: the last millisecond of each candle, open time + interval - 1 ms."""
        return frozen_array(self.open_time_ms + (self.interval_ms - 1), np.int64)

    def slice(self, start: TimeLike = None, end: TimeLike = None) -> CandleSet:
        """Candles with start <= open time < end; None leaves that side open.

        Raises:
            CandleError: no candle lies there.
            ConfigError: a time cannot be read.
        """
        start_ms, end_ms = parse_time_ms(start), parse_time_ms(end)
        first = 0 if start_ms is None else int(np.searchsorted(self.open_time_ms, start_ms))
        last = len(self) if end_ms is None else int(np.searchsorted(self.open_time_ms, end_ms))
        if first >= last:
            raise CandleError(
                f"{self.symbol} candles: none from "
                f"{'the beginning' if start_ms is None else format_time(start_ms)} "
                f"to {'the end' if end_ms is None else format_time(end_ms)} (excluded); they cover "
                f"{format_time(self.open_time_ms[0])} to {format_time(self.open_time_ms[-1])}"
            )
        return self.rows(first, last)

    def rows(self, first: int, last: int) -> CandleSet:
        """Candles first <= t < last by row."""
        part = slice(first, last)
        return replace(
            self,
            open_time_ms=self.open_time_ms[part],
            open=self.open[part],
            high=self.high[part],
            low=self.low[part],
            close=self.close[part],
            volume=self.volume[part],
        )

    def resample(self, interval: str) -> CandleSet:
        """Longer candles, beginning at multiples of `interval` UTC (weeks on Monday).

        Candles at either end that do not fill one of the longer candles are dropped; `source` says how many.

        Raises:
            CandleError: the interval is shorter, no multiple, or no candle is filled.
        """
        target_ms = interval_to_ms(interval)
        if target_ms == self.interval_ms:
            return self
        if target_ms < self.interval_ms or target_ms % self.interval_ms:
            raise CandleError(
                f"{self.symbol} candles of {self.interval} cannot be resampled to {interval}; "
                f"give a longer interval that is a multiple"
            )
        offset = grid_offset_ms(target_ms)
        first = int(
            np.searchsorted(self.open_time_ms, _next_boundary(int(self.open_time_ms[0]), target_ms, offset))
        )
        group = target_ms // self.interval_ms
        count = (len(self) - first) // group
        if count < 1:
            raise CandleError(
                f"{self.symbol}: {len(self)} candles of {self.interval} from "
                f"{format_time(self.open_time_ms[0])} fill no {interval} candle; give more"
            )
        used = slice(first, first + count * group)
        dropped = len(self) - count * group
        note = f"resampled from {self.interval}"
        if dropped:
            note += f", {dropped} candles at the ends dropped"
        return replace(
            self,
            interval_ms=target_ms,
            open_time_ms=self.open_time_ms[used][::group],
            open=self.open[used][::group],
            high=self.high[used].reshape(count, group).max(axis=1),
            low=self.low[used].reshape(count, group).min(axis=1),
            close=self.close[used][group - 1 :: group],
            volume=self.volume[used].reshape(count, group).sum(axis=1),
            source=f"{self.source} ({note})",
        )

    def to_frame(self) -> pd.DataFrame:
        """A new frame with the columns of the Parquet form: open_time, open, high, low, close, volume."""
        import pandas as pd

        return pd.DataFrame({name: values.copy() for name, values in self._columns().items()})

    def to_parquet(self, path: Path | str) -> None:
        """Write zstd Parquet with symbol, market, interval and source as metadata; whole or not at all."""
        metadata = {
            "symbol": self.symbol,
            "market": self.market,
            "interval": self.interval,
            "source": self.source,
            "synthetic": str(self.synthetic).lower(),
            "filled": str(self.filled),
        }
        write_parquet(Path(path), self._columns(), metadata)

    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        return {
            "open_time": self.open_time_ms,
            **{name: getattr(self, name) for name in (*PRICE_COLUMNS, "volume")},
        }

    def data_hash(self) -> str:
        """SHA-256 (hex) of symbol, interval and every number, whatever the source."""
        return self._hash

    @cached_property
    def _hash(self) -> str:
        digest = hashlib.sha256(f"{self.symbol} {self.interval_ms} {len(self)}\n".encode())
        for values in self._columns().values():
            digest.update(values.tobytes())
        return digest.hexdigest()

    @classmethod
    def from_frame(
        cls,
        df: pd.DataFrame,
        *,
        symbol: str,
        interval: str | None = None,
        source: str = "frame",
        fill_gaps: bool = False,
    ) -> CandleSet:
        """Candles from a frame: open_time (UTC ms or datetimes), open, high, low, close, volume (optional).

        Raises:
            CandleError: a rule is broken; the row counts from 0 whatever the frame's index.
        """
        # Times with a zone would come as objects; without one they are UTC.
        zoned = df.select_dtypes("datetimetz").columns
        plain = df.assign(**{name: df[name].dt.tz_convert(None) for name in zoned})
        columns = {str(name): plain[name].to_numpy() for name in plain.columns}
        table = Table(columns, {}, f"{symbol} candles")
        return _from_table(table, symbol, interval, "given", source, fill_gaps)


def _next_boundary(time_ms: int, interval_ms: int, offset_ms: int) -> int:
    return -((offset_ms - time_ms) // interval_ms) * interval_ms + offset_ms


def load_candles(
    path: Path | str,
    *,
    symbol: str | None = None,
    interval: str | None = None,
    fill_gaps: bool = False,
    start: TimeLike = None,
    end: TimeLike = None,
) -> CandleSet:
    """Load candles from Parquet or CSV, validate them, and keep those with start <= open time < end.

    Columns: open_time (UTC ms), open, high, low, close, volume; volume may be absent (mark-price candles)
    and is 0 then. Binance's own kline CSV of 12 columns is read with or without its header, in milliseconds
    or microseconds.

    Args:
        path: a `.parquet`, `.csv` or `.csv.gz` file.
        symbol: taken from the Parquet metadata or the file name when not given.
        interval: likewise; else the spacing of the rows tells, which must agree with it in any case.
        fill_gaps: put candles of the previous close and zero volume where candles are missing.
        start, end: see `parse_time_ms`.

    Raises:
        CandleError: the file cannot be read, or breaks a rule.
        ConfigError: an interval or a time cannot be read.
    """
    path = Path(path)
    table = read_table(path)
    named = _FILE_NAME.search(path.name)
    metadata = table.metadata
    stated_symbol = metadata.get("symbol")
    if symbol is not None and stated_symbol not in (None, symbol):
        raise CandleError(
            f"{path}: the file says that it holds {stated_symbol}, but {symbol} was asked for; "
            f"give symbol {stated_symbol}, or another file"
        )
    symbol = symbol or stated_symbol or (named["symbol"] if named else None)
    if symbol is None:
        raise CandleError(
            f"{path}: neither the file nor its name says the symbol; give it, as --symbol BTCUSDT "
            f"(symbol='BTCUSDT'), or name the file as BTCUSDT_1h{path.suffix}"
        )
    origin = "given"
    if interval is None:
        # A file name is what someone typed: where metadata are missing it is checked against the spacing.
        interval, origin = metadata.get("interval"), "stated in the file"
        if interval is None and named:
            interval, origin = named["interval"], "in the file's name"
    candles = _from_table(table, symbol, interval, origin, metadata.get("source", path.name), fill_gaps)
    synthetic = metadata.get("synthetic") == "true"
    candles = replace(
        candles,
        synthetic=synthetic,
        market=metadata.get("market", "spot" if "spot" in path.name.lower() else DEFAULT_MARKET),
        filled=candles.filled + _count(metadata.get("filled", "0")),
    )
    return candles if start is None and end is None else candles.slice(start, end)


def _count(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _from_table(
    table: Table, symbol: str, interval: str | None, origin: str, source: str, fill_gaps: bool
) -> CandleSet:
    table.require(("open_time", *PRICE_COLUMNS))
    label = table.label
    times = as_times_ms(table.columns["open_time"], "open_time", label)
    if len(times) == 0:
        raise CandleError(f"{label}: there are no rows; give at least one candle")
    columns = {name: as_floats(table.columns[name], name, label) for name in PRICE_COLUMNS}
    if "volume" in table.columns:
        columns["volume"] = as_floats(table.columns["volume"], "volume", label)
    else:
        columns["volume"] = np.zeros(len(times))
    check_order(times, label)
    if interval is None:
        interval_ms = infer_interval_ms(times, label)
    else:
        interval_ms = interval_to_ms(interval)
        label = f"{label} ({interval} {origin})"
    check_grid(times, interval_ms, label)
    check_values(times, columns, label)
    filled = 0
    if fill_gaps:
        times, columns, filled = fill_candle_gaps(times, columns, interval_ms)
    else:
        check_no_gap(times, interval_ms, label)
    return CandleSet(
        symbol=symbol,
        interval_ms=interval_ms,
        open_time_ms=times,
        open=columns["open"],
        high=columns["high"],
        low=columns["low"],
        close=columns["close"],
        volume=columns["volume"],
        source=source,
        filled=filled,
    )


def from_columns(
    columns: Mapping[str, npt.ArrayLike], *, symbol: str, interval: str | None = None, source: str = "arrays"
) -> CandleSet:
    """Candles from arrays by column name, as `CandleSet.from_frame` but without pandas."""
    table = Table({name: np.asarray(values) for name, values in columns.items()}, {}, f"{symbol} candles")
    return _from_table(table, symbol, interval, "given", source, False)
