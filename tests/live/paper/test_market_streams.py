"""The market streams beside klines, limits on subscribing, and pings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from live.paper.account import PaperAccount
from live.paper.exchange import PaperExchange
from live.paper.feeds import ReplayFeed
from live.paper.market_streams import day
from live.paper.runtime import PaperServer
from live.paper.sockets import parse_path
from tests.lib.paper_client import PaperClient, paper_client, receive

HOUR_MS = 3_600_000
AT_START_MS = 1_704_067_200_000 + 100 * HOUR_MS


@pytest.fixture
async def alice(server: PaperServer) -> AsyncIterator[PaperClient]:
    async with paper_client(server) as client:
        yield client


async def heard(alice: PaperClient, path: str, count: int = 1, candles: int = 1) -> list[Any]:
    """What a socket hears of some candles."""
    socket = await alice.hear(path)
    for _ in range(candles):
        await asyncio.to_thread(alice.server.advance)
    found = [await receive(socket) for _ in range(count)]
    await socket.close()
    return found


# BTCUSDT rises by 10 an hour from 50000; candle 100 is 51000, 51020, 50990, 51010 with a volume of 10.


async def test_a_candle_is_one_trade(alice: PaperClient) -> None:
    aggregate, single = await heard(alice, "stream?streams=btcusdt@aggTrade/btcusdt@trade", 2)
    close_ms = AT_START_MS + HOUR_MS - 1
    assert aggregate["data"] == {
        "e": "aggTrade",
        "a": 100_001,
        "f": 100_001,
        "l": 100_001,
        "nq": "10",
        "E": close_ms,
        "s": "BTCUSDT",
        "p": "51010",
        "q": "10",
        "T": close_ms,
        "m": False,
        "st": 1,
    }
    assert (single["data"]["e"], single["data"]["t"], single["data"]["X"]) == ("trade", 100_001, "MARKET")
    trades = (await alice.public("/fapi/v1/aggTrades", symbol="BTCUSDT", limit=2)).body
    assert [(one["a"], one["p"]) for one in trades] == [(99_001, "51000"), (100_001, "51010")]
    recent = (await alice.public("/fapi/v1/trades", symbol="BTCUSDT", limit=1)).body
    assert (recent[0]["id"], recent[0]["quoteQty"], recent[0]["time"]) == (100_001, "510100", close_ms)
    older = (
        await alice.keyed("GET", "/fapi/v1/historicalTrades", symbol="BTCUSDT", fromId=5_001, limit=2)
    ).body
    assert [one["id"] for one in older] == [5_001, 6_001]
    timed = (
        await alice.public("/fapi/v1/aggTrades", symbol="BTCUSDT", startTime=AT_START_MS - 2 * HOUR_MS)
    ).body
    assert [one["a"] for one in timed] == [98_001 + 1_000 * n for n in range(3)]


async def test_tickers(alice: PaperClient) -> None:
    # The 24 hours up to the new open: candles 77 to 100, the first opening at 50770, lows from 50760.
    (full,) = await heard(alice, "market/ws/btcusdt@ticker")
    assert {name: full[name] for name in ("e", "s", "p", "P", "c", "o", "h", "l", "v")} == {
        "e": "24hrTicker",
        "s": "BTCUSDT",
        "p": "240",
        "P": "0.473",
        "c": "51010",
        "o": "50770",
        "h": "51020",
        "l": "50760",
        "v": "240.0",
    }
    assert (full["O"], full["C"]) == (AT_START_MS - 23 * HOUR_MS, AT_START_MS + HOUR_MS)
    rest = (await alice.public("/fapi/v1/ticker/24hr", symbol="BTCUSDT")).body
    assert (rest["priceChange"], rest["highPrice"], rest["lowPrice"]) == (full["p"], full["h"], full["l"])
    assert rest["weightedAvgPrice"] == full["w"]
    (mini,) = await heard(alice, "market/ws/btcusdt@miniTicker")
    assert (mini["e"], mini["c"], mini["o"]) == ("24hrMiniTicker", "51020", "50780")


@pytest.mark.parametrize(
    ("stream", "category", "kind"),
    [
        ("!ticker@arr", "market", "24hrTicker"),
        ("!miniTicker@arr", "market", "24hrMiniTicker"),
        ("!markPrice@arr", "market", "markPriceUpdate"),
        ("!markPrice@arr@1s", "market", "markPriceUpdate"),
    ],
)
async def test_lists_over_all_symbols(alice: PaperClient, stream: str, category: str, kind: str) -> None:
    (message,) = await heard(alice, f"{category}/stream?streams={stream}")
    assert message["stream"] == stream
    assert [(one["e"], one["s"]) for one in message["data"]] == [(kind, "BTCUSDT"), (kind, "ETHUSDT")]


async def test_the_best_prices_of_all_symbols(alice: PaperClient) -> None:
    found = await heard(alice, "public/ws/!bookTicker", 2)
    assert [(one["s"], one["a"]) for one in found] == [("BTCUSDT", "51010.1"), ("ETHUSDT", "2601.01")]


async def test_depth(alice: PaperClient) -> None:
    snapshot = (await alice.public("/fapi/v1/depth", symbol="BTCUSDT")).body
    first, second = await heard(alice, "public/ws/btcusdt@depth@100ms", 2, candles=2)
    assert first["U"] <= snapshot["lastUpdateId"] + 1 <= first["u"]
    assert second["pu"] == first["u"]
    assert (first["b"], first["a"]) == (
        [["51010", "100"], ["51000", "0"]],
        [["51010.1", "100"], ["51000.1", "0"]],
    )
    (partial,) = await heard(alice, "public/ws/btcusdt@depth5")
    assert (partial["e"], partial["b"], partial["a"]) == (
        "depthUpdate",
        [["51030", "100"]],
        [["51030.1", "100"]],
    )


async def test_streams_with_nothing_to_tell_stay_silent(alice: PaperClient) -> None:
    socket = await alice.hear("market/ws/!contractInfo")
    await socket.send_json({"method": "SUBSCRIBE", "params": ["!assetIndex@arr", "nope@kline_1h"], "id": 1})
    assert await receive(socket) == {"result": None, "id": 1}
    await asyncio.to_thread(alice.server.advance)
    await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 2})
    assert (await receive(socket))["result"] == ["!contractInfo", "!assetIndex@arr", "nope@kline_1h"]


async def test_index_premium_and_open_interest(alice: PaperClient) -> None:
    (row,) = (await alice.public("/fapi/v1/indexPriceKlines", pair="BTCUSDT", interval="1h", limit=1)).body
    assert (row[1], row[5]) == ("51000.0", "0")
    (row,) = (
        await alice.public("/fapi/v1/premiumIndexKlines", symbol="BTCUSDT", interval="1h", limit=1)
    ).body
    assert row[1:5] == ["0.00000000"] * 4
    await alice.order(quantity="0.1")
    interest = (await alice.public("/fapi/v1/openInterest", symbol="BTCUSDT")).body
    assert interest == {"symbol": "BTCUSDT", "openInterest": "0.100", "time": AT_START_MS}


async def test_a_paced_candle_is_many_trades(market) -> None:
    feed = ReplayFeed(
        market({"BTCUSDT": [(50_000.0, 50_100.0, 49_900.0, 50_000.0)] * 3}, interval="1m"), 1, 120.0
    )
    with PaperServer.start(feed) as server:
        async with paper_client(server) as client:
            socket = await client.hear("market/ws/btcusdt@aggTrade")
            found = [await receive(socket) for _ in range(4)]
    numbers = [one["a"] for one in found]
    assert numbers == sorted(set(numbers))
    assert numbers[0] // 1_000 == 1
    assert all(0 < float(one["q"]) <= 10 / 3 for one in found)


def test_the_day_before_the_first_day(market) -> None:
    exchange = PaperExchange(ReplayFeed(market({"BTCUSDT": [(100.0, 110.0, 90.0, 105.0)] * 3}), 1))
    assert (day(exchange, "BTCUSDT").volume, day(exchange, "BTCUSDT").high) == (10.0, 110)


# --- subscribing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/ws", (None, False, [])),
        ("/stream", (None, True, [])),
        ("/market/ws/0", ("market", False, [])),
        (
            "/market/ws/btcusdt@kline_1m/ethusdt@kline_1m",
            ("market", False, ["btcusdt@kline_1m", "ethusdt@kline_1m"]),
        ),
        ("/private/ws/" + "a" * 64, ("private", False, ["a" * 64])),
        ("/public/stream", ("public", True, [])),
        ("/elsewhere/ws", None),
        ("/", None),
    ],
)
def test_paths(path: str, expected: Any) -> None:
    assert parse_path(path) == expected


async def test_two_listen_keys_on_one_socket_each_with_its_events(server: PaperServer) -> None:
    async with paper_client(server) as alice, paper_client(server, "bob") as bob:
        keys = await alice.listen_key(), await bob.listen_key()
        socket = await alice.hear(
            f"private/stream?listenKey={keys[0]}&events=ACCOUNT_UPDATE&listenKey={keys[1]}&events=TRADE_LITE"
        )
        for client in (alice, bob):
            await client.order(quantity="0.001")
        found = [await receive(socket) for _ in range(2)]
    assert [(one["stream"], one["data"]["e"]) for one in found] == [
        (keys[0], "ACCOUNT_UPDATE"),
        (keys[1], "TRADE_LITE"),
    ]


async def test_a_connection_hears_at_most_1024_streams(alice: PaperClient) -> None:
    socket = await alice.hear("market/ws")
    names = [f"s{n}usdt@kline_1h" for n in range(1025)]
    await socket.send_json({"method": "SUBSCRIBE", "params": names[:1000], "id": 1})
    await socket.send_json({"method": "SUBSCRIBE", "params": names[1000:], "id": 2})
    assert "result" in await receive(socket)
    assert "at most 1024 streams" in (await receive(socket))["error"]["msg"]
    await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 3})
    assert len((await receive(socket))["result"]) == 1024


async def test_eleven_messages_in_a_second_are_too_many(alice: PaperClient) -> None:
    socket = await alice.hear("market/ws")
    for n in range(11):
        await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": n})
    assert [(await receive(socket))["id"] for _ in range(10)] == list(range(10))
    assert (await asyncio.wait_for(socket.receive(), 30)).type is aiohttp.WSMsgType.CLOSE
    assert socket.close_code == 1008


async def test_listen_keys_end_without_a_candle(alice: PaperClient) -> None:
    key = await alice.listen_key()
    socket = await alice.hear(f"private/ws/{key}")
    alice.server.exchange.hub.clock_s = lambda: time.monotonic() + 3_601
    assert (await receive(socket))["e"] == "listenKeyExpired"


async def test_pings_and_a_client_that_does_not_answer(market) -> None:
    exchange = PaperExchange(ReplayFeed(market({"BTCUSDT": [(100.0,) * 4] * 3}), 1))
    server = PaperServer(exchange, ping_every_s=0.1, pong_within_s=1.0)
    server._run_in_thread()
    try:
        async with aiohttp.ClientSession() as session:
            answering = await session.ws_connect(server.ws_url + "ws")
            deaf = await session.ws_connect(server.ws_url + "ws", autoping=False)
            reading = asyncio.create_task(answering.receive())
            seen = []
            while not deaf.closed:
                seen.append((await asyncio.wait_for(deaf.receive(), 30)).type)
            assert seen[0] is aiohttp.WSMsgType.PING
            assert deaf.close_code == 1011
            assert not reading.done()
            reading.cancel()
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_month_is_sent_when_it_ends(market) -> None:
    day_ms, start_ms = 24 * HOUR_MS, 1_706_745_600_000  # the first of February 2024
    rows = [(100.0 + i, 102.0 + i, 99.0 + i, 101.0 + i) for i in range(40)]
    feed = market({"BTCUSDT": rows}, interval="1d", start_ms=start_ms)
    with PaperServer.start(ReplayFeed(feed, 27), (PaperAccount("alice", "alice"),)) as server:
        async with paper_client(server) as alice:
            streams = "btcusdt@kline_1M/btcusdt_perpetual@continuousKline_1M/btcusdt@kline_1d"
            heard_streams = await heard(alice, f"stream?streams={streams}", 5, candles=3)
            months = [one["data"]["k"] for one in heard_streams if one["data"]["k"]["i"] == "1M"]
            assert len(months) == 2
            for month in months:
                assert (month["t"], month["T"] + 1) == (start_ms, start_ms + 29 * day_ms)
                shown = [month[name] for name in ("o", "h", "l", "c", "v", "x")]
                assert shown == ["100.0", "130.0", "99.0", "129.0", "290.0", True]
            asked = {"symbol": "BTCUSDT", "interval": "1M"}
            rows_listed = (await alice.public("/fapi/v1/klines", **asked)).body
            assert [row[0] for row in rows_listed] == [start_ms, start_ms + 29 * day_ms]
            assert rows_listed[0][:7] == [*[months[0][n] for n in ("t", "o", "h", "l", "c", "v", "T")]]
            reply = await alice.public("/fapi/v1/klines", symbol="BTCUSDT", interval="1y")
            assert (reply.status, reply.body["code"]) == (400, -1120)
