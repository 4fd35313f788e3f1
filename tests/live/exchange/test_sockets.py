"""What is left of a stream when whoever reads it is gone: nothing, at whatever moment that is."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from live.exchange import buffer
from live.exchange.buffer import end_task
from live.exchange.sockets import CLOSE_S, open_socket

_PATIENCE_S = 20.0
_KEY = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Deaf:
    """A server that opens WebSocket connections and never answers anything, a closing handshake included."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()
        """Something came after the opening handshake."""
        self.gone = asyncio.Event()
        """The connection has ended."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            key = next(line[19:] for line in lines if line.lower().startswith(b"sec-websocket-key: "))
            accept = base64.b64encode(hashlib.sha1(key + _KEY).digest())
            head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            writer.write(head + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
            while await reader.read(1024):
                self.heard.set()
        except ConnectionError:
            pass
        finally:
            self.gone.set()
            writer.close()


@asynccontextmanager
async def deaf_server() -> AsyncIterator[tuple[Deaf, str]]:
    deaf = Deaf()
    server = await asyncio.start_server(deaf.serve, "127.0.0.1", 0)
    async with server:
        yield deaf, f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_cancelled_closing_handshake_leaves_no_connection() -> None:
    opened = asyncio.Event()
    transports: list[asyncio.BaseTransport] = []

    async def read(url: str) -> None:
        async with open_socket(url) as socket:
            transports.append(socket.transport)
            opened.set()
            await socket.recv()

    async with deaf_server() as (deaf, url), asyncio.timeout(_PATIENCE_S):
        task = asyncio.create_task(read(url))
        await opened.wait()
        task.cancel()
        await deaf.heard.wait()  # the handshake has begun
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert transports[0].is_closing()
        await deaf.gone.wait()


async def test_a_stream_that_cannot_be_opened_says_so() -> None:
    async with deaf_server() as (_, url):
        pass
    with pytest.raises(ConnectionRefusedError):
        async with open_socket(url):
            pass


async def test_a_task_that_lost_its_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "_CANCEL_AGAIN_S", 0.01)
    begun = asyncio.Event()

    async def loses_one() -> None:
        begun.set()
        try:
            await asyncio.sleep(_PATIENCE_S)
        except asyncio.CancelledError:
            await asyncio.sleep(_PATIENCE_S)

    task = asyncio.create_task(loses_one())
    await begun.wait()
    await end_task(task)
    assert task.cancelled() and task.cancelling() == 2


async def test_an_orderly_end_is_waited_for() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def takes_its_time() -> None:
        begun.set()
        try:
            await asyncio.sleep(_PATIENCE_S)
        finally:
            await asyncio.sleep(0.05)
            ended.set()

    task = asyncio.create_task(takes_its_time())
    await begun.wait()
    await end_task(task)
    assert ended.is_set() and task.cancelling() == 1
    assert buffer._CANCEL_AGAIN_S > 2 * CLOSE_S
