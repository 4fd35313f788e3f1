"""Placing, asking about and cancelling orders at Binance, so that none is doubled and none is lost.

A request to place an order ends in one of three ways. Confirmed or refused: done. Known not to have been executed
(connection refused, 503 "Service Unavailable", -1001, -1008): sent again under the same client order id, after
asking. Unknown (timeout, cut connection, -1006, -1007, 503 "Unknown error"): asked about until the exchange either
knows the order or can no longer accept it, which is so once its receive window has passed; only then sent again.
Uniqueness of client order ids would not protect: the exchange holds ids unique among open orders only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

from envs.account import ZERO, Fill, Order
from envs.errors import (
    AuthenticationError,
    ClockSkewError,
    ConfigError,
    ExchangeError,
    ExchangeUnavailableError,
    OrderRejectedError,
    OutcomeUnknownError,
    RateLimitedError,
)
from live.exchange import parse
from live.exchange.base import OpenOrder, OrderReport, TriggerOrder, TriggerReport
from live.exchange.budget import reducing_risk
from live.exchange.checks import OrderChecks
from live.exchange.client_ids import MAX_LENGTH
from live.exchange.error_codes import DUPLICATE_CLIENT_ORDER_ID, ORDER_DOES_NOT_EXIST, UNKNOWN_ORDER
from live.exchange.parse import Json, decimal_of, plain
from live.exchange.rest import BinanceRest
from live.exchange.trades import Trades

_LOG = logging.getLogger(__name__)

# After the receive window the exchange's back end may still be a moment behind.
_BACK_END_DELAY_S = 1.0
_ASK_AGAIN_S = (0.05, 0.1, 0.25, 0.5, 1.0)
_SETTLE_S = (0.05, 0.1, 0.2, 0.5, 1.0)
# Trades are looked through from a little before the order was sent: clocks differ.
_LOOK_BACK_MS = 2000

Send = Callable[[], Awaitable[Json]]
Find = Callable[[], Awaitable[Json | None]]


class Orders:
    """Orders of one account.

    Args:
        rest, trades: how it is asked.
        checks: what an order must pass before it is sent.
        back_end_delay_s: the margin after the receive window.
    """

    def __init__(
        self,
        rest: BinanceRest,
        trades: Trades,
        *,
        checks: OrderChecks,
        back_end_delay_s: float = _BACK_END_DELAY_S,
    ) -> None:
        self._rest = rest
        self._trades = trades
        self._checks = checks
        self._window_s = rest.recv_window_ms / 1000 + back_end_delay_s

    async def place(self, order: Order) -> OrderReport:
        """Send a market order; see `Exchange.place`."""
        with reducing_risk() if order.reduce_only else nullcontext():
            return await self._place(order)

    async def _place(self, order: Order) -> OrderReport:
        client_id = _require_id(order.client_order_id, order.symbol)
        await self._checks.order(order)
        params = _params_of(order, client_id)
        sent_ms = self._rest.clock.now_ms()
        reply = await self._submit(
            lambda: self._rest.send("futures_create_order", **params),
            lambda: self._find(order.symbol, client_id),
            lambda: self._find_by_trades(order.symbol, client_id, sent_ms - _LOOK_BACK_MS),
            f"{order.side.value} {plain(order.quantity)} {order.symbol}",
            client_id,
        )
        try:
            return await self._report(await self._settled(order.symbol, client_id, reply))
        except ExchangeError as error:
            # The order exists, so no error may say that it does not.
            raise OutcomeUnknownError(
                f"{client_id} was placed, but how it was filled could not be read: {error}. "
                f"Ask for it by its client order id before anything else is traded.",
                code=error.code,
                http_status=error.http_status,
                client_order_id=client_id,
            ) from error

    async def rehearse(self, order: Order) -> None:
        """Check a market order and go through its request, which leads nowhere."""
        client_id = _require_id(order.client_order_id, order.symbol)
        with suppress(OrderRejectedError):
            self._checks.is_sure(order)
        await self._rest.rehearse(_params_of(order, client_id))

    async def place_trigger(self, trigger: TriggerOrder) -> TriggerReport:
        """Rest a stop or take-profit in the algo-order service; see `Exchange.place_trigger`."""
        with reducing_risk():
            report = await self._place_trigger(trigger)
        self._checks.placed(report)
        return report

    async def _place_trigger(self, trigger: TriggerOrder) -> TriggerReport:
        client_id = _require_id(trigger.client_order_id, trigger.symbol)
        await self._checks.trigger(trigger)
        params: dict[str, Any] = {
            "symbol": trigger.symbol,
            "side": trigger.side.value,
            "type": trigger.kind.value,
            "triggerPrice": plain(trigger.trigger_price),
            "workingType": "MARK_PRICE" if trigger.by_mark_price else "CONTRACT_PRICE",
            "clientAlgoId": client_id,
        }
        if trigger.quantity is None:
            params["closePosition"] = "true"
        else:
            params["quantity"] = plain(trigger.quantity)
            if trigger.reduce_only:
                params["reduceOnly"] = "true"

        async def find() -> Json | None:
            return await self._find_trigger(trigger.symbol, client_id)

        reply = await self._submit(
            lambda: self._rest.send("futures_create_order", **params),
            find,
            find,
            f"{trigger.kind.value} {trigger.side.value} {trigger.symbol} at {plain(trigger.trigger_price)}",
            client_id,
        )
        return parse.trigger_report(reply)

    async def order(self, symbol: str, client_order_id: str) -> OrderReport | None:
        """What became of an order; None when the exchange knows none of this id."""
        found = await self._find(symbol, client_order_id)
        return None if found is None else await self._report(found)

    async def cancel(self, symbol: str, client_order_id: str) -> OrderReport | None:
        """Cancel an order and tell how it ended; an order that is gone already is no error."""
        with reducing_risk():
            await self._cancel(symbol, origClientOrderId=client_order_id)
            return await self.order(symbol, client_order_id)

    async def cancel_trigger(self, symbol: str, client_order_id: str) -> TriggerReport | None:
        """Cancel a trigger order and tell how it ended; one that is gone already is no error."""
        with reducing_risk():
            accepted = await self._cancel(symbol, clientAlgoId=client_order_id)
            placed = self._checks.cancelled(client_order_id)
            if accepted and placed is not None:
                return replace(placed, status="CANCELED")
            # It may have triggered; or another placed it.
            found = await self._find_trigger(symbol, client_order_id)
            return None if found is None else parse.trigger_report(found)

    async def _cancel(self, symbol: str, **name: Any) -> bool:
        """Cancel an order; whether there was one to cancel."""
        try:
            await self._rest.read("futures_cancel_order", symbol=symbol, **name)
        except ExchangeError as error:
            if error.code not in (UNKNOWN_ORDER, ORDER_DOES_NOT_EXIST):
                raise
            return False
        return True

    async def open_orders(self, symbol: str | None) -> list[OpenOrder]:
        """Resting orders of both kinds."""
        ordinary, triggers = await asyncio.gather(
            self._rest.read("futures_get_open_orders", symbol=symbol),
            self._rest.read("futures_get_open_orders", symbol=symbol, conditional=True),
        )
        if symbol is None:
            self._checks.count(triggers)
        with parse.reading("the open orders"):
            return [parse.open_order(row) for row in (*ordinary, *triggers)]

    async def cancel_all(self, symbol: str) -> None:
        """Cancel resting orders of both kinds: the exchange's cancel-all leaves triggers alone."""
        with reducing_risk():
            await asyncio.gather(
                self._rest.read("futures_cancel_all_open_orders", symbol=symbol),
                self._rest.read("futures_cancel_all_open_orders", symbol=symbol, conditional=True),
            )
        self._checks.cancelled_all(symbol)

    async def cancel_later(self, symbol: str, countdown_ms: int) -> None:
        """Have the exchange cancel the symbol's ordinary orders after a time, unless asked again; 0 takes it back."""
        await self._rest.read("futures_countdown_cancel_all", symbol=symbol, countdownTime=countdown_ms)

    async def _submit(self, send: Send, find: Find, find_slowly: Find, what: str, client_id: str) -> Json:
        policy = self._rest.policy
        resynced = False
        attempt = 1
        while True:
            sent_s = time.monotonic()
            try:
                return await send()
            except ClockSkewError as error:
                if resynced:
                    raise _about(error, what, client_id) from error
                resynced = True
                await self._rest.sync_clock()
                continue
            except RateLimitedError as error:
                if attempt >= policy.attempts or error.retry_after_s > self._rest.patience_s():
                    raise _about(error, what, client_id) from error
                failure: ExchangeError = error
                pause_s = error.retry_after_s
            except (OrderRejectedError, AuthenticationError) as error:
                if error.code == DUPLICATE_CLIENT_ORDER_ID:
                    found = await self._ask(find, what, client_id)
                    if found is not None:
                        return found
                raise _about(error, what, client_id) from error
            except ExchangeUnavailableError as error:
                failure, pause_s = error, policy.pause_s(attempt, self._rest.rng)
            except OutcomeUnknownError as error:
                _LOG.warning("%s (%s): %s; asking what became of it", what, client_id, error)
                found = await self._resolve(find, find_slowly, sent_s, what, client_id, error)
                if found is not None:
                    return found
                failure, pause_s = error, policy.pause_s(attempt, self._rest.rng)
            except ExchangeError as error:
                # "Not found" and the like are no answers to an order, but say that there is none.
                raise _about(error, what, client_id, OrderRejectedError) from error
            if attempt >= policy.attempts:
                raise ExchangeUnavailableError(
                    f"{what} ({client_id}) could not be placed in {policy.attempts} attempts and does not exist "
                    f"at the exchange. Last failure: {failure}",
                    code=failure.code,
                    http_status=failure.http_status,
                    client_order_id=client_id,
                ) from failure
            _LOG.warning("%s (%s), attempt %d of %d: %s", what, client_id, attempt, policy.attempts, failure)
            attempt += 1
            await self._rest.sleep(pause_s)
            found = await self._ask(find, what, client_id)
            if found is not None:
                return found

    async def _ask(self, find: Find, what: str, client_id: str) -> Json | None:
        """Ask once more before sending again; no answer means that nothing may be sent."""
        try:
            return await find()
        except ExchangeError as error:
            raise _unresolved(what, client_id, error) from error

    async def _resolve(
        self, find: Find, find_slowly: Find, sent_s: float, what: str, client_id: str, cause: ExchangeError
    ) -> Json | None:
        """Find out what became of an order: the exchange's reply about it, or None when it does not exist.

        "Does not exist" counts only once the exchange could no longer accept the request.
        """
        final_s = sent_s + self._window_s
        give_up_s = final_s + self._rest.policy.resolve_s
        pauses = iter(_ASK_AGAIN_S)
        answer: ExchangeError = cause
        while True:
            asked_s = time.monotonic()
            try:
                found = await find()
                if found is not None:
                    return found
                if asked_s >= final_s:
                    return await find_slowly()
            except (ExchangeUnavailableError, RateLimitedError, ClockSkewError) as error:
                answer = error
            except ExchangeError as error:
                raise _unresolved(what, client_id, error) from error
            if time.monotonic() >= give_up_s:
                raise _unresolved(what, client_id, answer) from answer
            await asyncio.sleep(next(pauses, _ASK_AGAIN_S[-1]))

    async def _find(self, symbol: str, client_id: str) -> Json | None:
        return await _or_none(
            self._rest.read("futures_get_order", symbol=symbol, origClientOrderId=client_id)
        )

    async def _find_by_trades(self, symbol: str, client_id: str, since_ms: int) -> Json | None:
        """The last look before an order counts as not there: have its fills arrived?"""
        for fill in await self._trades.find(symbol, since_ms=since_ms):
            if fill.client_order_id == client_id:
                return await _or_none(
                    self._rest.read("futures_get_order", symbol=symbol, orderId=fill.order_id)
                )
        return None

    async def _find_trigger(self, symbol: str, client_id: str) -> Json | None:
        """GET algoOrder has been seen to deny an order that exists, so the lists are asked as well."""
        found = await _or_none(self._rest.read("futures_get_order", symbol=symbol, clientAlgoId=client_id))
        if found is not None:
            return found
        for method in ("futures_get_open_orders", "futures_get_all_orders"):
            rows: list[Json] = await self._rest.read(method, symbol=symbol, conditional=True)
            for row in rows:
                if row.get("clientAlgoId") == client_id:
                    return row
        return None

    async def _settled(self, symbol: str, client_id: str, reply: Json) -> Json:
        """The order once it has ended: a market order does so at once, though the first reply may be earlier."""
        for pause_s in _SETTLE_S:
            if parse.order_report(reply).is_final:
                break
            await asyncio.sleep(pause_s)
            reply = await self._find(symbol, client_id) or reply
        return reply

    async def _report(self, reply: Json) -> OrderReport:
        bare = parse.order_report(reply)
        self._trades.know_order(bare.symbol, bare.order_id, bare.client_order_id)
        executed = decimal_of(reply.get("executedQty"))
        fills: tuple[Fill, ...] = ()
        if executed > ZERO:
            fills = await self._trades.of_order(bare.symbol, bare.order_id, executed)
        return parse.order_report(reply, fills)


