"""Saving and restoring a model: tensors only."""

from __future__ import annotations

import base64
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.sac.algorithm import DivergedError, TradingSac
from agents.sac.config import SacConfig, TrainConfig
from agents.sac.dataset import prepare
from agents.sac.model import build_model, learning_rate, restore_model, save_model, torch_settings
from agents.sac.replay import IndexReplayBuffer
from agents.sac.vec import FuturesVecEnv
from envs.errors import TrainingRunError


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "unpickled"))


@pytest.fixture
def make(settings: Callable[..., dict[str, Any]]) -> Callable[..., TradingSac]:
    def build(**sac: Any) -> TradingSac:
        config = TrainConfig.parse(settings(**sac))
        dataset = prepare(config, notice=lambda _: None)
        return build_model(
            config.sac, FuturesVecEnv(dataset.vector_environment("train", config, config.sac.n_envs))
        )

    return build


def test_everything_that_learns_is_restored(make: Callable[..., TradingSac], tmp_path: Path) -> None:
    model = make(timesteps=200, learning_starts=40)
    with torch_settings(1):
        model.learn(120)
    save_model(model, tmp_path / "model.zip")
    other = make(seed=99)
    restore_model(other, tmp_path / "model.zip")
    for name, tensor in model.policy.state_dict().items():
        assert torch.equal(tensor, other.policy.state_dict()[name])
    assert model.log_ent_coef is not None and other.log_ent_coef is not None
    assert torch.equal(model.log_ent_coef, other.log_ent_coef) and model.log_ent_coef.item() != 0.0
    for optimizer in ("actor", "critic"):
        steps = [
            [int(state["step"]) for state in getattr(one, optimizer).optimizer.state_dict()["state"].values()]
            for one in (model, other)
        ]
        assert steps[0] == steps[1] and steps[0][0] == 120 - 40  # one per transition
    # The optimizer of the entropy coefficient still moves the restored one.
    assert other.ent_coef_optimizer is not None
    assert other.ent_coef_optimizer.param_groups[0]["params"][0] is other.log_ent_coef


def test_a_fixed_entropy_coefficient_restores_too(make: Callable[..., TradingSac], tmp_path: Path) -> None:
    save_model(make(ent_coef=0.2), tmp_path / "model.zip")
    restore_model(make(ent_coef=0.2), tmp_path / "model.zip")
    with pytest.raises(TrainingRunError, match="of another model"):
        restore_model(make(), tmp_path / "model.zip")
    with pytest.raises(TrainingRunError, match="of another model"):
        restore_model(make(ent_coef=0.2, net_arch=[16, 8]), tmp_path / "model.zip")


def test_pickles_in_a_checkpoint_are_never_run(make: Callable[..., TradingSac], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    save_model(make(), tmp_path / "model.zip")
    bomb = pickle.dumps(Bomb(trace), protocol=2)  # the one that torch writes
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    settings = json.loads(files["data"])
    settings["policy_class"] = {":type:": "x", ":serialized:": base64.b64encode(bomb).decode()}
    with zipfile.ZipFile(tmp_path / "settings.zip", "w") as archive:
        for name, data in {**files, "data": json.dumps(settings).encode()}.items():
            archive.writestr(name, data)
    restore_model(make(), tmp_path / "settings.zip")  # reads the tensors, and nothing else
    buffer = io.BytesIO()
    torch.save({"x": Bomb(trace)}, buffer)
    for payload in (bomb, buffer.getvalue()):
        with zipfile.ZipFile(tmp_path / "tensors.zip", "w") as archive:
            for name, data in {**files, "policy.pth": payload}.items():
                archive.writestr(name, data)
        with pytest.raises(TrainingRunError, match="damaged"):
            restore_model(make(), tmp_path / "tensors.zip")
    assert not trace.exists()


def test_the_buffer_is_no_larger_than_the_training(make: Callable[..., TradingSac]) -> None:
    # In rows of four environments; 301 timesteps end with a row.
    for timesteps, buffer_size, rows in ((300, 1_000_000, 75), (301, 1_000_000, 76), (300, 100, 25)):
        buffer = make(timesteps=timesteps, buffer_size=buffer_size).replay_buffer
        assert isinstance(buffer, IndexReplayBuffer) and buffer.buffer_size == rows


def test_torch_settings_are_given_back() -> None:
    def present() -> tuple[int, bool, bool]:
        deterministic = torch.utils.deterministic.fill_uninitialized_memory
        return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), deterministic

    before = present()
    with torch_settings(1):
        assert present() == (1, True, False)
    assert present() == before


def test_weights_that_are_not_numbers_stop_the_training(make: Callable[..., TradingSac]) -> None:
    model = make(learning_starts=10)
    with torch.no_grad():
        model.actor.mu.bias.fill_(float("nan"))
    with torch_settings(1), pytest.raises(DivergedError, match="diverged at step 12"):
        model.learn(50)


def test_the_learning_rate_falls_as_configured() -> None:
    def at(remaining: float, **settings: Any) -> float:
        rate = learning_rate(SacConfig.parse({"learning_rate": 1e-3, **settings}))
        return rate(remaining) if callable(rate) else rate

    assert at(0.0) == 1e-3
    line = {"learning_rate_schedule": "linear", "learning_rate_end_fraction": 0.2}
    assert [at(left, **line) for left in (1.0, 0.5, 0.0, -0.1)] == pytest.approx([1e-3, 6e-4, 2e-4, 2e-4])
    cosine = {"learning_rate_schedule": "cosine", "learning_rate_end_fraction": 0.0}
    assert [at(left, **cosine) for left in (1.0, 2 / 3, 0.5, 0.0)] == pytest.approx([1e-3, 7.5e-4, 5e-4, 0.0])


def test_networks_have_the_configured_sizes(make: Callable[..., TradingSac]) -> None:
    model = make(net_arch=[8, 4], critic_net_arch=[16], target_entropy=-2.5)
    assert [layer.out_features for layer in model.actor.latent_pi if hasattr(layer, "out_features")] == [8, 4]
    critic = [layer.out_features for layer in model.critic.q_networks[0] if hasattr(layer, "out_features")]
    assert critic == [16, 1]
    assert model.target_entropy == -2.5
