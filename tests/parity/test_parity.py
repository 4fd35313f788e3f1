"""The same agent over the same candles gives the same step rows in the simulation and on the paper exchange.

The simulation is the compiled kernel in float64; the live side is the whole loop over Binance's wire protocol, with
an exchange that keeps its books in Decimal. Rows are compared field by field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from agents.base import AgentSetup
from agents.run import run
from envs.base import Action, Observation
from envs.features import default_features, market_features
from envs.futures_env import FuturesEnv
from envs.market import Market
from envs.observation import ObservationSpec
from envs.planning import to_decimal
from envs.risk import RiskLimits
from envs.scaler import fit_scaler
from envs.settings import EnvConfig
from envs.step_log import COLUMNS, StepRecord
from envs.synthetic import synthetic_market
from envs.wrappers import RiskControl, StepLog
from live.bridge import LoopThread
from live.env import LiveEnv
from live.exchange.binance import BinanceExchange
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from live.settings import Credentials, paper_venue
from live.venues import LockStep, first_decision_index

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
    account = PaperAccount(wallet_usdt=to_decimal(setup.env.initial_capital_usdt))
    feed = ReplayFeed(market, first + 1)
    with (
        PaperServer.start(feed, (account,), slippage_bps=to_decimal(setup.env.slippage_bps)) as server,
        LoopThread() as bridge,
    ):
        venue = paper_venue(server.rest_url, server.ws_url.rstrip("/"))
        exchange = BinanceExchange(venue, Credentials("paper", "paper"), market.symbols)
        lock_step = LockStep(server.rest_url)
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


def assert_same(simulated: Sequence[StepRecord], live: Sequence[StepRecord]) -> None:
    assert len(simulated) == len(live)
    for number, (one, other) in enumerate(zip(simulated, live, strict=True)):
        for name in COLUMNS:
            left, right = getattr(one, name), getattr(other, name)
            where = f"row {number} ({one.symbol} {one.action_type} at {one.timestamp}), column {name}"
            if isinstance(left, Decimal | float) and not isinstance(left, bool):
                assert right is not None, where
                close = math.isclose(float(left), float(right), rel_tol=RELATIVE, abs_tol=ABSOLUTE)
                assert close, f"{where}: {left} in the simulation, {right} live"
            else:
                assert left == right, f"{where}: {left!r} in the simulation, {right!r} live"


CASES = {
    "one symbol": (("BTCUSDT",), EnvConfig(max_leverage=3.0), RiskLimits()),
    "two symbols": (
        ("ETHUSDT", "DOGEUSDT"),
        EnvConfig(max_leverage=4.0, initial_capital_usdt=2_500.0, slippage_bps=3.0),
        RiskLimits(max_leverage=3.0, max_order_notional_usdt=5_000.0),
    ),
    "stops and take-profits": (
        ("BTCUSDT", "XRPUSDT"),
        EnvConfig(
            max_leverage=5.0,
            action={"scheme": "target", "stop_loss_fraction": 0.01, "take_profit_fraction": 0.012},
        ),
        RiskLimits(),
    ),
    "signals with protective stop": (
        ("ADAUSDT",),
        EnvConfig(max_leverage=2.0, action={"scheme": "signal", "signal_fraction": 1.5}),
        RiskLimits(max_drawdown_fraction=0.6, protective_stop=True),
    ),
    "liquidation": (
        ("AVAXUSDT", "BTCUSDT"),
        EnvConfig(
            max_leverage=18.0,
            exchange_leverage=20,
            initial_capital_usdt=3_000.0,
            # Signals are not resized on the way down, so that the account runs into its maintenance margin.
            action={"scheme": "signal", "signal_fraction": 8.0, "hold_threshold": 0.0},
        ),
        RiskLimits(),
    ),
    "emergency": (
        ("BNBUSDT", "ETHUSDT"),
        EnvConfig(max_leverage=6.0),
        RiskLimits(max_drawdown_fraction=0.05),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_step_rows_are_equal(name: str) -> None:
    symbols, config, limits = CASES[name]
    steps = 150
    market = synthetic_market(symbols, n=1_200, seed=11, falling=name == "liquidation")
    features = default_features()
    table = market_features(market, features)
    scaler = fit_scaler(table, rows=slice(table.warmup, 600))
    rng = np.random.default_rng(5)
    actions = np.repeat(rng.uniform(-1, 1, (steps // 3 + 1, len(symbols))), 3, axis=0)
    if name == "liquidation":
        actions = np.ones_like(actions)
    agents = Scripted(actions), Scripted(actions)
    setups = [AgentSetup(agent, config, features, scaler, limits) for agent in agents]
    first = first_decision_index(market, setups[0], str(market.open_time_ms[700]))

    simulated = simulate(market, setups[0], scaler, steps, first)
    live = trade(market, setups[1], scaler, steps, first)

    assert_same(simulated, live)
    seen = [np.array(agent.seen) for agent in agents]
    np.testing.assert_allclose(seen[0], seen[1], rtol=1e-6, atol=1e-6)
    kinds = {record.action_type for record in simulated}
    wanted = {
        "stops and take-profits": {"stop_loss", "take_profit"},
        "signals with protective stop": {"flip_to_long", "flip_to_short"},
        "liquidation": {"liquidation"},
        "emergency": {"emergency_close"},
        "one symbol": {"flip_to_long", "increase_short", "reduce_long"},
        "two symbols": {"flip_to_short", "increase_long", "reduce_short"},
    }
    assert wanted[name] <= kinds
