"""Series of market data over the exchange port into Parquet files, resumable: candles, mark candles, funding rates.

Rows are kept in a partial folder as they come; the finished file appears whole and is named after its first and last
day.
"""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from envs.candles import CandleSet, from_columns
from envs.errors import CandleError, ConfigError
from envs.funding import FundingSeries
from envs.table_files import write_parquet
from envs.time_grid import DAY_MS, format_time, grid_offset_ms, interval_to_ms, parse_time_ms
from live.exchange.base import Candle, Exchange
from live.settings import Venue

Columns = dict[str, npt.NDArray[Any]]
Report = Callable[[int, int], None]
"""(done until ms, rows so far)"""

PARTIAL_FOLDER = ".download"
_CHUNK_CANDLES = 5_000
_FUNDING_WINDOW_MS = 300 * DAY_MS
_FUNDING_JITTER_MS = 60_000
_CLOCKS_DIFFER_MS = 60_000
_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Request:
    """What to download: candles of `symbol` with start_ms <= open time < end_ms. Both are on the interval's grid."""

    symbol: str
    interval: str
    start_ms: int
    end_ms: int
    venue: Venue

    @classmethod
    def parse(cls, symbol: str, interval: str, start: str, end: str, where: Venue) -> Request:
        """From what a user typed.

        Raises:
            ConfigError: an interval or time cannot be read, or the span is empty or lies in the future.
        """
        interval_ms = interval_to_ms(interval)
        offset_ms = grid_offset_ms(interval_ms)
        start_ms, end_ms = parse_time_ms(start), parse_time_ms(end)
        if start_ms is None or end_ms is None:
            raise ConfigError("give a start and an end, as 2023-01-01")
        start_ms, end_ms = (
            -((offset_ms - at) // interval_ms) * interval_ms + offset_ms for at in (start_ms, end_ms)
        )
        if start_ms >= end_ms:
            raise ConfigError(f"start {start} is not before end {end}; the end is excluded")
        if start_ms >= time.time() * 1000:
            raise ConfigError(f"start {start} lies in the future; give a time in the past")
        return cls(symbol, interval, start_ms, end_ms, where)

    @property
    def interval_ms(self) -> int:
        """Length of a candle in ms."""
        return interval_to_ms(self.interval)

    def is_over(self, now_ms: int) -> bool:
        """Whether the whole span is in the past at an exchange's time, so that a finished file never grows."""
        return self.end_ms + _CLOCKS_DIFFER_MS <= now_ms

    def metadata(self, label: str, *, complete: bool) -> dict[str, str]:
        """Metadata of a file of this request, in the form of the other data files."""
        simulated = self.venue.market_data == "simulated"
        return {
            "symbol": self.symbol,
            "market": "synthetic" if simulated else "USD-M perp",
            "interval": label,
            "source": f"{self.venue.name} ({self.venue.rest_url})",
            "synthetic": str(simulated).lower(),
            "requested": f"{self.start_ms}-{self.end_ms}",
            "complete": str(complete).lower(),
        }


class Series(ABC):
    """One of the three series of a request: how it is fetched, checked and named."""

    title: str
    file_label: str  # as in the file name
    interval_label: str  # as in the metadata
    time_column: str

    def __init__(self, request: Request) -> None:
        self.request = request

    @abstractmethod
    async def fetch(self, exchange: Exchange, next_ms: int) -> tuple[Columns, int | None]:
        """The next rows from a time on, and where to go on; None when there is nothing more."""

    @abstractmethod
    def check(self, columns: Columns) -> str:
        """Raise a CandleError when the rows break a rule; return a note for the user, or an empty string."""


class CandleSeries(Series):
    """Candles of the last price."""

    title = "candles"
    time_column = "open_time"

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.file_label = self.interval_label = request.interval

    async def fetch(self, exchange: Exchange, next_ms: int) -> tuple[Columns, int | None]:
        """The next 5000 candles."""
        request = self.request
        rows = await self.read(exchange)(
            request.symbol,
            request.interval_ms,
            limit=_CHUNK_CANDLES,
            start_ms=next_ms,
            end_ms=request.end_ms - 1,
        )
        more = len(rows) == _CHUNK_CANDLES
        return self.columns(rows), rows[-1].open_time_ms + request.interval_ms if more else None

    def read(self, exchange: Exchange) -> Callable[..., Awaitable[list[Candle]]]:
        """The port's method."""
        return exchange.candles

    def columns(self, rows: list[Candle]) -> Columns:
        """Rows as columns of the file."""
        columns: Columns = {"open_time": np.array([row.open_time_ms for row in rows], np.int64)}
        for name in ("open", "high", "low", "close", "volume"):
            columns[name] = np.array([getattr(row, name) for row in rows], np.float64)
        return columns

    def check(self, columns: Columns) -> str:
        """Every rule of `CandleSet`; missing candles are the exchange's own and only noted."""
        times = columns["open_time"]
        missing = int((times[-1] - times[0]) // self.request.interval_ms + 1 - len(times))
        if missing == 0:
            from_columns(columns, symbol=self.request.symbol, interval=self.request.interval)
            return ""
        import pandas as pd

        CandleSet.from_frame(
            pd.DataFrame(columns), symbol=self.request.symbol, interval=self.request.interval, fill_gaps=True
        )
        row = int(np.argmax(np.diff(times) > self.request.interval_ms))
        return (
            f"the exchange itself lacks {missing} {self.title}, the first after {format_time(times[row])}; "
            f"load the file with fill_gaps"
        )


class MarkSeries(CandleSeries):
    """Candles of the mark price; they have no volume."""

    title = "mark candles"

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.file_label = f"{request.interval}_mark"

    def read(self, exchange: Exchange) -> Callable[..., Awaitable[list[Candle]]]:
        """The port's method."""
        return exchange.mark_candles

    def columns(self, rows: list[Candle]) -> Columns:
        """Rows as columns of the file."""
        columns = super().columns(rows)
        del columns["volume"]
        return columns


class FundingRates(Series):
    """Settled funding rates."""

    title = "funding rates"
    file_label = interval_label = "funding"
    time_column = "funding_time"

    async def fetch(self, exchange: Exchange, next_ms: int) -> tuple[Columns, int | None]:
        """The rates of the next 300 days."""
        last_ms = min(self.request.end_ms, next_ms + _FUNDING_WINDOW_MS) - 1
        rates = await exchange.funding_rates(self.request.symbol, next_ms, last_ms)
        columns: Columns = {
            "funding_time": np.array([_settlement_ms(rate.time_ms) for rate in rates], np.int64),
            "funding_rate": np.array([rate.rate for rate in rates], np.float64),
        }
        return columns, last_ms + 1 if last_ms + 1 < self.request.end_ms else None

    def check(self, columns: Columns) -> str:
        """Every rule of `FundingSeries`."""
        FundingSeries(self.request.symbol, columns["funding_time"], columns["funding_rate"], "download")
        return ""


def _settlement_ms(time_ms: int) -> int:
    hour_ms = (time_ms + _HOUR_MS // 2) // _HOUR_MS * _HOUR_MS
    return hour_ms if abs(time_ms - hour_ms) < _FUNDING_JITTER_MS else time_ms


class Partial:
    """Rows fetched so far, in one folder: a file per chunk, named `{from}-{next}.parquet` in ms (`end` when done).

    Each file appears whole or not at all, so whatever is there is good.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def chunks(self) -> list[tuple[int, int | None, Path]]:
        """(from ms, next ms or None at the end, path), in order, as far as they join."""
        found = []
        for path in self.folder.glob("*.parquet"):
            first, _, following = path.stem.partition("-")
            if first.isdigit() and (following == "end" or following.isdigit()):
                found.append((int(first), None if following == "end" else int(following), path))
        joined: list[tuple[int, int | None, Path]] = []
        for first_ms, next_ms, path in sorted(found, key=lambda one: one[0]):
            if not joined or joined[-1][1] == first_ms:
                joined.append((first_ms, next_ms, path))
        return joined

    def add(self, from_ms: int, next_ms: int | None, columns: Columns) -> None:
        """Keep a chunk."""
        name = f"{from_ms}-{'end' if next_ms is None else next_ms}.parquet"
        write_parquet(self.folder / name, columns, {})

    def read(self, time_column: str) -> Columns:
        """All rows, by increasing time."""
        parts = [_read_columns(path) for _, _, path in self.chunks()]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        times = columns[time_column]
        keep = np.concatenate((np.ones(min(1, len(times)), bool), np.diff(times) > 0))
        return {name: values[keep] for name, values in columns.items()}

    def drop_end(self) -> None:
        """Forget the last chunk where the span may have gone on since."""
        for path in self.folder.glob("*-end.parquet"):
            path.unlink()

    def remove(self) -> None:
        """Drop the folder, and the one around it when that was the last."""
        shutil.rmtree(self.folder)
        if not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()


async def download_series(
    exchange: Exchange, series: Series, out: Path, report: Report
) -> tuple[Path | None, str]:
    """Fetch one series into a file in `out`, going on where an earlier download stopped.

    Returns:
        the file, or None when the exchange has no rows; and a note for the user, or an empty string.

    Raises:
        CandleError: the rows break a rule; they stay in the partial folder.
    """
    request = series.request
    complete = request.is_over(exchange.now_ms())
    metadata = request.metadata(series.interval_label, complete=complete)
    there = _finished_file(series, out, metadata) if complete else None
    if there is not None:
        return there, "there already"
    name = f"{request.symbol}_{series.file_label}_{request.start_ms}_{request.end_ms}_{request.venue.name}"
    partial = Partial(out / PARTIAL_FOLDER / name)
    if not complete:
        partial.drop_end()
    chunks = partial.chunks()
    rows = sum(_row_count(path) for _, _, path in chunks)
    next_ms = chunks[-1][1] if chunks else request.start_ms
    while next_ms is not None:
        report(next_ms, rows)
        columns, following_ms = await series.fetch(exchange, next_ms)
        partial.add(next_ms, following_ms, columns)
        rows += len(columns[series.time_column])
        next_ms = following_ms
    report(request.end_ms, rows)
    if rows == 0:
        partial.remove()
        return None, "the exchange has none in this span"
    columns = partial.read(series.time_column)
    try:
        note = series.check(columns)
    except CandleError as error:
        raise CandleError(f"{error}. Delete {partial.folder} to fetch them again", row=error.row) from error
    first_day, last_day = (format_time(int(columns[series.time_column][at]))[:10] for at in (0, -1))
    path = out / f"binance_um_{request.symbol}_{series.file_label}_{first_day}_{last_day}.parquet"
    write_parquet(path, columns, metadata)
    partial.remove()
    return path, note


def _finished_file(series: Series, out: Path, wanted: Mapping[str, str]) -> Path | None:
    """The complete file that an earlier download of the same request made."""
    for path in sorted(out.glob(f"binance_um_{series.request.symbol}_{series.file_label}_20*.parquet")):
        found = _read_metadata(path)
        if all(found.get(name) == value for name, value in wanted.items()):
            return path
    return None


def _read_columns(path: Path) -> Columns:
    from pyarrow import parquet

    table = parquet.read_table(path, use_threads=False)
    return {name: table.column(name).to_numpy() for name in table.column_names}


def _row_count(path: Path) -> int:
    from pyarrow import parquet

    return int(parquet.read_metadata(path).num_rows)


def _read_metadata(path: Path) -> dict[str, str]:
    import pyarrow
    from pyarrow import parquet

    try:
        metadata: dict[bytes, bytes] = parquet.read_schema(path).metadata or {}
    except (pyarrow.ArrowException, OSError):
        # Not one of ours, or broken: the download does not depend on it.
        return {}
    return {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in metadata.items()
    }
