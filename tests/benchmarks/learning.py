"""Whether training learns, shown both ways: it finds a signal that is there, and leaves alone a market without one.

Two hourly synthetic markets with real fees (0.05 % taker, 1 bp slippage, fundings), 30 % volatility a year, and the
same settings of the same train command, judged on a test span that it never saw:

- with a signal: a quarter of a candle's standard deviation is known from the momentum before. The policy sees the
  last 24 log returns and nothing else. `learning_signal_share` is its log growth as a share of that of the oracle,
  which knows the momentum and the process (see `_oracle.py`); at least 0.8 is asked for.
- a random walk: nothing to be known. `learning_random_walk_growth` is the log growth on the test span, a mean over
  seeds (of market and training both) with its 95 % interval by Student's t; flat has zero. It must not lie above
  zero by more than noise. `learning_random_walk_exposure` is the mean |position| / equity; flat has zero.

The reward is the log return minus 0.2 of each growth of the drawdown, about 2.5 bp an hour for a full position: on a
random walk the log return alone is all but indifferent between flat and a position that is never traded. Less is more
growth on the signal, and positions that are held for nothing on the random walk. Changes of less than a quarter of the
equity are not traded, by the policy and by the oracle.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.sac.config import TrainConfig
from agents.sac.dataset import TEST, Dataset, prepare
from agents.sac.policy import OnnxPolicy
from agents.sac.report import QuietReporter
from agents.sac.trainer import start_training
from agents.sac.validation import Validation, validate
from envs.futures_env import FuturesEnv
from tests.benchmarks._oracle import Oracle
from tests.benchmarks._report import emit, note

STRENGTH, VOLATILITY = 0.25, 0.3
TARGET_SHARE = 0.8
# Student's t for a two-sided 95 % interval, by degrees of freedom.
_T = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def settings(strength: float, seed: int, timesteps: int) -> TrainConfig:
    """Of one training; market and training have seeds of their own."""
    values: dict[str, Any] = {
        "data": {
            "synthetic": {
                "symbols": "ETHUSDT",
                "candles": 120_000,
                "seed": 100 + seed,
                "volatility_annual": VOLATILITY,
                "regimes": False,
                "jumps": False,
                "signal_strength": strength,
            }
        },
        "split": {"validation_fraction": 0.05, "test_fraction": 0.1},
        "env": {
            "window_size": 24,
            "action": {"scheme": "target", "rebalance_band": 0.25},
            "reward": {"reward": "drawdown_penalised", "penalty": 0.2},
        },
        "features": {"indicators": [{"name": "log_return", "periods": 1}]},
        "sac": {
            "timesteps": timesteps,
            "n_envs": 64,
            "gradient_steps": 4,
            "learning_rate": 1e-3,
            "learning_rate_schedule": "linear",
            "learning_rate_end_fraction": 0.05,
            "learning_starts": 5_000,
            "gamma": 0.95,
            "net_arch": [64, 64],
            "episode_candles": 500,
            "seed": seed,
            "device": "cpu",
        },
        "evaluation": {"every_steps": max(timesteps // 8, 1), "score": "mean_reward"},
    }
    return TrainConfig.parse(values)


@dataclass(frozen=True)
class Learned:
    """What a training came to on its test span."""

    policy: Validation
    oracle: Validation | None
    took_s: float

    @property
    def growth(self) -> float:
        """Log growth of the policy."""
        return math.log1p(self.policy.total_return)


def learned(strength: float, seed: int, timesteps: int) -> Learned:
    """Train as `python -m agents.train` does, and trade the test span."""
    config = settings(strength, seed, timesteps)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcome = start_training(
            config, root=Path(folder), reporter=QuietReporter(), should_stop=lambda: False
        )
        policy = OnnxPolicy(outcome.run.require_policy(), source="the trained policy")
    took_s = time.monotonic() - began
    dataset = prepare(config, notice=note)
    env = dataset.environment(TEST, config)
    judged = validate(policy, env, score="mean_reward", timesteps=timesteps)
    if not strength:
        return Learned(judged, None, took_s)
    return Learned(judged, oracle_growth(dataset, env, strength), took_s)


def oracle_growth(dataset: Dataset, env: FuturesEnv, strength: float) -> Validation:
    """The best of the oracles, after the fact: that with finer shares has some of its changes held by the band."""
    oracles: list[Any] = [
        Oracle(dataset, env, strength=strength, volatility_annual=VOLATILITY, shares=count)
        for count in (3, 5, 9)
    ]
    found = [validate(one, env, score="total_return", timesteps=0) for one in oracles]
    return max(found, key=lambda one: one.score)


def interval(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of the mean, by Student's t."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return -math.inf, math.inf
    half = _T[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def main() -> None:
    """Train, judge and print."""
    parser = argparse.ArgumentParser(description="Whether training learns.")
    parser.add_argument("--timesteps", type=int, default=160_000)
    parser.add_argument("--signal-seeds", type=int, default=2, choices=range(1, 11))
    parser.add_argument("--random-walk-seeds", type=int, default=5, choices=range(2, 11))
    given = parser.parse_args()
    _signal(given.signal_seeds, given.timesteps)
    _random_walk(given.random_walk_seeds, given.timesteps)


def _signal(seeds: int, timesteps: int) -> None:
    shares, lines = [], []
    for seed in range(1, seeds + 1):
        note(f"training on a market with a signal, seed {seed} of {seeds}")
        one = learned(STRENGTH, seed, timesteps)
        assert one.oracle is not None
        best = math.log1p(one.oracle.total_return)
        shares.append(one.growth / best)
        lines.append((seed, one, best))
        note(f"  log growth {one.growth:.3f}, the oracle's {best:.3f}: {shares[-1]:.1%} ({one.took_s:.0f} s)")
    worst = min(shares)
    emit(
        "learning_signal_share",
        worst,
        "of the oracle's log growth, worst seed",
        target=TARGET_SHARE,
        reached=worst >= TARGET_SHARE,
        mean=statistics.fmean(shares),
        seeds=seeds,
    )
    for (seed, one, best), share in zip(lines, shares, strict=True):
        assert one.oracle is not None
        emit(
            "learning_signal_growth",
            one.growth,
            "log growth",
            peer="the oracle that knows the signal",
            peer_value=best,
            seed=seed,
            share=share,
            orders=one.policy.orders,
            oracle_orders=one.oracle.orders,
            exposure=one.policy.mean_exposure,
            oracle_exposure=one.oracle.mean_exposure,
            candles=one.policy.steps,
            training_s=one.took_s,
        )


def _random_walk(seeds: int, timesteps: int) -> None:
    found = []
    for seed in range(1, seeds + 1):
        note(f"training on a random walk, seed {seed} of {seeds}")
        found.append(learned(0.0, seed, timesteps))
        one = found[-1]
        note(f"  log growth {one.growth:+.4f}, exposure {one.policy.mean_exposure:.3f} ({one.took_s:.0f} s)")
    growths = [one.growth for one in found]
    low, high = interval(growths)
    emit(
        "learning_random_walk_growth",
        statistics.fmean(growths),
        "log growth, mean of seeds; flat has 0",
        interval_low=low,
        interval_high=high,
        confidence=0.95,
        beats_flat=low > 0.0,
        seeds=growths,
        candles=found[0].policy.steps,
    )
    emit(
        "learning_random_walk_exposure",
        statistics.fmean(one.policy.mean_exposure for one in found),
        "mean |position| / equity; flat has 0",
        seeds=[round(one.policy.mean_exposure, 4) for one in found],
        orders=[one.policy.orders for one in found],
        training_s=statistics.fmean(one.took_s for one in found),
    )


if __name__ == "__main__":
    main()
