"""The fast pass of validation against the run that a backtest makes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.sac.policy import OnnxPolicy, load_sac_setup
from agents.sac.trainer import Outcome
from agents.sac.validation import validate
from agents.simulate import build_env, simulate
from envs.risk import RiskLimits
from envs.synthetic import synthetic_market


def test_validation_is_the_backtest_without_limits(outcome: Outcome) -> None:
    setup = replace(load_sac_setup(outcome.run), limits=RiskLimits())
    market = synthetic_market(n=400, seed=11)
    policy = OnnxPolicy(outcome.run.require_policy(), source="test")
    fast = validate(policy, build_env(setup, market), score="sharpe", timesteps=0)
    slow = simulate(setup, build_env(setup, market))
    assert fast.steps == slow.metrics.steps
    assert fast.total_return == pytest.approx(slow.metrics.total_return, rel=1e-9)
    assert fast.sharpe == pytest.approx(slow.metrics.sharpe, rel=1e-9)
    assert fast.max_drawdown == pytest.approx(slow.metrics.max_drawdown, rel=1e-9)
    assert fast.orders == len(slow.trades) > 0
    # The default reward is the log return of equity.
    assert fast.mean_reward * fast.steps == pytest.approx(np.log1p(fast.total_return))
    exposure = np.abs(slow.quantities()[1:, 0]) * market.close[-fast.steps :, 0] / slow.equity[1:]
    assert fast.mean_exposure == pytest.approx(exposure.mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("score", "attribute"),
    [("sharpe", "sharpe"), ("total_return", "total_return"), ("mean_reward", "mean_reward")],
)
def test_the_score_is_the_one_asked_for(outcome: Outcome, score: str, attribute: str) -> None:
    policy = OnnxPolicy(outcome.run.require_policy(), source="test")
    env = build_env(load_sac_setup(outcome.run), synthetic_market(n=200))
    found = validate(policy, env, score=score, timesteps=7)
    assert found.score == getattr(found, attribute)
    assert found.timesteps == 7
