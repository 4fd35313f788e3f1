"""uvicorn's protocols with a handle on the connection itself, so that it can break in ways ASGI has no word for.

The application finds the handle as `scope["state"]["wire"]`.
"""

from __future__ import annotations

import asyncio
from asyncio.transports import BaseTransport
from typing import Protocol

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class Wire(Protocol):
    """A connection."""

    def cut(self) -> None:
        """Drop the TCP connection, as it is."""


class WebSocketWire(Wire, Protocol):
    """A connection that speaks WebSocket."""

    def play_dead(self) -> None:
        """Keep the TCP connection, hear nothing any more and answer no ping."""


class HttpConnection(H11Protocol):
    """An HTTP connection that can be cut."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Put the handle where the application finds it."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "wire": self}

    def cut(self) -> None:
        """Drop the TCP connection."""
        self.transport.abort()


class WebSocketConnection(WebSocketsSansIOProtocol):
    """A WebSocket connection that can be cut or go deaf."""

    _deaf = False

    def connection_made(self, transport: BaseTransport) -> None:
        """Put the handle where the application finds it."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "wire": self}

    def data_received(self, data: bytes) -> None:
        """Hear the client, unless deaf."""
        if not self._deaf:
            super().data_received(data)

    def cut(self) -> None:
        """Drop the TCP connection."""
        self.transport.abort()

    def play_dead(self) -> None:
        """Hear nothing any more, pings included."""
        self._deaf = True
        self.stop_keepalive()
