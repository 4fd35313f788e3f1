"""The backtest's command in the test's own process."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.backtest import main
from agents.metrics import Metrics

FIGURES = tuple(field.name for field in dataclasses.fields(Metrics))
"""The metrics' names."""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process, in the test's folder: a process of its own takes a second to start."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess([], code, out, err)

    return run


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The metrics that `--json` prints."""
    values: dict[str, Any] = json.loads(done.stdout.rstrip("\n").rsplit("\n", 1)[-1])
    return values


def read_steps(path: Path) -> list[dict[str, str]]:
    """A step log's rows as text."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
