"""Column types: decimals that stay exact in a database that has none, and JSON text."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any

from sqlalchemy import Dialect, Numeric, Text
from sqlalchemy.types import TypeDecorator, TypeEngine

from envs.errors import StoreError


def decimal_text(value: Decimal) -> str:
    """The canonical form of a finite decimal: no exponent, no trailing zeros, no negative zero.

    Raises:
        StoreError: not a Decimal (a float has lost digits already), or not finite.
    """
    if not isinstance(value, Decimal):
        raise StoreError(
            f"{value!r} is a {type(value).__name__}; the store takes Decimal for money and quantities"
        )
    if not value.is_finite():
        raise StoreError(f"{value} cannot be stored; money and quantities are finite")
    if not value:
        return "0"
    text = str(value)  # in most cases canonical already, and faster than format
    if text[-1] != "0" and "E" not in text:
        return text
    if "E" in text:
        text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


class ExactDecimal(TypeDecorator[Decimal]):
    """A Decimal that comes back as it went in, whatever its size.

    PostgreSQL keeps it as NUMERIC without precision. SQLite, which would make a binary float of a number, keeps it as
    canonical text (`decimal_text`): equal numbers are equal texts, but neither `<` nor `SUM` mean anything there.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """NUMERIC, or TEXT where that is not exact."""
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else Numeric())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        """To the database."""
        if value is None:
            return None
        text = decimal_text(value)
        return text if dialect.name == "sqlite" else Decimal(text)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """From the database."""
        if value is None or isinstance(value, Decimal):
            return value
        return stored_decimal(value)


def stored_decimal(value: object) -> Decimal:
    """The Decimal that a stored text stands for.

    Raises:
        StoreError: the cell holds something else; somebody wrote it with another program.
    """
    if isinstance(value, str):
        try:
            number = Decimal(value)
        except InvalidOperation:
            pass
        else:
            if number.is_finite():
                return number
    raise StoreError(
        f"the store holds {value!r} where a decimal number belongs; restore the database from a copy, or delete it and "
        "let the next start rebuild it from the exchange"
    )


class JsonText(TypeDecorator[Any]):
    """A JSON value as text with sorted keys, in both databases; Decimals in it become strings."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """To the database."""
        return None if value is None else json_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """From the database."""
        return None if value is None else json.loads(value)


def json_text(value: Any) -> str:
    """A JSON value as it is stored."""
    return json.dumps(value, sort_keys=True, default=_json_value)


def _json_value(value: object) -> str:
    if isinstance(value, Decimal):
        return decimal_text(value)
    raise StoreError(f"{value!r} ({type(value).__name__}) cannot be stored as JSON")
