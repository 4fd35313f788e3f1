"""One tiny training that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.sac.config import TrainConfig
from agents.sac.report import QuietReporter
from agents.sac.trainer import Outcome, start_training


def tiny_settings(**sac: Any) -> dict[str, Any]:
    """Settings of a training that takes about a second."""
    return {
        "data": {"synthetic": {"candles": 600, "seed": 3, "signal_strength": 0.4, "jumps": False}},
        "env": {"window_size": 5, "action": {"scheme": "target", "rebalance_band": 0.05}},
        "features": {"indicators": [{"name": "log_return", "periods": 1}, {"name": "rsi", "period": 5}]},
        "risk": {"max_drawdown_fraction": 0.6},
        "sac": {
            "timesteps": 300,
            "n_envs": 4,
            "learning_starts": 64,
            "batch_size": 32,
            "net_arch": [16, 16],
            "episode_candles": 50,
            "device": "cpu",
            "seed": 5,
            **sac,
        },
        "evaluation": {"every_steps": 100},
    }


@pytest.fixture(scope="session")
def settings() -> Callable[..., dict[str, Any]]:
    return tiny_settings


def train_tiny(root: Path, **sac: Any) -> Outcome:
    config = TrainConfig.parse(tiny_settings(**sac))
    return start_training(config, root=root, reporter=QuietReporter(), should_stop=lambda: False)


@pytest.fixture(scope="session")
def train() -> Callable[..., Outcome]:
    return train_tiny


@pytest.fixture(scope="session")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A finished training. Tests must not change its folder; copy it."""
    return train_tiny(tmp_path_factory.mktemp("runs"))
