"""What is held now: the books in memory, loaded from the newest snapshots, and the questions they answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

from sqlalchemy import Connection, select

from envs.errors import LedgerError
from live.ledger.book import RULES, Book, Derived
from live.ledger.booking import read_events
from live.ledger.capital import Capital, read_capital, read_cursor
from live.ledger.entries import Cursor
from live.ledger.folding import Mark, Newest, load_book
from live.ledger.held import BookKey, Held
from live.ledger.positions import PositionState
from live.store import models
from live.store.database import Store
from live.store.names import Names

SNAPSHOT_EVERY = 5_000


@dataclass(slots=True)
class Kept:
    """A book in memory. `version` is that of its row; `newest` is its newest snapshot."""

    book: Book
    version: int
    newest: Newest


def check_count(book: Book, row: Any) -> None:
    """Refuse a book that does not hold all the entries that its row counts.

    Raises:
        LedgerError: entries are missing, or there are too many.
    """
    if book.events != row.fills + row.income:
        raise LedgerError(
            f"{book.exchange} {book.symbol}: {book.events} entries by the fold, {row.fills + row.income} by its book; "
            "rows were added or deleted behind the ledger's back; run: python -m live.store check"
        )


class Holdings:
    """The positions, wallets and cursors of all accounts, as they were when they were last read or written here.

    Attributes:
        held: all of them at one moment; another one after each commit.
    """

    def __init__(self, store: Store, *, snapshot_every: int = SNAPSHOT_EVERY) -> None:
        """Load the books: the newest snapshots, and what came after them.

        Args:
            store: an open database.
            snapshot_every: entries of a book between two snapshots; fewer make a start faster and the database larger.
        """
        if snapshot_every < 1:
            raise LedgerError(f"snapshot_every is {snapshot_every}; give at least 1")
        self.store = store
        self._every = snapshot_every
        self._names = Names()
        self._books: dict[BookKey, Kept] = {}
        self._capital = Capital()
        self._marks: dict[BookKey, Mark] = {}
        self._lock = threading.RLock()
        self.held = Held()
        self._analysed_fills = 0
        self.reload()

    @classmethod
    def open(cls, url: str) -> Self:
        """Open a database (`Store.open`) and its ledger."""
        store = Store.open(url)
        try:
            return cls(store)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Close the database."""
        self.store.close()

    def reload(self) -> None:
        """Read everything again, as at a start."""
        with self._lock, self.store.read() as connection:
            self._names.load(connection)
            self._capital = read_capital(connection, self._names)
            self._books = {}
            self._marks = {}
            for row in connection.execute(select(models.Book)).all():
                key = self._names.exchange_name(connection, row.exchange_id), row.symbol
                self._books[key] = self._load(connection, *key)
            marked = select(models.Transaction).where(models.Transaction.last_price.is_not(None))
            for trip in connection.execute(marked):
                exchange = self._names.exchange_name(connection, trip.exchange_id)
                self._marks[exchange, trip.symbol] = trip.last_price, trip.last_price_ms
            self._publish()

    def _publish(self) -> None:
        """Let readers see what is committed. Neither books nor capital are changed afterwards, only replaced."""
        self.held = Held({key: kept.book for key, kept in self._books.items()}, self._capital)

    def _load(self, connection: Connection, exchange: str, symbol: str) -> Kept:
        row = connection.execute(self._book_row(connection, exchange, symbol)).one()
        book = Book(exchange, symbol)
        if row.rules == RULES:
            book = load_book(connection, self._names, exchange, symbol)
        events = book.events
        after_ms = book.last[0] if book.last else 0
        book.fold(read_events(connection, self._names, exchange, symbol, after_ms=after_ms), Derived())
        check_count(book, row)
        return Kept(book, row.version, Newest(events, after_ms))

    def _book_row(self, connection: Connection, exchange: str, symbol: str) -> Any:
        return select(models.Book).where(
            models.Book.exchange_id == self._names.exchange(connection, exchange),
            models.Book.symbol == symbol,
        )

    def exchanges(self) -> list[str]:
        """Names of the exchange accounts."""
        with self._names_loaded() as names:
            return names.exchanges()

    def accounts(self, exchange: str) -> list[str]:
        """Everybody who ever had a fill, income or capital on an exchange account."""
        with self._names_loaded() as names:
            return names.accounts(exchange)

    @contextmanager
    def _names_loaded(self) -> Iterator[Names]:
        with self._lock:
            if not self._names.complete:
                with self.store.read() as connection:
                    self._names.load(connection)
            yield self._names

    # What is held. None of these waits for a transaction: they answer by the newest commit.

    def books(self, exchange: str | None = None) -> list[Book]:
        """See `Held.books`."""
        return self.held.books(exchange)

    def position(self, exchange: str, agent: str, symbol: str) -> PositionState:
        """See `Held.position`."""
        return self.held.position(exchange, agent, symbol)

    def positions(self, exchange: str, agent: str | None = None) -> dict[tuple[str, str], PositionState]:
        """See `Held.positions`."""
        return self.held.positions(exchange, agent)

    def net_positions(self, exchange: str | None = None) -> dict[str, Decimal]:
        """See `Held.net_positions`."""
        return self.held.net_positions(exchange)

    def wallet(self, exchange: str, agent: str) -> Decimal:
        """See `Held.wallet`."""
        return self.held.wallet(exchange, agent)

    def wallets(self, exchange: str) -> dict[str, Decimal]:
        """See `Held.wallets`."""
        return self.held.wallets(exchange)

    def capital(self, exchange: str, agent: str) -> Decimal:
        """See `Held.capital`."""
        return self.held.capital(exchange, agent)

    def booked_wallet(self, exchange: str) -> Decimal:
        """See `Held.booked_wallet`."""
        return self.held.booked_wallet(exchange)

    def cursor(self, exchange: str, stream: str, symbol: str = "") -> Cursor | None:
        """How far a stream has been read, None when it never was."""
        with self.store.read() as connection:
            return read_cursor(connection, exchange, stream, symbol)
