"""Binance's user data stream: fills, orders, funding and account changes, and a `Resync` after every hole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from envs.errors import AuthenticationError, ExchangeError, ExchangeUnavailableError
from live.exchange.base import FillEvent, Resync, UserEvent
from live.exchange.buffer import EventStream
from live.exchange.clock import ExchangeClock
from live.exchange.error_codes import LISTEN_KEY_DOES_NOT_EXIST
from live.exchange.rest import BinanceRest
from live.exchange.sockets import (
    INTERRUPTIONS,
    Backoff,
    ClientConnection,
    StreamSettings,
    decode,
    open_socket,
)
from live.exchange.user_events import LISTEN_KEY_EXPIRED, message_kind, parse_user_message

_LOG = logging.getLogger(__name__)


class UserStream(EventStream[UserEvent]):
    """Events of one account. Needs a running event loop.

    The socket says nothing while nothing happens, so silence means nothing here; pings notice a dead peer. An event
    that arrives while the buffer is full replaces it by a `Resync`: what was in it is read again by REST.

    Attributes:
        connected: whether the socket is open; a dead peer is noticed within 40 s.
    """

    def __init__(
        self,
        rest: BinanceRest,
        *,
        exchange: str,
        on_event: Callable[[UserEvent], None],
        settings: StreamSettings,
    ) -> None:
        super().__init__(settings.buffer)
        self._rest = rest
        self._exchange = exchange
        self._on_event = on_event
        self._clock: ExchangeClock = rest.clock
        self._settings = settings
        self._backoff = Backoff(settings, rest.rng)
        self.connected = False
        self.start(self._run(), "user stream")

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        healthy_at_s = loop.time()
        reason = "connected"
        while True:
            opened = False
            try:
                # Asking again prolongs the key that exists, or makes a new one where it has expired.
                key = str(await self._rest.read("futures_stream_get_listen_key"))
                async with open_socket(f"{self._rest.venue.ws_url}/private/ws?listenKey={key}") as socket:
                    opened = self.connected = True
                    self._put(Resync(reason))
                    try:
                        reason = await self._read(socket, key)
                    finally:
                        self.connected = False
                    continue
            except AuthenticationError:
                raise
            except (*INTERRUPTIONS, ExchangeError) as error:
                problem = error
            if opened:
                healthy_at_s = loop.time()
            reason = "reconnected"
            down_s = loop.time() - healthy_at_s
            if down_s > self._settings.give_up_s:
                raise ExchangeUnavailableError(
                    f"no user events for {down_s:.0f} s: the user stream cannot be opened "
                    f"({type(problem).__name__}); check the network and the exchange's status"
                ) from problem
            pause_s = self._backoff.pause_s()
            _LOG.warning(
                "user stream interrupted (%s); opened anew in %.1f s", type(problem).__name__, pause_s
            )
            await asyncio.sleep(pause_s)

    async def _read(self, socket: ClientConnection, key: str) -> str:
        """Read until the listen key ends, and say why; interruptions are raised."""
        loop = asyncio.get_running_loop()
        renew_at_s = loop.time() + self._settings.keep_alive_s
        while True:
            try:
                async with asyncio.timeout_at(renew_at_s):
                    text = await socket.recv()
            except TimeoutError:
                if not await self._keep_alive(key):
                    return "the listen key had expired"
                renew_at_s = loop.time() + self._settings.keep_alive_s
                continue
            self._backoff.reset()
            message = decode(text)
            if message_kind(message) == LISTEN_KEY_EXPIRED:
                return "the listen key expired"
            for event in parse_user_message(message, exchange=self._exchange):
                self._on_event(event)
                if isinstance(event, FillEvent):
                    self._clock.observe(event.fill.time_ms)
                self._put(event)

    async def _keep_alive(self, key: str) -> bool:
        """Prolong the listen key; False when it has expired."""
        try:
            reply = await self._rest.read("futures_stream_keepalive", listenKey=key)
        except ExchangeError as error:
            if error.code == LISTEN_KEY_DOES_NOT_EXIST:
                return False
            raise
        return not reply.get("listenKey") or reply["listenKey"] == key

    def _put(self, event: UserEvent) -> None:
        if self.is_full():
            _LOG.warning("%d user events were not read in time; to be read again by REST", self.limit)
            self.clear()
            event = Resync("the buffer overflowed")
        self.push(event)
