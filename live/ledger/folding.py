"""Folding books from the database: from the newest snapshot that holds, writing what the fold derives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, insert, or_, select

from live.ledger.arithmetic import ZERO, divide, exact
from live.ledger.book import Book, Derived, Part
from live.ledger.booking import read_events
from live.ledger.entries import Event, exit_reason
from live.ledger.positions import PositionState, Trip
from live.store.bulk import BulkInsert
from live.store.models import Allocation, Position, Snapshot, Transaction
from live.store.names import Names

Mark = tuple[Decimal, int]
"""A last price and its time."""

STATE_FIELDS = tuple(one.name for one in fields(PositionState))
_TRIP_KEY = ("account_id", "symbol", "entry_trade_id")
_TRIP_NEWS = ", ".join(
    f"{one.name} = excluded.{one.name}"
    for one in Transaction.__table__.columns
    if one.name not in (*_TRIP_KEY, "id", "exchange_id")
)
_TRIPS = BulkInsert(Transaction, f"ON CONFLICT ({', '.join(_TRIP_KEY)}) DO UPDATE SET {_TRIP_NEWS}")
_ALLOCATIONS = BulkInsert(Allocation)
_POSITIONS = BulkInsert(Position)
_NET_FIELDS = ("net_quantity", "net_cost", "net_realized", "net_fees", "net_income")


class Newest(NamedTuple):
    """The newest snapshot of a book: how many entries it holds, up to and with which millisecond; zeros for none."""

    events: int = 0
    time_ms: int = 0


def last_mark(connection: Connection, names: Names, exchange: str, symbol: str) -> Mark | None:
    """The last price that open round trips were marked at."""
    found = connection.execute(
        select(Transaction.last_price, Transaction.last_price_ms)
        .where(
            Transaction.exchange_id == names.exchange(connection, exchange),
            Transaction.symbol == symbol,
            Transaction.last_price.is_not(None),
        )
        .limit(1)
    ).first()
    return None if found is None else (found.last_price, found.last_price_ms)


def chunks(events: Iterable[Event], size: int) -> Iterator[list[Event]]:
    """Lists of about `size` entries; entries of one millisecond stay together."""
    chunk: list[Event] = []
    for event in events:
        if len(chunk) >= size and event.time_ms != chunk[-1].time_ms:
            yield chunk
            chunk = []
        chunk.append(event)
    if chunk:
        yield chunk


def load_book(connection: Connection, names: Names, exchange: str, symbol: str) -> Book:
    """A book from its newest snapshot, or an empty one."""
    book = Book(exchange, symbol)
    statement = (
        select(Snapshot)
        .where(Snapshot.exchange_id == names.exchange(connection, exchange), Snapshot.symbol == symbol)
        .order_by(Snapshot.time_ms.desc())
        .limit(1)
    )
    found = connection.execute(statement).one_or_none()
    return book if found is None else _restore(connection, names, book, found)


def _restore(connection: Connection, names: Names, book: Book, snapshot: Any) -> Book:
    for name in _NET_FIELDS:
        setattr(book, name, getattr(snapshot, name))
    book.reported = snapshot.reported_realized
    book.events = snapshot.events
    # Later than any entry of its millisecond, all of which it holds.
    book.last = (snapshot.time_ms, 2, 0, "", "")
    book.liquidated = {name: Decimal(part) for name, part in snapshot.liquidated.items()}
    for row in connection.execute(select(Position).where(Position.snapshot_id == snapshot.id)):
        values = {name: getattr(row, name) for name in STATE_FIELDS}
        values["other_fees"] = {asset: Decimal(paid) for asset, paid in row.other_fees.items()}
        book.positions[names.name(connection, row.account_id)[1]] = PositionState(**values)
    return book


def all_snapshots(connection: Connection, names: Names, exchange: str, symbol: str) -> list[Book]:
    """The books that all snapshots hold, oldest first."""
    statement = (
        select(Snapshot)
        .where(Snapshot.exchange_id == names.exchange(connection, exchange), Snapshot.symbol == symbol)
        .order_by(Snapshot.time_ms)
    )
    found = connection.execute(statement).all()
    return [_restore(connection, names, Book(exchange, symbol), one) for one in found]


def save_snapshot(connection: Connection, names: Names, book: Book) -> Newest:
    """Keep a book, which must not be empty, as it is after its last entry.

    An entry of that millisecond that comes later makes the snapshot void (`Newest.time_ms`).
    """
    assert book.last is not None
    exchange_id = names.exchange(connection, book.exchange)
    connection.execute(
        delete(Snapshot).where(
            Snapshot.exchange_id == exchange_id,
            Snapshot.symbol == book.symbol,
            Snapshot.time_ms == book.last[0],
        )
    )
    key = connection.execute(
        insert(Snapshot)
        .values(
            exchange_id=exchange_id,
            symbol=book.symbol,
            time_ms=book.last[0],
            events=book.events,
            reported_realized=book.reported,
            liquidated=book.liquidated,
            **{name: getattr(book, name) for name in _NET_FIELDS},
        )
        .returning(Snapshot.id)
    ).scalar_one()
    rows = [
        {
            "snapshot_id": key,
            "account_id": names.account(connection, book.exchange, name),
            **{one: getattr(state, one) for one in STATE_FIELDS},
        }
        for name, state in book.positions.items()
    ]
    _POSITIONS.write(connection, rows)
    return Newest(book.events, book.last[0])


def fold_on(
    connection: Connection,
    names: Names,
    book: Book,
    events: Iterable[Event],
    *,
    every: int,
    newest: Newest,
    mark: Mark | None,
) -> Newest:
    """Fold entries into a book and write what follows: snapshots, parts, round trips.

    Args:
        connection: of a writing transaction.
        names: keys of the accounts.
        book: changed in place.
        events: in order, all after the book's last.
        every: entries between two snapshots.
        newest: the newest snapshot.
        mark: last price of the contract.

    Returns:
        the newest snapshot now.
    """
    for chunk in chunks(events, every):
        derived = Derived()
        book.fold(chunk, derived)
        write_parts(connection, names, book, derived.parts)
        write_trips(connection, names, book, derived.trips, mark)
        if book.events - newest.events >= every and not book.awaits_clearance:
            newest = save_snapshot(connection, names, book)
    write_trips(connection, names, book, book.open_trips(), mark)
    return newest


def refold(
    connection: Connection, names: Names, book: Book, from_ms: int, *, every: int, mark: Mark | None
) -> tuple[Book, Newest]:
    """Fold a book again from the newest snapshot before a moment; what was derived since is made anew."""
    exchange_id = names.exchange(connection, book.exchange)
    connection.execute(
        delete(Snapshot).where(
            Snapshot.exchange_id == exchange_id, Snapshot.symbol == book.symbol, Snapshot.time_ms >= from_ms
        )
    )
    fresh = load_book(connection, names, book.exchange, book.symbol)
    after_ms = fresh.last[0] if fresh.last else 0
    connection.execute(
        delete(Transaction).where(
            Transaction.exchange_id == exchange_id,
            Transaction.symbol == book.symbol,
            or_(Transaction.exit_ms.is_(None), Transaction.exit_ms > after_ms),
        )
    )
    connection.execute(
        delete(Allocation).where(
            Allocation.exchange_id == exchange_id,
            Allocation.symbol == book.symbol,
            Allocation.time_ms > after_ms,
        )
    )
    events = read_events(connection, names, book.exchange, book.symbol, after_ms=after_ms)
    newest = Newest(fresh.events, after_ms)
    return fresh, fold_on(connection, names, fresh, events, every=every, newest=newest, mark=mark)


def write_parts(connection: Connection, names: Names, book: Book, parts: Sequence[Part]) -> None:
    """Write the parts of shared entries."""
    _ALLOCATIONS.write(connection, [part_row(connection, names, book, part) for part in parts])


def part_row(connection: Connection, names: Names, book: Book, part: Part) -> dict[str, Any]:
    """A row of `allocations`."""
    return {
        "exchange_id": names.exchange(connection, book.exchange),
        "symbol": book.symbol,
        "account_id": names.account(connection, book.exchange, part.agent),
        "kind": part.kind,
        "reference": part.reference,
        "time_ms": part.time_ms,
        "quantity": part.quantity,
        "amount": part.amount,
    }


def write_trips(
    connection: Connection, names: Names, book: Book, trips: Sequence[Trip], mark: Mark | None
) -> None:
    """Write round trips; one that is there is updated."""
    _TRIPS.write(connection, [trip_row(connection, names, book, trip, mark) for trip in newest_of(trips)])


def newest_of(trips: Iterable[Trip]) -> list[Trip]:
    """Each round trip once, as it was last: a liquidation's fee may come after its end."""
    return list({(trip.agent, trip.entry_id): trip for trip in trips}.values())


