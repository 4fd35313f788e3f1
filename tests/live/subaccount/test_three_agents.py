"""Three agents on one account, with faults, kills and somebody else trading: to the last unit, at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from decimal import Decimal
from pathlib import Path

import pytest
from live_support import REPOSITORY
from subaccount_support import Shared, shared
from three_agents import CAPITAL, SETTINGS, SYMBOLS

from envs.synthetic import synthetic_market
from live.ledger import MANUAL
from live.paper.account import PaperAccount
from live.paper.fault_specs import FaultSchedule
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer

ZERO = Decimal(0)
FAULTS = {
    "lost_before": 0.0003,
    "lost_after": 0.0003,
    "unknown_503": 0.0003,
    "unavailable_503": 0.001,
    "bus_error": 0.0005,
    "backend_timeout": 0.0003,
    "delay_after": 0.002,
    "partial_fill": 0.01,
    "reject_margin": 0.002,
    "stream_lose": 0.01,
    "stream_duplicate": 0.02,
    "stream_reorder": 0.01,
    "stream_delay": 0.02,
    "drop_sockets": 0.02,
}
QUANTITIES = {"BTCUSDT": "0.01", "ETHUSDT": "0.1", "BNBUSDT": "1", "XRPUSDT": "300", "DOGEUSDT": "2000"}


class Run:
    """The exchange stays, the agents' process comes and goes."""

    def __init__(self, server: PaperServer, folder: Path, seed: int) -> None:
        self.server = server
        self.database = folder / "a.db"
        self.dice = random.Random(seed)
        self.sessions = 0
        self.log = folder / "log.txt"

    @property
    def played(self) -> int:
        """Candles that the exchange has played."""
        with urllib.request.urlopen(f"{self.server.rest_url}/paper/state") as reply:
            return int(json.load(reply)["index"])

    def start(self, candles: int) -> subprocess.Popen[bytes]:
        """The agents, for so many candles."""
        self.sessions += 1
        script = REPOSITORY / "tests" / "lib" / "three_agents.py"
        arguments = [self.server.rest_url, str(self.database), str(self.sessions), str(candles)]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(script), *arguments], cwd=REPOSITORY, stdout=log, stderr=log
            )

    def manual_trade(self) -> None:
        """Somebody trades by hand."""
        symbol = self.dice.choice(list(QUANTITIES))
        fault = {
            "kind": "manual_trade",
            "symbol": symbol,
            "side": self.dice.choice(("BUY", "SELL")),
            "quantity": QUANTITIES[symbol],
        }
        data = json.dumps(fault).encode()
        request = urllib.request.Request(f"{self.server.rest_url}/paper/faults", data=data, method="POST")
        urllib.request.urlopen(request).close()

    def play(self, candles: int, *, kill: bool) -> None:
        """One session; at its end, or `kill` somewhere after so many candles, it is gone."""
        goal = self.played + candles
        process = self.start(candles + (1000 if kill else 0))
        try:
            self._watch(process, candles, goal, kill=kill)
        finally:
            if process.poll() is None and (kill or sys.exc_info()[0] is not None):
                os.kill(process.pid, signal.SIGKILL)
        code = process.wait()
        assert code == (-signal.SIGKILL if kill else 0), self.log.read_text()[-5000:]

    def _watch(self, process: subprocess.Popen[bytes], candles: int, goal: int, *, kill: bool) -> None:
        trades = sorted(self.dice.uniform(0, 1) for _ in range(2))
        deadline_s = time.monotonic() + 120 + 20 * candles
        while process.poll() is None and not (kill and self.played >= goal):
            assert time.monotonic() < deadline_s, f"no progress: {self.log.read_text()[-3000:]}"
            if trades and self.played >= goal - candles * (1 - trades[0]):
                trades.pop(0)
                self.manual_trade()
            time.sleep(0.02)
        if kill:
            time.sleep(self.dice.uniform(0, 0.3))  # somewhere inside a step


def close_everything(account: Shared) -> None:
    """Every agent's positions, then what is left: somebody else's."""
    for agent in CAPITAL:
        for symbol in SYMBOLS:
            while held := account.held(agent, symbol):
                account.call(account.account.desk.close(agent, symbol, held, 3))
    for symbol in SYMBOLS:
        net = account.net(symbol)
        if net:
            side = "SELL" if net > 0 else "BUY"
            account.happen(kind="manual_trade", symbol=symbol, side=side, quantity=str(abs(net)))
    account.settle()


def compare(account: Shared) -> None:
    """Agents and MANUAL against the exchange's own books, exactly."""
    books = account.ledger.books("paper")
    states = [state for book in books for state in book.positions.values()]
    trades = [trade for rows in account.books.trades.values() for trade in rows]
    income = account.books.income
    assert sum(account.wallets().values()) == account.books.wallet_usdt
    assert sum(one.fees for one in states) == sum(one.commission_usdt for one in trades)
    assert sum(one.funding for one in states) == sum(
        one.amount_usdt for one in income if one.income_type == "FUNDING_FEE"
    )
    realized = sum((one.realized for one in states), ZERO) + sum((book.rounding for book in books), ZERO)
    assert realized == sum(one.realized_pnl_usdt for one in trades)
    assert sum(one.fills for one in states) >= len(trades)
    assert {name for book in books for name in book.positions} == {*CAPITAL, MANUAL}
    for name in CAPITAL:
        own = [book.positions[name] for book in books if name in book.positions]
        assert account.wallets()[name] == Decimal(CAPITAL[name]) + sum((one.income for one in own), ZERO)


def play(tmp_path: Path, candles: int, sessions: int, seed: int) -> None:
    market = synthetic_market(SYMBOLS, interval="1h", n=candles + 1500, seed=seed, volatility_annual=1.2)
    faults = FaultSchedule(seed=seed, probability=FAULTS, limit=100_000, delay_ms=60)
    server = PaperServer.start(ReplayFeed(market, 10), (PaperAccount(),), faults=faults)
    try:
        run = Run(server, tmp_path, seed)
        for number in range(sessions):
            run.play(candles // sessions, kill=number < sessions - 1)
            run.manual_trade()
        request = urllib.request.Request(f"{server.rest_url}/paper/faults", method="DELETE")
        urllib.request.urlopen(request).close()
        with shared(server, run.database, SETTINGS) as account:
            account.check()
            assert len(account.books.trades) == len(SYMBOLS)
            close_everything(account)
            account.check()
            compare(account)
            wallets = account.wallets()
        with shared(server, run.database, SETTINGS) as account:  # and it is the same after another start
            account.check()
            compare(account)
            assert account.wallets() == wallets
    finally:
        server.stop()


def test_three_agents_add_up_to_the_exchange(tmp_path: Path) -> None:
    play(tmp_path, candles=18, sessions=3, seed=1)


@pytest.mark.slow
def test_three_agents_add_up_to_the_exchange_over_2000_candles(tmp_path: Path) -> None:
    play(tmp_path, candles=2000, sessions=20, seed=2)
