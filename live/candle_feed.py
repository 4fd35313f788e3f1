"""Closed candles of all symbols, step by step: from the stream, with what is missing filled from REST."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from envs.errors import ExchangeError, MarketDataError
from envs.time_grid import HOUR_MS
from live.exchange.base import Candle, Exchange
from live.history import LiveHistory
from live.rehearsal import Rehearsal

_log = logging.getLogger(__name__)

# How long a step waits for the other symbols once the first candle is there, before it asks REST.
_SYMBOL_WAIT_S = 2.0
_DAY_MS = 86_400_000
# Settlements fall on whole hours and are booked within seconds.
_BOOKED_AFTER_MS = 30_000

RequestCandle = Callable[[], Awaitable[bool | None]]
"""Has the market play a candle: whether another follows it, or None when there was none left to play."""


class CandleFeed:
    """Delivers one closed candle per symbol and step, in order, each once.

    Attributes:
        stale: symbols whose candle did not come in this step; the last price stands in, without volume.
        exhausted: a replay has no further candle.
    """

    def __init__(
        self,
        exchange: Exchange,
        history: LiveHistory,
        request_candle: RequestCandle | None,
        rehearsal: Rehearsal | None = None,
    ) -> None:
        self._exchange = exchange
        self._rehearsal = rehearsal
        self._rehearsing: asyncio.Task[None] | None = None
        self._history = history
        self._request_candle = request_candle
        self._stream: AsyncIterator[Candle] | None = None
        self._stop = False
        self._waiting: asyncio.Timeout | None = None  # for a candle
        self._early: dict[tuple[int, str], Candle] = {}
        self._funding_until_ms = 0  # settlements up to here are in the history
        self.stale: tuple[str, ...] = ()
        self.exhausted = False

    async def start(self) -> None:
        """Load closed candles and funding rates, and open the stream behind them.

        Raises:
            MarketDataError: the exchange has too few candles, or a gap in them.
        """
        await self.close()
        self._early.clear()
        self.stale = ()
        self.exhausted = False
        history = self._history
        interval = history.interval_ms
        limit = history.candles_needed + 1
        loaded = await asyncio.gather(
            *(self._exchange.candles(symbol, interval, limit=limit) for symbol in history.symbols)
        )
        candles = dict(zip(history.symbols, loaded, strict=True))
        if not all(candles.values()):
            raise MarketDataError("the exchange has no closed candle of " + ", ".join(history.symbols))
        # Asked around a close, one symbol may already have the new candle and another not.
        last = min(rows[-1].open_time_ms for rows in candles.values())
        candles = {s: [row for row in rows if row.open_time_ms <= last] for s, rows in candles.items()}
        if history.uses_funding:
            reach_ms = max(history.candles_needed * interval, (history.settlements_needed + 2) * _DAY_MS)
            await self._load_funding(last + interval - 1 - reach_ms, last + interval - 1)
            self._funding_until_ms = last + interval - 1
        history.load(candles)
        self._stream = self._exchange.stream_candles(history.symbols, interval, after_ms=last)

    async def _load_funding(self, start_ms: int, end_ms: int) -> None:
        rates = await asyncio.gather(
            *(
                self._exchange.funding_rates(
                    symbol, max(start_ms, self._history.last_funding_ms(symbol) + 1), end_ms
                )
                for symbol in self._history.symbols
            )
        )
        for series in rates:
            self._history.add_funding(series)

    @property
    def stopped(self) -> bool:
        """Whether waits end at once."""
        return self._stop

    async def next_candles(self) -> dict[str, Candle] | None:
        """Wait for the next candle of every symbol and add it to the history.

        None when asked to stop, or when there is no further candle.

        Raises:
            MarketDataError: the stream ended with a hole that could not be filled.
        """
        if self._stop:
            return None
        history = self._history
        wanted_ms = history.last_open_ms + history.interval_ms
        if self._rehearsal is not None:
            self._rehearsing = asyncio.ensure_future(self._rehearsal.until(wanted_ms + history.interval_ms))
        try:
            return await self._next_candles(wanted_ms)
        finally:
            self._end_rehearsal()

    def _end_rehearsal(self) -> None:
        if self._rehearsing is not None:
            self._rehearsing.cancel()
            self._rehearsing = None

    async def _next_candles(self, wanted_ms: int) -> dict[str, Candle] | None:
        history = self._history
        if self._request_candle is not None:
            more = await self._request_candle()
            self.exhausted = not more
            if more is None:
                return None
        prefetch = asyncio.ensure_future(self._prefetch_funding(wanted_ms))
        try:
            got = await self._collect(wanted_ms)
            if got is None:
                return None
            await self._fill_missing(got, wanted_ms)
        finally:
            if not prefetch.done():
                prefetch.cancel()
                await asyncio.wait({prefetch})
        if not prefetch.cancelled():
            prefetch.result()
        close_ms = wanted_ms + history.interval_ms - 1
        hour_ms = close_ms - close_ms % HOUR_MS
        if history.uses_funding and self._funding_until_ms < hour_ms:
            await self._load_funding(0, close_ms)
            self._funding_until_ms = hour_ms
        history.append(got)
        return got

    async def _prefetch_funding(self, opens_ms: int) -> None:
        """While a candle forms, read the rates settled at its open: at its close nobody waits for them."""
        hour_ms = opens_ms - opens_ms % HOUR_MS
        if not self._history.uses_funding or self._funding_until_ms >= hour_ms:
            return
        now_ms = self._exchange.now_ms()
        await asyncio.sleep(max(0.0, (hour_ms + _BOOKED_AFTER_MS - now_ms) / 1000))
        try:
            await self._load_funding(0, hour_ms + _BOOKED_AFTER_MS)
        except ExchangeError as error:
            _log.info("funding rates are not read ahead: %s", error)  # they are read at the close
        else:
            self._funding_until_ms = hour_ms

    async def _collect(self, wanted_ms: int) -> dict[str, Candle] | None:
        """What the stream has of the candles that open at a time; None on a stop."""
        history = self._history
        got = {s: self._early.pop((wanted_ms, s)) for s in history.symbols if (wanted_ms, s) in self._early}
        while len(got) < len(history.symbols):
            candle = await self._take(_SYMBOL_WAIT_S if got else None)
            self._end_rehearsal()
            if candle is None:
                if self._stop:
                    return None
                break
            if candle.open_time_ms == wanted_ms:
                got[candle.symbol] = candle
                history.prepare(candle)
            elif candle.open_time_ms > wanted_ms:
                self._early[candle.open_time_ms, candle.symbol] = candle
                if not got:
                    # Another symbol is a whole candle ahead: what is missing here is not coming by stream.
                    break
            else:
                # Too late for its own step, but in time to take the stand-in's place in the history.
                history.correct(candle)
        return got

    async def _take(self, timeout_s: float | None) -> Candle | None:
        """The stream's next candle; None on a stop or after `timeout_s`."""
        assert self._stream is not None
        if self._stop:
            return None
        waiting = self._waiting = asyncio.timeout(timeout_s)
        try:
            async with waiting:
                return await anext(self._stream)
        except TimeoutError:
            if not waiting.expired():
                raise
            return None
        except StopAsyncIteration:
            raise MarketDataError(
                "the candle stream ended; restart to continue from the last candle"
            ) from None
        finally:
            self._waiting = None

    async def _fill_missing(self, got: dict[str, Candle], wanted_ms: int) -> None:
        history = self._history
        missing = [symbol for symbol in history.symbols if symbol not in got]
        stale = []
        for symbol in missing:
            rows = await self._exchange.candles(
                symbol, history.interval_ms, start_ms=wanted_ms, end_ms=wanted_ms, limit=1
            )
            if rows and rows[0].open_time_ms == wanted_ms:
                got[symbol] = rows[0]
                continue
            price = float(history.closes[history.symbols.index(symbol)])
            got[symbol] = Candle(symbol, wanted_ms, history.interval_ms, price, price, price, price, 0.0)
            stale.append(symbol)
        self.stale = tuple(stale)

    def stop(self) -> None:
        """End the current and every later wait."""
        self._stop = True
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def close(self) -> None:
        """End the stream; harmless when there is none."""
        aclose = getattr(self._stream, "aclose", None)
        self._stream = None
        if aclose is not None:
            await aclose()
