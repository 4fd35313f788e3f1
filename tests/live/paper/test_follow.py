"""`--feed binance`: prices from somebody else's public streams. Here that somebody is another paper exchange."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from envs.account import Side
from envs.errors import ConfigError, ExchangeUnavailableError
from envs.market import Market
from live.paper import desk
from live.paper.account import PaperAccount
from live.paper.exchange import PaperExchange
from live.paper.feeds import ReplayFeed, synthetic_feed
from live.paper.follow import Follower
from live.paper.orders import OrderRequest
from live.paper.runtime import PaperServer
from live.paper.source import Kline, MarketSource, live_feed
from tests.lib.paper_client import paper_client, receive

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
START_MS = 1_704_067_200_000
D = Decimal

Row = tuple[float, float, float, float]
QUIET: Row = (50_000.0, 50_010.0, 49_990.0, 50_000.0)
ROWS: list[Row] = [
    *[QUIET] * 4,
    (50_000.0, 50_500.0, 49_900.0, 50_400.0),
    (50_450.0, 50_600.0, 49_500.0, 49_600.0),  # opens above the last close
    *[(49_600.0, 49_610.0, 49_590.0, 49_600.0)] * 14,
]


@pytest.fixture
def world(market: Callable[..., Market]) -> Market:
    ether: list[Row] = [tuple(round(price / 20, 2) for price in row) for row in ROWS]  # type: ignore[misc]
    funding = {symbol: [(hour, 0.001) for hour in (0, 8, 16)] for symbol in ("BTCUSDT", "ETHUSDT")}
    return market({"BTCUSDT": ROWS, "ETHUSDT": ether}, funding=funding)


def source_of(server: PaperServer, *symbols: str, interval: str = "1h") -> MarketSource:
    return MarketSource(symbols or ("BTCUSDT", "ETHUSDT"), interval, server.rest_url, server.ws_url)


@asynccontextmanager
async def following(
    source: MarketSource, state: Path | None = None, **options: Any
) -> AsyncIterator[PaperServer]:
    """An exchange that follows another, once it does."""
    from live.paper.persistence import read_open_ms

    begin_ms = None if state is None else read_open_ms(state)
    feed = await asyncio.to_thread(live_feed, source, begin_ms=begin_ms)
    accounts = [PaperAccount("alice", "alice-secret", D(10_000))]
    with PaperServer.start(feed, accounts, state=state, **options) as server:
        yield server


async def until(what: Callable[[], Any], within_s: float = 60.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.01)


async def advance(source: PaperServer, follower: PaperServer, candles: int = 1) -> None:
    """Play candles at the source, and wait until the follower has heard of them."""
    await until(source.exchange.hub.names)
    await asyncio.to_thread(source.advance, candles)
    await until(
        lambda: follower.exchange.history.open_time_ms(follower.exchange.index) == source.exchange.now_ms
    )


def closed(exchange: PaperExchange, symbol: str) -> list[tuple[float, ...]]:
    """Candles that a client can see, the open one left out."""
    bars = exchange.history.bars(
        symbol, "1h", start_ms=0, end_ms=None, limit=1500, closed=exchange.index, forming=None
    )
    return [(bar.open_time_ms, bar.open, bar.high, bar.low, bar.close, bar.volume) for bar in bars]


async def test_a_followed_candle_plays_and_orders_fill_on_its_way(world: Market) -> None:
    with PaperServer.start(ReplayFeed(world, 4)) as source:
        async with following(source_of(source)) as server, paper_client(server) as alice:
            exchange = server.exchange
            assert (exchange.symbols, exchange.interval) == (("BTCUSDT", "ETHUSDT"), "1h")
            assert (await alice.public("/fapi/v2/ticker/price", symbol="BTCUSDT")).body["price"] == "50000"
            market = await alice.hear("market/stream?streams=btcusdt@kline_1h")
            await alice.order(quantity="0.1")
            sell = {"side": "SELL", "type": "LIMIT", "timeInForce": "GTC", "price": "50300"}
            await alice.order(**sell, quantity="0.04", newClientOrderId="profit")
            stop = {"symbol": "BTCUSDT", "algoType": "CONDITIONAL", "side": "SELL", "type": "STOP_MARKET"}
            await alice.signed(
                "POST", "/fapi/v1/algoOrder", **stop, triggerPrice="49700", closePosition="true"
            )
            await advance(source, server)  # the low 49900 first, then the high 50500
            trades = (await alice.signed("GET", "/fapi/v1/userTrades", symbol="BTCUSDT")).body
            assert [(one["price"], one["qty"], one["maker"]) for one in trades[1:]] == [
                ("50300", "0.040", True)
            ]
            await advance(source, server)  # through 49700
            trades = (await alice.signed("GET", "/fapi/v1/userTrades", symbol="BTCUSDT")).body
            assert [(one["price"], one["qty"]) for one in trades[2:]] == [("49700", "0.060")]
            for symbol in exchange.symbols:
                assert closed(exchange, symbol) == closed(source.exchange, symbol)
            heard = [await receive(market) for _ in range(2)]
            while not heard[-1]["data"]["k"]["x"] or heard[-1]["data"]["k"]["t"] < START_MS + 5 * HOUR_MS:
                heard.append(await receive(market))
            ended = [one["data"]["k"] for one in heard if one["data"]["k"]["x"]]
            assert [(one["t"], one["o"], one["h"], one["l"], one["c"]) for one in ended] == [
                (START_MS + 4 * HOUR_MS, "50000.0", "50500.0", "49900.0", "50400.0"),
                (START_MS + 5 * HOUR_MS, "50450.0", "50600.0", "49500.0", "49600.0"),
            ]
            rules = (await alice.public("/fapi/v1/exchangeInfo")).body
            assert rules["symbols"] == (await asyncio.to_thread(_rules, source))["symbols"]


def _rules(server: PaperServer) -> Any:
    import json
    import urllib.request

    with urllib.request.urlopen(f"{server.rest_url}/fapi/v1/exchangeInfo") as reply:
        return json.load(reply)


async def test_fundings_are_charged_once_at_the_sources_rate(world: Market) -> None:
    with PaperServer.start(ReplayFeed(world, 4)) as source:
        async with following(source_of(source)) as server, paper_client(server) as alice:
            await alice.order(quantity="0.1")
            account = server.exchange.engine.accounts["alice"]
            for _ in range(6):
                await advance(source, server)

            def fundings() -> list[Any]:
                return [row for row in account.income if row.income_type == "FUNDING_FEE"]

            await until(fundings)
            for _ in range(7):
                await advance(source, server)
            await until(lambda: len(fundings()) == 2)
            # Longs pay 0.1 * 49600 * 0.001, at 08:00 and 16:00.
            assert [row.amount_usdt for row in fundings()] == [D("-4.96")] * 2
            rates = (await alice.public("/fapi/v1/fundingRate", symbol="BTCUSDT")).body
            assert [(row["fundingTime"], row["fundingRate"]) for row in rates] == [
                (START_MS + hour * HOUR_MS, "0.00100000") for hour in (0, 8, 16)
            ]


async def test_a_lost_connection_is_filled_candle_by_candle(world: Market) -> None:
    with PaperServer.start(ReplayFeed(world, 4)) as source:
        async with following(source_of(source)) as server, paper_client(server) as alice:
            await alice.order(quantity="0.1")
            stop = {"symbol": "BTCUSDT", "algoType": "CONDITIONAL", "side": "SELL", "type": "STOP_MARKET"}
            await alice.signed("POST", "/fapi/v1/algoOrder", **stop, triggerPrice="49700", quantity="0.05")
            await until(source.exchange.hub.names)
            # Seven candles that no event tells of: the sockets are dead and look alive.
            await asyncio.to_thread(source.fault, "stream_lose", stream="*", count=10_000)
            await asyncio.to_thread(source.advance, 7)
            await asyncio.to_thread(source.clear_faults)
            # Unless the follower was still reading where it stands, it has heard of none of them.
            await asyncio.to_thread(source.fault, "drop_sockets")
            await until(lambda: server.exchange.index == 11)
            trades = (await alice.signed("GET", "/fapi/v1/userTrades", symbol="BTCUSDT")).body
            assert [one["price"] for one in trades] == ["50000", "49700"]
            for symbol in server.exchange.symbols:
                assert closed(server.exchange, symbol) == closed(source.exchange, symbol)
            account = server.exchange.engine.accounts["alice"]
            paid = [row.amount_usdt for row in account.income if row.income_type == "FUNDING_FEE"]
            assert paid == [D("-2.48")]  # 0.05 * 49600 * 0.001: after the stop


async def test_a_restart_goes_on_where_it_stood_and_catches_up(world: Market, tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    with PaperServer.start(ReplayFeed(world, 4)) as source:
        async with following(source_of(source), state) as server, paper_client(server) as alice:
            await alice.order(quantity="0.1")
            sell = {"side": "SELL", "type": "LIMIT", "timeInForce": "GTC", "price": "50550"}
            await alice.order(**sell, quantity="0.1")
            await advance(source, server)
        await asyncio.to_thread(source.advance, 5)
        async with following(source_of(source), state) as server, paper_client(server) as alice:
            await until(lambda: server.exchange.index == 10)
            trades = (await alice.signed("GET", "/fapi/v1/userTrades", symbol="BTCUSDT")).body
            assert [one["price"] for one in trades] == ["50000", "50550"]
            assert (await alice.signed("GET", "/fapi/v3/positionRisk")).body == []
            assert closed(server.exchange, "BTCUSDT")[-6:] == closed(source.exchange, "BTCUSDT")[-6:]
            await advance(source, server)


async def test_a_real_time_source(tmp_path: Path) -> None:
    # A synthetic market in real time; 250 ms between its prices.
    with PaperServer.start(synthetic_feed(["BTCUSDT"], candles=5, history=20, speed=1.0)) as source:
        async with (
            following(source_of(source, "BTCUSDT", interval="1m")) as server,
            paper_client(server) as alice,
        ):
            assert server.exchange.real_time
            assert abs((await alice.public("/fapi/v1/time")).body["serverTime"] - time.time() * 1000) < 2_000
            ticks = await alice.hear("market/stream?streams=btcusdt@kline_1m")
            for _ in range(3):
                event = (await receive(ticks))["data"]
                assert abs(event["E"] - time.time() * 1000) < 5_000
            reply = await alice.order(timestamp=int(time.time() * 1000))
            assert reply.status == 200
            assert (await alice.order(timestamp=int(time.time() * 1000) - 60_000)).body["code"] == -1021


async def test_a_source_out_of_reach_or_without_the_symbol(world: Market) -> None:
    with PaperServer.start(ReplayFeed(world, 4)) as source:
        with pytest.raises(ConfigError, match="DOGEUSDT is not traded at"):
            await asyncio.to_thread(live_feed, source_of(source, "DOGEUSDT"))
        gone = source_of(source)
    with pytest.raises(ExchangeUnavailableError, match="is it reachable from here"):
        await asyncio.to_thread(live_feed, gone)
    for changes, message in (
        ({"symbols": ()}, "at least one --symbol"),
        ({"symbols": ("A", "A")}, "twice"),
        ({"rest_url": "fapi.binance.com"}, "address"),
        ({"stream_url": "https://fstream.binance.com"}, "wss://host"),
    ):
        with pytest.raises(ConfigError, match=message):
            MarketSource(**{"symbols": ("BTCUSDT",), "interval": "1m", **changes})  # type: ignore[arg-type]


# --- the follower by itself ---------------------------------------------------------------------------


@pytest.fixture
async def follower(world: Market) -> AsyncIterator[Follower]:
    with PaperServer.start(ReplayFeed(world, 4)) as source:
        feed = await asyncio.to_thread(live_feed, source_of(source))
    exchange = PaperExchange(feed, [PaperAccount("alice", "alice-secret")])
    yield Follower(exchange, lambda: clock[0])


clock = [0.0]


def kline(open_hour: int, *prices: str, closed: bool = False) -> Kline:
    begin, high, low, close = (D(one) for one in prices)
    return Kline(START_MS + open_hour * HOUR_MS, begin, high, low, close, D(5), closed)


@pytest.mark.parametrize("number", range(12))
async def test_a_source_that_plays_on_while_it_is_asked_changes_nothing(world: Market, number: int) -> None:
    """Seven candles end between two of the requests that a gap is filled with: each of them once."""
    with PaperServer.start(ReplayFeed(world, 4)) as source:
        feed = await asyncio.to_thread(live_feed, source_of(source))
        exchange = PaperExchange(feed, [PaperAccount("alice", "alice-secret", D(10_000))])
        follower = Follower(exchange)
        alice = alice_of(exchange)
        buy = OrderRequest("BTCUSDT", Side.BUY, "MARKET", D("0.1"))
        desk.place_order(exchange.engine, alice, buy)
        take = OrderRequest("BTCUSDT", Side.SELL, "LIMIT", D("0.05"), D(50_550), client_order_id="profit")
        desk.place_order(exchange.engine, alice, take)
        async with source_of(source).connect() as connection:
            asked = 0
            answer = connection.get

            async def get(path: str, **params: Any) -> Any:
                nonlocal asked
                if asked == number:
                    await asyncio.to_thread(source.advance, 7)
                asked += 1
                return await answer(path, **params)

            connection.get = get  # type: ignore[method-assign]
            for _ in range(3):
                await follower.catch_up(connection)
            assert asked > number
        assert exchange.index == 11
        for symbol in exchange.symbols:
            assert closed(exchange, symbol) == closed(source.exchange, symbol)
        assert [row.price for row in alice.trades["BTCUSDT"]] == [D(50_000), D(50_550)]
        paid = [row.amount_usdt for row in alice.income if row.income_type == "FUNDING_FEE"]
        assert paid == [D("-2.48")]  # 0.05 * 49600 * 0.001: after the sale


async def test_a_funding_waits_for_the_candles_before_it(world: Market) -> None:
    """The source's mark price is hours ahead, and its funding listed, while candles have not been heard of."""
    with PaperServer.start(ReplayFeed(world, 4)) as source:
        feed = await asyncio.to_thread(live_feed, source_of(source))
        exchange = PaperExchange(feed, [PaperAccount("alice", "alice-secret", D(10_000))])
        now = [0.0]
        follower = Follower(exchange, lambda: now[0])
        alice = alice_of(exchange)
        desk.place_order(exchange.engine, alice, OrderRequest("BTCUSDT", Side.BUY, "MARKET", D("0.1")))
        take = OrderRequest("BTCUSDT", Side.SELL, "LIMIT", D("0.05"), D(50_550), client_order_id="profit")
        desk.place_order(exchange.engine, alice, take)
        await asyncio.to_thread(source.advance, 7)
        async with source_of(source).connect() as connection:
            for hour, due in ((4, 8), (11, 16)):
                event = {"e": "markPriceUpdate", "s": "BTCUSDT", "p": "49600"}
                follower.hear({**event, "E": START_MS + hour * HOUR_MS, "T": START_MS + due * HOUR_MS})
            await follower.settle(connection)
            assert alice.trades["BTCUSDT"][1:] == []
            assert [row for row in alice.income if row.income_type == "FUNDING_FEE"] == []
            assert follower.is_waiting
            await follower.catch_up(connection)
            # The funding came with the candles: it is not asked for again and again.
            follower.hear({**event, "E": START_MS + 11 * HOUR_MS, "T": START_MS + 16 * HOUR_MS})
            assert not follower.is_waiting
        assert [row.price for row in alice.trades["BTCUSDT"]] == [D(50_000), D(50_550)]
        paid = [row.amount_usdt for row in alice.income if row.income_type == "FUNDING_FEE"]
        assert paid == [D("-2.48")]


