"""This account's fills from userTrades, each with its client order id, which the exchange leaves out there."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from decimal import Decimal
from typing import Any

from envs.account import ZERO, Fill
from envs.errors import ExchangeError, OutcomeUnknownError
from live.exchange import parse
from live.exchange.base import Booking, FundingPayment
from live.exchange.error_codes import ORDER_DOES_NOT_EXIST
from live.exchange.rest import BinanceRest

PAGE = 1000
WEEK_MS = 7 * 24 * 3_600_000
# Binance keeps trades for three months, and says nothing of what it answers about earlier ones.
_KEPT_MS = 90 * 24 * 3_600_000
_REMEMBERED_ORDERS = 10_000
_LOOK_UPS_AT_ONCE = 10
# A fill may show up in userTrades a moment after its order is reported as filled.
_VISIBLE_AFTER_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5)


class Trades:
    """Reads fills, and remembers what is known of recent orders: client order ids and streamed fills."""

    def __init__(self, rest: BinanceRest, exchange: str) -> None:
        self._rest = rest
        self._exchange = exchange
        self._client_ids: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._streamed: OrderedDict[tuple[str, str], dict[str, Fill]] = OrderedDict()

    def know_order(self, symbol: str, order_id: str, client_order_id: str) -> None:
        """Remember an order's client order id."""
        self._client_ids[symbol, order_id] = client_order_id
        while len(self._client_ids) > _REMEMBERED_ORDERS:
            self._client_ids.popitem(last=False)

    def know_fill(self, fill: Fill) -> None:
        """Remember a fill that came over the user stream."""
        self.know_order(fill.symbol, fill.order_id, fill.client_order_id)
        self._streamed.setdefault((fill.symbol, fill.order_id), {})[fill.trade_id] = fill
        while len(self._streamed) > _REMEMBERED_ORDERS:
            self._streamed.popitem(last=False)

    async def of_order(self, symbol: str, order_id: str, executed: Decimal) -> tuple[Fill, ...]:
        """All fills of an order that has executed so much.

        Raises:
            OutcomeUnknownError: the exchange does not list all of them in time.
        """
        streamed = tuple(self._streamed.get((symbol, order_id), {}).values())
        if _total(streamed) == executed:
            return _ordered(streamed)
        listed: Sequence[Fill] = ()
        for pause_s in (*_VISIBLE_AFTER_S, None):
            listed = await self.find(symbol, order_id=order_id)
            if _total(listed) >= executed:
                return _ordered(listed)
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        raise OutcomeUnknownError(
            f"order {order_id} of {symbol} is filled over {executed}, but the exchange lists only "
            f"{_total(listed)}; read its fills again later",
            client_order_id=self._client_ids.get((symbol, order_id)),
        )

    async def find(
        self,
        symbol: str,
        *,
        since_ms: int | None = None,
        from_id: str | None = None,
        order_id: str | None = None,
    ) -> list[Fill]:
        """Fills, ascending by trade id; see `Exchange.fills`."""
        if order_id is not None:
            rows = await self._rows(symbol, orderId=order_id)
        elif from_id is not None:
            rows = await self._from_id(symbol, int(from_id))
        else:
            rows = await self._since(symbol, since_ms)
        return await self._fills(symbol, rows)

    async def pages(
        self, symbol: str, *, since_ms: int | None = None, from_id: str | None = None
    ) -> AsyncIterator[list[Fill]]:
        """Fills, ascending by trade id, a page of the exchange's at a time."""
        if from_id is None:
            page = await self._first_page(symbol, since_ms)
            # A window of time ends before the present: what came after it is asked for by trade id.
            may_end = since_ms is None
        else:
            page = await self._rows(symbol, fromId=int(from_id))
            may_end = True
        while page:
            yield await self._fills(symbol, page)
            if may_end and len(page) < PAGE:
                return
            page = await self._rows(symbol, fromId=_last_id(page) + 1)
            may_end = True

    async def _fills(self, symbol: str, rows: Sequence[parse.Json]) -> list[Fill]:
        with parse.reading("the trades"):
            by_id = {int(row["id"]): row for row in rows}
            kept = [by_id[trade_id] for trade_id in sorted(by_id)]
            order_ids = {str(row["orderId"]) for row in kept}
        await self._learn_client_ids(symbol, order_ids)
        return [
            parse.fill(
                row,
                client_order_id=self._client_ids.get((symbol, str(row["orderId"])), ""),
                exchange=self._exchange,
            )
            for row in kept
        ]

    async def _rows(self, symbol: str, **params: Any) -> list[parse.Json]:
        rows: list[parse.Json] = await self._rest.read(
            "futures_account_trades", symbol=symbol, limit=PAGE, **params
        )
        return rows

    async def _from_id(self, symbol: str, first_id: int) -> list[parse.Json]:
        found: list[parse.Json] = []
        while True:
            page = await self._rows(symbol, fromId=first_id)
            found.extend(page)
            if len(page) < PAGE:
                return found
            first_id = _last_id(page) + 1

    async def _since(self, symbol: str, since_ms: int | None) -> list[parse.Json]:
        page = await self._first_page(symbol, since_ms)
        if not page or (since_ms is None and len(page) < PAGE):
            return page
        # A window of time ends before the present, however few trades it has.
        return page + await self._from_id(symbol, _last_id(page) + 1)

    async def _first_page(self, symbol: str, since_ms: int | None) -> list[parse.Json]:
        """Windows of a week until the first trade; from there trade ids lead on, which cannot miss any."""
        if since_ms is None:
            # Without a time the exchange gives the last seven days, oldest first.
            return await self._rows(symbol)
        now_ms = await self._rest.fresh_now_ms()
        start_ms = max(since_ms, now_ms - _KEPT_MS)
        while start_ms <= now_ms:
            page = await self._rows(symbol, startTime=start_ms, endTime=start_ms + WEEK_MS - 1)
            if page:
                return page
            start_ms += WEEK_MS
        return []

    async def _learn_client_ids(self, symbol: str, order_ids: Iterable[str]) -> None:
        unknown = [one for one in order_ids if (symbol, one) not in self._client_ids]
        while len(unknown) > 3:
            # The listing gives orders from an id on, so one page usually has them all.
            first_id = min(int(one) for one in unknown)
            rows: list[parse.Json] = await self._rest.read(
                "futures_get_all_orders", symbol=symbol, orderId=first_id, limit=PAGE
            )
            with parse.reading("the orders"):
                for row in rows:
                    self.know_order(symbol, str(row["orderId"]), str(row["clientOrderId"]))
            before = len(unknown)
            unknown = [one for one in unknown if (symbol, one) not in self._client_ids]
            if len(rows) < PAGE or len(unknown) == before:
                break
        for first in range(0, len(unknown), _LOOK_UPS_AT_ONCE):
            batch = unknown[first : first + _LOOK_UPS_AT_ONCE]
            await asyncio.gather(*(self._learn_client_id(symbol, one) for one in batch))

    async def _learn_client_id(self, symbol: str, order_id: str) -> None:
        try:
            reply = await self._rest.read("futures_get_order", symbol=symbol, orderId=order_id)
        except ExchangeError as error:
            if error.code != ORDER_DOES_NOT_EXIST:
                raise
            # Orders are forgotten after 90 days; their trades are not. Such a fill has no known owner.
            self.know_order(symbol, order_id, "")
            return
        with parse.reading("an order"):
            self.know_order(symbol, order_id, str(reply["clientOrderId"]))

    async def funding_payments(self, since_ms: int) -> list[FundingPayment]:
        """Funding booked since a time, ascending."""
        return await self._income("FUNDING_FEE", since_ms)

    async def transfers(self, since_ms: int) -> list[FundingPayment]:
        """Deposits and withdrawals of USDT booked since a time, ascending."""
        return await self._income("TRANSFER", since_ms)

    async def liquidation_fees(self, since_ms: int) -> list[FundingPayment]:
        """Liquidation fees (below zero) booked since a time, ascending; what the insurance fund pays is none."""
        booked = await self._income("INSURANCE_CLEAR", since_ms)
        return [one for one in booked if one.amount_usdt < 0]

    async def _income(self, income_type: str, since_ms: int) -> list[FundingPayment]:
        found: dict[tuple[str, str, int], FundingPayment] = {}
        start_ms = since_ms
        while True:
            rows: list[parse.Json] = await self._rest.read(
                "futures_income_history", incomeType=income_type, startTime=start_ms, limit=PAGE
            )
            page = [parse.funding_payment(row) for row in rows]
            before = len(found)
            for row, one in zip(rows, page, strict=True):
                if row.get("asset", "USDT") == "USDT":  # other assets move in and out beside the margin
                    found[one.transaction_id, one.symbol, one.time_ms] = one
            if len(page) < PAGE or len(found) == before:
                return sorted(found.values(), key=lambda one: (one.time_ms, one.symbol))
            # Several symbols are charged at one moment, so the next page begins at the same one.
            start_ms = max(one.time_ms for one in page)

    async def booking_pages(self, since_ms: int) -> AsyncIterator[list[Booking]]:
        """Everything booked in USDT since a time, ascending, each once, a page of the exchange's at a time."""
        start_ms, number = since_ms, 1
        known: set[tuple[str, str, str, int]] = set()
        while True:
            rows: list[parse.Json] = await self._rest.read(
                "futures_income_history", startTime=start_ms, limit=PAGE, page=number
            )
            page = []
            for row in rows:
                one = parse.booking(row)
                key = one.reason, one.transaction_id, one.symbol, one.time_ms
                if row.get("asset", "USDT") == "USDT" and key not in known:
                    page.append(one)
                    known.add(key)
            yield page
            if len(rows) < PAGE:
                return
            # Many rows share a moment, so the next page begins at the same one; pages are counted only where a
            # moment fills one by itself, since rows that are booked meanwhile move them.
            with parse.reading("the income"):
                last_ms = max(int(row["time"]) for row in rows)
            number = number + 1 if last_ms == start_ms else 1
            start_ms = last_ms
            known = {key for key in known if key[3] >= start_ms}


def _last_id(rows: Iterable[parse.Json]) -> int:
    return max(int(row["id"]) for row in rows)


def _total(fills: Iterable[Fill]) -> Decimal:
    return sum((one.quantity for one in fills), ZERO)


def _ordered(fills: Iterable[Fill]) -> tuple[Fill, ...]:
    return tuple(sorted(fills, key=lambda one: int(one.trade_id)))
