"""The backtest: its numbers by hand, its command line, its files, and its endings."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from policy_run import make_run
from support import HOUR_MS, START_MS, candle_set, market_of

from agents.backtest import LIST_OPTIONS, main
from agents.backtest_run import run_backtest
from agents.catalog import make_agent
from agents.command_line import spread_lists
from agents.metrics import Metrics
from agents.run import Ending
from agents.simulate import build_env
from envs.errors import ConfigError
from envs.funding import FundingSeries
from envs.risk import RiskLimits
from envs.settings import EnvConfig
from envs.step_log import COLUMNS
from envs.synthetic import synthetic_candles, synthetic_funding, synthetic_market

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY / ".." / "shared" / "data"
FIGURES = tuple(field.name for field in dataclasses.fields(Metrics))

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process, in the test's folder: a process of its own takes a second to start."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess([], code, out, err)

    return run


def in_a_process(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agents.backtest", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=240,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(done.stdout.rstrip("\n").rsplit("\n", 1)[-1])
    return values


def read_steps(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- by hand ----------------------------------------------------------------------------------------------

# Open, high, low, close. The fee is 0.1 % and the slippage 10 bps, so that both are seen.
ROWS = [
    (20_000.0, 20_000.0, 20_000.0, 20_000.0),  # candle 0: decision 0
    (20_000.0, 20_500.0, 19_900.0, 20_400.0),  # candle 1: decision 1
    (20_400.0, 20_600.0, 20_300.0, 20_500.0),  # candle 2: decision 2
    (20_600.0, 21_000.0, 20_500.0, 20_800.0),  # candle 3: decision 3
    (20_900.0, 21_000.0, 20_700.0, 20_700.0),  # candle 4: decision 4
    (20_700.0, 20_800.0, 20_600.0, 20_800.0),  # candle 5
]
COSTS = "env: {slippage_bps: 10.0, taker_fee_fraction: 0.001, action: {rebalance_band: 0.0}}\n"


def test_an_actions_file_gives_the_rows_that_arithmetic_gives(command: Command, tmp_path: Path) -> None:
    """Decisions 0 to 4: long half of equity, hold, flip to short a fifth, hold by the last row, close."""
    candle_set(ROWS).to_parquet(tmp_path / "BTCUSDT_1h.parquet")
    # Settled at the open of candle 3 at 0.2 %: on the position held before the orders of decision 2.
    times = np.array([START_MS, START_MS + 3 * HOUR_MS])
    FundingSeries("BTCUSDT", times, np.array([0.0, 0.002]), "test").to_parquet(
        tmp_path / "BTCUSDT_funding.parquet"
    )
    (tmp_path / "actions.csv").write_text("step,BTCUSDT\n0,0.5\n2,-0.2\n4,0\n", encoding="utf-8")
    (tmp_path / "config.yaml").write_text(COSTS.replace("0.0}", "0.05}"), encoding="utf-8")
    done = command(
        *("--agent", "actions:actions.csv", "--candles", "BTCUSDT_1h.parquet"),
        *("--funding", "BTCUSDT_funding.parquet", "--config", "config.yaml"),
        *("--out", "out", "--json", "--no-report"),
    )
    assert done.returncode == 0, done.stderr
    result = last_line(done)
    rows = read_steps(tmp_path / result["paths"]["steps"])
    assert tuple(rows[0]) == COLUMNS
    assert [row["action_type"] for row in rows] == [
        "open_long",
        "hold",
        "flip_to_short",
        "hold",
        "close_short",
        "end",
    ]
    assert [int(row["timestamp"]) for row in rows] == [START_MS + (t + 1) * HOUR_MS - 1 for t in range(6)]
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [float(row["action"]) for row in rows[:-1]] == [0.5, 0.5, -0.2, -0.2, 0.0]

    def number(step: int, column: str) -> float:
        return float(rows[step][column])

    def close_to(value: float) -> Any:
        return pytest.approx(value, rel=1e-12)

    # Decision 0: 0.5 * 10,000 / 20,000 = 0.25, bought at the open of candle 1 plus 10 bps.
    assert number(0, "quantity") == 0.25
    assert number(0, "fill_price") == close_to(20_000 * 1.001)
    fee_0 = 0.25 * 20_020 * 0.001
    assert number(0, "commission") == close_to(fee_0)
    wallet = 10_000 - fee_0
    assert number(0, "balance") == close_to(wallet)
    assert number(0, "equity") == close_to(wallet + 0.25 * (20_000 - 20_020))

    # Decision 1: half of equity is 0.5 * 10,089.995 = 5,044.9975, 0.25 are worth 5,100: within the band.
    equity = wallet + 0.25 * (20_400 - 20_020)
    assert equity == pytest.approx(10_089.995)
    assert number(1, "equity") == close_to(equity)
    assert rows[1]["operation"] == ""
    assert number(1, "unrealized_pnl") == close_to(0.25 * 380)

    # Decision 2, at close 20,500: -0.2 * equity / 20,500 = -0.09868..., rounded to -0.098: sell 0.348 in all.
    equity = wallet + 0.25 * (20_500 - 20_020)
    assert -0.2 * equity / 20_500 == pytest.approx(-0.09868287)
    # Before it, funding on the long at the open of candle 3: -0.25 * 20,600 * 0.002.
    funding = -0.25 * 20_600 * 0.002
    price = 20_600 * (1 - 0.001)
    fee_2 = 0.348 * price * 0.001
    realised = 0.25 * (price - 20_020)
    wallet += funding + realised - fee_2
    assert number(2, "quantity") == 0.348
    assert number(2, "fill_price") == close_to(price)
    assert number(2, "funding") == close_to(funding)
    assert number(2, "balance") == close_to(wallet)
    assert rows[2]["position_side"] == "SHORT"
    assert number(2, "position_quantity") == 0.098
    assert number(2, "position_entry_price") == close_to(price)
    assert number(2, "equity") == close_to(wallet - 0.098 * (20_500 - price))

    # Decision 3: row 2 of the file still holds, and the change is within the band.
    equity = wallet - 0.098 * (20_800 - price)
    assert number(3, "equity") == close_to(equity)

    # Decision 4: everything is bought back at the open of candle 5 plus 10 bps.
    back = 20_700 * 1.001
    fee_4 = 0.098 * back * 0.001
    wallet += -0.098 * (back - price) - fee_4
    assert number(4, "commission") == close_to(fee_4)
    assert number(4, "balance") == close_to(wallet)
    assert number(5, "equity") == close_to(wallet)
    assert rows[5]["position_open"] == "false"

    # The reward of the step before stands in each row; they add up to the log growth.
    assert sum(float(row["reward"]) for row in rows) == pytest.approx(np.log(wallet / 10_000), rel=1e-9)
    assert result["final_equity"] == close_to(wallet)
    assert result["total_return"] == close_to(wallet / 10_000 - 1)
    assert result["fees"] == close_to(fee_0 + fee_2 + fee_4)
    assert result["funding"] == close_to(funding)
    assert (result["trades"], result["steps"], result["liquidations"]) == (2, 5, 0)
    # The long earned 0.25 * (20,579.4 - 20,020) less fees; the short lost.
    assert result["win_rate"] == 0.5


def test_two_symbols_share_the_wallet(tmp_path: Path) -> None:
    prices = {
        "BTCUSDT": [(20_000.0,) * 4, (20_000.0, 21_000.0, 20_000.0, 21_000.0), (21_000.0,) * 4],
        "ETHUSDT": [(1_000.0,) * 4, (1_000.0, 1_000.0, 1_000.0, 1_000.0), (1_000.0,) * 4],
    }
    path = tmp_path / "actions.csv"
    path.write_text("step,ETHUSDT,BTCUSDT\n0,-0.3,0.4\n1,0,0.4\n", encoding="utf-8")
    config = {"env": {"slippage_bps": 0.0, "taker_fee_fraction": 0.001, "action": {"rebalance_band": 0.1}}}
    market = market_of(prices)
    setup = make_agent(f"actions:{path}", symbols=market.symbols, config=config)
    done = run_backtest(f"actions:{path}", setup, build_env(setup, market))
    rows = [(r.step, r.symbol, r.action_type, float(r.quantity)) for r in done.simulation.records]
    # 0.4 * 10,000 / 20,000 = 0.2 BTC and 0.3 * 10,000 / 1,000 = 3 ETH; then only ETH is closed.
    assert rows == [
        (0, "BTCUSDT", "open_long", 0.2),
        (0, "ETHUSDT", "open_short", 3.0),
        (1, "BTCUSDT", "hold", 0.0),
        (1, "ETHUSDT", "close_short", 3.0),
        (2, "BTCUSDT", "end", 0.0),
        (2, "ETHUSDT", "end", 0.0),
    ]
    fees = 0.001 * (4_000 + 3_000 + 3_000)
    assert done.simulation.metrics.fees == pytest.approx(fees, rel=1e-12)
    assert done.simulation.metrics.final_equity == pytest.approx(10_000 - fees + 0.2 * 1_000, rel=1e-12)
    assert done.simulation.quantities().tolist() == [[0, 0], [0.2, -3], [0.2, 0]]


def test_benchmarks_pay_what_the_agent_pays_over_the_same_candles() -> None:
    market = synthetic_market(n=300, seed=1)
    config = {"env": {"slippage_bps": 25.0, "taker_fee_fraction": 0.002, "initial_capital_usdt": 5_000.0}}
    setup = make_agent("ema-cross", symbols=market.symbols, config=config)
    done = run_backtest("ema-cross", setup, build_env(setup, market))
    assert set(done.benchmarks) == {"buy-and-hold", "flat"}
    for one in done.benchmarks.values():
        assert np.array_equal(one.time_ms, done.simulation.time_ms)
    held = done.benchmarks["buy-and-hold"]
    (trade,) = held.trades
    first = int(np.searchsorted(market.close_time_ms, held.time_ms[0]))
    assert float(trade.fill.price) == pytest.approx(market.open[first + 1, 0] * 1.0025, rel=1e-12)
    assert float(trade.fill.commission) == pytest.approx(float(trade.fill.quote_quantity) * 0.002, rel=1e-12)
    assert done.benchmarks["flat"].metrics.final_equity == 5_000.0
    change = market.close[-1, 0] / market.close[first, 0] - 1
    assert done.price_changes() == {"BTCUSDT": pytest.approx(change)}


# --- endings ----------------------------------------------------------------------------------------------


def test_a_run_without_files_keeps_its_rows_and_writes_nothing(tmp_path: Path) -> None:
    market = synthetic_market(n=200)
    setup = make_agent("momentum", symbols=market.symbols)
    steps: list[tuple[int, int]] = []
    done = run_backtest("momentum", setup, build_env(setup, market), on_step=lambda *at: steps.append(at))
    assert done.paths is None
    assert done.exit_code == 0
    assert len(done.simulation.records) == done.simulation.metrics.steps + 1
    assert steps[-1] == (done.simulation.metrics.steps, done.simulation.metrics.steps)
    assert list(tmp_path.iterdir()) == []


def test_two_runs_are_the_same_run() -> None:
    market = synthetic_market(("BTCUSDT", "ETHUSDT"), n=200)
    results = []
    for _ in range(2):
        setup = make_agent("random", symbols=market.symbols)
        results.append(run_backtest("random", setup, build_env(setup, market), seed=4))
    assert results[0].simulation.records == results[1].simulation.records
    assert results[0].to_dict() == results[1].to_dict()


def test_an_emergency_ends_the_run_flat() -> None:
    market = synthetic_market(n=200, falling=True)
    setup = make_agent(
        "buy-and-hold", symbols=market.symbols, config={"risk": {"max_drawdown_fraction": 0.01}}
    )
    done = run_backtest("buy-and-hold", setup, build_env(setup, market))
    assert done.exit_code == 3
    assert done.simulation.ending is Ending.EMERGENCY
    assert done.simulation.account.is_flat
    assert done.simulation.trades[-1].action_type.value == "emergency_close"
    # The last equity is what was left after closing, and closing costs.
    assert done.simulation.equity[-1] == pytest.approx(float(done.simulation.account.wallet_usdt))
    # The benchmarks have no limits: they show what the candles of the whole span would have done.
    assert done.benchmarks["buy-and-hold"].metrics.steps == 199
    assert any(re.search(r"ended after \d+ of 199 steps", notice) for notice in done.notices)
    assert done.simulation.quantities()[-1].tolist() == [0.0]


def test_a_liquidation_is_counted() -> None:
    rows = [(20_000.0,) * 4, (20_000.0,) * 4, (20_000.0, 20_000.0, 15_000.0, 16_000.0), (16_000.0,) * 4]
    market = market_of(rows)
    config = {"env": {"max_leverage": 10.0, "action": {"signal_fraction": 9.0}}}
    setup = make_agent("buy-and-hold", symbols=market.symbols, config=config)
    done = run_backtest("buy-and-hold", setup, build_env(setup, market))
    assert done.simulation.ending is Ending.TERMINATED
    assert done.simulation.metrics.liquidations == 1
    assert done.simulation.metrics.steps == 2
    assert done.exit_code == 0


def test_a_capital_below_the_smallest_order_is_said() -> None:
    market = market_of([(60_000.0,) * 4] * 4)
    setup = make_agent("flat", symbols=market.symbols, config={"env": {"initial_capital_usdt": 30.0}})
    done = run_backtest("flat", setup, build_env(setup, market))
    assert done.notices == (
        "buy-and-hold could not open a position: the capital is below the exchange's minimum order",
    )


# --- command line -----------------------------------------------------------------------------------------


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
    assert done.stderr == ""
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


# --- training runs ----------------------------------------------------------------------------------------


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


# --- the shipped config, real candles ---------------------------------------------------------------------


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
