"""Position sync: every few seconds, what the ledger says everybody holds is compared with what the exchange says."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from envs.account import Fill
from envs.errors import AuthenticationError, ExchangeError
from live.exchange.base import AlgoEvent, ExchangeAccount, OpenOrder, OrderEvent, Resync, UserEvent
from live.exchange.budget import Meter, metered
from live.ledger import Cursor
from live.ledger.identity import Identity
from live.ledger.queries import RoundTrip, Where, round_trips
from live.sync.equity import EquityLog
from live.sync.history import CaughtUp
from live.sync.pace import interval_s
from live.sync.report import Changes, Difference, PositionRow, SyncReport
from live.sync.rows import compare, differences_of, opening_orders, position_rows
from live.sync.settings import PositionSyncSettings
from live.sync.trades import TradeSync

_LOG = logging.getLogger(__name__)

POSITIONS = "positions"
_REMEMBERED = 10_000
_Key = tuple[str, str, str]


@dataclass(slots=True)
class _Seen:
    """What one sync read."""

    account: ExchangeAccount
    prices: Mapping[str, Decimal]
    identity: Identity
    differences: tuple[Difference, ...] = ()
    late_fills: int = 0


class PositionSync:
    """Compares, marks and reports the positions of one exchange account, beside a running trade sync.

    A sync asks for positions and wallet, all prices and, where they may have changed, all open orders: one request
    each, at the same time, whatever the number of positions. What differs is read again, the history too, and only what
    still differs then is a difference.

    Args:
        trades: keeps the ledger; started by the caller.
        settings: see `PositionSyncSettings`.
        on_report: called with every report.

    Attributes:
        last: the newest report, None before the first.
        syncs, disagreements: how many there were, and how many of them ended with a difference.
    """

    def __init__(
        self,
        trades: TradeSync,
        *,
        settings: PositionSyncSettings | None = None,
        on_report: Callable[[SyncReport], None] | None = None,
    ) -> None:
        self.trades = trades
        self.settings = settings or PositionSyncSettings()
        self.last: SyncReport | None = None
        self.syncs = 0
        self.disagreements = 0
        self._on_report = on_report
        self._orders: tuple[OpenOrder, ...] = ()
        self._orders_at_s = 0.0
        self._orders_changed = True
        self._touched: dict[str, int] = {}
        self._reported: dict[_Key, None] = {}
        self._open: dict[_Key, PositionRow] | None = None
        self._task: asyncio.Task[None] | None = None
        self._syncing = asyncio.Lock()
        self._equity = EquityLog(trades.ledger, trades.account, round(1000 * self.settings.equity_s))
        trades.add_listener(on_fill=self._note_fill, on_event=self._note_event)

    @property
    def invariant_holds(self) -> bool | None:
        """Whether the accounts' sums equalled the exchange's figures at the newest sync; None before one could tell."""
        return None if self.last is None else self.last.holds

    def _note_fill(self, fill: Fill) -> None:
        self._touched[fill.symbol] = min(fill.time_ms, self._touched.get(fill.symbol, fill.time_ms))

    def _note_event(self, event: UserEvent) -> None:
        if isinstance(event, (AlgoEvent, OrderEvent, Resync)):
            self._orders_changed = True

    # The loop

    def start(self) -> None:
        """Sync again and again until `close`. Needs a running event loop."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="position sync")

    async def close(self) -> None:
        """End the loop; raises what ended it before, if it did."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                if not task.cancelled():
                    raise

    async def _run(self) -> None:
        while True:
            report = await self.once()
            await asyncio.sleep(interval_s(report, self.settings))

    # One sync

    async def once(self) -> SyncReport:
        """One sync. What the exchange fails to answer is in the report's `errors`.

        Raises:
            AuthenticationError: the exchange refuses the key.
            LedgerError, StoreError: an entry contradicts the ledger, or the database refused.
        """
        async with self._syncing:
            began_s = time.perf_counter()
            self.trades.check()
            errors: list[str] = []
            seen: _Seen | None = None
            with metered() as meter:
                try:
                    seen = await self._look()
                except AuthenticationError:
                    raise
                except ExchangeError as error:
                    errors.append(str(error))
            report = await self._report(seen, errors, meter)
            report = replace(report, duration_ms=(time.perf_counter() - began_s) * 1000)
            self.last = report
            self.syncs += 1
            self.disagreements += bool(report.differences)
            level = logging.WARNING if report.differences or report.errors else logging.INFO
            for line in report.lines():
                _LOG.log(level, "%s", line)
            if self._on_report is not None:
                self._on_report(report)
            return report

    async def _look(self) -> _Seen:
        """Read the exchange; where it differs from the ledger, read both again before saying so."""
        exchange = self.trades.exchange
        account, prices, orders, now_ms = await asyncio.gather(
            exchange.account(), exchange.prices(), self._open_orders(), exchange.server_time_ms()
        )
        self._orders = orders
        identity = self._compare(account)
        late = CaughtUp()
        if not identity.holds:
            # Most often a fill is on its way: the exchange has it, and the stream is about to tell.
            await asyncio.sleep(self.settings.reread_s)
            identity = self._compare(account)
        for number in range(self.settings.rereads):
            if identity.holds:
                break
            last = number == self.settings.rereads - 1
            if number:
                await asyncio.sleep(self.settings.reread_s)
            done = await self.trades.catch_up()
            late.fills += done.fills
            if last:
                await self.trades.read_bookings_again(now_ms - self.settings.deep_ms)
            account = await exchange.account()
            identity = self._compare(account)
        # Last: which contracts several accounts hold is known when no fill is on its way.
        await self._settle(now_ms)
        differences = differences_of(identity)
        return _Seen(account, prices, identity, differences, len(late.fills))

    async def _open_orders(self) -> tuple[OpenOrder, ...]:
        """All of them are dear: read again when one changed, as far as the stream can tell, or after a while."""
        now_s = time.monotonic()
        told = self.trades.is_listening and not self._orders_changed
        if told and now_s - self._orders_at_s < self.settings.orders_s:
            return self._orders
        self._orders_changed = False
        try:
            orders = tuple(await self.trades.exchange.open_orders())
        except BaseException:
            self._orders_changed = True
            raise
        self._orders_at_s = now_s
        try:
            await self.trades.orders.compare(orders, self.trades.exchange.now_ms())
        except AuthenticationError:
            raise
        except ExchangeError as error:
            _LOG.warning("%s: how an order ended cannot be asked: %s", self.trades.account, error)
        return orders

    async def _settle(self, now_ms: int) -> None:
        """Where the net is zero no event tells of a settlement."""
        await self.trades.read_settlements(now_ms, CaughtUp())

    def _compare(self, account: ExchangeAccount) -> Identity:
        return compare(self.trades.ledger, self.trades.account, account)

    async def _report(self, seen: _Seen | None, errors: list[str], meter: Meter) -> SyncReport:
        trades = self.trades
        prices = seen.prices if seen else {}
        held = {book.symbol for book in trades.ledger.books(trades.account) if book.open_trips()}
        time_ms = seen.account.time_ms if seen else trades.exchange.now_ms()
        touched, self._touched = self._touched, {}
        first = self._open is None
        marks = {symbol: prices[symbol] for symbol in held if symbol in prices}
        agrees = seen is not None and not seen.differences
        closed, opened_by = await trades.run(self._in_database, marks, time_ms, touched, first, agrees)
        before = self._open or {}
        known = {(key[1], key[2]): row.client_order_id for key, row in before.items()}
        rows = position_rows(
            trades.ledger,
            trades.account,
            prices=prices,
            held=seen.account.positions if seen else {},
            orders=self._orders,
            opened_by={**known, **opened_by},
        )
        now_open = {(row.owner, row.symbol, row.opened_by): row for row in rows}
        self._open = now_open
        owners = {row.owner for row in rows} | {trip.agent for trip in closed}
        agents = {
            owner: Changes(
                total=sum(key[0] == owner for key in now_open),
                added=sum(key[0] == owner and key not in before for key in now_open),
                updated=sum(key[0] == owner and key in before for key in now_open),
                closed=sum(trip.agent == owner for trip in closed),
            )
            for owner in sorted(owners)
        }
        return SyncReport(
            account=trades.account,
            time_ms=time_ms,
            positions=tuple(rows),
            agents=agents,
            closed=tuple(closed),
            exchange_positions=dict(seen.account.positions) if seen else {},
            open_orders=self._orders,
            identity=seen.identity if seen else None,
            differences=seen.differences if seen else (),
            errors=tuple(errors),
            late_fills=seen.late_fills if seen else 0,
            requests=meter.requests,
            weight=meter.weight,
        )

    def _in_database(
        self,
        marks: Mapping[str, Decimal],
        time_ms: int,
        touched: Mapping[str, int],
        first: bool,
        agrees: bool,
    ) -> tuple[list[RoundTrip], dict[tuple[str, str], str]]:
        """What needs the database, off the event loop: marks, ended round trips, the orders that opened positions."""
        ledger, account = self.trades.ledger, self.trades.account
        if marks:
            ledger.mark(account, marks, time_ms)
        if agrees:
            self._equity.write(time_ms, marks)
        closed = []
        since: dict[str | None, int] = dict(touched.items())
        if first:
            cursor = ledger.cursor(account, POSITIONS)
            # At the first sync ever, what closed before it is history.
            since = {} if cursor is None else {None: cursor.time_ms + 1}
        for symbol, since_ms in since.items():
            where = Where(exchange=account, symbol=symbol, since_ms=since_ms)
            closed += [
                trip for trip in round_trips(ledger.store, where, is_open=False) if self._is_news(trip)
            ]
        if first or closed or touched:
            ledger.record_batch(cursors=[Cursor(account, POSITIONS, time_ms)])
        known = {(key[1], key[2]) for key in self._open or {}}
        return closed, opening_orders(ledger, account, known)

    def _is_news(self, trip: RoundTrip) -> bool:
        key = trip.agent, trip.symbol, f"{trip.entry_trade_id}-{trip.exit_trade_id}"
        if key in self._reported:
            return False
        self._reported[key] = None
        while len(self._reported) > _REMEMBERED:
            del self._reported[next(iter(self._reported))]
        return True
