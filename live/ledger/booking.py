"""Writing and reading what the exchange booked: checked, once each, in bulk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal, InvalidOperation
from itertools import chain
from typing import Any

from sqlalchemy import Connection, select, text, update

from envs.account import Fill, Side
from envs.errors import LedgerError
from live.exchange.client_ids import parse_client_order_id
from live.ledger.entries import Event, FillEvent, Income, IncomeEvent, IncomeKind, key_of
from live.store import models
from live.store.names import Names, insert_of
from live.store.types import decimal_text, stored_decimal

FillKey = tuple[str, str, str]

_COLUMNS = (
    "exchange_id", "symbol", "trade_id", "order_id", "client_order_id", "account_id", "side", "quantity", "price",
    "quote_quantity", "commission", "commission_asset", "realized_pnl", "maker", "time_ms",
)  # fmt: skip
_POSTGRESQL_TYPES = {
    "exchange_id": "bigint", "account_id": "bigint", "maker": "boolean", "time_ms": "bigint", "quantity": "numeric",
    "price": "numeric", "quote_quantity": "numeric", "commission": "numeric", "realized_pnl": "numeric",
}  # fmt: skip
_INSERT = f"INSERT INTO fills ({', '.join(_COLUMNS)})"
_CONFLICT = "ON CONFLICT (exchange_id, symbol, trade_id) DO NOTHING"
_INSERT_SQLITE = f"{_INSERT} VALUES ({', '.join('?' * len(_COLUMNS))}) {_CONFLICT}"
_ARRAYS = ", ".join(
    "%s::text[]::numeric[]" if kind == "numeric" else f"%s::{kind}[]"
    for kind in (_POSTGRESQL_TYPES.get(name, "text") for name in _COLUMNS)
)
_INSERT_POSTGRESQL = (
    f"{_INSERT} SELECT * FROM unnest({_ARRAYS}) {_CONFLICT} RETURNING exchange_id, symbol, trade_id"
)
_AT_ONCE = 10_000

_EVENTS = text(
    "SELECT time_ms, trade_id, account_id, side, quantity, price, commission, commission_asset, realized_pnl, "
    "client_order_id FROM fills WHERE exchange_id = :exchange_id AND symbol = :symbol AND time_ms > :after_ms "
    "ORDER BY time_ms, length(trade_id), trade_id"
)


def key_of_fill(fill: Fill) -> FillKey:
    """What a fill is unique by."""
    return fill.exchange, fill.symbol, fill.trade_id


def owner_of(fill: Fill) -> str | None:
    """The account that a fill belongs to, None for a foreign one."""
    if fill.agent:
        return fill.agent
    parsed = parse_client_order_id(fill.client_order_id)
    return parsed.agent if parsed else None


def check_fill(fill: Fill) -> None:
    """Raise a LedgerError for a fill that cannot be true."""
    money = (fill.quantity, fill.price, fill.commission, fill.realized_pnl)
    for value in money:
        if value.__class__ is not Decimal or not value.is_finite():
            name = ("quantity", "price", "commission", "realized_pnl")[
                [one is value for one in money].index(True)
            ]
            raise LedgerError(f"fill {key_of_fill(fill)}: {name} is {value!r}; it must be a finite Decimal")
    if fill.quantity <= 0 or fill.price <= 0:
        raise LedgerError(
            f"fill {key_of_fill(fill)}: quantity {fill.quantity} at price {fill.price}; both must be above 0"
        )
    if not isinstance(fill.time_ms, int) or fill.time_ms <= 0:
        raise LedgerError(f"fill {key_of_fill(fill)}: time is {fill.time_ms!r}; it must be UTC milliseconds")
    if not fill.exchange or not fill.trade_id or not fill.commission_asset:
        raise LedgerError(f"fill {key_of_fill(fill)}: exchange, trade id and commission asset must be given")


def same_fill(known: Fill, seen: Fill) -> Fill:
    """Two reports of one trade: the one that knows more of its owner.

    Raises:
        LedgerError: they are not about the same trade.
    """
    for name in ("side", "quantity", "price", "commission", "commission_asset", "realized_pnl", "time_ms"):
        if getattr(known, name) != getattr(seen, name):
            raise LedgerError(
                f"fill {key_of_fill(seen)} is known with {name} {getattr(known, name)}, and now comes with "
                f"{getattr(seen, name)}; compare with the exchange's trade list, and delete the database to rebuild it "
                "if the store is wrong"
            )
    if not seen.client_order_id and not seen.agent:
        return known
    if not known.client_order_id and not known.agent:
        return seen
    if known.client_order_id and seen.client_order_id and known.client_order_id != seen.client_order_id:
        raise LedgerError(
            f"fill {key_of_fill(seen)} is known under client order id {known.client_order_id!r}, and now comes under "
            f"{seen.client_order_id!r}; a trade belongs to one order"
        )
    return known


def event_of(fill: Fill, owner: str | None) -> FillEvent:
    """A fill as the fold needs it."""
    # copy_negate, because an operator would round to the precision of whoever calls.
    signed = fill.quantity if fill.side == "BUY" else fill.quantity.copy_negate()
    return FillEvent(
        fill.time_ms, fill.trade_id, owner, signed, fill.price, fill.commission, fill.commission_asset,
        fill.realized_pnl, fill.client_order_id,
    )  # fmt: skip


def insert_fills(connection: Connection, names: Names, fills: Sequence[Fill]) -> set[FillKey]:
    """Write fills that are not there yet, and tell which these are. No key may occur twice."""
    new: set[FillKey] = set()
    exchanges: dict[int, str] = {}
    for first in range(0, len(fills), _AT_ONCE):
        batch = fills[first : first + _AT_ONCE]
        rows = [_row(connection, names, fill) for fill in batch]
        exchanges.update((row[0], fill.exchange) for row, fill in zip(rows, batch, strict=True))
        if connection.dialect.name == "sqlite":
            # Ids only ever grow, and nobody else writes now: what is new is what lies behind the last one.
            last_id = connection.execute(text("SELECT coalesce(max(id), 0) FROM fills")).scalar_one()
            done = connection.exec_driver_sql(_INSERT_SQLITE, rows)
            if done.rowcount == len(rows):
                new.update(key_of_fill(fill) for fill in batch)
                continue
            found = connection.execute(
                text("SELECT exchange_id, symbol, trade_id FROM fills WHERE id > :last"), {"last": last_id}
            )
        else:
            found = connection.exec_driver_sql(
                _INSERT_POSTGRESQL, tuple(list(one) for one in zip(*rows, strict=True))
            )
        new.update((exchanges[key], symbol, trade_id) for key, symbol, trade_id in found)
    return new


def _row(connection: Connection, names: Names, fill: Fill) -> tuple[Any, ...]:
    owner = owner_of(fill)
    return (
        names.exchange(connection, fill.exchange),
        fill.symbol,
        fill.trade_id,
        fill.order_id,
        fill.client_order_id,
        None if owner is None else names.account(connection, fill.exchange, owner),
        str(fill.side),
        decimal_text(fill.quantity),
        decimal_text(fill.price),
        decimal_text(fill.quote_quantity),
        decimal_text(fill.commission),
        fill.commission_asset,
        decimal_text(fill.realized_pnl),
        fill.maker,
        fill.time_ms,
    )


def known_fills(connection: Connection, names: Names, keys: Iterable[FillKey]) -> Iterator[Fill]:
    """The stored fills of these keys."""
    by_book: dict[tuple[str, str], list[str]] = {}
    for exchange, symbol, trade_id in keys:
        by_book.setdefault((exchange, symbol), []).append(trade_id)
    for (exchange, symbol), ids in by_book.items():
        where = (
            models.Fill.exchange_id == names.exchange(connection, exchange),
            models.Fill.symbol == symbol,
        )
        for first in range(0, len(ids), 500):
            chunk = ids[first : first + 500]
            yield from read_fills(
                connection, names, select(models.Fill).where(*where, models.Fill.trade_id.in_(chunk))
            )


def read_fills(connection: Connection, names: Names, statement: Any) -> Iterator[Fill]:
    """Fills of a SELECT over `models.Fill`."""
    for row in connection.execute(statement):
        exchange = names.exchange_name(connection, row.exchange_id)
        agent = "" if row.account_id is None else names.name(connection, row.account_id)[1]
        owner = parse_client_order_id(row.client_order_id)
        yield Fill(
            symbol=row.symbol,
            trade_id=row.trade_id,
            order_id=row.order_id,
            client_order_id=row.client_order_id,
            side=Side(row.side),
            quantity=row.quantity,
            price=row.price,
            commission=row.commission,
            realized_pnl=row.realized_pnl,
            time_ms=row.time_ms,
            commission_asset=row.commission_asset,
            maker=row.maker,
            liquidation=row.client_order_id.startswith("autoclose-"),
            agent=agent,
            exchange=exchange,
            **({"leg": owner.leg} if owner else {}),
        )


def update_owner(connection: Connection, names: Names, fill: Fill) -> None:
    """A fill whose order was unknown is recognised: the one change that a fill may see."""
    owner = owner_of(fill)
    connection.execute(
        update(models.Fill)
        .where(
            models.Fill.exchange_id == names.exchange(connection, fill.exchange),
            models.Fill.symbol == fill.symbol,
            models.Fill.trade_id == fill.trade_id,
        )
        .values(
            client_order_id=fill.client_order_id,
            account_id=None if owner is None else names.account(connection, fill.exchange, owner),
        )
    )


def check_income(income: Income) -> None:
    """Raise a LedgerError for income that cannot be true."""
    for name, value in (
        ("amount", income.amount_usdt),
        ("rate", income.rate),
        ("mark price", income.mark_price),
    ):
        if value is None and name != "amount":
            continue
        if not isinstance(value, Decimal) or not value.is_finite():
            raise LedgerError(f"income {income}: {name} is {value!r}; it must be a finite Decimal")
    if income.time_ms <= 0 or not income.exchange:
        raise LedgerError(f"income {income}: exchange and time must be given")


def insert_income(connection: Connection, names: Names, income: Iterable[Income]) -> list[Income]:
    """Write income that is not there yet, and tell which this is.

    Raises:
        LedgerError: an entry is known with another amount.
    """
    table = models.Funding
    insert = insert_of(connection.dialect.name)
    new = []
    for one in income:
        key = {
            "exchange_id": names.exchange(connection, one.exchange),
            "kind": str(one.kind),
            "symbol": one.symbol,
            "time_ms": one.time_ms,
            "transaction_id": one.transaction_id,
        }
        statement = (
            insert(table)
            .values(**key, amount_usdt=one.amount_usdt, rate=one.rate, mark_price=one.mark_price)
            .on_conflict_do_nothing()
            .returning(table.id)
        )
        if connection.execute(statement).first() is not None:
            new.append(one)
            continue
        known = connection.execute(select(table.amount_usdt).filter_by(**key)).scalar_one()
        if known != one.amount_usdt:
            raise LedgerError(
                f"income {one} is known with the amount {known}; compare with the exchange's list"
            )
    return new


def read_events(
    connection: Connection, names: Names, exchange: str, symbol: str, *, after_ms: int = 0
) -> Iterator[Event]:
    """The entries of a book after a millisecond, in the order of the fold.

    Raises:
        LedgerError, StoreError: a row cannot be understood.
    """
    where = {
        "exchange_id": names.exchange(connection, exchange),
        "symbol": symbol,
        "after_ms": after_ms,
    }
    income = sorted(_income_events(connection, where), key=key_of)
    waiting = 0
    owners: dict[int | None, str | None] = {None: None}
    is_text = connection.dialect.name == "sqlite"
    result = connection.execute(_EVENTS, where, execution_options={"yield_per": _AT_ONCE})
    fills = chain.from_iterable(result.partitions())
    for (
        time_ms,
        trade_id,
        account_id,
        side,
        quantity,
        price,
        commission,
        asset,
        realized_pnl,
        client_id,
    ) in fills:
        while waiting < len(income) and income[waiting].time_ms <= time_ms:
            yield income[waiting]
            waiting += 1
        if account_id not in owners:
            owners[account_id] = names.name(connection, account_id)[1]
        if is_text:
            try:
                quantity, price, commission = Decimal(quantity), Decimal(price), Decimal(commission)
                realized_pnl = Decimal(realized_pnl)
            except (InvalidOperation, TypeError):
                for cell in (quantity, price, commission, realized_pnl):
                    if not isinstance(cell, Decimal):
                        stored_decimal(cell)
                raise
        if side == "SELL":
            quantity = -quantity
        elif side != "BUY":
            raise LedgerError(
                f"fill {(exchange, symbol, trade_id)} has side {side!r}; the database is damaged"
            )
        yield FillEvent(
            time_ms, trade_id, owners[account_id], quantity, price, commission, asset, realized_pnl, client_id
        )
    yield from income[waiting:]


def _income_events(connection: Connection, where: dict[str, Any]) -> Iterator[IncomeEvent]:
    table = models.Funding
    statement = select(
        table.time_ms, table.transaction_id, table.kind, table.amount_usdt, table.rate, table.mark_price
    ).where(
        table.exchange_id == where["exchange_id"],
        table.symbol == where["symbol"],
        table.time_ms > where["after_ms"],
    )
    for time_ms, transaction_id, kind, amount, rate, mark_price in connection.execute(statement):
        yield IncomeEvent(time_ms, transaction_id, IncomeKind(kind), amount, rate, mark_price)
