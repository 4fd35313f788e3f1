"""A day of trading on the paper exchange whose every price is known, for clients that we did not write."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from envs.candles import CandleSet, from_columns
from envs.funding import FundingSeries
from envs.market import build_market
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START_MS = 1_704_153_600_000  # 2024-01-02 00:00 UTC; the day before is history
KEY = "alice"
SECRET = "alice-secret"
FUNDING_RATE = 0.0001

# (open, high, low, close) of the hours in which something happens; every other is flat at 50000.
MOVES: dict[int, tuple[float, float, float, float]] = {
    1: (50_000.0, 50_010.0, 49_600.0, 49_700.0),  # a buy order rests at 49650
    2: (49_700.0, 50_600.0, 49_690.0, 50_500.0),  # a take-profit waits at 50400
    3: (50_500.0, 50_510.0, 50_490.0, 50_500.0),
    4: (50_500.0, 50_510.0, 49_900.0, 50_000.0),  # a stop waits at 50100
}
QUIET = (50_000.0, 50_010.0, 49_990.0, 50_000.0)


def candles(symbol: str, scale: float) -> CandleSet:
    """A day of history, the day, and two hours after it. Prices are those above times `scale`."""
    hours = range(-24, 26)
    rows = [[round(price * scale, 2) for price in MOVES.get(hour, QUIET)] for hour in hours]
    columns: dict[str, Any] = {
        "open_time": [START_MS + hour * HOUR_MS for hour in hours],
        "volume": [10.0] * len(rows),
    }
    for index, name in enumerate(("open", "high", "low", "close")):
        columns[name] = [row[index] for row in rows]
    return from_columns(columns, symbol=symbol, interval="1h")


@contextmanager
def trading_day(**options: Any) -> Iterator[PaperServer]:
    """The exchange at 00:00 of the day, in lock-step, with an account of 10000 USDT and no slippage."""
    settlements = [START_MS + hour * HOUR_MS for hour in range(-24, 26, 8)]
    symbols = ("BTCUSDT", "ETHUSDT")
    series = {
        symbol: FundingSeries(symbol, settlements, [FUNDING_RATE] * len(settlements), "test")  # type: ignore[arg-type]
        for symbol in symbols
    }
    market = build_market(
        [candles("BTCUSDT", 1.0), candles("ETHUSDT", 0.05)], funding=series, constant_funding_rate=0.0
    )
    account = PaperAccount(KEY, SECRET, Decimal(10_000))
    with PaperServer.start(ReplayFeed(market, 24), [account], **options) as server:
        yield server


def only_loopback(lookup: Callable[..., Any] = socket.getaddrinfo) -> Callable[..., Any]:
    """A `socket.getaddrinfo` that knows this machine only."""

    def guarded(host: str | bytes | None, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in ("127.0.0.1", "localhost", "::1", None):
            raise AssertionError(f"a client reached out to {name}")
        return lookup(host, *args, **kwargs)

    return guarded
