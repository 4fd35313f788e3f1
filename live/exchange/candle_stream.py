"""Closed candles from Binance's kline streams: each once, in order per symbol, without gaps."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from envs.errors import ExchangeError, MarketDataError
from envs.time_grid import format_time, grid_offset_ms, interval_name
from live.exchange.base import Candle
from live.exchange.buffer import EventStream
from live.exchange.clock import ExchangeClock
from live.exchange.parse import malformed
from live.exchange.sockets import (
    INTERRUPTIONS,
    Backoff,
    ClientConnection,
    StreamSettings,
    decode,
    event_of,
    open_socket,
)

_LOG = logging.getLogger(__name__)

_FILL_PAGE = 1000

ReadHistory = Callable[[str, int, int | None], Awaitable[list[Candle]]]
"""(symbol, first open time, last open time or None) -> closed candles, ascending, at most a page of 1000."""


class CandleStream(EventStream[Candle]):
    """Closed candles of several symbols. Needs a running event loop.

    A hole shows itself in four ways, and each is filled from REST before anything newer is delivered: the socket was
    opened anew; a message belongs to a later candle than the next one due; another symbol's candle closed `late_s`
    ago; nothing came for `silence_s`. `on_price` hears every last price, also of candles that are still open.
    """

    def __init__(
        self,
        ws_url: str,
        symbols: Sequence[str],
        interval_ms: int,
        after_ms: int,
        *,
        read_history: ReadHistory,
        clock: ExchangeClock,
        settings: StreamSettings,
        rng: random.Random | None = None,
        on_price: Callable[[str, float], None] = lambda _symbol, _price: None,
    ) -> None:
        super().__init__(settings.buffer)
        name = interval_name(interval_ms)
        streams = "/".join(f"{symbol.lower()}@kline_{name}" for symbol in symbols)
        self._url = f"{ws_url}/market/stream?streams={streams}"
        self._interval_ms = interval_ms
        offset_ms = grid_offset_ms(interval_ms)
        first_ms = ((after_ms - offset_ms) // interval_ms + 1) * interval_ms + offset_ms
        self._next_ms = dict.fromkeys(symbols, first_ms)
        self._read_history = read_history
        self._on_price = on_price
        self._clock = clock
        self._settings = settings
        self._backoff = Backoff(settings, rng)
        self._silence_s = settings.silence_s
        self._overdue_at_s: float | None = None
        self.start(self._run(), "candle stream")

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        healthy_at_s = loop.time()
        while True:
            opened = False
            try:
                async with open_socket(self._url) as socket:
                    for symbol in self._next_ms:
                        await self._fill(symbol)
                    opened = True
                    await self._read(socket)
                    continue
            except (*INTERRUPTIONS, ExchangeError) as error:
                problem = error
            if opened:
                healthy_at_s = loop.time()
            down_s = loop.time() - healthy_at_s
            if down_s > self._settings.give_up_s:
                raise MarketDataError(
                    f"no candles for {down_s:.0f} s: the market stream cannot be opened ({problem}); "
                    f"check the network and the exchange's status"
                ) from problem
            pause_s = self._backoff.pause_s()
            _LOG.warning("candle stream interrupted (%s); opened anew in %.1f s", problem, pause_s)
            await asyncio.sleep(pause_s)

    async def _read(self, socket: ClientConnection) -> None:
        """Read until the stream falls silent; interruptions are raised."""
        loop = asyncio.get_running_loop()
        heard_at_s = loop.time()
        while True:
            silent_at_s = heard_at_s + self._silence_s
            deadline_s = silent_at_s if self._overdue_at_s is None else min(silent_at_s, self._overdue_at_s)
            try:
                async with asyncio.timeout_at(deadline_s):
                    text = await socket.recv()
            except TimeoutError:
                if self._overdue_at_s is not None and loop.time() >= self._overdue_at_s:
                    await self._fill_laggards()
                    continue
                _LOG.info("candle stream silent for %.0f s: opened anew", self._silence_s)
                # Quiet markets exist, and a paused replay: be more patient each time.
                self._silence_s = min(2 * self._silence_s, self._settings.longest_silence_s)
                return
            heard_at_s = loop.time()
            self._silence_s = self._settings.silence_s
            self._backoff.reset()
            await self._take(decode(text))

    async def _take(self, message: Mapping[str, Any]) -> None:
        body = event_of(message)
        if body.get("e") != "kline":
            return
        try:
            kline = body["k"]
            symbol, open_ms, closed = str(kline["s"]), int(kline["t"]), bool(kline["x"])
            due_ms = self._next_ms.get(symbol)
            if due_ms is None or open_ms < due_ms:
                return
            if not closed:
                self._on_price(symbol, float(kline["c"]))
            if open_ms > due_ms:
                await self._fill(symbol, before_ms=open_ms)
            if closed and open_ms == self._next_ms[symbol]:
                self._deliver(_candle(symbol, self._interval_ms, kline))
        except (KeyError, TypeError, ValueError) as error:
            raise malformed("a kline event", error) from error

    def _deliver(self, candle: Candle) -> None:
        if self.is_full():
            raise MarketDataError(
                f"{self.limit} closed candles wait to be read; whoever reads them is stuck or too slow"
            )
        self._clock.observe(candle.close_time_ms + 1)
        self._on_price(candle.symbol, candle.close)
        self._next_ms[candle.symbol] = candle.open_time_ms + self._interval_ms
        self.push(candle)
        newest_ms, oldest_ms = max(self._next_ms.values()), min(self._next_ms.values())
        if newest_ms == oldest_ms:
            self._overdue_at_s = None
        elif self._overdue_at_s is None:
            self._overdue_at_s = asyncio.get_running_loop().time() + self._settings.late_s

    async def _fill_laggards(self) -> None:
        newest_ms = max(self._next_ms.values())
        for symbol, next_ms in list(self._next_ms.items()):
            if next_ms < newest_ms:
                _LOG.info("%s: the candle message is late, asking the history", symbol)
                await self._fill(symbol)
        behind = min(self._next_ms.values()) < max(self._next_ms.values())
        self._overdue_at_s = asyncio.get_running_loop().time() + self._settings.late_s if behind else None

    async def _fill(self, symbol: str, *, before_ms: int | None = None) -> None:
        """Deliver from the history what has closed; with `before_ms`, all candles that open before it.

        Raises:
            MarketDataError: the history lacks one of those.
        """
        pauses = iter(self._settings.fill_again_s)
        while True:
            last_ms = None if before_ms is None else before_ms - 1
            found = await self._read_history(symbol, self._next_ms[symbol], last_ms)
            missing_until_ms = before_ms
            for candle in found:
                if candle.open_time_ms != self._next_ms[symbol]:
                    missing_until_ms = candle.open_time_ms
                    break
                self._deliver(candle)
            else:
                if len(found) >= _FILL_PAGE:
                    continue
            if missing_until_ms is None or self._next_ms[symbol] >= missing_until_ms:
                return
            pause_s = next(pauses, None)
            if pause_s is None:
                raise MarketDataError(
                    f"{symbol}: the exchange's history has no {interval_name(self._interval_ms)} candles from "
                    f"{format_time(self._next_ms[symbol])} to {format_time(missing_until_ms)} (excluded); "
                    f"trading needs them all, so start again once they are there"
                )
            await asyncio.sleep(pause_s)


def _candle(symbol: str, interval_ms: int, kline: Mapping[str, Any]) -> Candle:
    return Candle(
        symbol=symbol,
        open_time_ms=int(kline["t"]),
        interval_ms=interval_ms,
        open=float(kline["o"]),
        high=float(kline["h"]),
        low=float(kline["l"]),
        close=float(kline["c"]),
        volume=float(kline["v"]),
    )
