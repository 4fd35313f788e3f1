"""Streams and lock-step over real WebSockets, through python-binance's own socket manager."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer

HOUR_MS = 3_600_000
START_MS = 1_704_067_200_000
AT_START_MS = START_MS + 100 * HOUR_MS


async def test_user_stream_tells_of_orders_and_triggers(client, sockets, advance) -> None:
    async with closing_soon(sockets.futures_user_socket()) as user:
        await client.futures_create_order(
            symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.1", newClientOrderId="first"
        )
        new, lite, fill, account = [await receive(user) for _ in range(4)]
        assert [e["e"] for e in (new, lite, fill, account)] == [
            "ORDER_TRADE_UPDATE",
            "TRADE_LITE",
            "ORDER_TRADE_UPDATE",
            "ACCOUNT_UPDATE",
        ]
        assert (new["o"]["x"], new["o"]["X"], new["T"]) == ("NEW", "NEW", AT_START_MS)
        order = fill["o"]
        assert (order["c"], order["x"], order["X"], order["t"]) == ("first", "TRADE", "FILLED", 1)
        assert (order["L"], order["n"], order["N"], order["rp"]) == (
            "51005.1",
            "2.55025500",
            "USDT",
            "0.00000000",
        )
        assert account["a"]["B"][0]["wb"] == "9997.44974500"
        assert (account["a"]["P"][0]["pa"], account["a"]["P"][0]["ep"]) == ("0.100", "51005.1")
        await client.futures_create_order(
            symbol="BTCUSDT", side="SELL", type="TAKE_PROFIT_MARKET", stopPrice="51020", closePosition="true"
        )
        await advance()
        heard = [await receive(user) for _ in range(8)]
        assert [e["o"]["X"] for e in heard if e["e"] == "ALGO_UPDATE"] == [
            "NEW",
            "TRIGGERING",
            "TRIGGERED",
            "FINISHED",
        ]
        assert {e["T"] for e in heard[1:]} == {AT_START_MS + HOUR_MS - 1}  # the close of the candle


async def test_lock_step_klines(server, client, sockets, advance) -> None:
    streams = ["btcusdt@kline_1h", "ethusdt@kline_1h", "btcusdt@kline_4h"]
    async with closing_soon(sockets.futures_multiplex_socket(streams)) as market:
        await until_heard(server, *streams)
        state = await advance(4)
        assert state == {"clock": AT_START_MS + 4 * HOUR_MS, "index": 104, "remaining": 56, "done": False}
        heard = [await receive(market) for _ in range(9)]
        assert [m["stream"] for m in heard[:2]] == ["btcusdt@kline_1h", "ethusdt@kline_1h"]
        first = heard[0]["data"]
        assert first["E"] == AT_START_MS + HOUR_MS - 1
        assert first["k"]["t"] == AT_START_MS
        assert (first["k"]["o"], first["k"]["h"], first["k"]["l"], first["k"]["c"], first["k"]["x"]) == (
            "51000.0",
            "51020.0",
            "50990.0",
            "51010.0",
            True,
        )
        (longer,) = [m["data"]["k"] for m in heard if m["stream"] == "btcusdt@kline_4h"]
        assert (longer["t"], longer["o"], longer["h"], longer["l"], longer["c"], longer["v"]) == (
            AT_START_MS,
            "51000.0",
            "51050.0",
            "50990.0",
            "51040.0",
            "40.0",
        )
        rows = await client.futures_klines(symbol="BTCUSDT", interval="4h", limit=2)
        assert (rows[0][0], rows[0][4]) == (longer["t"], longer["c"])


async def test_single_kline_socket_speaks_continuous_klines(server, sockets, advance) -> None:
    async with closing_soon(sockets.kline_futures_socket("btcusdt", "1h")) as market:
        await until_heard(server, "btcusdt_perpetual@continuousKline_1h")
        await advance()
        event = await receive(market)
    assert (event["e"], event["ps"], event["ct"], event["k"]["x"]) == (
        "continuous_kline",
        "BTCUSDT",
        "PERPETUAL",
        True,
    )
    assert "s" not in event["k"]


async def test_listen_keys(client, refused) -> None:
    key = await client.futures_stream_get_listen_key()
    assert len(key) == 64
    assert await client.futures_stream_get_listen_key() == key
    await client.futures_stream_keepalive(listenKey=key)
    await client.futures_stream_close(listenKey=key)
    assert await refused(client.futures_stream_keepalive(listenKey=key)) == (-1125, 400)
    assert await client.futures_stream_get_listen_key() != key


async def test_control_routes_refuse_nonsense(server, client, advance) -> None:
    for body in ("nonsense", '{"candles": 0}', '{"candles": true}', '{"candles": "2"}', "[1]"):
        async with client.session.post(f"{server.rest_url}/paper/advance", data=body) as reply:
            assert reply.status == 400
    async with client.session.get(f"{server.rest_url}/paper/state") as reply:
        assert await reply.json() == {
            "clock": AT_START_MS,
            "index": 100,
            "remaining": 60,
            "done": False,
            "speed": None,
            "lock_step": True,
            "symbols": ["BTCUSDT", "ETHUSDT"],
            "interval": "1h",
            "synthetic": False,
            "follows": None,
        }
    assert (await advance(1000))["done"] is True
    rows = await client.futures_klines(symbol="BTCUSDT", interval="1h", limit=2)
    assert rows[-1][6] < (await client.futures_time())["serverTime"]  # no open candle is left


async def until_heard(server: PaperServer, *streams: str) -> None:
    """Wait until the exchange knows who hears these streams."""
    async with asyncio.timeout(30):
        while not set(streams) <= set(server.exchange.hub.names()):
            await asyncio.sleep(0.01)


def closing_soon(socket: Any) -> Any:
    """The same socket, looking up from its wait often: it is closed only then, by default after 10 s."""
    socket.TIMEOUT = 0.1
    return socket


async def receive(socket: Any) -> Any:
    """The next message."""
    return await asyncio.wait_for(socket.recv(), 30)


async def test_funding_reaches_history_income_and_the_user_stream(market, client_for, socket_manager) -> None:
    # Settlements at hours 0, 8 and 16; candle 7 closes at hour 8. Price 50000, rate 0.0002: 1 USDT on 0.1 BTC.
    rates = {"BTCUSDT": [(0, 0.0001), (8, 0.0002), (16, 0.0003)]}
    world = market({"BTCUSDT": [(50_000.0,) * 4] * 20}, funding=rates)
    with PaperServer.start(ReplayFeed(world, 7), [PaperAccount("alice", "alice-secret")]) as server:
        client = client_for(server)
        async with closing_soon(socket_manager(server, client).futures_user_socket()) as user:
            await client.futures_create_order(symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.1")
            for _ in range(4):
                await receive(user)
            assert [row["fundingRate"] for row in await client.futures_funding_rate()] == ["0.00010000"]
            mark = await client.futures_mark_price(symbol="BTCUSDT")
            assert (mark["lastFundingRate"], mark["nextFundingTime"]) == (
                "0.00010000",
                START_MS + 8 * HOUR_MS,
            )
            await asyncio.to_thread(server.advance)
            event = await receive(user)
        assert (event["e"], event["T"]) == ("ACCOUNT_UPDATE", START_MS + 8 * HOUR_MS)
        assert (event["a"]["m"], event["a"]["S"], event["a"]["P"]) == ("FUNDING_FEE", "BTCUSDT", [])
        # 10000 - 2.5 commission - 1 funding
        assert event["a"]["B"] == [
            {"a": "USDT", "wb": "9996.50000000", "cw": "9996.50000000", "bc": "-1.00000000"}
        ]
        (fee,) = await client.futures_income_history(incomeType="FUNDING_FEE")
        assert (fee["income"], fee["time"]) == ("-1.00000000", START_MS + 8 * HOUR_MS)
        settled = await client.futures_funding_rate(symbol="BTCUSDT", startTime=START_MS)
        assert [(row["fundingTime"] - START_MS) // HOUR_MS for row in settled] == [0, 8]  # 16 is to come
        assert {row["markPrice"] for row in settled} == {"50000.00000000"}


async def test_a_liquidation_as_a_client_sees_it(market, client_for, socket_manager) -> None:
    # 1 BTC at 60000 on 3030: after the fee 3000, liquidated at 57228.92 in the candle that falls to 55000.
    rows = [(60_000.0,) * 4] * 2 + [(60_000.0, 60_000.0, 55_000.0, 56_000.0)] * 2
    account = PaperAccount("alice", "alice-secret", Decimal(3_030))
    with PaperServer.start(ReplayFeed(market({"BTCUSDT": rows}), 2), [account]) as server:
        client = client_for(server)
        async with closing_soon(socket_manager(server, client).futures_user_socket()) as user:
            await client.futures_create_order(symbol="BTCUSDT", side="BUY", type="MARKET", quantity="1")
            (position,) = await client.futures_position_information()
            assert position["liquidationPrice"] == "57228.915662650602"
            await asyncio.to_thread(server.advance)
            heard = [await receive(user) for _ in range(8)][4:]
        assert [(e["e"], e["o"]["x"]) for e in heard[:2]] == [
            ("ORDER_TRADE_UPDATE", "NEW"),
            ("ORDER_TRADE_UPDATE", "CALCULATED"),
        ]
        order = heard[1]["o"]
        assert order["c"].startswith("autoclose-")
        assert (order["X"], order["S"], order["L"]) == ("FILLED", "SELL", "57228.915662650602")
        assert [e["a"]["m"] for e in heard[2:]] == ["ORDER", "INSURANCE_CLEAR"]
        assert heard[3]["a"]["B"][0]["wb"] == "0.00000000"
        assert await client.futures_position_information() == []
        (cleared,) = await client.futures_income_history(incomeType="INSURANCE_CLEAR")
        assert cleared["income"] == "-228.915662650602"
