"""A small exchange on loopback that misbehaves on demand, over real HTTP and WebSockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import pytest
from aiohttp import WSCloseCode, web

from live.exchange.base import RetryPolicy
from live.exchange.binance import BinanceExchange
from live.exchange.sockets import StreamSettings
from live.settings import Credentials, Venue, paper_venue

KEY = "an-api-key-of-64-characters"
SECRET = "a-secret-that-nobody-may-ever-see"

UNKNOWN_503 = "Unknown error, please check your request or try again later."
UNAVAILABLE_503 = "Service Unavailable."
INTERNAL_503 = "Internal error; unable to process your request. Please try again."
THROTTLED_503 = "Request throttled by system-level protection. Please try again."


async def _params_of(request: web.Request) -> dict[str, str]:
    """The parameters of a request, which may stand in its URL as well as in its body."""
    return dict(parse_qsl(request.query_string) + parse_qsl(await request.text()))


def error(status: int, code: int | None, text: str, **headers: str) -> web.Response:
    """An error reply in Binance's form, or a bare text without a code."""
    body = {"code": code, "msg": text} if code is not None else {"msg": text}
    return web.json_response(body, status=status, headers=headers)


class FaultyExchange:
    """Accepts market orders at a price of 100, and does what `faults` says with each request to place one.

    A fault is `accept` or `lose` (whether the order comes to exist) and how the reply goes wrong.
    """

    def __init__(self) -> None:
        self.faults: deque[tuple[str, ...]] = deque()
        self.get_faults: deque[web.Response | str] = deque()
        self.every: Callable[[], web.Response | str] | None = None
        self.orders: dict[str, dict[str, Any]] = {}
        self.trades: list[dict[str, Any]] = []
        self.hide_orders_until_s = 0.0
        self.deny_orders = False
        self.posts: list[dict[str, str]] = []
        self.triggers: dict[str, dict[str, Any]] = {}
        self.trigger_posts: list[dict[str, str]] = []
        self.deletes: list[str] = []
        self.gets: list[str] = []
        self.times_asked = 0
        self.clock_ahead_ms = 0
        self.account_config: dict[str, bool] = {}
        self.klines_cap = 1500
        self.listed_ms = 0
        self.listen_key = "listen-key-1"
        self.keep_alives = 0
        self.known_keys = {"listen-key-1", "listen-key-2", "listen-key-3"}
        self.sockets: list[web.WebSocketResponse] = []
        self.socket_keys: list[str] = []
        self.refuse_sockets = False
        self.post_key: Callable[[web.Request], Awaitable[web.Response]] | None = None
        self._held = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self.url = ""

    def venue(self) -> Venue:
        return paper_venue(self.url, self.url.replace("http", "ws"))

    def real_venue(self) -> Venue:
        """The same, with a clock that runs as ours does."""
        return replace(self.venue(), name="testnet", market_data="testnet")

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/fapi/v1/time", self._time)
        app.router.add_get("/fapi/v1/order", self._get_order)
        app.router.add_get("/fapi/v1/openOrders", self._open_orders)
        app.router.add_post("/fapi/v1/order", self._post_order)
        app.router.add_delete("/fapi/v1/order", self._delete)
        app.router.add_post("/fapi/v1/algoOrder", self._post_trigger)
        app.router.add_get("/fapi/v1/algoOrder", self._get_trigger)
        app.router.add_delete("/fapi/v1/algoOrder", self._delete)
        app.router.add_get("/fapi/v1/openAlgoOrders", self._list_triggers)
        app.router.add_get("/fapi/v1/allAlgoOrders", self._list_triggers)
        app.router.add_delete("/fapi/v1/allOpenOrders", self._delete)
        app.router.add_delete("/fapi/v1/algoOpenOrders", self._delete)
        app.router.add_post("/fapi/v1/leverage", self._setting)
        app.router.add_post("/fapi/v1/marginType", self._setting)
        app.router.add_get("/fapi/v1/userTrades", self._user_trades)
        app.router.add_get("/fapi/v1/klines", self._klines)
        app.router.add_get("/fapi/v2/ticker/price", self._prices)
        app.router.add_get("/fapi/v1/accountConfig", self._account_config)
        app.router.add_post("/fapi/v1/listenKey", self._post_key)
        app.router.add_put("/fapi/v1/listenKey", self._put_key)
        app.router.add_get("/sapi/v1/account/apiRestrictions", self._permissions)
        app.router.add_get("/private/ws", self._user_socket)
        return app

    async def stop(self) -> None:
        self._held.set()
        for socket in self.sockets:
            await socket.close()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def now_ms(self) -> int:
        return int(time.time() * 1000) + self.clock_ahead_ms

    async def _time(self, request: web.Request) -> web.Response:
        self.times_asked += 1
        return web.json_response({"serverTime": self.now_ms()})

    async def _account_config(self, request: web.Request) -> web.Response:
        return web.json_response({"canTrade": True, "dualSidePosition": False, **self.account_config})

    async def _klines(self, request: web.Request) -> web.Response:
        """Minute candles up to the one that is open now, in pages of at most `klines_cap`."""
        self.gets.append(request.path)
        query = {name: int(text) for name, text in request.query.items() if text.isdigit()}
        newest = self.now_ms() // 60_000 * 60_000
        last = min(newest, query.get("endTime", newest))
        limit = min(query["limit"], self.klines_cap)
        first = last // 60_000 * 60_000 - (limit - 1) * 60_000
        first = max(query.get("startTime", first), self.listed_ms)
        rows = [
            [at, "1", "2", "0.5", "1.5", "7", at + 59_999, "0", 0, "0", "0", "0"]
            for at in range(first, last + 1, 60_000)
        ]
        return web.json_response(rows[:limit])

    async def _permissions(self, request: web.Request) -> web.StreamResponse:
        return await self._faulty(request) or web.json_response({})

    async def _faulty(self, request: web.Request) -> web.StreamResponse | None:
        self.gets.append(request.path)
        if self.every is not None:
            fault = self.every()
        elif self.get_faults:
            fault = self.get_faults.popleft()
        else:
            return None
        if not isinstance(fault, str):
            return fault
        if fault == "cut":
            assert request.transport is not None
            request.transport.abort()
        await asyncio.wait_for(self._held.wait(), 20)
        return web.Response()

    async def _open_orders(self, request: web.Request) -> web.StreamResponse:
        return await self._faulty(request) or web.json_response([])

    async def _get_order(self, request: web.Request) -> web.StreamResponse:
        fault = await self._faulty(request)
        if fault is not None:
            return fault
        found = self.orders.get(request.query.get("origClientOrderId", ""))
        if "orderId" in request.query:
            wanted = int(request.query["orderId"])
            found = next((one for one in self.orders.values() if one["orderId"] == wanted), None)
        elif self.deny_orders or time.monotonic() < self.hide_orders_until_s:
            found = None
        if found is None:
            return error(400, -2013, "Order does not exist.")
        return web.json_response({**found, "avgPrice": "100"})

    async def _prices(self, request: web.Request) -> web.StreamResponse:
        return await self._faulty(request) or web.json_response([])

    async def _user_trades(self, request: web.Request) -> web.Response:
        self.gets.append(request.path)
        wanted = request.query.get("orderId")
        return web.json_response([t for t in self.trades if wanted is None or str(t["orderId"]) == wanted])

    def accept(self, params: dict[str, str]) -> dict[str, Any]:
        """Make and fill the order."""
        order_id = 1000 + len(self.trades)
        order = {
            "orderId": order_id,
            "symbol": params["symbol"],
            "status": "FILLED",
            "clientOrderId": params["newClientOrderId"],
            "executedQty": params["quantity"],
            "origQty": params["quantity"],
            "type": "MARKET",
            "side": params["side"],
        }
        self.orders[params["newClientOrderId"]] = order
        self.trades.append(
            {
                "id": 7000 + len(self.trades),
                "orderId": order_id,
                "symbol": params["symbol"],
                "side": params["side"],
                "qty": params["quantity"],
                "price": "100",
                "commission": "0.05",
                "commissionAsset": "USDT",
                "realizedPnl": "0",
                "maker": False,
                "time": self.now_ms(),
            }
        )
        return order

    def accept_trigger(self, params: dict[str, str]) -> dict[str, Any]:
        """Rest the trigger order."""
        order = {
            "algoId": 5000 + len(self.triggers),
            "clientAlgoId": params["clientAlgoId"],
            "symbol": params["symbol"],
            "algoStatus": "NEW",
            "triggerPrice": params["triggerPrice"],
        }
        self.triggers[params["clientAlgoId"]] = order
        return order

    async def _get_trigger(self, request: web.Request) -> web.StreamResponse:
        fault = await self._faulty(request)
        if fault is not None:
            return fault
        found = self.triggers.get(request.query.get("clientAlgoId", ""))
        if found is None or self.deny_orders:
            return error(400, -2013, "Order does not exist.")
        return web.json_response(found)

    async def _list_triggers(self, request: web.Request) -> web.StreamResponse:
        self.gets.append(request.path)
        return web.json_response(list(self.triggers.values()))

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        self.deletes.append(request.path)
        if request.path.endswith("rders"):
            ended: dict[str, Any] = {"code": 200, "msg": "The operation of cancel all open order is done."}
        else:
            ended = {"code": "200", "msg": "success"}
        return await self._faulty(request) or web.json_response(ended)

    async def _setting(self, request: web.Request) -> web.StreamResponse:
        params = dict(parse_qsl(await request.text()))
        return await self._faulty(request) or web.json_response({"code": 200, "msg": "success", **params})

    async def _post_trigger(self, request: web.Request) -> web.StreamResponse:
        params = await _params_of(request)
        self.trigger_posts.append(params)
        return await self._post(request, params, self.accept_trigger)

    async def _post_order(self, request: web.Request) -> web.StreamResponse:
        params = await _params_of(request)
        self.posts.append(params)
        return await self._post(request, params, self.accept)

    async def _post(
        self, request: web.Request, params: dict[str, str], accept: Callable[[dict[str, str]], dict[str, Any]]
    ) -> web.StreamResponse:
        if self.every is not None and (faulty := await self._faulty(request)) is not None:
            return faulty
        fault = self.faults.popleft() if self.faults else ("accept", "reply")
        order: dict[str, Any] = {}
        if fault[0] == "accept":
            order = accept(params)
        elif fault[0] == "late":
            task = asyncio.ensure_future(self._accept_late(params, float(fault[2])))
            self._background.add(task)
        match fault[1]:
            case "reply":
                return web.json_response(order)
            case "timeout":
                await asyncio.wait_for(self._held.wait(), 20)
                return web.Response()
            case "cut":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case "html":
                return web.Response(
                    status=502, text="<html><h1>Bad Gateway</h1></html>", content_type="text/html"
                )
            case "ok_error":
                return error(200, int(fault[2]), fault[3])
            case "coded":
                headers = {"Retry-After": "0"} if fault[2] in ("418", "429") else {}
                return error(int(fault[2]), int(fault[3]), fault[4], **headers)
            case "garbage":
                return web.Response(text="{not json", content_type="application/json")
            case "limited":
                return error(429, -1003, "Too many requests.", **{"Retry-After": fault[2]})
            case "banned":
                return error(
                    418,
                    -1003,
                    "Way too many requests; IP banned until 9999999999999.",
                    **{"Retry-After": fault[2]},
                )
        return error(int(fault[1]), int(fault[2]) if fault[2] else None, fault[3])

    async def _accept_late(self, params: dict[str, str], after_s: float) -> None:
        await asyncio.sleep(after_s)
        self.accept(params)

    async def _post_key(self, request: web.Request) -> web.Response:
        if self.post_key is not None:
            return await self.post_key(request)
        return web.json_response({"listenKey": self.listen_key})

    async def _put_key(self, request: web.Request) -> web.Response:
        self.keep_alives += 1
        if self.listen_key not in self.known_keys:
            return error(400, -1125, "This listenKey does not exist.")
        return web.json_response({"listenKey": self.listen_key})

    async def _user_socket(self, request: web.Request) -> web.StreamResponse:
        if self.refuse_sockets:
            return web.Response(status=503)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.socket_keys.append(request.query["listenKey"])
        self.sockets.append(socket)
        async for _ in socket:
            pass
        return socket

    async def say(self, event: dict[str, Any]) -> None:
        """Send an event over the newest user socket."""
        await self.sockets[-1].send_str(json.dumps(event))

    async def drop_socket(self) -> None:
        """Close the newest user socket as a restarting server does."""
        await self.sockets[-1].close(code=WSCloseCode.GOING_AWAY)


@pytest.fixture
async def faulty() -> AsyncIterator[FaultyExchange]:
    exchange = FaultyExchange()
    runner = web.AppRunner(exchange.app(), shutdown_timeout=0.2, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    exchange.url = "http://{}:{}".format(*runner.addresses[0][:2])
    yield exchange
    await exchange.stop()
    await runner.cleanup()


@pytest.fixture
async def client(faulty: FaultyExchange) -> AsyncIterator[BinanceExchange]:
    """The connector, impatient: receive window 400 ms, timeout 400 ms, three attempts 10 ms apart."""
    exchange = BinanceExchange(
        faulty.venue(),
        Credentials(KEY, SECRET),
        (),
        retry=RetryPolicy(attempts=3, delay_s=0.01, max_wait_s=1.5, resolve_s=1.0),
        streams=StreamSettings(
            first_retry_s=0.01, longest_retry_s=0.05, keep_alive_s=0.1, buffer=50, give_up_s=2
        ),
        recv_window_ms=400,
        timeout_s=0.4,
        back_end_delay_s=0.1,
    )
    async with exchange:
        yield exchange
