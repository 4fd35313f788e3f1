"""The vector environment as Stable-Baselines3 sees it: like its own, and fit to learn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from agents.sac.vec import FuturesVecEnv
from envs.errors import ConfigError
from envs.features import default_features, market_features
from envs.futures_env import FuturesEnv
from envs.market import Market
from envs.settings import EnvConfig
from envs.synthetic import synthetic_market
from envs.vector_env import FuturesVectorEnv


@pytest.fixture(scope="module")
def market() -> Market:
    return synthetic_market(("BTCUSDT", "ETHUSDT"), n=400, seed=5)


def arguments(market: Market, **more: Any) -> dict[str, Any]:
    config = EnvConfig(window_size=3, max_leverage=2.0, terminate_drawdown_fraction=0.01)
    table = market_features(market, default_features())
    given = {
        "market": market,
        "features": table,
        "config": config,
        "random_start": True,
        "episode_candles": 8,
    }
    return {**given, **more}


def make(market: Market, num_envs: int = 3, **more: Any) -> FuturesVecEnv:
    return FuturesVecEnv(FuturesVectorEnv(num_envs, **arguments(market, **more)))


def test_it_does_what_their_own_does(market: Market) -> None:
    given = arguments(market)
    ours = FuturesVecEnv(FuturesVectorEnv(3, **given))
    theirs = DummyVecEnv([lambda: Monitor(FuturesEnv(**given))] * 3)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.seed(4) == theirs.seed(4)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    assert ours.reset_infos == theirs.reset_infos
    rng = np.random.default_rng(0)
    ended = {True: 0, False: 0}
    for _ in range(80):
        actions = rng.uniform(-1, 1, (3, 2)).astype(np.float32)
        got, expected = ours.step(actions), theirs.step(actions)
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])
        np.testing.assert_array_equal(got[2], expected[2])
        assert (got[1].dtype, got[2].dtype) == (expected[1].dtype, expected[2].dtype)
        for done, mine, other in zip(got[2], got[3], expected[3], strict=True):
            assert mine.get("TimeLimit.truncated", False) == other["TimeLimit.truncated"]
            assert ("terminal_observation" in mine) == ("terminal_observation" in other) == done
            if done:
                np.testing.assert_array_equal(mine["terminal_observation"], other["terminal_observation"])
                assert mine["episode"]["r"] == pytest.approx(other["episode"]["r"], abs=1e-6)
                assert mine["episode"]["l"] == other["episode"]["l"]
                ended[mine["TimeLimit.truncated"]] += 1
    assert ended[True] > 5 and ended[False] > 5


def test_rewards_are_scaled_for_the_algorithm_and_not_for_the_reader(market: Market) -> None:
    plain, scaled = make(market), FuturesVecEnv(FuturesVectorEnv(3, **arguments(market)), reward_scale=250.0)
    for env in (plain, scaled):
        env.seed(2)
        env.reset()
    actions = np.full((3, 2), 0.5, np.float32)
    for _ in range(12):
        _, rewards, _, infos = plain.step(actions)
        _, larger, _, others = scaled.step(actions)
        np.testing.assert_allclose(larger, rewards * 250, rtol=1e-6)
        assert [one["episode"]["r"] for one in infos if one] == [one["episode"]["r"] for one in others if one]


def test_observations_are_not_copied(market: Market) -> None:
    env = make(market)
    env.reset()
    actions = np.zeros((3, 2), np.float32)
    seen = {env.step(actions)[0].ctypes.data for _ in range(10)}
    assert seen <= {array.ctypes.data for array in env.env._buffers._arrays}


def test_a_seed_counts_once(market: Market) -> None:
    env = make(market)
    env.seed(1)
    first = env.reset().copy()
    second = env.reset().copy()
    assert (first != second).any()
    env.seed(1)
    np.testing.assert_array_equal(env.reset(), first)


def test_episodes_can_begin_at_a_given_candle(market: Market) -> None:
    env = make(market)
    env.set_options({"start_index": 100})
    env.reset()
    assert env.get_attr("candle_index", 0)[0].tolist() == [100, 100, 100]
    env.step(np.zeros((3, 2), np.float32))
    assert env.decided_on.tolist() == [100, 100, 100]
    # Options count once, too.
    env.seed(0)
    env.reset()
    assert env.env.candle_index.tolist() != [100, 100, 100]
    env.set_options([{"start_index": 100}, {}, {}])
    with pytest.raises(ConfigError, match="start_index"):
        env.reset()


def test_attributes_are_those_of_all_accounts(market: Market) -> None:
    env = make(market)
    assert env.render_mode is None
    assert env.get_attr("window_size") == [3, 3, 3]
    assert env.get_attr("window_size", [0, 2]) == [3, 3]
    assert env.window_size == 3
    assert env.features.shape == (400, len(env.env.spec_observation.features))
    assert not env.has_attr("nothing_of_that_name")
    assert env.env_is_wrapped(TimeLimit, 1) == [False]
    env.reset()
    assert env.env_method("totals")[2]["equity"].tolist() == [10_000.0] * 3
    env.set_attr("render_mode", None)
    with pytest.raises(ConfigError, match="all accounts share it"):
        env.set_attr("render_mode", None, indices=1)
    with pytest.raises(ConfigError, match="all accounts share it"):
        env.env_method("totals", indices=[0, 1])


def test_their_wrappers_understand_it(market: Market) -> None:
    env = VecNormalize(VecMonitor(make(market)), norm_obs=True)
    env.reset()
    for _ in range(30):
        observations, _, dones, infos = env.step(np.zeros((3, 2), np.float32))
        assert np.isfinite(observations).all()
        for done, info in zip(dones, infos, strict=True):
            assert ("episode" in info) == done


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_their_algorithms_learn_from_it(market: Market, algorithm: str) -> None:
    env = make(market, 4)
    small = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 3}
    model: Any
    if algorithm == "SAC":
        model = SAC("MlpPolicy", env, learning_starts=40, batch_size=16, buffer_size=1000, **small)
    else:
        model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=2, **small)
    before = [one.clone() for one in model.policy.parameters()]
    model.learn(256)
    assert model.num_timesteps == 256
    assert any((old != new).any() for old, new in zip(before, model.policy.parameters(), strict=True))
    assert len(model.ep_info_buffer) > 10
    if algorithm == "SAC":
        buffer = model.replay_buffer
        assert buffer.size() == 64
        # What was cut short by the clock is told apart from what ended: values go on behind it.
        cut = buffer.timeouts[: buffer.pos] > 0
        assert cut.any() and (buffer.dones[: buffer.pos][cut] == 1).all()
        assert (buffer.dones[: buffer.pos][~cut] == 1).any()
    mean, _ = evaluate_policy(model, env, n_eval_episodes=4, warn=False)
    assert np.isfinite(mean)


def test_the_next_observation_of_an_ended_episode_is_its_last(market: Market) -> None:
    """In SB3's buffer, next_observation[i] is observation[i + 1], but where an episode ended."""
    env = make(market, 2)
    model = SAC("MlpPolicy", env, learning_starts=1000, buffer_size=400, device="cpu", seed=3)
    model.learn(60)
    buffer = model.replay_buffer
    assert buffer is not None
    following, observed, dones = buffer.next_observations, buffer.observations, buffer.dones
    for row in range(buffer.pos - 1):
        for slot in range(2):
            same = (following[row, slot] == observed[row + 1, slot]).all()
            assert same == (not dones[row, slot])
