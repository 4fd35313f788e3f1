"""Small hand-made markets, engines and servers for the paper exchange's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from binance import AsyncClient, BinanceSocketManager
from binance.exceptions import BinanceAPIException

from envs.account import Side
from envs.candles import from_columns
from envs.funding import FundingSeries
from envs.instruments import get_instruments
from envs.market import Market, build_market
from live.paper import algo_desk, desk
from live.paper.account import Account, PaperAccount
from live.paper.engine import Engine, EngineSettings
from live.paper.exchange import PaperExchange
from live.paper.feeds import ReplayFeed
from live.paper.orders import AlgoOrder, AlgoRequest, Order, OrderRequest
from live.paper.play import Candle, play_candle
from live.paper.runtime import PaperServer

START_MS = 1_704_067_200_000  # 2024-01-01 00:00 UTC
HOUR_MS = 3_600_000

Ohlc = tuple[float, float, float, float]


@dataclass
class Bench:
    """An engine with one account, and short ways to use it."""

    engine: Engine
    account: Account
    names: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)

    def market(self, symbol: str, quantity: str, **options: Any) -> Order:
        """A MARKET order of a signed quantity."""
        amount = Decimal(quantity)
        side = Side.BUY if amount > 0 else Side.SELL
        return desk.place_order(
            self.engine, self.account, OrderRequest(symbol, side, "MARKET", abs(amount), **options)
        )

    def limit(self, symbol: str, quantity: str, price: str, **options: Any) -> Order:
        """A LIMIT order of a signed quantity."""
        amount = Decimal(quantity)
        side = Side.BUY if amount > 0 else Side.SELL
        request = OrderRequest(symbol, side, "LIMIT", abs(amount), Decimal(price), **options)
        return desk.place_order(self.engine, self.account, request)

    def trigger(self, symbol: str, side: str, kind: str, price: str, **options: Any) -> AlgoOrder:
        """A conditional order, closing the position unless a quantity is given."""
        if "quantity" in options:
            options["quantity"] = Decimal(options["quantity"])
        else:
            options["close_position"] = True
        request = AlgoRequest(symbol, Side(side), kind, Decimal(price), **options)
        return algo_desk.place_algo_order(self.engine, self.account, request)

    def price(self, symbol: str, price: str) -> None:
        """Set a price without setting anything off."""
        self.engine.prices = {**self.engine.prices, symbol: Decimal(price)}

    def candle(self, **prices: tuple[str, str, str, str]) -> None:
        """Play one candle: symbol=(open, high, low, close)."""
        columns = [{symbol: Decimal(row[column]) for symbol, row in prices.items()} for column in range(4)]
        play_candle(self.engine, Candle(*columns))

    def heard(self, kind: str) -> list[dict[str, Any]]:
        """Events of one type since the last call of `heard` with any type."""
        self.events.extend(event for _, event in self.engine.outbox)
        self.engine.outbox.clear()
        return [event for event in self.events if event["e"] == kind]

    def income(self, kind: str) -> list[Decimal]:
        """Income amounts of one type."""
        return [row.amount_usdt for row in self.account.income if row.income_type == kind]


@pytest.fixture
def bench() -> Callable[..., Bench]:
    """Make an engine: bench(BTCUSDT="50000", wallet="10000", slippage_bps="0")."""

    def make(*, wallet: str = "10000", slippage_bps: str = "0", **prices: str) -> Bench:
        rules = {one.symbol: one for one in get_instruments(prices)}
        engine = Engine(
            EngineSettings(rules, Decimal(slippage_bps)),
            START_MS,
            {symbol: Decimal(price) for symbol, price in prices.items()},
        )
        return Bench(engine, engine.add_account(PaperAccount("key", "secret", Decimal(wallet))))

    return make


def make_market(
    candles: dict[str, Sequence[Ohlc]],
    *,
    funding: dict[str, Sequence[tuple[int, float]]] | None = None,
    interval: str = "1h",
    start_ms: int = START_MS,
) -> Market:
    """A market from hand-written candles; funding as (hours after the start, rate), none by default."""
    length = {"1m": 60_000, "1h": HOUR_MS, "1d": 24 * HOUR_MS}[interval]
    sets = []
    for symbol, rows in candles.items():
        columns: dict[str, Any] = {
            "open_time": [start_ms + i * length for i in range(len(rows))],
            "open": [row[0] for row in rows],
            "high": [row[1] for row in rows],
            "low": [row[2] for row in rows],
            "close": [row[3] for row in rows],
            "volume": [10.0] * len(rows),
        }
        sets.append(from_columns(columns, symbol=symbol, interval=interval))
    series = {
        symbol: FundingSeries(
            symbol,
            [start_ms + hours * HOUR_MS for hours, _ in rows],  # type: ignore[arg-type]
            [rate for _, rate in rows],  # type: ignore[arg-type]
            "test",
        )
        for symbol, rows in (funding or {}).items()
    }
    return build_market(sets, funding=series, constant_funding_rate=0.0)


@pytest.fixture
def market() -> Callable[..., Market]:
    """`make_market`, as a fixture."""
    return make_market


@pytest.fixture
def exchange() -> Callable[..., PaperExchange]:
    """Make a lock-step exchange over a market: exchange(market, start_index=1, slippage_bps="0")."""

    def make(
        feed: Market, *, start_index: int = 1, slippage_bps: str = "0", wallet: str = "10000"
    ) -> PaperExchange:
        return PaperExchange(
            ReplayFeed(feed, start_index),
            [PaperAccount("key", "secret", Decimal(wallet))],
            slippage_bps=Decimal(slippage_bps),
        )

    return make


def rising(count: int, first: float = 50_000.0, step: float = 10.0) -> list[Ohlc]:
    """Candles that rise by `step` each, opening at the previous close."""
    return [
        (first + i * step, first + (i + 2) * step, first + (i - 1) * step, first + (i + 1) * step)
        for i in range(count)
    ]


@pytest.fixture
def server() -> Iterator[PaperServer]:
    """A lock-step exchange on the wire: BTCUSDT and ETHUSDT, 100 candles of 1h history, 60 to play."""
    feed = ReplayFeed(make_market({"BTCUSDT": rising(160), "ETHUSDT": rising(160, 2_500.0, 1.0)}), 100)
    accounts = [
        PaperAccount("alice", "alice-secret", Decimal(10_000)),
        PaperAccount("bob", "bob-secret", Decimal(500)),
    ]
    with PaperServer.start(feed, accounts, slippage_bps=Decimal(1)) as running:
        yield running


@pytest.fixture
async def client_for() -> AsyncIterator[Callable[..., AsyncClient]]:
    """Make python-binance clients with nothing changed but their addresses: client_for(server, key, secret)."""
    made: list[AsyncClient] = []

    def make(server: PaperServer, key: str = "alice", secret: str | None = None) -> AsyncClient:
        class Local(AsyncClient):  # type: ignore[misc]
            API_URL = f"{server.rest_url}/api"
            FUTURES_URL = f"{server.rest_url}/fapi"

        made.append(Local(key, f"{key}-secret" if secret is None else secret))
        return made[-1]

    yield make
    for client in made:
        await client.close_connection()


@pytest.fixture
def client(server: PaperServer, client_for: Callable[..., AsyncClient]) -> AsyncClient:
    """Alice's client."""
    return client_for(server)


