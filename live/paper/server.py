"""The exchange on the wire: an ASGI application with Binance's REST paths, WebSocket streams and WS-API.

A plain ASGI callable with a dictionary of routes, because the time from a candle's close to an order's reply
is measured through it. Everything runs in one event loop, so the exchange itself needs no locks.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import time
from collections.abc import Callable

from live.paper import ws_api
from live.paper.account import Account
from live.paper.auth import check_signature
from live.paper.calls import Params
from live.paper.control import Control, Interrupt
from live.paper.dispatch import Dispatcher, Reply, Request
from live.paper.errors import ApiError
from live.paper.exchange import PaperExchange
from live.paper.fault_specs import FaultSchedule
from live.paper.faults import FaultBook
from live.paper.follow import run_live
from live.paper.limits import Limits, MarketClock
from live.paper.pacing import run_paced
from live.paper.sockets import LIFE_S, Connection, Message, Receive, Send, serve_socket
from live.paper.wire import Wire

_JSON: tuple[bytes, bytes] = (b"content-type", b"application/json;charset=UTF-8")
_HTML: tuple[bytes, bytes] = (b"content-type", b"text/html")
_LOG = logging.getLogger(__name__)
_HOUSEKEEPING_S = 0.5


class PaperApp:
    """ASGI application around one exchange. Starts the pacer with the loop when the feed is paced."""

    def __init__(
        self, exchange: PaperExchange, *, wall_s: Callable[[], float], schedule: FaultSchedule | None = None
    ) -> None:
        self.exchange = exchange
        self.faults = FaultBook()
        self.faults.draw_by(schedule)
        now_s = MarketClock(lambda: exchange.now_ms, time.monotonic) if exchange.lock_step else wall_s
        limits = Limits(exchange.limit_settings, now_s=now_s, now_ms=lambda: exchange.server_ms)
        exchange.hub.fault_of = self.faults.for_event
        self._connections: set[Connection] = set()
        self._dispatcher = Dispatcher(exchange, limits, self.faults)
        self._ws_api = ws_api.WsApi(self._dispatcher, self._connections)
        self._control = Control(exchange, limits, self.faults, self._connections)

    def restarts_by(self, interrupt: Interrupt) -> None:
        """Say how the server cuts its connections and refuses new ones."""
        self._control.interrupt = interrupt

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Entry point of the ASGI server."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            if scope["path"].rstrip("/") == ws_api.PATH:
                await self._ws_api.serve(scope, receive, send)
            else:
                await serve_socket(self.exchange.hub, self._connections, scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        tasks: list[asyncio.Task[None]] = []
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                tasks.append(asyncio.create_task(self._keep_house()))
                if not self.exchange.lock_step:
                    run = run_paced if self.exchange.source is None else run_live
                    tasks.append(asyncio.create_task(run(self.exchange)))
                for task in tasks:
                    task.add_done_callback(_report)
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._control.stop()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _keep_house(self) -> None:
        """Do what is due by the clock: countdowns, listen keys and sockets that have grown too old."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            if not self.exchange.lock_step:
                # What is due by the clock does not wait for a price or a request.
                self.exchange.tick()
                self.exchange.flush()
            self.exchange.hub.expire_listen_keys(self.exchange.now_ms)
            oldest_s = time.monotonic() - LIFE_S
            for connection in [one for one in self._connections if one.opened_s < oldest_s]:
                connection.close(1000)

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        if scope["path"].startswith("/paper/"):
            reply: Reply | None = await self._controlled(scope, body)
        else:
            reply = await self._dispatcher.answer(self._request(scope, body))
        if reply is None:
            await _cut(scope, receive)
            return
        if reply.html:
            headers, payload = [_HTML, *reply.headers], str(reply.content).encode()
        else:
            headers, payload = (
                [_JSON, *reply.headers],
                json.dumps(reply.content, separators=(",", ":")).encode(),
            )
        if reply.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % reply.retry_after_s))
        headers.append((b"content-length", b"%d" % len(payload)))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": payload})

    def _request(self, scope: Message, body: bytes) -> Request:
        query: bytes = scope.get("query_string", b"")
        params = Params.parse(query, body)

        def verify(account: Account) -> None:
            check_signature(account, query, body, params.values, self.exchange.time_rules())

        return Request(
            scope["method"], scope["path"], params, _header(scope, b"x-mbx-apikey"), _address(scope), verify
        )

    async def _controlled(self, scope: Message, body: bytes) -> Reply:
        try:
            if not ipaddress.ip_address(_address(scope)).is_loopback:
                raise ApiError(-1002, "Control routes answer clients on this machine only.", http_status=403)
            if _header(scope, b"origin") is not None:
                # A browser on this machine would ask on behalf of any page that it shows.
                raise ApiError(-1002, "Control routes do not answer web pages.", http_status=403)
            return Reply(200, await self._control.answer(scope["method"], scope["path"], body))
        except ApiError as problem:
            return Reply(problem.http_status, {"code": problem.code, "msg": problem.msg})


async def _cut(scope: Message, receive: Receive) -> None:
    """Drop the connection without a reply."""
    wire: Wire | None = scope.get("state", {}).get("wire")
    if wire is not None:
        wire.cut()
        while (await receive())["type"] != "http.disconnect":
            pass


def _report(task: asyncio.Task[None]) -> None:
    """Say so if time stands still because of an error."""
    if not task.cancelled() and task.exception() is not None:
        _LOG.error("the exchange no longer runs as it should", exc_info=task.exception())


def _address(scope: Message) -> str:
    client: tuple[str, int] | None = scope.get("client")
    return client[0] if client else "0.0.0.0"


def _header(scope: Message, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None
