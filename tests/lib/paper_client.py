"""A bare client of the paper exchange: signs, sends, and hands over status, headers and body as they came."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
import yarl

from live.paper.runtime import PaperServer


@dataclass(frozen=True)
class Answer:
    """A reply. `body` is JSON, or text where it is none."""

    status: int
    headers: Any
    body: Any


class PaperClient:
    """Requests to one exchange with one key."""

    def __init__(self, session: aiohttp.ClientSession, server: PaperServer, key: str, secret: str) -> None:
        self.session = session
        self.server = server
        self._key = key
        self._secret = secret
        self._sockets: list[aiohttp.ClientWebSocketResponse] = []

    def now_ms(self) -> int:
        """The exchange's clock, without asking for it over the wire."""
        return self.server.exchange.now_ms

    async def public(self, path: str, **params: Any) -> Answer:
        """A GET without a key."""
        return await self._send("GET", path, urlencode(params), {})

    async def signed(self, method: str, path: str, **params: Any) -> Answer:
        """A signed request; its timestamp is the exchange's time unless one is given."""
        query = urlencode({"timestamp": self.now_ms(), **params})
        query += f"&signature={self.sign(query)}"
        return await self._send(method, path, query, {"X-MBX-APIKEY": self._key})

    async def keyed(self, method: str, path: str, **params: Any) -> Answer:
        """A request that carries the key only."""
        return await self._send(method, path, urlencode(params), {"X-MBX-APIKEY": self._key})

    async def order(self, **changes: Any) -> Answer:
        """A market order to buy 0.01 BTCUSDT, with changes; None takes a parameter away."""
        wanted = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01", **changes}
        params = {name: value for name, value in wanted.items() if value is not None}
        return await self.signed("POST", "/fapi/v1/order", **params)

    async def orders(self) -> list[Any]:
        """All BTCUSDT orders that exist."""
        rows: list[Any] = (await self.signed("GET", "/fapi/v1/allOrders", symbol="BTCUSDT")).body
        return rows

    async def fault(self, kind: str, **settings: Any) -> Any:
        """Arm a fault, or do it at once."""
        return await asyncio.to_thread(self.server.fault, kind, **settings)

    async def listen_key(self) -> str:
        """The user data stream's key."""
        key: str = (await self.keyed("POST", "/fapi/v1/listenKey")).body["listenKey"]
        return key

    async def hear(self, path: str) -> aiohttp.ClientWebSocketResponse:
        """Open a WebSocket, closed with the client."""
        patience = aiohttp.ClientWSTimeout(ws_close=0.2)
        socket = await self.session.ws_connect(self.server.ws_url + path, timeout=patience)
        self._sockets.append(socket)
        return socket

    async def close(self) -> None:
        """Close the sockets. Left to the session's end, aiohttp may warn of them, by the collector's whim."""
        for socket in self._sockets:
            await socket.close()

    def ws_params(self, **params: Any) -> dict[str, Any]:
        """Parameters of a signed WS-API request."""
        given = {"apiKey": self._key, "timestamp": self.now_ms(), **params}
        text = "&".join(f"{name}={value}" for name, value in sorted(given.items()))
        return {**given, "signature": self.sign(text)}

    def sign(self, text: str) -> str:
        """HMAC-SHA256 in hex."""
        return hmac.new(self._secret.encode(), text.encode(), hashlib.sha256).hexdigest()

    async def _send(self, method: str, path: str, query: str, headers: dict[str, str]) -> Answer:
        url = f"{self.server.rest_url}{path}" + (f"?{query}" if query else "")
        # As signed: nothing is to be encoded otherwise on the way.
        async with self.session.request(method, yarl.URL(url, encoded=True), headers=headers) as reply:
            text = await reply.text()
            is_json = reply.content_type == "application/json"
            return Answer(reply.status, reply.headers, json.loads(text) if is_json else text)


@asynccontextmanager
async def paper_client(server: PaperServer, key: str = "alice") -> AsyncIterator[PaperClient]:
    """A client whose secret is its key with `-secret`."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        client = PaperClient(session, server, key, f"{key}-secret")
        try:
            yield client
        finally:
            await client.close()


async def receive(socket: aiohttp.ClientWebSocketResponse, within_s: float = 30.0) -> Any:
    """The next message as JSON."""
    message = await asyncio.wait_for(socket.receive(), within_s)
    assert message.type is aiohttp.WSMsgType.TEXT, message
    return json.loads(message.data)


async def is_silent(socket: aiohttp.ClientWebSocketResponse, for_s: float = 0.2) -> bool:
    """Whether nothing comes for a while. The socket cannot be read afterwards."""
    try:
        await asyncio.wait_for(socket.receive(), for_s)
    except TimeoutError:
        return True
    return False
