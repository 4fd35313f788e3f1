"""Stops and take-profits resting at the exchange, kept in step with the position that they guard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from envs.account import Leg, Protection, Side
from envs.errors import OrderRejectedError
from envs.instruments import Instrument
from live.exchange.base import (
    Exchange,
    TriggerKind,
    TriggerOrder,
    client_order_id,
    parse_client_order_id,
)
from live.exchange.client_ids import MAX_ATTEMPTS

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


@dataclass(slots=True)
class _Symbol:
    """One symbol's triggers.

    `retired` are ids that must not rest any more: replaced ones until they are cancelled, and those of which it is
    not known whether the exchange has them. `attempts` counts the ids used for a leg at one candle.
    """

    legs: dict[Leg, _Resting] = field(default_factory=dict)
    retired: list[str] = field(default_factory=list)
    attempts: dict[tuple[Leg, int], int] = field(default_factory=dict)

    def next_attempt(self, leg: Leg, close_ms: int) -> int:
        attempt = (self.attempts.get((leg, close_ms), -1) + 1) % MAX_ATTEMPTS
        self.note(leg, close_ms, attempt)
        return attempt

    def note(self, leg: Leg, close_ms: int, attempt: int) -> None:
        for key in [key for key in self.attempts if key[1] < close_ms]:
            del self.attempts[key]
        self.attempts[leg, close_ms] = attempt


class TriggerDesk:
    """Places, replaces and cancels one agent's trigger orders.

    A new trigger is placed before the old one is cancelled, so that a position is never without; both are
    reduce-only with the position's quantity, so that the second of two can do no harm.
    """

    def __init__(self, exchange: Exchange, instruments: Sequence[Instrument], agent: str) -> None:
        self._exchange = exchange
        self._agent = agent
        self._symbols = {instrument.symbol: _Symbol() for instrument in instruments}

    @property
    def count(self) -> int:
        """Triggers resting now."""
        return sum(len(one.legs) for one in self._symbols.values())

    async def begin(self, quantities: Mapping[str, Decimal]) -> None:
        """Take over the triggers that an earlier session left, for the positions that are there now.

        The newest of each kind that would close its position is kept; the others are cancelled.
        """
        for symbol, own in self._symbols.items():
            found = []
            for order in await self._exchange.open_orders(symbol):
                parsed = parse_client_order_id(order.client_order_id)
                if order.is_trigger and parsed is not None and parsed.agent == self._agent:
                    found.append((parsed.candle_close_ms, parsed.attempt, parsed.leg, order))
            own.legs.clear()
            own.retired.clear()
            for close_ms, attempt, leg, order in sorted(found, key=lambda one: one[:2]):
                own.note(leg, close_ms, attempt)
                if order.side.sign * quantities[symbol] >= 0:
                    own.retired.append(order.client_order_id)
                    continue
                if leg in own.legs:
                    own.retired.append(own.legs[leg].client_order_id)
                own.legs[leg] = _Resting(order.client_order_id, order.price, order.quantity)
            await self._cancel_retired(symbol)

    def protection(self, symbol: str) -> Protection:
        """The prices of the resting triggers."""
        legs = self._symbols[symbol].legs

        def price(leg: Leg) -> Decimal | None:
            return legs[leg].price if leg in legs else None

        return Protection(
            stop_price=price(Leg.STOP),
            take_profit_price=price(Leg.TAKE_PROFIT),
            guard_price=price(Leg.PROTECTIVE_STOP),
        )

    def set_at_ms(self, symbol: str, leg: Leg) -> int:
        """Close of the candle at which a resting trigger was set; 0 where none rests."""
        resting = self._symbols[symbol].legs.get(leg)
        parsed = None if resting is None else parse_client_order_id(resting.client_order_id)
        return 0 if parsed is None else parsed.candle_close_ms

    async def update(
        self, symbol: str, quantity: Decimal, protection: Protection | None, close_ms: int
    ) -> None:
        """Bring the triggers in step with a signed position; `protection` None keeps the prices.

        Raises:
            ExchangeError: a trigger could not be placed or cancelled; the position may be without its stop.
        """
        if quantity == 0:
            await self.drop(symbol)
            return
        wanted = self.protection(symbol) if protection is None else protection
        prices = {
            Leg.STOP: wanted.stop_price,
            Leg.TAKE_PROFIT: wanted.take_profit_price,
            Leg.PROTECTIVE_STOP: wanted.guard_price,
        }
        for leg, price in prices.items():
            await self._set(symbol, leg, price, quantity, close_ms)
        await self._cancel_retired(symbol)

    async def _set(
        self, symbol: str, leg: Leg, price: Decimal | None, quantity: Decimal, close_ms: int
    ) -> None:
        own = self._symbols[symbol]
        old = own.legs.get(leg)
        if old is not None and old.price == price and old.quantity == abs(quantity):
            return
        if price is not None:
            attempt = own.next_attempt(leg, close_ms)
            name = client_order_id(self._agent, symbol, close_ms, leg, attempt)
            trigger = TriggerOrder(
                symbol=symbol,
                side=Side.SELL if quantity > 0 else Side.BUY,
                kind=_LEGS[leg],
                trigger_price=price,
                client_order_id=name,
                quantity=abs(quantity),
            )
            # Until the exchange has answered it may rest there or not: then it has to be cancelled by its id.
            own.retired.append(name)
            try:
                await self._exchange.place_trigger(trigger)
            except OrderRejectedError:
                own.retired.remove(name)
                raise
            own.retired.remove(name)
            own.legs[leg] = _Resting(name, price, abs(quantity))
        else:
            own.legs.pop(leg, None)
        if old is not None:
            own.retired.append(old.client_order_id)

    async def drop(self, symbol: str) -> None:
        """Cancel all triggers of a symbol.

        Raises:
            ExchangeError: one could not be cancelled; it stays on the list.
        """
        own = self._symbols[symbol]
        own.retired += [resting.client_order_id for resting in own.legs.values()]
        own.legs.clear()
        await self._cancel_retired(symbol)

    async def _cancel_retired(self, symbol: str) -> None:
        retired = self._symbols[symbol].retired
        while retired:
            await self._exchange.cancel_trigger(symbol, retired[-1])
            retired.pop()

    async def clean(self, quantities: Mapping[str, Decimal]) -> None:
        """Cancel what is left of the triggers of positions that are gone."""
        for symbol, quantity in quantities.items():
            if quantity == 0:
                await self.drop(symbol)

    def forget(self, symbol: str) -> None:
        """Everything of a symbol was cancelled at the exchange by other means."""
        own = self._symbols[symbol]
        own.legs.clear()
        own.retired.clear()
