"""What a training run records about itself: settings, data, spans, versions and the commit."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from agents.sac.config import TrainConfig
from agents.sac.dataset import Dataset

_DISTRIBUTIONS = (
    "perpgym",
    "numpy",
    "numba",
    "gymnasium",
    "ta-lib",
    "pandas-ta-classic",
    "torch",
    "stable-baselines3",
    "scikit-learn",
    "onnx",
    "onnxruntime",
)


def describe(config: TrainConfig, dataset: Dataset, reward_scale: float) -> dict[str, Any]:
    """The part of config_metadata.yaml that is known before the training begins.

    The four settings that people look for first stand at the top by themselves; all of them are in the sections.
    """
    market = dataset.market
    spec = dataset.environment("train", config).spec_observation
    settings = config.model_dump(mode="json")
    action = config.env.action
    return {
        "window_size": config.env.window_size,
        "max_drawdown": config.risk.max_drawdown_fraction,
        "hold_threshold": action.hold_threshold if action.scheme == "signal" else None,
        "normalize_portfolio": config.env.normalize_portfolio,
        "seed": config.sac.seed,
        "observation_hash": spec.hash,
        "observation": {
            "size": spec.size,
            "window_features": list(spec.features),
            "portfolio": [entry.name for entry in spec.portfolio],
        },
        "market": {
            "symbols": list(market.symbols),
            "interval": market.candles[0].interval,
            "synthetic": market.synthetic,
            "candles": len(market),
            "hash": market.data_hash(),
        },
        "spans": {name: dataset.span(name).to_dict(len(rows)) for name, rows in dataset.rows.items()},
        **settings,
        "reward_scale": reward_scale,
        "versions": versions(),
        "git_commit": git_commit(),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that a training's result depends on."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The checkout's commit, with `-dirty` when it has changes; None outside of git."""
    folder = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
