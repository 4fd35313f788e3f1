"""Candles of several symbols, step by step, from an exchange that sends them late, twice, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from live_support import FEATURES, env_config, rig, step
from support import START_MS, market_of

from envs.account import OrderStatus
from envs.errors import MarketDataError
from envs.features import FeatureConfig
from envs.risk import RiskLimits
from live import candle_feed
from live.candle_feed import CandleFeed
from live.exchange.base import Candle, FundingRate
from live.exchange.binance import BinanceExchange
from live.history import LiveHistory

HOUR = 3_600_000
SYMBOLS = ("BTCUSDT", "ETHUSDT")


def candle(symbol: str, index: int, price: float = 100.0) -> Candle:
    return Candle(symbol, START_MS + index * HOUR, HOUR, price, price + 1, price - 1, price, 5.0)


class Stream:
    """What is in a queue, until a None."""

    def __init__(self, sent: asyncio.Queue[Candle | None]) -> None:
        self._sent = sent

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Candle:
        one = await self._sent.get()
        if one is None:
            raise StopAsyncIteration
        return one


class Exchange:
    """Streams what is put into `sent`; its history has what is in `listed`."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[Candle | None] = asyncio.Queue()
        self.listed = {symbol: [candle(symbol, index) for index in range(3)] for symbol in SYMBOLS}
        self.asked: list[tuple[str, int | None]] = []
        self.clock_ms = 0
        self.settled: list[FundingRate] = []
        self.rates_asked = 0

    def now_ms(self) -> int:
        return self.clock_ms

    async def funding_rates(self, symbol: str, start_ms: int, end_ms: int) -> list[FundingRate]:
        self.rates_asked += 1
        await asyncio.sleep(0)
        return [one for one in self.settled if one.symbol == symbol and start_ms <= one.time_ms <= end_ms]

    async def candles(
        self,
        symbol: str,
        interval_ms: int,
        *,
        limit: int,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> list[Candle]:
        self.asked.append((symbol, start_ms))
        rows = self.listed[symbol]
        if start_ms is None:
            return rows[-limit:]
        return [row for row in rows if start_ms <= row.open_time_ms <= (end_ms or 2**62)][:limit]

    def stream_candles(self, symbols: Any, interval_ms: int, *, after_ms: int) -> Stream:
        return Stream(self.sent)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candle_feed, "_SYMBOL_WAIT_S", 0.05)


async def begin() -> tuple[Exchange, CandleFeed, LiveHistory]:
    exchange = Exchange()
    history = LiveHistory(SYMBOLS, HOUR, FEATURES, None, 1)
    feed = CandleFeed(exchange, history, None)  # type: ignore[arg-type]
    await feed.start()
    return exchange, feed, history


async def test_a_step_begins_when_every_symbol_has_its_candle() -> None:
    exchange, feed, history = await begin()
    exchange.sent.put_nowait(candle("ETHUSDT", 3))
    waiting = asyncio.ensure_future(feed.next_candles())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    exchange.sent.put_nowait(candle("BTCUSDT", 3))
    got = await waiting
    assert got is not None and set(got) == set(SYMBOLS) and feed.stale == ()
    assert history.last_open_ms == START_MS + 3 * HOUR
    await feed.close()


async def test_a_symbol_whose_message_is_lost_is_read_from_rest() -> None:
    exchange, feed, history = await begin()
    exchange.sent.put_nowait(candle("BTCUSDT", 3))
    exchange.listed["ETHUSDT"].append(candle("ETHUSDT", 3, 120.0))
    await feed.next_candles()
    assert feed.stale == () and history.closes.tolist() == [100.0, 120.0]
    # The message comes after all: it is nothing new.
    exchange.sent.put_nowait(candle("ETHUSDT", 3, 120.0))
    for symbol in SYMBOLS:
        exchange.sent.put_nowait(candle(symbol, 4, 130.0))
    await feed.next_candles()
    assert history.last_open_ms == START_MS + 4 * HOUR and feed.stale == ()
    await feed.close()


