"""Requests and replies on the wire, and how replies are read.

`FuturesClient` is python-binance's AsyncClient with its URLs set, a shorter way for orders, and its reading of replies
replaced: as it comes it takes an error in an HTTP 200 for data, and fails on HTML pages and lists.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

import aiohttp
import yarl
from binance.async_client import AsyncClient

from live.exchange.budget import RequestBudget
from live.exchange.dead_end import DeadEnd
from live.settings import Credentials, Venue

_CONNECT_TIMEOUT_S = 5.0
_SHOWN_TEXT = 200
# The used weight in these replies' headers is documented as inaccurate.
_MISCOUNTED = ("/ticker/price", "/ticker/bookTicker")
_FORM = MappingProxyType({"Content-Type": "application/x-www-form-urlencoded"})


class WireError(Exception):
    """An error reply as it came over the wire. Stays inside this package."""

    def __init__(self, http_status: int, code: int | None, text: str, headers: Mapping[str, str]) -> None:
        super().__init__(f"HTTP {http_status}, code {code}: {text}")
        self.http_status = http_status
        self.code = code
        self.text = text
        self.headers = headers


def read_reply(http_status: int, headers: Mapping[str, str], body: str) -> Any:
    """The JSON of a reply, its numbers as int and Decimal.

    Raises:
        WireError: the status or the body says that the request failed, or the body is not JSON.
    """
    try:
        reply: Any = json.loads(body, parse_float=Decimal) if body else {}
    except ValueError:
        text = " ".join(re.sub(r"<[^>]*>", " ", body).split())[:_SHOWN_TEXT]
        raise WireError(http_status, None, f"no JSON, but: {text}", headers) from None
    code: int | None = None
    if isinstance(reply, dict) and "code" in reply:
        # A cancel reply has the string "200", cancel-all the number 200.
        text = str(reply["code"])
        code = int(text) if re.fullmatch(r"-?\d+", text) else None
    if 200 <= http_status < 300 and (code is None or code >= 0):
        return reply
    text = str(reply.get("msg", "")) if isinstance(reply, dict) else str(reply)
    raise WireError(http_status, code, text[:_SHOWN_TEXT] or "(no message)", headers)


# python-binance has no type information.
class FuturesClient(AsyncClient):  # type: ignore[misc]
    """python-binance's client for one venue. Make it inside a running event loop; end it with `shut`."""

    def __init__(
        self,
        venue: Venue,
        credentials: Credentials | None,
        budget: RequestBudget,
        *,
        recv_window_ms: int,
        timeout_s: float,
    ) -> None:
        # The constructor formats these names, found here before those of the class.
        self.FUTURES_URL = f"{venue.rest_url}/fapi"
        self.FUTURES_DATA_URL = f"{venue.rest_url}/futures/data"
        self.API_URL = f"{venue.permissions_url}/api"
        self.MARGIN_API_URL = f"{venue.permissions_url}/sapi"
        self.REQUEST_RECVWINDOW = recv_window_ms
        self.budget = budget
        self._timeout = timeout = aiohttp.ClientTimeout(
            total=timeout_s, sock_connect=min(timeout_s, _CONNECT_TIMEOUT_S)
        )
        super().__init__(
            credentials.api_key.reveal() if credentials else None,
            credentials.api_secret.reveal() if credentials else None,
            requests_params={"timeout": timeout},
        )

    async def _request(
        self, method: str, uri: str, signed: bool, force_params: bool = False, **kwargs: Any
    ) -> Any:
        data = kwargs.get("data")
        if method != "post" or not signed or not data or force_params or self.PRIVATE_KEY:
            return await super()._request(method, uri, signed, force_params, **kwargs)
        # What becomes an order goes a shorter way: the same request, made without what only others need. Its parameters
        # stand in the URL, since aiohttp sends a body in a task of its own, some turns of the loop later.
        url = yarl.URL(f"{uri}?{self.signed_text(data)}", encoded=True)
        async with self.session.post(url, headers=_FORM, timeout=self._timeout) as response:
            return await self._handle_response(response)

    def signed_text(self, params: Mapping[str, Any]) -> str:
        """The parameters of a signed request: those given, the time, and the signature over both."""
        stamped = {
            **{name: value for name, value in params.items() if value is not None},
            "timestamp": int(time.time() * 1000 + self.timestamp_offset),
            "recvWindow": self.REQUEST_RECVWINDOW,
        }
        text = urlencode(stamped)
        return f"{text}&signature={self._hmac_signature(text)}"

    async def _handle_response(self, response: aiohttp.ClientResponse) -> Any:
        body = await response.text(encoding="utf-8", errors="replace")
        if not response.url.path.endswith(_MISCOUNTED):
            self.budget.note(response.headers)
        return read_reply(response.status, response.headers, body)

    async def shut(self) -> None:
        """Close the HTTP session."""
        await self.close_connection()


class RehearsalClient(FuturesClient):
    """Makes and signs requests like a `FuturesClient`, with a key that is none, and sends them nowhere."""

    def __init__(self, venue: Venue, *, recv_window_ms: int, timeout_s: float) -> None:
        super().__init__(
            venue,
            Credentials("rehearsal", "rehearsal"),
            RequestBudget(),
            recv_window_ms=recv_window_ms,
            timeout_s=timeout_s,
        )

    def _init_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=DeadEnd(), headers=self._get_headers())
