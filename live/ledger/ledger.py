"""The ledger: records what the exchange booked, once, and knows at any moment who holds what (`docs/ledger.md`)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, select, text, update

from envs.account import Fill
from envs.errors import LedgerError
from live.ledger.arithmetic import exact
from live.ledger.book import RULES, Book
from live.ledger.booking import (
    check_fill,
    check_income,
    event_of,
    insert_fills,
    insert_income,
    key_of_fill,
    known_fills,
    owner_of,
    same_fill,
    update_owner,
)
from live.ledger.capital import Transfer, insert_transfers, move_cursors
from live.ledger.entries import MANUAL, Cursor, Event, Income, IncomeEvent, base_asset, key_of
from live.ledger.folding import fold_on, last_mark, refold, save_snapshot, write_trips
from live.ledger.held import BookKey
from live.ledger.holdings import Holdings, Kept, check_count
from live.store import models
from live.store.names import insert_of

_LOG = logging.getLogger(__name__)

ANALYSE_FROM = 1_000
"""So many fills make a table whose plans PostgreSQL should think about again."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a recording added; what was there already is left out.

    Attributes:
        fills, income: new entries, fills in the order given.
        recognised: fills that were there without an owner, and have one now.
    """

    fills: tuple[Fill, ...] = ()
    income: tuple[Income, ...] = ()
    recognised: tuple[Fill, ...] = ()


class Ledger(Holdings):
    """Fills, funding and capital of any number of exchange accounts, and the positions folded from them.

    Every recording is one transaction: entries, cursors and what follows from them are kept together or not at all.
    Safe to share between threads, and with other processes on the same database.
    """

    def reload(self) -> None:
        """Read everything again, as at a start. Books that other rules folded are folded anew, and kept."""
        with self._lock:
            book = models.Book
            with self.store.read() as connection:
                found = connection.execute(select(book).where(book.rules != RULES)).all()
                outdated = [
                    (self._names.exchange_name(connection, one.exchange_id), one.symbol) for one in found
                ]
            for key in sorted(outdated):
                with self._transaction() as connection:
                    self._claim(connection, key)
            super().reload()

    # Recording

    def record(self, fill: Fill, *, cursors: Sequence[Cursor] = ()) -> bool:
        """Record a fill; False when it was there already. See `record_batch`."""
        return bool(self.record_batch([fill], cursors=cursors).fills)

    def record_many(self, fills: Iterable[Fill], *, cursors: Sequence[Cursor] = ()) -> tuple[Fill, ...]:
        """Record fills in one transaction; those that were new. See `record_batch`."""
        return self.record_batch(fills, cursors=cursors).fills

    def record_income(
        self, income: Iterable[Income], *, cursors: Sequence[Cursor] = ()
    ) -> tuple[Income, ...]:
        """Record funding and liquidation fees; those that were new. See `record_batch`."""
        return self.record_batch(income=income, cursors=cursors).income

    def record_batch(
        self, fills: Iterable[Fill] = (), income: Iterable[Income] = (), *, cursors: Sequence[Cursor] = ()
    ) -> Recorded:
        """Record entries, move cursors and write what follows from them, in one transaction.

        An entry counts once, however often and in whatever order it comes. A fill belongs to `fill.agent`, else to the
        agent of its client order id, else it is foreign and shared out (`docs/ledger.md`).

        Raises:
            LedgerError: an entry cannot be true, or contradicts one that is known; nothing is recorded.
            StoreError: the database refused; nothing is recorded.
        """
        by_key: dict[tuple[str, str, str], Fill] = {}
        for fill in fills:
            check_fill(fill)
            base_asset(fill.symbol)
            key = key_of_fill(fill)
            by_key[key] = same_fill(by_key[key], fill) if key in by_key else fill
        income = list(dict.fromkeys(income))
        for one in income:
            check_income(one)
        if not by_key and not income and not cursors:
            return Recorded()
        with self._lock, self._transaction() as connection:
            return self._record(connection, by_key, income, cursors)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        books, marks, capital = dict(self._books), dict(self._marks), self._capital
        try:
            with exact(), self.store.write() as connection:
                yield connection
            self._publish()
        except BaseException:
            self._books, self._marks, self._capital = books, marks, capital
            self._names.clear()
            raise

    def _record(
        self,
        connection: Connection,
        fills: Mapping[tuple[str, str, str], Fill],
        income: Sequence[Income],
        cursors: Sequence[Cursor],
    ) -> Recorded:
        touched = {(exchange, symbol) for exchange, symbol, _ in fills}
        touched |= {(one.exchange, one.symbol) for one in income}
        for book in sorted(touched):
            self._claim(connection, book)
        owners = {key: owner_of(fill) for key, fill in fills.items()}
        new_keys = insert_fills(connection, self._names, fills, owners)
        self._analyse(connection, len(new_keys))
        new_fills = tuple(fill for key, fill in fills.items() if key in new_keys)
        new_income = tuple(insert_income(connection, self._names, income))
        recognised = (
            tuple(self._recognise(connection, fills, new_keys)) if len(new_fills) < len(fills) else ()
        )
        arrived: dict[BookKey, list[Event]] = {key: [] for key in touched}
        for key, fill in fills.items():
            if key in new_keys:
                arrived[fill.exchange, fill.symbol].append(event_of(fill, owners[key]))
        for one in new_income:
            arrived[one.exchange, one.symbol].append(
                IncomeEvent(
                    one.time_ms, one.transaction_id, one.kind, one.amount_usdt, one.rate, one.mark_price
                )
            )
        changed_from: dict[BookKey, int] = {}
        for fill in recognised:
            book = fill.exchange, fill.symbol
            changed_from[book] = min(fill.time_ms, changed_from.get(book, fill.time_ms))
        for book in sorted(touched):
            if arrived[book] or book in changed_from:
                self._fold(connection, book, sorted(arrived[book], key=key_of), changed_from.get(book))
        move_cursors(connection, self._names, cursors)
        return Recorded(new_fills, new_income, recognised)

    def _analyse(self, connection: Connection, new: int) -> None:
        """Let PostgreSQL count the fills again when they have doubled.

        Without it, while many are recorded into an empty table, it looks references up by the wrong index until its own
        housekeeping comes round.
        """
        if self.store.is_sqlite or new < ANALYSE_FROM:
            return
        fills = new + sum(kept.book.events for kept in self._books.values())
        if fills >= 2 * self._analysed_fills:
            connection.execute(text("ANALYZE fills"))
            self._analysed_fills = fills

    def _claim(self, connection: Connection, key: BookKey) -> None:
        """Lock a book, and read it again when another process has changed it."""
        exchange_id = self._names.exchange(connection, key[0])
        row = self._book_row(connection, *key).with_for_update()
        found = connection.execute(row).one_or_none()
        if found is None:
            new = insert_of(connection.dialect.name)(models.Book).values(
                exchange_id=exchange_id, symbol=key[1], version=0, fills=0, income=0, rules=RULES
            )
            connection.execute(new.on_conflict_do_nothing())
            found = connection.execute(row).one()
        kept = self._books.get(key)
        if found.rules != RULES:
            self._fold_anew(connection, key, found)
        elif kept is None or kept.version != found.version:
            self._books[key] = self._load(connection, *key)

    def _fold_anew(self, connection: Connection, key: BookKey, found: Any) -> None:
        """Fold all entries of a book that other rules folded; its snapshots, parts and round trips are made again."""
        mark = last_mark(connection, self._names, *key)
        book, newest = refold(connection, self._names, Book(*key), 0, every=self._every, mark=mark)
        check_count(book, found)
        row = models.Book
        connection.execute(
            update(row)
            .where(row.exchange_id == found.exchange_id, row.symbol == found.symbol)
            .values(version=found.version + 1, rules=RULES)
        )
        self._books[key] = Kept(book, found.version + 1, newest)
        _LOG.warning(
            "%s: all %d entries were folded anew: the rules of the fold are of version %d, they were of %d",
            " ".join(key).strip(),
            book.events,
            RULES,
            found.rules,
        )

    def _recognise(
        self,
        connection: Connection,
        fills: Mapping[tuple[str, str, str], Fill],
        new: set[tuple[str, str, str]],
    ) -> Iterator[Fill]:
        there = [key for key in fills if key not in new]
        for known in list(known_fills(connection, self._names, there)):
            seen = fills[key_of_fill(known)]
            if same_fill(known, seen) is seen:
                owners = owner_of(seen), owner_of(known)
                if owners[0] != owners[1] or seen.client_order_id != known.client_order_id:
                    update_owner(connection, self._names, seen)
                    yield seen

    def _fold(
        self, connection: Connection, key: BookKey, events: Sequence[Event], changed_from: int | None
    ) -> None:
        kept = self._books[key]
        book, mark = kept.book, self._marks.get(key)
        late = bool(events) and (
            events[0].time_ms <= kept.newest.time_ms
            or (book.last is not None and key_of(events[0]) <= book.last)
        )
        if late or changed_from is not None:
            from_ms = min([event.time_ms for event in events[:1]] + ([changed_from] if changed_from else []))
            book, newest = refold(connection, self._names, book, from_ms, every=self._every, mark=mark)
        else:
            book = book.copy()
            newest = fold_on(
                connection,
                self._names,
                book,
                events,
                every=self._every,
                newest=kept.newest,
                mark=mark,
            )
        counted = sum(isinstance(event, IncomeEvent) for event in events)
        row = models.Book
        connection.execute(
            update(row)
            .where(row.exchange_id == self._names.exchange(connection, key[0]), row.symbol == key[1])
            .values(
                version=kept.version + 1,
                fills=row.fills + len(events) - counted,
                income=row.income + counted,
            )
        )
        self._books[key] = Kept(book, kept.version + 1, newest)

    def snapshot(self) -> None:
        """Keep all books as they are now, so that the next start folds nothing.

        Not those in which a liquidation's fee may still come.
        """
        with self._lock, self._transaction() as connection:
            for key in sorted(self._books):
                self._claim(connection, key)
                kept = self._books[key]
                if kept.book.events != kept.newest.events and not kept.book.awaits_clearance:
                    newest = save_snapshot(connection, self._names, kept.book)
                    self._books[key] = Kept(kept.book, kept.version, newest)

    # Capital

    def record_transfers(self, transfers: Iterable[Transfer], *, cursors: Sequence[Cursor] = ()) -> int:
        """Record capital that came or went; how many were new. An exchange's deposits belong to `MANUAL`.

        Raises:
            LedgerError: one contradicts one that is known; nothing is recorded.
        """
        with self._lock, self._transaction() as connection:
            new = insert_transfers(connection, self._names, list(transfers))
            move_cursors(connection, self._names, cursors)
            self._capital = self._capital.plus(new)
        return len(new)

    def assign_capital(
        self,
        exchange: str,
        agent: str,
        amount_usdt: Decimal,
        *,
        time_ms: int,
        assignment: str,
        note: str = "",
    ) -> bool:
        """Give an agent capital out of `MANUAL`'s (or take it back, below zero); False when that was done already.

        `assignment` names it: the same name counts once.
        """
        pair = [
            Transfer(exchange, name, amount, time_ms, assignment, "CAPITAL", note)
            for name, amount in ((agent, amount_usdt), (MANUAL, -amount_usdt))
        ]
        if agent == MANUAL:
            raise LedgerError(f"capital cannot be assigned from {MANUAL} to itself; name an agent")
        return bool(self.record_transfers(pair))

    def mark(self, exchange: str, prices: Mapping[str, Decimal], time_ms: int) -> None:
        """Mark the open transactions at last prices, by symbol."""
        with self._lock, self._transaction() as connection:
            for symbol, price in sorted(prices.items()):
                key = exchange, symbol
                if key not in self._books:
                    continue
                self._claim(connection, key)
                self._marks[key] = price, time_ms
                book = self._books[key].book
                write_trips(connection, self._names, book, book.open_trips(), self._marks[key])
