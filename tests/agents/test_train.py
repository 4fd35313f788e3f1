"""The command: its output, its errors, and Ctrl+C in a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from agents.sac.policy import load_sac_setup
from agents.sac.stopping import StopRequest
from agents.train import app, load_config
from agents.training_run import TrainingRun
from envs.errors import ConfigError
from envs.funding import FundingSeries
from envs.synthetic import synthetic_candles

ROOT = Path(__file__).resolve().parents[2]
HOUR_MS = 3_600_000


def settings(**sac: Any) -> dict[str, Any]:
    return {
        "data": {"synthetic": {"candles": 500, "signal_strength": 0.3}},
        "env": {"window_size": 5},
        "features": {"indicators": [{"name": "log_return", "periods": 1}, {"name": "funding_rate"}]},
        "sac": {
            "timesteps": 150,
            "learning_starts": 50,
            "batch_size": 32,
            "net_arch": [16],
            "episode_candles": 40,
            "device": "cpu",
            **sac,
        },
        "evaluation": {"every_steps": 100},
    }


def written(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run_command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Result) -> str:
    """The message of a refusal: one line on standard error, exit code 2, nothing on standard output."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    return result.stderr


def test_a_training_prints_a_table_and_its_id_last(tmp_path: Path) -> None:
    config = written(tmp_path, settings())
    result = run_command("--config", config, "--out", tmp_path / "runs", "--timesteps", "100", "--lr", "1e-3")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    train_id = lines[-1]
    assert train_id.startswith("train_BTCUSDT_20230101_20230121_lr1e-3_bs32_ws5_")
    for word in ("this policy", "buy-and-hold", "flat", "validation", "test"):
        assert word in result.stdout
    assert "SYNTHETIC market" in result.stderr and "best" in result.stderr
    run = TrainingRun.open(train_id, tmp_path / "runs")
    assert run.metadata().values["sac"]["timesteps"] == 100

    resumed = run_command("--resume", train_id, "--out", tmp_path / "runs", "--timesteps", "160", "--quiet")
    assert resumed.exit_code == 0, resumed.output
    assert resumed.stdout == f"{train_id}\n"
    assert resumed.stderr == ""
    assert run.metadata().values["sac"]["timesteps"] == 160
    message = refused(run_command("--resume", train_id, "--out", tmp_path / "runs", "--window", "6"))
    assert "env.window_size = 6 cannot be changed by --resume (it is 5" in message


def test_training_on_files(tmp_path: Path) -> None:
    candles = synthetic_candles("ETHUSDT", n=500, seed=2)
    candles.to_parquet(tmp_path / "eth.parquet")
    times = np.arange(int(candles.open_time_ms[0]), int(candles.close_time_ms[-1]), 8 * HOUR_MS)
    FundingSeries("ETHUSDT", times, np.full(len(times), 1e-4), "test").to_parquet(
        tmp_path / "funding.parquet"
    )
    values = settings(timesteps=60)
    # Relative to the config file, and replaced together by --candles.
    values["data"] = {"candles": "eth.parquet", "funding": "funding.parquet", "start": "2023-01-05"}
    config = written(tmp_path, values)
    result = run_command("--config", config, "--out", tmp_path / "runs", "--end", "2023-01-20")
    assert result.exit_code == 0, result.output
    train_id = result.stdout.splitlines()[-1]
    assert train_id.startswith("train_ETHUSDT_20230105_20230120_")
    data = TrainingRun.open(train_id, tmp_path / "runs").metadata().values["data"]
    assert data["candles"] == [str(tmp_path / "eth.parquet")]
    assert data["start"] == "2023-01-05" and data["end"] == "2023-01-20"


def test_command_line_settings_win(tmp_path: Path) -> None:
    values = settings()
    values["data"] = {"candles": "a.parquet", "funding": "b.parquet", "marks": ["c.parquet"]}
    path = written(tmp_path, values)
    (tmp_path / "a.parquet").touch()
    plain = load_config(path, {})
    assert plain.data.candles == (tmp_path / "a.parquet",)
    other = load_config(path, {"data.candles": ["x.parquet"], "data.symbols": ["ETHUSDT"], "sac.seed": 9})
    # Fundings and marks in the config belong to the candles in the config.
    assert [one.name for one in other.data.candles] == ["x.parquet"]
    assert other.data.funding == () and other.data.marks == ()
    assert other.data.symbols == ("ETHUSDT",) and other.sac.seed == 9 and other.sac.batch_size == 32
    synthetic = written(tmp_path, settings())
    assert load_config(synthetic, {"data.candles": ["x.parquet"]}).data.synthetic is None
    with pytest.raises(ConfigError, match="batch_size = 1"):
        load_config(path, {"sac.batch_size": 1})


