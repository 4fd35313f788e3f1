"""The backtest's command: its options, its files, its endings, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from backtest_command import FIGURES, Command, last_line, read_steps
from said import said

from agents.backtest import LIST_OPTIONS
from agents.command_line import spread_lists
from envs.errors import ConfigError
from envs.synthetic import synthetic_candles

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY / ".." / "shared" / "data"


def in_a_process(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agents.backtest", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_options_take_several_values() -> None:
    given = [
        "--candles",
        "a",
        "b",
        "--json",
        "--symbol",
        "X",
        "--candles",
        "c",
        "--seed",
        "3",
        "--funding",
        "--mark",
    ]
    assert spread_lists(given, LIST_OPTIONS) == [
        *("--candles", "a", "--candles", "b", "--json", "--symbol", "X"),
        *("--candles", "c", "--seed", "3", "--funding", "--mark"),
    ]


def test_the_last_line_is_the_metrics_and_the_files_are_there(tmp_path: Path) -> None:
    done = in_a_process("--agent", "ema-cross", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert said(done.stderr) == ""
    assert "SYNTHETIC MARKET" in done.stdout
    values = last_line(done)
    assert set(FIGURES) < set(values)
    assert values["agent"] == "ema-cross"
    assert values["symbols"] == ["BTCUSDT"]
    assert values["synthetic"] is True
    assert values["ending"] == "truncated"
    assert values["emergency"] is None
    assert set(values["benchmarks"]) == {"buy-and-hold", "flat"}
    assert set(values["benchmarks"]["flat"]) == set(FIGURES)
    assert (values["start"], values["end"]) == ("2023-01-03T01:00:00Z", "2023-07-28T08:00:00Z")
    paths = {name: tmp_path / path for name, path in values["paths"].items() if path is not None}
    assert re.fullmatch(r"runs/backtests/ema-cross_\d{8}_\d{6}", values["paths"]["folder"])
    assert set(paths) == {"folder", "steps", "metrics", "report", "config"}
    assert json.loads(paths["metrics"].read_text(encoding="utf-8")) == values
    assert re.fullmatch(r"steps_\d{8}_\d{6}\.csv", paths["steps"].name)
    assert "<!doctype html>" in paths["report"].read_text(encoding="utf-8")[:100]
    assert len(read_steps(paths["steps"])) == values["steps"] + 1
    # Every figure stands in the table for people, each beside those of the benchmarks.
    assert re.search(r"Final equity.*ema-cross|ema-cross.*buy-and-hold.*flat", done.stdout)


def test_a_repeat_from_its_own_config_gives_the_same(command: Command, tmp_path: Path) -> None:
    config = tmp_path / "given.yaml"
    config.write_text(
        "agent: {periods: 12}\nenv: {slippage_bps: 3.0}\nmarket: {synthetic: {candles: 300, volatility_annual: 0.9}}\n",
        encoding="utf-8",
    )
    first = command(
        *("--agent", "momentum", "--config", config, "--seed", "5", "--max-drawdown", "0.9"),
        *("--symbol", "ETHUSDT", "BTCUSDT", "--json", "--quiet", "--out", "one", "--no-report"),
    )
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("\n") == 1, "--quiet --json prints the one line"
    again = command("--config", "one/config.yaml", "--json", "--out", "two", "--no-report")
    assert again.returncode == 0, again.stderr
    one, two = last_line(first), last_line(again)
    assert one.pop("paths") != two.pop("paths")
    assert one == two
    assert one["symbols"] == ["ETHUSDT", "BTCUSDT"]
    written = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text(encoding="utf-8"))
    assert written["env"]["slippage_bps"] == 3.0
    assert written["risk"]["max_drawdown_fraction"] == 0.9
    assert written["features"] == {"indicators": [{"name": "log_return", "periods": 12}]}
    assert written["run"]["seed"] == 5
    assert len(written["record"]["data_hash"]) == 64


def test_other_data_than_recorded_is_said(command: Command, tmp_path: Path) -> None:
    candles = synthetic_candles(n=200)
    candles.to_parquet(tmp_path / "BTCUSDT_1h.parquet")
    quiet = ("--json", "--quiet", "--no-report")
    first = command("--agent", "flat", "--candles", "BTCUSDT_1h.parquet", *quiet, "--out", "one")
    assert last_line(first)["notices"] == []
    synthetic_candles(n=200, seed=9).to_parquet(tmp_path / "BTCUSDT_1h.parquet")
    again = command("--config", "one/config.yaml", *quiet, "--out", "two")
    assert last_line(again)["notices"] == [
        "the candles or fundings are not those that the config was recorded with"
    ]


def test_an_emergency_leaves_its_row_and_exit_code_3(command: Command, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("market: {synthetic: {candles: 300, falling: true}}\n", encoding="utf-8")
    given = (
        "--agent",
        "buy-and-hold",
        "--config",
        "c.yaml",
        "--max-drawdown",
        "0.01",
        "--json",
        "--no-report",
    )
    done = in_a_process(*given, "--out", "one", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "EMERGENCY" in done.stdout
    values = last_line(done)
    assert values["ending"] == "emergency"
    assert values["emergency"].startswith("drawdown 1.")
    (row,) = read_steps(tmp_path / values["paths"]["emergencies"])
    assert (row["flat"], row["positions_closed"], row["pending_orders"]) == ("true", "1", "0")
    rows = read_steps(tmp_path / values["paths"]["steps"])
    assert [r["action_type"] for r in rows[-2:]] == ["emergency_close", "end"]
    assert rows[-1]["position_open"] == "false"
    # A backtest can be repeated: the halt does not outlive it, with or without the flag.
    assert command(*given, "--out", "two").returncode == 3
    assert command(*given, "--acknowledge-emergency", "--out", "three").returncode == 3


def test_nothing_is_overwritten(command: Command, tmp_path: Path) -> None:
    given = ("--agent", "flat", "--out", "one", "--quiet", "--no-report")
    assert command(*given).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    again = command(*given)
    assert again.returncode == 2
    assert again.stderr == (
        "error: one holds a backtest already (metrics.json); give another folder with --out\n"
    )
    assert {path: path.read_bytes() for path in (tmp_path / "one").iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no agent was given"),
        (("--agent", "ema_cross"), "unknown agent 'ema_cross'. Did you mean 'ema-cross'?"),
        (("--agent", "actions:none.csv"), "actions file none.csv: cannot be read"),
        (("--agent", "flat", "--candles", "none.parquet"), "none.parquet: the file does not exist"),
        (("--agent", "flat", "--config", "none.yaml"), "cannot read none.yaml"),
        (("--agent", "flat", "--symbol", "BTCUSD"), "unknown symbol 'BTCUSD'. Did you mean BTCUSDT?"),
        (("--agent", "flat", "--max-drawdown", "25"), "max_drawdown_fraction = 25.0"),
        (("--agent", "flat", "--start", "soon"), "cannot read 'soon' as a time"),
        (("--agent", "flat", "--start", "2031-01-01"), "the span holds no step"),
        (
            ("--agent", "flat", "--start", "2025-01-01", "--end", "2024-01-01"),
            "start 2025-01-01 00:00 UTC is not before end 2024-01-01 00:00 UTC",
        ),
        (
            ("--agent", "flat", "--start", "2031-01-01"),
            "asked for 2031-01-01 00:00 UTC to the last; 5000 candles",
        ),
        (("--agent", "train_X"), "unknown agent 'train_X'"),
        (("--agent", "flat", "--funding", "f.parquet"), "funding files without candle files"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == [], "an input that cannot be used leaves nothing behind"


def test_the_process_ends_with_the_same(tmp_path: Path) -> None:
    done = in_a_process("--agent", "ema_cross", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown agent 'ema_cross'. Did you mean 'ema-cross'?")
    assert done.stderr.count("\n") == 1


def test_a_config_with_a_typo_is_told_the_nearest(command: Command, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("run: {agnet: flat}\n", encoding="utf-8")
    done = command("--config", "c.yaml")
    assert (done.returncode, done.stderr) == (
        2,
        "error: c.yaml: unknown setting 'run.agnet', did you mean 'agent'?\n",
    )


def test_ctrl_c_ends_after_the_step_with_the_files_written(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("market: {synthetic: {candles: 200000}}\n", encoding="utf-8")
    arguments = [
        "--agent",
        "random",
        "--config",
        "c.yaml",
        "--out",
        "one",
        "--json",
        "--quiet",
        "--no-report",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "agents.backtest", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            # The header is there before the first step is done.
            if any(path.stat().st_size > 2_000 for path in tmp_path.glob("one/steps_*.csv")):
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err) == (130, "")
    values = json.loads(out)
    assert values["ending"] == "stopped"
    assert 0 < values["steps"] < 199_999
    rows = read_steps(tmp_path / values["paths"]["steps"])
    assert rows[-1]["action_type"] == "end"


def test_every_key_of_the_shipped_config_is_one_that_is_read(command: Command, tmp_path: Path) -> None:
    text = (REPOSITORY / "configs" / "backtest.yaml").read_text(encoding="utf-8")
    uncommented = tmp_path / "all.yaml"
    uncommented.write_text(re.sub(r"^(\s*)#: ", r"\1", text, flags=re.MULTILINE), encoding="utf-8")
    shipped = command("--config", REPOSITORY / "configs" / "backtest.yaml", "--quiet", "--json")
    everything = command("--config", uncommented, "--quiet", "--json")
    assert (shipped.returncode, everything.returncode) == (0, 0), everything.stderr
    one, two = last_line(shipped), last_line(everything)
    assert {name: one[name] for name in FIGURES} == {name: two[name] for name in FIGURES}


@pytest.mark.skipif(not DATA.is_dir(), reason="the real candles in ../shared/data are not here")
def test_a_year_of_real_candles(command: Command, tmp_path: Path) -> None:
    names = ("1h_2019-09-08", "1h_2019-11-27"), ("funding_2019-09-10", "funding_2019-11-27")
    candles, fundings = (
        [
            DATA / f"binance_um_{symbol}_{name}_2025-08-31.parquet"
            for symbol, name in zip(("BTCUSDT", "ETHUSDT"), kind, strict=True)
        ]
        for kind in names
    )
    done = command(
        *("--agent", "ema-cross", "--candles", *candles, "--funding", *fundings),
        *("--start", "2024-01-01", "--end", "2024-04-01", "--json", "--out", "out"),
    )
    assert done.returncode == 0, done.stderr
    values = last_line(done)
    # 91 days of 24 candles; the last one is not decided on.
    assert (values["synthetic"], values["steps"]) == (False, 91 * 24 - 1)
    assert values["start"] == "2024-01-01T00:00:00Z"
    # BTCUSDT closed its first hour at 42,503.5 and ended the quarter at 71,280.
    assert values["price_change"]["BTCUSDT"] == pytest.approx(0.677, abs=0.01)
    held = values["benchmarks"]["buy-and-hold"]
    # Half the equity in each, less what funding took.
    mean = sum(values["price_change"].values()) / 2
    assert held["total_return"] == pytest.approx(mean + held["funding"] / 10_000, abs=0.01)
    assert held["funding"] < 0 < values["fees"]


def test_an_unknown_section_is_refused() -> None:
    from agents.backtest_config import BacktestConfig

    with pytest.raises(ConfigError, match="unknown setting 'enviroment'"):
        BacktestConfig.parse({"enviroment": {}})
