"""Columns of numbers in Parquet and CSV files, and what makes such a file unreadable.

pyarrow reads them straight into NumPy arrays, without pandas, whose import would take half a second of a live
start.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from envs.errors import CandleError

BINANCE_KLINE_COLUMNS = (
    "open_time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "close_time",
    "quote_volume",
    "count",
    "taker_buy_volume",
    "taker_buy_quote_volume",
    "ignore",
)
"""Columns of a kline file of Binance's public archive, whose older files have no header."""


@dataclass(frozen=True)
class Table:
    """The columns of a file by name (each [T], of the file's own types) and its key-value metadata."""

    columns: Mapping[str, npt.NDArray[Any]]
    metadata: Mapping[str, str]
    label: str

    def require(self, names: Iterable[str]) -> None:
        """Raise a CandleError unless all of the columns are there."""
        for name in names:
            if name not in self.columns:
                raise CandleError(
                    f"{self.label}: column {name!r} is missing.{_near_column(name, self.columns)} "
                    f"Columns found: {', '.join(self.columns) or 'none'}"
                )


def _near_column(name: str, columns: Iterable[str]) -> str:
    by_lower_name = {column.strip().lower(): column for column in columns}
    near = difflib.get_close_matches(name, by_lower_name, n=1, cutoff=0.7)
    if near:
        return f" Rename {by_lower_name[near[0]]!r} to {name!r}."
    times = [by_lower_name[key] for key in ("timestamp", "date", "datetime", "time") if key in by_lower_name]
    if name.endswith("_time") and times:
        return f" Rename {times[0]!r} to {name!r} (UTC milliseconds)."
    return ""


def read_table(path: Path) -> Table:
    """Read a `.parquet` or `.csv` file (`.csv.gz` too).

    A CSV file without a header is taken for a Binance kline file when it has that file's 12 columns.

    Raises:
        CandleError: missing, unreadable, empty, or of another kind.
    """
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise CandleError(f"{path}: the file {kind}; give the path of a Parquet or CSV file")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if ".parquet" in suffixes[-1:]:
        return _read_parquet(path)
    if suffixes[-1:] == [".csv"] or suffixes[-2:] == [".csv", ".gz"]:
        return _read_csv(path)
    remedy = "unpack it first" if suffixes[-1:] == [".zip"] else "give a .parquet or .csv file"
    raise CandleError(f"{path}: files of type {path.suffix or '(none)'!r} cannot be read; {remedy}")


def _read_parquet(path: Path) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        # `parquet.read_table` would import pandas.
        with parquet.ParquetFile(path) as file:
            table = file.read(use_threads=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise CandleError(
            f"{path}: not a readable Parquet file ({_first_line(error)}); write or download it again"
        ) from error
    metadata = {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for key, value in (table.schema.metadata or {}).items()
        if key not in (b"ARROW:schema", b"pandas")
    }
    return Table(_to_numpy(table, path), metadata, path.name)


def _read_csv(path: Path) -> Table:
    import pyarrow
    from pyarrow import csv

    try:
        with pyarrow.input_stream(str(path)) as stream:
            head = stream.read(4096)
    except (pyarrow.ArrowException, OSError) as error:
        raise CandleError(f"{path}: cannot be read ({_first_line(error)})") from error
    first_line = head.decode("utf-8-sig", "replace").split("\n", 1)[0].strip()
    if not first_line:
        raise CandleError(f"{path}: the file is empty; write or download it again")
    cells = [cell.strip().strip('"') for cell in first_line.split(",")]
    names: tuple[str, ...] | None = None
    if _is_number(cells[0]):
        if len(cells) != len(BINANCE_KLINE_COLUMNS):
            raise CandleError(
                f"{path}: there is no header, and {len(cells)} columns instead of the "
                f"{len(BINANCE_KLINE_COLUMNS)} of a Binance kline file; add a header such as "
                f"open_time,open,high,low,close,volume"
            )
        names = BINANCE_KLINE_COLUMNS
    try:
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(column_names=names, use_threads=False),
        )
    except (pyarrow.ArrowException, OSError) as error:
        raise CandleError(f"{path}: not a readable CSV file ({_first_line(error)})") from error
    table = table.rename_columns([name.strip() for name in table.column_names])
    return Table(_to_numpy(table, path), {}, path.name)


def _to_numpy(table: Any, path: Path) -> dict[str, npt.NDArray[Any]]:
    if table.num_rows == 0:
        raise CandleError(f"{path}: the file has no rows; write or download it again")
    names = table.column_names
    for name in names:
        if names.count(name) > 1:
            raise CandleError(f"{path}: column {name!r} is there twice; remove one")
    return {name: _column_to_numpy(table.column(name).combine_chunks()) for name in names}


def _column_to_numpy(column: Any) -> npt.NDArray[Any]:
    import pyarrow

    kind = column.type
    if column.null_count == 0 and (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)):
        return np.from_dlpack(column)  # as `to_numpy`, which would import pandas
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]


def as_floats(values: npt.ArrayLike, name: str, label: str) -> npt.NDArray[np.float64]:
    """A column as float64 [T].

    Raises:
        CandleError: a value is not a number; names its row.
    """
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        pass
    for row, value in enumerate(np.asarray(values, dtype=object)):
        if value is not None and not _is_number(str(value)):
            raise CandleError(
                f"{label}: row {row}: {name} is {value!r}, which is not a number; correct or remove the row",
                row=row,
            )
    return np.array([np.nan if value is None else float(value) for value in np.asarray(values, dtype=object)])


def as_times_ms(values: npt.ArrayLike, name: str, label: str) -> npt.NDArray[np.int64]:
    """A column of UTC times as int64 milliseconds [T], from milliseconds, microseconds or datetimes.

    The exchange's newer archive files count in microseconds.

    Raises:
        CandleError: a time is missing, not a whole number, or in another unit.
    """
    array = np.asarray(values)
    if array.dtype.kind == "M":
        missing = np.isnat(array)
        if missing.any():
            row = int(np.argmax(missing))
            raise CandleError(f"{label}: row {row}: {name} is missing; correct or remove the row", row=row)
        return array.astype("datetime64[ms]").astype(np.int64)
    if array.dtype.kind not in "iu":
        floats = as_floats(array, name, label)
        broken = ~np.isfinite(floats) | (floats != np.floor(floats))
        if broken.any():
            row = int(np.argmax(broken))
            raise CandleError(
                f"{label}: row {row}: {name} is {floats[row]}, not a UTC time in milliseconds", row=row
            )
        array = floats
    times = array.astype(np.int64)
    largest = int(times.max(initial=0))
    if largest >= 100_000_000_000_000_000:
        raise CandleError(f"{label}: {name} seems to be in nanoseconds ({largest}); give UTC milliseconds")
    if largest >= 100_000_000_000_000:
        return times // 1000
    if 500_000_000 <= int(times.min(initial=largest)) <= largest < 5_000_000_000:
        raise CandleError(f"{label}: {name} seems to be in seconds ({largest}); give UTC milliseconds")
    return times


def write_parquet(path: Path, columns: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write columns and metadata as zstd Parquet; the file appears whole or not at all."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({name: np.ascontiguousarray(column) for name, column in columns.items()})
    table = table.replace_schema_metadata({key.encode(): value.encode() for key, value in metadata.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        parquet.write_table(table, temporary, compression="zstd")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
