"""From a request to its reply, for REST and the WS-API alike: limits, keys, signature, handler, and what goes wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from live.paper import rest_account, rest_compat, rest_info, rest_market, rest_orders, rest_trades
from live.paper.account import Account
from live.paper.auth import find_account
from live.paper.calls import Call, Params, Route, Security
from live.paper.engine import PartialFill
from live.paper.errors import MESSAGES, ApiError
from live.paper.exchange import PaperExchange
from live.paper.fault_specs import RequestFault
from live.paper.faults import Asked, FaultBook
from live.paper.limits import Headers, LimitError, Limits

ROUTES: Mapping[tuple[str, str], Route] = MappingProxyType(
    {
        (route.method, route.path): route
        for route in (
            *rest_market.ROUTES,
            *rest_account.ROUTES,
            *rest_orders.ROUTES,
            *rest_trades.ROUTES,
            *rest_info.ROUTES,
            *rest_compat.ROUTES,
        )
    }
)

_LOG = logging.getLogger(__name__)
_MOST_UNSERVED = 200

Verify = Callable[[Account], None]


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came, over REST or the WS-API. `verify` checks timestamp and signature."""

    method: str
    path: str
    params: Params
    api_key: str | None
    ip: str
    verify: Verify


@dataclass(slots=True)
class Reply:
    """What a client gets: JSON, or with `html` a page of text. `usage` is what a WS-API reply tells of limits."""

    status: int
    content: Any
    headers: Headers = field(default_factory=list)
    html: bool = False
    retry_after_s: int | None = None
    usage: list[dict[str, Any]] = field(default_factory=list)


class Dispatcher:
    """Answers requests to one exchange."""

    def __init__(self, exchange: PaperExchange, limits: Limits, faults: FaultBook) -> None:
        self.exchange = exchange
        self.limits = limits
        self.faults = faults
        self._unserved: set[tuple[str, str]] = set()

    async def answer(self, request: Request) -> Reply | None:
        """The reply to a request; None: the connection is to be cut without one."""
        if self.faults.idle:
            return self.handle(request)
        asked = Asked(request.method, request.path, request.params.values, request.api_key or "")
        fault = self.faults.for_request(asked)
        return self.handle(request) if fault is None else await self._misbehave(request, fault)

    def handle(self, request: Request) -> Reply:
        """The reply to a request, with nothing going wrong."""
        reply = Reply(200, None)
        try:
            reply.content = self._call(request, reply)
        except ApiError as problem:
            reply.status, reply.content = problem.http_status, {"code": problem.code, "msg": problem.msg}
            if isinstance(problem, LimitError):
                reply.retry_after_s = problem.retry_after_s
        return reply

    def _call(self, request: Request, reply: Reply) -> Any:
        route = ROUTES.get((request.method, request.path))
        if route is None:
            self._note_unserved(request)
            raise ApiError(-5000, f"Path {request.path}, Method {request.method} is invalid", http_status=404)
        limits = self.limits
        try:
            reply.headers += limits.admit(request.ip, route, request.params)
            caller = None
            if route.security is not Security.NONE:
                caller = find_account(self.exchange.engine.accounts, request.api_key)
                if route.security is Security.SIGNED:
                    request.verify(caller)
                reply.headers += limits.admit_orders(request.ip, route, caller.api_key)
        finally:
            reply.usage = limits.usage(request.ip, route, request.api_key)
        self.exchange.tick()
        content = route.handler(Call(self.exchange, request.params, caller))
        self.exchange.flush()
        return content

    def _note_unserved(self, request: Request) -> None:
        """Say once of each path that it is not served; a client alone would hear of it as Binance says it."""
        asked = (request.method, request.path)
        if asked in self._unserved or len(self._unserved) >= _MOST_UNSERVED:
            return
        self._unserved.add(asked)
        _LOG.warning("not served here: %s %s; the client was answered 404 with code -5000", *asked)

    async def _misbehave(self, request: Request, fault: RequestFault) -> Reply | None:
        kind = fault.kind
        if kind in ("lost_before", "delay_before"):
            await asyncio.sleep(fault.delay_ms / 1000)
            return None if kind == "lost_before" else self.handle(request)
        if kind in ("lost_after", "delay_after"):
            reply = self.handle(request)
            await asyncio.sleep(fault.delay_ms / 1000)
            return None if kind == "lost_after" else reply
        if kind == "partial_fill":
            return self._fill_partly(request, fault)
        if kind == "banned":
            problem = self.limits.ban(request.ip, fault.retry_after_s)
            return _error(problem.http_status, problem.code, problem.msg, problem.retry_after_s)
        if kind in _OUTCOME_UNKNOWN and fault.executed:
            self.handle(request)
        return canned_reply(fault)

    def _fill_partly(self, request: Request, fault: RequestFault) -> Reply:
        engine = self.exchange.engine
        engine.partial_fill = PartialFill(fault.share, fault.pieces)
        try:
            return self.handle(request)
        finally:
            engine.partial_fill = None


_OUTCOME_UNKNOWN = frozenset({"unknown_503", "bus_error", "backend_timeout", "html_502"})
_NO_CODE = None
# kind -> (HTTP status, code, message)
_CANNED: Mapping[str, tuple[int, int | None, str]] = MappingProxyType(
    {
        "unknown_503": (503, _NO_CODE, "Unknown error, please check your request or try again later."),
        "unavailable_503": (503, _NO_CODE, "Service Unavailable."),
        "internal_503": (503, -1001, "Internal error; unable to process your request. Please try again."),
        "throttled_503": (503, -1008, "Request throttled by system-level protection. Please try again."),
        "bus_error": (
            503,
            -1006,
            "An unexpected response was received from the message bus. Execution status unknown.",
        ),
        "backend_timeout": (
            408,
            -1007,
            "Timeout waiting for response from backend server. Send status unknown; execution status unknown.",
        ),
        "stale_timestamp": (400, -1021, MESSAGES[-1021]),
        "rate_limited": (429, -1003, "Too many requests; please use the websocket for live updates."),
        "order_limited": (429, -1015, "Too many new orders; current limit is 300 orders per TEN_SECONDS."),
        "error_200": (200, -1001, "Internal error; unable to process your request. Please try again."),
        "reject_filter": (400, -1111, MESSAGES[-1111]),
        "reject_margin": (400, -2019, MESSAGES[-2019]),
        "reject_reduce_only": (400, -2022, MESSAGES[-2022]),
    }
)
_PAGES: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "html_502": (502, "502 Bad Gateway"),
        "html_403": (403, "403 Forbidden"),
    }
)


def canned_reply(fault: RequestFault) -> Reply:
    """The reply of a fault that answers with an error of its own."""
    if fault.kind in _PAGES:
        status, title = _PAGES[fault.kind]
        page = f"<html>\r\n<head><title>{title}</title></head>\r\n<body><center><h1>{title}</h1></center></body></html>"
        return Reply(status, page, html=True)
    if fault.kind == "refuse":
        return _error(fault.http_status, fault.code, fault.message)
    status, code, message = _CANNED[fault.kind]
    return _error(status, code, message, fault.retry_after_s if status == 429 else None)


def _error(status: int, code: int | None, message: str, retry_after_s: int | None = None) -> Reply:
    content = {"msg": message} if code is None else {"code": code, "msg": message}
    return Reply(status, content, retry_after_s=retry_after_s)
