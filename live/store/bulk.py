"""Many rows at once, by the fastest way that each driver has: a fill costs tens of microseconds, not a statement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Boolean, Connection, CursorResult, Integer
from sqlalchemy.types import TypeEngine

from envs.errors import StoreError
from live.store.base import Base
from live.store.types import ExactDecimal, JsonText, decimal_text, json_text

# PostgreSQL gets a column as one text, cut up by the server; no id or number holds such characters.
_CELL_END = "\x1f"
_NULL = "\x1e"


class BulkInsert:
    """An INSERT of any number of rows, given as mappings by column name.

    Args:
        table: its columns but for a surrogate key are all written.
        conflict: what SQL says after the values, e.g. `ON CONFLICT (a, b) DO NOTHING`.
        returning: what SQL says after that; only PostgreSQL returns rows of many.
    """

    def __init__(self, table: type[Base], conflict: str = "", *, returning: str = "") -> None:
        columns = [one for one in table.__table__.columns if not (one.name == "id" and one.primary_key)]
        self.names = [one.name for one in columns]
        self._table = table.__tablename__
        self._converters = [_converter(one.type, nullable=bool(one.nullable)) for one in columns]
        into = f"INSERT INTO {self._table} ({', '.join(self.names)})"
        self._sqlite = f"{into} VALUES ({', '.join('?' * len(columns))}) {conflict}"
        arrays = ", ".join(
            f"(string_to_array(%s, '{_CELL_END}', '{_NULL}'))[1:%s]::{_postgresql_type(one.type)}[]"
            for one in columns
        )
        self._postgresql = f"{into} SELECT * FROM unnest({arrays}) {conflict} {returning}"

    def write(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows, with values as the models have them."""
        if rows:
            pairs = list(zip(self.names, self._converters, strict=True))
            self.write_cells(
                connection,
                [tuple(row[name] if to is None else to(row[name]) for name, to in pairs) for row in rows],
            )

    def write_cells(self, connection: Connection, cells: Sequence[tuple[Any, ...]]) -> CursorResult[Any]:
        """Write one or more rows whose values are in the columns' order, with decimals and JSON as texts."""
        if connection.dialect.name == "sqlite":
            return connection.exec_driver_sql(self._sqlite, list(cells))
        parameters: list[Any] = []
        for name, column in zip(self.names, zip(*cells, strict=True), strict=True):
            text = _CELL_END.join([_NULL if one is None else str(one) for one in column]) + _CELL_END
            if text.count(_CELL_END) != len(cells) or text.count(_NULL) != column.count(None):
                raise StoreError(f"a value of {self._table}.{name} holds a control character, which none may")
            parameters += (text, len(cells))
        return connection.exec_driver_sql(self._postgresql, tuple(parameters))


def _postgresql_type(kind: TypeEngine[Any]) -> str:
    """What the server makes of the texts; one that is too long for its column is then still refused."""
    if isinstance(kind, ExactDecimal):
        return "numeric"
    if isinstance(kind, Boolean):
        return "boolean"
    return "bigint" if isinstance(kind, (BigInteger, Integer)) else "text"


def _converter(kind: TypeEngine[Any], *, nullable: bool) -> Callable[[Any], str | None] | None:
    """From a value to a cell; None where they are the same."""
    to: Callable[[Any], str]
    if isinstance(kind, ExactDecimal):
        to = decimal_text
    elif isinstance(kind, JsonText):
        to = json_text
    else:
        return None
    return (lambda value: None if value is None else to(value)) if nullable else to
