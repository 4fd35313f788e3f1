"""The train loop: Stable-Baselines3's own SAC to the last bit, measured, and cut into legs that can be repeated."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback

from agents.sac.algorithm import Timing, TradingSac
from agents.sac.config import TrainConfig
from agents.sac.dataset import prepare
from agents.sac.model import torch_settings
from agents.sac.replay import IndexReplayBuffer
from agents.sac.vec import FuturesVecEnv

Settings = Callable[..., dict[str, Any]]


@pytest.fixture
def env(settings: Settings) -> FuturesVecEnv:
    config = TrainConfig.parse(settings())
    return FuturesVecEnv(
        prepare(config, notice=lambda _: None).vector_environment(
            "train", config, 4, random_start=True, episode_candles=20
        ),
        reward_scale=100.0,
    )


def arguments(**more: Any) -> dict[str, Any]:
    return {
        "learning_starts": 40,
        "batch_size": 16,
        "buffer_size": 400,
        "gradient_steps": 3,
        "policy_kwargs": {"net_arch": [16, 8]},
        "device": "cpu",
        "seed": 3,
        **more,
    }


@pytest.mark.parametrize("ent_coef", ["auto", 0.2])
def test_it_learns_what_their_own_learns_bit_for_bit(env: FuturesVecEnv, ent_coef: str | float) -> None:
    """Their train loop over their buffer, ours over the index buffer: the same draws, the same weights."""
    with torch_settings(1):
        theirs = SAC("MlpPolicy", env, **arguments(ent_coef=ent_coef))
        theirs.learn(400)
        ours = TradingSac("MlpPolicy", env, **arguments(ent_coef=ent_coef))
        ours.learn(400)
    assert type(theirs.replay_buffer) is ReplayBuffer and isinstance(ours.replay_buffer, IndexReplayBuffer)
    assert ours._n_updates == theirs._n_updates > 200
    for (name, mine), other in zip(
        ours.policy.state_dict().items(), theirs.policy.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, other), name
    if ent_coef == "auto":
        assert ours.log_ent_coef is not None and theirs.log_ent_coef is not None
        assert torch.equal(ours.log_ent_coef, theirs.log_ent_coef) and ours.log_ent_coef.item() != 0.0
    assert all(weights.requires_grad for weights in ours.critic.parameters())


def test_their_own_buffer_can_be_asked_for(env: FuturesVecEnv) -> None:
    model = TradingSac("MlpPolicy", env, **arguments(replay_buffer_class=ReplayBuffer))
    assert type(model.replay_buffer) is ReplayBuffer


def test_legs_depend_on_seed_and_timesteps_alone(env: FuturesVecEnv) -> None:
    def draws(model: TradingSac) -> tuple[Any, ...]:
        model.begin_leg()
        assert isinstance(model._last_obs, np.ndarray)
        return model._last_obs.tobytes(), float(np.random.rand()), float(torch.rand(()))

    model = TradingSac("MlpPolicy", env, **arguments())
    first = draws(model)
    model.learn(80, reset_num_timesteps=False)
    second = draws(model)
    assert second != first
    other = TradingSac("MlpPolicy", env, **arguments())
    other.num_timesteps = 80
    assert draws(other) == second
    assert draws(TradingSac("MlpPolicy", env, **arguments(seed=4))) != first


def test_a_falling_learning_rate_is_over_the_whole_training(env: FuturesVecEnv) -> None:
    """And not over a leg of it."""
    model = TradingSac("MlpPolicy", env, **arguments(learning_rate=lambda left: 1e-3 * left))
    model.planned_timesteps = 800
    rates = []
    for _ in range(4):
        model.learn(200, reset_num_timesteps=False)
        rates.append(model.actor.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([7.5e-4, 5e-4, 2.5e-4, 0.0], abs=1e-9)


class Slow(BaseCallback):
    """Takes a while where an environment would."""

    def _on_step(self) -> bool:
        time.sleep(0.002)
        return True


def test_the_time_is_told_apart(env: FuturesVecEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TradingSac("MlpPolicy", env, **arguments())
    sample = IndexReplayBuffer.sample

    def slowly(*given: Any, **more: Any) -> Any:
        time.sleep(0.001)
        return sample(*given, **more)

    monkeypatch.setattr(IndexReplayBuffer, "sample", slowly)
    began = time.perf_counter()
    model.learn(200, callback=Slow())
    took = time.perf_counter() - began
    timing = model.timing
    assert timing.env_steps == 200
    assert timing.gradient_steps == 3 * (200 - 40) // 4
    assert timing.env_s >= 50 * 0.002
    assert timing.replay_s >= timing.gradient_steps * 0.001
    assert timing.gradient_s > 0
    # All of the time but the set-up is in one of the three.
    assert timing.total_s <= took
    figures = timing.figures()
    assert figures["env_share"] + figures["replay_share"] + figures["gradient_share"] == pytest.approx(
        1, abs=2e-4
    )
    assert figures["env_steps_per_s"] == pytest.approx(200 / timing.total_s, rel=1e-2)
    assert figures["gradient_steps_per_s"] == pytest.approx(120 / timing.total_s, rel=1e-2)


def test_nothing_trained_has_no_figures() -> None:
    assert Timing().figures() == {}
