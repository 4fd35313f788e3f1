"""A training run: one folder, read and written here and nowhere else.

training_runs/{train_id}/
├── config_metadata.yaml    every setting, library versions, data hash, spans, observation hash, git commit
├── scaler_train.json       centre and scale per feature, fitted on the training span
├── policy.onnx             the deterministic actor: all that running needs besides the two files above
├── model.zip               the best model by validation, Stable-Baselines3's format
├── checkpoint.zip          the latest model, and training_state.json how far it is: what `--resume` continues
├── replay.npz              the transitions of the latest model; without it `--resume` refills them by the policy
├── evaluation.json         validation and test figures, beside buy-and-hold and flat
├── tensorboard/
├── production/             step logs of live and paper runs
└── backtests/

Reading a run executes nothing of it: YAML by `safe_load`, JSON, and an ONNX graph. Every file is written whole or
not at all.
"""

from __future__ import annotations

import difflib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from envs.errors import ConfigError, TrainingRunError
from envs.features import FeatureConfig
from envs.risk import RiskLimits
from envs.scaler import FeatureScaler
from envs.settings import EnvConfig

SCHEMA = 1
DEFAULT_ROOT = Path("training_runs")

_METADATA_HEADER = (
    "# Written by agents.train. It describes the run; changing it does not change the policy.\n"
)
_MOST_SYMBOLS_IN_ID = 3
_ID_PATTERN = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Span:
    """A half open span of candles by open time, UTC ms."""

    start_ms: int
    end_ms: int

    def to_dict(self, candles: int) -> dict[str, Any]:
        """For config_metadata.yaml: milliseconds, and the same for people."""
        return {
            "start": _iso(self.start_ms),
            "end": _iso(self.end_ms),
            "start_ms": self.start_ms,
            "end_ms": self.end_ms,
            "candles": candles,
        }


@dataclass(frozen=True)
class RunMetadata:
    """What config_metadata.yaml says.

    Attributes:
        env, features, risk: the settings to run the policy with.
        symbols, interval: what it was trained on.
        observation_hash: of the observation that it reads.
        seed: of the training.
        interrupted: whether the training was stopped early.
        spans: by name: train, validation, test.
        values: the whole file.
    """

    train_id: str
    env: EnvConfig
    features: FeatureConfig
    risk: RiskLimits
    symbols: tuple[str, ...]
    interval: str
    observation_hash: str
    seed: int
    interrupted: bool
    spans: Mapping[str, Span]
    values: Mapping[str, Any]


