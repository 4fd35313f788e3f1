"""Running a policy through a span as fast as the kernel goes: what training validates by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from agents.metrics import candle_returns, max_drawdown, sharpe_ratio
from agents.sac.policy import OnnxPolicy
from envs.futures_env import FuturesEnv


@dataclass(frozen=True, slots=True)
class Validation:
    """One pass of the deterministic policy over the validation span.

    Attributes:
        timesteps: candles that the training had traded by then.
        score: what the best is kept by.
        sharpe: annualised; None where the policy did nothing.
        mean_reward: per candle, as the environment gives it.
        mean_exposure: mean |notional| / equity at the closes.
        orders: fills, stops and liquidations included.
        steps: candles traded; fewer than the span holds after a liquidation.
    """

    timesteps: int
    score: float
    sharpe: float | None
    total_return: float
    max_drawdown: float
    mean_reward: float
    mean_exposure: float
    orders: int
    steps: int

    def to_dict(self) -> dict[str, Any]:
        """For training_state.json."""
        return asdict(self)


def validate(
    policy: OnnxPolicy,
    env: FuturesEnv,
    *,
    score: str,
    timesteps: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Validation:
    """Run `policy` through the span of `env` without risk limits, in the kernel's fused steps.

    A policy that does nothing has no Sharpe ratio; it scores 0, so that one that loses is not better.
    """
    observation, _ = env.reset()
    equity = [env.config.initial_capital_usdt]
    rewards: list[float] = []
    exposures: list[float] = []
    window = env.config.window_size * len(env.spec_observation.features)
    share = env.config.max_leverage if env.config.normalize_portfolio else 1.0
    exposure_entries = slice(window, window + 3 * len(env.symbols), 3)
    ended = False
    while not ended and not should_stop():
        observation, reward, terminated, truncated, _ = env.step(policy(observation))
        ended = terminated or truncated
        rewards.append(reward)
        equity.append(env.totals()["equity"])
        exposures.append(float(np.abs(observation[exposure_entries]).sum()) * share)
    totals = env.totals()
    values = np.array(equity)
    sharpe = sharpe_ratio(candle_returns(values), env.market.interval_ms)
    figures = {
        "sharpe": 0.0 if sharpe is None else sharpe,
        "total_return": values[-1] / values[0] - 1.0,
        "mean_reward": float(np.mean(rewards)) if rewards else 0.0,
    }
    return Validation(
        timesteps=timesteps,
        score=float(figures[score]),
        sharpe=sharpe,
        total_return=float(figures["total_return"]),
        max_drawdown=max_drawdown(values),
        mean_reward=figures["mean_reward"],
        mean_exposure=float(np.mean(exposures)) if exposures else 0.0,
        orders=int(totals["trades"]),
        steps=len(rewards),
    )
