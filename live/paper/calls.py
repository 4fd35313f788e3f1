"""One REST call as its handler sees it: typed parameters with Binance's errors, and the asking account."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from envs.account import Side
from live.paper.errors import refusal

if TYPE_CHECKING:
    from live.paper.account import Account
    from live.paper.exchange import PaperExchange

_NUMBER_PATTERN = "^([0-9]{1,20})(\\.[0-9]{1,20})?$"
_NUMBER = re.compile(_NUMBER_PATTERN)
_INTEGER = re.compile(r"[0-9]{1,18}")


class Security(Enum):
    """What a call must carry."""

    NONE = "none"
    KEY = "key"
    SIGNED = "signed"


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of a call, query and body together; the query wins."""

    values: Mapping[str, str]

    @classmethod
    def parse(cls, query: bytes, body: bytes) -> Params:
        """From the raw query string and the raw form body."""
        merged: dict[str, str] = {}
        for raw in (body, query):
            if raw:
                text = raw.decode("utf-8", "replace")
                merged.update(parse_qsl(text, keep_blank_values=True))
        return cls(merged)

    def text(self, name: str) -> str | None:
        """A parameter, None when it is missing or empty."""
        return self.values.get(name) or None

    def required(self, name: str) -> str:
        """A parameter that must be there: -1102."""
        value = self.text(name)
        if value is None:
            raise refusal(-1102, name)
        return value

    def integer(self, name: str) -> int | None:
        """A whole number: -1102 when it is none."""
        value = self.text(name)
        if value is None:
            return None
        if not _INTEGER.fullmatch(value):
            raise refusal(-1102, name)
        return int(value)

    def decimal(self, name: str) -> Decimal | None:
        """A plain decimal number: -1100 for signs, exponents and the like."""
        value = self.text(name)
        if value is None:
            return None
        if not _NUMBER.fullmatch(value):
            raise refusal(-1100, name, _NUMBER_PATTERN)
        return Decimal(value)

    def required_decimal(self, name: str) -> Decimal:
        """A plain decimal number that must be there."""
        value = self.decimal(name)
        if value is None:
            raise refusal(-1102, name)
        return value

    def boolean(self, name: str) -> bool:
        """ "true" or "false", False when missing: -1130 for anything else, as Python's "True"."""
        value = self.text(name)
        if value is None:
            return False
        if value not in ("true", "false"):
            raise refusal(-1130, name)
        return value == "true"

    def limit(self, default: int, maximum: int) -> int:
        """The `limit` parameter, from 1 to `maximum`: -1130."""
        value = self.integer("limit")
        if value is None:
            return default
        if not 1 <= value <= maximum:
            raise refusal(-1130, "limit")
        return value

    def side(self) -> Side:
        """BUY or SELL: -1117."""
        value = self.required("side")
        if value not in ("BUY", "SELL"):
            raise refusal(-1117)
        return Side(value)


@dataclass(slots=True)
class Call:
    """One call: the exchange, its parameters, and the account unless the path is public."""

    exchange: PaperExchange
    params: Params
    caller: Account | None

    @property
    def account(self) -> Account:
        """The asking account of a keyed or signed call."""
        if self.caller is None:
            raise refusal(-2014)
        return self.caller

    def symbol(self) -> str:
        """The `symbol` parameter, which must be traded here: -1102, -1121."""
        return self._known(self.params.required("symbol"))

    def symbols(self) -> list[str]:
        """The one symbol that was asked for, or all."""
        asked = self.params.text("symbol")
        return list(self.exchange.symbols) if asked is None else [self._known(asked)]

    def _known(self, symbol: str) -> str:
        if symbol not in self.exchange.engine.instruments:
            raise refusal(-1121)
        return symbol


Handler = Callable[[Call], Any]
Weight = int | Callable[[Params], int]


class Pool(Enum):
    """Which of an address's limits a route counts against."""

    WEIGHT = "weight"
    FUNDING = "funding"
    DATA = "data"


@dataclass(frozen=True, slots=True)
class Route:
    """One path and verb. `weight` counts against the address, `orders` (per 10 s) against the account."""

    method: str
    path: str
    handler: Handler
    security: Security
    weight: Weight = 1
    orders: int = 0
    pool: Pool = Pool.WEIGHT

    def weight_of(self, params: Params) -> int:
        """Request weight of a call with these parameters."""
        return self.weight if isinstance(self.weight, int) else self.weight(params)


def by_symbol(one: int, everything: int) -> Callable[[Params], int]:
    """A weight for one symbol, and another for all."""
    return lambda params: one if params.text("symbol") is not None else everything


def by_limit(default: int, *steps: tuple[int, int]) -> Callable[[Params], int]:
    """A weight by the `limit` parameter: that of the first (largest limit, weight) which covers it."""

    def weight(params: Params) -> int:
        text = params.text("limit") or ""
        asked = int(text) if _INTEGER.fullmatch(text) else default
        return next((weight for largest, weight in steps if asked <= largest), steps[-1][1])

    return weight