def test_extremes_between_two_messages_are_passed_the_nearer_one_first(follower: Follower) -> None:
    exchange = follower._exchange
    desk_orders(exchange)
    follower.take("BTCUSDT", kline(4, "50000", "50200", "49900", "50050"))
    prices = [(row.price, row.order.client_order_id) for row in alice_of(exchange).trades["BTCUSDT"]]
    # 49900 is nearer to 50000 than 50200.
    assert prices == [(D("49950"), "low"), (D("50100"), "high")]
    follower.take("BTCUSDT", kline(4, "50000", "50200", "49900", "50000"))
    assert len(alice_of(exchange).trades["BTCUSDT"]) == 2


def test_an_extreme_is_passed_once_though_an_older_event_comes_after_it(follower: Follower) -> None:
    exchange = follower._exchange
    follower.take("BTCUSDT", kline(4, "50000", "50200", "49900", "50050"))
    desk_orders(exchange)
    follower.take("BTCUSDT", kline(4, "50000", "50090", "49960", "50060"))
    follower.take("BTCUSDT", kline(4, "50000", "50200", "49900", "50070"))
    assert alice_of(exchange).trades.get("BTCUSDT", []) == []
    assert (exchange.forming["BTCUSDT"].high, exchange.forming["BTCUSDT"].low) == (50_200, 49_900)