def trip_row(
    connection: Connection, names: Names, book: Book, trip: Trip, mark: Mark | None
) -> dict[str, Any]:
    """A row of `transactions`."""
    is_open = trip.exit_ms is None
    price, price_ms = mark if mark is not None else (None, None)
    unrealized = None
    if is_open and price is not None:
        with exact():
            unrealized = trip.open_quantity * price - trip.open_cost
    return {
        "exchange_id": names.exchange(connection, book.exchange),
        "account_id": names.account(connection, book.exchange, trip.agent),
        "symbol": book.symbol,
        "side": str(trip.side),
        "entry_ms": trip.entry_ms,
        "entry_trade_id": trip.entry_id,
        "exit_ms": trip.exit_ms,
        "exit_trade_id": trip.exit_id or "",
        "exit_reason": "" if is_open else exit_reason(trip.exit_client_id),
        "quantity": trip.entry_quantity,
        "open_quantity": trip.open_quantity if is_open else ZERO,
        "entry_price": divide(trip.entry_quote, trip.entry_quantity),
        "exit_price": divide(trip.exit_quote, trip.exit_quantity) if trip.exit_quantity else None,
        "open_cost": trip.open_cost if is_open else ZERO,
        "entry_quote": trip.entry_quote,
        "exit_quote": trip.exit_quote,
        "realized": trip.realized,
        "fees": trip.fees,
        "funding": trip.funding,
        "clearance": trip.clearance,
        "fills": trip.fills,
        "last_price": price if is_open else None,
        "last_price_ms": price_ms if is_open else None,
        "unrealized": unrealized,
    }


def compare(stored: Book, folded: Book) -> str:
    """How a snapshot differs from the fold; empty when it does not."""
    place = f"{folded.exchange} {folded.symbol}"
    for name in (*_NET_FIELDS, "reported", "events", "liquidated"):
        if getattr(stored, name) != getattr(folded, name):
            return f"{place}: {name} is {getattr(stored, name)} in the snapshot and {getattr(folded, name)} by the fold"
    for agent in sorted({*stored.positions, *folded.positions}):
        mine, its = stored.positions.get(agent), folded.positions.get(agent)
        if mine is None or its is None:
            return f"{place}: account {agent} is only in the {'fold' if mine is None else 'snapshot'}"
        for name in STATE_FIELDS:
            if getattr(mine, name) != getattr(its, name):
                return (
                    f"{place}: {name} of {agent} is {getattr(mine, name)} in the snapshot and {getattr(its, name)} by "
                    "the fold"
                )
    return ""
