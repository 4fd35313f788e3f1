"""Running a policy: the same actions as SB3's, from three plain files, executing nothing."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from stable_baselines3 import SAC

from agents.base import Agent
from agents.run import run as run_loop
from agents.sac.config import TrainConfig
from agents.sac.dataset import prepare
from agents.sac.export import actor_to_onnx
from agents.sac.model import build_model, restore_model
from agents.sac.policy import OnnxPolicy, SacAgent, load_sac_setup
from agents.sac.trainer import Outcome
from agents.sac.vec import FuturesVecEnv
from agents.simulate import build_env
from agents.training_run import TrainingRun
from envs.errors import ObservationMismatchError, PerpgymError, TrainingRunError
from envs.observation import observation_spec
from envs.settings import EnvConfig
from envs.synthetic import synthetic_market

ROOT = Path(__file__).resolve().parents[3]


class Bomb:
    """Writes a file where anyone unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "unpickled"))


def copied(outcome: Outcome, root: Path) -> TrainingRun:
    return TrainingRun(Path(shutil.copytree(outcome.run.folder, root / outcome.run.train_id)))


def training_env(config: TrainConfig) -> FuturesVecEnv:
    dataset = prepare(config, notice=lambda _: None)
    return FuturesVecEnv(dataset.vector_environment("train", config, config.sac.n_envs))


def test_actions_equal_those_of_sb3_on_a_thousand_observations(
    outcome: Outcome, settings: Callable[..., dict[str, Any]]
) -> None:
    config = TrainConfig.parse(settings())
    env = prepare(config, notice=lambda _: None).environment("validation", config)
    # The whole of model.zip, read by SB3 itself.
    model = SAC.load(outcome.run.model_path, device="cpu")
    policy = OnnxPolicy(outcome.run.require_policy(), source="test")
    rng = np.random.default_rng(1)
    observations = [env.reset()[0]]
    for _ in range(80):
        observations.append(env.step(env.action_space.sample())[0])
    while len(observations) < 1_000:
        observations.append(
            rng.normal(scale=3.0, size=policy.observation_size).clip(-10, 10).astype(np.float32)
        )
    for observation in observations:
        expected, _ = model.predict(observation, deterministic=True)
        np.testing.assert_allclose(policy(observation), expected, rtol=0, atol=1e-5)


def test_the_same_weights_give_the_same_bytes(
    outcome: Outcome, settings: Callable[..., dict[str, Any]]
) -> None:
    config = TrainConfig.parse(settings())
    env = training_env(config)
    model = build_model(config.sac, env)
    restore_model(model, outcome.run.model_path)
    assert actor_to_onnx(model, env.env.spec_observation.hash) == outcome.run.require_policy()
    onnx.checker.check_model(onnx.load_from_string(outcome.run.require_policy()), full_check=True)


def test_actions_are_scaled_to_the_action_space(settings: Callable[..., dict[str, Any]]) -> None:
    config = TrainConfig.parse(settings(activation="tanh", net_arch=[8]))
    env = training_env(config)
    env.action_space = type(env.action_space)(-2.0, 6.0, (1,), np.float32)
    model = build_model(config.sac, env)
    policy = OnnxPolicy(actor_to_onnx(model, "hash"), source="test")  # compared with predict inside
    observations = np.random.default_rng(0).normal(size=(50, policy.observation_size)).astype(np.float32)
    actions = policy.batch(observations)
    assert actions.min() >= -2.0 and actions.max() <= 6.0
    assert 1.0 < actions.mean() < 3.0  # an untrained actor is near the middle, 2


def test_weights_that_are_not_finite_are_refused(settings: Callable[..., dict[str, Any]]) -> None:
    config = TrainConfig.parse(settings())
    model = build_model(config.sac, training_env(config))
    model.policy.actor.mu.bias.data[0] = float("nan")
    with pytest.raises(PerpgymError, match="the training diverged"):
        actor_to_onnx(model, "hash")


def test_the_setup_runs_on_another_market_and_symbol(outcome: Outcome) -> None:
    setup = load_sac_setup(outcome.run)
    assert isinstance(setup.agent, Agent)
    assert setup.train_id == outcome.run.train_id
    assert setup.limits.max_drawdown_fraction == 0.6
    env = build_env(setup, synthetic_market(("ETHUSDT",), n=150, seed=9))
    assert run_loop(env, setup.agent, max_steps=100).steps == 100


def test_another_observation_is_refused(outcome: Outcome) -> None:
    setup = load_sac_setup(outcome.run)
    features = ("log_return_1", "rsi_5")
    setup.agent.reset(observation_spec(("BTCUSDT",), 3_600_000, features, setup.env))
    others = (
        (("BTCUSDT",), 300_000, features, setup.env),  # five-minute candles
        (("BTCUSDT",), 3_600_000, features[::-1], setup.env),
        (("BTCUSDT",), 3_600_000, features, EnvConfig(window_size=6)),
        (("BTCUSDT", "ETHUSDT"), 3_600_000, features, setup.env),
        (("BTCUSDT",), 3_600_000, features, EnvConfig(window_size=5, normalize_portfolio=False)),
    )
    for symbols, interval_ms, names, config in others:
        with pytest.raises(ObservationMismatchError, match=outcome.run.train_id):
            setup.agent.reset(observation_spec(symbols, interval_ms, names, config))


