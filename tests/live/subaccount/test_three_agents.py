"""Three agents on one account, with faults, kills and somebody else trading: to the last unit, at any moment."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest
from databases import empty_postgresql
from live_support import REPOSITORY
from subaccount_support import Shared, shared
from three_agents import CAPITAL, SYMBOLS, Session, settings_for

from envs.errors import ConfigError
from envs.synthetic import synthetic_market
from live.ledger import MANUAL, Ledger
from live.ledger.queries import Where, round_trips, trades
from live.paper.account import PaperAccount
from live.paper.fault_specs import FaultSchedule
from live.paper.feeds import ReplayFeed
from live.paper.limits import LimitSettings
from live.paper.runtime import PaperServer
from live.store.journal import Journal
from live.subaccount.own_fills import EXCESS_MARK, LIQUIDATION_MARK, mark_of

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
# Hours pass in seconds here, and the limits count by real ones.
LIMITS = LimitSettings(
    weight_per_minute=10**9, orders_per_10s=10**9, orders_per_minute=10**9, funding_per_5min=10**9
)
PATIENCE_S = 180
"""So long may a candle take on the slowest machine; nothing else is bounded by time."""


class Traders:
    """Starts the agents' processes, one after another: forked, so that each begins with everything imported."""

    def __init__(self) -> None:
        script = REPOSITORY / "tests" / "lib" / "three_agents.py"
        self._parent = subprocess.Popen(
            [sys.executable, str(script)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def _read(self) -> int:
        assert self._parent.stdout is not None
        return int(self._parent.stdout.readline())

    def start(self, session: Session) -> int:
        """The id of a process that trades."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps(asdict(session)) + "\n")
        return self._read()

    def has_ended(self, wait_s: float) -> bool:
        """Whether it has, after waiting no longer than so."""
        return bool(select.select([self._parent.stdout], [], [], wait_s)[0])

    def exit_code(self) -> int:
        """Of the process, once it has ended."""
        return self._read()

    def close(self) -> None:
        """End the parent; a process that it waits for must have ended."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.wait()
        self._parent.stdout.close()


@dataclass
class Run:
    """The exchange stays, the agents' process comes and goes."""

    server: PaperServer
    database: str
    folder: Path
    seed: int
    traders: Traders = field(default_factory=Traders)
    happened: Counter[str] = field(default_factory=Counter)
    capital: Mapping[str, Decimal] = field(default_factory=lambda: dict(CAPITAL))
    sessions: int = 0

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.log = self.folder / "log.txt"
        self.looks = self.folder / "looks.txt"

    @property
    def played(self) -> int:
        """Candles that the exchange has played."""
        return self.server.exchange.index

    def manual_trade(self) -> None:
        """Somebody trades by hand."""
        symbol = self.dice.choice(list(QUANTITIES))
        side = self.dice.choice(("BUY", "SELL"))
        try:
            self.server.fault("manual_trade", symbol=symbol, side=side, quantity=QUANTITIES[symbol])
        except ConfigError:  # the net position is as large as the exchange lets it be
            self.happened["manual trades refused"] += 1
        else:
            self.happened["manual trades"] += 1

    def settle_capital(self) -> None:
        """Who has lost much gets what it had in the beginning: it is paid in at the exchange first. Who has won much
        gives it away, down to a capital of 1 USDT: it is nobody's then."""
        ledger = Ledger.open(self.database)
        try:
            wallets = {name: ledger.wallet("paper", name) for name in CAPITAL}
            given = {name: ledger.capital("paper", name) for name in CAPITAL}
        finally:
            ledger.close()
        capital, needed = dict(self.capital), ZERO
        for name, start in CAPITAL.items():
            if wallets[name] < start * Decimal("0.6"):
                more = round(start - wallets[name], 2)
                capital[name] = given[name] + more
                needed += more
            elif wallets[name] > 3 * start:
                capital[name] = max(given[name] - round(wallets[name] - start, 2), Decimal(1))
                self.happened["payments to nobody"] += 1
        if needed:
            self.server.fault("transfer", amount_usdt=str(needed))
            self.happened["payments to agents"] += 1
        self.capital = capital

    def play(self, candles: int, *, kill: bool) -> None:
        """One session; at its end, or `kill` somewhere after so many candles, it is gone."""
        self.sessions += 1
        goal = self.played + candles
        session = Session(
            self.server.rest_url,
            self.database,
            100 * self.seed + self.sessions,
            candles + (1000 if kill else 0),
            {name: str(amount) for name, amount in self.capital.items()},
            str(self.log),
            str(self.looks),
        )
        process = self.traders.start(session)
        ended = False
        try:
            ended = self._watch(candles, goal, kill=kill)
        finally:
            if not ended:
                os.kill(process, signal.SIGKILL)
            code = self.traders.exit_code()
        assert code == (-signal.SIGKILL if kill else 0), self.log.read_text()[-5000:]
        self.happened["kills"] += kill

    def _watch(self, candles: int, goal: int, *, kill: bool) -> bool:
        """Trade by hand somewhere in between; whether the process has ended by itself."""
        hours = sorted(self.dice.uniform(0, 1) for _ in range(2))
        last, moved_s = self.played, time.monotonic()
        while not (kill and self.played >= goal):
            if self.traders.has_ended(0.01):
                return True
            if self.played != last:
                last, moved_s = self.played, time.monotonic()
            assert time.monotonic() < moved_s + PATIENCE_S, f"no progress: {self.log.read_text()[-3000:]}"
            if hours and self.played >= goal - candles * (1 - hours[0]):
                hours.pop(0)
                self.manual_trade()
        time.sleep(self.dice.uniform(0, 0.3))  # somewhere inside a step
        return self.traders.has_ended(0)

    def count(self) -> Counter[str]:
        """What has happened, from the exchange's own counts and from the ledger."""
        found = Counter(self.happened)
        looks = [int(line) for line in self.looks.read_text().split()]
        found["candles"] = self.played
        found["looks"] = len(looks)
        found["looks at opposite positions"] = sum(one > 0 for one in looks)
        ledger = Ledger.open(self.database)
        try:
            found["virtual liquidations"] = sum(
                one.reason.startswith("virtual") for one in Journal(ledger.store).emergencies("paper")
            )
            for fill in trades(ledger.store, Where("paper")):
                found["fills"] += 1
                found["liquidating fills"] += mark_of(fill.client_order_id) == LIQUIDATION_MARK
                found["fills that closed an excess"] += mark_of(fill.client_order_id) == EXCESS_MARK
            found |= Counter(f"trips: {one.exit_reason}" for one in round_trips(ledger.store, is_open=False))
        finally:
            ledger.close()
        found |= Counter({f"fault {kind}": times for kind, times in self.server.faults()["struck"].items()})
        return found


@contextmanager
def run_of(folder: Path, database: str, candles: int, seed: int) -> Iterator[Run]:
    """An exchange with faults, and agents that may be started on it."""
    market = synthetic_market(SYMBOLS, interval="1h", n=candles + 1500, seed=seed, volatility_annual=1.2)
    faults = FaultSchedule(seed=seed, probability=FAULTS, limit=100_000, delay_ms=60)
    server = PaperServer.start(ReplayFeed(market, 10), (PaperAccount(),), faults=faults, limits=LIMITS)
    try:
        run = Run(server, database, folder, seed)
        try:
            yield run
        finally:
            run.traders.close()
    finally:
        server.stop()


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
    assert {name for book in books for name in book.positions} <= {*CAPITAL, MANUAL}
    for name in CAPITAL:
        own = [book.positions[name] for book in books if name in book.positions]
        capital = account.ledger.capital("paper", name)
        assert account.wallets()[name] == capital + sum((one.income for one in own), ZERO)


def play(run: Run, candles: int, sessions: int) -> Counter[str]:
    """Trade, and compare; what has happened."""
    for number in range(sessions):
        run.play(candles // sessions, kill=number < sessions - 1)
        run.manual_trade()
        run.settle_capital()
    counted = run.count()
    run.server.clear_faults()
    settings = settings_for(run.capital)
    with shared(run.server, run.database, settings) as account:
        account.check()
        close_everything(account)
        account.check()
        compare(account)
        wallets = account.wallets()
    with shared(run.server, run.database, settings) as account:  # and it is the same after another start
        account.check()
        compare(account)
        assert account.wallets() == wallets
    assert counted["looks"] >= candles
    assert counted["kills"] == sessions - 1
    assert counted["manual trades"] + counted["manual trades refused"] >= sessions
    return counted


def test_three_agents_add_up_to_the_exchange(tmp_path: Path) -> None:
    with run_of(tmp_path, str(tmp_path / "a.db"), 12, seed=1) as run:
        play(run, candles=12, sessions=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_three_agents_add_up_to_the_exchange_over_2000_candles(tmp_path: Path, seed: int) -> None:
    with run_of(tmp_path, str(tmp_path / "a.db"), 2000, seed) as run:
        counted = play(run, candles=2000, sessions=20)
    print(f"seed {seed}:", *(f"{times:7} {what}" for what, times in sorted(counted.items())), sep="\n")
    for what in (
        "looks at opposite positions",
        "virtual liquidations",
        "fills that closed an excess",
        "payments to agents",
        *(f"fault {kind}" for kind in FAULTS),
    ):
        assert counted[what], what


@pytest.mark.slow
def test_three_agents_add_up_to_the_exchange_on_postgresql(tmp_path: Path) -> None:
    with run_of(tmp_path, empty_postgresql(), 200, seed=5) as run:
        play(run, candles=200, sessions=4)
