"""What ends by the exchange's clock: countdowns, orders good till a date, listen keys that nobody keeps alive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from tests.lib.paper_client import PaperClient, paper_client, receive

HOUR_MS = 3_600_000
RESTS = {"type": "LIMIT", "timeInForce": "GTC", "price": "49000"}


@pytest.fixture
async def alice(server: PaperServer) -> AsyncIterator[PaperClient]:
    async with paper_client(server) as client:
        yield client


async def countdown(client: PaperClient, countdown_ms: int, symbol: str = "BTCUSDT") -> Any:
    reply = await client.signed(
        "POST", "/fapi/v1/countdownCancelAll", symbol=symbol, countdownTime=countdown_ms
    )
    assert reply.status == 200
    return reply.body


async def statuses(client: PaperClient, symbol: str = "BTCUSDT") -> list[str]:
    rows = (await client.signed("GET", "/fapi/v1/allOrders", symbol=symbol)).body
    return [row["status"] for row in rows]


async def test_a_countdown_cancels_one_symbols_orders_of_one_account(
    server: PaperServer, alice: PaperClient
) -> None:
    async with paper_client(server, "bob") as bob:
        for client in (alice, bob):
            await client.order(**RESTS)
        await alice.order(**{**RESTS, "price": "2500"}, symbol="ETHUSDT", quantity="0.1")
        stop = {"symbol": "BTCUSDT", "algoType": "CONDITIONAL", "side": "BUY", "type": "STOP_MARKET"}
        await alice.signed("POST", "/fapi/v1/algoOrder", **stop, triggerPrice="53000", quantity="0.01")
        assert await countdown(alice, HOUR_MS // 2) == {
            "symbol": "BTCUSDT",
            "countdownTime": str(HOUR_MS // 2),
        }
        user = await alice.hear(f"private/ws/{await alice.listen_key()}")
        begun_ms = alice.now_ms()
        await asyncio.to_thread(server.advance)
        event = await receive(user)
        assert (event["o"]["x"], event["o"]["s"], event["T"]) == (
            "CANCELED",
            "BTCUSDT",
            begun_ms + HOUR_MS // 2,
        )
        assert await statuses(alice) == ["CANCELED"]
        assert await statuses(alice, "ETHUSDT") == ["NEW"]
        assert await statuses(bob) == ["NEW"]
        assert len((await alice.signed("GET", "/fapi/v1/openAlgoOrders")).body) == 1


async def test_a_countdown_is_put_off_by_another_and_taken_back_by_zero(
    server: PaperServer, alice: PaperClient
) -> None:
    await alice.order(**RESTS)
    await countdown(alice, 90 * 60_000)
    for _ in range(3):  # each call comes before the time is up
        await asyncio.to_thread(server.advance)
        await countdown(alice, 90 * 60_000)
    assert await statuses(alice) == ["NEW"]
    await countdown(alice, 0)
    await asyncio.to_thread(server.advance, 3)
    assert await statuses(alice) == ["NEW"]
    await countdown(alice, 1)
    await asyncio.to_thread(server.advance)
    assert await statuses(alice) == ["CANCELED"]


async def test_by_the_clock_a_countdown_needs_no_candle(market: Any) -> None:
    feed = ReplayFeed(market({"BTCUSDT": [(50_000.0,) * 4] * 4}, interval="1m"), 1, speed=10.0)
    with PaperServer.start(feed) as server:
        async with paper_client(server, "paper") as client:
            client._secret = "paper"
            await client.order(**RESTS)
            user = await client.hear(f"private/ws/{await client.listen_key()}")
            await countdown(client, 2_000)  # a fifth of a second
            assert (await receive(user))["o"]["x"] == "CANCELED"


async def test_an_order_good_till_a_date_expires_then(server: PaperServer, alice: PaperClient) -> None:
    until_ms = alice.now_ms() + HOUR_MS + 30 * 60_000 + 123
    reply = await alice.order(**{**RESTS, "timeInForce": "GTD", "goodTillDate": until_ms})
    assert reply.body["goodTillDate"] == until_ms // 1000 * 1000
    await asyncio.to_thread(server.advance)
    assert await statuses(alice) == ["NEW"]
    await asyncio.to_thread(server.advance)
    assert await statuses(alice) == ["EXPIRED"]


async def test_a_listen_key_lives_an_hour_from_the_last_call(server: PaperServer, alice: PaperClient) -> None:
    seconds = [1_000.0]
    server.exchange.hub.clock_s = lambda: seconds[0]
    key = await alice.listen_key()
    user = await alice.hear(f"private/ws/{key}")
    seconds[0] += 3_000
    assert (await alice.keyed("PUT", "/fapi/v1/listenKey")).body == {"listenKey": key}
    seconds[0] += 3_000
    assert await alice.listen_key() == key  # a second POST gives the same one, and prolongs it
    seconds[0] += 3_599
    await alice.order()
    assert (await receive(user))["e"] == "ORDER_TRADE_UPDATE"
    seconds[0] += 2
    while (event := await receive(user))["e"] != "listenKeyExpired":
        pass
    assert event["listenKey"] == key
    assert (await alice.keyed("PUT", "/fapi/v1/listenKey")).body["code"] == -1125
    assert (await alice.keyed("DELETE", "/fapi/v1/listenKey")).status == 200
    assert await alice.listen_key() != key
