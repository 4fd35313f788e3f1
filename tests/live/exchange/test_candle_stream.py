"""The candle stream against a server that loses, repeats, reorders, falls silent and hangs up: each candle once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve

from envs.errors import ExchangeUnavailableError, MarketDataError
from live.exchange.base import Candle
from live.exchange.candle_stream import CandleStream
from live.exchange.clock import ExchangeClock
from live.exchange.sockets import StreamSettings

MINUTE = 60_000
START = 1_704_067_200_000  # 2024-01-01 00:00
PATIENCE = StreamSettings(
    silence_s=0.15,
    longest_silence_s=0.3,
    late_s=0.1,
    fill_again_s=(0.05, 0.1),
    first_retry_s=0.01,
    longest_retry_s=0.05,
    give_up_s=0.5,
)


def candle(index: int, symbol: str = "BTCUSDT") -> Candle:
    price = 100.0 + index
    return Candle(symbol, START + index * MINUTE, MINUTE, price, price + 1, price - 1, price, 5.0)


class Market:
    """A stream server and the history behind it. `closed` candles exist; the stream says what a test tells it."""

    def __init__(self) -> None:
        self.closed = 1
        self.missing: set[int] = set()
        self.history_errors = 0
        self.asked: list[tuple[str, int, int | None]] = []
        self.sockets: list[ServerConnection] = []
        self.paths: list[str] = []
        self.refuse = False
        self.server: Server | None = None
        self.changed = asyncio.Condition()

    async def handle(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.paths.append(socket.request.path)
        self.sockets.append(socket)
        async with self.changed:
            self.changed.notify_all()
        await socket.wait_closed()

    @property
    def url(self) -> str:
        assert self.server is not None
        port = next(iter(self.server.sockets)).getsockname()[1]
        return f"ws://127.0.0.1:{port}"

    async def read_history(self, symbol: str, start_ms: int, end_ms: int | None) -> list[Candle]:
        self.asked.append((symbol, start_ms, end_ms))
        async with self.changed:
            self.changed.notify_all()
        if self.history_errors:
            self.history_errors -= 1
            raise ExchangeUnavailableError("the history is away")
        rows = [candle(i, symbol) for i in range(self.closed) if i not in self.missing]
        found = [
            r for r in rows if r.open_time_ms >= start_ms and (end_ms is None or r.open_time_ms <= end_ms)
        ]
        return found[:1000]

    async def say(self, index: int, *, closed: bool = True, symbol: str = "BTCUSDT") -> None:
        """Send a kline message; a closed one is in the history from then on."""
        if closed:
            self.closed = max(self.closed, index + 1)
        row = candle(index, symbol)
        kline = {
            "t": row.open_time_ms,
            "T": row.close_time_ms,
            "s": symbol,
            "i": "1m",
            "o": str(row.open),
            "h": str(row.high),
            "l": str(row.low),
            "c": str(row.close),
            "v": str(row.volume),
            "x": closed,
        }
        name = f"{symbol.lower()}@kline_1m"
        event = {"stream": name, "data": {"e": "kline", "E": row.close_time_ms, "s": symbol, "k": kline}}
        await self.sockets[-1].send(json.dumps(event))

    async def connected(self, count: int) -> None:
        """Wait until so many sockets have been opened in all, and the history was asked after each."""
        async with self.changed:
            await asyncio.wait_for(
                self.changed.wait_for(lambda: min(len(self.sockets), len(self.asked)) >= count), 30
            )


@pytest.fixture
async def market() -> AsyncIterator[Market]:
    made = Market()
    async with serve(made.handle, "127.0.0.1", 0) as server:
        made.server = server
        yield made


def stream_of(
    market: Market,
    *symbols: str,
    after_ms: int = START,
    settings: StreamSettings = PATIENCE,
    clock: ExchangeClock | None = None,
) -> CandleStream:
    return CandleStream(
        market.url,
        symbols or ("BTCUSDT",),
        MINUTE,
        after_ms,
        read_history=market.read_history,
        clock=clock or ExchangeClock(simulated=True),
        settings=settings,
    )


async def take(stream: CandleStream, count: int) -> list[int]:
    """Indices of the next candles; checks that each is what the market has."""
    found = []
    for _ in range(count):
        one = await asyncio.wait_for(anext(stream), 30)
        index = (one.open_time_ms - START) // MINUTE
        assert one == candle(index, one.symbol)
        found.append(index)
    return found


async def test_closed_candles_come_once_and_open_ones_not_at_all(market: Market) -> None:
    clock = ExchangeClock(simulated=True)
    stream = stream_of(market, clock=clock)
    await market.connected(1)
    assert market.paths == ["/market/stream?streams=btcusdt@kline_1m"]
    await market.say(1, closed=False)
    await market.say(1)
    await market.say(1)  # repeated
    await market.say(0)  # old
    await market.say(2, closed=False)
    await market.say(2)
    assert await take(stream, 2) == [1, 2]
    assert clock.now_ms() == START + 3 * MINUTE
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


@pytest.mark.parametrize("after_ms", [START, START + MINUTE - 1])
async def test_what_closed_before_the_stream_began_comes_from_the_history(
    market: Market, after_ms: int
) -> None:
    """The last known candle may be named by its open or its close time."""
    market.closed = 4
    stream = stream_of(market, after_ms=after_ms)
    await market.connected(1)
    await market.say(4)
    assert await take(stream, 4) == [1, 2, 3, 4]
    await stream.aclose()


async def test_more_than_a_page_of_history(market: Market) -> None:
    market.closed = 2_300
    stream = stream_of(market)
    assert await take(stream, 2_299) == list(range(1, 2_300))
    await stream.aclose()


async def test_a_lost_closing_message_is_noticed_by_the_next_candle(market: Market) -> None:
    stream = stream_of(market)
    await market.connected(1)
    market.closed = 3
    await market.say(3, closed=False)
    assert await take(stream, 2) == [1, 2]
    await market.say(5)
    assert await take(stream, 3) == [3, 4, 5]
    await stream.aclose()


async def test_a_history_that_lags_behind_is_asked_again(market: Market) -> None:
    stream = stream_of(market)
    await market.connected(1)
    market.missing = {1}
    market.closed = 2

    async def appear() -> None:
        await asyncio.sleep(0.1)
        market.missing = set()

    appearing = asyncio.create_task(appear())
    await market.say(2)
    assert await take(stream, 2) == [1, 2]
    await appearing
    await stream.aclose()


async def test_a_hole_in_the_history_itself_is_an_error(market: Market) -> None:
    market.closed = 5
    market.missing = {2}
    stream = stream_of(market)
    assert await take(stream, 1) == [1]
    with pytest.raises(
        MarketDataError, match=r"BTCUSDT: .* no 1m candles from 2024-01-01 00:02 UTC to 2024-01-01 00:03"
    ):
        await take(stream, 1)
    with pytest.raises(MarketDataError):
        await take(stream, 1)
    await stream.aclose()


async def test_candles_that_close_during_an_interruption_come_before_newer_ones(market: Market) -> None:
    stream = stream_of(market)
    await market.connected(1)
    await market.say(1)
    assert await take(stream, 1) == [1]
    await market.sockets[-1].close()
    market.closed = 4
    await market.connected(2)
    await market.say(4)
    assert await take(stream, 3) == [2, 3, 4]
    await stream.aclose()


async def test_a_cut_connection_is_opened_anew(market: Market) -> None:
    stream = stream_of(market)
    await market.connected(1)
    market.sockets[-1].transport.abort()
    await market.connected(2)
    await market.say(1)
    assert await take(stream, 1) == [1]
    await stream.aclose()


async def test_silence_is_noticed_and_patience_grows_while_there_is_nothing_to_say(market: Market) -> None:
    stream = stream_of(market)
    await market.connected(1)
    began = time.monotonic()
    market.closed = 2  # closed, but the stream never said so
    assert await take(stream, 1) == [1]
    assert len(market.sockets) == 2
    await market.connected(4)
    # Silent for 0.15 s, then twice for the longest patience of 0.3 s.
    assert time.monotonic() - began >= 0.75
    await stream.aclose()


async def test_a_symbol_that_lags_behind_the_others_is_asked_about(market: Market) -> None:
    settings = StreamSettings(silence_s=10, late_s=0.1)
    stream = stream_of(market, "BTCUSDT", "ETHUSDT", settings=settings)
    await market.connected(1)
    await market.say(1, symbol="BTCUSDT")
    first = await asyncio.wait_for(anext(stream), 30)
    second = await asyncio.wait_for(anext(stream), 30)
    assert (first.symbol, second.symbol) == ("BTCUSDT", "ETHUSDT")
    assert second == candle(1, "ETHUSDT")
    await market.say(1, symbol="ETHUSDT")  # its message comes after all
    await market.say(2, symbol="ETHUSDT")
    await market.say(2, symbol="BTCUSDT")
    third, fourth = await take(stream, 2)
    assert (third, fourth) == (2, 2)
    assert len(market.sockets) == 1
    await stream.aclose()


async def test_an_outage_of_the_history_is_survived_and_a_long_one_reported(market: Market) -> None:
    market.history_errors = 3
    stream = stream_of(market)
    market.closed = 2
    assert await take(stream, 1) == [1]
    market.history_errors = 10**6
    await market.sockets[-1].close()
    with pytest.raises(MarketDataError, match=r"no candles for .* s: .*the history is away"):
        await take(stream, 1)
    await stream.aclose()


async def test_unread_candles_are_never_dropped_in_silence(market: Market) -> None:
    market.closed = 10
    stream = stream_of(market, settings=StreamSettings(buffer=5))
    await market.connected(1)
    await asyncio.sleep(0.1)
    assert await take(stream, 5) == [1, 2, 3, 4, 5]
    with pytest.raises(MarketDataError, match="5 closed candles wait to be read"):
        await take(stream, 1)
    await stream.aclose()


async def test_a_consumers_timeout_loses_nothing(market: Market) -> None:
    stream = stream_of(market, settings=StreamSettings(silence_s=10))
    await market.connected(1)
    for index in (1, 2, 3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.02)
        await market.say(index)
        assert await take(stream, 1) == [index]
    await stream.aclose()


async def test_nonsense_on_the_stream_leads_to_a_new_connection(market: Market) -> None:
    stream = stream_of(market)
    await market.connected(1)
    await market.sockets[-1].send("{not json")
    await market.connected(2)
    await market.sockets[-1].send('{"data": {"e": "kline", "k": {"s": "BTCUSDT"}}}')
    await market.connected(3)
    for harmless in ('{"result": null, "id": 1}', '{"data": [{"e": "kline"}]}', '{"e": "serverShutdown"}'):
        await market.sockets[-1].send(harmless)
    await market.say(1)
    assert await take(stream, 1) == [1]
    assert len(market.sockets) == 3
    await stream.aclose()
