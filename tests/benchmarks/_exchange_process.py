"""A paper exchange in lock-step, and a relay that notes what passes, each in a process of its own.

`python -m tests.benchmarks._exchange_process exchange SYMBOLS CANDLES FIRST SEED` prints its port, and plays a candle
for each line of its input.
`python -m tests.benchmarks._exchange_process relay PORT [ROUND_TRIP_MS]` prints its own port and, once its input ends,
one JSON list of `[kind, monotonic ns]`: `candle` when a closed candle was received from the exchange, `order` when an
order's request came from the client. With a round trip, everything takes half of it on its way in either direction.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import replace
from decimal import Decimal

from envs.instruments import Instrument, default_instruments
from envs.market import Market
from envs.synthetic import synthetic_market
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.limits import LimitSettings
from live.paper.runtime import PaperServer

INTERVAL = "5m"
_TICK = Decimal("0.001")


def instruments_of(count: int) -> dict[str, Instrument]:
    """So many contracts with the rules of BTCUSDT; the first bears its name."""
    like = default_instruments()["BTCUSDT"]
    names = ["BTCUSDT", *(f"COIN{i}USDT" for i in range(1, count))]
    return {
        name: replace(
            like,
            symbol=name,
            base_asset=name.removesuffix("USDT"),
            tick_size=_TICK,
            min_price=_TICK,
            price_precision=3,
        )
        for name in names
    }


def market_of(count: int, candles: int, seed: int) -> Market:
    """Synthetic five-minute candles of `instruments_of(count)`, with funding."""
    return synthetic_market(tuple(instruments_of(count)), interval=INTERVAL, n=candles, seed=seed)


def serve(symbols: int, candles: int, first: int, seed: int) -> None:
    """An exchange whose candle `first` has closed; each line of the input plays another, until it ends."""
    feed = ReplayFeed(market_of(symbols, candles, seed), first + 1)
    rules = instruments_of(symbols)
    limits = LimitSettings(enforced=False)
    with PaperServer.start(feed, (PaperAccount(),), instruments=rules, limits=limits) as server:
        print(server.port, flush=True)
        for _ in sys.stdin:
            server.advance()


class _Relay(asyncio.Protocol):
    """One direction of one connection."""

    def __init__(self, port: int, seen: list[tuple[str, int]], delay_s: float) -> None:
        self._port = port
        self._seen = seen
        self._delay_s = delay_s
        self._early: list[bytes] = []
        self.other: _Relay | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._port:
            self._task = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(2 * self._delay_s)  # a connection takes a round trip, too
        _, there = await loop.create_connection(
            lambda: _Relay(0, self._seen, self._delay_s), "127.0.0.1", self._port
        )
        there.other, self.other = self, there
        for data in self._early:
            self.pass_on(data)

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        if self._port:
            if data.startswith(b"POST /fapi/v1/order"):
                self._seen.append(("order", now_ns))
        elif b'"x":true' in data:
            self._seen.append(("candle", now_ns))
        if self.other is None:
            self._early.append(data)
        else:
            self.pass_on(data)

    def pass_on(self, data: bytes) -> None:
        assert self.other is not None and self.other.transport is not None
        if self._delay_s:
            asyncio.get_running_loop().call_later(self._delay_s, self.other.transport.write, data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


async def relay(port: int, round_trip_ms: float) -> None:
    """Pass everything on to a local port, until the input ends."""
    loop = asyncio.get_running_loop()
    seen: list[tuple[str, int]] = []
    server = await loop.create_server(lambda: _Relay(port, seen, round_trip_ms / 2000), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "exchange":
        serve(*map(int, sys.argv[2:6]))
    else:
        asyncio.run(relay(int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0))
