"""Is the database whole? Schema, references, and whether everything that was folded follows from what was booked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, func, select, text

from envs.errors import PerpgymError
from live.ledger.arithmetic import ZERO, exact
from live.ledger.book import RULES, Book, Derived
from live.ledger.booking import read_events
from live.ledger.folding import all_snapshots, chunks, compare, newest_of, part_row, trip_row
from live.store import models, schema
from live.store.database import Store
from live.store.names import Names

Progress = Callable[[str], None]
_AT_ONCE = 10_000
_MARKS = ("last_price", "last_price_ms", "unrealized")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, and what is wrong; empty when nothing is."""

    check: str
    detail: str
    problem: str = ""


def check(store: Store, progress: Progress = lambda _: None) -> list[Finding]:
    """All checks. A database with another schema is not looked at any further."""
    version = schema.current(store)
    if version != schema.head():
        problem = f"schema {version or 'none'}, this program needs {schema.head()}; run: python -m live.store upgrade"
        return [Finding("schema", str(version), problem)]
    different = schema.differences(store)
    if different:
        return [Finding("schema", version, f"the tables are not those of this schema: {different[0]}")]
    findings = [Finding("schema", version)]
    for name, look in (
        ("pages", _pages),
        ("references", _references),
        ("unique fills", _unique),
        ("capital", _capital),
        ("cursors", _cursors),
    ):
        progress(name)
        with store.read() as connection:
            findings.append(_finding(name, look, connection))
    with store.read() as connection:
        names = Names()
        names.load(connection)
        books = connection.execute(
            select(models.Book).order_by(models.Book.exchange_id, models.Book.symbol)
        ).all()
        for row in books:
            name = f"book {names.exchange_name(connection, row.exchange_id)} {row.symbol}".strip()
            progress(name)
            findings.append(_finding(name, partial(_book, names=names, row=row), connection))
    return findings


def _finding(name: str, look: Callable[[Connection], Iterator[str]], connection: Connection) -> Finding:
    detail = ""
    try:
        for line in look(connection):
            if line.startswith("!"):
                return Finding(name, detail, line[1:])
            detail = line
    except PerpgymError as error:
        return Finding(name, detail, str(error))
    return Finding(name, detail)


def _pages(connection: Connection) -> Iterator[str]:
    if connection.dialect.name != "sqlite":
        yield "left to the server"
        return
    found = connection.execute(text("PRAGMA integrity_check(1)")).scalar_one()
    yield "!" + str(found) if found != "ok" else "SQLite finds nothing"


def _references(connection: Connection) -> Iterator[str]:
    """Rows that refer to others that do not exist; SQLite checks them only when they are written."""
    count = 0
    for table in schema.METADATA.sorted_tables:
        for constraint in table.foreign_key_constraints:
            target = constraint.referred_table.alias("target")
            pairs = [(element.parent, target.c[element.column.name]) for element in constraint.elements]
            join = [left == right for left, right in pairs]
            first = pairs[0][1]
            condition = join[0]
            for one in join[1:]:
                condition = condition & one
            orphan = (
                select(func.count())
                .select_from(table.outerjoin(target, condition))
                .where(pairs[-1][0].is_not(None), first.is_(None))
            )
            lost = connection.execute(orphan).scalar_one()
            if lost:
                yield f"!{lost} rows of {table.name} refer to {constraint.referred_table.name} that do not exist"
            count += 1
    yield f"{count} kinds of reference"


def _unique(connection: Connection) -> Iterator[str]:
    fill = models.Fill
    key = (fill.exchange_id, fill.symbol, fill.trade_id)
    doubled = connection.execute(
        select(*key, func.count()).group_by(*key).having(func.count() > 1).limit(1)
    ).first()
    if doubled is not None:
        yield f"!trade {doubled[2]} of {doubled[1]} is there {doubled[3]} times"
    yield f"{connection.execute(select(func.count()).select_from(fill)).scalar_one()} fills"


