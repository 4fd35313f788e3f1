"""A live environment over a real paper exchange, a proxy that misbehaves in between, and `live.py` as a process."""

from __future__ import annotations

import asyncio
import csv
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl

import aiohttp
import numpy as np
from aiohttp import web
from support import market_of

from envs.base import Observation
from envs.features import FeatureConfig
from envs.market import Market
from envs.observation import ObservationSpec
from envs.risk import RiskLimits
from envs.risk_state import RiskStore
from envs.settings import EnvConfig
from envs.wrappers import RiskControl, StepLog
from live.bridge import LoopThread
from live.env import LiveEnv
from live.exchange.base import RetryPolicy
from live.exchange.binance import BinanceExchange
from live.exchange.sockets import StreamSettings
from live.paper.account import Account, PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from live.resume import Resume
from live.settings import Credentials, paper_venue
from live.venues import LockStep

REPOSITORY = Path(__file__).resolve().parents[2]
FEATURES = FeatureConfig.model_validate({"indicators": [{"name": "high_low_range"}]})
"""One feature without warm-up, so that the first decision can be made at the first candle."""

QUANTITY = {"window_size": 1, "max_leverage": 10.0, "slippage_bps": 0.0, "action": {"scheme": "quantity"}}


def env_config(**settings: Any) -> EnvConfig:
    """Quantities as actions, 10000 USDT, no slippage, unless set otherwise."""
    return EnvConfig.parse({**QUANTITY, **settings})


class Proxy:
    """Passes requests on to an exchange, except where it is told to do something else with them.

    `faults` are taken in order: (method, path and symbol, or how these begin; what to do). `drop` never passes the
    request on and lets it time out; `mute` passes it on and swallows the reply; `503` answers so. `down` cuts every
    connection.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.url = ""
        self.faults: deque[tuple[str, str]] = deque()
        self.down = False
        self.seen: list[str] = []
        self._over = asyncio.Event()

    async def start(self) -> None:
        """Listen on a free port of this machine."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._session = aiohttp.ClientSession()
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0][:2])

    async def stop(self) -> None:
        """Let go of everything that is held."""
        self._over.set()
        await self._session.close()
        await self._runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        name = f"{request.method} {request.path}"
        self.seen.append(name)
        body = await request.read()
        symbol = dict(parse_qsl(body.decode() or request.query_string)).get("symbol", "")
        name = f"{name} {symbol}"
        fault = ""
        if self.faults and name.startswith(self.faults[0][0]):
            fault = self.faults.popleft()[1]
        if self.down:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fault == "503":
            return web.json_response({"msg": "Service Unavailable."}, status=503)
        if fault == "drop":
            await self._over.wait()
        headers = {k: v for k, v in request.headers.items() if k in ("X-MBX-APIKEY", "Content-Type")}
        url = f"{self.target}{request.raw_path}"
        async with self._session.request(request.method, url, data=body, headers=headers) as reply:
            text = await reply.text()
        if fault == "mute":
            await self._over.wait()
        return web.Response(text=text, status=reply.status, content_type="application/json")


@dataclass
class Rig:
    """A live environment with everything around it; `stack` is what an agent trades through."""

    server: PaperServer
    bridge: LoopThread
    exchange: BinanceExchange
    env: LiveEnv
    risk: RiskControl
    stack: StepLog
    proxy: Proxy | None
    slept_s: list[float] = field(default_factory=list)

    @property
    def account(self) -> Account:
        """The account as the exchange keeps it."""
        return self.server.exchange.engine.accounts["paper"]

    def held(self, symbol: str = "BTCUSDT") -> Decimal:
        """Signed position at the exchange."""
        return self.account.position(symbol).quantity

    def happen(self, **fault: Any) -> None:
        """Something is done at the exchange through its control routes, as `kind="manual_trade", ...`."""

        async def ask() -> None:
            url = f"{self.server.rest_url}/paper/faults"
            async with aiohttp.ClientSession() as session, session.post(url, json=fault) as reply:
                assert reply.status == 200, await reply.text()

        self.bridge.call(ask())

    def row(self, index: int = -1) -> dict[str, Any]:
        """One row of the step log."""
        record = self.stack.records[index]
        return {name: getattr(record, name) for name in record.__dataclass_fields__}


