"""Tables as files for pandas: Parquet or CSV, names beside keys, each file there in full or not at all."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Boolean, Connection, Integer, Table, func, select

from envs.errors import ConfigError, StoreError
from live.folders import make_folder
from live.store import schema
from live.store.base import KEY
from live.store.database import Store
from live.store.types import JsonText, decimal_text

FORMATS = ("parquet", "csv")
_AT_ONCE = 20_000


def export(
    store: Store,
    folder: Path,
    *,
    file_format: str = "parquet",
    tables: Sequence[str] = (),
    progress: Callable[[str, int, int], None] = lambda _name, _done, _all: None,
) -> list[Path]:
    """Write a file per table into a folder; existing ones are replaced.

    Decimals become texts, exactly (`df.astype(float)` where exactness does not matter); rows with an `exchange_id` or
    an `account_id` get the names in columns `exchange` and `agent`.

    Args:
        store: an open database.
        folder: made when it is missing.
        file_format: `parquet` or `csv`.
        tables: which; none for all.
        progress: called with table, rows written, rows in all.

    Raises:
        ConfigError: an unknown format or table, or a folder that cannot be made.
        StoreError: a file cannot be written.
    """
    if file_format not in FORMATS:
        raise ConfigError(f"format {file_format!r} is not known; give {' or '.join(FORMATS)}")
    unknown = sorted(set(tables) - set(schema.TABLES))
    if unknown:
        raise ConfigError(
            f"table {unknown[0]!r} does not exist; there are {', '.join(sorted(schema.TABLES))}"
        )
    make_folder(folder, remedy="give another folder")
    chosen = [table for table in schema.METADATA.sorted_tables if not tables or table.name in tables]
    written = []
    with store.read() as connection:
        names = _Names(connection)
        for table in chosen:
            path = folder / f"{table.name}.{file_format}"
            temporary = path.with_name(path.name + ".tmp")
            rows = connection.execute(select(func.count()).select_from(table)).scalar_one()
            try:
                batches = _batches(connection, table, names, partial(_report, progress, table.name, rows))
                (_write_parquet if file_format == "parquet" else _write_csv)(temporary, table, batches)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                temporary.replace(path)
            except OSError as error:
                raise StoreError(f"cannot write {path}: {error.strerror}; give another folder") from error
            finally:
                temporary.unlink(missing_ok=True)
            written.append(path)
    return written


def _report(progress: Callable[[str, int, int], None], name: str, rows: int, done: int) -> None:
    progress(name, done, rows)


class _Names:
    def __init__(self, connection: Connection) -> None:
        tables = schema.METADATA.tables
        exchanges, accounts = tables["exchanges"], tables["accounts"]
        self.exchange = {row.id: row.name for row in connection.execute(select(exchanges))}
        self.agent = {row.id: row.name for row in connection.execute(select(accounts))}


def _columns(table: Table) -> list[str]:
    own = [column.name for column in table.columns]
    added = [name for key, name in (("exchange_id", "exchange"), ("account_id", "agent")) if key in own]
    return [*own, *added]


def _batches(
    connection: Connection, table: Table, names: _Names, progress: Callable[[int], None]
) -> Iterator[list[list[Any]]]:
    own = [column.name for column in table.columns]
    statement = select(table).order_by(*table.primary_key.columns)
    done = 0
    result = connection.execute(statement, execution_options={"yield_per": _AT_ONCE})
    json_at = [index for index, column in enumerate(table.columns) if isinstance(column.type, JsonText)]
    for partition in result.partitions():
        batch = []
        for row in partition:
            cells = [decimal_text(cell) if isinstance(cell, Decimal) else cell for cell in row]
            for index in json_at:
                cells[index] = JsonText().process_bind_param(cells[index], connection.dialect)
            if "exchange_id" in own:
                cells.append(names.exchange.get(row[own.index("exchange_id")]))
            if "account_id" in own:
                cells.append(names.agent.get(row[own.index("account_id")]))
            batch.append(cells)
        done += len(batch)
        progress(done)
        yield batch


def _write_csv(path: Path, table: Table, batches: Iterator[list[list[Any]]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_columns(table))
        for batch in batches:
            writer.writerows(batch)


def _write_parquet(path: Path, table: Table, batches: Iterator[list[list[Any]]]) -> None:
    import pyarrow
    from pyarrow import parquet

    kinds = []
    for name in _columns(table):
        kind: Any = table.columns[name].type if name in table.columns else None
        if isinstance(kind, Boolean):
            kinds.append((name, pyarrow.bool_()))
        elif isinstance(kind, BigInteger | Integer) or kind is KEY:
            kinds.append((name, pyarrow.int64()))
        else:
            kinds.append((name, pyarrow.string()))
    layout = pyarrow.schema(kinds)
    with parquet.ParquetWriter(path, layout, compression="zstd") as writer:
        for batch in batches:
            columns = list(zip(*batch, strict=True)) if batch else [()] * len(kinds)
            arrays = [
                pyarrow.array(list(cells), kind) for cells, (_, kind) in zip(columns, kinds, strict=True)
            ]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=layout))
