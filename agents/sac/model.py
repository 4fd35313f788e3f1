"""The Stable-Baselines3 model of a training: built from settings, saved, and restored without unpickling."""

from __future__ import annotations

import io
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.save_util import load_from_zip_file

from agents.sac.algorithm import TradingSac
from agents.sac.config import SacConfig
from agents.sac.vec import FuturesVecEnv
from agents.training_run import write_atomically
from envs.errors import ConfigError, TrainingRunError

_ACTIVATIONS = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}


@contextmanager
def torch_settings(threads: int) -> Iterator[None]:
    """Deterministic torch on so many CPU threads, for a while: the same seed then gives the same weights."""
    deterministic: Any = torch.utils.deterministic
    filling = deterministic.fill_uninitialized_memory
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    # Must stand before cuBLAS is first used; see torch.use_deterministic_algorithms.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Every tensor would be written once more before it is written: a third of the time of a small network. Nothing
    # here reads memory that it has not written.
    deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        deterministic.fill_uninitialized_memory = filling


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


@dataclass(frozen=True)
class FallingRate:
    """A learning rate that falls from `first` to `last`, along a line or half a cosine."""

    first: float
    last: float
    cosine: bool

    def __call__(self, progress_remaining: float) -> float:
        """The rate where this share of the timesteps remains."""
        left = min(max(progress_remaining, 0.0), 1.0)
        share = (1 - math.cos(math.pi * left)) / 2 if self.cosine else left
        return self.last + (self.first - self.last) * share


def learning_rate(settings: SacConfig) -> float | Callable[[float], float]:
    """The learning rate, or its schedule, as Stable-Baselines3 takes it."""
    if settings.learning_rate_schedule == "constant":
        return settings.learning_rate
    last = settings.learning_rate * settings.learning_rate_end_fraction
    return FallingRate(settings.learning_rate, last, settings.learning_rate_schedule == "cosine")


def build_model(settings: SacConfig, env: FuturesVecEnv) -> TradingSac:
    """A fresh model on `env`."""
    # Rows of all environments: timesteps are kept to the last one.
    rows = -(-max(settings.timesteps, settings.batch_size) // env.num_envs)
    capacity = min(settings.buffer_size, rows * env.num_envs)
    critic = settings.net_arch if settings.critic_net_arch is None else settings.critic_net_arch
    model = TradingSac(
        "MlpPolicy",
        env,
        learning_rate=learning_rate(settings),
        buffer_size=capacity,
        learning_starts=settings.learning_starts,
        batch_size=settings.batch_size,
        tau=settings.tau,
        gamma=settings.gamma,
        train_freq=settings.train_freq,
        gradient_steps=settings.gradient_steps,
        ent_coef=settings.ent_coef,
        target_entropy=settings.target_entropy,
        policy_kwargs={
            "net_arch": {"pi": list(settings.net_arch), "qf": list(critic)},
            "activation_fn": _ACTIVATIONS[settings.activation],
            # One call for all tensors, instead of a dozen for each.
            "optimizer_kwargs": {"fused": True},
        },
        seed=settings.seed,
        device=require_device(settings.device),
    )
    model.planned_timesteps = settings.timesteps
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
