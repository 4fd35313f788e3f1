"""Orders of several agents on one account: none beyond its agent's means, none that touches another's position.

The exchange nets the agents' positions, so its own reduce-only means something else than an agent's: it looks at the
net. An order that shall only reduce is cut down here to what its agent holds at that moment, and is reduce-only at the
exchange as well where the net is sure to be at least as large, whatever becomes of the orders that are on their way.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import nullcontext
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal
from typing import NoReturn

from envs.account import ZERO, Leg, Order, Side
from envs.errors import (
    ExchangeError,
    ExchangeUnavailableError,
    InputError,
    OrderRejectedError,
    OutcomeUnknownError,
)
from live.exchange.base import Exchange, OrderReport, TriggerOrder, TriggerReport
from live.exchange.budget import reducing_risk
from live.exchange.client_ids import client_order_id
from live.exchange.filters import NEAR
from live.subaccount.leverage import ABOVE_LEVERAGE_CAP, MARGIN_INSUFFICIENT, RealLeverage
from live.subaccount.margin import margin_after
from live.subaccount.own_fills import EXCESS_MARK
from live.subaccount.view import AccountView
from live.sync import TradeSync

_LOG = logging.getLogger(__name__)

REDUCE_ONLY_REJECT = -2022

Key = tuple[str, str]
_PADDING = Decimal("1.5")
_REMEMBERED = 1_000

TRIGGER_ENDED = frozenset({"FINISHED", "CANCELED", "REJECTED", "EXPIRED"})
"""What becomes of a trigger for good."""


@dataclass(slots=True)
class _Flight:
    """An order whose end is not known. `under_way`: somebody waits for the exchange's answer."""

    agent: str
    signed: Decimal
    under_way: bool = True


