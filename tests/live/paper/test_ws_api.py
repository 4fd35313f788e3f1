"""The WS-API with a bare client: forms of requests and replies, signatures, limits, faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
from binance import AsyncClient
from binance.exceptions import BinanceAPIException

from live.paper.runtime import PaperServer
from live.paper.ws_api import METHODS
from tests.lib.paper_client import PaperClient, paper_client, receive

ORDER = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01"}


@pytest.fixture
async def alice(server: PaperServer) -> AsyncIterator[PaperClient]:
    async with paper_client(server) as client:
        yield client


@pytest.fixture
async def socket(alice: PaperClient) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    made = await alice.hear("ws-fapi/v1")
    yield made
    await made.close()


async def ask(
    socket: aiohttp.ClientWebSocketResponse, method: str, params: Any = None, identity: Any = 1
) -> Any:
    await socket.send_json(
        {"id": identity, "method": method, **({} if params is None else {"params": params})}
    )
    return await receive(socket)


async def test_every_method_leads_to_a_route(alice: PaperClient, socket: Any) -> None:
    for method in METHODS:
        reply = await ask(socket, method, alice.ws_params(symbol="BTCUSDT"))
        assert reply.get("error", {}).get("code") not in (-5000, -1022, -1020), (method, reply)


async def test_the_form_of_a_reply(alice: PaperClient, socket: Any) -> None:
    reply = await ask(socket, "order.place", alice.ws_params(**ORDER), identity="u-1")
    assert (reply["id"], reply["status"], reply["result"]["status"]) == ("u-1", 200, "NEW")
    assert reply["rateLimits"] == [
        {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 300, "count": 1},
        {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": 1200, "count": 1},
    ]
    refused = await ask(socket, "order.place", alice.ws_params(**{**ORDER, "quantity": "100"}), identity=None)
    assert (refused["id"], refused["status"]) == (None, 400)
    assert refused["error"] == {"code": -2019, "msg": "Margin is insufficient."}
    price = await ask(socket, "ticker.price", {"symbol": "BTCUSDT"})
    assert price["result"]["price"] == "51000"
    assert price["rateLimits"] == [
        {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 2400, "count": 1}
    ]
    assert "rateLimits" not in await ask(socket, "ticker.price", {"returnRateLimits": False})
    assert (await ask(socket, "time"))["result"] == {"serverTime": alice.now_ms()}
    assert (await ask(socket, "/ping"))["result"] == {}


async def test_nonsense(socket: Any) -> None:
    for text in ("{", "[]", '"x"', '{"id": 1, "method": "time", "params": [1]}'):
        await socket.send_str(text)
        reply = await receive(socket)
        assert (reply["status"], reply["error"]["code"]) == (400, -1135)
    for method in ("order.dance", "session.logon"):
        assert (await ask(socket, method))["error"]["code"] == -1020


async def test_keys_and_signatures(alice: PaperClient, socket: Any) -> None:
    async def code(params: Any) -> Any:
        reply = await ask(socket, "order.place", params)
        return reply["error"]["code"] if "error" in reply else reply["status"]

    params = alice.ws_params(**ORDER)
    assert await code({**params, "quantity": "0.02"}) == -1022
    assert await code({**params, "apiKey": "nobody"}) == -2015
    assert await code({name: value for name, value in params.items() if name != "apiKey"}) == -2014
    assert await code({name: value for name, value in params.items() if name != "signature"}) == -1102
    assert await code(alice.ws_params(**ORDER, recvWindow=60_001)) == -1131
    late = alice.ws_params(**ORDER, **{"timestamp": alice.now_ms() + 10_000})
    assert await code(late) == -1021
    # Percent-encoded before signing, as Binance's SDK does; a boolean as Python writes it, and a number.
    given = {"apiKey": "alice", "timestamp": alice.now_ms(), **ORDER, "newClientOrderId": "a:b/c"}
    assert await code({**given, "signature": alice.sign(urlencode(sorted(given.items())))}) == 200
    given = {"apiKey": "alice", "timestamp": alice.now_ms(), **ORDER, "quantity": 0.01, "reduceOnly": False}
    text = "&".join(f"{name}={value}" for name, value in sorted(given.items()))
    assert "reduceOnly=False" in text
    assert await code({**given, "signature": alice.sign(text)}) == 200


async def test_the_user_data_stream(alice: PaperClient, socket: Any) -> None:
    key = (await ask(socket, "userDataStream.start", {"apiKey": "alice"}))["result"]["listenKey"]
    assert key == await alice.listen_key()
    assert (await ask(socket, "userDataStream.ping", {"apiKey": "alice"}))["result"] == {"listenKey": key}
    assert (await ask(socket, "userDataStream.stop", {"apiKey": "alice"}))["result"] == {}
    assert (await ask(socket, "userDataStream.ping", {"apiKey": "alice"}))["error"]["code"] == -1125


async def test_limits(alice: PaperClient, socket: Any) -> None:
    async with alice.session.post(
        f"{alice.server.rest_url}/paper/limits", json={"weight_per_minute": 1}
    ) as reply:
        assert reply.status == 200
    assert (await ask(socket, "time"))["status"] == 200
    over = await ask(socket, "time")
    assert (over["status"], over["error"]["code"]) == (429, -1003)
    data = over["error"]["data"]
    assert data["serverTime"] < data["retryAfter"] <= data["serverTime"] + 60_000


async def test_faults_strike_here_too(alice: PaperClient, socket: Any) -> None:
    await alice.fault("delay_before", client_id="slow", delay_ms=200)
    for identity in ("slow", "fast"):
        params = alice.ws_params(**ORDER, newClientOrderId=identity)
        await socket.send_json({"id": identity, "method": "order.place", "params": params})
    assert [(await receive(socket))["id"] for _ in range(2)] == ["fast", "slow"]
    await alice.fault("unknown_503", path="/fapi/v1/order", executed=False)
    unknown = await ask(socket, "order.place", alice.ws_params(**ORDER))
    assert (unknown["status"], unknown["error"]["msg"][:13]) == (503, "Unknown error")
    await alice.fault("html_502", executed=False)
    assert (await ask(socket, "time"))["status"] == 502
    await alice.fault("lost_after", method="POST")
    await socket.send_json({"id": 1, "method": "order.place", "params": alice.ws_params(**ORDER)})
    assert (await asyncio.wait_for(socket.receive(), 30)).type is aiohttp.WSMsgType.CLOSED
    assert len(await alice.orders()) == 3


async def test_python_binances_ws_api(server: PaperServer) -> None:
    class Local(AsyncClient):  # type: ignore[misc]
        WS_FUTURES_URL = f"{server.ws_url}ws-fapi/v1"

    client = Local("alice", "alice-secret")
    client.ws_future.TIMEOUT = 0.1  # it is closed only after such a wait, by default of 10 s
    try:
        placed = await client.ws_futures_create_order(
            symbol="BTCUSDT", side="BUY", type="LIMIT", timeInForce="GTC", quantity="0.01", price="50000"
        )
        assert placed["status"] == "NEW"
        edited = await client.ws_futures_edit_order(
            symbol="BTCUSDT", side="BUY", orderId=placed["orderId"], quantity="0.01", price="50100"
        )
        assert edited["price"] == "50100.00"
        await client.ws_futures_cancel_order(symbol="BTCUSDT", orderId=placed["orderId"])
        with pytest.raises(BinanceAPIException) as refused:
            await client.ws_futures_cancel_order(symbol="BTCUSDT", orderId=placed["orderId"])
        assert (refused.value.code, refused.value.status_code) == (-2011, 400)
        stop = {"type": "STOP_MARKET", "triggerPrice": "45000", "closePosition": "true", "clientAlgoId": "s"}
        conditional = await client.ws_futures_create_order(symbol="BTCUSDT", side="SELL", **stop)
        assert conditional["algoStatus"] == "NEW"
        assert (await client.ws_futures_v2_account_balance())[0]["balance"] == "10000.00000000"
    finally:
        await client.ws_future.__aexit__(None, None, None)
        await client.close_connection()
