"""Opening Binance's WebSocket streams, and how patient we are with them.

The `websockets` library is used directly, not python-binance's socket manager: that one loses what is queued when
its queue overflows, never notices silence, fills no gap after a reconnect, reconnects a user stream with the
expired key, and takes ten seconds to close (each shown against a local server). Both streams here treat every
interruption as a hole and fill it from REST.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from envs.errors import ExchangeError

_WIRE_LOG = logging.getLogger(f"{__name__}.wire")
# At DEBUG the library logs each handshake, and with it the listen key.
_WIRE_LOG.setLevel(logging.INFO)

INTERRUPTIONS = (OSError, WebSocketException, TimeoutError)
"""What a broken or unreachable socket raises."""


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Patience of the streams, in seconds.

    Attributes:
        silence_s: a market stream this quiet is opened anew; doubled while the exchange really has nothing to say.
        late_s: how long the other symbols' candles may come after the first one's before REST is asked.
        fill_again_s: pauses before the history is asked again for a candle that it lacks: one that has just closed
            may reach it a moment after the stream.
        first_retry_s, longest_retry_s: pause after a failed connection, doubling, with jitter.
        give_up_s: an outage this long ends the stream with an error.
        keep_alive_s: how often the listen key of the user stream is prolonged; it lives for an hour.
        buffer: how many events may wait to be read.
    """

    silence_s: float = 30.0
    longest_silence_s: float = 300.0
    late_s: float = 2.0
    fill_again_s: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0, 4.0)
    first_retry_s: float = 0.2
    longest_retry_s: float = 20.0
    give_up_s: float = 600.0
    keep_alive_s: float = 25 * 60.0
    buffer: int = 10_000


CLOSE_S = 1.0
"""So long a closing handshake may take."""


@asynccontextmanager
async def open_socket(url: str) -> AsyncIterator[ClientConnection]:
    """A connection to a stream; pings find out a dead peer within 40 s.

    It is gone when the block has ended, also where its closing handshake is not waited for to the end.
    """
    connecting = connect(
        url,
        open_timeout=10,
        ping_interval=20,
        ping_timeout=20,
        close_timeout=CLOSE_S,
        max_size=4 * 2**20,
        max_queue=4096,
        compression=None,
        # REST requests take no proxy from the environment either.
        proxy=None,
        logger=_WIRE_LOG,
    )
    transport: asyncio.BaseTransport | None = None
    try:
        async with connecting as socket:
            transport = socket.transport
            yield socket
    finally:
        # A cancellation during the handshake would leave the connection behind.
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()


class Backoff:
    """Pauses between attempts to connect: doubling, with jitter, reset after a success."""

    def __init__(self, settings: StreamSettings, rng: random.Random | None = None) -> None:
        self._settings = settings
        self._rng = rng or random.Random()
        self._next_s = settings.first_retry_s

    def reset(self) -> None:
        """The connection works."""
        self._next_s = self._settings.first_retry_s

    def pause_s(self) -> float:
        """How long to wait before the next attempt."""
        pause_s = self._next_s
        self._next_s = min(2 * self._next_s, self._settings.longest_retry_s)
        return pause_s * self._rng.uniform(0.5, 1.0)


def decode(text: str | bytes) -> Mapping[str, Any]:
    """A stream message as a JSON object.

    Raises:
        ExchangeError: it is not one.
    """
    try:
        message: Any = json.loads(text)
    except ValueError as error:
        raise ExchangeError(f"a stream sent what is not JSON: {str(text[:80])!r}") from error
    if not isinstance(message, dict):
        raise ExchangeError(f"a stream sent what is not an object: {str(text[:80])!r}")
    return message


def event_of(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The event in a message, out of the envelope of a combined stream; empty when it holds a list or nothing."""
    body = message.get("data", message)
    return body if isinstance(body, dict) else {}


__all__ = [
    "INTERRUPTIONS",
    "Backoff",
    "ClientConnection",
    "StreamSettings",
    "decode",
    "event_of",
    "open_socket",
]
