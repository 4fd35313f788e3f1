"""What the tables share: metadata with constraint names, and columns that explain themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import BigInteger, Boolean, CheckConstraint, ForeignKey, Integer, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, MappedColumn, mapped_column

from live.store.types import ExactDecimal, JsonText

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

# An INTEGER key is what SQLite counts up; PostgreSQL's would end at two billion.
KEY = BigInteger().with_variant(Integer(), "sqlite")
# Ids sort byte by byte in both databases, whatever the server's locale.
ID = String(64).with_variant(String(64, collation="C"), "postgresql")


class Base(DeclarativeBase):
    """Base of all tables. The first paragraph of a table's docstring is its description in `docs/store.md`."""

    metadata = MetaData(naming_convention=NAMING)


def column(kind: Any, meaning: str, unit: str = "", **options: Any) -> MappedColumn[Any]:
    """A column with its meaning and unit, for the schema page."""
    return mapped_column(kind, info={"meaning": meaning, "unit": unit}, **options)


def key() -> MappedColumn[Any]:
    """A surrogate key."""
    return column(KEY, "Surrogate key.", primary_key=True, autoincrement=True)


def money(meaning: str, unit: str = "USDT", **options: Any) -> MappedColumn[Any]:
    """An exact decimal."""
    return column(ExactDecimal(), meaning, unit, **options)


def moment(meaning: str, **options: Any) -> MappedColumn[Any]:
    """A moment."""
    return column(BigInteger(), meaning, "UTC ms", **options)


def number(meaning: str, unit: str = "", **options: Any) -> MappedColumn[Any]:
    """A whole number."""
    return column(BigInteger(), meaning, unit, **options)


def text(meaning: str, length: int | None = 64, **options: Any) -> MappedColumn[Any]:
    """A text; without a length, of any."""
    return column(Text() if length is None else String(length), meaning, **options)


def identifier(meaning: str, **options: Any) -> MappedColumn[Any]:
    """An id that the exchange gave."""
    return column(ID, meaning, **options)


def flag(meaning: str, **options: Any) -> MappedColumn[Any]:
    """Yes or no."""
    return column(Boolean(), meaning, **options)


def reference(table: str, meaning: str, *, ondelete: str | None = None, **options: Any) -> MappedColumn[Any]:
    """The key of a row in another table."""
    info = {"meaning": f"{meaning} (`{table}.id`)", "unit": ""}
    return mapped_column(KEY, ForeignKey(f"{table}.id", ondelete=ondelete), info=info, **options)


def exchange_reference(**options: Any) -> MappedColumn[Any]:
    """The exchange account that a row belongs to."""
    return reference("exchanges", "Exchange account.", **options)


def contract() -> MappedColumn[Any]:
    """A contract."""
    return text("Contract, e.g. BTCUSDT.", 32)


def json_text(meaning: str, **options: Any) -> MappedColumn[Any]:
    """A JSON value."""
    return column(JsonText(), meaning, "JSON", **options)


def above_zero(name: str) -> CheckConstraint:
    """A decimal column is above zero. The cast makes the comparison one of numbers in SQLite too."""
    return CheckConstraint(f"CAST({name} AS DOUBLE PRECISION) > 0", name=f"{name}_above_zero")


def not_negative(name: str) -> CheckConstraint:
    """A decimal column is zero or above."""
    return CheckConstraint(f"CAST({name} AS DOUBLE PRECISION) >= 0", name=f"{name}_not_negative")


def one_of(name: str, values: Iterable[str]) -> CheckConstraint:
    """A text column holds one of these."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{name} IN ({listed})", name=f"{name}_known")