def _params_of(order: Order, client_id: str) -> dict[str, Any]:
    """A market order as the exchange reads it."""
    params: dict[str, Any] = {
        "symbol": order.symbol,
        "side": order.side.value,
        "type": "MARKET",
        "quantity": plain(order.quantity),
        "newClientOrderId": client_id,
        "newOrderRespType": "RESULT",
    }
    if order.reduce_only:
        params["reduceOnly"] = "true"
    return params


async def _or_none(request: Awaitable[Json]) -> Json | None:
    try:
        return await request
    except ExchangeError as error:
        if error.code == ORDER_DOES_NOT_EXIST:
            return None
        raise


def _require_id(client_id: str | None, symbol: str) -> str:
    if not client_id or len(client_id) > MAX_LENGTH:
        raise ConfigError(
            f"an order in {symbol} has the client order id {client_id!r}; "
            f"give one of 1 to {MAX_LENGTH} characters, made by client_order_id()"
        )
    return client_id


def _about(
    error: ExchangeError, what: str, client_id: str, kind: type[ExchangeError] | None = None
) -> ExchangeError:
    """The same error, naming the order."""
    text = f"{what} ({client_id}): {error}"
    if isinstance(error, RateLimitedError):
        named: ExchangeError = RateLimitedError(
            text, retry_after_s=error.retry_after_s, code=error.code, http_status=error.http_status
        )
    else:
        named = (kind or type(error))(text, code=error.code, http_status=error.http_status)
    named.client_order_id = client_id
    return named


def _unresolved(what: str, client_id: str, cause: ExchangeError) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"it could not be found out whether {what} ({client_id}) was placed: {cause}. "
        f"Ask for it by its client order id before anything else is traded.",
        code=cause.code,
        http_status=cause.http_status,
        client_order_id=client_id,
    )