def test_files_of_two_runs_do_not_mix(outcome: Outcome, tmp_path: Path) -> None:
    run = copied(outcome, tmp_path)
    values = yaml.safe_load(run.metadata_path.read_text())
    run.metadata_path.write_text(yaml.safe_dump({**values, "observation_hash": "0" * 16}))
    with pytest.raises(TrainingRunError, match="one of them is of another run"):
        load_sac_setup(run)
    values["features"]["indicators"][1]["period"] = 6
    run.metadata_path.write_text(yaml.safe_dump(values))
    with pytest.raises(TrainingRunError, match="fitted on other features"):
        load_sac_setup(run)


@pytest.mark.parametrize("name", ["policy.onnx", "scaler_train.json", "config_metadata.yaml"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "noise"])
def test_missing_and_damaged_files_are_named(
    outcome: Outcome, tmp_path: Path, name: str, damage: str
) -> None:
    run = copied(outcome, tmp_path)
    path = run.folder / name
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"empty": b"", "cut": whole[: len(whole) // 2], "noise": b"\x80\x05noise\xff"}[damage]
        )
    with pytest.raises(TrainingRunError, match=name.replace(".", r"\.")) as caught:
        load_sac_setup(run)
    assert "python -m agents.train" in str(caught.value)


def test_a_graph_that_is_no_policy_is_refused(outcome: Outcome) -> None:
    graph = onnx.load_from_string(outcome.run.require_policy())
    del graph.metadata_props[:]
    with pytest.raises(TrainingRunError, match="but not a policy"):
        OnnxPolicy(graph.SerializeToString(), source="policy.onnx")


def test_a_pickle_in_any_place_does_nothing(outcome: Outcome, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    bomb = pickle.dumps(Bomb(trace))
    run = copied(outcome, tmp_path)
    # In the places that running reads: a clear error.
    for name in ("scaler_train.json", "policy.onnx", "config_metadata.yaml"):
        damaged = copied(outcome, tmp_path / name)
        (damaged.folder / name).write_bytes(bomb)
        with pytest.raises(TrainingRunError):
            load_sac_setup(damaged)
    run.metadata_path.write_text(f"!!python/object/apply:pathlib.Path.touch [{trace}]")
    with pytest.raises(TrainingRunError, match="is damaged"):
        load_sac_setup(run)
    assert not trace.exists()
    # In the places that it does not read: nothing.
    run = copied(outcome, tmp_path / "run")
    for name in ("model.zip", "checkpoint.zip", "scaler_train.pkl", "vecnormalize.pkl"):
        (run.folder / name).write_bytes(bomb)
    env = build_env(load_sac_setup(run), synthetic_market(n=150))
    assert run_loop(env, load_sac_setup(run).agent, max_steps=20).steps == 20
    assert not trace.exists()
    pickle.loads(bomb)  # it would have
    assert trace.read_text() == "unpickled"


# Runs a command in a process where importing a training library is an error, wherever and whenever it is tried.
_WITHOUT = """
import runpy, sys
heavy = {"torch", "stable_baselines3", "sklearn", "matplotlib", "tensorboard", "onnx", "tensorflow"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in heavy:
            raise AssertionError(f"{name} was imported")
sys.meta_path.insert(0, Refuse())
module, sys.argv = sys.argv[1], sys.argv[1:]
try:
    (runpy.run_path if module.endswith(".py") else runpy.run_module)(module, run_name="__main__")
except SystemExit as end:
    code = end.code
else:
    code = 0
print("loaded:", sorted(heavy & set(sys.modules)))
sys.exit(code)
"""


@pytest.mark.parametrize("command", ["agents.backtest", "live.py"])
def test_running_a_policy_imports_no_training_library(outcome: Outcome, tmp_path: Path, command: str) -> None:
    """The commands themselves, from start to end: report, step log, paper exchange and statistics."""
    train_id = outcome.run.train_id
    runs = ["--training-runs", str(copied(outcome, tmp_path).folder.parent), "--out", str(tmp_path / "out")]
    arguments = {
        "agents.backtest": ["--agent", train_id, *runs],
        "live.py": ["--train-id", train_id, "--paper", "--speed", "max", "--steps", "5", *runs],
    }
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, command, *arguments[command]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.splitlines()[-1] == "loaded: []"
    (log,) = (tmp_path / "out").rglob("steps*.csv")
    assert len(log.read_text().splitlines()) > 5


def test_the_test_would_notice_a_late_import(tmp_path: Path) -> None:
    script = tmp_path / "late.py"
    script.write_text("def late():\n    import matplotlib.pyplot\nlate()\n")
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, str(script)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode != 0 and "matplotlib was imported" in done.stderr


def test_the_agent_is_deterministic(outcome: Outcome) -> None:
    policy = OnnxPolicy(outcome.run.require_policy(), source="test")
    agent = SacAgent(policy, train_id="x")
    observation = np.random.default_rng(0).normal(size=policy.observation_size).astype(np.float32)
    first = agent.act(observation, {})
    assert first.shape == (1,) and first.dtype == np.float32
    assert all(agent.act(observation, {}).tobytes() == first.tobytes() for _ in range(20))
    agent.close()
