"""Strict settings: what is wrong is named, with its value and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from envs.actions import SignalScheme, TargetScheme
from envs.config import read_yaml
from envs.errors import ConfigError, InputError
from envs.rewards import DifferentialSharpe
from envs.risk import RiskLimits
from envs.settings import EnvConfig


def test_defaults() -> None:
    config = EnvConfig.parse({})
    assert config.window_size == 30
    assert isinstance(config.action, TargetScheme)
    assert config == EnvConfig()


def test_nested_choices() -> None:
    config = EnvConfig.parse(
        {
            "action": {"scheme": "signal", "hold_threshold": 0.2},
            "reward": {"reward": "differential_sharpe", "rate": 0.5},
        }
    )
    assert config.action == SignalScheme(hold_threshold=0.2)
    assert config.reward == DifferentialSharpe(rate=0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_levrage": 3}, "unknown setting 'max_levrage', did you mean 'max_leverage'?"),
        ({"zzz": 3}, "unknown setting 'zzz'"),
        ({"max_leverage": 0}, "max_leverage = 0: Input should be greater than 0"),
        ({"max_leverage": "lots"}, "max_leverage = 'lots'"),
        ({"max_leverage": float("nan")}, "max_leverage = nan"),
        ({"max_leverage": float("inf")}, "max_leverage = inf"),
        ({"window_size": 2.5}, "window_size = 2.5"),
        ({"slippage_bps": -1}, "slippage_bps = -1"),
        ({"action": {"scheme": "target", "rebalance_bend": 0.1}}, "did you mean 'rebalance_band'?"),
        ({"action": {"scheme": "targets"}}, "'targets'"),
        ({"action": {"rebalance_band": 0.1}}, "setting 'action.scheme' is missing"),
        ({"reward": {"reward": "sharpe"}}, "'differential_sharpe'"),
        ({"exchange_leverage": 2, "max_leverage": 3}, "exchange_leverage 2 is below max_leverage 3"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EnvConfig.parse(values, where="run.yaml env")
    assert str(caught.value).startswith("run.yaml env: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        RiskLimits.parse({"max_drawdown_fraction": 2, "daily_loss": 0.1})
    assert "max_drawdown_fraction = 2" in str(caught.value)
    assert "did you mean 'daily_loss_fraction'?" in str(caught.value)


def test_settings_are_frozen() -> None:
    config = EnvConfig()
    with pytest.raises(ValidationError):
        config.max_leverage = 3.0  # type: ignore[misc]


def test_yaml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("env:\n  max_leverage: 2\n", encoding="utf-8")
    assert read_yaml(path) == {"env": {"max_leverage": 2}}
    path.write_text("", encoding="utf-8")
    assert read_yaml(path) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [1", "not valid YAML"), ("- 1\n- 2\n", "holds a list"), ("just words", "holds a str")],
)
def test_yaml_that_is_no_mapping_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_yaml(path)


def test_yaml_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_yaml(tmp_path / "missing.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match=r"binary\.yaml"):
        read_yaml(binary)
