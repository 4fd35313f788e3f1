"""Backtests of training runs: which candles they are tested on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from backtest_command import FIGURES, Command, last_line
from policy_run import make_run

from envs.risk import RiskLimits
from envs.settings import EnvConfig
from envs.synthetic import synthetic_candles, synthetic_funding, synthetic_market


def spans_of(candles: Any) -> dict[str, tuple[int, int]]:
    times = candles.open_time_ms
    end_ms = int(times[-1]) + candles.interval_ms
    return {
        "train": (int(times[0]), int(times[200])),
        "validation": (int(times[200]), int(times[250])),
        "test": (int(times[250]), end_ms),
    }


def test_a_training_run_is_tested_on_its_test_span(command: Command, tmp_path: Path) -> None:
    candles = synthetic_candles(n=400, seed=2)
    # Not labelled synthetic, as files of a market are.
    frame = candles.to_frame()
    frame.to_csv(tmp_path / "BTCUSDT_1h.csv", index=False)
    synthetic_funding(candles).to_parquet(tmp_path / "BTCUSDT_funding.parquet")
    spans = spans_of(candles)
    run = make_run(tmp_path / "training_runs", spans=spans, risk=RiskLimits(max_drawdown_fraction=0.9))
    files = ("--candles", "BTCUSDT_1h.csv", "--funding", "BTCUSDT_funding.parquet")
    quiet = ("--json", "--quiet", "--no-report")
    done = command("--agent", run.train_id, *files, *quiet)
    assert done.returncode == 0, done.stderr
    values = last_line(done)
    assert values["train_id"] == run.train_id
    assert values["synthetic"] is False
    assert values["notices"][0].startswith(
        "no span was asked for: the test span of the training run, 2023-01-11"
    )
    assert (values["start"], values["steps"]) == ("2023-01-11T10:00:00Z", 149)
    folder = Path(values["paths"]["folder"])
    assert folder.parent == Path("training_runs") / run.train_id / "backtests"
    assert re.fullmatch(r"\d{8}_\d{6}", folder.name)
    again = command("--config", folder / "config.yaml", *quiet)
    repeated = last_line(again)
    assert {name: repeated[name] for name in FIGURES} == {name: values[name] for name in FIGURES}
    # Asked for the span that it was trained on, it says so.
    sample = command("--agent", run.train_id, *files, "--end", "2023-01-05", *quiet)
    assert last_line(sample)["notices"] == [
        "in-sample: the span overlaps the run's train span (2023-01-01 00:00 UTC to 2023-01-09 08:00 UTC); such "
        "figures say little about the future"
    ]


def test_a_training_run_without_candles_brings_the_files_that_it_was_trained_on(
    command: Command, tmp_path: Path
) -> None:
    candles = synthetic_candles(n=400, seed=2)
    candles.to_frame().to_csv(tmp_path / "BTCUSDT_1h.csv", index=False)
    data = {"candles": [str(tmp_path / "BTCUSDT_1h.csv")], "constant_funding_rate": 0.0}
    run = make_run(tmp_path / "training_runs", spans=spans_of(candles), data=data)
    done = command("--agent", run.train_id, "--json", "--quiet", "--no-report")
    assert done.returncode == 0, done.stderr
    values = last_line(done)
    assert (values["synthetic"], values["steps"]) == (False, 149)
    assert values["notices"][0].startswith("no candles were given: those that the run was trained on, ")
    (tmp_path / "BTCUSDT_1h.csv").unlink()
    gone = command("--agent", run.train_id)
    assert gone.returncode == 2
    assert "BTCUSDT_1h.csv; give some with --candles" in gone.stderr


def test_a_training_run_on_a_synthetic_market_is_tested_on_that_market(
    command: Command, tmp_path: Path
) -> None:
    made = {"candles": 400, "seed": 7, "signal_strength": 0.3}
    market = synthetic_market(n=400, seed=7, signal_strength=0.3)
    run = make_run(
        tmp_path / "training_runs",
        spans=spans_of(market.candles[0]),
        data={"synthetic": made},
        data_hash=market.data_hash(),
    )
    quiet = ("--json", "--quiet", "--no-report")
    values = last_line(command("--agent", run.train_id, *quiet))
    assert (values["synthetic"], values["steps"]) == (True, 149)
    rows = market.close[[250, -1], 0]
    assert values["price_change"]["BTCUSDT"] == pytest.approx(rows[1] / rows[0] - 1)
    repeated = last_line(command("--config", Path(values["paths"]["folder"]) / "config.yaml", *quiet))
    assert repeated["notices"] == []
    assert {name: repeated[name] for name in FIGURES} == {name: values[name] for name in FIGURES}
    # Another synthetic market has nothing to do with the spans of the run.
    (tmp_path / "c.yaml").write_text("market: {synthetic: {candles: 300}}\n", encoding="utf-8")
    other = last_line(command("--agent", run.train_id, "--config", "c.yaml", *quiet))
    assert other["steps"] > 280


def test_a_training_run_without_candles_brings_its_symbols_and_interval(
    command: Command, tmp_path: Path
) -> None:
    symbols = ("ETHUSDT", "BTCUSDT")
    run = make_run(tmp_path / "training_runs", symbols=symbols, interval="4h", env=EnvConfig(window_size=3))
    done = command("--agent", run.train_id, "--json", "--quiet", "--no-report")
    assert done.returncode == 0, done.stderr
    values = last_line(done)
    assert (values["symbols"], values["interval"], values["synthetic"]) == (list(symbols), "4h", True)


def test_a_policy_of_another_observation_is_refused_before_a_folder_is_made(
    command: Command, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "training_runs")
    done = command("--agent", run.train_id, "--symbol", "BTCUSDT", "ETHUSDT")
    assert done.returncode == 2
    assert "the scaler was fitted on other features" in done.stderr
    assert not (run.folder / "backtests").exists()