class TrainingRun:
    """The folder of one training.

    Attributes:
        folder: where it is.
        train_id: its name.
        metadata_path, scaler_path, policy_path, model_path, checkpoint_path, replay_path, state_path,
        evaluation_path, tensorboard_path, production_path, backtests_path: what the docstring of the module lists,
            there or not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.train_id = folder.resolve().name
        self.metadata_path = folder / "config_metadata.yaml"
        self.scaler_path = folder / "scaler_train.json"
        self.policy_path = folder / "policy.onnx"
        self.model_path = folder / "model.zip"
        self.checkpoint_path = folder / "checkpoint.zip"
        self.replay_path = folder / "replay.npz"
        self.state_path = folder / "training_state.json"
        self.evaluation_path = folder / "evaluation.json"
        self.tensorboard_path = folder / "tensorboard"
        self.production_path = folder / "production"
        self.backtests_path = folder / "backtests"

    def __repr__(self) -> str:
        return f"TrainingRun({str(self.folder)!r})"

    # --- making and finding ------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        root: Path,
        *,
        symbols: Sequence[str],
        start_ms: int,
        end_ms: int,
        learning_rate: float,
        batch_size: int,
        window_size: int,
        now: datetime | None = None,
    ) -> TrainingRun:
        """Make the folder of a new run. A second one within the same second gets the next second's name.

        Raises:
            TrainingRunError: the folder cannot be made.
        """
        moment = datetime.now(UTC) if now is None else now
        while True:
            train_id = format_train_id(
                symbols, start_ms, end_ms, learning_rate, batch_size, window_size, moment
            )
            folder = root / train_id
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                if not folder.is_dir():
                    raise TrainingRunError(f"{folder} is in the way: it is not a folder; move it") from None
                moment += timedelta(seconds=1)
            except OSError as error:
                raise TrainingRunError(
                    f"cannot make the folder {folder} ({error.strerror}); give another with --out"
                ) from error
            else:
                return cls(folder)

    @classmethod
    def open(cls, train_id: str | Path, root: Path = DEFAULT_ROOT) -> TrainingRun:
        """The run with this id under `root`, or the run in this folder.

        Raises:
            TrainingRunError: there is none; the message suggests the nearest ids.
        """
        text = str(train_id)
        if _ID_PATTERN.fullmatch(text) and (root / text / "config_metadata.yaml").is_file():
            return cls(root / text)
        folder = Path(train_id)
        if (folder / "config_metadata.yaml").is_file():
            return cls(folder)
        for candidate in (root / text, folder):
            if text.startswith("train_") and candidate.is_dir():
                raise TrainingRunError(
                    f"{candidate / 'config_metadata.yaml'} is missing; without it the run cannot be used: "
                    "train again with python -m agents.train"
                )
        raise TrainingRunError(_unknown(text, root))

    @staticmethod
    def list_ids(root: Path = DEFAULT_ROOT) -> list[str]:
        """The ids of the runs under `root`, newest first."""
        if not root.is_dir():
            return []
        found = [path.parent for path in root.glob("*/config_metadata.yaml")]
        return sorted((folder.name for folder in found), key=lambda name: name[-15:], reverse=True)

    # --- reading -----------------------------------------------------------------------------------------

    def metadata(self) -> RunMetadata:
        """What config_metadata.yaml says.

        Raises:
            TrainingRunError: the file is missing or damaged.
        """
        remedy = "train again with python -m agents.train"
        text = self._read(self.metadata_path, remedy)
        try:
            values = yaml.safe_load(text)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            first = str(error).split("\n", 1)[0]
            raise TrainingRunError(f"{self.metadata_path} is damaged ({first}); {remedy}") from error
        try:
            return _parse_metadata(self.train_id, values)
        except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise TrainingRunError(f"{self.metadata_path} is damaged ({what}); {remedy}") from error

    def scaler(self) -> FeatureScaler:
        """The scaler of the training span.

        Raises:
            TrainingRunError: the file is missing or damaged.
        """
        self._read(self.scaler_path, self._resume)
        return FeatureScaler.load(self.scaler_path)

    def require_policy(self) -> bytes:
        """The bytes of policy.onnx.

        Raises:
            TrainingRunError: the file is missing or empty.
        """
        return self._read(self.policy_path, self._resume)

    def require_model(self) -> Path:
        """Where model.zip is.

        Raises:
            TrainingRunError: the file is missing or empty.
        """
        self._read(self.model_path, "train again with python -m agents.train")
        return self.model_path

    def require_checkpoint(self) -> tuple[Path, dict[str, Any]]:
        """Where the latest model is, and training_state.json.

        Raises:
            TrainingRunError: a file is missing or damaged.
        """
        remedy = "the training cannot be continued; train again with python -m agents.train"
        self._read(self.checkpoint_path, remedy)
        return self.checkpoint_path, self._read_json(self.state_path, remedy)

    def evaluation(self) -> dict[str, Any]:
        """evaluation.json.

        Raises:
            TrainingRunError: the file is missing or damaged.
        """
        return self._read_json(self.evaluation_path, self._resume)

    @property
    def _resume(self) -> str:
        return f"make it with python -m agents.train --resume {self.train_id}"

    def _read(self, path: Path, remedy: str) -> bytes:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise TrainingRunError(f"{path} is missing; {remedy}") from None
        except OSError as error:
            raise TrainingRunError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
        if not data:
            raise TrainingRunError(f"{path} is empty; {remedy}")
        return data

    def _read_json(self, path: Path, remedy: str) -> dict[str, Any]:
        data = self._read(path, remedy)
        try:
            values = json.loads(data)
        except ValueError as error:
            raise TrainingRunError(f"{path} is damaged ({error}); {remedy}") from error
        if not isinstance(values, dict):
            raise TrainingRunError(f"{path} is damaged (it is no JSON object); {remedy}")
        return values

    # --- writing -----------------------------------------------------------------------------------------

    def write_metadata(self, values: Mapping[str, Any]) -> None:
        """Write config_metadata.yaml."""
        text = yaml.safe_dump(
            {"schema": SCHEMA, "train_id": self.train_id, **values},
            sort_keys=False,
            allow_unicode=True,
            width=110,
        )
        write_atomically(self.metadata_path, (_METADATA_HEADER + text).encode())

    def write_policy(self, data: bytes) -> None:
        """Write policy.onnx."""
        write_atomically(self.policy_path, data)

    def write_state(self, values: Mapping[str, Any]) -> None:
        """Write training_state.json."""
        write_atomically(self.state_path, _json_bytes(values))

    def write_evaluation(self, values: Mapping[str, Any]) -> None:
        """Write evaluation.json."""
        write_atomically(self.evaluation_path, _json_bytes(values))


def format_train_id(
    symbols: Sequence[str],
    start_ms: int,
    end_ms: int,
    learning_rate: float,
    batch_size: int,
    window_size: int,
    moment: datetime,
) -> str:
    """`train_BTCUSDT_20230101_20250101_lr3e-4_bs256_ws30_20251004_115513`; the end is exclusive."""
    names = "-".join(symbols) if len(symbols) <= _MOST_SYMBOLS_IN_ID else f"{len(symbols)}symbols"
    start, end = (datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y%m%d") for ms in (start_ms, end_ms))
    return (
        f"train_{names}_{start}_{end}_lr{format_rate(learning_rate)}_bs{batch_size}_ws{window_size}_"
        f"{moment.astimezone(UTC):%Y%m%d_%H%M%S}"
    )


def format_rate(rate: float) -> str:
    """A learning rate in the fewest digits: 0.0003 is `3e-4`, 0.00025 is `2.5e-4`."""
    return f"{Decimal(repr(rate)).normalize():e}".replace("+", "")


def write_atomically(path: Path, data: bytes | io.BytesIO) -> None:
    """Write a file that appears whole or not at all, and is on disk when this returns.

    Raises:
        TrainingRunError: it cannot be written.
    """
    content = data.getbuffer() if isinstance(data, io.BytesIO) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise TrainingRunError(f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _json_bytes(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _parse_metadata(train_id: str, values: Any) -> RunMetadata:
    if not isinstance(values, dict):
        raise ConfigError(f"it holds a {type(values).__name__}, not settings")
    if values["schema"] != SCHEMA:
        raise ConfigError(f"schema {values['schema']!r} is unknown; this version reads {SCHEMA}")
    return RunMetadata(
        train_id=train_id,
        env=EnvConfig.parse(values["env"], where="env"),
        features=FeatureConfig.model_validate(values["features"]),
        risk=RiskLimits.parse(values["risk"], where="risk"),
        symbols=tuple(str(symbol) for symbol in values["market"]["symbols"]),
        interval=str(values["market"]["interval"]),
        observation_hash=str(values["observation_hash"]),
        seed=int(values["seed"]),
        interrupted=bool(values["interrupted"]),
        spans={
            str(name): Span(int(span["start_ms"]), int(span["end_ms"]))
            for name, span in values["spans"].items()
        },
        values=values,
    )


def _unknown(text: str, root: Path) -> str:
    known = TrainingRun.list_ids(root)
    if not known:
        return (
            f"unknown train id {text!r}: there are no runs in {root}; train one with python -m agents.train"
        )
    near = difflib.get_close_matches(text, known, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]}?" if near else ""
    listed = ", ".join(known[:3]) + (f" and {len(known) - 3} more" if len(known) > 3 else "")
    return f"unknown train id {text!r}.{hint} Runs in {root}: {listed}"
