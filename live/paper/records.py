"""Orders, trades, income and accounts as plain JSON values, and back. Decimals are texts, nothing is rounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from decimal import Decimal
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeVar, get_type_hints

from live.paper.account import Account
from live.paper.orders import AlgoOrder, Amendment, Income, MarginChange, Order, Trade
from live.paper.positions import Position

Json = dict[str, Any]
Record = TypeVar("Record", Order, AlgoOrder, Trade, Income, MarginChange, Amendment, Position)


def dump(record: Order | AlgoOrder | Trade | Income | MarginChange | Amendment | Position) -> Json:
    """A record's fields. The order inside a trade or conditional order becomes its id."""
    return {one.name: _plain(getattr(record, one.name)) for one in fields(record)}


def load(kind: type[Record], values: Json, order_by_id: Callable[[int], Order] | None = None) -> Record:
    """The record that `dump` wrote. `order_by_id` finds the orders that it names."""
    readers = _READERS[kind]
    made: dict[str, Any] = {}
    for name, value in values.items():
        if name == "order":
            assert order_by_id is not None
            made[name] = None if value is None else order_by_id(value)
        else:
            made[name] = None if value is None else readers[name](value)
    return kind(**made)


def dump_account(account: Account) -> Json:
    """An account without its orders, trades and income, and without its secret."""
    return {
        "wallet": str(account.wallet_usdt),
        "positions": [dump(position) for position in account.positions.values()],
        "leverage": account.leverage,
        "hedge": account.hedge_mode,
        "isolated": sorted(account.isolated_symbols),
        "fee_burn": account.fee_burn,
        "countdowns": account.countdowns,
        "margin_called": sorted(account.margin_called),
        "enlargements": account.enlargements,
        "update_ms": account.update_ms,
    }


def load_account(account: Account, values: Json) -> None:
    """Put what `dump_account` wrote into an account."""
    account.wallet_usdt = Decimal(values["wallet"])
    positions = [load(Position, row) for row in values["positions"]]
    account.positions = {(one.symbol, one.side): one for one in positions}
    account.leverage |= values["leverage"]
    account.hedge_mode = values["hedge"]
    account.isolated_symbols = set(values["isolated"])
    account.fee_burn = values["fee_burn"]
    account.countdowns = dict(values["countdowns"])
    account.margin_called = {(symbol, side) for symbol, side in values["margin_called"]}
    account.enlargements = values["enlargements"]
    account.update_ms = values["update_ms"]


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Order):
        return value.order_id
    if isinstance(value, list):
        return [dump(one) for one in value]
    return value


def _readers(kind: type[Any]) -> dict[str, Callable[[Any], Any]]:
    """How each field of a record is read, by its type."""

    def reader(hint: Any) -> Callable[[Any], Any]:
        if hint in (Decimal, Decimal | None):
            return Decimal
        if isinstance(hint, type) and issubclass(hint, Enum):
            return hint
        if hint == list[Amendment]:
            return lambda rows: [load(Amendment, row) for row in rows]
        return lambda value: value

    return {name: reader(hint) for name, hint in get_type_hints(kind).items()}


_READERS: Mapping[type[Any], Mapping[str, Callable[[Any], Any]]] = MappingProxyType(
    {kind: _readers(kind) for kind in (Order, AlgoOrder, Trade, Income, MarginChange, Amendment, Position)}
)
