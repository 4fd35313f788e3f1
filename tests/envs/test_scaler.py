"""The scaler: fitted on given rows, exact in JSON, and clear about what is wrong with a file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.errors import ConfigError, TrainingRunError
from envs.features import FeatureTable
from envs.scaler import FeatureScaler, fit_scaler, identity_scaler

ROOT = Path(__file__).resolve().parents[2]


def table(values: Any, warmup: int = 0) -> FeatureTable:
    array = np.asarray(values, dtype=float)
    return FeatureTable(tuple("abcdef"[: array.shape[1]]), array, warmup)


def test_standard_by_hand() -> None:
    # Rows 1 to 4 (row 0 is warm-up, row 5 another span): a 1 3 5 7, mean 4, variance 5; b constant.
    values = [[np.nan, 2], [1, 2], [3, 2], [5, 2], [7, 2], [1e9, 5]]
    scaler = fit_scaler(table(values, warmup=1), rows=slice(0, 5))
    assert scaler.names == ("a", "b")
    assert scaler.centre.tolist() == [4, 2]
    assert scaler.scale.tolist() == pytest.approx([5**0.5, 1])
    scaled = scaler.transform(np.array(values))
    assert scaled.dtype == np.float32
    assert np.isnan(scaled[0, 0])
    assert scaled[1, 0] == pytest.approx(-3 / 5**0.5)
    assert scaled[5].tolist() == [10, 3]  # cut


def test_robust_by_hand() -> None:
    # Median 3; quartiles of 1 2 3 4 100 are 2 and 4.
    scaler = fit_scaler(table([[1], [2], [3], [4], [100]]), rows=slice(None), kind="robust")
    assert (scaler.centre[0], scaler.scale[0]) == (3, 2)


def test_rows_outside_the_training_span_do_not_matter() -> None:
    values = np.random.default_rng(0).normal(size=(50, 3))
    other = values.copy()
    other[30:] = 1e6
    one = fit_scaler(table(values), rows=slice(0, 30))
    two = fit_scaler(table(other), rows=slice(0, 30))
    assert one.to_json_dict() == two.to_json_dict()


def test_windows_keep_their_shape() -> None:
    scaler = identity_scaler(["a", "b"])
    assert scaler.transform(np.ones((4, 30, 2))).shape == (4, 30, 2)
    assert scaler.transform(np.array([11.0, -0.5])).tolist() == [10, -0.5]
    with pytest.raises(ConfigError, match="3 features given, but it was fitted on 2"):
        scaler.transform(np.ones((4, 3)))


def test_the_input_is_left_alone() -> None:
    values = np.full((2, 1), 5.0)
    identity_scaler(["a"]).transform(values)
    assert values.tolist() == [[5.0], [5.0]]


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        (slice(0, 3), "standard", "1 rows of the training span are left after the warm-up of 2"),
        (slice(0, 10, 2), "standard", "step 2"),
        (slice(None), "minmax", "unknown kind 'minmax'. Known: standard, robust"),
    ],
)
def test_fit_refuses(rows: slice, kind: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit_scaler(table(np.ones((10, 2)), warmup=2), rows=rows, kind=kind)


class TestFile:
    def scaler(self) -> FeatureScaler:
        return FeatureScaler(("a", "b"), np.array([0.1, -1e-17]), np.array([1 / 3, 2.0]), "standard")

    def test_round_trip_is_exact(self, tmp_path: Path) -> None:
        path = tmp_path / "run" / "scaler_train.json"
        self.scaler().save(path)
        again = FeatureScaler.load(path)
        assert again.centre.tobytes() == self.scaler().centre.tobytes()
        assert again.scale.tobytes() == self.scaler().scale.tobytes()
        assert (again.names, again.kind) == (("a", "b"), "standard")
        assert [entry.name for entry in path.parent.iterdir()] == ["scaler_train.json"]

    def test_missing_names_the_command(self, tmp_path: Path) -> None:
        with pytest.raises(TrainingRunError, match=r"does not exist; train again: python -m agents\.train"):
            FeatureScaler.load(tmp_path / "scaler_train.json")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda data: data.pop("kind"), "expected the keys"),
            (lambda data: data.update(schema=9), "schema 9 is unknown"),
            (lambda data: data.update(kind="x"), "unknown kind 'x'"),
            (lambda data: data.update(features={}), "features must be a list"),
            (lambda data: data["features"][0].pop("scale"), "must have the keys name, centre and scale"),
            (lambda data: data["features"][0].update(scale=0), "scale of a is 0.0"),
            (lambda data: data["features"][0].update(scale=-1.0), "scale of a is -1.0"),
            (lambda data: data["features"][1].update(centre=float("nan")), "centre of b is nan"),
            (lambda data: data["features"][1].update(centre="0.5"), "'0.5', which is not a number"),
            (lambda data: data["features"][1].update(name="a"), "a feature is there twice"),
        ],
    )
    def test_damaged(self, tmp_path: Path, change: Any, message: str) -> None:
        data = self.scaler().to_json_dict()
        change(data)
        path = tmp_path / "scaler_train.json"
        path.write_text(json.dumps(data))
        with pytest.raises(TrainingRunError, match=f"is damaged.*{message}.*python -m agents.train"):
            FeatureScaler.load(path)

    def test_torn(self, tmp_path: Path) -> None:
        path = tmp_path / "scaler_train.json"
        path.write_text(json.dumps(self.scaler().to_json_dict())[:50])
        with pytest.raises(TrainingRunError, match="is damaged"):
            FeatureScaler.load(path)

    def test_other_features(self) -> None:
        self.scaler().require_names(["a", "b"])
        with pytest.raises(TrainingRunError, match="not in the scaler: c; only in the scaler: b"):
            self.scaler().require_names(["a", "c"])
        with pytest.raises(TrainingRunError, match="another order"):
            self.scaler().require_names(["b", "a"])


def test_using_one_needs_no_scikit_learn() -> None:
    code = (
        "import sys, numpy; from envs.scaler import identity_scaler; "
        "identity_scaler(['a']).transform(numpy.ones((1, 1))); assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
