"""Environments, actions and risk limits of every kind, for property tests."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from support import counting_features

from envs.futures_env import FuturesEnv
from envs.market import Market
from envs.settings import EnvConfig
from envs.synthetic import synthetic_market

SYMBOLS = (("BTCUSDT",), ("ETHUSDT", "XRPUSDT"), ("DOGEUSDT", "BTCUSDT", "AVAXUSDT"))
STEPS = 60


@cache
def market(symbols: tuple[str, ...], interval: str, seed: int) -> Market:
    return synthetic_market(symbols, interval=interval, n=STEPS + 2, seed=seed, volatility_annual=2.0)


fractions = st.sampled_from([0.0, 0.003, 0.01, 0.04])
schemes = st.one_of(
    st.fixed_dictionaries(
        {
            "scheme": st.just("target"),
            "rebalance_band": st.sampled_from([0.0, 0.02, 0.2]),
            "stop_loss_fraction": fractions,
            "take_profit_fraction": fractions,
        }
    ),
    st.fixed_dictionaries(
        {
            "scheme": st.just("signal"),
            "hold_threshold": st.sampled_from([0.0, 0.3]),
            "signal_fraction": st.sampled_from([0.5, 3.0]),
            "flip": st.booleans(),
            "stop_loss_fraction": fractions,
            "take_profit_fraction": fractions,
        }
    ),
    st.fixed_dictionaries({"scheme": st.just("quantity"), "stop_loss_fraction": fractions}),
)
rewards = st.sampled_from(["log_return", "differential_sharpe", "drawdown_penalised"])


@st.composite
def environments(draw: st.DrawFn, **fixed: Any) -> tuple[Any, np.ndarray]:
    """A function that makes environments with the same settings, and actions for an episode."""
    symbols = draw(st.sampled_from(SYMBOLS))
    place = market(symbols, draw(st.sampled_from(["1h", "4h", "12h"])), draw(st.integers(0, 3)))
    settings: dict[str, Any] = {
        "window_size": 2,
        "initial_capital_usdt": draw(st.sampled_from([60.0, 10_000.0, 3_000_000.0])),
        "max_leverage": draw(st.sampled_from([1.0, 3.5, 20.0])),
        "slippage_bps": draw(st.sampled_from([0.0, 1.0, 30.0])),
        "action": draw(schemes),
        "reward": {"reward": draw(rewards)},
        "terminate_drawdown_fraction": draw(st.sampled_from([None, 0.3])),
        **fixed,
    }
    config = EnvConfig.parse(settings)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    actions = rng.uniform(-1, 1, (STEPS + 1, len(symbols)))
    actions[rng.random(actions.shape) < 0.1] = 0.0
    if config.action.scheme == "quantity":
        actions *= config.initial_capital_usdt * config.max_leverage / place.close[0]

    def make() -> FuturesEnv:
        return FuturesEnv(place, features=counting_features(place), config=config)

    return make, actions


limits_strategy = st.fixed_dictionaries(
    {},
    optional={
        "max_drawdown_fraction": st.sampled_from([0.05, 0.2]),
        "daily_loss_fraction": st.sampled_from([0.02, 0.1]),
        "max_leverage": st.sampled_from([0.5, 2.0]),
        "max_position_notional_usdt": st.sampled_from([100.0, 5_000.0]),
        "max_order_notional_usdt": st.sampled_from([100.0, 5_000.0]),
        "max_orders_per_hour": st.sampled_from([1, 3]),
        "allowed_symbols": st.sampled_from([["BTCUSDT"], ["BTCUSDT", "ETHUSDT", "XRPUSDT"]]),
        "protective_stop": st.booleans(),
    },
)
