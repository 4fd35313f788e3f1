"""Stops and take-profits resting at the exchange, kept in step with the position that they guard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from envs.account import Leg, Protection, Side
from envs.instruments import Instrument
from live.exchange.base import (
    Exchange,
    TriggerKind,
    TriggerOrder,
    client_order_id,
    parse_client_order_id,
)

_LEGS = {
    Leg.STOP: TriggerKind.STOP,
    Leg.PROTECTIVE_STOP: TriggerKind.STOP,
    Leg.TAKE_PROFIT: TriggerKind.TAKE_PROFIT,
}


@dataclass(frozen=True, slots=True)
class _Resting:
    client_order_id: str
    price: Decimal
    quantity: Decimal


class TriggerDesk:
    """Places, replaces and cancels one agent's trigger orders.

    A new trigger is placed before the old one is cancelled, so that a position is never without; both are
    reduce-only with the position's quantity, so that the second of two can do no harm.
    """

    def __init__(self, exchange: Exchange, instruments: Sequence[Instrument], agent: str) -> None:
        self._exchange = exchange
        self._agent = agent
        self._resting: dict[str, dict[Leg, _Resting]] = {i.symbol: {} for i in instruments}

    @property
    def count(self) -> int:
        """Triggers resting now."""
        return sum(len(legs) for legs in self._resting.values())

    async def begin(self) -> None:
        """Take over the triggers that an earlier session left."""
        for symbol, legs in self._resting.items():
            for order in await self._exchange.open_orders(symbol):
                parsed = parse_client_order_id(order.client_order_id)
                if order.is_trigger and parsed is not None and parsed.agent == self._agent:
                    legs[parsed.leg] = _Resting(order.client_order_id, order.price, order.quantity)

    def protection(self, symbol: str) -> Protection:
        """The prices of the resting triggers."""
        legs = self._resting[symbol]

        def price(leg: Leg) -> Decimal | None:
            return legs[leg].price if leg in legs else None

        return Protection(
            stop_price=price(Leg.STOP),
            take_profit_price=price(Leg.TAKE_PROFIT),
            guard_price=price(Leg.PROTECTIVE_STOP),
        )

    async def update(
        self, symbol: str, quantity: Decimal, protection: Protection | None, close_ms: int
    ) -> None:
        """Bring the triggers in step with a signed position; `protection` None keeps the prices."""
        if quantity == 0:
            await self._cancel(symbol)
            return
        wanted = self.protection(symbol) if protection is None else protection
        prices = {
            Leg.STOP: wanted.stop_price,
            Leg.TAKE_PROFIT: wanted.take_profit_price,
            Leg.PROTECTIVE_STOP: wanted.guard_price,
        }
        for leg, price in prices.items():
            await self._set(symbol, leg, price, quantity, close_ms)

    async def _set(
        self, symbol: str, leg: Leg, price: Decimal | None, quantity: Decimal, close_ms: int
    ) -> None:
        legs = self._resting[symbol]
        old = legs.get(leg)
        if old is not None and old.price == price and old.quantity == abs(quantity):
            return
        if price is not None:
            name = client_order_id(self._agent, symbol, close_ms, leg)
            if old is not None and old.client_order_id == name:
                # A restart on the same candle: the first id of this candle is taken.
                name = client_order_id(self._agent, symbol, close_ms, leg, 1)
            trigger = TriggerOrder(
                symbol=symbol,
                side=Side.SELL if quantity > 0 else Side.BUY,
                kind=_LEGS[leg],
                trigger_price=price,
                client_order_id=name,
                quantity=abs(quantity),
            )
            await self._exchange.place_trigger(trigger)
            legs[leg] = _Resting(name, price, abs(quantity))
        else:
            legs.pop(leg, None)
        if old is not None:
            await self._exchange.cancel_trigger(symbol, old.client_order_id)

    async def _cancel(self, symbol: str) -> None:
        legs = self._resting[symbol]
        while legs:
            _, resting = legs.popitem()
            await self._exchange.cancel_trigger(symbol, resting.client_order_id)

    async def clean(self, quantities: Mapping[str, Decimal]) -> None:
        """Cancel what is left of the triggers of positions that are gone."""
        for symbol, quantity in quantities.items():
            if quantity == 0:
                await self._cancel(symbol)

    def forget(self) -> None:
        """Everything was cancelled at the exchange by other means."""
        for legs in self._resting.values():
            legs.clear()
