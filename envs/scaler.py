"""Scaling of features to about one unit each, fitted on the training span alone.

scikit-learn does the fitting; what it found is two numbers per feature, stored as JSON, so that running a policy
needs neither scikit-learn nor a pickle.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from envs.errors import ConfigError, TrainingRunError
from envs.features import FeatureTable

CLIP = 10.0
"""Scaled features are cut to [-CLIP, CLIP]."""

ScalerKind = Literal["standard", "robust", "identity"]
_KINDS = ("standard", "robust", "identity")
_SCHEMA = 1
_REMEDY = "train again: python -m agents.train"


@dataclass(frozen=True, eq=False)
class FeatureScaler:
    """(value - centre) / scale for each feature, cut to +-10. Arrays are read-only.

    Attributes:
        names: [F], in the order of the columns.
        centre: float64 [F]; the mean (`standard`) or the median (`robust`) over the training span.
        scale: float64 [F], above 0; the standard deviation or the interquartile range; 1 for a constant.
        kind: how it was fitted.

    Raises:
        ConfigError: lengths differ, a number is not finite, or a scale is not above 0.
    """

    names: tuple[str, ...]
    centre: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    kind: ScalerKind

    def __post_init__(self) -> None:
        for attribute in ("centre", "scale"):
            values = np.array(getattr(self, attribute), dtype=np.float64)
            values.flags.writeable = False
            object.__setattr__(self, attribute, values)
            if values.shape != (len(self.names),):
                raise ConfigError(
                    f"scaler: {attribute} has shape {values.shape}, but there are {len(self.names)} features"
                )
            for name, value in zip(self.names, values, strict=True):
                if not math.isfinite(value) or (attribute == "scale" and value <= 0):
                    raise ConfigError(
                        f"scaler: {attribute} of {name} is {value}; it must be finite, a scale above 0"
                    )
        if self.kind not in _KINDS:
            raise ConfigError(f"scaler: unknown kind {self.kind!r}. Known: {', '.join(_KINDS)}")
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"scaler: a feature is there twice: {', '.join(self.names)}")

    def transform(self, values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Scale features [..., F] to float32 of the same shape; NaN (rows of the warm-up) stays NaN."""
        if values.shape[-1] != len(self.names):
            raise ConfigError(
                f"scaler: {values.shape[-1]} features given, but it was fitted on {len(self.names)}"
            )
        scaled = (values - self.centre) / self.scale
        return np.clip(scaled, -CLIP, CLIP, out=scaled).astype(np.float32)

    def require_names(self, names: Sequence[str]) -> None:
        """Raise a TrainingRunError unless the features are the ones that it was fitted on, in that order."""
        if tuple(names) == self.names:
            return
        missing = [name for name in names if name not in self.names]
        extra = [name for name in self.names if name not in names]
        what = "; ".join(
            part
            for part in (
                f"not in the scaler: {', '.join(missing)}" if missing else "",
                f"only in the scaler: {', '.join(extra)}" if extra else "",
                "" if missing or extra else "they come in another order",
            )
            if part
        )
        raise TrainingRunError(f"the scaler was fitted on other features ({what}); {_REMEDY}")

    def to_json_dict(self) -> dict[str, Any]:
        """The form of `scaler_train.json`: centre and scale by feature, in order."""
        return {
            "schema": _SCHEMA,
            "kind": self.kind,
            "features": [
                {"name": name, "centre": float(centre), "scale": float(scale)}
                for name, centre, scale in zip(self.names, self.centre, self.scale, strict=True)
            ],
        }

    @classmethod
    def from_json_dict(cls, data: Mapping[str, Any]) -> FeatureScaler:
        """Read what `to_json_dict` made.

        Raises:
            ConfigError: a key or a number is missing or wrong.
        """
        if not isinstance(data, Mapping) or set(data) != {"schema", "kind", "features"}:
            raise ConfigError("scaler: expected the keys schema, kind and features")
        if data["schema"] != _SCHEMA:
            raise ConfigError(f"scaler: schema {data['schema']!r} is unknown; this version reads {_SCHEMA}")
        rows = data["features"]
        if not isinstance(rows, list):
            raise ConfigError("scaler: features must be a list")
        for row in rows:
            if not isinstance(row, Mapping) or set(row) != {"name", "centre", "scale"}:
                raise ConfigError(f"scaler: {row!r} must have the keys name, centre and scale")
            if not isinstance(row["name"], str):
                raise ConfigError(f"scaler: the name {row['name']!r} is no text")
            for key in ("centre", "scale"):
                if isinstance(row[key], bool) or not isinstance(row[key], int | float):
                    raise ConfigError(
                        f"scaler: {key} of {row['name']} is {row[key]!r}, which is not a number"
                    )
        return cls(
            names=tuple(row["name"] for row in rows),
            centre=np.array([row["centre"] for row in rows], dtype=np.float64),
            scale=np.array([row["scale"] for row in rows], dtype=np.float64),
            kind=data["kind"],
        )

    def save(self, path: Path | str) -> None:
        """Write JSON; the file appears whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(self.to_json_dict(), indent=2) + "\n", encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path | str) -> FeatureScaler:
        """Read what `save` wrote.

        Raises:
            TrainingRunError: the file is missing or damaged; names the command that makes it.
        """
        path = Path(path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise TrainingRunError(f"{path} does not exist; {_REMEDY}") from None
        except (OSError, ValueError) as error:
            raise TrainingRunError(f"{path} is damaged ({error}); {_REMEDY}") from error
        try:
            return cls.from_json_dict(data)
        except ConfigError as error:
            raise TrainingRunError(f"{path} is damaged ({error}); {_REMEDY}") from error


def fit_scaler(
    table: FeatureTable, *, rows: slice, kind: Literal["standard", "robust"] = "standard"
) -> FeatureScaler:
    """Fit on the rows of the training span; rows of the warm-up are left out.

    Args:
        table: features, possibly of more than the training span.
        rows: the training span, as `slice(first, last)` in rows of the table.
        kind: `standard` (mean, standard deviation) or `robust` (median, interquartile range).

    Raises:
        ConfigError: fewer than two rows are left, or an unknown kind.
    """
    first, last, step = rows.indices(len(table.values))
    if step != 1:
        raise ConfigError(f"scaler: rows has step {step}; give consecutive rows")
    first = max(first, table.warmup)
    if last - first < 2:
        raise ConfigError(
            f"scaler: {max(last - first, 0)} rows of the training span are left after the warm-up of "
            f"{table.warmup}; give a longer span"
        )
    if kind not in ("standard", "robust"):
        raise ConfigError(f"scaler: unknown kind {kind!r}. Known: standard, robust")
    from sklearn.preprocessing import RobustScaler, StandardScaler

    values = table.values[first:last]
    if kind == "standard":
        fitted = StandardScaler().fit(values)
        centre = fitted.mean_
    else:
        fitted = RobustScaler().fit(values)
        centre = fitted.center_
    return FeatureScaler(table.names, centre, fitted.scale_, kind)


def identity_scaler(names: Sequence[str]) -> FeatureScaler:
    """A scaler that only cuts to +-10: centre 0, scale 1."""
    return FeatureScaler(tuple(names), np.zeros(len(names)), np.ones(len(names)), "identity")