async def test_a_symbol_without_a_candle_is_stale_and_its_late_candle_mends_the_history() -> None:
    exchange, feed, history = await begin()
    exchange.sent.put_nowait(candle("BTCUSDT", 3, 101.0))
    got = await feed.next_candles()
    assert got is not None and feed.stale == ("ETHUSDT",)
    assert (got["ETHUSDT"].close, got["ETHUSDT"].volume) == (100.0, 0.0)
    exchange.sent.put_nowait(candle("ETHUSDT", 3, 90.0))
    exchange.sent.put_nowait(candle("ETHUSDT", 4, 91.0))
    exchange.sent.put_nowait(candle("BTCUSDT", 4, 102.0))
    await feed.next_candles()
    assert feed.stale == ()
    mended = history.recent(2)
    columns = (mended.open, mended.high, mended.low, mended.close, mended.volume)
    assert [column[0, 1] for column in columns] == [90.0, 91.0, 89.0, 90.0, 5.0]
    assert history.closes.tolist() == [102.0, 91.0]
    await feed.close()


async def test_a_symbol_that_is_a_candle_ahead_waits_its_turn() -> None:
    exchange, feed, _ = await begin()
    exchange.sent.put_nowait(candle("BTCUSDT", 3))
    exchange.sent.put_nowait(candle("BTCUSDT", 4, 105.0))
    await feed.next_candles()
    assert feed.stale == ("ETHUSDT",)
    exchange.sent.put_nowait(candle("ETHUSDT", 4, 99.0))
    got = await feed.next_candles()
    assert got is not None and {s: one.close for s, one in got.items()} == {"BTCUSDT": 105.0, "ETHUSDT": 99.0}
    await feed.close()


async def test_waiting_ends_when_it_is_told_to() -> None:
    _, feed, _ = await begin()
    waiting = asyncio.ensure_future(feed.next_candles())
    await asyncio.sleep(0.01)
    feed.stop()
    assert await waiting is None and feed.stopped
    assert await feed.next_candles() is None
    await feed.close()


async def test_a_stream_that_ends_is_an_error() -> None:
    exchange, feed, _ = await begin()
    exchange.sent.put_nowait(None)
    with pytest.raises(MarketDataError, match="stream ended"):
        await feed.next_candles()
    await feed.close()


async def test_a_stop_ends_the_wait_and_every_later_one() -> None:
    exchange, feed, history = await begin()
    waiting = asyncio.ensure_future(feed.next_candles())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    feed.stop()
    feed.stop()  # Ctrl+C twice
    assert await waiting is None and feed.stopped
    for symbol in SYMBOLS:
        exchange.sent.put_nowait(candle(symbol, 3))
    assert await feed.next_candles() is None
    assert history.last_open_ms == START_MS + 2 * HOUR
    feed.stop()
    await feed.close()


async def test_a_stop_between_two_symbols_candles_ends_the_wait() -> None:
    exchange, feed, history = await begin()
    exchange.sent.put_nowait(candle("BTCUSDT", 3))
    waiting = asyncio.ensure_future(feed.next_candles())
    for _ in range(10):
        await asyncio.sleep(0)
    feed.stop()
    assert await waiting is None and exchange.asked[2:] == []
    assert history.last_open_ms == START_MS + 2 * HOUR
    await feed.close()


async def test_an_error_of_the_stream_is_no_missing_candle() -> None:
    """Nor is a TimeoutError that the feed's own patience did not cause."""
    for error in (MarketDataError("a hole"), TimeoutError("somebody else's")):
        _, feed, _ = await begin()

        class Broken(Stream):
            async def __anext__(self, error: Exception = error) -> Candle:
                raise error

        feed._stream = Broken(asyncio.Queue())
        with pytest.raises(type(error), match=str(error)):
            await feed.next_candles()
        await feed.close()


async def test_symbols_that_are_read_around_a_close_begin_together() -> None:
    exchange = Exchange()
    exchange.listed["BTCUSDT"].append(candle("BTCUSDT", 3))
    history = LiveHistory(SYMBOLS, HOUR, FEATURES, None, 1)
    feed = CandleFeed(exchange, history, None)  # type: ignore[arg-type]
    await feed.start()
    assert history.last_open_ms == START_MS + 2 * HOUR
    await feed.close()


