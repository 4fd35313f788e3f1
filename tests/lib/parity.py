"""The same agent in the simulation and live on the paper exchange, and the comparison of their step rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from agents.base import AgentSetup
from agents.run import run
from envs.base import Action, Observation
from envs.features import market_features
from envs.futures_env import FuturesEnv
from envs.market import Market
from envs.observation import ObservationSpec
from envs.planning import to_decimal
from envs.step_log import COLUMNS, StepRecord
from envs.wrappers import RiskControl, StepLog
from live.bridge import LoopThread
from live.env import LiveEnv
from live.exchange.binance import BinanceExchange
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from live.settings import Credentials, paper_venue
from live.venues import LockStep

RELATIVE = 1e-9
# PnL and equity are differences of larger numbers: what is left of 1e-9 of the account's size.
ABSOLUTE = 1e-7


class Scripted:
    """Plays given actions; remembers the observations that it saw."""

    name = "script"

    def __init__(self, actions: np.ndarray) -> None:
        self._actions = actions
        self.seen: list[Observation] = []

    def reset(self, spec: ObservationSpec, *, seed: int | None = None) -> None:
        self.seen = []

    def act(self, observation: Observation, info: dict[str, Any]) -> Action:
        self.seen.append(observation)
        return self._actions[len(self.seen) - 1]

    def close(self) -> None:
        pass


def simulate(market: Market, setup: AgentSetup, scaler: Any, steps: int, first: int) -> list[StepRecord]:
    """Run an agent in the compiled simulation; the first decision is at candle `first`."""
    env = FuturesEnv(
        market,
        features=market_features(market, setup.features),
        scaler=scaler,
        config=setup.env,
        start=int(market.open_time_ms[first]),
        agent=setup.agent.name,
    )
    log = StepLog(RiskControl(env, setup.limits), agent=setup.agent.name)
    run(log, setup.agent, max_steps=steps)
    log.close()
    return log.records


def trade(market: Market, setup: AgentSetup, scaler: Any, steps: int, first: int) -> list[StepRecord]:
    """Run an agent live on a paper exchange in a thread; the first decision is at candle `first`."""
    account = PaperAccount(wallet_usdt=to_decimal(setup.env.initial_capital_usdt))
    feed = ReplayFeed(market, first + 1)
    with PaperServer.start(feed, (account,), slippage_bps=to_decimal(setup.env.slippage_bps)) as server:
        return trade_at(server.rest_url, market, setup, scaler, steps)


def trade_at(url: str, market: Market, setup: AgentSetup, scaler: Any, steps: int) -> list[StepRecord]:
    """Run an agent live on the paper exchange at an address, which plays `market` in lock-step."""
    with LoopThread() as bridge:
        venue = paper_venue(url, url.replace("http", "ws", 1))
        exchange = BinanceExchange(venue, Credentials("paper", "paper"), market.symbols)
        lock_step = LockStep(url)
        bridge.call(exchange.connect())
        try:
            loaded = bridge.call(exchange.instruments(market.symbols))
            for symbol in market.symbols:
                bridge.call(exchange.set_leverage(symbol, setup.env.leverage_setting(loaded[symbol])))
            env = LiveEnv(
                exchange,
                bridge,
                interval_ms=market.interval_ms,
                config=setup.env,
                features=setup.features,
                scaler=scaler,
                instruments=[loaded[symbol] for symbol in market.symbols],
                agent=setup.agent.name,
                request_candle=lock_step.request_candle,
            )
            log = StepLog(RiskControl(env, setup.limits), agent=setup.agent.name, keep_records=True)
            run(log, setup.agent, max_steps=steps)
            log.close()
        finally:
            bridge.call(lock_step.close())
            bridge.call(exchange.close())
    return log.records


def assert_same(
    simulated: Sequence[StepRecord], live: Sequence[StepRecord], *, absolute: float = ABSOLUTE
) -> None:
    """Compare rows field by field; numbers to RELATIVE, or to `absolute`."""
    assert len(simulated) == len(live)
    for number, (one, other) in enumerate(zip(simulated, live, strict=True)):
        for name in COLUMNS:
            left, right = getattr(one, name), getattr(other, name)
            where = f"row {number} ({one.symbol} {one.action_type} at {one.timestamp}), column {name}"
            if isinstance(left, Decimal | float) and not isinstance(left, bool):
                assert right is not None, where
                close = math.isclose(float(left), float(right), rel_tol=RELATIVE, abs_tol=absolute)
                assert close, f"{where}: {left} in the simulation, {right} live"
            else:
                assert left == right, f"{where}: {left!r} in the simulation, {right!r} live"
