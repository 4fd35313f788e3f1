"""The same agent over the same candles gives the same step rows in the simulation and on the paper exchange.

The simulation is the compiled kernel in float64; the live side is the whole loop over Binance's wire protocol, with
an exchange that keeps its books in Decimal. Rows are compared field by field.
"""

from __future__ import annotations

import numpy as np
import pytest
from parity import Scripted, assert_same, simulate, trade

from agents.base import AgentSetup
from envs.features import default_features, market_features
from envs.risk import RiskLimits
from envs.scaler import fit_scaler
from envs.settings import EnvConfig
from envs.synthetic import synthetic_market
from live.venues import first_decision_index

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
