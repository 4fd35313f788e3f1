"""Folders that a command writes to."""

from __future__ import annotations

from pathlib import Path

from envs.errors import ConfigError


def make_folder(folder: Path, *, remedy: str = "give another with --out") -> None:
    """Make a folder, with those that it lies in; one that is there already is kept.

    Args:
        folder: to be made.
        remedy: what to do where it cannot be.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder} ({error.strerror}); {remedy}") from error
