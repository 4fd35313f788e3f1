"""A paper exchange in lock-step, a connector to one of its accounts, and a ledger that is kept in step with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from support import market_of

from envs.account import Fill, Leg, Order, Side
from envs.market import Market
from live.exchange.base import OrderReport, RetryPolicy, client_order_id
from live.exchange.binance import BinanceExchange
from live.exchange.budget import RequestBudget
from live.exchange.sockets import StreamSettings
from live.ledger import Ledger
from live.ledger.identity import Identity, check_identity
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.limits import LimitSettings
from live.paper.runtime import PaperServer
from live.settings import Credentials, paper_venue
from live.sync import TradeSync, TradeSyncSettings

BTC, ETH = "BTCUSDT", "ETHUSDT"
QUICK = TradeSyncSettings(
    settle_ms=0, reach_ms=10 * 86_400_000, retry_s=(0.05,), booked_s=(0.02, 0.1, 0.5, 1.0)
)


def waves(count: int = 40, **options: Any) -> Market:
    """Two contracts that go up and down by turns."""
    rows: dict[str, list[tuple[float, float, float, float]]] = {BTC: [], ETH: []}
    for index in range(count):
        btc = 50_000.0 + 100.0 * (index % 5)
        eth = 3_000.0 - 10.0 * (index % 3)
        rows[BTC].append((btc, btc + 20, btc - 20, btc))
        rows[ETH].append((eth, eth + 2, eth - 2, eth))
    return market_of(rows, **options)


def connector(server: PaperServer, symbols: Sequence[str] = (BTC, ETH), **options: Any) -> BinanceExchange:
    """A connector that does not wait long."""
    settings: dict[str, Any] = {
        "retry": RetryPolicy(attempts=3, delay_s=0.01, max_wait_s=0.5, resolve_s=2.0),
        "streams": StreamSettings(give_up_s=5.0, longest_retry_s=0.1),
        "back_end_delay_s": 0.1,
        "leverage": 10,
        **options,
    }
    key = settings.pop("key", "paper")
    secret = settings.pop("secret", key)
    venue = paper_venue(server.rest_url, server.ws_url.rstrip("/"))
    return BinanceExchange(venue, Credentials(key, secret), symbols, **settings)


class Unlimited(RequestBudget):
    """Tests make more requests in a minute than an exchange takes; nothing is to wait for the next one."""

    def __init__(self) -> None:
        super().__init__()
        for gauge in (self.weight, self.orders_10s, self.orders_1m):
            gauge.limit = 10**9

    def learn_limits(self, rules: object) -> None:
        """Nothing."""


@dataclass
class SyncRig:
    """Everything around one account. `told` are the fills that `on_fill` was called with."""

    server: PaperServer
    exchange: BinanceExchange
    ledger: Ledger
    sync: TradeSync
    told: list[Fill] = field(default_factory=list)
    orders: int = 0

    async def order(
        self, agent: str, side: str, quantity: str, symbol: str = BTC, leg: Leg = Leg.ORDER
    ) -> OrderReport:
        """An agent's market order."""
        self.orders += 1
        identity = client_order_id(agent, symbol, 1_704_067_200_000 + self.orders, leg)
        return await self.exchange.place(
            Order(symbol, Side(side), Decimal(quantity), client_order_id=identity, leg=leg)
        )

    async def manual(self, side: str, quantity: str, symbol: str = BTC) -> None:
        """A person trades on the account, from the website."""
        await self.fault("manual_trade", symbol=symbol, side=side, quantity=quantity)

    async def fault(self, kind: str, **settings: Any) -> Any:
        """Something happens at the exchange."""
        return await asyncio.to_thread(self.server.fault, kind, **settings)

    async def advance(self, candles: int = 1) -> None:
        """Time passes at the exchange."""
        await asyncio.to_thread(self.server.advance, candles)

    async def until(self, true: Callable[[], bool], within_s: float = 60.0) -> None:
        """Wait for it."""
        async with asyncio.timeout(within_s):
            while not true():
                self.sync.check()
                await asyncio.sleep(0.005)

    def held(self, agent: str, symbol: str = BTC) -> Decimal:
        """An agent's position by the ledger."""
        return self.ledger.position(self.sync.account, agent, symbol).p1

    async def identity(self) -> Identity:
        """The ledger against the exchange."""
        account = await self.exchange.account()
        return check_identity(
            self.ledger,
            self.sync.account,
            exchange_wallet=account.wallet_usdt,
            exchange_quantities={symbol: one.quantity for symbol, one in account.positions.items()},
        )


@asynccontextmanager
async def sync_rig(
    database: str | Path,
    *,
    market: Market | None = None,
    server: PaperServer | None = None,
    symbols: Sequence[str] = (BTC, ETH),
    start: bool = True,
    connection: Mapping[str, Any] | None = None,
    wallet: str = "10000",
    settings: TradeSyncSettings = QUICK,
) -> AsyncIterator[SyncRig]:
    """A rig on a new server, or on one that runs already."""
    own = server is None
    if server is None:
        feed = ReplayFeed(market or waves(), 2)
        limits = LimitSettings(enforced=False)
        server = PaperServer.start(feed, (PaperAccount(wallet_usdt=Decimal(wallet)),), limits=limits)
    try:
        ledger = Ledger.open(str(database))
        try:
            async with connector(server, symbols, budget=Unlimited(), **(connection or {})) as exchange:
                sync = TradeSync(exchange, ledger, symbols=symbols, settings=settings)
                rig = SyncRig(server, exchange, ledger, sync)
                sync.add_listener(on_fill=rig.told.append)
                try:
                    if start:
                        await sync.start()
                    yield rig
                finally:
                    await sync.close()
        finally:
            ledger.close()
    finally:
        if own:
            await asyncio.to_thread(server.stop)
