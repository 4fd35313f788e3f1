"""`live.py --db`: the run's account is the ledger's, and the step log says the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from live_support import REPOSITORY, rows_of
from subaccount_support import paper_server

from envs.synthetic import synthetic_candles, synthetic_market
from live.cli import app
from live.ledger import MANUAL, Ledger
from live.ledger.queries import Where, trades
from live.store.journal import Journal

CONFIG = """
env:
  max_leverage: 3.0
  action: {scheme: target, rebalance_band: 0.0, stop_loss_fraction: 0.01, take_profit_fraction: 0.01}
"""
ARGUMENTS = ("--agent", "random", "--paper", "--symbol", "BTCUSDT,ETHUSDT", "--quiet")
EXACT = (
    "timestamp",
    "symbol",
    "action_type",
    "trade_side",
    "trade_quantity",
    "trade_price",
    "trade_id",
    "result",
)
CLOSE = ("balance", "equity", "commission", "funding", "unrealized_pnl")
Command = Callable[..., int]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """live.py in this process, in the test's folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(CONFIG)

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            app(list(arguments))
        code = ended.value.code
        assert isinstance(code, int)
        return code

    return run


def test_the_step_log_and_the_database_agree(command: Command, tmp_path: Path) -> None:
    common = (*ARGUMENTS, "--steps", "40", "--config", "c.yaml")
    assert command(*common, "--out", "with", "--db", "run.db") == 0
    assert command(*common, "--out", "without") == 0
    rows, plain = rows_of(tmp_path / "with"), rows_of(tmp_path / "without")

    # The agent does the same as on the bare exchange; money differs by the exchange's roundings, which are MANUAL's.
    names = [name for name in EXACT if name in plain[0]]
    assert len(names) > 4
    assert [[row[name] for name in names] for row in rows] == [[row[name] for name in names] for row in plain]
    for name in (name for name in CLOSE if name in plain[0]):
        off = [abs(Decimal(a[name]) - Decimal(b[name])) for a, b in zip(rows, plain, strict=True)]
        assert max(off) < Decimal("1e-8"), name

    ledger = Ledger.open("run.db")
    try:
        (exchange,) = ledger.exchanges()
        fills = trades(ledger.store, Where(exchange, agent="random"))
        logged = {(row["symbol"], one) for row in rows for one in row["trade_id"].split(";") if one}
        assert logged == {(one.symbol, one.trade_id) for one in fills}
        assert len(logged) > 60
        assert {row["action_type"] for row in rows} >= {"stop_loss", "take_profit"}
        assert sum(Decimal(row["commission"]) for row in rows) == sum(one.commission for one in fills)
        funding = sum(
            state.funding
            for book in ledger.books()
            for name, state in book.positions.items()
            if name == "random"
        )
        assert sum(Decimal(row["funding"]) for row in rows) == funding != 0
        assert ledger.positions(exchange, MANUAL) == {}

        orders = {one.order_id: one for one in Journal(ledger.store).orders_of(exchange, "random")}
        assert {one.order_id for one in fills} <= set(orders)
        ended = {one.type: set() for one in orders.values()}
        for one in orders.values():
            ended[one.type].add(one.status)
        assert ended["MARKET"] == {"FILLED"}
        assert {"FINISHED", "CANCELED"} <= ended["STOP_MARKET"] | ended["TAKE_PROFIT_MARKET"]
        for one in (one for one in orders.values() if one.type == "MARKET"):
            parts = [fill.quantity for fill in fills if fill.order_id == one.order_id]
            assert sum(parts) == one.executed_quantity == one.quantity

        decided = {int(row["timestamp"]): row for row in rows if row["action"]}
        equity = Journal(ledger.store).equity_of(exchange, "random")
        assert [one.time_ms for one in equity] == sorted(decided)
        for one in equity:
            row = decided[one.time_ms]
            shown = (one.wallet_usdt, one.equity_usdt, one.drawdown_fraction)
            assert shown == tuple(Decimal(row[name]) for name in ("balance", "equity", "drawdown"))
        assert Decimal(rows[-1]["balance"]) == ledger.wallet(exchange, "random")
    finally:
        ledger.close()


def test_an_emergency_is_in_the_database(command: Command, tmp_path: Path) -> None:
    synthetic_candles("BTCUSDT", n=300, seed=3, falling=True).to_parquet(tmp_path / "BTCUSDT_1h.parquet")
    arguments = ("--agent", "buy-and-hold", "--paper", "--candles", "BTCUSDT_1h.parquet", "--quiet")
    assert command(*arguments, "--max-drawdown", "0.02", "--out", "out", "--db", "run.db") == 3
    (row,) = rows_of(tmp_path / "out", "emergencies_*.csv")
    ledger = Ledger.open("run.db")
    try:
        (exchange,) = ledger.exchanges()
        (emergency,) = Journal(ledger.store).emergencies(exchange)
        assert emergency.agent == "buy-hold"
        assert emergency.succeeded
        assert emergency.reason == row["reason"]
        assert emergency.limit_fraction == Decimal("0.02")
        assert ledger.positions(exchange) == {}
    finally:
        ledger.close()


def test_a_run_goes_on_with_its_account_after_a_stop(command: Command, tmp_path: Path) -> None:
    market = synthetic_market(("BTCUSDT", "ETHUSDT"), n=300, seed=5)
    with paper_server(market, first=100) as server:
        arguments = (*ARGUMENTS, "--config", "c.yaml", "--out", "out", "--db", "run.db")
        for _ in range(2):
            assert command(*arguments, "--paper-url", server.rest_url, "--steps", "6") == 0
        books = server.exchange.engine.accounts["paper"]
        ledger = Ledger.open("run.db")
        try:
            (exchange,) = ledger.exchanges()
            held = {s: state.p1 for (_, s), state in ledger.positions(exchange, "random").items()}
            assert held == {one.symbol: one.quantity for one in books.held()} != {}
            assert ledger.booked_wallet(exchange) == books.wallet_usdt
            assert ledger.capital(exchange, "random") == 10_000
        finally:
            ledger.close()
        rows = rows_of(tmp_path / "out")
        assert len({row["timestamp"] for row in rows if row["action"]}) == 12


def test_a_database_that_cannot_be_used_is_a_clear_error(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no.db").write_text("not a database, but a text of some length\n" * 50)
    assert command(*ARGUMENTS, "--steps", "1", "--out", "out", "--db", "no.db") != 0
    assert "no.db" in capsys.readouterr().err


def test_without_a_database_none_of_its_libraries_is_loaded() -> None:
    code = "import sys, live.cli; print([n for n in ('sqlalchemy', 'live.ledger', 'live.sync') if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
