"""The exchange on the wire: an ASGI application with Binance's REST paths and WebSocket streams.

A plain ASGI callable with a dictionary of routes, because the time from a candle's close to an order's reply
is measured through it. Everything runs in one event loop, so the exchange itself needs no locks.

Control routes, outside Binance's paths and answered to loopback clients only:
`GET /paper/state`, `POST /paper/advance` with `{"candles": 1}` (lock-step only).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from live.paper import rest_account, rest_market, rest_orders
from live.paper.auth import check_signature, find_account
from live.paper.calls import Call, Params, Route, Security
from live.paper.errors import ApiError, refusal
from live.paper.exchange import PaperExchange
from live.paper.limits import LimitError, Limits, MarketClock
from live.paper.pacing import run_paced
from live.paper.sockets import Connection, Message, Receive, Send, serve_socket

Headers = list[tuple[bytes, bytes]]

_JSON: tuple[bytes, bytes] = (b"content-type", b"application/json;charset=UTF-8")
_ROUTES: dict[tuple[str, str], Route] = {
    (route.method, route.path): route
    for route in (*rest_market.ROUTES, *rest_account.ROUTES, *rest_orders.ROUTES)
}
_LOG = logging.getLogger(__name__)
_DRAIN_BACKLOG = 500
_DRAIN_TRIES = 2000


class PaperApp:
    """ASGI application around one exchange. Starts the pacer with the loop when the feed is paced."""

    def __init__(self, exchange: PaperExchange, *, wall_s: Callable[[], float]) -> None:
        self.exchange = exchange
        now_s = MarketClock(lambda: exchange.now_ms, time.monotonic) if exchange.lock_step else wall_s
        self._limits = Limits(exchange.limit_settings, now_s=now_s, now_ms=lambda: exchange.server_ms)
        self._connections: set[Connection] = set()
        self._advancing = asyncio.Lock()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Entry point of the ASGI server."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await serve_socket(
                self.exchange.hub,
                self._connections,
                scope["path"],
                scope.get("query_string", b""),
                receive,
                send,
            )
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        pacer: asyncio.Task[None] | None = None
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                if not self.exchange.lock_step:
                    pacer = asyncio.create_task(run_paced(self.exchange))
                    pacer.add_done_callback(_report_pacer)
                await send({"type": "lifespan.startup.complete"})
            else:
                if pacer is not None:
                    pacer.cancel()
                    await asyncio.wait([pacer])
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        headers: Headers = [_JSON]
        try:
            if scope["path"].startswith("/paper/"):
                status, reply = 200, await self._control(scope, body)
            else:
                status, reply = 200, self._call(scope, body, headers)
        except ApiError as problem:
            status, reply = problem.http_status, {"code": problem.code, "msg": problem.msg}
            if isinstance(problem, LimitError):
                headers.append((b"retry-after", b"%d" % problem.retry_after_s))
        payload = json.dumps(reply, separators=(",", ":")).encode()
        headers.append((b"content-length", b"%d" % len(payload)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": payload})

    def _call(self, scope: Message, body: bytes, headers: Headers) -> Any:
        method, path = scope["method"], scope["path"]
        route = _ROUTES.get((method, path))
        if route is None:
            raise ApiError(-5000, f"Path {path}, Method {method} is invalid", http_status=404)
        query: bytes = scope.get("query_string", b"")
        params = Params.parse(query, body)
        ip = scope["client"][0] if scope.get("client") else "unknown"
        headers.extend(self._limits.admit(ip, route, params))
        caller = None
        if route.security is not Security.NONE:
            caller = find_account(self.exchange.engine.accounts, _header(scope, b"x-mbx-apikey"))
            if route.security is Security.SIGNED:
                check_signature(caller, query, body, params.values, self.exchange.time_rules())
            headers.extend(self._limits.admit_orders(ip, route, caller.api_key))
        self.exchange.tick()
        reply = route.handler(Call(self.exchange, params, caller))
        self.exchange.flush()
        return reply

    async def _control(self, scope: Message, body: bytes) -> Any:
        client = scope.get("client")
        if client is None or not ipaddress.ip_address(client[0]).is_loopback:
            raise ApiError(-1002, "Control routes answer clients on this machine only.", http_status=403)
        asked = (scope["method"], scope["path"])
        if asked == ("GET", "/paper/state"):
            return self.exchange.state()
        if asked == ("POST", "/paper/advance"):
            return await self._advance(_candles_asked(body))
        raise ApiError(-5000, f"Path {scope['path']}, Method {scope['method']} is invalid", http_status=404)

    async def _advance(self, candles: int) -> Any:
        async with self._advancing:
            step = self.exchange.advance()
            for _ in range(candles - 1):
                if not step.remaining:
                    break
                await self._drain()
                step = self.exchange.advance()
        return step.as_json()

    async def _drain(self) -> None:
        """Let the sockets send before more is played, within reason."""
        await asyncio.sleep(0)
        for _ in range(_DRAIN_TRIES):
            if all(connection.backlog < _DRAIN_BACKLOG for connection in self._connections):
                return
            await asyncio.sleep(0.001)


def _report_pacer(pacer: asyncio.Task[None]) -> None:
    """Say so if time stands still because of an error."""
    if not pacer.cancelled() and pacer.exception() is not None:
        _LOG.error("the feed stopped: prices no longer move", exc_info=pacer.exception())


def _candles_asked(body: bytes) -> int:
    try:
        asked = json.loads(body) if body else {}
    except json.JSONDecodeError as problem:
        raise ApiError(-1130, f'The body must be JSON like {{"candles": 1}}: {problem}') from None
    count = asked.get("candles", 1) if isinstance(asked, dict) else None
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise refusal(-1130, "candles")
    return count


def _header(scope: Message, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None