def _capital(connection: Connection) -> Iterator[str]:
    row = models.Transfer
    sums: dict[tuple[int, str], Any] = {}
    count = 0
    with exact():
        for one in connection.execute(select(row)).all():
            count += 1
            if one.kind == "CAPITAL":
                key = one.exchange_id, one.transaction_id
                sums[key] = sums.get(key, ZERO) + one.amount_usdt
    for (_, name), total in sums.items():
        if total:
            yield f"!the rows of assignment {name!r} add up to {total}, not to 0"
    yield f"{count} transfers"


def _cursors(connection: Connection) -> Iterator[str]:
    """A cursor must not be behind the fills that were written with it, or name a trade that is not there."""
    cursor, fill = models.SyncCursor, models.Fill
    found = connection.execute(select(cursor)).all()
    for one in found:
        if one.time_ms <= 0:
            yield f"!cursor {one.stream} {one.symbol} stands at {one.time_ms} ms"
        if one.stream == "fills" and one.symbol and one.position:
            there = select(fill.id).where(
                fill.exchange_id == one.exchange_id, fill.symbol == one.symbol, fill.trade_id == one.position
            )
            if connection.execute(there).first() is None:
                yield f"!cursor of the fills of {one.symbol} stands at trade {one.position}, which is not there"
    yield f"{len(found)} cursors"


def _book(connection: Connection, names: Names, row: Any) -> Iterator[str]:
    """Fold everything from the beginning, and compare snapshots, parts and round trips with what is stored."""
    exchange = names.exchange_name(connection, row.exchange_id)
    outdated = row.rules != RULES
    snapshots = [] if outdated else all_snapshots(connection, names, exchange, row.symbol)
    waiting = list(snapshots)
    book = Book(exchange, row.symbol)
    derived = Derived()
    for chunk in chunks(read_events(connection, names, exchange, row.symbol), _AT_ONCE):
        while waiting and waiting[0].last is not None and waiting[0].last[0] < chunk[-1].time_ms:
            at_ms = waiting[0].last[0]
            head = [event for event in chunk if event.time_ms <= at_ms]
            book.fold(head, derived)
            chunk = chunk[len(head) :]
            problem = compare(waiting.pop(0), book)
            if problem:
                yield "!" + problem
        book.fold(chunk, derived)
    for one in waiting:
        problem = compare(one, book)
        if problem:
            yield "!" + problem
    if book.events != row.fills + row.income:
        yield f"!{book.events} entries are there, {row.fills + row.income} were recorded"
    with exact():
        held = sum((state.p1 for state in book.positions.values()), ZERO)
        cash = [name for name, state in book.positions.items() if state.realized != state.cash + state.cost]
    if held != book.net_quantity:
        yield f"!the accounts hold {held}, the net is {book.net_quantity}"
    if cash:
        yield f"!realized PnL of {', '.join(cash)} does not follow from the trades"
    if outdated:
        yield f"{book.events} entries, folded by rules {row.rules}; the next start folds them anew, by rules {RULES}"
        return
    ended = newest_of(derived.trips)
    trips = [trip_row(connection, names, book, trip, None) for trip in (*ended, *book.open_trips())]
    parts = [part_row(connection, names, book, part) for part in derived.parts]
    yield from _compare_rows(connection, row, models.Transaction, trips, _MARKS)
    yield from _compare_rows(connection, row, models.Allocation, parts, ())
    yield f"{book.events} entries, {len(snapshots)} snapshots, {len(ended)} round trips"


def _compare_rows(
    connection: Connection, row: Any, table: Any, rows: list[dict[str, Any]], left_out: tuple[str, ...]
) -> Iterator[str]:
    if not rows:
        names = [column.name for column in table.__table__.columns if column.name not in ("id", *left_out)]
    else:
        names = [name for name in rows[0] if name not in left_out]
    stored = connection.execute(
        select(*(getattr(table, name) for name in names)).where(
            table.exchange_id == row.exchange_id, table.symbol == row.symbol
        )
    )
    expected = {tuple(one[name] for name in names) for one in rows}
    found = {tuple(one) for one in stored}
    if expected != found:
        odd = sorted(map(str, expected ^ found))[0]
        yield (
            f"!{table.__tablename__}: {len(found - expected)} rows do not follow from the fills and "
            f"{len(expected - found)} are missing, e.g. {odd}"
        )