class SharedDesk:
    """Sends the agents' orders. Orders of one agent in one symbol go one after another, others at the same time.

    Attributes:
        leverage: the exchange's own settings.
        halted: why nothing may be opened any more; empty while all is well.
        closing: agents that are being liquidated: they may open nothing.
    """

    def __init__(self, exchange: Exchange, sync: TradeSync, view: AccountView) -> None:
        self._exchange = exchange
        self._sync = sync
        self._view = view
        self.leverage = RealLeverage(exchange, view)
        self._locks: dict[Key, asyncio.Lock] = {}
        # Orders whose end is not known, by symbol and id.
        self._in_flight: dict[str, dict[str, _Flight]] = {}
        self._triggers: dict[Key, dict[str, Side]] = {}
        self._cancelling: dict[str, asyncio.Lock] = {}
        self._cancelled: dict[str, TriggerReport] = {}
        self._marked_ms = 0
        self.halted = ""
        self.closing: set[str] = set()

    def lock(self, agent: str, symbol: str) -> asyncio.Lock:
        """Held while an order of the agent in the symbol is under way."""
        return self._locks.setdefault((agent, symbol), asyncio.Lock())

    # Market orders

    async def place(self, agent: str, order: Order) -> OrderReport:
        """Send an agent's order; see `Exchange.place`. Its fills are in the ledger when it returns."""
        async with self.lock(agent, order.symbol):
            return await self._place(agent, order)

    async def _place(self, agent: str, order: Order) -> OrderReport:
        await self._resolve(order.symbol)
        order = self._cut(agent, order) if order.reduce_only else self._admit(agent, order)
        try:
            return await self._send(agent, order, reduces=order.reduce_only)
        except OrderRejectedError as error:
            if error.code != REDUCE_ONLY_REJECT or not order.reduce_only:
                raise
            # The net changed on the way, or the agent's own position has: its stop may have filled. This order does not
            # exist, so its id is free; what it should do now is asked of what the exchange has now.
            await self._sync.catch_up((order.symbol,))
            return await self._send(agent, self._cut(agent, order), reduces=True)

    async def _send(self, agent: str, order: Order, *, reduces: bool) -> OrderReport:
        if order.reduce_only and not self._net_allows(order):
            order = replace(order, reduce_only=False)
        if reduces and not order.reduce_only:
            order = await self._padded(agent, order)
        return await self._transmit(agent, order, reduces=reduces)

    async def _transmit(self, agent: str, order: Order, *, reduces: bool) -> OrderReport:
        client_id = order.client_order_id or ""
        flights = self._in_flight.setdefault(order.symbol, {})
        flight = flights[client_id] = _Flight(agent, order.signed_quantity)
        try:
            with reducing_risk() if reduces else nullcontext():
                report = await self._place_somehow(order)
        except (InputError, ExchangeError) as error:
            if not isinstance(error, OutcomeUnknownError):
                del flights[client_id]
            raise
        finally:
            flight.under_way = False
        await self._sync.record(*report.fills)
        if report.is_final:
            flights.pop(client_id, None)
        return report

    async def _place_somehow(self, order: Order) -> OrderReport:
        """Send an order that its agent can afford, under the exchange's present leverage or a fitting one."""
        try:
            return await self._exchange.place(order)
        except OrderRejectedError as error:
            # A refused order does not exist, so its id is free.
            if not await self.leverage.make_room(order, error.code):
                raise
        return await self._exchange.place(order)

    async def _padded(self, agent: str, order: Order) -> Order:
        """A reduction that the exchange would find too small, made larger by what is bought or sold first.

        The least notional binds every order that is not reduce-only. The padding is excess until the order follows,
        and whoever finds it alone closes it.
        """
        instrument, price = self._view.instruments[order.symbol], self._view.prices[order.symbol]
        least_usdt = NEAR * instrument.min_notional_usdt
        if order.quantity * price >= least_usdt:
            return order
        steps = (_PADDING * least_usdt / (price * instrument.step_size)).to_integral_value(ROUND_CEILING)
        size = max(steps * instrument.step_size, instrument.min_quantity)
        side = Side.BUY if order.side is Side.SELL else Side.SELL
        name = self._marked_id(agent, order.symbol, EXCESS_MARK)
        padding = Order(order.symbol, side, size, False, Leg.EMERGENCY, name)
        report = await self._transmit(agent, padding, reduces=True)
        return replace(order, quantity=order.quantity + report.executed_quantity)

    def _cut(self, agent: str, order: Order) -> Order:
        """No more than the agent holds, if orders of its own whose end is not known are filled as well."""
        held = self._view.quantity(agent, order.symbol)
        sign = order.side.sign
        own = [one.signed for one in self._flights(order.symbol) if one.agent == agent]
        left = -sign * held - sum((sign * q for q in own if sign * q > 0), ZERO)
        if left <= 0 < -sign * held:
            raise ExchangeUnavailableError(
                f"{order.side.value} {order.quantity} {order.symbol} ({order.client_order_id}) was not sent: what "
                "became of an earlier order that closes the same position is not known yet; try again",
                client_order_id=order.client_order_id,
            )
        if left <= 0:
            _refuse(
                order,
                REDUCE_ONLY_REJECT,
                f"it may only reduce, and {agent} holds {held.normalize():f} of {order.symbol}",
            )
        return replace(order, quantity=min(order.quantity, left))

    def _net_allows(self, order: Order) -> bool:
        """Whether the net covers the order even if all that is in flight in its direction is filled before it."""
        sign = order.side.sign
        ahead = sum((sign * f.signed for f in self._flights(order.symbol) if sign * f.signed > 0), ZERO)
        return -sign * self._view.net(order.symbol) - ahead >= order.quantity

    def _flights(self, symbol: str) -> list[_Flight]:
        return list(self._in_flight.get(symbol, {}).values())

    def _admit(self, agent: str, order: Order) -> Order:
        """An order that may enlarge: within the agent's own margin and the account's limits.

        Raises:
            OrderRejectedError: it is not; nothing was sent.
        """
        view, symbol = self._view, order.symbol
        if not view.settings.may_trade(agent, symbol):
            _refuse(order, None, f"{agent} may not trade {symbol}: add it to its symbols")
        held = {name: state.p1 for name, state in view.positions(agent).items()}
        for other, flights in self._in_flight.items():
            own = sum((one.signed for one in flights.values() if one.agent == agent), ZERO)
            held[other] = held.get(other, ZERO) + own
        before = held.get(symbol, ZERO)
        after = before + order.signed_quantity
        if abs(after) <= abs(before) and after * before >= 0:
            return order
        if self.halted or agent in self.closing:
            _refuse(order, None, self.halted or f"{agent} is being liquidated")
        leverages = view.leverages(agent)
        notional = abs(after) * view.prices[symbol]
        cap = view.instruments[symbol].max_notional_usdt(leverages[symbol])
        if notional > cap:
            _refuse(
                order,
                ABOVE_LEVERAGE_CAP,
                f"a position of {notional:.2f} USDT is above the {cap} allowed at leverage {leverages[symbol]}",
            )
        margin = view.margins(agent)
        bound, equity = margin_after(
            margin, held, (symbol, order.signed_quantity), view.prices, view.instruments, leverages
        )
        if bound > equity:
            _refuse(
                order,
                MARGIN_INSUFFICIENT,
                f"Margin is insufficient: {bound:.2f} USDT would be bound, {agent} has {equity:.2f}",
            )
        self._check_net_leverage(order)
        return order

    def _check_net_leverage(self, order: Order) -> None:
        view, limit = self._view, self._view.settings.limits.max_net_leverage
        if limit is None:
            return
        in_flight = sum((one.signed for one in self._flights(order.symbol)), ZERO)
        notional = view.net_notional_usdt((order.symbol, in_flight + order.signed_quantity))
        equity = view.equity_usdt()
        if notional > limit * equity and notional > view.net_notional_usdt():
            _refuse(
                order,
                None,
                f"the account's net positions would be {notional:.2f} USDT, {limit} times its equity of "
                f"{equity:.2f} are allowed",
            )

    async def _resolve(self, symbol: str) -> None:
        """Ask what became of orders that ended unknown; those that cannot be asked about stay."""
        flights = self._in_flight.get(symbol, {})
        for client_id, flight in list(flights.items()):
            if flight.under_way:
                continue
            try:
                report = await self._exchange.order(symbol, client_id)
            except ExchangeError as error:
                _LOG.warning("%s: what became of it is still not known: %s", client_id, error)
                continue
            if report is not None:
                await self._sync.record(*report.fills)
            if report is None or report.is_final:
                flights.pop(client_id, None)

    # Closing

    async def close(self, agent: str, symbol: str, quantity: Decimal, mark: int) -> OrderReport | None:
        """Close up to a signed quantity of an agent's position, by an order of the shared account itself.

        None when there is nothing (left) to close.

        Raises:
            ExchangeError: it could not be done; ask again.
        """
        async with self.lock(agent, symbol):
            return await self._close(agent, symbol, quantity, mark)

    async def _close(self, agent: str, symbol: str, quantity: Decimal, mark: int) -> OrderReport | None:
        held = self._view.quantity(agent, symbol)
        if held * quantity <= 0:
            return None
        most = self._view.instruments[symbol].max_quantity_market
        size = min(abs(held), abs(quantity), most)
        name = self._marked_id(agent, symbol, mark)
        side = Side.SELL if held > 0 else Side.BUY
        return await self._place(agent, Order(symbol, side, size, True, Leg.EMERGENCY, name))

    def _marked_id(self, agent: str, symbol: str, mark: int) -> str:
        second_ms = self._exchange.now_ms() // 1000 * 1000
        self._marked_ms = max(second_ms, self._marked_ms + 1000)
        return client_order_id(agent, symbol, self._marked_ms + mark, Leg.EMERGENCY)

    # Triggers

    async def adopt(self) -> None:
        """Take over the agents' triggers that rest at the exchange."""
        self._triggers.clear()
        for order in await self._exchange.open_orders():
            agent = self._view.owner_of_id(order.client_order_id)
            if agent and order.is_trigger:
                self._triggers.setdefault((agent, order.symbol), {})[order.client_order_id] = order.side

    async def place_trigger(self, agent: str, trigger: TriggerOrder) -> TriggerReport:
        """Rest an agent's stop or take-profit over no more than it holds; see `Exchange.place_trigger`."""
        symbol, sign = trigger.symbol, trigger.side.sign
        async with self.lock(agent, symbol):
            held = -sign * self._view.quantity(agent, symbol)
            if held <= 0:
                raise OrderRejectedError(
                    f"{trigger.kind.value} {trigger.side.value} {symbol} ({trigger.client_order_id}) was not sent: "
                    f"{agent} holds nothing that it would close",
                    code=REDUCE_ONLY_REJECT,
                    client_order_id=trigger.client_order_id,
                )
            size = held if trigger.quantity is None else min(trigger.quantity, held)
            trigger = replace(trigger, quantity=size, reduce_only=self._view.settings.is_sole(agent, symbol))
            own = self._triggers.setdefault((agent, symbol), {})
            own[trigger.client_order_id] = trigger.side
            try:
                return await self._exchange.place_trigger(trigger)
            except OutcomeUnknownError:
                raise
            except ExchangeError:
                own.pop(trigger.client_order_id, None)
                raise

    async def cancel_trigger(self, agent: str, symbol: str, client_id: str) -> TriggerReport | None:
        """Cancel an agent's trigger; see `Exchange.cancel_trigger`.

        The agent and its account often want the same one gone, when its position is: the exchange is asked once.
        """
        async with self._cancelling.setdefault(client_id, asyncio.Lock()):
            report = self._cancelled.get(client_id)
            if report is None:
                report = await self._exchange.cancel_trigger(symbol, client_id)
                if report is not None and report.status in TRIGGER_ENDED:
                    self._cancelled[client_id] = report
                    if len(self._cancelled) > _REMEMBERED:
                        del self._cancelled[next(iter(self._cancelled))]
        self._cancelling.pop(client_id, None)
        self.ended(agent, symbol, client_id)
        return report

    def ended(self, agent: str, symbol: str, client_id: str) -> None:
        """A trigger rests no longer."""
        self._triggers.get((agent, symbol), {}).pop(client_id, None)

    def has_triggers(self, agent: str, symbol: str) -> bool:
        """Whether any of an agent's triggers may rest."""
        return bool(self._triggers.get((agent, symbol)))

    async def cancel_triggers(self, agent: str, symbol: str) -> None:
        """Cancel all of an agent's triggers in a symbol."""
        for client_id in list(self._triggers.get((agent, symbol), {})):
            await self.cancel_trigger(agent, symbol, client_id)

    # What is left over

    async def tidy(self, agent: str, symbol: str, mark: int) -> bool:
        """Cancel triggers that would enlarge the position, and close what orders that only close have opened.

        False when an excess is left.
        """
        async with self.lock(agent, symbol):
            held = self._view.quantity(agent, symbol)
            for client_id, side in list(self._triggers.get((agent, symbol), {}).items()):
                if side.sign * held >= 0:
                    await self.cancel_trigger(agent, symbol, client_id)
            excess = (await self._view.own_fills(agent, symbol)).excess
            if excess:
                _LOG.warning("%s: %s has an excess of %s, closing it", symbol, agent, excess)
                await self._close(agent, symbol, excess, mark)
            return not (await self._view.own_fills(agent, symbol)).excess


def _refuse(order: Order, code: int | None, why: str) -> NoReturn:
    raise OrderRejectedError(
        f"{order.side.value} {order.quantity} {order.symbol} ({order.client_order_id}) was not sent: {why}",
        code=code,
        client_order_id=order.client_order_id,
    )