def desk_orders(exchange: PaperExchange) -> None:

    for name, side, price in (("high", Side.SELL, "50100"), ("low", Side.BUY, "49950")):
        request = OrderRequest("BTCUSDT", side, "LIMIT", D("0.01"), D(price), client_order_id=name)
        desk.place_order(exchange.engine, alice_of(exchange), request)


def alice_of(exchange: PaperExchange) -> Any:
    return exchange.engine.accounts["alice"]


def test_a_candle_ends_when_every_symbols_has(follower: Follower) -> None:
    exchange = follower._exchange
    assert exchange.index == 4
    follower.take("BTCUSDT", kline(4, "50000", "50500", "49900", "50400", closed=True))
    follower.take("BTCUSDT", kline(5, "50450", "50460", "50440", "50445"))
    clock[0] += 1
    assert (exchange.index, follower.is_stuck) == (4, False)
    clock[0] += 2
    assert follower.is_stuck
    follower.take("ETHUSDT", kline(4, "2500", "2525", "2495", "2520", closed=True))
    assert (exchange.index, follower.is_stuck) == (5, False)
    # What came early is not lost.
    assert exchange.engine.prices == {"BTCUSDT": D("50445"), "ETHUSDT": D("2520")}
    follower.take("ETHUSDT", kline(4, "1", "1", "1", "1"))  # late, and of no use any more
    assert exchange.engine.prices["ETHUSDT"] == D("2520")


def test_marks_liquidate_though_the_last_price_stands(follower: Follower) -> None:

    exchange = follower._exchange
    desk.place_order(exchange.engine, alice_of(exchange), OrderRequest("BTCUSDT", Side.BUY, "MARKET", D(2)))
    event = {"e": "markPriceUpdate", "E": START_MS, "s": "BTCUSDT", "T": START_MS + 8 * HOUR_MS}
    follower.hear({**event, "p": "46000"})
    assert alice_of(exchange).position("BTCUSDT").quantity == 2
    follower.hear({**event, "p": "45000"})
    assert alice_of(exchange).position("BTCUSDT").quantity == 0
    assert exchange.engine.prices["BTCUSDT"] == 50_000