@pytest.fixture
def socket_manager() -> Callable[[PaperServer, AsyncClient], BinanceSocketManager]:
    """Make python-binance socket managers with nothing changed but their addresses."""

    def make(server: PaperServer, client: AsyncClient) -> BinanceSocketManager:
        class Local(BinanceSocketManager):  # type: ignore[misc]
            FSTREAM_URL = server.ws_url

        return Local(client, max_queue_size=1000)

    return make


@pytest.fixture
def sockets(
    server: PaperServer,
    client: AsyncClient,
    socket_manager: Callable[[PaperServer, AsyncClient], BinanceSocketManager],
) -> BinanceSocketManager:
    """Alice's socket manager."""
    return socket_manager(server, client)


@pytest.fixture
def advance(server: PaperServer) -> Callable[..., Awaitable[dict[str, Any]]]:
    """Play candles without blocking the test's loop: await advance(2)."""

    async def play(candles: int = 1) -> dict[str, Any]:
        return await asyncio.to_thread(server.advance, candles)

    return play


@pytest.fixture
def refused() -> Callable[[Awaitable[Any]], Awaitable[tuple[int, int]]]:
    """(code, HTTP status) that a call is refused with: await refused(client.futures_...)."""

    async def code_and_status(call: Awaitable[Any]) -> tuple[int, int]:
        with pytest.raises(BinanceAPIException) as problem:
            await call
        return problem.value.code, problem.value.status_code

    return code_and_status
