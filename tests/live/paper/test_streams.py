"""Subscriptions over a plain WebSocket client: paths, categories, envelopes, control messages, filters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from live.paper.account import Account, PaperAccount
from live.paper.runtime import PaperServer
from live.paper.sockets import MAX_BACKLOG, Connection
from live.paper.streams import LISTEN_KEY_LIFE_S, Delivery, Hub, category_of

SUBSCRIBE = {"method": "SUBSCRIBE", "params": ["btcusdt@kline_1h"], "id": 7}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


async def heard(socket: aiohttp.ClientWebSocketResponse) -> Any:
    return json.loads((await asyncio.wait_for(socket.receive(), 30)).data)


async def advance(server: PaperServer) -> None:
    await asyncio.to_thread(server.advance)


@pytest.mark.parametrize(
    "path", ["market/ws", "market/ws/0", "ws", "ws/btcusdt@kline_1h", "market/stream", "stream"]
)
async def test_subscribing_on_every_path(
    server: PaperServer, session: aiohttp.ClientSession, path: str
) -> None:
    async with session.ws_connect(server.ws_url + path) as socket:
        await socket.send_json(SUBSCRIBE)
        assert await heard(socket) == {"result": None, "id": 7}
        await advance(server)
        event = await heard(socket)
        if "stream" in path:
            assert event["stream"] == "btcusdt@kline_1h"
            event = event["data"]
        assert (event["e"], event["s"], event["k"]["x"]) == ("kline", "BTCUSDT", True)


async def test_a_wrong_category_stays_silent(server: PaperServer, session: aiohttp.ClientSession) -> None:
    async with session.ws_connect(
        server.ws_url + "public/stream?streams=btcusdt@kline_1h/btcusdt@bookTicker"
    ) as socket:
        await advance(server)
        assert (await heard(socket))["stream"] == "btcusdt@bookTicker"
        await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": "a"})
        assert await heard(socket) == {"result": ["btcusdt@bookTicker"], "id": "a"}


async def test_unsubscribing_and_nonsense(server: PaperServer, session: aiohttp.ClientSession) -> None:
    async with session.ws_connect(server.ws_url + "market/ws/btcusdt@kline_1h") as socket:
        await socket.send_json({"method": "UNSUBSCRIBE", "params": ["btcusdt@kline_1h"], "id": 1})
        assert await heard(socket) == {"result": None, "id": 1}
        await advance(server)
        for text in (
            "{",
            "[]",
            '{"method": "DANCE", "id": 2}',
            '{"method": "SUBSCRIBE", "params": 3, "id": 3}',
        ):
            await socket.send_str(text)
            assert "error" in await heard(socket)


async def test_mark_price_and_book(server: PaperServer, session: aiohttp.ClientSession) -> None:
    async with session.ws_connect(
        server.ws_url + "stream?streams=btcusdt@markPrice@1s/btcusdt@bookTicker"
    ) as socket:
        await advance(server)
        mark, book = (await heard(socket))["data"], (await heard(socket))["data"]
    assert (mark["e"], mark["p"], mark["r"]) == ("markPriceUpdate", "51010.00000000", "0")
    assert (book["b"], book["a"]) == ("51010", "51010.1")


async def test_unknown_paths_are_refused(server: PaperServer, session: aiohttp.ClientSession) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await session.ws_connect(server.ws_url + "elsewhere")


async def test_events_filter_of_a_user_stream(server: PaperServer, session: aiohttp.ClientSession) -> None:
    headers = {"X-MBX-APIKEY": "alice"}
    async with session.post(f"{server.rest_url}/fapi/v1/listenKey", headers=headers) as reply:
        key = (await reply.json())["listenKey"]
    paths = (
        f"private/ws?listenKey={key}&events=ACCOUNT_UPDATE",
        f"private/ws/{key}",
        f"private/stream?listenKey={key}",
        "private/ws/" + "0" * 64,
    )
    sockets = [await session.ws_connect(server.ws_url + path) for path in paths]
    filtered, raw, enveloped, silent = sockets
    account = server.exchange.engine.accounts["alice"]
    account.position("BTCUSDT").apply(Decimal(-20), Decimal(50_000), Decimal(0))
    await advance(server)  # at 51000 the loss of 20000 is more than the account has: liquidated
    assert (await heard(filtered))["e"] == "ACCOUNT_UPDATE"
    assert (await heard(raw))["e"] == "ORDER_TRADE_UPDATE"
    assert (await heard(enveloped))["stream"] == key
    await silent.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 1})
    assert (await heard(silent))["id"] == 1  # nothing came before it
    for socket in sockets:
        await socket.close()


def test_categories() -> None:
    assert category_of("btcusdt@kline_1h") == "market"
    assert category_of("btcusdt@markPrice@1s") == "market"
    assert category_of("btcusdt@bookTicker") == "public"
    assert category_of("btcusdt@depth5@100ms") == "public"
    assert category_of("!bookTicker") == "public"
    assert category_of("!ticker@arr") == "market"
    assert category_of("0" * 64) == "private"


class Recorder:
    """A subscriber that remembers."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def push(self, text: str) -> None:
        self.texts.append(text)


def test_listen_keys_expire_with_an_event() -> None:
    now = [0.0]
    hub = Hub(lambda: now[0])
    account = Account(PaperAccount(), 1, 0)
    key = hub.open_listen_key(account)
    listener = Recorder()
    hub.subscribe(listener, key, Delivery(enveloped=False))
    now[0] = LISTEN_KEY_LIFE_S - 1
    assert hub.keep_listen_key(account) == key
    now[0] += LISTEN_KEY_LIFE_S - 1
    hub.expire_listen_keys(5)
    assert not listener.texts
    now[0] += 1
    hub.expire_listen_keys(5)
    assert json.loads(listener.texts[0]) == {"e": "listenKeyExpired", "E": 5, "listenKey": key}
    assert hub.keep_listen_key(account) is None
    assert hub.open_listen_key(account) != key


async def test_a_client_that_never_reads_is_cut_off() -> None:
    sent: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    connection = Connection(send)
    for _ in range(MAX_BACKLOG + 100):
        connection.push("{}")
    assert connection.backlog == MAX_BACKLOG + 1
    await connection.write()
    assert sent == ["websocket.close"]