def test_names_of_data_files_may_have_wildcards(tmp_path: Path) -> None:
    values = settings()
    values["data"] = {
        "candles": "data/um_BTCUSDT_1h_2*.parquet",
        "marks": "data/um_BTCUSDT_1h_mark_2*.parquet",
        "funding": "data/none_*.parquet",
    }
    (tmp_path / "data").mkdir()
    for name in ("um_BTCUSDT_1h_2020_2021.parquet", "um_BTCUSDT_1h_mark_2020_2021.parquet"):
        (tmp_path / "data" / name).touch()
    data = load_config(written(tmp_path, values), {}).data
    assert [path.name for path in data.candles] == ["um_BTCUSDT_1h_2020_2021.parquet"]
    assert [path.name for path in data.marks] == ["um_BTCUSDT_1h_mark_2020_2021.parquet"]
    assert [path.name for path in data.funding] == [
        "none_*.parquet"
    ]  # reading it says that it does not exist


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sac": {"learnin_rate": 1}}, "unknown setting 'sac.learnin_rate', did you mean 'learning_rate'?"),
        ({"scaler": "minmax"}, "scaler = 'minmax'"),
        ({"features": {"indicators": [{"name": "rsii"}]}}, "Did you mean 'rsi'"),
        ({"env": {"action": {"scheme": "quantity"}}}, "SAC needs 'target' or 'signal'"),
        ({"sac": {"net_arch": [0]}}, "every layer needs at least one unit"),
        ({"sac": {"critic_net_arch": [8, 0]}}, "every layer needs at least one unit"),
        ({"sac": {"gradient_steps": 0}}, "gradient_steps is 0, which learns nothing; give -1"),
        ({"sac": {"gradient_steps": -2}}, "gradient_steps = -2"),
        ({"sac": {"n_envs": 0}}, "n_envs = 0"),
        ({"sac": {"buffer_size": 100}}, "it must hold a batch (batch_size 256)"),
        ({"sac": {"n_envs": 64, "timesteps": 50}}, "lower n_envs or train_freq, or raise timesteps"),
        ({"sac": {"learning_rate_schedule": "step"}}, "learning_rate_schedule = 'step'"),
        ({"sac": {"n_env": 4}}, "did you mean 'n_envs'?"),
        ({"sac": {"ent_coef": -1}}, "ent_coef is -1"),
        ({"sac": {"reward_scale": 0}}, "reward_scale is 0"),
        ({"data": {}}, "data: give candles (files), or synthetic"),
        ({"data": {"synthetic": {"start": "yesterday"}}}, "cannot read 'yesterday' as a time"),
        ({"data": {"synthetic": {"symbols": "BTCUSDC"}}}, "unknown symbol 'BTCUSDC'"),
        ({"data": {"synthetic": {"interval": "7m"}}}, "unknown interval '7m'"),
        ({"data": {"synthetic": {"candles": 100}}, "env": {"window_size": 97}}, "give more candles"),
        ({"data": {"candles": "nowhere.parquet"}}, "python -m live.download SYMBOL INTERVAL START END"),
    ],
)
def test_bad_settings_are_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    config = written(tmp_path, settings() | change)
    assert message in refused(run_command("--config", config, "--out", tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_bad_files_and_runs_are_one_line(tmp_path: Path) -> None:
    assert "give either --config FILE" in refused(run_command())
    assert "cannot read" in refused(run_command("--config", tmp_path / "none.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [")
    assert "not valid YAML" in run_command("--config", tmp_path / "broken.yaml").stderr
    (tmp_path / "candles.parquet").write_bytes(b"PAR1 no")
    config = written(tmp_path, settings())
    assert "not a readable Parquet file" in refused(
        run_command("--config", config, "--candles", tmp_path / "candles.parquet", "--out", tmp_path / "runs")
    )
    assert "there are no runs in" in refused(run_command("--resume", "train_x", "--out", tmp_path / "runs"))
    assert "--start 2024" not in refused(
        run_command("--config", config, "--start", "2040-01-01", "--out", tmp_path)
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["btcusdt_1h.yaml", "demo.yaml"])
def test_the_shipped_configs_are_valid(name: str) -> None:
    config = load_config(ROOT / "configs" / "train" / name, {})
    assert config.sac.timesteps > 0


def test_the_commented_config_has_every_key() -> None:
    path = ROOT / "configs" / "train" / "btcusdt_1h.yaml"
    given = yaml.safe_load(path.read_text())
    full = load_config(path, {}).model_dump()
    for section, content in full.items():
        if isinstance(content, dict) and section != "features":
            missing = set(content) - set(given[section]) - {"synthetic"}
            assert not missing, f"{section}: {missing}"


def test_ctrl_c_leaves_a_usable_run_and_exits_130(tmp_path: Path) -> None:
    config = written(tmp_path, settings(timesteps=1_000_000, buffer_size=10_000))
    process = subprocess.Popen(
        [sys.executable, "-m", "agents.train", "--config", str(config), "--out", str(tmp_path / "runs")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "validation: return" in line:
                break
        process.send_signal(signal.SIGINT)
        output, rest = process.communicate(timeout=240)
    finally:
        process.kill()
    said += rest
    assert process.returncode == 130, said
    assert "Traceback" not in said
    train_id = output.splitlines()[-1]
    assert f"continue with python -m agents.train --resume {train_id}" in said
    run = TrainingRun.open(train_id, tmp_path / "runs")
    assert run.metadata().interrupted
    assert run.evaluation()["test"]["agent"]["steps"] > 0
    assert load_sac_setup(run).train_id == train_id


def test_the_second_ctrl_c_stops_at_once() -> None:
    told: list[str] = []
    stop = StopRequest()
    before = signal.getsignal(signal.SIGINT)
    with stop.listening(told.append):
        assert not stop() and stop.exit_code == 0
        os.kill(os.getpid(), signal.SIGINT)
        assert stop() and stop.exit_code == 130
        assert len(told) == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
