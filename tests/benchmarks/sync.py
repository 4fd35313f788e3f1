"""A position sync at 50 ms round trip, and rebuilding a ledger from the exchange: `python -m tests.benchmarks.sync`.

The paper exchange runs in a process of its own; a relay before it lets everything take 25 ms on its way in either
direction. Fifty positions with a stop each are held by two agents. A sync reads positions, wallet, prices, all open
orders and the clock, compares every sum, marks the positions in the database and reports.

Rebuilding reads the whole history into an empty database, page by page; `longest_stall_ms` is the longest time for
which the event loop did nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import numpy as np

from envs.account import Leg, Order, Side
from live.exchange.base import TriggerKind, TriggerOrder, client_order_id
from live.exchange.binance import BinanceExchange
from live.exchange.budget import RequestBudget
from live.heap import heap_set_aside
from live.ledger import Ledger
from live.settings import Credentials, paper_venue
from live.sync import PositionSync, PositionSyncSettings, TradeSync, TradeSyncSettings
from tests.benchmarks._exchange_process import instruments_of
from tests.benchmarks._report import emit, note
from tests.benchmarks.live_latency import _process

_ROUND_TRIP_MS = 50
_POSITIONS = 50
_CANDLE_MS = 1_704_067_200_000
# Orders as well at every sync, as if one had changed each time.
_SETTINGS = PositionSyncSettings(orders_s=0.000_001)


class _Unlimited(RequestBudget):
    """All the fills fall into one minute of the exchange's, which never ends, since no candle closes."""

    def __init__(self) -> None:
        super().__init__()
        for gauge in (self.weight, self.orders_10s, self.orders_1m):
            gauge.limit = 10**9

    def learn_limits(self, rules: object) -> None:
        """Nothing."""


@asynccontextmanager
async def _connector(port: int, symbols: Sequence[str]) -> AsyncIterator[BinanceExchange]:
    """Connected; it does not spread its requests over the minute, as it would at Binance."""
    venue = paper_venue(f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}")
    async with BinanceExchange(
        venue, Credentials("paper", "paper"), symbols, budget=_Unlimited()
    ) as exchange:
        yield exchange


async def _trade(port: int, symbols: Sequence[str], fills: int) -> None:
    """Fifty positions with a stop each, and fills beside them."""
    async with _connector(port, symbols) as exchange:
        prices = await exchange.prices()
        for index, symbol in enumerate(symbols):
            agent = ("A", "B")[index % 2]
            quantity = (Decimal(60) / prices[symbol]).quantize(Decimal("0.001")) + Decimal("0.001")
            identity = client_order_id(agent, symbol, _CANDLE_MS, Leg.ORDER)
            await exchange.place(Order(symbol, Side.BUY, quantity, client_order_id=identity))
            identity = client_order_id(agent, symbol, _CANDLE_MS, Leg.STOP)
            stop = (prices[symbol] / 2).quantize(Decimal("0.001"))
            await exchange.place_trigger(
                TriggerOrder(symbol, Side.SELL, TriggerKind.STOP, stop, identity, quantity)
            )

        async def churn(index: int) -> None:
            symbol = symbols[index % len(symbols)]
            for number, side in enumerate((Side.BUY, Side.SELL)):
                identity = client_order_id("A", symbol, _CANDLE_MS + 1 + 2 * index + number, Leg.ORDER)
                quantity = (Decimal(60) / prices[symbol]).quantize(Decimal("0.001")) + Decimal("0.001")
                await exchange.place(Order(symbol, side, quantity, client_order_id=identity))

        for first in range(0, fills // 2, 10):
            await asyncio.gather(*(churn(index) for index in range(first, first + 10)))


async def _stalls(longest: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        longest[0] = max(longest[0], (time.perf_counter() - began) * 1000 - 1)


async def _measure(port: int, symbols: Sequence[str], database: Path, syncs: int) -> None:
    ledger = Ledger.open(str(database))
    async with _connector(port, symbols) as exchange:
        trades = TradeSync(
            exchange, ledger, symbols=symbols, settings=TradeSyncSettings(reach_ms=7 * 86_400_000)
        )
        longest = [0.0]
        watch = asyncio.create_task(_stalls(longest))
        began = time.perf_counter()
        done = await trades.start()
        rebuilt_s = time.perf_counter() - began
        watch.cancel()
        positions = PositionSync(trades, settings=_SETTINGS)
        took = []
        for _ in range(syncs + 1):
            report = await positions.once()
            report.check()
            took.append(report.duration_ms)
            await asyncio.sleep(0.05)
        extra = {
            "positions": report.changes.total,
            "orders": len(report.open_orders),
            "requests": report.requests,
        }
        extra |= {"round_trip_ms": _ROUND_TRIP_MS, "weight": report.weight}
        # The first opens the connections.
        emit(
            "sync_50_positions_ms",
            float(np.median(took[1:])),
            "ms",
            p99=float(np.percentile(took[1:], 99)),
            **extra,
        )
        emit(
            "rebuild_fills_per_s",
            len(done.fills) / rebuilt_s,
            "fills/s",
            fills=len(done.fills),
            symbols=len(symbols),
            longest_stall_ms=longest[0],
            round_trip_ms=_ROUND_TRIP_MS,
        )
        await trades.close()
    ledger.close()


def main() -> None:
    """Both figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--syncs", type=int, default=50)
    parser.add_argument("--fills", type=int, default=2000)
    given = parser.parse_args()
    symbols = tuple(instruments_of(_POSITIONS))
    with (
        _process("exchange", _POSITIONS, 1010, 1000, 1) as (port, _),
        tempfile.TemporaryDirectory() as folder,
    ):
        note(f"{_POSITIONS} positions, {given.fills} fills")
        asyncio.run(_trade(port, symbols, given.fills))
        with _process("relay", port, _ROUND_TRIP_MS) as (relay_port, relay):
            note(f"{given.syncs} syncs at {_ROUND_TRIP_MS} ms round trip")
            with heap_set_aside():  # as the commands do
                asyncio.run(_measure(relay_port, symbols, Path(folder) / "sync.db", given.syncs))
            relay.communicate()  # it tells what it saw before it ends


if __name__ == "__main__":
    main()
