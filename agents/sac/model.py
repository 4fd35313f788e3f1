"""The Stable-Baselines3 model of a training: built from settings, saved, and restored without unpickling."""

from __future__ import annotations

import io
import math
import os
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.sac.config import SacConfig
from agents.training_run import write_atomically
from envs.errors import ConfigError, PerpgymError, TrainingRunError
from envs.futures_env import FuturesEnv

_ACTIVATIONS = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}


class DivergedError(PerpgymError):
    """The losses are no longer finite."""


class TradingSac(SAC):
    """SAC that stops when it diverges, and that refills an empty replay buffer by its policy after a resume.

    Attributes:
        losses: of the latest gradient steps.
        refilling: explore by the policy instead of at random before `learning_starts`.
    """

    losses: dict[str, float]
    refilling: bool = False

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """See `SAC.train`.

        Raises:
            DivergedError: a loss is not finite.
        """
        super().train(gradient_steps, batch_size)
        logged = self.logger.name_to_value
        self.losses = {
            name: float(logged[f"train/{name}"]) for name in ("actor_loss", "critic_loss", "ent_coef")
        }
        if not all(math.isfinite(value) for value in self.losses.values()):
            raise self._diverged()

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        try:
            return super()._sample_action(0 if self.refilling else learning_starts, action_noise, n_envs)
        except ValueError as error:
            # What torch says of a normal distribution whose mean is not a number.
            if all(bool(torch.isfinite(weights).all()) for weights in self.actor.parameters()):
                raise
            raise self._diverged() from error

    def _diverged(self) -> DivergedError:
        return DivergedError(
            f"the training diverged at step {self.num_timesteps} ({self.losses}): lower sac.learning_rate or "
            "sac.reward_scale"
        )


@contextmanager
def torch_settings(threads: int) -> Iterator[None]:
    """Deterministic torch on so many CPU threads, for a while: the same seed then gives the same weights."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    # Must stand before cuBLAS is first used; see torch.use_deterministic_algorithms.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def require_device(name: str) -> str:
    """`auto`, `cpu` or `cuda`, as torch names it.

    Raises:
        ConfigError: a GPU was asked for, and torch sees none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "sac.device is cuda, but torch sees no GPU; give cpu or auto, or install torch for CUDA"
        )
    return name


def build_model(
    settings: SacConfig, env: FuturesEnv, *, reward_scale: float, done_steps: int = 0
) -> TradingSac:
    """A fresh model on `env`.

    Args:
        settings: the training's.
        env: its training environment.
        reward_scale: factor on the rewards that the model sees.
        done_steps: of an earlier session. Its draws are not repeated, and the empty buffer is refilled first.
    """
    # Below the scaling, so that episode returns are those of the environment.
    monitored = Monitor(env)
    scaled = gym.wrappers.TransformReward(monitored, lambda reward: float(reward) * reward_scale)
    capacity = min(settings.buffer_size, max(settings.timesteps, settings.batch_size))
    model = TradingSac(
        "MlpPolicy",
        DummyVecEnv([lambda: scaled]),
        learning_rate=settings.learning_rate,
        buffer_size=capacity,
        learning_starts=done_steps + max(settings.learning_starts, settings.batch_size if done_steps else 0),
        batch_size=settings.batch_size,
        tau=settings.tau,
        gamma=settings.gamma,
        train_freq=settings.train_freq,
        gradient_steps=settings.gradient_steps,
        ent_coef=settings.ent_coef,
        policy_kwargs={
            "net_arch": list(settings.net_arch),
            "activation_fn": _ACTIVATIONS[settings.activation],
        },
        seed=(settings.seed + done_steps) % 2**32,
        device=require_device(settings.device),
    )
    model.losses = {}
    model.refilling = done_steps > 0
    return model


def tensorboard_logger(folder: Path) -> Logger:
    """A logger that writes event files and nothing else."""
    return Logger(str(folder), [TensorBoardOutputFormat(str(folder))])


def save_model(model: SAC, path: Path) -> None:
    """Write `model` in Stable-Baselines3's format, whole or not at all."""
    buffer = io.BytesIO()
    model.save(buffer)
    write_atomically(path, buffer)


def restore_model(model: SAC, path: Path) -> None:
    """Load weights, optimizers and entropy coefficient into a model of the same shape.

    Only tensors are read, by torch's restricted loader; the pickled settings in the file are left alone.

    Raises:
        TrainingRunError: the file is damaged, or of another model.
    """
    try:
        _, parameters, variables = load_from_zip_file(path, device=model.device, load_data=False)
        model.set_parameters(parameters, exact_match=True, device=model.device)
        if model.log_ent_coef is not None:
            stored: Any = (variables or {})["log_ent_coef"]
            with torch.no_grad():
                model.log_ent_coef.copy_(stored)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        EOFError,
        OSError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise TrainingRunError(
            f"{path} is damaged or of another model ({first}); train again with python -m agents.train"
        ) from error
