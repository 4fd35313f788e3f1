"""Parity from the command lines on real candles: a backtest and a paper run of the same actions write the same rows."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / ".." / "shared" / "data"
CANDLES = DATA / "binance_um_ETHUSDT_1h_2019-11-27_2025-08-31.parquet"
FUNDING = DATA / "binance_um_ETHUSDT_funding_2019-11-27_2025-08-31.parquet"
MARKS = DATA / "binance_um_ETHUSDT_1h_mark_2019-12-23_2025-08-31.parquet"
STEPS = 500


def read(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.glob("steps_*.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(not CANDLES.exists(), reason="real candles are not beside the checkout")
def test_random_actions_over_real_candles(tmp_path: Path) -> None:
    actions = tmp_path / "actions.csv"
    values = np.random.default_rng(3).uniform(-1, 1, STEPS)
    actions.write_text(
        "step,ETHUSDT\n" + "".join(f"{i},{value!r}\n" for i, value in enumerate(values.tolist()))
    )
    config = tmp_path / "config.yaml"
    config.write_text("env: {max_leverage: 4.0, action: {scheme: target, stop_loss_fraction: 0.02}}\n")
    market = [
        "--candles",
        str(CANDLES),
        "--funding",
        str(FUNDING),
        "--mark",
        str(MARKS),
        "--start",
        "2024-11-05",
    ]
    agent = ["--agent", f"actions:{actions}", "--config", str(config)]
    commands = {
        "backtest": ["-m", "agents.backtest", *agent, *market, "--quiet", "--no-report"],
        "live": ["live.py", *agent, *market, "--paper", "--speed", "max", "--quiet"],
    }
    for name, command in commands.items():
        run = [sys.executable, *command, "--out", str(tmp_path / name)]
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr

    simulated, live = read(tmp_path / "backtest"), read(tmp_path / "live")
    assert len(simulated) == len(live) > STEPS
    for number, (one, other) in enumerate(zip(simulated, live, strict=True)):
        for name in one:
            left, right = one[name], other[name]
            if left != right:
                close = math.isclose(float(left), float(right), rel_tol=1e-9, abs_tol=1e-8)
                assert close, f"row {number}, column {name}: {left} in the backtest, {right} live"
    assert {"stop_loss", "flip_to_long", "flip_to_short"} <= {row["action_type"] for row in simulated}
    assert any(float(row["funding"]) != 0.0 for row in simulated)
