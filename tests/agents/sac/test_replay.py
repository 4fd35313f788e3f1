"""Replay by candle index: the batches of Stable-Baselines3's own buffer, bit for bit, from a fraction of the memory."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from agents.sac.replay import IndexReplayBuffer, _DeviceWindows
from agents.sac.vec import FuturesVecEnv
from envs.errors import ConfigError, TrainingRunError
from envs.features import default_features, market_features
from envs.market import Market
from envs.settings import EnvConfig
from envs.synthetic import synthetic_market
from envs.vector_env import FuturesVectorEnv


@pytest.fixture(scope="module")
def market() -> Market:
    return synthetic_market(("BTCUSDT", "ETHUSDT"), n=400, seed=5)


def vec_env(market: Market, num_envs: int = 3, **more: Any) -> FuturesVecEnv:
    """Episodes of at most eight candles; small drawdowns end them early, as the exchange's liquidations do."""
    given: dict[str, Any] = {"episode_candles": 8, "random_start": True, **more}
    config = EnvConfig(window_size=3, max_leverage=2.0, terminate_drawdown_fraction=0.01)
    table = market_features(market, default_features())
    return FuturesVecEnv(FuturesVectorEnv(num_envs, market, features=table, config=config, **given))


def index_buffer(env: FuturesVecEnv, size: int, **more: Any) -> IndexReplayBuffer:
    return IndexReplayBuffer(
        size,
        env.observation_space,
        env.action_space,
        "cpu",
        env.num_envs,
        features=env.features,
        window_size=env.window_size,
        decided_on=lambda: env.decided_on,
        **more,
    )


def own_buffer(env: FuturesVecEnv, size: int, **more: Any) -> ReplayBuffer:
    return ReplayBuffer(size, env.observation_space, env.action_space, "cpu", env.num_envs, **more)


def play(env: FuturesVecEnv, buffers: list[Any], steps: int, seed: int = 0) -> dict[bool, int]:
    """Random trading, stored as `OffPolicyAlgorithm._store_transition` does; counts of the episode ends."""
    rng = np.random.default_rng(seed)
    env.seed(seed)
    observations = env.reset()
    ended = {True: 0, False: 0}
    for _ in range(steps):
        actions = rng.uniform(-1, 1, (env.num_envs, 2)).astype(np.float32)
        following, rewards, dones, infos = env.step(actions)
        last = following.copy()
        for i in np.flatnonzero(dones):
            last[i] = infos[i]["terminal_observation"]
            ended[infos[i]["TimeLimit.truncated"]] += 1
        for buffer in buffers:
            buffer.add(observations, last, actions, rewards, dones, infos)
        observations = following
    return ended


def batches(buffer: Any, count: int = 20, size: int = 64) -> list[Any]:
    np.random.seed(7)
    return [buffer.sample(size) for _ in range(count)]


