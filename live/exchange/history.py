"""Candles, mark candles and funding rates from Binance's REST service, page by page."""

from __future__ import annotations

from typing import Any

from envs.time_grid import interval_name
from live.exchange import parse
from live.exchange.base import Candle, FundingRate
from live.exchange.rest import BinanceRest

PAGE_CANDLES = 1000  # the weight of a request jumps from 5 to 10 above it
PAGE_FUNDING = 1000

KLINES = "futures_klines"
MARK_KLINES = "futures_mark_price_klines"


class History:
    """Reads market history. `bulk` requests pause when the request limit is nearly used up."""

    def __init__(self, rest: BinanceRest) -> None:
        self._rest = rest

    async def candles(
        self,
        symbol: str,
        interval_ms: int,
        *,
        limit: int,
        start_ms: int | None = None,
        end_ms: int | None = None,
        method: str = KLINES,
        urgent: bool = False,
    ) -> list[Candle]:
        """Closed candles, ascending; see `Exchange.candles`. An `urgent` request never pauses for the limit."""
        if limit <= 0:
            return []
        now_ms = await self._rest.fresh_now_ms()
        if start_ms is None:
            return await self._newest(symbol, interval_ms, limit, end_ms, now_ms, method, urgent)
        return await self._forward(symbol, interval_ms, limit, start_ms, end_ms, now_ms, method, urgent)

    async def _forward(
        self,
        symbol: str,
        interval_ms: int,
        limit: int,
        start_ms: int,
        end_ms: int | None,
        now_ms: int,
        method: str,
        urgent: bool,
    ) -> list[Candle]:
        found: list[Candle] = []
        next_ms = start_ms
        while len(found) < limit and (end_ms is None or next_ms <= end_ms):
            page, complete = await self._page(
                symbol, interval_ms, limit - len(found), next_ms, end_ms, now_ms, method, urgent
            )
            fresh = [one for one in page if one.open_time_ms >= next_ms]
            found.extend(fresh)
            if not fresh or not complete:
                break
            next_ms = fresh[-1].open_time_ms + interval_ms
        return found[:limit]

    async def _newest(
        self,
        symbol: str,
        interval_ms: int,
        limit: int,
        end_ms: int | None,
        now_ms: int,
        method: str,
        urgent: bool,
    ) -> list[Candle]:
        found: list[Candle] = []
        last_ms = end_ms
        while len(found) < limit:
            # One more than asked for: the newest row may be the candle that is still open.
            wanted = limit - len(found) + (not found)
            page, _ = await self._page(symbol, interval_ms, wanted, None, last_ms, now_ms, method, urgent)
            older = [one for one in page if not found or one.open_time_ms < found[0].open_time_ms]
            if not older:
                break
            found = older + found
            last_ms = found[0].open_time_ms - 1
        return found[-limit:]

    async def _page(
        self,
        symbol: str,
        interval_ms: int,
        wanted: int,
        start_ms: int | None,
        end_ms: int | None,
        now_ms: int,
        method: str,
        urgent: bool,
    ) -> tuple[list[Candle], bool]:
        """One page, and whether all of its candles were closed (if not, it was the newest page)."""
        rows: list[Any] = await self._rest.read(
            method,
            bulk=wanted >= PAGE_CANDLES and not urgent,
            symbol=symbol,
            interval=interval_name(interval_ms),
            startTime=start_ms,
            endTime=end_ms,
            limit=min(wanted, PAGE_CANDLES),
        )
        page = [parse.candle(symbol, interval_ms, row) for row in rows]
        # The clock was read before the request, so a candle that had closed by then is final.
        closed_by_ms = self._rest.clock.certain_ms(now_ms)
        while page and page[-1].close_time_ms >= closed_by_ms:
            page.pop()
        return page, len(page) == len(rows)

    async def funding_rates(self, symbol: str, start_ms: int, end_ms: int) -> list[FundingRate]:
        """Rates settled in [start_ms, end_ms], ascending."""
        found: list[FundingRate] = []
        next_ms = start_ms
        while next_ms <= end_ms:
            rows: list[parse.Json] = await self._rest.read(
                "futures_funding_rate",
                symbol=symbol,
                startTime=next_ms,
                endTime=end_ms,
                limit=PAGE_FUNDING,
            )
            page = [parse.funding_rate(row) for row in rows]
            fresh = sorted((one for one in page if one.time_ms >= next_ms), key=lambda one: one.time_ms)
            if not fresh:
                break
            found.extend(fresh)
            next_ms = fresh[-1].time_ms + 1
        return found
