"""What everybody holds at one moment: books and capital as they were after a commit, read without waiting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from live.ledger.arithmetic import ZERO, exact
from live.ledger.book import Book
from live.ledger.capital import Capital
from live.ledger.entries import MANUAL
from live.ledger.positions import PositionState

BookKey = tuple[str, str]
"""Exchange account and symbol."""


@dataclass(frozen=True, slots=True)
class Held:
    """The ledger after one commit. Nothing in it ever changes, so its answers agree with each other.

    Attributes:
        by_key: the books; whoever reads them leaves them as they are.
        capital_sums: of the transfers.
    """

    by_key: Mapping[BookKey, Book] = field(default_factory=dict)
    capital_sums: Capital = field(default_factory=Capital)

    def books(self, exchange: str | None = None) -> list[Book]:
        """Copies of the books, of one exchange account or of all."""
        return [book.copy() for book in self._of(exchange)]

    def _of(self, exchange: str | None) -> list[Book]:
        return [book for key, book in sorted(self.by_key.items()) if exchange in (None, key[0])]

    def position(self, exchange: str, agent: str, symbol: str) -> PositionState:
        """A copy of a position; a flat one where there never was any."""
        book = self.by_key.get((exchange, symbol))
        state = book.positions.get(agent) if book else None
        return state.copy() if state else PositionState()

    def positions(self, exchange: str, agent: str | None = None) -> dict[tuple[str, str], PositionState]:
        """Copies of the open positions by (agent, symbol)."""
        return {
            (name, book.symbol): state.copy()
            for book in self._of(exchange)
            for name, state in book.positions.items()
            if state.p1 and agent in (None, name)
        }

    def net_positions(self, exchange: str | None = None) -> dict[str, Decimal]:
        """Net quantity by symbol, over all accounts of one exchange account or of all; also those that are 0."""
        net: dict[str, Decimal] = {}
        with exact():
            for book in self._of(exchange):
                if book.symbol:
                    net[book.symbol] = net.get(book.symbol, ZERO) + book.net_quantity
        return net

    def wallet(self, exchange: str, agent: str) -> Decimal:
        """Capital + realized PnL - fees + funding + clearance; MANUAL's also holds the exchange's roundings."""
        with exact():
            total = self.capital_sums.of(exchange, agent)
            for book in self._of(exchange):
                state = book.positions.get(agent)
                if state is not None:
                    total += state.income
                if agent == MANUAL:
                    total += book.rounding
            return total

    def wallets(self, exchange: str) -> dict[str, Decimal]:
        """The wallets of everybody who ever had a fill, income or capital, MANUAL's always among them."""
        names = {MANUAL, *self.capital_sums.accounts(exchange)}
        for book in self._of(exchange):
            names |= set(book.positions)
        return {name: self.wallet(exchange, name) for name in sorted(names)}

    def total_capital(self, exchange: str) -> Decimal:
        """Sum of all transfers of an exchange account: what was paid into it less what was paid out."""
        with exact():
            return self.capital_sums.total(exchange)

    def capital(self, exchange: str, agent: str) -> Decimal:
        """Sum of the transfers."""
        return self.capital_sums.of(exchange, agent)

    def booked_wallet(self, exchange: str) -> Decimal:
        """What the exchange's wallet must hold: transfers and what the exchange booked, without looking at accounts."""
        with exact():
            total = self.capital_sums.total(exchange)
            for book in self._of(exchange):
                total += book.reported - book.net_fees + book.net_income
            return total