def assert_same(ours: list[Any], theirs: list[Any]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("observations", "actions", "next_observations", "dones", "rewards"):
            a, b = getattr(mine, name), getattr(other, name)
            assert (a.dtype, a.shape, a.device) == (b.dtype, b.shape, b.device), name
            assert torch.equal(a, b), name
            assert a.is_contiguous()


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("size", [60, 1000], ids=["wrapped", "not full"])
@pytest.mark.parametrize("timeouts", [True, False])
def test_the_same_batches_as_their_own(market: Market, num_envs: int, size: int, timeouts: bool) -> None:
    env = vec_env(market, num_envs)
    ours = index_buffer(env, size, handle_timeout_termination=timeouts)
    theirs = own_buffer(env, size, handle_timeout_termination=timeouts)
    ended = play(env, [ours, theirs], 90)
    assert ended[True] > 2 and ended[False] > 2
    assert (ours.full, ours.pos, ours.size()) == (theirs.full, theirs.pos, theirs.size())
    assert ours.full == (size == 60)
    assert_same(batches(ours), batches(theirs))
    # Both kinds of end are among what was compared.
    dones = torch.cat([batch.dones for batch in batches(ours)])
    assert 0 < dones.sum() < len(dones)


def test_batches_are_not_overwritten(market: Market) -> None:
    env = vec_env(market)
    buffer = index_buffer(env, 300)
    play(env, [buffer], 50)
    first = buffer.sample(32)
    kept = [tensor.clone() for tensor in first[:5]]
    for _ in range(5):
        buffer.sample(32)
    assert all(torch.equal(a, b) for a, b in zip(first[:5], kept, strict=True))


def test_the_device_gathers_the_same(market: Market) -> None:
    """What a GPU does, on torch's CPU device: the same tensor operations."""
    env = vec_env(market)
    buffer = index_buffer(env, 600)
    play(env, [buffer], 100)
    expected = batches(buffer)
    columns = env.features.shape[1]
    buffer._on_device = _DeviceWindows(buffer._table, columns, 3 * columns, torch.device("cpu"))
    np.random.seed(7)
    for batch in expected:
        other = buffer.sample(64)
        for name in ("observations", "actions", "next_observations", "dones", "rewards"):
            assert torch.equal(getattr(batch, name), getattr(other, name)), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_gpu_gathers_the_same(market: Market) -> None:
    env = vec_env(market)
    buffer = index_buffer(env, 600)
    on_gpu = IndexReplayBuffer(
        600,
        env.observation_space,
        env.action_space,
        "cuda",
        env.num_envs,
        features=env.features,
        window_size=env.window_size,
        decided_on=lambda: env.decided_on,
    )
    play(env, [buffer, on_gpu], 100)
    for mine, other in zip(batches(buffer), batches(on_gpu), strict=True):
        assert all(torch.equal(a, b.cpu()) for a, b in zip(mine[:5], other[:5], strict=True))


def test_a_million_transitions_take_a_hundred_megabytes_at_most() -> None:
    """Of one symbol, window 30 by 15 features. Their own would take 3.6 GB."""
    table = np.zeros((1_000, 15), np.float32)
    space = FuturesVectorEnv(1, synthetic_market(n=100)).single_action_space
    box = type(space)(-10.0, 10.0, (30 * 15 + 5,), np.float32)
    buffer = IndexReplayBuffer(
        1_000_000,
        box,
        space,
        "cpu",
        8,
        features=table,
        window_size=30,
        decided_on=lambda: np.zeros(8, np.int64),
    )
    arrays = [one for one in vars(buffer).values() if isinstance(one, np.ndarray)]
    # The table and views of it belong to the environments; all other memory counts once.
    held = sum(one.nbytes for one in arrays if one.base is None)
    assert held == buffer.nbytes == 1_000_000 * (4 + 2 * 5 * 4 + 4 + 4 + 4 + 4)
    assert buffer.nbytes <= 100e6


def test_what_cannot_be_stored_by_index_is_refused(market: Market) -> None:
    env = vec_env(market)
    small = type(env.observation_space)(-1.0, 1.0, (10,), np.float32)
    with pytest.raises(ConfigError, match="cannot hold a window of 3 candles"):
        IndexReplayBuffer(
            100, small, env.action_space, features=env.features, window_size=3, decided_on=lambda: None
        )  # type: ignore[arg-type,return-value]
    # Another scaling of the table than the observations have: found at the first transition, not after training.
    buffer = index_buffer(env, 100)
    buffer._table = buffer._table * 2
    with pytest.raises(ConfigError, match="is not the window that ends with candle"):
        play(env, [buffer], 1)
    buffer = index_buffer(env, 100)
    buffer._decided_on = lambda: env.decided_on + 1
    with pytest.raises(ConfigError, match="is not the window that ends with candle"):
        play(env, [buffer], 1)
    buffer = index_buffer(env, 100)
    play(env, [buffer], 5)
    with pytest.raises(ConfigError, match="takes no VecNormalize"):
        buffer.sample(4, env=VecNormalize(env))


# --- keeping ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [60, 1000], ids=["wrapped", "not full"])
def test_what_was_saved_goes_on_bit_for_bit(market: Market, tmp_path: Path, size: int) -> None:
    env = vec_env(market)
    buffer = index_buffer(env, size)
    play(env, [buffer], 45)
    buffer.save(tmp_path / "replay.npz", timesteps=135)
    other = index_buffer(env, size)
    assert other.load(tmp_path / "replay.npz", timesteps=135)
    assert_same(batches(other), batches(buffer))
    play(env, [buffer, other], 30, seed=2)
    assert (other.pos, other.full) == (buffer.pos, buffer.full)
    assert_same(batches(other), batches(buffer))


@pytest.mark.parametrize(("before", "after"), [(60, 90), (60, 45), (60, 400), (400, 60), (135, 200)])
def test_a_buffer_of_another_size_takes_the_newest(
    market: Market, tmp_path: Path, before: int, after: int
) -> None:
    """Rows are steps of three environments; of 45 steps, a buffer of 60 holds the last 20."""
    env = vec_env(market)
    buffer, fresh = index_buffer(env, before), own_buffer(env, 1_000)
    play(env, [buffer, fresh], 45)
    buffer.save(tmp_path / "replay.npz", timesteps=135)
    other = index_buffer(env, after)
    assert other.load(tmp_path / "replay.npz", timesteps=135)
    held = min(45, before // 3, after // 3)
    assert other.size() == held
    assert other.pos == held % (after // 3)
    np.testing.assert_array_equal(other.rewards[:held], fresh.rewards[45 - held : 45])
    np.testing.assert_array_equal(other.actions[:held], fresh.actions[45 - held : 45])
    play(env, [other], 30, seed=2)
    assert len(batches(other)) == 20


def test_a_file_of_another_moment_is_left_alone(market: Market, tmp_path: Path) -> None:
    env = vec_env(market)
    buffer = index_buffer(env, 90)
    play(env, [buffer], 10)
    buffer.save(tmp_path / "replay.npz", timesteps=30)
    other = index_buffer(env, 90)
    assert not other.load(tmp_path / "replay.npz", timesteps=60)
    assert other.size() == 0


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "unpickled"))


def test_damage_is_named_and_nothing_is_unpickled(market: Market, tmp_path: Path) -> None:
    env = vec_env(market)
    buffer = index_buffer(env, 90)
    play(env, [buffer], 10)
    path, trace = tmp_path / "replay.npz", tmp_path / "trace"
    buffer.save(path, timesteps=30)
    whole = path.read_bytes()
    kept = dict(np.load(path))
    objects = {**kept, "rows": np.array([Bomb(trace)], object)}
    beyond, before = ({**kept, "rows": kept["rows"].copy()} for _ in range(2))
    beyond["rows"].view(np.int32)[3, 1, 0] = 399
    before["rows"].view(np.int32)[3, 1, 0] = 1
    shape = {**kept, "rows": kept["rows"][:, :2]}
    lost = {name: array for name, array in kept.items() if name != "rows"}
    ahead = {**kept, "pos": np.int64(11)}
    for damage in (
        b"",
        b"no zip",
        whole[:-100],
        pickle.dumps(Bomb(trace)),
        objects,
        beyond,
        before,
        shape,
        lost,
        ahead,
    ):
        if isinstance(damage, bytes):
            path.write_bytes(damage)
        else:
            np.savez(path, **damage)
        other = index_buffer(env, 90)
        with pytest.raises(
            TrainingRunError, match=r"replay\.npz is damaged or of another training.*delete it"
        ):
            other.load(path, timesteps=30)
        assert other.size() == 0
    assert not trace.exists()