@contextmanager
def rig(
    market: Market,
    *,
    first: int = 0,
    config: EnvConfig | None = None,
    limits: RiskLimits | None = None,
    features: FeatureConfig = FEATURES,
    resume: Resume | None = None,
    store: RiskStore | None = None,
    server: PaperServer | None = None,
    with_proxy: bool = False,
    log: Mapping[str, Any] | None = None,
    exchange_type: type[BinanceExchange] = BinanceExchange,
    agent: str = "test",
    **options: Any,
) -> Iterator[Rig]:
    """A paper exchange in lock-step whose candle `first` has closed, and a live environment connected to it."""
    config = config or env_config()
    own_server = server is None
    if server is None:
        account = PaperAccount(wallet_usdt=Decimal(str(config.initial_capital_usdt)))
        slippage = Decimal(str(config.slippage_bps))
        server = PaperServer.start(ReplayFeed(market, first + 1), (account,), slippage_bps=slippage)
    with LoopThread() as bridge:
        proxy = Proxy(server.rest_url) if with_proxy else None
        if proxy is not None:
            bridge.call(proxy.start())
        venue = paper_venue(proxy.url if proxy else server.rest_url, server.ws_url.rstrip("/"))
        exchange = exchange_type(
            venue,
            Credentials("paper", "paper"),
            market.symbols,
            retry=RetryPolicy(attempts=3, delay_s=0.01, max_wait_s=0.5, resolve_s=0.4),
            streams=StreamSettings(late_s=0.2, fill_again_s=(0.05,), give_up_s=1.0, longest_retry_s=0.1),
            recv_window_ms=500,
            timeout_s=0.5,
            back_end_delay_s=0.1,
        )
        lock_step = LockStep(server.rest_url)
        try:
            bridge.call(exchange.connect())
            loaded = bridge.call(exchange.instruments(market.symbols))
            for symbol in market.symbols:
                bridge.call(exchange.set_leverage(symbol, config.leverage_setting(loaded[symbol])))
            env = LiveEnv(
                exchange,
                bridge,
                interval_ms=market.interval_ms,
                config=config,
                features=features,
                scaler=options.pop("scaler", None),
                instruments=[loaded[symbol] for symbol in market.symbols],
                agent=agent,
                resume=resume,
                request_candle=options.pop("request_candle", lock_step.request_candle),
                **options,
            )
            slept: list[float] = []
            risk = RiskControl(env, limits or RiskLimits(), store=store, sleep=slept.append)
            stack = StepLog(risk, agent=agent, keep_records=True, **(log or {}))
            try:
                yield Rig(server, bridge, exchange, env, risk, stack, proxy, slept)
            finally:
                if proxy is not None:
                    proxy.down = False
                stack.close()
        finally:
            bridge.call(lock_step.close())
            bridge.call(exchange.close())
            if proxy is not None:
                bridge.call(proxy.stop())
            if own_server:
                server.stop()


def step(rig: Rig, *action: float) -> tuple[Any, Any]:
    """One step of the whole stack by its phases: execution and step result."""
    execution = rig.stack.execute(rig.stack.plan(np.array(action, np.float64)))
    return execution, rig.stack.advance()


class Scripted:
    """Plays given actions, then zeros."""

    name = "script"

    def __init__(self, *actions: Sequence[float]) -> None:
        self._actions = [np.array(action, np.float64) for action in actions]
        self.seen: list[Observation] = []

    def reset(self, spec: ObservationSpec, *, seed: int | None = None) -> None:
        self.seen = []

    def act(self, observation: Observation, info: dict[str, Any]) -> np.ndarray[Any, Any]:
        self.seen.append(observation)
        index = len(self.seen) - 1
        return self._actions[index] if index < len(self._actions) else np.zeros_like(self._actions[0])

    def close(self) -> None:
        pass


# --- live.py as a process -------------------------------------------------------------------------------------


def bare_environ(**values: str) -> dict[str, str]:
    """The environment without anybody's exchange keys."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BINANCE_")}
    return {**clean, **values}


def start_live(
    *arguments: str | Path, environ: Mapping[str, str] | None = None, output: IO[str] | None = None
) -> subprocess.Popen[str]:
    """Start live.py; what it says goes to `output`, else into pipes."""
    return subprocess.Popen(
        [sys.executable, "live.py", *map(str, arguments)],
        cwd=REPOSITORY,
        env=dict(bare_environ() if environ is None else environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if output is None else output,
        stderr=subprocess.PIPE if output is None else output,
        text=True,
    )


def live(
    *arguments: str | Path, environ: Mapping[str, str] | None = None, timeout_s: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run live.py to its end."""
    process = start_live(*arguments, environ=environ)
    try:
        out, err = process.communicate(timeout=timeout_s)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def rows_of(folder: Path, pattern: str = "steps_*.csv") -> list[dict[str, str]]:
    """The rows of all files of a folder, oldest first."""
    rows: list[dict[str, str]] = []
    for path in sorted(folder.glob(pattern)):
        with path.open(newline="") as file:
            rows += csv.DictReader(file)
    return rows


def wait_for(what: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def flat_market(price: float = 50_000.0, count: int = 12, **options: Any) -> Market:
    """Candles that stand still."""
    return market_of([(price, price, price, price)] * count, **options)
