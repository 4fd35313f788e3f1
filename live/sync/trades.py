"""Trade sync: the one path by which fills, funding and transfers of a real account get into the ledger."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, ParamSpec, Self, TypeVar

from envs.account import Fill
from envs.errors import AuthenticationError, ConfigError, ExchangeError
from live.exchange.base import (
    AccountEvent,
    Exchange,
    FillEvent,
    FundingEvent,
    Resync,
    UserEvent,
    UserEventStream,
)
from live.ledger import Ledger
from live.sync.history import CaughtUp, HistoryReader, is_kept
from live.sync.opening import open_books
from live.sync.orders import OrderLog
from live.sync.settings import TradeSyncSettings
from live.sync.writer import LedgerWriter

_LOG = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
FillListener = Callable[[Fill], None]
EventListener = Callable[[UserEvent], None]


class TradeSync:
    """Keeps the ledger of one real exchange account complete: by the user stream, and by REST where that has holes.

    Both sources lead into `Ledger.record_batch`, where a fill counts once, in whatever order it comes. `start` reads
    what was missed since the cursors, then listens; after every hole in the stream the history is read again from the
    cursors. Whoever is killed, at whatever instruction, goes on from them.

    Args:
        exchange: the account; connected by the caller, who also closes it.
        ledger: written by one thread of this object; the event loop does not wait for the database.
        symbols: that are traded here. Others that turn up in the ledger, in the account's positions, in its bookings
            or on the stream are recorded too, and are in `found_symbols`.
        account: the exchange account's name in the ledger; by default the exchange's own.
        on_fill: called with each new fill, once, after it is committed, on the event loop. A fill that is committed
            when the process dies is not told again: what follows from fills is read from the ledger at a start.
        on_event: called with every event of the user stream as it arrives, fills too, before they are recorded.
        settings: see `TradeSyncSettings`.

    Attributes:
        found_symbols: that the account trades beside those given.
        left_out: that it trades, and that the ledger does not keep because they are not settled in USDT.
        error: what ended the sync, None while it runs.
        orders: writes down the account's orders.
    """

    def __init__(
        self,
        exchange: Exchange,
        ledger: Ledger,
        *,
        symbols: Iterable[str],
        account: str | None = None,
        on_fill: FillListener | None = None,
        on_event: EventListener | None = None,
        settings: TradeSyncSettings | None = None,
    ) -> None:
        self.exchange = exchange
        self.ledger = ledger
        self.account = account or exchange.name
        self.symbols = frozenset(symbols)
        for symbol in sorted(self.symbols):
            if not is_kept(symbol):
                raise ConfigError(f"symbol {symbol!r} is not a contract settled in USDT; leave it out")
        self.found_symbols: set[str] = set()
        self.left_out: set[str] = set()
        self.settings = settings or TradeSyncSettings()
        self._fill_listeners = [on_fill] if on_fill else []
        self._event_listeners = [on_event] if on_event else []
        self._writer = LedgerWriter(ledger, self._tell)
        self.orders = OrderLog(exchange, self._writer, self.account)
        self.history = HistoryReader(exchange, self._writer, self.account, self.settings)
        self._stream: UserEventStream | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._heard: list[Fill] = []
        self._anything_heard = asyncio.Event()
        self._opened = asyncio.Event()
        self._hole = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._booked = asyncio.Event()
        self._booking_ms = 0
        self._catching_up = asyncio.Lock()
        self._recording = 0
        self.error: BaseException | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def is_caught_up(self) -> bool:
        """Whether the ledger has everything that the exchange has told: no hole is open, no fill waits."""
        waiting = self._heard or self._recording
        return self.is_listening and self._caught_up.is_set() and not waiting

    @property
    def is_listening(self) -> bool:
        """Whether the user stream can tell of an event now."""
        return self.error is None and self._stream is not None and self._stream.connected

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do something with the ledger's database on the thread that writes to it, off the event loop."""
        return await self._writer.run(work, *args, **kwargs)

    def add_listener(
        self, on_fill: FillListener | None = None, on_event: EventListener | None = None
    ) -> None:
        """Tell somebody else, too."""
        if on_fill is not None:
            self._fill_listeners.append(on_fill)
        if on_event is not None:
            self._event_listeners.append(on_event)

    async def start(self) -> CaughtUp:
        """Read what was missed, and listen from then on.

        Raises:
            ExchangeError: the history cannot be read. Nothing runs then; what was recorded stays.
            LedgerError, StoreError: an entry contradicts the ledger, or the database refused.
        """
        if self._tasks:
            raise ConfigError("the trade sync runs already; close it first")
        self.error = None
        try:
            self._run(self._listen(), "user events")
            self._run(self._record_heard(), "record fills")
            try:
                # What happens while the history is read is then told by the stream.
                async with asyncio.timeout(self.settings.stream_s):
                    await self._opened.wait()
            except TimeoutError:
                _LOG.warning("%s: no user stream yet; reading the history without it", self.account)
            self.check()
            done = await self.catch_up()
            await open_books(self, self._writer, done)
            await self.orders.start()
            self._run(self.orders.run(), "write orders")
            self._run(self._fill_holes(), "fill holes")
            self._run(self._read_booked(), "read bookings")
        except BaseException:
            await self.close()
            raise
        return done

    async def close(self) -> None:
        """Stop listening; fills that were heard are recorded first."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()
        try:
            if self._heard and self.error is None:
                await self._record_now()
            if self.error is None:
                await self.orders.write()
        finally:
            await self._writer.close()

    def check(self) -> None:
        """Raise the error that ended the sync, if one did."""
        if self.error is not None:
            raise self.error

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None and self.error is None:
            self.error = task.exception()
            _LOG.error("%s: the trade sync has ended: %s", self.account, self.error)
            self._opened.set()

    # Recording

    async def record(self, *fills: Fill) -> tuple[Fill, ...]:
        """Record fills that are known from an order's report; those that were new, after their listeners were told.

        Raises:
            LedgerError, StoreError: see `Ledger.record_batch`.
        """
        done = await self._writer.fills([replace(one, exchange=self.account) for one in fills])
        return done.fills

    def _tell(self, fills: Sequence[Fill]) -> None:
        for fill in fills:
            self._notice(fill.symbol)
            self.orders.on_fill(fill)
            for listener in self._fill_listeners:
                listener(fill)

    def _notice(self, *symbols: str) -> None:
        for symbol in sorted(set(symbols) - self.symbols - self.found_symbols - self.left_out):
            if is_kept(symbol):
                self.found_symbols.add(symbol)
                _LOG.info("%s trades %s, which is not among the symbols given", self.account, symbol)
            else:
                self.left_out.add(symbol)
                _LOG.warning(
                    "%s trades %s, which the ledger does not keep: not in USDT", self.account, symbol
                )

    # The stream

    async def _listen(self) -> None:
        """Hear events until the end; a stream that gave up is opened anew."""
        attempt = 0
        while True:
            stream = self._stream = self.exchange.stream_user_events()
            try:
                async for event in stream:
                    attempt = 0
                    self._hear(event)
                return  # the exchange was closed
            except AuthenticationError:
                raise
            except ExchangeError as error:
                _LOG.warning("%s: %s", self.account, error)
            finally:
                self._caught_up.clear()
                await stream.aclose()
            pauses = self.settings.retry_s
            await asyncio.sleep(pauses[min(attempt, len(pauses) - 1)])
            attempt += 1

    def _hear(self, event: UserEvent) -> None:
        match event:
            case FillEvent():
                self._heard.append(event.fill)
                self._anything_heard.set()
            case Resync():
                self._caught_up.clear()
                self._opened.set()
                self._hole.set()
            case FundingEvent():
                self._expect_booking(event.time_ms)
            case AccountEvent() if event.reason != "ORDER" and event.wallet_usdt is not None:
                self._expect_booking(event.time_ms)
        self.orders.on_event(event)
        for listener in self._event_listeners:
            listener(event)

    def _expect_booking(self, time_ms: int) -> None:
        self._booking_ms = max(self._booking_ms, time_ms)
        self._booked.set()

    async def _record_heard(self) -> None:
        while True:
            await self._anything_heard.wait()
            self._anything_heard.clear()
            await self._record_now()

    async def _record_now(self) -> None:
        fills, self._heard = self._heard, []
        self._notice(*(one.symbol for one in fills))
        self._recording += 1
        try:
            await self.record(*(one for one in fills if is_kept(one.symbol)))
        except BaseException:
            self._heard = fills + self._heard
            raise
        finally:
            self._recording -= 1

    # The history

    async def catch_up(self, symbols: Iterable[str] | None = None) -> CaughtUp:
        """Bring the ledger up to now by REST: fills of the given symbols, by default of all that are known, and all
        bookings.

        Raises:
            ExchangeError: the history cannot be read; what was read is recorded.
            LedgerError, StoreError: an entry contradicts the ledger, or the database refused.
        """
        self.check()
        async with self._catching_up:
            self._hole.clear()
            now_ms, account = await asyncio.gather(self.exchange.server_time_ms(), self.exchange.account())
            found = CaughtUp()
            self._notice(*account.positions)
            wanted = self._known_symbols() if symbols is None else set(symbols)
            await _together(
                self.history.read_bookings(now_ms, found), self._read_fills(wanted, now_ms, found)
            )
            self._notice(*found.symbols)
            if symbols is None and (more := self._known_symbols() - wanted):
                await self._read_fills(more, now_ms, found)
            await self.read_settlements(now_ms, found)
            if symbols is None and not self._hole.is_set() and self._opened.is_set():
                self._caught_up.set()
            return found

    async def _read_fills(self, symbols: Iterable[str], now_ms: int, found: CaughtUp) -> None:
        room = asyncio.Semaphore(self.settings.at_once)

        async def read(symbol: str) -> None:
            async with room:
                await self.history.read_fills(symbol, now_ms, found)

        await _together(*(read(symbol) for symbol in sorted(symbols)))

    async def read_settlements(self, now_ms: int, found: CaughtUp) -> None:
        """Record settlements of symbols that several accounts have held; cheap where no hour has passed."""
        for book in self.ledger.books(self.account):
            if book.symbol and len(book.positions) > 1:
                await self.history.read_settlements(book.symbol, now_ms, found)

    async def read_bookings_again(self, since_ms: int) -> CaughtUp:
        """Read everything that changed the wallet since a time, though it was read before."""
        async with self._catching_up:
            found = CaughtUp()
            now_ms = await self.exchange.server_time_ms()
            await self.history.read_bookings(now_ms, found, since_ms=since_ms)
            return found

    def _known_symbols(self) -> set[str]:
        booked = {book.symbol for book in self.ledger.books(self.account) if book.symbol}
        return booked | self.symbols | self.found_symbols

    async def _fill_holes(self) -> None:
        pauses, attempt = self.settings.retry_s, 0
        while True:
            await self._hole.wait()
            try:
                await self.catch_up()
                attempt = 0
            except AuthenticationError:
                raise
            except ExchangeError as error:
                pause_s = pauses[min(attempt, len(pauses) - 1)]
                _LOG.warning("%s: cannot catch up (%s); again in %g s", self.account, error, pause_s)
                attempt += 1
                self._hole.set()
                await asyncio.sleep(pause_s)

    async def _read_booked(self) -> None:
        """Read the bookings that the stream has told of; the exchange may list them a moment later."""
        while True:
            await self._booked.wait()
            self._booked.clear()
            for pause_s in self.settings.booked_s:
                if self.history.booked_until_ms >= self._booking_ms:
                    break
                await asyncio.sleep(pause_s)
                try:
                    await self.read_bookings_again(self._booking_ms - 1)
                except AuthenticationError:
                    raise
                except ExchangeError as error:
                    _LOG.warning("%s: bookings cannot be read: %s", self.account, error)


async def _together(*works: Coroutine[Any, Any, None]) -> None:
    """All of them at once; the first error ends the others, so that none runs on behind the caller's back."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
