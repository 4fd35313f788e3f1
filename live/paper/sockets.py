"""WebSocket connections: paths, control messages, one ordered outgoing queue each, and how they break."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

from live.paper.streams import Hub, StreamSession, TooManyStreamsError
from live.paper.wire import WebSocketWire

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CATEGORIES = ("public", "market", "private")
ANY_CATEGORY = "any"
MAX_BACKLOG = 20_000
MESSAGES_PER_S = 10
LIFE_S = 24 * 3600.0
GOING_AWAY = 1001
POLICY_VIOLATION = 1008
_OVERTAKE_WAIT_S = 0.5


@dataclass(frozen=True, slots=True)
class _Close:
    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Pause:
    seconds: float


class Connection:
    """One open socket. Messages leave in the order in which they were pushed.

    `push` is for events, `answer` for replies to what the client asked: a silent socket still answers.
    """

    def __init__(
        self,
        send: Send,
        *,
        category: str = ANY_CATEGORY,
        enveloped: bool = False,
        wire: WebSocketWire | None = None,
    ) -> None:
        self.category = category
        self._enveloped = enveloped
        self.opened_s = time.monotonic()
        self.too_slow = False
        self._send = send
        self._wire = wire
        self._queue: asyncio.Queue[str | _Close | _Pause] = asyncio.Queue()
        self._silent_until_s = 0.0
        self._dead = False
        self._overtaken: list[str] = []

    @property
    def backlog(self) -> int:
        """Messages not yet handed to the socket; 0 for one that hands over none any more."""
        return 0 if self._dead else self._queue.qsize()

    def push(self, text: str) -> None:
        """Queue an event; a client that never reads is cut off rather than waited for."""
        if self._silent_until_s and time.monotonic() < self._silent_until_s:
            return
        self.answer(text)
        while self._overtaken:
            self.answer(self._overtaken.pop(0))

    def answer(self, text: str) -> None:
        """Queue a reply."""
        if self.too_slow or self._dead:
            return
        self.too_slow = self._queue.qsize() >= MAX_BACKLOG
        self._queue.put_nowait(_Close(POLICY_VIOLATION) if self.too_slow else text)

    def close(self, code: int, reason: str = "") -> None:
        """Close properly, after what is queued."""
        self._queue.put_nowait(_Close(code, reason))

    def announce_shutdown(self, time_ms: int) -> None:
        """Say that the socket will close soon."""
        event = {"e": "serverShutdown", "E": time_ms}
        self.answer(json.dumps({"event": event} if self._enveloped else event))

    async def write(self) -> None:
        """Send queued messages until the socket goes or the client is too slow."""
        # The other side may go away at any moment; whoever reads the socket notices and cleans up.
        with suppress(OSError):
            while True:
                item = await self._queue.get()
                if isinstance(item, _Pause):
                    await asyncio.sleep(item.seconds)
                elif isinstance(item, _Close) or self.too_slow:
                    last = item if isinstance(item, _Close) else _Close(POLICY_VIOLATION)
                    await self._send({"type": "websocket.close", "code": last.code, "reason": last.reason})
                    return
                elif not self._dead:
                    await self._send({"type": "websocket.send", "text": item})

    # --- faults ---------------------------------------------------------------------------------------

    def drop(self) -> None:
        """Break off without a close frame; what is queued is lost."""
        self._dead = True
        if self._wire is None:
            self.close(GOING_AWAY)
        else:
            self._wire.cut()

    def silence(self, for_s: float) -> None:
        """Send no events for a while, or with 0 no more at all."""
        self._silent_until_s = time.monotonic() + for_s if for_s else float("inf")

    def half_open(self) -> None:
        """Stay connected, but send nothing, hear nothing and answer no ping."""
        self._dead = True
        if self._wire is not None:
            self._wire.play_dead()

    def hold_up(self, for_s: float) -> None:
        """Send what comes from now on so much later."""
        self._queue.put_nowait(_Pause(for_s))

    def push_overtaken(self, text: str, wait_s: float) -> None:
        """Queue an event after the next one, or alone when none comes in time."""

        def alone() -> None:
            if text in self._overtaken:
                self._overtaken.remove(text)
                self.answer(text)

        self._overtaken.append(text)
        asyncio.get_running_loop().call_later(wait_s or _OVERTAKE_WAIT_S, alone)


async def serve_socket(
    hub: Hub, connections: set[Connection], scope: Message, receive: Receive, send: Send
) -> None:
    """Serve one WebSocket with streams from handshake to close."""
    message = await receive()
    if message["type"] != "websocket.connect":
        return
    route = parse_path(scope["path"])
    if route is None:
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        return
    category, enveloped, streams = route
    connection = Connection(send, category=category or ANY_CATEGORY, enveloped=enveloped, wire=wire_of(scope))
    connections.add(connection)
    session = StreamSession(hub, connection, category, enveloped)
    writer: asyncio.Task[None] | None = None
    try:
        # Before the handshake is answered: a client that has its connection misses nothing from then on.
        try:
            subscribe_from_url(session, streams, scope.get("query_string", b""))
        except TooManyStreamsError:
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        await send({"type": "websocket.accept"})
        writer = asyncio.create_task(connection.write())
        arrivals: deque[float] = deque(maxlen=MESSAGES_PER_S + 1)
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                break
            arrivals.append(time.monotonic())
            if len(arrivals) > MESSAGES_PER_S and arrivals[-1] - arrivals[0] < 1.0:
                connection.close(POLICY_VIOLATION, "Too many requests")
                continue
            connection.answer(session.handle(text_of(message)))
    finally:
        hub.drop(connection)
        connections.discard(connection)
        if writer is not None:
            writer.cancel()
            await asyncio.wait([writer])


def wire_of(scope: Message) -> WebSocketWire | None:
    """The handle on the connection, where the server gives one."""
    wire: WebSocketWire | None = scope.get("state", {}).get("wire")
    return wire


def text_of(message: Message) -> str:
    """The text of a message, sent as text or as bytes."""
    text: str | None = message.get("text")
    return text if text is not None else (message.get("bytes") or b"").decode("utf-8", "replace")


def parse_path(path: str) -> tuple[str | None, bool, list[str]] | None:
    """(category, enveloped, streams in the path) of a WebSocket path; None when there is no such path.

    `/ws/...` and `/stream` without a category are the old paths, and serve everything. A number after `/ws/`, as
    ccxt sends it, names no stream.
    """
    parts = [part for part in path.split("/") if part]
    category: str | None = None
    if parts and parts[0] in CATEGORIES:
        category = parts.pop(0)
    if not parts or parts[0] not in ("ws", "stream"):
        return None
    names = [unquote(part) for part in parts[1:]]
    return category, parts[0] == "stream", [name for name in names if not (name.isdigit() and len(name) < 10)]


def subscribe_from_url(session: StreamSession, streams: list[str], query: bytes) -> None:
    """Subscribe to the streams in a path and query: names, `streams=a/b`, `listenKey=K&events=A/B`.

    Raises:
        TooManyStreamsError: more than one connection may hear.
    """
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
