"""Parity over thousands of candles with stops and take-profits on two symbols, the exchange in a process of its own."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from paper_process import paper_process
from parity import Scripted, assert_same, simulate, trade_at

from agents.base import AgentSetup
from envs.features import default_features, market_features
from envs.planning import to_decimal
from envs.risk import RiskLimits
from envs.scaler import fit_scaler
from envs.settings import EnvConfig
from live.paper.feeds import synthetic_feed

SYMBOLS = ("BTCUSDT", "XRPUSDT")
SEED = 23
HELD = 12
"""Candles for which an action stays the same: positions last long enough to meet their stops."""


@pytest.mark.parametrize("steps", [1_500, pytest.param(5_000, marks=pytest.mark.slow)])
def test_thousands_of_candles_with_stops_and_two_symbols(steps: int) -> None:
    config = EnvConfig(
        max_leverage=3.0,
        slippage_bps=1.0,
        action={
            "scheme": "target",
            "rebalance_band": 0.25,
            "stop_loss_fraction": 0.015,
            "take_profit_fraction": 0.02,
        },
    )
    feed = synthetic_feed(SYMBOLS, interval="1h", seed=SEED)
    features = default_features()
    table = market_features(feed.market, features)
    first = feed.start_index - 1
    scaler = fit_scaler(table, rows=slice(table.warmup, first))
    rng = np.random.default_rng(5)
    actions = np.repeat(rng.uniform(-1, 1, (steps // HELD + 1, len(SYMBOLS))), HELD, axis=0)
    agents = Scripted(actions), Scripted(actions)
    setups = [AgentSetup(agent, config, features, scaler, RiskLimits()) for agent in agents]

    simulated = simulate(feed.market, setups[0], scaler, steps, first)
    names = [argument for symbol in SYMBOLS for argument in ("--symbol", symbol)]
    with paper_process(
        *names,
        "--interval", "1h",
        "--seed", str(SEED),
        "--wallet", str(to_decimal(config.initial_capital_usdt)),
        "--slippage-bps", str(config.slippage_bps),
    ) as url:  # fmt: skip
        live = trade_at(url, feed.market, setups[1], scaler, steps)

    # What is left of 1e-9 of the account after thousands of fills, each rounded by the exchange to 1e-12.
    assert_same(simulated, live, absolute=1e-9 * config.initial_capital_usdt)
    np.testing.assert_allclose(np.array(agents[0].seen), np.array(agents[1].seen), rtol=1e-6, atol=1e-6)
    kinds = Counter(record.action_type for record in simulated)
    assert len(agents[1].seen) == steps
    assert min(kinds["stop_loss"], kinds["take_profit"]) > steps // 50, kinds
    assert min(kinds["flip_to_long"], kinds["reduce_short"]) > steps // 500, kinds
