"""Several agents on one account of a real paper exchange."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp

from envs.account import Leg, Order, Side
from envs.market import Market
from envs.risk_state import RiskStore
from live.bridge import LoopThread
from live.exchange.base import RetryPolicy, TriggerKind, TriggerOrder
from live.exchange.binance import BinanceExchange
from live.exchange.client_ids import client_order_id
from live.exchange.sockets import StreamSettings
from live.ledger import MANUAL, Ledger
from live.paper.account import Account, PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from live.settings import Credentials, paper_venue
from live.subaccount import SharedAccount, SharedAccountSettings, SubAccount
from live.sync import TradeSync
from live.sync.settings import TradeSyncSettings
from live.venues import LockStep

PATIENCE = RetryPolicy(attempts=3, delay_s=0.01, max_wait_s=2.0, resolve_s=5.0)
STREAMS = StreamSettings(late_s=0.2, fill_again_s=(0.05,), give_up_s=10.0, longest_retry_s=0.1)
SYNCING = TradeSyncSettings(retry_s=(0.02, 0.05, 0.2), booked_s=(0.02, 0.1, 0.5), stream_s=10.0)


@dataclass
class Shared:
    """A shared account with everything around it. Quantities and prices may be given as text."""

    server: PaperServer
    bridge: LoopThread
    exchange: BinanceExchange
    ledger: Ledger
    account: SharedAccount
    agents: dict[str, SubAccount]
    lock_step: LockStep
    numbers: dict[str, int] = field(default_factory=dict)

    def call(self, work: Any) -> Any:
        """Run a coroutine in the account's loop."""
        return self.bridge.call(work, timeout_s=60)

    @property
    def books(self) -> Account:
        """The account as the exchange keeps it."""
        return self.server.exchange.engine.accounts["paper"]

    def net(self, symbol: str = "BTCUSDT") -> Decimal:
        """Net position at the exchange."""
        return self.books.position(symbol).quantity

    def held(self, agent: str, symbol: str = "BTCUSDT") -> Decimal:
        """An agent's own position."""
        return self.ledger.position(self.account.account, agent, symbol).p1

    def name_order(self, agent: str, symbol: str, leg: Leg) -> str:
        """A new client order id."""
        key = f"{agent}{symbol}{leg}"
        self.numbers[key] = self.numbers.get(key, 0) + 1
        return client_order_id(agent, symbol, 1_700_000_000_999 + 1000 * self.numbers[key], leg)

    def trade(
        self, agent: str, quantity: str | Decimal, symbol: str = "BTCUSDT", *, reduce_only: bool = False
    ) -> Any:
        """A market order of an agent; buys when the quantity is above zero."""
        size = Decimal(quantity)
        side = Side.BUY if size > 0 else Side.SELL
        leg = Leg.EMERGENCY if reduce_only else Leg.ORDER
        order = Order(symbol, side, abs(size), reduce_only, leg, self.name_order(agent, symbol, leg))
        return self.call(self.agents[agent].place(order))

    def rest(
        self, agent: str, side: str, leg: Leg, price: str, quantity: str, symbol: str = "BTCUSDT"
    ) -> str:
        """A stop or take-profit of an agent; its client order id."""
        kind = TriggerKind.TAKE_PROFIT if leg is Leg.TAKE_PROFIT else TriggerKind.STOP
        name = self.name_order(agent, symbol, leg)
        trigger = TriggerOrder(symbol, Side(side), kind, Decimal(price), name, Decimal(quantity))
        self.call(self.agents[agent].place_trigger(trigger))
        return name

    def advance(self, candles: int = 1) -> None:
        """Have candles played, and what they caused tidied up."""
        for _ in range(candles):
            self.call(self.lock_step.request_candle())
        self.settle()

    def settle(self) -> None:
        """Wait until the ledger has everything and nothing is left over."""

        async def wait() -> None:
            await self.account.verify()
            self.account.view.prices |= await self.exchange.prices()
            await self.account.settled()

        self.call(wait())

    def happen(self, **fault: Any) -> None:
        """Something is done at the exchange through its control routes."""

        async def ask() -> None:
            url = f"{self.server.rest_url}/paper/faults"
            async with aiohttp.ClientSession() as session, session.post(url, json=fault) as reply:
                assert reply.status == 200, await reply.text()

        self.call(ask())

    def check(self) -> None:
        """Nothing is missing, to the last unit, and everybody's parts add up."""
        identity = self.call(self.account.audit())
        assert identity.holds, identity
        assert not any(self.account.invariant().values())
        mine = {s: sum(p.p1 for (_, name), p in self.ledger.positions("paper").items() if name == s)
                for s in self.server.exchange.engine.prices}  # fmt: skip
        assert {s: q for s, q in mine.items() if q} == {p.symbol: p.quantity for p in self.books.held()}

    def wallets(self) -> dict[str, Decimal]:
        """Everybody's wallet."""
        return self.ledger.wallets(self.account.account)


def settings_of(
    capital: Mapping[str, str | Decimal], symbols: tuple[str, ...], **settings: Any
) -> SharedAccountSettings:
    """Agents by name, with their capital."""
    agents = {name: {"capital_usdt": amount} for name, amount in capital.items()}
    values = {"agents": agents, "symbols": symbols, "close_delay_s": 0.02, "watch_s": 60.0, **settings}
    return SharedAccountSettings.parse(values)


def connector(server: PaperServer, symbols: tuple[str, ...], key: str = "paper") -> BinanceExchange:
    """A connector with little patience, to the account of a key."""
    return BinanceExchange(
        paper_venue(server.rest_url, server.ws_url.rstrip("/")),
        Credentials(key, "paper"),
        symbols,
        retry=PATIENCE,
        streams=STREAMS,
        recv_window_ms=5000,
        timeout_s=5.0,
        back_end_delay_s=0.1,
    )


@contextmanager
def paper_server(market: Market, *, first: int = 0, wallet: str = "10000") -> Iterator[PaperServer]:
    """A paper exchange in lock-step whose candle `first` has closed."""
    server = PaperServer.start(ReplayFeed(market, first + 1), (PaperAccount(wallet_usdt=Decimal(wallet)),))
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def shared(
    server: PaperServer,
    database: Path | str,
    settings: SharedAccountSettings,
    *,
    leverage: int = 10,
    store: RiskStore | None = None,
    acknowledge: bool = False,
) -> Iterator[Shared]:
    """The agents' accounts on a paper exchange."""
    ledger = Ledger.open(str(database))
    try:
        with LoopThread() as bridge:
            exchange = connector(server, settings.symbols)
            lock_step = LockStep(server.rest_url)
            bridge.call(exchange.connect())
            sync = TradeSync(exchange, ledger, symbols=settings.symbols, settings=SYNCING)
            account = SharedAccount(exchange, ledger, sync, settings, store=store)
            try:
                bridge.call(account.start(acknowledge_emergency=acknowledge), timeout_s=60)
                agents = {name: account.agent(name) for name in settings.agents}
                for one in agents.values():
                    for symbol in settings.symbols:
                        bridge.call(one.set_leverage(symbol, leverage))
                yield Shared(server, bridge, exchange, ledger, account, agents, lock_step)
            finally:
                bridge.call(account.close())
                bridge.call(lock_step.close())
                bridge.call(exchange.close())
    finally:
        ledger.close()


__all__ = ["MANUAL", "Shared", "connector", "paper_server", "settings_of", "shared"]
