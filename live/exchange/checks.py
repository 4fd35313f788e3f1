"""What the connector knows that decides, before an order is sent, whether the exchange would refuse it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from envs.account import Order
from envs.instruments import Instrument
from live.exchange import filters
from live.exchange.parse import Json, decimal_of, reading
from live.exchange.records import TriggerOrder, TriggerReport
from live.exchange.rest import BinanceRest


class OrderChecks:
    """Rules, prices and the number of trigger orders of one account.

    Args:
        rest: asked for what cannot be known otherwise, and only where it decides.
        instruments: rules by symbol; symbols that are not there are not checked.
        prices: newest known price by symbol.
    """

    def __init__(
        self, rest: BinanceRest, instruments: Mapping[str, Instrument], prices: Mapping[str, Decimal]
    ) -> None:
        self._rest = rest
        self._instruments = instruments
        self._prices = prices
        # Trigger orders that this connector placed and did not cancel, and how many others were there when last read.
        self._own: dict[str, TriggerReport] = {}
        self._others = 0

    async def order(self, order: Order) -> None:
        """Pass a market order.

        Raises:
            OrderRejectedError: the exchange would refuse it.
        """
        if self.is_sure(order):
            return
        reply = await self._rest.read("futures_mark_price", symbol=order.symbol)
        with reading("a mark price"):
            mark = decimal_of(reply["markPrice"])
        filters.check_notional(order, self._instruments[order.symbol], mark)
        price = self._prices.get(order.symbol)
        if price is not None:
            filters.check_percent_price(order, self._instruments[order.symbol], price, mark)

    def is_sure(self, order: Order) -> bool:
        """Whether a market order passes by what is known; where not, its mark price decides.

        Raises:
            OrderRejectedError: the exchange would refuse it.
        """
        instrument = self._instruments.get(order.symbol)
        if instrument is None:
            return True
        filters.check_order(order, instrument)
        if order.reduce_only:
            return True
        price = self._prices.get(order.symbol)
        return price is not None and order.quantity * price >= filters.NEAR * instrument.min_notional_usdt

    async def trigger(self, trigger: TriggerOrder) -> None:
        """Pass a trigger order.

        Raises:
            OrderRejectedError: the exchange would refuse it.
        """
        instrument = self._instruments.get(trigger.symbol)
        if instrument is not None:
            filters.check_trigger(trigger, instrument)
        if len(self._own) + self._others < filters.MAX_OPEN_TRIGGERS:
            return
        # Some of those may have ended since: count before refusing.
        rows: list[Json] = await self._rest.read("futures_get_open_orders", conditional=True)
        self.count(rows)
        if len(rows) >= filters.MAX_OPEN_TRIGGERS:
            filters.refuse_trigger_count(trigger, len(rows))

    def count(self, rows: Sequence[Json]) -> None:
        """All trigger orders of the account were read."""
        with reading("the open orders"):
            there = {str(row["clientAlgoId"]) for row in rows}
        self._own = {name: report for name, report in self._own.items() if name in there}
        self._others = len(there) - len(self._own)

    def placed(self, report: TriggerReport) -> None:
        """A trigger order rests."""
        self._own[report.client_order_id] = report

    def cancelled(self, client_order_id: str) -> TriggerReport | None:
        """A trigger order is gone; what the exchange said when this connector placed it, if it did."""
        return self._own.pop(client_order_id, None)

    def cancelled_all(self, symbol: str) -> None:
        """All trigger orders of a symbol are gone."""
        self._own = {name: report for name, report in self._own.items() if report.symbol != symbol}
