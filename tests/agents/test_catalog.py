"""From what a user types to an agent: names, overrides, refusals, and what is not imported on the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from policy_run import make_run

from agents.catalog import make_agent, merge_settings
from envs.actions import QuantityScheme, SignalScheme, TargetScheme
from envs.errors import ConfigError, TrainingRunError
from envs.risk import RiskLimits
from envs.settings import EnvConfig

REPOSITORY = Path(__file__).resolve().parents[2]
BTC = ("BTCUSDT",)


def test_rules_share_the_equity_among_the_symbols() -> None:
    setup = make_agent("ema-cross", symbols=("BTCUSDT", "ETHUSDT", "XRPUSDT", "ADAUSDT"))
    assert setup.env.action == SignalScheme(signal_fraction=0.25)
    assert setup.env.window_size == 1
    assert setup.scaler is None
    assert setup.max_steps is None


def test_sections_change_what_they_name_and_nothing_else() -> None:
    config = {
        "agent": {"fast": 5},
        "env": {"slippage_bps": 7.0, "action": {"stop_loss_fraction": 0.02}},
        "risk": {"max_drawdown_fraction": 0.3},
        "features": None,
    }
    setup = make_agent("ema-cross", symbols=BTC, config=config)
    assert setup.env == EnvConfig(
        window_size=1,
        slippage_bps=7.0,
        action=SignalScheme(signal_fraction=1.0, stop_loss_fraction=0.02),
    )
    assert setup.limits == RiskLimits(max_drawdown_fraction=0.3)
    assert setup.features.columns == ("ema_distance_5", "ema_distance_50")


def test_another_kind_replaces_the_settings_of_the_first() -> None:
    config = {
        "env": {"action": {"scheme": "target"}, "reward": {"reward": "differential_sharpe", "rate": 0.2}}
    }
    setup = make_agent("ema-cross", symbols=BTC, config=config)
    assert setup.env.action == TargetScheme()
    assert setup.env.reward.reward == "differential_sharpe"


def test_merging_goes_key_by_key() -> None:
    base = {"a": {"b": 1, "c": {"d": 2}}, "e": [1, 2]}
    assert merge_settings(base, {"a": {"c": {"f": 3}}, "e": [9]}) == {
        "a": {"b": 1, "c": {"d": 2, "f": 3}},
        "e": [9],
    }
    assert base == {"a": {"b": 1, "c": {"d": 2}}, "e": [1, 2]}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"envs": {}}, r"unknown section 'envs'. Did you mean 'env'\?"),
        ({"env": {"slipage_bps": 1}}, r"unknown setting 'slipage_bps', did you mean 'slippage_bps'\?"),
        ({"env": 3}, r"section 'env' is 3; expected settings"),
        ({"env": {"action": {"signal_fractoin": 1}}}, r"signal_fractoin.*did you mean 'signal_fraction'"),
        ({"risk": {"max_drawdown_fraction": 1.5}}, r"risk: max_drawdown_fraction = 1.5"),
        ({"features": {"indicators": [{"name": "rsy"}]}}, r"unknown indicator 'rsy'. Did you mean 'rsi'\?"),
    ],
)
def test_settings_are_validated_strictly(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_agent("ema-cross", symbols=BTC, config=config)


def test_an_actions_file_ends_with_its_last_step_and_knows_its_scheme(tmp_path: Path) -> None:
    path = tmp_path / "actions.csv"
    path.write_text("step,BTCUSDT\n0,0.5\n7,3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 3, column 'BTCUSDT': 3 is outside -1 to 1"):
        make_agent(f"actions:{path}", symbols=BTC)
    setup = make_agent(f"actions:{path}", symbols=BTC, config={"env": {"action": {"scheme": "quantity"}}})
    assert setup.max_steps == 8
    assert setup.env.action == QuantityScheme()
    with pytest.raises(ConfigError, match="has no parameters; remove fast"):
        make_agent(f"actions:{path}", symbols=BTC, config={"agent": {"fast": 3}})


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("ema_cross", "Did you mean 'ema-cross'?"),
        ("buyandhold", "Did you mean 'buy-and-hold'?"),
        ("", "Give a rule"),
    ],
)
def test_an_unknown_agent_is_told_the_nearest(tmp_path: Path, spec: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_agent(spec, symbols=BTC, training_runs=tmp_path)
    assert hint in str(caught.value)
    assert f"there is none in {tmp_path}" in str(caught.value)


def test_a_training_run_goes_by_its_id_and_by_its_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path, risk=RiskLimits(max_drawdown_fraction=0.4))
    for setup in (
        make_agent(run.train_id, symbols=BTC, training_runs=tmp_path),
        make_agent(str(run.folder), symbols=BTC, training_runs=tmp_path / "elsewhere"),
    ):
        assert setup.train_id == run.train_id
        assert setup.env.window_size == 4
        assert setup.limits.max_drawdown_fraction == 0.4
        assert setup.scaler is not None


def test_a_mistyped_train_id_is_told_the_nearest(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(ConfigError, match=f"Did you mean '{run.train_id}'"):
        make_agent(run.train_id[:-1] + "x", symbols=BTC, training_runs=tmp_path)


def test_a_training_run_may_be_run_with_other_costs_and_limits(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    config = {
        "env": {"slippage_bps": 4.0, "window_size": 4, "normalize_portfolio": True, "max_leverage": 2.0},
        "risk": {"max_drawdown_fraction": 0.2},
        "features": {"indicators": [{"name": "log_return", "periods": 1}, {"name": "rsi", "period": 5}]},
    }
    setup = make_agent(run.train_id, symbols=BTC, config=config, training_runs=tmp_path)
    assert (setup.env.slippage_bps, setup.env.max_leverage) == (4.0, 2.0)
    assert setup.limits.max_drawdown_fraction == 0.2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"env": {"window_size": 30}},
            r"env.window_size = 30 would change the observation .*window_size = 4",
        ),
        (
            {"env": {"normalize_portfolio": False}},
            r"env.normalize_portfolio = False would change the observation",
        ),
        ({"features": {"indicators": ["rsi"]}}, r"features would change the observation"),
        ({"agent": {"fast": 3}}, r"is a trained policy without parameters; remove fast"),
    ],
)
def test_a_training_run_keeps_its_observation(
    tmp_path: Path, config: dict[str, object], message: str
) -> None:
    run = make_run(tmp_path)
    with pytest.raises(ConfigError, match=message):
        make_agent(run.train_id, symbols=BTC, config=config, training_runs=tmp_path)


def test_a_run_without_its_settings_names_what_is_missing(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.metadata_path.unlink()
    with pytest.raises(TrainingRunError, match=r"config_metadata.yaml is missing"):
        make_agent(run.train_id, symbols=BTC, training_runs=tmp_path)
    other = make_run(tmp_path)
    other.policy_path.unlink()
    with pytest.raises(TrainingRunError, match=r"policy.onnx is missing; make it with"):
        make_agent(other.train_id, symbols=BTC, training_runs=tmp_path)


def test_running_a_policy_imports_nothing_of_the_training(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    code = f"""
import sys
import agents.backtest
from pathlib import Path
from agents.catalog import make_agent
make_agent("ema-cross", symbols=("BTCUSDT",))
assert "onnxruntime" not in sys.modules
make_agent({run.train_id!r}, symbols=("BTCUSDT",), training_runs=Path({str(tmp_path)!r}))
heavy = {{"torch", "stable_baselines3", "sklearn", "matplotlib", "plotly", "binance"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
