"""What a backtest leaves on disk: its folder, metrics.json and config.yaml."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from envs.errors import ConfigError

_CONFIG_HEADER = """\
# Written by agents.backtest. It repeats the run:
#   python -m agents.backtest --config {path}
"""
_NAMES = ("metrics.json", "report.html", "config.yaml")


@dataclass(frozen=True, slots=True)
class BacktestPaths:
    """The files of one backtest; what was not written is None."""

    folder: Path
    steps: Path
    metrics: Path
    config: Path
    emergencies: Path | None = None
    report: Path | None = None

    def to_dict(self) -> dict[str, str | None]:
        """For JSON."""
        return {
            name: None if (path := getattr(self, name)) is None else str(path)
            for name in ("folder", "steps", "emergencies", "metrics", "report", "config")
        }


def stamp_of(moment: datetime) -> str:
    """`YYYYMMDD_HHMMSS`, UTC."""
    return moment.astimezone(UTC).strftime("%Y%m%d_%H%M%S")


def create_folder(default: Path, out: Path | None) -> Path:
    """The folder to write to, made if it is not there: `out`, else `default`. Nothing is ever overwritten.

    Raises:
        ConfigError: `out` holds a backtest already, or the folder cannot be made.
    """
    try:
        if out is None:
            folder, number = default, 1
            while True:
                try:
                    folder.mkdir(parents=True)
                except FileExistsError:
                    number += 1
                    folder = default.with_name(f"{default.name}-{number}")
                else:
                    return folder
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the folder {out or default} ({error.strerror}); give another with --out"
        ) from error
    for name in _NAMES:
        if (out / name).exists():
            raise ConfigError(f"{out} holds a backtest already ({name}); give another folder with --out")
    return out


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object; a number that is not finite is an error."""
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_config(path: Path, values: Mapping[str, Any]) -> None:
    """Write a config file that repeats the run."""
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=110)
    path.write_text(_CONFIG_HEADER.format(path=path) + text, encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("perpgym", "numpy", "numba", "gymnasium")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def iso_time(time_ms: int) -> str:
    """`2024-01-01T00:00:00Z`."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
