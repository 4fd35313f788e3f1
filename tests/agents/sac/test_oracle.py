"""The oracle that training is measured by: no rule of the same kind does better, and without a signal it stays out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from agents.sac.config import TrainConfig
from agents.sac.dataset import TEST, Dataset, prepare
from agents.sac.validation import validate
from tests.benchmarks._oracle import Oracle, best_rule
from tests.benchmarks.learning import STRENGTH, VOLATILITY, interval, oracle_growth, settings

CANDLES = 8_000


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    values = settings(STRENGTH, 1, 1_000).model_dump()
    values["data"]["synthetic"]["candles"] = CANDLES
    values["split"] = {"validation_fraction": 0.1, "test_fraction": 0.5}
    return TrainConfig.parse(values)


@pytest.fixture(scope="module")
def dataset(config: TrainConfig) -> Dataset:
    return prepare(config, notice=lambda _: None)


def growth(policy: Any, dataset: Dataset, config: TrainConfig) -> float:
    env = dataset.environment(TEST, config)
    return math.log1p(validate(policy, env, score="mean_reward", timesteps=0).total_return)


class Threshold:
    """In where the momentum is beyond `enter`, out where it is back within `leave`."""

    def __init__(self, momentum: Any, first: int, enter: float, leave: float) -> None:
        self.momentum, self.candle, self.enter, self.leave, self.held = momentum, first, enter, leave, 0.0

    def __call__(self, _observation: Any) -> Any:
        momentum = self.momentum[self.candle]
        self.candle += 1
        if abs(momentum) > self.enter:
            self.held = float(np.sign(momentum))
        elif momentum * self.held < self.leave:
            self.held = 0.0
        return np.array([self.held], np.float32)


def test_no_threshold_does_better(dataset: Dataset, config: TrainConfig) -> None:
    env = dataset.environment(TEST, config)
    oracle = Oracle(dataset, env, strength=STRENGTH, volatility_annual=VOLATILITY)
    best = math.log1p(oracle_growth(dataset, env, STRENGTH).total_return)
    assert best > 1.0
    others = {
        (enter, leave): growth(Threshold(oracle._momentum, env.first_index, enter, leave), dataset, config)
        for enter in (0.15, 0.3, 0.45)
        for leave in (-0.2, 0.0)
        if leave < enter
    }
    # The best of six after the fact may have been lucky by a little.
    assert max(others.values()) < 1.02 * best
    assert max(others.values()) > 0.8 * best


def test_without_a_signal_the_best_is_to_stay_out() -> None:
    shocks = np.random.default_rng(0).normal(size=200)
    shocks -= shocks.mean()
    shares = np.linspace(-1, 1, 9)
    rule = best_rule(shocks, strength=0.0, volatility=0.003, cost=0.0006, shares=shares)
    assert (rule.choice[:, 4] == 4).all()


def test_without_costs_the_best_is_the_signal_over_the_variance() -> None:
    """Kelly's share, signal / variance, to the nearest of the grid."""
    rng = np.random.default_rng(0)
    shocks = rng.normal(size=200)
    shocks -= shocks.mean()
    shares = np.linspace(-1, 1, 81)
    volatility, strength = 0.01, 0.004
    rule = best_rule(shocks, strength=strength, volatility=volatility, cost=0.0, shares=shares)
    std = math.sqrt((2 / 9) / (2 - 2 / 9))
    signal = strength * volatility * np.clip(rule.momenta / std, -2, 2)
    kelly = np.clip(signal / (volatility**2 * np.mean(shocks**2)), -1, 1)
    np.testing.assert_allclose(shares[rule.choice[:, 40]], kelly, atol=0.0126)


def test_costs_make_a_band_in_which_a_position_is_kept() -> None:
    shocks = np.random.default_rng(0).normal(size=200)
    shocks -= shocks.mean()
    rule = best_rule(shocks, strength=0.25, volatility=0.003, cost=0.0006, shares=np.linspace(-1, 1, 9))
    middle = len(rule.momenta) // 2
    assert rule.next_share(0.0, 8) == 8 and rule.next_share(0.0, 0) == 0  # kept at no momentum
    assert rule.next_share(2.0, 4) == 8 and rule.next_share(-2.0, 4) == 0
    assert (np.diff(rule.choice, axis=0) >= 0).all() and rule.choice[middle, 4] == 4


def test_the_interval_is_students() -> None:
    assert interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((1.0368, 4.9632), abs=1e-3)
