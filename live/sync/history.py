"""Reading what an exchange account's history has that the ledger has not, page by page, from persisted cursors."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from decimal import Decimal

from sqlalchemy import func, select

from envs.account import Fill
from envs.time_grid import HOUR_MS, MINUTE_MS, format_time
from live.exchange.base import Booking, BookingKind, Exchange
from live.ledger import MANUAL, Cursor, Income, IncomeKind, Transfer
from live.ledger.entries import QUOTE
from live.store import models
from live.sync.settings import TradeSyncSettings
from live.sync.writer import LedgerWriter

_log = logging.getLogger(__name__)

FILLS = "fills"
BOOKINGS = "bookings"
SETTLEMENTS = "settlements"
_LISTED_AFTER_MS = 5 * MINUTE_MS
_ASKED_AGAIN_MS = 5_000
"""The exchange takes few questions for funding rates (Binance: 500 in 5 minutes, over all contracts)."""


@dataclass(slots=True)
class CaughtUp:
    """What a catch-up added to the ledger.

    Attributes:
        fills, recognised: new fills, and known ones that have an owner now.
        income, transfers: how many new rows of each.
        symbols: that turned up in the bookings.
        reach: at an account's first reading, how far back it reached and what is older, for people.
    """

    fills: list[Fill] = field(default_factory=list)
    recognised: list[Fill] = field(default_factory=list)
    income: int = 0
    transfers: int = 0
    symbols: set[str] = field(default_factory=set)
    reach: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether everything was known."""
        return not (self.fills or self.recognised or self.income or self.transfers)

    def add(self, more: CaughtUp) -> None:
        """Count another one in."""
        self.fills += more.fills
        self.recognised += more.recognised
        self.income += more.income
        self.transfers += more.transfers
        self.symbols |= more.symbols


