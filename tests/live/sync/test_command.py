"""`python -m live.sync` on a running paper exchange."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from sync_support import BTC, connector, waves
from typer.testing import CliRunner

from envs.account import Leg, Order, Side
from live.exchange.base import client_order_id
from live.ledger import Ledger
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from live.session import account_name
from live.settings import Credentials, venue
from live.sync import TradeSync
from live.sync.cli import app
from live.sync.naming import ledger_account
from live.venues import AccountVenue, PaperOptions, VenueChoice, VenueSession, account_venue

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

    code, text = ask("status", *given(server, database), "--width", 80)
    assert code == 0 and "…" not in text
    assert " BTCUSDT A LONG 0.05 50200 10x " in text and " BTCUSDT B 50200 +0.0000 +0.00 " in text
    assert " BTCUSDT A A_BTCUSDT_1704070799999o - " in text

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


def test_a_watch_that_is_interrupted_says_whether_they_differed(
    server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    config = tmp_path / "quick.yaml"
    config.write_text("sync: {reread_s: 0}\n")
    watch = ("watch", *given(server, tmp_path / "a.db"), "--config", config)
    with monkeypatch.context() as patch:
        patch.setattr("live.sync.cli.interval_s", interrupted)
        assert ask(*watch)[0] == 0
        server.exchange.engine.accounts["alice"].wallet_usdt -= 5
        code, text = ask(*watch)
        assert code == 1 and "DIFFERENCE wallet: the ledger has 10000, the exchange 9995" in text
        patch.setattr("live.sync.cli.TradeSync.start", interrupted)
        assert ask(*watch)[0] == 0  # nothing was compared


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
    config = tmp_path / "typo.yaml"
    config.write_text("risk: {max_drawdown_fraction: 0.2}\nsnyc: {every_s: 5}\n")
    code, text = ask("once", *given(server, tmp_path / "a.db"), "--config", config)
    assert code == 2 and "unknown section 'snyc'. Sections: connection, trade_sync, sync" in text
    wrong = given(server, tmp_path / "a.db")
    wrong[wrong.index(SECRET)] = "another-secret-of-some-length"
    code, text = ask("once", *wrong)
    assert code == 1 and "error: " in text and "another-secret" not in text


def test_the_book_of_a_live_run_is_gone_on_with(
    server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("BINANCE_")]:
        monkeypatch.delenv(name)
    database = tmp_path / "run.db"
    place = account_venue(VenueChoice.AUTO, PaperOptions(url=server.rest_url, api_key="alice"), {})

    async def run() -> str:
        with closing(Ledger.open(str(database))) as ledger:
            async with connector(server, (BTC,), key="alice", secret=SECRET) as exchange:
                session = VenueSession(place.venue, place.credentials, place.account_key, "")
                name = account_name(session, await exchange.account_id())
                sync = TradeSync(exchange, ledger, symbols=(BTC,), account=name)
                await sync.start()
                await sync.close()
        return name

    asyncio.run(trade(server))
    name = asyncio.run(run())
    code, text = ask("once", *given(server, database))
    assert code == 0, text
    assert "new in the ledger: 0 fills" in text and f"{name}: 2 positions" in text
    with closing(Ledger.open(str(database))) as ledger:
        assert ledger.exchanges() == [name]
    code, text = ask("once", *given(server, database), "--account", "another")
    assert code == 0 and "new in the ledger: 2 fills" in text


@pytest.mark.parametrize(
    ("books", "place", "account_id", "name"),
    [
        ([], "testnet", "XyZ", "testnet-XyZ"),
        (["testnet-XyZ", "testnet-Other"], "testnet", "XyZ", "testnet-XyZ"),
        (["testnet-XyZ.sac"], "testnet", "XyZ", "testnet-XyZ.sac"),
        (["testnet-XyZabc"], "testnet", "XyZ", "testnet-XyZ"),
        (["testnet"], "testnet", "XyZ", "testnet"),  # a sync's own, of an earlier version
        (["testnet", "testnet-XyZ"], "testnet", "XyZ", "testnet-XyZ"),
        ([], "testnet", "", "testnet"),
        (["live-XyZ"], "testnet", None, "testnet"),
        (["live-XyZ"], "live", None, "live-XyZ"),
        (["live-XyZ", "live-Other"], "live", None, "live"),
    ],
)
def test_what_an_account_is_called(
    books: list[str], place: str, account_id: str | None, name: str, tmp_path: Path
) -> None:
    account = AccountVenue(venue(place), Credentials("key", "secret"), "")
    with closing(Ledger.open(str(tmp_path / "a.db"))) as ledger:
        for book in books:
            ledger.assign_capital(book, "A", Decimal(1), time_ms=1, assignment="start")
        assert ledger_account(ledger, account, account_id) == name
