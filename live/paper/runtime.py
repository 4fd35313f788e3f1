"""Run the exchange: in a thread of this process (`PaperServer.start`) or in the foreground (`serve`)."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any

import uvicorn

from envs.errors import ConfigError, ExchangeUnavailableError
from envs.instruments import Instrument
from live.paper.account import PaperAccount
from live.paper.exchange import PaperExchange
from live.paper.fault_specs import FaultSchedule
from live.paper.feeds import ReplayFeed
from live.paper.limits import LimitSettings
from live.paper.server import PaperApp
from live.paper.wire import HttpConnection, WebSocketConnection

_START_TIMEOUT_S = 10.0
# The turns of the loop that a connection needs from its acceptance: a task that makes its transport, and the call that
# tells its protocol. One more to spare.
_TURNS_TO_CONNECT = 3
_LOG = logging.getLogger(__name__)
_CONTROL_TIMEOUT_S = 600.0


class _Uvicorn(uvicorn.Server):
    """A server that says when it listens, and that can be away for a while."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()
        self._interrupting = asyncio.Lock()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def interrupt(self, seconds: float) -> None:
        """Cut every connection and refuse new ones for so many seconds, as a restart does; one after another."""
        async with self._interrupting:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            await self._stop_listening()
            for connection in list(self.server_state.connections):
                if isinstance(connection, (HttpConnection, WebSocketConnection)):
                    connection.cut()
            await asyncio.sleep(seconds)
            server = await asyncio.get_running_loop().create_server(self._protocol, sock=_bind(host, port))
            self.servers = [server]
            _LOG.info("listening again on %s:%d", host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._stop_listening()
        await super().shutdown(sockets)

    async def _stop_listening(self) -> None:
        """Accept nobody any more; who has been accepted stands among the connections afterwards.

        asyncio makes a connection in a few turns of its loop. One that is in the making while its server closes would
        be left open with nobody to read from it, or be missing among the connections.
        """
        loop = asyncio.get_running_loop()
        for server in self.servers:
            for listener in server.sockets:
                loop.remove_reader(listener.fileno())
        for _ in range(_TURNS_TO_CONNECT):
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()

    def _protocol(self) -> asyncio.Protocol:
        return HttpConnection(self.config, self.server_state, self.lifespan.state)


class PaperServer:
    """A paper exchange listening on a port of this machine.

    `with PaperServer.start(feed) as server:` runs it in a thread of this process; `server.rest_url` and
    `server.ws_url` are what a client needs. Without a `state` file the exchange's state lives in memory and ends
    with it.
    """

    def __init__(
        self,
        exchange: PaperExchange,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        faults: FaultSchedule | None = None,
        ping_every_s: float = 180.0,
        pong_within_s: float = 600.0,
    ) -> None:
        self.exchange = exchange
        self.host = host
        self._socket = _bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        app = PaperApp(exchange, wall_s=time.time, schedule=faults)
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http=HttpConnection,
            ws=WebSocketConnection,
            access_log=False,
            log_level="warning",
            date_header=False,
            server_header=False,
            # Whom a request came from is said by its connection, or by a proxy on this machine: nobody else, whatever
            # the environment says, may call itself local.
            forwarded_allow_ips="127.0.0.1",
            lifespan="on",
            timeout_graceful_shutdown=1,
            timeout_keep_alive=75,
            ws_ping_interval=ping_every_s,
            ws_ping_timeout=pong_within_s,
            ws_per_message_deflate=False,
        )
        self._server = _Uvicorn(config)
        app.restarts_by(self._server.interrupt)
        self._thread: threading.Thread | None = None

    @classmethod
    def start(
        cls,
        feed: ReplayFeed,
        accounts: Iterable[PaperAccount] = (PaperAccount(),),
        *,
        slippage_bps: Decimal = Decimal(0),
        instruments: Mapping[str, Instrument] | None = None,
        limits: LimitSettings | None = None,
        faults: FaultSchedule | None = None,
        state: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> PaperServer:
        """Start an exchange in a thread and return once it listens. Port 0 takes a free one.

        `state` is the file that the exchange's state is kept in; see `live.paper.persistence`.
        """
        exchange = PaperExchange(
            feed, accounts, slippage_bps=slippage_bps, instruments=instruments, limits=limits, state=state
        )
        try:
            server = cls(exchange, host=host, port=port, faults=faults)
            server._run_in_thread()
        except BaseException:
            exchange.close()
            raise
        return server

    @property
    def rest_url(self) -> str:
        """Base of the REST paths, e.g. `http://127.0.0.1:40123` (python-binance: plus `/fapi`)."""
        return f"http://{self.host}:{self.port}"

    @property
    def ws_url(self) -> str:
        """Base of the WebSocket paths, with the trailing slash that python-binance needs."""
        return f"ws://{self.host}:{self.port}/"

    def advance(self, candles: int = 1) -> dict[str, Any]:
        """Play candles in lock-step through the control route. Blocks; not for the server's own loop."""
        return self._control("POST", "/paper/advance", {"candles": candles})

    def state(self) -> dict[str, Any]:
        """Clock, index, remaining candles, speed, symbols."""
        return self._control("GET", "/paper/state", None)

    def fault(self, kind: str, **settings: Any) -> dict[str, Any]:
        """Arm a fault, or do it at once: `fault("lost_after", path="/fapi/v1/order")`. See `live.paper.fault_specs`."""
        return self._control("POST", "/paper/faults", {"kind": kind, **settings})

    def faults(self) -> dict[str, Any]:
        """What is armed, the schedule, and what has struck so far."""
        return self._control("GET", "/paper/faults", None)

    def clear_faults(self) -> dict[str, Any]:
        """Disarm everything, end the schedule, lift bans and put the clock right."""
        return self._control("DELETE", "/paper/faults", None)

    def serve(self) -> None:
        """Serve in the calling thread until interrupted. The exchange's state file stays open until `stop`."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Stop serving, close every connection and wait for the thread."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._socket.close()
        self.exchange.close()

    def __enter__(self) -> PaperServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _run_in_thread(self) -> None:
        self._thread = threading.Thread(target=self.serve, name="paper-exchange", daemon=True)
        self._thread.start()
        if not self._server.listening.wait(_START_TIMEOUT_S):
            self.stop()
            raise ExchangeUnavailableError(
                f"the paper exchange did not start listening on {self.rest_url} within {_START_TIMEOUT_S:g} s"
            )

    def _control(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.rest_url + path, data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_CONTROL_TIMEOUT_S) as reply:
                answer: dict[str, Any] = json.load(reply)
        except urllib.error.HTTPError as problem:
            with problem:
                raise ConfigError(f"{method} {path}: {json.load(problem).get('msg')}") from None
        return answer


def _bind(host: str, port: int) -> socket.socket:
    # asyncio switches Nagle's algorithm off only on sockets that name their protocol; with it a reply in two
    # writes waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)  # from here on clients may connect; they wait for the loop to begin
    except OSError as problem:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {problem}; give another host or port"
        ) from problem
    return listener
