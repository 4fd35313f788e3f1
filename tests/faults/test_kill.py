"""kill -9 at random moments: the step log stays readable and no order is doubled.

The paper exchange runs in its own process and survives; the live run is killed and started again, and at the end
its step logs and the exchange must tell the same story.
"""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from paper_process import ROOT, paper_process, state

from envs.account import Leg
from envs.step_log import COLUMNS
from live.bridge import LoopThread
from live.exchange.base import parse_client_order_id
from live.exchange.binance import BinanceExchange
from live.settings import Credentials, paper_venue

SYMBOLS = ("BTCUSDT", "ETHUSDT")
CONFIG = """
env:
  max_leverage: 3.0
  action: {scheme: target, rebalance_band: 0.0, stop_loss_fraction: 0.004, take_profit_fraction: 0.004}
"""


@pytest.fixture
def exchange_url() -> Iterator[str]:
    symbols = [argument for symbol in SYMBOLS for argument in ("--symbol", symbol)]
    with paper_process("--interval", "5m", *symbols) as url:
        yield url


def start_live(url: str, folder: Path, config: Path, *extra: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "live.py", "--agent", "random", "--paper", "--paper-url", url]
    command += ["--interval", "5m", "--config", str(config), "--out", str(folder), "--quiet", *extra]
    for symbol in SYMBOLS:
        command += ["--symbol", symbol]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for_candles(url: str, process: subprocess.Popen[bytes], candles: int) -> None:
    """Wait until the run has had some candles played."""
    goal = state(url)["index"] + candles
    deadline = time.monotonic() + 180
    while state(url)["index"] < goal:
        assert process.poll() is None, process.stdout.read().decode() if process.stdout else ""
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.002)


def kill_at_random(url: str, folder: Path, config: Path, times: int, chance: random.Random) -> None:
    for _ in range(times):
        process = start_live(url, folder, config)
        try:
            wait_for_candles(url, process, chance.randint(1, 20))
            # Somewhere inside a step: a step takes some 10 ms here.
            time.sleep(chance.uniform(0, 0.02))
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def rows_of(folder: Path) -> list[dict[str, str]]:
    rows = []
    for path in sorted(folder.glob("steps_*.csv")):
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            assert tuple(reader.fieldnames or ()) == COLUMNS, path
            for row in reader:
                assert None not in row and None not in row.values(), f"torn row in {path}: {row}"
                rows.append(row)
    return rows


def check_story(url: str, folder: Path) -> None:
    venue = paper_venue(url, url.replace("http", "ws"))
    with LoopThread() as bridge:
        exchange = BinanceExchange(venue, Credentials("paper", "paper"), SYMBOLS)
        bridge.call(exchange.connect())
        try:
            fills = {symbol: bridge.call(exchange.fills(symbol, from_id="0")) for symbol in SYMBOLS}
            account = bridge.call(exchange.account())
            resting = bridge.call(exchange.open_orders())
        finally:
            bridge.call(exchange.close())
    rows = rows_of(folder)
    for symbol in SYMBOLS:
        logged = Counter(
            trade for row in rows if row["symbol"] == symbol for trade in row["trade_id"].split(";") if trade
        )
        assert set(logged.values()) <= {1}, f"{symbol}: a fill is logged twice"
        assert set(logged) == {fill.trade_id for fill in fills[symbol]}, f"{symbol}: fills and log differ"
        # One order per candle and leg, whatever happened in between.
        orders = Counter({(f.client_order_id, f.order_id) for f in fills[symbol]})
        used = Counter(client_id for client_id, _ in orders)
        assert max(used.values()) == 1, f"{symbol}: a client order id was used for two orders"
        quantity = sum((fill.signed_quantity for fill in fills[symbol]), Decimal(0))
        last = [row for row in rows if row["symbol"] == symbol][-1]
        sign = -1 if last["position_side"] == "SHORT" else 1
        held = account.positions[symbol].quantity if symbol in account.positions else Decimal(0)
        assert quantity == held == sign * Decimal(last["position_quantity"])
        # Many of the kills fell between an order and its triggers: a position has its two, each once.
        ids = [parse_client_order_id(order.client_order_id) for order in resting if order.symbol == symbol]
        legs = sorted(parsed.leg if parsed else "" for parsed in ids)
        assert not held or legs == [Leg.STOP, Leg.TAKE_PROFIT], legs
    # A kill between two rows of one step leaves it incomplete: then it is decided on again, under another number.
    steps_of: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        if row["action"]:
            steps_of.setdefault((row["timestamp"], row["step"]), set()).add(row["symbol"])
    decided = Counter(time for (time, _), symbols in steps_of.items() if len(symbols) == len(SYMBOLS))
    assert max(decided.values()) == 1, "a candle was decided on twice"
    assert len(decided) > 10


def run_kills(url: str, tmp_path: Path, times: int, seed: int) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    folder = tmp_path / "production"
    kill_at_random(url, folder, config, times, random.Random(seed))
    # The last session is whole, so that log and exchange can be compared to the end.
    process = start_live(url, folder, config, "--steps", "20")
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output.decode()
    check_story(url, folder)


def test_a_killed_run_continues_without_a_doubled_order(exchange_url: str, tmp_path: Path) -> None:
    run_kills(exchange_url, tmp_path, times=4, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_twenty_kills(exchange_url: str, tmp_path: Path, seed: int) -> None:
    run_kills(exchange_url, tmp_path, times=20, seed=seed)
