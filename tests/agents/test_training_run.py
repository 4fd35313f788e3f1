"""The run folder: its name, finding it, and every way in which a file of it can be missing or damaged."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.training_run import Span, TrainingRun, format_rate, format_train_id, write_atomically
from envs.errors import TrainingRunError
from envs.features import default_features
from envs.risk import RiskLimits
from envs.scaler import identity_scaler
from envs.settings import EnvConfig

ROOT = Path(__file__).resolve().parents[2]
JAN_2023_MS, JAN_2025_MS = 1_672_531_200_000, 1_735_689_600_000
MOMENT = datetime(2025, 10, 4, 11, 55, 13, tzinfo=UTC)
EXAMPLE = "train_BTCUSDT_20230101_20250101_lr3e-4_bs256_ws30_20251004_115513"


def create(root: Path, **changes: Any) -> TrainingRun:
    settings: dict[str, Any] = {
        "symbols": ["BTCUSDT"],
        "start_ms": JAN_2023_MS,
        "end_ms": JAN_2025_MS,
        "learning_rate": 3e-4,
        "batch_size": 256,
        "window_size": 30,
        "now": MOMENT,
    }
    return TrainingRun.create(root, **{**settings, **changes})


def values() -> dict[str, Any]:
    return {
        "env": EnvConfig(window_size=12).model_dump(mode="json"),
        "features": default_features().model_dump(mode="json"),
        "risk": RiskLimits(max_drawdown_fraction=0.2).model_dump(mode="json"),
        "market": {"symbols": ["BTCUSDT"], "interval": "1h"},
        "spans": {"train": Span(JAN_2023_MS, JAN_2025_MS).to_dict(17_544)},
        "observation_hash": "0123456789abcdef",
        "seed": 7,
        "interrupted": False,
    }


def written(root: Path, **changes: Any) -> TrainingRun:
    run = create(root, **changes)
    run.write_metadata(values())
    return run


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (3e-4, "3e-4"),
        (0.001, "1e-3"),
        (2.5e-4, "2.5e-4"),
        (1e-5, "1e-5"),
        (0.1, "1e-1"),
        (7.3e-12, "7.3e-12"),
    ],
)
def test_learning_rates_in_the_fewest_digits(rate: float, text: str) -> None:
    assert format_rate(rate) == text


def test_the_id_is_that_of_the_design(tmp_path: Path) -> None:
    assert create(tmp_path).train_id == EXAMPLE
    several = format_train_id(["BTCUSDT", "ETHUSDT"], JAN_2023_MS, JAN_2025_MS, 1e-3, 64, 5, MOMENT)
    assert several == "train_BTCUSDT-ETHUSDT_20230101_20250101_lr1e-3_bs64_ws5_20251004_115513"
    many = format_train_id(["A", "B", "C", "D"], JAN_2023_MS, JAN_2025_MS, 1e-3, 64, 5, MOMENT)
    assert many.startswith("train_4symbols_")
    assert re.fullmatch(r"[A-Za-z0-9._-]+", many)


def test_two_runs_of_one_second_have_two_folders(tmp_path: Path) -> None:
    first, second = create(tmp_path), create(tmp_path)
    assert (first.train_id[-6:], second.train_id[-6:]) == ("115513", "115514")


def test_metadata_reads_back(tmp_path: Path) -> None:
    run = written(tmp_path)
    metadata = run.metadata()
    assert metadata.train_id == EXAMPLE
    assert metadata.env == EnvConfig(window_size=12)
    assert metadata.features == default_features()
    assert metadata.risk == RiskLimits(max_drawdown_fraction=0.2)
    assert metadata.symbols == ("BTCUSDT",) and metadata.interval == "1h"
    assert (metadata.observation_hash, metadata.seed, metadata.interrupted) == ("0123456789abcdef", 7, False)
    assert metadata.spans == {"train": Span(JAN_2023_MS, JAN_2025_MS)}
    plain = yaml.safe_load(run.metadata_path.read_text())
    assert plain["spans"]["train"]["start"] == "2023-01-01T00:00:00Z"
    assert plain["features"]["indicators"][2] == {"name": "rsi", "period": 14}


def test_a_run_is_found_by_id_and_by_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = written(tmp_path)
    assert TrainingRun.open(EXAMPLE, tmp_path).folder == run.folder
    assert TrainingRun.open(run.folder).train_id == EXAMPLE
    assert TrainingRun.open(str(run.folder)).train_id == EXAMPLE
    monkeypatch.chdir(run.folder)
    assert TrainingRun.open(".").train_id == EXAMPLE


def test_an_unknown_id_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingRunError, match=r"there are no runs in .*train one with python -m agents\.train"
    ):
        TrainingRun.open(EXAMPLE, tmp_path)
    written(tmp_path)
    newer = written(tmp_path, batch_size=128, now=datetime(2025, 11, 1, tzinfo=UTC))
    assert TrainingRun.list_ids(tmp_path) == [newer.train_id, EXAMPLE]
    with pytest.raises(TrainingRunError, match=f"Did you mean {EXAMPLE}"):
        TrainingRun.open(EXAMPLE.replace("20251004", "20251005"), tmp_path)
    with pytest.raises(TrainingRunError, match=r"unknown train id '\.\./secrets'"):
        TrainingRun.open("../secrets", tmp_path)


def test_a_folder_without_metadata_says_so(tmp_path: Path) -> None:
    create(tmp_path)
    with pytest.raises(TrainingRunError, match=r"config_metadata\.yaml is missing"):
        TrainingRun.open(EXAMPLE, tmp_path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is empty"),
        ("a: [1", "is damaged"),
        ("- 1", "holds a list"),
        ("schema: 9", "schema 9 is unknown"),
        ("{}", "'schema' is missing"),
        ("schema: 1", "'env' is missing"),
        ("!!python/object/apply:os.getcwd []", "is damaged"),
    ],
)
def test_damaged_metadata(tmp_path: Path, text: str, what: str) -> None:
    run = written(tmp_path)
    run.metadata_path.write_text(text)
    with pytest.raises(TrainingRunError, match=re.escape(what)) as caught:
        run.metadata()
    assert "config_metadata.yaml" in str(caught.value)
    assert "python -m agents.train" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (("env", "window_sise"), 3, "did you mean 'window_size'"),
        (("risk", "max_drawdown_fraction"), 2, "max_drawdown_fraction"),
        (("features",), {"indicators": [{"name": "rsj"}]}, "Did you mean 'rsi'"),
        (("market",), None, "config_metadata.yaml is damaged"),
        (("spans",), {"train": {"start_ms": "x", "end_ms": 1}}, "config_metadata.yaml is damaged"),
        (("seed",), "many", "config_metadata.yaml is damaged"),
    ],
)
def test_metadata_with_one_wrong_value(tmp_path: Path, path: tuple[str, ...], value: Any, what: str) -> None:
    run = create(tmp_path)
    content = values()
    target = content
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    run.write_metadata(content)
    with pytest.raises(TrainingRunError, match=re.escape(what)):
        run.metadata()


def test_each_missing_file_names_its_command(tmp_path: Path) -> None:
    run = written(tmp_path)
    resume = re.escape(f"python -m agents.train --resume {EXAMPLE}")
    for read, name in (
        (run.scaler, "scaler_train.json"),
        (run.require_policy, "policy.onnx"),
        (run.evaluation, "evaluation.json"),
    ):
        with pytest.raises(TrainingRunError, match=f"{re.escape(name)} is missing; make it with {resume}"):
            read()
    for read, name in ((run.require_model, "model.zip"), (run.require_checkpoint, "checkpoint.zip")):
        with pytest.raises(TrainingRunError, match=f"{re.escape(name)} is missing; .*agents.train"):
            read()
    run.metadata_path.unlink()
    with pytest.raises(TrainingRunError, match=r"config_metadata\.yaml is missing; train again"):
        run.metadata()


def test_files_read_back(tmp_path: Path) -> None:
    run = written(tmp_path)
    identity_scaler(["a", "b"]).save(run.scaler_path)
    assert run.scaler().names == ("a", "b")
    run.write_policy(b"graph")
    assert run.require_policy() == b"graph"
    run.write_evaluation({"test": {"sharpe": None}})
    assert run.evaluation() == {"test": {"sharpe": None}}
    with pytest.raises(ValueError, match="Out of range float"):
        run.write_evaluation({"test": float("nan")})
    assert run.evaluation() == {"test": {"sharpe": None}}


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"before")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(TrainingRunError, match=r"cannot write .*file: No space left"):
        write_atomically(path, b"after")
    assert path.read_bytes() == b"before"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_root_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingRunError, match="give another with --out"):
        create(tmp_path / "file" / "runs")


def test_reading_a_run_imports_no_training_library() -> None:
    code = (
        "import sys, agents.training_run, agents.metrics\n"
        "heavy = ('torch', 'stable_baselines3', 'sklearn', 'matplotlib', 'onnxruntime', 'pandas')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stdout.strip() == "[]"
