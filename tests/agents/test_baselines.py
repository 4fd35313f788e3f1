"""The rules: what they read, what they decide, and that they agree with the same rule computed independently."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support import flat_rows, market_of

from agents.baselines import (
    BASELINES,
    BuyAndHoldAgent,
    EmaCrossAgent,
    MomentumAgent,
    RandomAgent,
    baseline_setup,
    last_candle_columns,
)
from agents.simulate import Simulation, build_env, simulate
from envs.account import ActionType
from envs.errors import ConfigError, ObservationMismatchError
from envs.market import Market
from envs.observation import ObservationSpec, observation_spec
from envs.settings import EnvConfig
from envs.synthetic import synthetic_market

HOUR_MS = 3_600_000


def spec_of(
    features: tuple[str, ...], symbols: tuple[str, ...] = ("BTCUSDT",), window: int = 1
) -> ObservationSpec:
    return observation_spec(symbols, HOUR_MS, features, EnvConfig(window_size=window))


def run_rule(name: str, market: Market, **parameters: Any) -> Simulation:
    setup = baseline_setup(name, symbols=len(market.symbols), parameters=parameters, seed=3)
    return simulate(setup, build_env(setup, market), keep_records=True)


def test_a_feature_is_found_in_the_last_candle_of_the_window() -> None:
    spec = spec_of(("rsi_14", "ema_distance_20"), window=3)
    # Three candles of two features: the last candle's are entries 4 and 5.
    assert last_candle_columns(spec, "ema_distance_20", whose="x").tolist() == [5]


def test_with_two_symbols_a_feature_is_found_for_each() -> None:
    names = ("BTCUSDT:rsi_14", "BTCUSDT:atr_14", "ETHUSDT:rsi_14", "ETHUSDT:atr_14", "time_of_day_sin")
    spec = spec_of(names, ("BTCUSDT", "ETHUSDT"), window=2)
    assert last_candle_columns(spec, "atr_14", whose="x").tolist() == [5 + 1, 5 + 3]


def test_a_feature_that_is_not_there_is_named() -> None:
    agent = EmaCrossAgent(fast=20, slow=50)
    with pytest.raises(
        ObservationMismatchError, match=r"ema-cross needs the feature 'ema_distance_20'.*rsi_14"
    ):
        agent.reset(spec_of(("rsi_14",)))


def test_ema_cross_is_long_where_the_fast_ema_is_above_the_slow_one() -> None:
    agent = EmaCrossAgent(fast=10, slow=30)
    spec = spec_of(("ema_distance_10", "ema_distance_30"))
    agent.reset(spec)
    observation = np.zeros(spec.size, np.float32)
    # Close 100, fast EMA 98, slow EMA 95: distances 0.0204 and 0.0526.
    observation[:2] = 100 / 98 - 1, 100 / 95 - 1
    assert agent.act(observation, {}).tolist() == [1.0]
    observation[:2] = 100 / 95 - 1, 100 / 98 - 1
    assert agent.act(observation, {}).tolist() == [-1.0]
    observation[:2] = 0.01, 0.01
    assert agent.act(observation, {}).tolist() == [0.0]


def test_momentum_follows_the_return_beyond_its_threshold() -> None:
    agent = MomentumAgent(periods=5, threshold=0.01)
    spec = spec_of(("BTCUSDT:log_return_5", "ETHUSDT:log_return_5"), ("BTCUSDT", "ETHUSDT"))
    agent.reset(spec)
    observation = np.zeros(spec.size, np.float32)
    observation[:2] = 0.02, -0.02
    assert agent.act(observation, {}).tolist() == [1.0, -1.0]
    observation[:2] = 0.005, -0.005
    assert agent.act(observation, {}).tolist() == [0.0, 0.0]


def test_random_draws_the_same_after_every_reset_with_a_seed() -> None:
    agent, spec = RandomAgent(seed=5), spec_of(("rsi_14",), ("BTCUSDT", "ETHUSDT"))
    observation = np.zeros(spec.size, np.float32)

    def draws(seed: int | None) -> list[list[float]]:
        agent.reset(spec, seed=seed)
        return [agent.act(observation, {}).tolist() for _ in range(50)]

    first = draws(9)
    assert draws(9) == first
    assert draws(10) != first
    assert draws(None) == draws(5)
    assert np.abs(first).max() <= 1.0
    assert np.abs(np.mean(first)) < 0.25


def test_buy_and_hold_asks_until_each_position_is_there() -> None:
    agent, spec = BuyAndHoldAgent(), spec_of(("candle",), ("BTCUSDT", "ETHUSDT"))
    agent.reset(spec)
    observation = np.zeros(spec.size, np.float32)
    assert agent.act(observation, {}).tolist() == [1.0, 1.0]
    observation[1] = 0.5  # exposure of the first symbol
    assert agent.act(observation, {}).tolist() == [0.0, 1.0]
    observation[1], observation[4] = 0.0, 0.5  # the first is gone again: it is not bought twice
    assert agent.act(observation, {}).tolist() == [0.0, 0.0]


def test_buy_and_hold_puts_an_equal_share_into_each_symbol_once() -> None:
    prices = {
        "BTCUSDT": flat_rows(20_000, 20_000, 30_000, 10_000),
        "ETHUSDT": flat_rows(1_000, 1_000, 900, 2_000),
    }
    done = run_rule("buy-and-hold", market_of(prices))
    bought = {trade.fill.symbol: trade for trade in done.trades}
    assert len(done.trades) == 2
    assert all(trade.action_type is ActionType.OPEN_LONG for trade in done.trades)
    # 10,000 USDT in two halves: 5,000 / 20,000 and 5,000 / 1,000.
    assert float(bought["BTCUSDT"].fill.quantity) == 0.25
    assert float(bought["ETHUSDT"].fill.quantity) == 5.0
    # Slippage of 1 bp and a fee of 5 bps on the fill price, then 0.25 * 10,000 and 5 * 2,000 at the last close.
    cost = 0.25 * 20_002 + 5 * 1_000.1
    expected = 10_000 - cost - 0.0005 * cost + 0.25 * 10_000 + 5 * 2_000
    assert done.metrics.final_equity == pytest.approx(expected, rel=1e-12)


def test_flat_never_trades() -> None:
    done = run_rule("flat", synthetic_market(("BTCUSDT", "ETHUSDT"), n=60))
    assert done.trades == ()
    assert (done.equity == 10_000.0).all()
    assert {record.action_type for record in done.records} == {"hold", "end"}


def ema(values: list[float], period: int) -> list[float]:
    """The usual EMA: it starts as the mean of the first `period` values."""
    smoothed = [math.nan] * (period - 1) + [sum(values[:period]) / period]
    for value in values[period:]:
        smoothed.append(smoothed[-1] + 2 / (period + 1) * (value - smoothed[-1]))
    return smoothed


@pytest.mark.parametrize("symbols", [("BTCUSDT",), ("BTCUSDT", "ETHUSDT")])
def test_ema_cross_holds_what_independent_emas_say(symbols: tuple[str, ...]) -> None:
    market = synthetic_market(symbols, n=400, seed=2)
    done = run_rule("ema-cross", market, fast=5, slow=15)
    quantities = done.quantities()
    first = int(np.searchsorted(market.close_time_ms, done.time_ms[0]))
    assert first == 14
    for column in range(len(symbols)):
        closes = market.close[:, column].tolist()
        fast, slow = ema(closes, 5), ema(closes, 15)
        wanted = np.sign(np.array(fast) - np.array(slow))[first:-1]
        # What was decided at close t is held at close t + 1.
        assert np.array_equal(np.sign(quantities[1:, column]), wanted)


def test_momentum_holds_what_the_returns_say() -> None:
    market = synthetic_market(n=300, seed=4)
    done = run_rule("momentum", market, periods=7)
    close = market.close[:, 0]
    assert np.array_equal(np.sign(done.quantities()[1:, 0]), np.sign(close[7:-1] - close[:-8]))


def test_every_rule_has_a_setup_that_runs() -> None:
    market = synthetic_market(("BTCUSDT", "ETHUSDT", "XRPUSDT"), n=120)
    for name in BASELINES:
        done = run_rule(name, market)
        assert done.metrics.steps > 60, name


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("ema_cross", {}, r"unknown rule 'ema_cross'. Did you mean 'ema-cross'\?"),
        ("ema-cross", {"fsat": 3}, r"agent: ema-cross: unknown setting 'fsat', did you mean 'fast'\?"),
        ("ema-cross", {"fast": 50, "slow": 20}, r"fast is 50 and slow 20; fast must be the smaller"),
        ("momentum", {"periods": 0}, r"agent: momentum: periods = 0"),
        ("flat", {"fast": 3}, r"agent: flat: unknown setting 'fast'"),
    ],
)
def test_what_cannot_be_set_is_named(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        baseline_setup(name, symbols=1, parameters=parameters)
