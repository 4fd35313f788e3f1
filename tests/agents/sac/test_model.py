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

from agents.sac.config import TrainConfig
from agents.sac.dataset import prepare
from agents.sac.model import DivergedError, TradingSac, build_model, restore_model, save_model, torch_settings
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
        env = prepare(config, notice=lambda _: None).environment("train", config)
        return build_model(config.sac, env, reward_scale=1.0)

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
        assert steps[0] == steps[1] and steps[0][0] == 120 - 40
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
    buffer = make(timesteps=300, buffer_size=1_000_000).replay_buffer
    assert buffer is not None and buffer.buffer_size == 300
    buffer = make(timesteps=300, buffer_size=100).replay_buffer
    assert buffer is not None and buffer.buffer_size == 100


def test_torch_settings_are_given_back() -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch_settings(1):
        assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (1, True)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_weights_that_are_not_numbers_stop_the_training(make: Callable[..., TradingSac]) -> None:
    model = make(learning_starts=10)
    with torch.no_grad():
        model.actor.mu.bias.fill_(float("nan"))
    with torch_settings(1), pytest.raises(DivergedError, match="diverged at step 10"):
        model.learn(50)
