"""WebSocket connections: paths, control messages, and one ordered outgoing queue each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, unquote

from live.paper.streams import Hub, StreamSession

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CATEGORIES = ("public", "market", "private")
MAX_BACKLOG = 20_000
_CLOSE_TOO_SLOW = 1008


class Connection:
    """One open socket. Messages leave in the order in which they were pushed."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()
        self.too_slow = False

    @property
    def backlog(self) -> int:
        """Messages not yet handed to the socket."""
        return self._queue.qsize()

    def push(self, text: str) -> None:
        """Queue a message; a client that never reads is cut off rather than waited for."""
        if self.too_slow:
            return
        self.too_slow = self._queue.qsize() >= MAX_BACKLOG
        self._queue.put_nowait(None if self.too_slow else text)

    async def write(self) -> None:
        """Send queued messages until the socket goes or the client is too slow."""
        # The other side may go away at any moment; whoever reads the socket notices and cleans up.
        with suppress(OSError):
            while True:
                text = await self._queue.get()
                if text is None or self.too_slow:
                    await self._send({"type": "websocket.close", "code": _CLOSE_TOO_SLOW})
                    return
                await self._send({"type": "websocket.send", "text": text})


async def serve_socket(
    hub: Hub, connections: set[Connection], path: str, query: bytes, receive: Receive, send: Send
) -> None:
    """Serve one WebSocket from handshake to close."""
    message = await receive()
    if message["type"] != "websocket.connect":
        return
    route = parse_path(path)
    if route is None:
        await send({"type": "websocket.close", "code": 1008})
        return
    category, enveloped, streams = route
    connection = Connection(send)
    connections.add(connection)
    session = StreamSession(hub, connection, category, enveloped)
    writer: asyncio.Task[None] | None = None
    try:
        # Before the handshake is answered: a client that has its connection misses nothing from then on.
        subscribe_from_url(session, streams, query)
        await send({"type": "websocket.accept"})
        writer = asyncio.create_task(connection.write())
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                break
            text = message.get("text")
            if text is None:
                text = (message.get("bytes") or b"").decode("utf-8", "replace")
            connection.push(session.handle(text))
    finally:
        hub.drop(connection)
        connections.discard(connection)
        if writer is not None:
            writer.cancel()
            await asyncio.wait([writer])


def parse_path(path: str) -> tuple[str | None, bool, list[str]] | None:
    """(category, enveloped, streams in the path) of a WebSocket path; None when there is no such path.

    `/ws/...` and `/stream` without a category are the old paths, and serve everything.
    """
    parts = [part for part in path.split("/") if part]
    category: str | None = None
    if parts and parts[0] in CATEGORIES:
        category = parts.pop(0)
    if not parts or parts[0] not in ("ws", "stream"):
        return None
    return category, parts[0] == "stream", [unquote(part) for part in parts[1:]]


def subscribe_from_url(session: StreamSession, streams: list[str], query: bytes) -> None:
    """Subscribe to the streams in a path and query: names, `streams=a/b`, `listenKey=K&events=A/B`."""
    for name in streams:
        session.add(name)
    keys: list[tuple[str, frozenset[str] | None]] = []
    for name, value in parse_qsl(query.decode("utf-8", "replace")):
        if name == "streams":
            for stream in value.split("/"):
                session.add(stream)
        elif name == "listenKey":
            keys.append((value, None))
        elif name == "events" and keys:
            keys[-1] = (keys[-1][0], frozenset(value.split("/")) | {"listenKeyExpired"})
    for key, only in keys:
        session.add(key, only)
