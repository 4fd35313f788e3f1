"""Writing and reading what the exchange booked: checked, once each, in bulk."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, select, text, update

from envs.account import Fill, Side
from envs.errors import LedgerError
from live.exchange.client_ids import parse_client_order_id
from live.ledger.arithmetic import ZERO
from live.ledger.entries import Event, FillEvent, Income, IncomeEvent, IncomeKind, key_of
from live.store import models
from live.store.bulk import BulkInsert
from live.store.names import Names, insert_of
from live.store.types import decimal_text, stored_decimal

FillKey = tuple[str, str, str]

_FILLS = BulkInsert(
    models.Fill,
    "ON CONFLICT (exchange_id, symbol, trade_id) DO NOTHING",
    returning="RETURNING exchange_id, symbol, trade_id",
)
_AT_ONCE = 10_000
_TIME_OF = attrgetter("time_ms")

_EVENTS = (
    "SELECT time_ms, trade_id, account_id, side, quantity, price, commission, commission_asset, realized_pnl, "
    "client_order_id FROM fills WHERE exchange_id = {0} AND symbol = {0} AND time_ms > {0} "
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


def insert_fills(
    connection: Connection, names: Names, fills: Mapping[FillKey, Fill], owners: Mapping[FillKey, str | None]
) -> set[FillKey]:
    """Write fills that are not there yet, and tell which these are."""
    new: set[FillKey] = set()
    exchanges: dict[int, str] = {}
    keys = list(fills)
    for first in range(0, len(keys), _AT_ONCE):
        batch = keys[first : first + _AT_ONCE]
        rows = []
        for key in batch:
            owner = owners[key]
            exchange_id = names.exchange(connection, key[0])
            account_id = None if owner is None else names.account(connection, key[0], owner)
            exchanges[exchange_id] = key[0]
            rows.append(_cells(fills[key], exchange_id, account_id))
        if connection.dialect.name == "sqlite":
            # Ids only ever grow, and nobody else writes now: what is new is what lies behind the last one.
            last_id = connection.execute(text("SELECT coalesce(max(id), 0) FROM fills")).scalar_one()
            if _FILLS.write_cells(connection, rows).rowcount == len(rows):
                new.update(batch)
                continue
            found = connection.execute(
                text("SELECT exchange_id, symbol, trade_id FROM fills WHERE id > :last"), {"last": last_id}
            )
        else:
            found = _FILLS.write_cells(connection, rows)
        new.update((exchanges[one], symbol, trade_id) for one, symbol, trade_id in found)
    return new


def _cells(fill: Fill, exchange_id: int, account_id: int | None) -> tuple[Any, ...]:
    """A row, in the order of the table's columns."""
    return (
        exchange_id,
        fill.symbol,
        fill.trade_id,
        fill.order_id,
        fill.client_order_id,
        account_id,
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
    read = 0
    for fills in _fill_events(connection, names, where):
        due = bisect_right(income, fills[-1].time_ms, lo=read, key=_TIME_OF)
        # Stable: each kind keeps its order, and income comes before the fills of its millisecond.
        if due > read:
            both: list[Event] = [*income[read:due], *fills]
            yield from sorted(both, key=_TIME_OF)
        else:
            yield from fills
        read = due
    yield from income[read:]


def _fill_events(connection: Connection, names: Names, where: dict[str, Any]) -> Iterator[list[FillEvent]]:
    """Lists of fills in the order of the fold."""
    owners: dict[int | None, str | None] = {None: None}
    is_text = connection.dialect.name == "sqlite"
    # A cursor of the driver's: SQLAlchemy would wrap each row, at the cost of the reading itself. With a name it is the
    # server's, and the rows come as they are asked for.
    driver: Any = connection.connection.dbapi_connection
    cursor = driver.cursor() if is_text else driver.cursor("fills")
    try:
        cursor.execute(_EVENTS.format("?" if is_text else "%s"), tuple(where.values()))
        while rows := cursor.fetchmany(_AT_ONCE):
            events = []
            for (
                time_ms,
                trade_id,
                account,
                side,
                quantity,
                price,
                commission,
                asset,
                realized,
                client_id,
            ) in rows:
                if is_text:
                    try:
                        quantity, price, commission = Decimal(quantity), Decimal(price), Decimal(commission)
                        realized = ZERO if realized == "0" else Decimal(realized)
                    except (InvalidOperation, TypeError):
                        for cell in (quantity, price, commission, realized):
                            if not isinstance(cell, Decimal):
                                stored_decimal(cell)
                        raise
                if side == "SELL":
                    # An operator would round to the precision of whoever calls.
                    quantity = quantity.copy_negate()
                elif side != "BUY":
                    place = names.exchange_name(connection, where["exchange_id"]), where["symbol"], trade_id
                    raise LedgerError(f"fill {place} has side {side!r}; the database is damaged")
                if account not in owners:
                    owners[account] = names.name(connection, account)[1]
                events.append(
                    FillEvent(
                        time_ms,
                        trade_id,
                        owners[account],
                        quantity,
                        price,
                        commission,
                        asset,
                        realized,
                        client_id,
                    )
                )
            yield events
    finally:
        cursor.close()


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
