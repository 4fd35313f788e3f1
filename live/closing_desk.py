"""The way out: positions closed at market under ids of their own, one of them or all, and every order cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from envs.account import (
    ZERO,
    ActionType,
    CandleEvent,
    Leg,
    Order,
    OrderResult,
    OrderStatus,
    PlannedOrder,
    Side,
)
from envs.errors import ExchangeError
from envs.instruments import Instrument
from live.exchange.base import Exchange, client_order_id
from live.exchange.budget import reducing_risk
from live.exchange.client_ids import MAX_ATTEMPTS
from live.fill_events import events_of
from live.live_account import LiveAccount
from live.outcome import Outcome, fills_of, place
from live.triggers import TriggerDesk


class ClosingDesk:
    """Closes positions at an exchange, for one agent.

    Args:
        exchange, account, triggers: the agent's.
        instruments: what it trades.
        agent: name in client order ids.
    """

    def __init__(
        self,
        exchange: Exchange,
        account: LiveAccount,
        triggers: TriggerDesk,
        instruments: Sequence[Instrument],
        agent: str,
    ) -> None:
        self._exchange = exchange
        self._account = account
        self._triggers = triggers
        self._instruments = {instrument.symbol: instrument for instrument in instruments}
        self._agent = agent
        self._attempts: dict[str, int] = {}  # emergency ids used at this candle

    def begin(self) -> None:
        """Forget which emergency ids are used."""
        self._attempts.clear()

    async def find_used_ids(self, symbol: str, close_ms: int) -> None:
        """Find out which emergency ids of a candle an earlier session used."""
        for attempt in range(MAX_ATTEMPTS):
            if await self._exchange.order(symbol, self._emergency_id(symbol, close_ms)) is None:
                break
            self._attempts[symbol] = attempt + 1

    async def close(
        self, symbol: str, held: Decimal, price: Decimal, close_ms: int, reason: str
    ) -> list[OrderResult]:
        """Close a position at market, reduce-only, under emergency ids; no order when there is nothing to close.

        A position beyond the exchange's largest market order takes several.
        """
        left = abs(held)
        results: list[OrderResult] = []
        while left > 0:
            order = Order(
                symbol=symbol,
                side=Side.SELL if held > 0 else Side.BUY,
                quantity=min(left, self._instruments[symbol].max_quantity_market),
                reduce_only=True,
                leg=Leg.EMERGENCY,
                client_order_id=self._emergency_id(symbol, close_ms),
            )
            self._attempts[symbol] = self._attempts.get(symbol, 0) + 1
            entry = PlannedOrder(symbol, 0.0, ActionType.EMERGENCY_CLOSE, order, ZERO, price, note=reason)
            results.append(await place(self._exchange, entry, order, self._agent))
            if results[-1].status is not OrderStatus.FILLED:
                break
            left -= order.quantity
        return results

    async def close_all(self, reason: str, close_ms: int, prices: Mapping[str, Decimal]) -> Outcome:
        """Close every position, cancel every order, and read back. Everything is tried, whatever else fails.

        Args:
            reason: goes into the results.
            close_ms: close of the last candle; part of the orders' ids.
            prices: closes by symbol, for the record.

        Raises:
            ExchangeError: nothing was filled, and the account cannot be read.
        """
        # Also what is read meanwhile may use the share of the exchange's limits that is kept for this.
        with reducing_risk():
            return await self._close_all(reason, close_ms, prices)

    async def _close_all(self, reason: str, close_ms: int, prices: Mapping[str, Decimal]) -> Outcome:
        problems: list[ExchangeError] = []
        try:
            await self._account.refresh()
        except ExchangeError as error:
            problems.append(error)  # then by the positions last read: reduce-only orders can do no harm
        results: list[OrderResult] = []
        for symbol in self._instruments:
            held, _ = self._account.position(symbol)
            closings = await self.close(symbol, held, prices[symbol], close_ms, reason)
            cancelled = await self._cancel_all(symbol)
            if not closings:
                idle = PlannedOrder(symbol, 0.0, ActionType.HOLD, None, ZERO, prices[symbol], note=reason)
                closings = [OrderResult(idle, OrderStatus.NONE)]
            error_text = "; ".join(filter(None, (closings[-1].error, cancelled)))
            results.append(replace(closings[-1], fills=tuple(fills_of(closings)), error=error_text))
        fills = fills_of(results)
        funding: Mapping[str, Decimal] = {}
        events: tuple[CandleEvent, ...] = ()
        open_orders: int | None = None
        try:
            funding = await self._account.after_orders(fills)
            missed = await self._account.missed_fills()
            await self._account.put_transfers_aside()
            events = events_of(missed, {s: self._account.position(s)[0] for s in self._instruments})
            resting = await asyncio.gather(*(self._exchange.open_orders(s) for s in self._instruments))
            open_orders = sum(len(orders) for orders in resting)
        except ExchangeError as error:
            if not fills:
                raise
            problems.append(error)
        failure = "; ".join(str(problem) for problem in problems)
        return Outcome(tuple(results), events, funding, failure, open_orders)

    async def _cancel_all(self, symbol: str) -> str:
        try:
            await self._exchange.cancel_all(symbol)
        except ExchangeError as error:
            return f"cancel failed: {error}"
        self._triggers.forget(symbol)
        return ""

    def _emergency_id(self, symbol: str, close_ms: int) -> str:
        attempt = self._attempts.get(symbol, 0) % MAX_ATTEMPTS
        return client_order_id(self._agent, symbol, close_ms, Leg.EMERGENCY, attempt)
