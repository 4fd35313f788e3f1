"""Agents on real sub-accounts beside those that share one, through the same interface."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from live_support import flat_market
from subaccount_support import SYNCING, connector

from envs.account import Leg, Order, Side
from envs.errors import ConfigError, CredentialsError, ExchangeError
from live.bridge import LoopThread
from live.exchange.binance import BinanceExchange
from live.exchange.client_ids import client_order_id
from live.ledger import Ledger
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from live.subaccount import (
    AgentPorts,
    SharedAccount,
    SharedAccountSettings,
    SubAccount,
    sub_account_credentials,
)

D = Decimal
VALUES = {
    "symbols": ["BTCUSDT"],
    "agents": {
        "A": {"capital_usdt": 1000},
        "B": {"capital_usdt": 1000},
        "own": {"real_account": "one"},
    },
}


def name_of(real: str | None, _account_id: str) -> str:
    return "paper" if real is None else f"paper.{real}"


def test_an_agent_may_have_a_real_account_of_its_own(tmp_path: Path) -> None:
    accounts = (PaperAccount(wallet_usdt=D(5000)), PaperAccount("one", "paper", D(300)))
    server = PaperServer.start(ReplayFeed(flat_market(), 1), accounts)
    ledger = Ledger.open(str(tmp_path / "a.db"))
    settings = SharedAccountSettings.parse(VALUES)

    def connect(real: str | None) -> BinanceExchange:
        return connector(server, settings.symbols, real or "paper")

    async def buy(port: SubAccount, side: Side) -> None:
        name = client_order_id(port.agent, "BTCUSDT", 1_700_000_000_999, Leg.ORDER)
        await port.place(Order("BTCUSDT", side, D("0.01"), client_order_id=name))

    async def play() -> None:
        ports = AgentPorts(settings, connect, ledger, name=name_of, syncing=SYNCING)
        async with ports:
            for agent, side in (("A", Side.BUY), ("B", Side.SELL), ("own", Side.BUY)):
                await ports[agent].set_leverage("BTCUSDT", 10)
                await buy(ports[agent], side)
            assert (await ports["own"].account()).wallet_usdt == D("299.75")
            assert (await ports["A"].account()).wallet_usdt == D("999.75")
            with pytest.raises(ConfigError, match="'nobody'"):
                ports["nobody"]
            for one in ports.accounts.values():
                assert (await one.audit()).holds

    try:
        with LoopThread() as bridge:
            bridge.call(play(), timeout_s=20)
        books = server.exchange.engine.accounts
        assert books["one"].position("BTCUSDT").quantity == D("0.01")
        assert books["paper"].position("BTCUSDT").quantity == 0
        assert set(ledger.exchanges()) == {"paper", "paper.one"}
        assert ledger.capital("paper.one", "own") == 300
    finally:
        ledger.close()
        server.stop()


def test_an_account_that_cannot_be_closed_keeps_no_other_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = (PaperAccount(wallet_usdt=D(5000)), PaperAccount("one", "paper", D(300)))
    server = PaperServer.start(ReplayFeed(flat_market(), 1), accounts)
    ledger = Ledger.open(str(tmp_path / "a.db"))
    settings = SharedAccountSettings.parse(VALUES)
    closed: list[str] = []

    def connect(real: str | None) -> BinanceExchange:
        exchange = connector(server, settings.symbols, real or "paper")
        close = exchange.close

        async def close_and_tell() -> None:
            await close()
            closed.append(real or "shared")

        exchange.close = close_and_tell  # type: ignore[method-assign]
        return exchange

    really_close = SharedAccount.close

    async def close_badly(account: SharedAccount) -> None:
        await really_close(account)
        if account.account == "paper.one":
            raise ExchangeError("the stream does not end")

    monkeypatch.setattr(SharedAccount, "close", close_badly)

    async def play() -> None:
        ports = AgentPorts(settings, connect, ledger, name=name_of, syncing=SYNCING)
        await ports.open()
        with pytest.raises(ExchangeError, match="does not end"):
            await ports.close()

    try:
        with LoopThread() as bridge:
            bridge.call(play(), timeout_s=20)
        assert closed == ["one", "shared"]
    finally:
        ledger.close()
        server.stop()


@pytest.mark.parametrize(
    ("agents", "told"),
    [
        ({"A": {"real_account": "x", "capital_usdt": 5}}, "leave capital_usdt out"),
        ({"A": {}, "B": {"capital_usdt": 5}}, "give its capital_usdt"),
        ({"A": {"real_account": "x"}, "B": {"real_account": "x"}}, "belongs to one agent"),
        ({"A": {"real_account": "x"}, "B": {"real_account": "X"}}, "belongs to one agent"),
        ({"MANUAL": {"capital_usdt": 5}}, "name the agent otherwise"),
        ({"A": {"capital_usdt": 5, "symbols": ["ETHUSDT"]}}, "ETHUSDT"),
        ({"A": {"capital_usdt": 0}}, "greater than 0"),
    ],
)
def test_accounts_that_cannot_be_are_refused(agents: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        SharedAccountSettings.parse({"symbols": ["BTCUSDT"], "agents": agents})


def test_keys_of_a_real_account_come_from_the_environment() -> None:
    with pytest.raises(CredentialsError, match="BINANCE_SUB_ONE_API_SECRET"):
        sub_account_credentials("one", {"BINANCE_SUB_ONE_API_KEY": "k"})
    found = sub_account_credentials(
        "one", {"BINANCE_SUB_ONE_API_KEY": "k", "BINANCE_SUB_ONE_API_SECRET": "s"}
    )
    assert (found.api_key.reveal(), found.api_secret.reveal()) == ("k", "s")


def test_two_names_for_one_account_are_refused(tmp_path: Path) -> None:
    server = PaperServer.start(ReplayFeed(flat_market(), 1), (PaperAccount(wallet_usdt=D(5000)),))
    ledger = Ledger.open(str(tmp_path / "a.db"))
    settings = SharedAccountSettings.parse(
        {"symbols": ["BTCUSDT"], "agents": {"A": {"capital_usdt": 100}, "own": {"real_account": "one"}}}
    )

    def connect(_real: str | None) -> BinanceExchange:
        return connector(server, settings.symbols)

    async def play() -> None:
        ports = AgentPorts(settings, connect, ledger, name=name_of, syncing=SYNCING)
        with pytest.raises(ConfigError, match="shared account and the real account one are one account"):
            await ports.open()
        assert not ports.accounts

    try:
        with LoopThread() as bridge:
            bridge.call(play(), timeout_s=20)
        assert ledger.exchanges() == ["paper"]
    finally:
        ledger.close()
        server.stop()
