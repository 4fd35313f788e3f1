"""One stream of candles for several agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from envs.errors import ExchangeError, MarketDataError
from envs.time_grid import grid_offset_ms
from live.exchange.base import Candle, Exchange
from live.exchange.buffer import EventStream

_PAGE = 1000
_LIMIT = 20_000

OnCandle = Callable[[Candle], None]


class CandleHub:
    """Opens one candle stream per interval over all symbols, and hands its candles to every subscriber.

    Args:
        exchange: connected.
        symbols: of the stream.
        on_candle: told of each candle once, before the subscribers.
    """

    def __init__(self, exchange: Exchange, symbols: Sequence[str], on_candle: OnCandle) -> None:
        self._exchange = exchange
        self._symbols = tuple(symbols)
        self._on_candle = on_candle
        self._streams: dict[int, _Shared] = {}

    def subscribe(self, symbols: Sequence[str], interval_ms: int, after_ms: int) -> AsyncIterator[Candle]:
        """Closed candles; see `Exchange.stream_candles`. Needs a running event loop."""
        shared = self._streams.get(interval_ms)
        if shared is None or shared.ended:
            everything = tuple(dict.fromkeys((*self._symbols, *symbols)))
            stream = self._exchange.stream_candles(everything, interval_ms, after_ms=after_ms)
            shared = self._streams[interval_ms] = _Shared(stream, everything, self._on_candle)
        elif not set(symbols) <= set(shared.symbols):
            missing = sorted(set(symbols) - set(shared.symbols))
            raise MarketDataError(
                f"the account's candle stream has no {', '.join(missing)}; add it to its symbols"
            )
        return _Subscription(self._exchange, shared, symbols, interval_ms, after_ms)

    async def close(self) -> None:
        """End all streams."""
        for shared in self._streams.values():
            await shared.close()
        self._streams.clear()


class _Shared:
    """The one stream, and who listens."""

    def __init__(self, stream: AsyncIterator[Candle], symbols: tuple[str, ...], on_candle: OnCandle) -> None:
        self.symbols = symbols
        self.error: BaseException | None = None
        self.ended = False
        self.newest_ms: dict[str, int] = {}
        self.listeners: list[asyncio.Queue[Candle | None]] = []
        self._stream = stream
        self._on_candle = on_candle
        self._task = asyncio.get_running_loop().create_task(self._run(), name="shared candles")

    async def _run(self) -> None:
        try:
            async for candle in self._stream:
                self.newest_ms[candle.symbol] = candle.open_time_ms
                self._on_candle(candle)
                for queue in self.listeners:
                    queue.put_nowait(candle)
        except (ExchangeError, MarketDataError) as error:
            self.error = error
        finally:
            self.ended = True
            for queue in self.listeners:
                queue.put_nowait(None)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        aclose = getattr(self._stream, "aclose", None)
        if aclose is not None:
            await aclose()


class _Subscription(EventStream[Candle]):
    """One agent's candles out of the shared stream; what the stream had before, or had not, comes from the history."""

    def __init__(
        self, exchange: Exchange, shared: _Shared, symbols: Sequence[str], interval_ms: int, after_ms: int
    ) -> None:
        super().__init__(_LIMIT)
        self._exchange = exchange
        self._shared = shared
        self._interval_ms = interval_ms
        offset_ms = grid_offset_ms(interval_ms)
        first_ms = ((after_ms - offset_ms) // interval_ms + 1) * interval_ms + offset_ms
        self._next_ms = dict.fromkeys(symbols, first_ms)
        self._queue: asyncio.Queue[Candle | None] = asyncio.Queue()
        shared.listeners.append(self._queue)
        self.start(self._run(), "candles of an agent")

    async def _run(self) -> None:
        for symbol, newest_ms in list(self._shared.newest_ms.items()):
            if symbol in self._next_ms:
                await self._fill(symbol, newest_ms + self._interval_ms)
        while True:
            candle = await self._queue.get()
            if candle is None:
                break
            if candle.symbol not in self._next_ms or candle.open_time_ms < self._next_ms[candle.symbol]:
                continue
            await self._fill(candle.symbol, candle.open_time_ms)
            self._deliver(candle)
        if self._shared.error is not None:
            raise self._shared.error

    async def _fill(self, symbol: str, until_ms: int) -> None:
        """Deliver what opened before `until_ms` and is still due."""
        while self._next_ms[symbol] < until_ms:
            first_ms = self._next_ms[symbol]
            rows = await self._exchange.candles(
                symbol,
                self._interval_ms,
                limit=_PAGE,
                start_ms=first_ms,
                end_ms=until_ms - self._interval_ms,
            )
            if not rows or rows[0].open_time_ms != first_ms:
                raise MarketDataError(
                    f"{symbol}: the candle that opens at {first_ms} is missing in the history"
                )
            for row in rows:
                self._deliver(row)

    def _deliver(self, candle: Candle) -> None:
        if self.is_full():
            raise MarketDataError(f"nobody reads the candles: {self.limit} are waiting; restart the agent")
        self._next_ms[candle.symbol] = candle.open_time_ms + self._interval_ms
        self.push(candle)

    async def aclose(self) -> None:
        """End the subscription; the stream goes on for the others."""
        if self._queue in self._shared.listeners:
            self._shared.listeners.remove(self._queue)
        await super().aclose()