class HistoryReader:
    """Reads fills, bookings and settlements of one account into its ledger.

    A page is recorded in one transaction with the cursor behind it, so whoever is killed goes on from there. Cursors
    stay behind what is younger than `settle_ms`: what the exchange lists late is found by the next reading.

    Args:
        account: the exchange account's name in the ledger.
    """

    def __init__(
        self,
        exchange: Exchange,
        writer: LedgerWriter,
        account: str,
        settings: TradeSyncSettings,
    ) -> None:
        self._exchange = exchange
        self._writer = writer
        self._account = account
        self._settings = settings
        self.booked_until_ms = 0
        # By symbol: up to which hour its settlements were last asked for, and when.
        self._asked_ms: dict[str, tuple[int, int]] = {}

    async def cursor(self, stream: str, symbol: str = "") -> Cursor | None:
        """How far a stream has been read."""
        return await self._writer.run(self._writer.ledger.cursor, self._account, stream, symbol)

    # Fills

    async def read_fills(self, symbol: str, now_ms: int, found: CaughtUp) -> None:
        """Record a symbol's fills from its cursor on."""
        cursor = await self.cursor(FILLS, symbol)
        settled_ms = now_ms - self._settings.settle_ms
        reached = cursor or Cursor(self._account, FILLS, max(0, now_ms - self._settings.reach_ms), "", symbol)
        async for page in self._fill_pages(reached):
            settled = [one for one in page if one.time_ms <= settled_ms]
            moved = None
            if settled:
                last = settled[-1]
                moved = reached = replace(
                    reached, time_ms=max(last.time_ms, reached.time_ms), position=last.trade_id
                )
            done = await self._writer.fills([replace(one, exchange=self._account) for one in page], moved)
            found.fills += done.fills
            found.recognised += done.recognised
        if cursor is None or settled_ms - reached.time_ms > HOUR_MS:
            await self._writer.fills([], replace(reached, time_ms=max(settled_ms, reached.time_ms)))

    def _fill_pages(self, reached: Cursor) -> AsyncIterator[list[Fill]]:
        if reached.position:
            # With the last one again: it costs nothing, and where it is gone the history is another account's.
            return self._exchange.fill_pages(reached.symbol, from_id=reached.position)
        return self._exchange.fill_pages(reached.symbol, since_ms=reached.time_ms)

    # Bookings

    async def read_bookings(self, now_ms: int, found: CaughtUp, *, since_ms: int | None = None) -> None:
        """Record what changed the wallet beside trades, from the cursor on or from a time before it."""
        cursor = await self.cursor(BOOKINGS)
        settled_ms = now_ms - self._settings.settle_ms
        start_ms = cursor.time_ms if cursor else max(0, now_ms - self._settings.reach_ms)
        if since_ms is not None:
            start_ms = min(start_ms, since_ms)
        async for page in self._exchange.booking_pages(since_ms=start_ms):
            found.symbols |= {one.symbol for one in page if one.symbol}
            last_ms = min(page[-1].time_ms, settled_ms) if page else 0
            moved = Cursor(self._account, BOOKINGS, last_ms) if last_ms > start_ms else None
            income = [row for row in map(self._income, page) if row is not None]
            transfers = [one for one in map(self._transfer, page) if one is not None]
            if income or transfers or moved is not None:
                counted = await self._writer.bookings(income, transfers, moved)
                found.income += counted[0]
                found.transfers += counted[1]
            told = [row.time_ms for row in income] + [one.time_ms for one in transfers]
            self.booked_until_ms = max(self.booked_until_ms, *told, 0)
        if cursor is None or settled_ms - start_ms > HOUR_MS:
            await self._writer.bookings([], [], Cursor(self._account, BOOKINGS, max(settled_ms, start_ms)))

    def _income(self, one: Booking) -> Income | None:
        kind = {BookingKind.FUNDING: IncomeKind.FUNDING, BookingKind.LIQUIDATION: IncomeKind.CLEARANCE}.get(
            one.kind
        )
        if kind is None:
            return None
        # Income of a contract that the ledger does not keep still moves its wallet.
        symbol = one.symbol if is_kept(one.symbol) else ""
        return Income(self._account, symbol, one.time_ms, one.amount_usdt, one.transaction_id, kind)

    def _transfer(self, one: Booking) -> Transfer | None:
        if one.kind not in (BookingKind.TRANSFER, BookingKind.OTHER) or not one.amount_usdt:
            return None
        identity = f"{one.reason}:{one.transaction_id or one.time_ms}"
        return Transfer(self._account, MANUAL, one.amount_usdt, one.time_ms, identity, note=one.reason)

    # Settlements

    async def read_settlements(self, symbol: str, now_ms: int, found: CaughtUp) -> None:
        """Record the funding settlements that the exchange booked nothing for, with rate and mark price.

        Where opposite positions of two accounts leave no net, the exchange books nothing though one owes the other.
        A row with the amount 0 lets the ledger share it out; where the net was not zero it changes nothing.

        One that may be due is asked for at growing distances: eight times in an hour, however often one syncs.
        """
        cursor = await self.cursor(SETTLEMENTS, symbol)
        until_ms = (
            now_ms // HOUR_MS * HOUR_MS
        )  # settlements are at full hours, whatever a contract's interval
        if cursor is None:
            first_ms = await self._writer.run(self._first_fill_ms, symbol)
            if first_ms is None:
                return
            since_ms = max(first_ms, now_ms - self._settings.reach_ms)
        else:
            since_ms = cursor.time_ms
        if until_ms <= since_ms or not self._asks_again(symbol, until_ms, now_ms):
            return
        rows = []
        for rate in await self._exchange.funding_rates(symbol, since_ms, now_ms):
            mark = rate.mark_price
            if mark is None:
                candles = await self._exchange.mark_candles(
                    symbol, MINUTE_MS, limit=1, start_ms=rate.time_ms // MINUTE_MS * MINUTE_MS
                )
                if not candles:
                    _log.warning(
                        "%s: the exchange has neither mark price nor mark candle for the settlement at %s; what the "
                        "contract's accounts owe each other for it is not in the ledger",
                        symbol,
                        format_time(rate.time_ms),
                    )
                    continue
                mark = candles[0].open
            rows.append(
                Income(
                    self._account,
                    symbol,
                    rate.time_ms,
                    Decimal(0),
                    f"settlement:{rate.time_ms}",
                    rate=Decimal(repr(rate.rate)),
                    mark_price=Decimal(repr(mark)),
                )
            )
        listed = bool(rows) and rows[-1].time_ms >= until_ms
        # One that the exchange may not have listed yet is looked for again.
        reached_ms = until_ms + 1 if listed or now_ms - until_ms > _LISTED_AFTER_MS else until_ms - HOUR_MS
        moved = Cursor(self._account, SETTLEMENTS, max(since_ms, reached_ms), "", symbol)
        counted = await self._writer.bookings(rows, [], moved)
        found.income += counted[0]
        self._asked_ms[symbol] = until_ms, now_ms

    def _asks_again(self, symbol: str, until_ms: int, now_ms: int) -> bool:
        """Whether as much time has passed since the last question as had passed then since the hour."""
        hour_ms, asked_ms = self._asked_ms.get(symbol, (0, 0))
        if hour_ms != until_ms or now_ms < asked_ms:
            return True
        pause_ms = max(_ASKED_AGAIN_MS, asked_ms - until_ms)
        return now_ms - asked_ms >= pause_ms or now_ms - until_ms > _LISTED_AFTER_MS

    def _first_fill_ms(self, symbol: str) -> int | None:
        statement = (
            select(func.min(models.Fill.time_ms))
            .join(models.Exchange, models.Exchange.id == models.Fill.exchange_id)
            .where(models.Exchange.name == self._account, models.Fill.symbol == symbol)
        )
        with self._writer.ledger.store.read() as connection:
            found: int | None = connection.execute(statement).scalar_one()
        return found


def is_kept(symbol: str) -> bool:
    """Whether the ledger keeps accounts in what the contract is settled in."""
    return symbol.endswith(QUOTE) and symbol != QUOTE
