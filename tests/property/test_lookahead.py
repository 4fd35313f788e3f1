"""No look-ahead: a future that differs changes nothing before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from envs.candles import CandleSet
from envs.features import default_features, market_features
from envs.funding import FundingSeries
from envs.futures_env import FuturesEnv
from envs.market import Market, build_market
from envs.risk import RiskLimits
from envs.scaler import fit_scaler
from envs.settings import EnvConfig
from envs.step_log import StepRecord
from envs.synthetic import synthetic_market
from envs.wrappers import RiskControl, StepLog

N = 420
STEPS = 120
# What an order that fills at open(t+1) may change in row t; everything else in row t is decided before.
AFTER_FILL = {
    "balance", "equity", "drawdown", "max_drawdown", "pnl_total", "position_open", "position_side",
    "position_entry_price", "position_quantity", "unrealized_pnl", "action_type", "operation", "result", "error",
    "trade_id", "quantity", "fill_price", "commission", "funding",
}  # fmt: skip


def other_future(market: Market, t: int, seed: int) -> Market:
    """The market with every candle after t, and every funding after its close, replaced by others."""
    rng = np.random.default_rng(seed)
    cut_ms = int(market.open_time_ms[t]) + market.interval_ms
    candles, funding = [], {}
    for one, series in zip(market.candles, market.funding, strict=True):
        factor = np.ones(len(one))
        factor[t + 1 :] = np.exp(np.cumsum(rng.normal(0, 0.02, len(one) - t - 1)))
        volume = one.volume.copy()
        volume[t + 1 :] *= rng.uniform(0.1, 10, len(one) - t - 1)
        prices = {name: getattr(one, name) * factor for name in ("open", "high", "low", "close")}
        candles.append(replace(one, **prices, volume=volume))
        assert series is not None
        later = series.time_ms >= cut_ms
        rates = np.where(later, rng.normal(0, 0.01, len(series)), series.rate)
        funding[one.symbol] = FundingSeries(one.symbol, series.time_ms, rates, "other")
    changed = build_market(candles, funding=funding)
    assert isinstance(changed.candles[0], CandleSet)
    np.testing.assert_array_equal(changed.close[: t + 1], market.close[: t + 1])
    assert not np.isclose(changed.close[t + 2 :], market.close[t + 2 :]).any()
    return changed


def episode(
    market: Market, config: EnvConfig, weights: np.ndarray
) -> tuple[int, list[np.ndarray], list[np.ndarray], list[StepRecord]]:
    """Observations, actions and rows of an agent whose action is a function of its observation."""
    features = market_features(market, default_features())
    scaler = fit_scaler(features, rows=slice(features.warmup, features.warmup + 20))
    env = FuturesEnv(market, features=features, scaler=scaler, config=config, episode_candles=STEPS)
    limits = RiskLimits(max_leverage=4.0, protective_stop=True, max_drawdown_fraction=0.9)
    log = StepLog(RiskControl(env, limits), agent="linear")
    observation, _ = log.reset()
    observations, actions = [observation], []
    while True:
        action = np.tanh(weights[:, : len(observation)] @ observation)
        actions.append(action)
        log.execute(log.plan(action))
        observation, _, terminated, truncated, _ = log.advance()
        observations.append(observation)
        if terminated or truncated:
            break
    log.close()
    return env.first_index, observations, actions, log.records


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("symbols", "interval"), [(("BTCUSDT",), "1h"), (("ETHUSDT", "BTCUSDT"), "4h"), (("BTCUSDT",), "12h")]
)
def test_another_future_changes_nothing_before_it(symbols: tuple[str, ...], interval: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    market = synthetic_market(symbols, interval=interval, n=N, seed=seed)
    config = EnvConfig.parse(
        {
            "window_size": 5,
            "max_leverage": 3.0,
            "action": {"scheme": "target", "stop_loss_fraction": 0.02, "take_profit_fraction": 0.03},
        }
    )
    weights = rng.normal(0, 0.5, (len(symbols), 4096))
    first, observations, actions, rows = episode(market, config, weights)
    step = int(rng.integers(20, len(actions) - 5))
    t = first + step
    same_first, other_observations, other_actions, other_rows = episode(
        other_future(market, t, seed), config, weights
    )
    assert same_first == first
    for mine, theirs in zip(observations[: step + 1], other_observations[: step + 1], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for mine, theirs in zip(actions[: step + 1], other_actions[: step + 1], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    close_ms = int(market.open_time_ms[t]) + market.interval_ms - 1
    assert [r for r in rows if r.timestamp < close_ms] == [r for r in other_rows if r.timestamp < close_ms]
    at_t = [[r for r in one if r.timestamp == close_ms] for one in (rows, other_rows)]
    assert len(at_t[0]) == len(at_t[1]) > 0
    for mine, theirs in zip(*at_t, strict=True):
        for name in set(StepRecord.__dataclass_fields__) - AFTER_FILL:
            assert getattr(mine, name) == getattr(theirs, name), name
    # The test can tell: afterwards the two do differ.
    assert not np.array_equal(observations[step + 2], other_observations[step + 2])


def test_the_plan_at_t_does_not_see_the_next_open() -> None:
    market = synthetic_market(("BTCUSDT",), n=N, seed=9)
    config = EnvConfig.parse(
        {"window_size": 5, "max_leverage": 3.0, "action": {"scheme": "target", "stop_loss_fraction": 0.02}}
    )
    plans = []
    for world in (market, other_future(market, 250, 1)):
        env = FuturesEnv(world, config=config)
        env.reset(options={"start_index": 250})
        plans.append(env.plan(np.array([0.7])))
    assert plans[0] == plans[1]
    assert plans[0].entries[0].order is not None
