"""Run the exchange: in a thread of this process (`PaperServer.start`) or in the foreground (`serve`)."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterable, Mapping
from decimal import Decimal
from types import TracebackType
from typing import Any

import uvicorn

from envs.errors import ConfigError, ExchangeUnavailableError
from envs.instruments import Instrument
from live.paper.account import PaperAccount
from live.paper.exchange import PaperExchange
from live.paper.feeds import ReplayFeed
from live.paper.server import PaperApp

_START_TIMEOUT_S = 10.0


class _Uvicorn(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class PaperServer:
    """A paper exchange listening on a port of this machine.

    `with PaperServer.start(feed) as server:` runs it in a thread of this process; `server.rest_url` and
    `server.ws_url` are what a client needs. The exchange's state lives in memory and ends with it.
    """

    def __init__(self, exchange: PaperExchange, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.exchange = exchange
        self.host = host
        self._socket = _bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            PaperApp(exchange, wall_s=time.time),
            access_log=False,
            log_level="warning",
            date_header=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=1,
            timeout_keep_alive=75,
            ws_ping_interval=180.0,
            ws_ping_timeout=600.0,
            ws_per_message_deflate=False,
        )
        self._server = _Uvicorn(config)
        self._thread: threading.Thread | None = None

    @classmethod
    def start(
        cls,
        feed: ReplayFeed,
        accounts: Iterable[PaperAccount] = (PaperAccount(),),
        *,
        slippage_bps: Decimal = Decimal(0),
        instruments: Mapping[str, Instrument] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> PaperServer:
        """Start an exchange in a thread and return once it listens. Port 0 takes a free one."""
        exchange = PaperExchange(feed, accounts, slippage_bps=slippage_bps, instruments=instruments)
        server = cls(exchange, host=host, port=port)
        server._run_in_thread()
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

    def serve(self) -> None:
        """Serve in the calling thread until interrupted."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Stop serving, close every connection and wait for the thread."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._socket.close()

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
        with urllib.request.urlopen(request) as reply:
            answer: dict[str, Any] = json.load(reply)
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
        raise ConfigError(f"cannot listen on {host}:{port}: {problem}; give another port") from problem
    return listener
