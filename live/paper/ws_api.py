"""The WS-API at `/ws-fapi/v1`: requests over a WebSocket, answered by the same handlers as over REST."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from live.paper.account import Account
from live.paper.auth import check_params_signature
from live.paper.calls import Params
from live.paper.dispatch import Dispatcher, Reply, Request
from live.paper.sockets import Connection, Message, Receive, Send, text_of, wire_of

PATH = "/ws-fapi/v1"
CATEGORY = "ws-api"

METHODS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "ping": ("GET", "/fapi/v1/ping"),
        "time": ("GET", "/fapi/v1/time"),
        "depth": ("GET", "/fapi/v1/depth"),
        "ticker.price": ("GET", "/fapi/v2/ticker/price"),
        "ticker.book": ("GET", "/fapi/v1/ticker/bookTicker"),
        "order.place": ("POST", "/fapi/v1/order"),
        "order.modify": ("PUT", "/fapi/v1/order"),
        "order.cancel": ("DELETE", "/fapi/v1/order"),
        "order.status": ("GET", "/fapi/v1/order"),
        "algoOrder.place": ("POST", "/fapi/v1/algoOrder"),
        "algoOrder.cancel": ("DELETE", "/fapi/v1/algoOrder"),
        "account.position": ("GET", "/fapi/v2/positionRisk"),
        "v2/account.position": ("GET", "/fapi/v3/positionRisk"),
        "account.balance": ("GET", "/fapi/v2/balance"),
        "v2/account.balance": ("GET", "/fapi/v3/balance"),
        "account.status": ("GET", "/fapi/v2/account"),
        "v2/account.status": ("GET", "/fapi/v3/account"),
        "userDataStream.start": ("POST", "/fapi/v1/listenKey"),
        "userDataStream.ping": ("PUT", "/fapi/v1/listenKey"),
        "userDataStream.stop": ("DELETE", "/fapi/v1/listenKey"),
    }
)

_NO_JSON = (-1135, "Invalid JSON Request")
_NOT_SUPPORTED = (-1020, "This operation is not supported.")


class WsApi:
    """Serves WS-API connections."""

    def __init__(self, dispatcher: Dispatcher, connections: set[Connection]) -> None:
        self._dispatcher = dispatcher
        self._connections = connections

    async def serve(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection from handshake to close. Requests may overtake each other, as on Binance."""
        if (await receive())["type"] != "websocket.connect":
            return
        connection = Connection(send, category=CATEGORY, enveloped=True, wire=wire_of(scope))
        self._connections.add(connection)
        ip = scope["client"][0] if scope.get("client") else "unknown"
        tasks: set[asyncio.Task[None]] = set()
        try:
            await send({"type": "websocket.accept"})
            tasks.add(asyncio.create_task(connection.write()))
            while True:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    return
                task = asyncio.create_task(self._answer(connection, text_of(message), ip))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        finally:
            self._connections.discard(connection)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, connection: Connection, text: str, ip: str) -> None:
        identity: Any = None
        try:
            # Numbers keep the spelling that was signed.
            message: Any = json.loads(text, parse_float=str)
            identity = message.get("id")
            given = message.get("params") or {}
            params = Params({name: _text(value) for name, value in given.items() if value is not None})
        except (ValueError, AttributeError):
            connection.answer(_error(identity, 400, *_NO_JSON))
            return
        method = METHODS.get(str(message.get("method", "")).removeprefix("/"))
        if method is None:
            connection.answer(_error(identity, 400, *_NOT_SUPPORTED))
            return

        def verify(account: Account) -> None:
            rules = self._dispatcher.exchange.time_rules()
            check_params_signature(account, params.values, rules)

        request = Request(*method, params, params.text("apiKey"), ip, verify)
        reply = await self._dispatcher.answer(request)
        if reply is None:
            connection.drop()
            return
        with_limits = params.text("returnRateLimits") != "false"
        connection.answer(self._reply_text(identity, reply, with_limits))

    def _reply_text(self, identity: Any, reply: Reply, with_limits: bool) -> str:
        answer: dict[str, Any] = {"id": identity, "status": reply.status}
        if reply.html:
            answer["error"] = {
                "code": -1000,
                "msg": "An unknown error occurred while processing the request.",
            }
        elif reply.status == 200:
            answer["result"] = reply.content
        else:
            error = {"code": -1000, **reply.content}
            if reply.retry_after_s is not None:
                now_ms = self._dispatcher.exchange.server_ms
                error["data"] = {"serverTime": now_ms, "retryAfter": now_ms + reply.retry_after_s * 1000}
            answer["error"] = error
        if with_limits:
            answer["rateLimits"] = reply.usage
        return json.dumps(answer, separators=(",", ":"))


def _error(identity: Any, status: int, code: int, message: str) -> str:
    return json.dumps(
        {"id": identity, "status": status, "error": {"code": code, "msg": message}, "rateLimits": []}
    )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, dict)):
        return json.dumps(value, separators=(",", ":"))
    return str(value)
