"""`python -m live.sync` on a running paper exchange."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from sync_support import BTC, connector, waves
from typer.testing import CliRunner

from envs.account import Leg, Order, Side
from live.exchange.base import client_order_id
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from live.sync.cli import app

SECRET = "a-secret-that-nobody-may-ever-see"


@pytest.fixture
def server() -> Iterator[PaperServer]:
    account = PaperAccount(api_key="alice", api_secret=SECRET, wallet_usdt=Decimal(10_000))
    with PaperServer.start(ReplayFeed(waves(), 2), (account,)) as running:
        yield running


def ask(*arguments: object) -> tuple[int, str]:
    outcome = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert SECRET not in outcome.output
    return outcome.exit_code, re.sub(r"[ │┃]+", " ", outcome.output)


def given(server: PaperServer, database: Path) -> list[object]:
    return [
        "--db",
        database,
        "--paper-url",
        server.rest_url,
        "--api-key",
        "alice",
        "--api-secret",
        SECRET,
        "--width",
        200,
    ]


async def trade(server: PaperServer) -> None:
    async with connector(server, (BTC,), key="alice", secret=SECRET) as exchange:
        for agent, side, quantity in (("A", Side.BUY, "0.05"), ("B", Side.SELL, "0.02")):
            identity = client_order_id(agent, BTC, 1_704_070_799_999, Leg.ORDER)
            await exchange.place(Order(BTC, side, Decimal(quantity), client_order_id=identity))


def test_both_sides_are_shown(server: PaperServer, tmp_path: Path) -> None:
    asyncio.run(trade(server))
    database = tmp_path / "a.db"
    code, text = ask("once", *given(server, database))
    assert code == 0, text
    assert "new in the ledger: 2 fills, 0 fundings and fees, 1 transfers" in text
    assert "they explain the wallet and the positions, nothing older is missing" in text
    assert " BTCUSDT A LONG 0.05 50200 50200 +0.0000 +0.00 10x A_BTCUSDT_1704070799999o - " in text
    assert " BTCUSDT B SHORT 0.02 50200 50200 +0.0000 +0.00 10x B_BTCUSDT_1704070799999o - " in text
    assert re.search(r"BTCUSDT exchange LONG 0\.030* 50200 50200 .* 10x 0 ", text)
    assert re.search(r"2 positions \(\+2 ~0 -0\), 0 errors, agrees, \d+ ms", text)
    assert " sum 9,998.24300000 " in text and " exchange 9,998.24300000 " in text

    server.fault("manual_trade", symbol=BTC, side="SELL", quantity="0.01")
    code, text = ask("status", *given(server, database))
    assert code == 1
    assert "BTCUSDT: the ledger has 0.03, the exchange 0.02" in text and "-0.01" in text
    assert "python -m live.sync once reads what it has missed" in text
    code, text = ask("watch", *given(server, database), "--syncs", 1)
    assert code == 0, text
    assert " BTCUSDT A LONG 0.04 " in text
    code, text = ask("status", *given(server, database))
    assert code == 0 and "DIFFERENCE" not in text

    server.stop()
    code, text = ask("status", *given(server, database))
    assert code == 2 and "error: no paper exchange" in text


def test_what_cannot_be_done_is_said(
    server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("BINANCE_")]:
        monkeypatch.delenv(name)
    code, text = ask("status", *given(server, tmp_path / "none.db"))
    assert code == 2 and "there is no database" in text and "python -m live.sync once" in text
    code, text = ask("once", "--testnet", "--live")
    assert code == 2 and "exclude one another" in text
    code, text = ask("once", "--testnet", "--db", tmp_path / "a.db")
    assert code == 2 and "BINANCE_TESTNET_API_KEY" in text
    wrong = given(server, tmp_path / "a.db")
    wrong[wrong.index(SECRET)] = "another-secret-of-some-length"
    code, text = ask("once", *wrong)
    assert code == 1 and "error: " in text and "another-secret" not in text
