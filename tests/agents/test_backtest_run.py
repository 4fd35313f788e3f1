"""The backtest's numbers by hand, and its endings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backtest_command import Command, last_line, read_steps
from support import HOUR_MS, START_MS, candle_set, market_of

from agents.backtest_run import run_backtest
from agents.catalog import make_agent
from agents.run import Ending
from agents.simulate import build_env
from envs.funding import FundingSeries
from envs.step_log import COLUMNS
from envs.synthetic import synthetic_market

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
