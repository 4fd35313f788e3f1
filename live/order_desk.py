"""A step's orders at the exchange: sent, and guarded by their triggers; nothing here decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from envs.account import (
    ZERO,
    ActionType,
    CandleEvent,
    Leg,
    OrderResult,
    OrderStatus,
    Plan,
    PlannedOrder,
    Protection,
)
from envs.errors import ExchangeError
from envs.instruments import Instrument
from envs.planning import to_decimal
from envs.settings import EnvConfig
from live.closing_desk import ClosingDesk
from live.exchange.base import Exchange, OrderReport, client_order_id
from live.fill_events import events_of
from live.intent import Intent
from live.live_account import LiveAccount
from live.outcome import Outcome, fills_of, place
from live.triggers import TriggerDesk

_OWN_LEGS = (Leg.STOP, Leg.TAKE_PROFIT)
# Orders that could bind more than this fraction of the equity go one after another.
_AMPLE = Decimal("0.8")


class OrderDesk:
    """Carries plans out at an exchange, for one agent.

    Args:
        exchange, account, triggers: the agent's.
        config: of its environment.
        instruments: what it trades.
        agent: name in client order ids.
        intents: what an earlier session's last decisions wanted, by symbol.
        on_intents: told them anew before orders that change them are sent.
    """

    def __init__(
        self,
        exchange: Exchange,
        account: LiveAccount,
        triggers: TriggerDesk,
        config: EnvConfig,
        instruments: Sequence[Instrument],
        agent: str,
        *,
        intents: Mapping[str, Intent] | None = None,
        on_intents: Callable[[Mapping[str, Intent]], None] = lambda _intents: None,
    ) -> None:
        self._exchange = exchange
        self._account = account
        self._triggers = triggers
        self._action = config.action
        self._intents = dict(intents or {})
        self._on_intents = on_intents
        self._instruments = {instrument.symbol: instrument for instrument in instruments}
        self._leverage = {i.symbol: config.leverage_setting(i) for i in instruments}
        self._agent = agent
        self._closing = ClosingDesk(exchange, account, triggers, instruments, agent)
        self._done: dict[str, OrderReport] = {}
        self._missing: dict[str, Protection] = {}

    async def begin(self, close_ms: int) -> None:
        """Find out what an earlier session left: this candle's orders, its triggers, and those it did not place."""
        await self._triggers.begin(
            {symbol: self._account.position(symbol)[0] for symbol in self._instruments}
        )
        self._done.clear()
        self._missing.clear()
        self._closing.begin()
        for symbol, instrument in self._instruments.items():
            done = await self._exchange.order(
                symbol, client_order_id(self._agent, symbol, close_ms, Leg.ORDER)
            )
            if done is not None:
                self._done[symbol] = done
            await self._closing.find_used_ids(symbol, close_ms)
            missing = self._missing_protection(instrument, await self._intended(symbol))
            if missing is not None:
                self._missing[symbol] = missing

    async def _intended(self, symbol: str) -> Intent | None:
        """What the last decision wanted for the position that is there now; None where it says nothing of it."""
        intent = self._intents.get(symbol)
        quantity, _ = self._account.position(symbol)
        if intent is None or intent.quantity * quantity <= 0:
            return None
        if intent.ordered:
            order = await self._exchange.order(
                symbol, client_order_id(self._agent, symbol, intent.close_ms, Leg.ORDER)
            )
            if order is None or not order.executed_quantity:
                return None
        return intent

    def _missing_protection(self, instrument: Instrument, intent: Intent | None) -> Protection | None:
        """The stop and take-profit that a position should have and has not: the decision's own, else from its entry.

        The agent's triggers are placed after its order: a process that was killed between the two left a position
        without them, or with those of an earlier decision.
        """
        quantity, _ = self._account.position(instrument.symbol)
        resting = wanted = self._triggers.protection(instrument.symbol)
        if quantity == 0:
            return None
        if intent is not None:
            before = {
                leg: self._triggers.set_at_ms(instrument.symbol, leg) < intent.close_ms for leg in _OWN_LEGS
            }
            if intent.stop_price is not None and before[Leg.STOP]:
                wanted = replace(wanted, stop_price=intent.stop_price)
            if intent.take_profit_price is not None and before[Leg.TAKE_PROFIT]:
                wanted = replace(wanted, take_profit_price=intent.take_profit_price)
        wanted = self._with_scheme(instrument, wanted)
        return None if wanted == resting else wanted

    def _with_scheme(self, instrument: Instrument, wanted: Protection | None) -> Protection:
        """`wanted`, or what rests where that is None, with the scheme's stop and take-profit where it has none.

        A position that somebody else opened never had them. They are measured from the entry.
        """
        quantity, entry = self._account.position(instrument.symbol)
        found = self._triggers.protection(instrument.symbol) if wanted is None else wanted
        sign = 1 if quantity > 0 else -1
        stop, take = (
            to_decimal(self._action.stop_loss_fraction),
            to_decimal(self._action.take_profit_fraction),
        )
        if quantity and stop > 0 and found.stop_price is None:
            price = instrument.round_price(entry * (1 - sign * stop), up=sign > 0)
            found = replace(found, stop_price=price)
        if quantity and take > 0 and found.take_profit_price is None:
            price = instrument.round_price(entry * (1 + sign * take), up=sign < 0)
            found = replace(found, take_profit_price=price)
        return found

    # --- a step ------------------------------------------------------------------------------------------

    async def carry_out(self, plan: Plan) -> Outcome:
        """Send a plan's orders, those that shrink positions first, and set their triggers.

        Raises:
            StepLogError: the decisions' triggers cannot be written down; nothing was sent.
        """
        self._note_intents(plan)
        before = {symbol: self._account.position(symbol)[0] for symbol in self._instruments}
        results = await self._send_all(plan)
        funding: Mapping[str, Decimal] = {}
        failure = ""
        events: list[CandleEvent] = []
        try:
            funding = await self._account.after_orders(fills_of(results.values()))
        except ExchangeError as error:
            failure = f"the account cannot be read after the orders: {error}"
        else:
            for entry in plan.entries:
                outcome = await self._protect(
                    entry, results[entry.symbol], before[entry.symbol], plan.candle_close_ms
                )
                results[entry.symbol] = outcome.results[0]
                events += outcome.events
                failure = failure or outcome.failure
            try:
                await self._account.put_transfers_aside()
            except ExchangeError as error:
                failure = failure or f"the account cannot be read after the orders: {error}"
        return Outcome(
            tuple(results[entry.symbol] for entry in plan.entries), tuple(events), funding, failure
        )

    def _note_intents(self, plan: Plan) -> None:
        """Before anything is sent: which triggers belong to it, where they are the decision's and not the scheme's."""
        if self._action.scheme != "decision":
            return
        found = {entry.symbol: Intent.of(entry, plan.candle_close_ms) for entry in plan.entries}
        news = {symbol: one for symbol, one in found.items() if one is not None and symbol not in self._done}
        if news:
            self._intents |= news
            self._on_intents(self._intents)

    async def _send_all(self, plan: Plan) -> dict[str, OrderResult]:
        """Send the orders that shrink positions, all at the same time; when they have ended the others, also at the
        same time unless the order of their arrival could decide which of them the exchange refuses for margin.
        """
        reducing: list[PlannedOrder] = []
        enlarging: list[PlannedOrder] = []
        idle: list[PlannedOrder] = []
        for entry in plan.entries:
            group = idle if entry.order is None else reducing if entry.order.reduce_only else enlarging
            group.append(entry)
        found = await self._send_together(reducing, plan.candle_close_ms)
        if len(enlarging) < 2 or self._is_margin_ample(plan):
            found += await self._send_together(enlarging, plan.candle_close_ms)
        else:
            found += [await self._send(entry, plan.candle_close_ms) for entry in enlarging]
        found += [await self._send(entry, plan.candle_close_ms) for entry in idle]
        return {result.planned.symbol: result for result in found}

    async def _send_together(self, entries: Sequence[PlannedOrder], close_ms: int) -> list[OrderResult]:
        if len(entries) < 2:
            return [await self._send(entry, close_ms) for entry in entries]
        # What an order may fail with is in its result. What else is raised ends the step, once all have ended.
        ended = await asyncio.gather(
            *(self._send(entry, close_ms) for entry in entries), return_exceptions=True
        )
        results = []
        for one in ended:
            if isinstance(one, BaseException):
                raise one
            results.append(one)
        return results

    def _is_margin_ample(self, plan: Plan) -> bool:
        """Whether the margin is sure to do for all positions together, whichever of the orders are filled first."""
        equity = self._account.wallet_usdt
        bound = ZERO
        for entry in plan.entries:
            held, entry_price = self._account.position(entry.symbol)
            equity += held * (entry.price - entry_price)
            change = ZERO if entry.order is None else entry.order.signed_quantity
            bound += max(abs(held), abs(held + change)) * entry.price / self._leverage[entry.symbol]
        return bound <= _AMPLE * equity

    async def _send(self, entry: PlannedOrder, close_ms: int) -> OrderResult:
        symbol = entry.symbol
        done = self._done.pop(symbol, None)
        if done is not None:
            note = f"order {done.client_order_id} of this candle was already executed before the restart"
            kept = replace(entry, order=None, action_type=ActionType.HOLD, protection=None, note=note)
            return OrderResult(kept, OrderStatus.NONE, error=note)
        if entry.order is None:
            status = OrderStatus.SKIPPED if entry.skipped else OrderStatus.NONE
            return OrderResult(entry, status, error=entry.note if entry.skipped else "")
        order = replace(
            entry.order, client_order_id=client_order_id(self._agent, symbol, close_ms, entry.order.leg)
        )
        return await place(self._exchange, replace(entry, order=order), order, self._agent)

    async def close_all(self, reason: str, close_ms: int, prices: Mapping[str, Decimal]) -> Outcome:
        """Close every position and cancel every order instead; see `ClosingDesk.close_all`."""
        return await self._closing.close_all(reason, close_ms, prices)

    def rehearse(self, plan: Plan) -> Iterator[Awaitable[None]]:
        """What sending a plan takes, without sending it, order by order; each is to be awaited."""
        self._is_margin_ample(plan)
        for entry in plan.entries:
            if entry.order is not None:
                name = client_order_id(self._agent, entry.symbol, plan.candle_close_ms, entry.order.leg)
                yield self._exchange.rehearse(replace(entry.order, client_order_id=name))

    # --- triggers ----------------------------------------------------------------------------------------

    async def _protect(
        self, entry: PlannedOrder, result: OrderResult, before: Decimal, close_ms: int
    ) -> Outcome:
        """Bring the triggers in step with the position; a position whose stop is refused is closed."""
        symbol = entry.symbol
        quantity, _ = self._account.position(symbol)
        turned = quantity * before < 0
        # Triggers of the side that the order did not reach, or that somebody else took the position from.
        wrong = turned if entry.order is None else quantity * entry.target_quantity < 0
        protection = None if wrong else entry.protection
        missing = self._missing.pop(symbol, None)
        if missing is not None and not turned and (protection is None or result.planned.order is None):
            guard = missing.guard_price if protection is None else protection.guard_price
            protection = replace(missing, guard_price=guard)
        try:
            if protection is None and turned:
                await self._triggers.drop(symbol)
            protection = self._with_scheme(self._instruments[symbol], protection)
            await self._triggers.update(symbol, quantity, protection, close_ms)
        except ExchangeError as error:
            return await self._close_unguarded(result, quantity, entry.price, close_ms, error)
        return Outcome((result,))

    async def _close_unguarded(
        self, result: OrderResult, held: Decimal, price: Decimal, close_ms: int, error: ExchangeError
    ) -> Outcome:
        symbol = result.planned.symbol
        failure = ""
        closings = await self._closing.close(symbol, held, price, close_ms, f"its stop failed: {error}")
        if all(closing.status is OrderStatus.FILLED for closing in closings):
            text = f"position closed again, its stop failed: {error}"
        else:
            text = f"its stop failed: {error}; nor could the position be closed: {closings[-1].error}"
            failure = f"{symbol} is neither guarded nor closed: {text}"
        fills = fills_of(closings)
        try:
            await self._account.after_orders(fills)
            await self._triggers.drop(symbol)
        except ExchangeError as problem:
            failure = failure or f"{symbol}: {text}; then {problem}"
        events = events_of(fills, {symbol: held + sum((f.signed_quantity for f in fills), ZERO)})
        noted = tuple(replace(event, note=text) for event in events)
        result = replace(result, error="; ".join(filter(None, (result.error, text))))
        return Outcome((result,), noted, failure=failure)