def test_a_stale_symbol_is_not_traded() -> None:
    class OneSymbol(BinanceExchange):
        """The candles of ETHUSDT do not come."""

        silent = False

        def stream_candles(self, symbols: Any, interval_ms: int, *, after_ms: int) -> AsyncIterator[Candle]:
            stream = super().stream_candles(symbols, interval_ms, after_ms=after_ms)

            exchange = self

            class Heard:
                def __aiter__(self) -> Heard:
                    return self

                async def __anext__(self) -> Candle:
                    while (one := await anext(stream)).symbol != "BTCUSDT" and exchange.silent:
                        pass
                    return one

            return Heard()

        async def candles(self, symbol: str, interval_ms: int, **options: Any) -> list[Candle]:
            if self.silent and symbol == "ETHUSDT":
                return []
            return await super().candles(symbol, interval_ms, **options)

    market = market_of({"BTCUSDT": [(50_000.0,) * 4] * 8, "ETHUSDT": [(2_500.0,) * 4] * 8})
    with rig(market, limits=RiskLimits(), exchange_type=OneSymbol) as one:
        one.stack.reset()
        step(one, 0.1, 1.0)
        one.exchange.silent = True  # type: ignore[attr-defined]
        one.stack.execute(one.stack.plan([0.1, 1.0]))
        one.stack.advance()
        assert one.env.stale_symbols() == ("ETHUSDT",)
        execution, _ = step(one, 0.2, 2.0)
        btc, eth = execution.results
        assert (btc.status, eth.status) == (OrderStatus.FILLED, OrderStatus.REFUSED)
        assert eth.refusal is not None and eth.refusal.check == "stale_candle"
        assert (one.held("BTCUSDT"), one.held("ETHUSDT")) == (Decimal("0.2"), 1)
        one.exchange.silent = False  # type: ignore[attr-defined]
        one.stack.execute(one.stack.plan([0.2, 1.0]))
        one.stack.advance()
        step(one, 0.2, 2.0)
        assert one.held("ETHUSDT") == 2


def test_a_decision_that_comes_after_the_next_close_is_not_traded() -> None:
    """The agent thought for longer than a candle: what it wants is about a price of the past."""
    market = market_of([(50_000.0,) * 4] * 8)
    with rig(market, config=env_config(), limits=RiskLimits()) as one:
        one.stack.reset()
        step(one, 0.1)
        one.server.advance(1)  # the market does not wait
        one.bridge.call(one.exchange.server_time_ms())
        execution = one.stack.execute(one.stack.plan([0.5]))
        assert execution.results[0].refusal is not None
        assert execution.results[0].refusal.check == "stale_candle"
        assert one.held() == Decimal("0.1")


@pytest.mark.parametrize("into_the_hour_s", [0, 40])
async def test_funding_is_known_at_the_close_whether_or_not_there_was_time_to_read_it_ahead(
    into_the_hour_s: int,
) -> None:
    exchange = Exchange()
    features = FeatureConfig.model_validate({"indicators": [{"name": "funding_rate"}]})
    history = LiveHistory(SYMBOLS, HOUR, features, None, 1)
    feed = CandleFeed(exchange, history, None)  # type: ignore[arg-type]
    exchange.settled = [FundingRate(symbol, START_MS, 0.0001) for symbol in SYMBOLS]
    await feed.start()
    opens_ms = START_MS + 3 * HOUR
    exchange.clock_ms = opens_ms + into_the_hour_s * 1000
    exchange.settled += [
        FundingRate(symbol, opens_ms + 7, rate) for symbol, rate in zip(SYMBOLS, (0.001, 0.002), strict=True)
    ]
    exchange.rates_asked = 0
    waiting = asyncio.ensure_future(feed.next_candles())
    for _ in range(20):
        await asyncio.sleep(0)
    assert exchange.rates_asked == (len(SYMBOLS) if into_the_hour_s else 0)
    for symbol in SYMBOLS:
        exchange.sent.put_nowait(candle(symbol, 3))
    await waiting
    assert exchange.rates_asked == len(SYMBOLS), "once for each, before or at the close"
    assert history.window[-1].tolist() == pytest.approx([0.001, 0.002])
    await feed.close()
