"""`live.py --flatten`: close every position, cancel every order, and read back until the account is flat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from envs.account import Leg, Order, Side
from envs.errors import (
    ConfigError,
    CredentialsError,
    ExchangeError,
    InstrumentError,
    RateLimitedError,
)
from live.exchange.base import Exchange, ExchangeAccount, OpenOrder, client_order_id
from live.exchange.budget import reducing_risk

TRIES = 5
FIRST_DELAY_S = 1.0
_AGENT = "close"
# A position that takes more than this many of the exchange's largest orders is finished in the next try.
_ORDERS_PER_TRY = 50


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that was done. `problem` is empty when it worked."""

    attempt: int
    symbol: str
    what: str
    result: str = ""
    problem: str = ""


@dataclass(slots=True)
class FlattenReport:
    """What was done, and what is left.

    Attributes:
        actions: in order.
        tries: how often everything was gone through.
        positions, orders: as last read back; None when they could not be read, then nothing is known to be flat.
        wallet_usdt: as last read.
    """

    actions: list[Action] = field(default_factory=list)
    tries: int = 0
    positions: dict[str, Decimal] | None = None
    orders: tuple[OpenOrder, ...] | None = None
    wallet_usdt: Decimal | None = None

    @property
    def flat(self) -> bool:
        """Whether no position and no order is left, by what the exchange said last."""
        return self.positions == {} and self.orders == ()


class Flattener:
    """Closes one account.

    Args:
        exchange: connected.
        symbols: only these; empty for all that the account has.
        tries: how often it is gone through, at most.
        first_delay_s: pause before the second try; it doubles. A ban of some minutes is waited out.
        sleep: how pauses are made.
        on_action: told of each action as it is done.
    """

    def __init__(
        self,
        exchange: Exchange,
        symbols: Sequence[str] = (),
        *,
        tries: int = TRIES,
        first_delay_s: float = FIRST_DELAY_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_action: Callable[[Action], None] = lambda _action: None,
    ) -> None:
        self._exchange = exchange
        self._symbols = frozenset(symbols)
        self._tries = tries
        self._first_delay_s = first_delay_s
        self._sleep = sleep
        self._on_action = on_action
        self._report = FlattenReport()
        self._largest: dict[str, Decimal | None] = {}
        self._last_id_ms = 0
        self._ban_s = 0.0

    async def run(self) -> FlattenReport:
        """Close, cancel, read back, and again until it is flat. Everything is tried, whatever else fails."""
        delay_s = self._first_delay_s
        with reducing_risk():
            await self._read_back()
            for attempt in range(1, self._tries + 1):
                if self._report.flat:
                    break
                if attempt > 1:
                    await self._sleep(max(delay_s, self._ban_s))
                    delay_s *= 2
                self._report.tries = attempt
                await self._close_positions(attempt)
                await self._cancel_orders(attempt)
                await self._read_back()
        return self._report

    def _note(self, attempt: int, symbol: str, what: str, result: str = "", problem: str = "") -> None:
        action = Action(attempt, symbol, what, result, problem)
        self._report.actions.append(action)
        self._on_action(action)

    def _concerns(self, symbol: str) -> bool:
        return not self._symbols or symbol in self._symbols

    # --- positions ---------------------------------------------------------------------------------------

    async def _close_positions(self, attempt: int) -> None:
        """By what was read last; where nothing could be read, there is nothing to go by but to read again."""
        for symbol, quantity in (self._report.positions or {}).items():
            await self._close(attempt, symbol, quantity)

    async def _close(self, attempt: int, symbol: str, held: Decimal) -> None:
        largest = await self._largest_order(symbol)
        left = abs(held)
        for _ in range(_ORDERS_PER_TRY):
            if left <= 0:
                return
            quantity = left if largest is None else min(left, largest)
            order = Order(
                symbol=symbol,
                side=Side.SELL if held > 0 else Side.BUY,
                quantity=quantity,
                reduce_only=True,
                leg=Leg.EMERGENCY,
                client_order_id=self._next_id(symbol),
            )
            what = f"{order.side.value} {quantity:f} at market"
            try:
                report = await self._exchange.place(order)
            except ExchangeError as error:
                self._note(attempt, symbol, what, problem=str(error))
                return
            price = report.average_price
            text = report.status.lower() if price is None else f"{report.status.lower()} at {price:f}"
            self._note(attempt, symbol, what, text)
            if report.executed_quantity < quantity:
                return
            left -= quantity

    async def _largest_order(self, symbol: str) -> Decimal | None:
        """The exchange's largest market order, None where it cannot be known: then it is tried in one."""
        if symbol not in self._largest:
            try:
                found = await self._exchange.instruments((symbol,))
                self._largest[symbol] = found[symbol].max_quantity_market
            except (InstrumentError, CredentialsError, ExchangeError):
                return None
        return self._largest[symbol]

    def _next_id(self, symbol: str) -> str:
        """An id that no order had before: not in this try, and not in an earlier process."""
        self._last_id_ms = max(int(time.time() * 1000), self._last_id_ms + 1)
        try:
            return client_order_id(_AGENT, symbol, self._last_id_ms, Leg.EMERGENCY)
        except ConfigError:  # a symbol too long for it, or not in plain letters
            return f"{_AGENT}_{self._last_id_ms}{Leg.EMERGENCY.value}"

    # --- orders ------------------------------------------------------------------------------------------

    async def _cancel_orders(self, attempt: int) -> None:
        """Of all symbols that have some, had a position, or were asked for."""
        report = self._report
        if report.orders is None:
            concerned = {*(report.positions or {}), *self._symbols}
        else:
            concerned = {order.symbol for order in report.orders}
        for symbol in sorted(concerned):
            count = sum(order.symbol == symbol for order in report.orders or ())
            what = (
                f"cancel {count} order{'s' * (count != 1)}"
                if report.orders is not None
                else "cancel all orders"
            )
            try:
                await self._exchange.cancel_all(symbol)
            except ExchangeError as error:
                self._note(attempt, symbol, what, problem=str(error))
            else:
                self._note(attempt, symbol, what, "cancelled")

    # --- reading -----------------------------------------------------------------------------------------

    async def _read_back(self) -> None:
        report = self._report
        report.positions = report.orders = None
        account, orders = await asyncio.gather(
            self._exchange.account(), self._exchange.open_orders(), return_exceptions=True
        )
        bans = [one.bearable_s for one in (account, orders) if isinstance(one, RateLimitedError)]
        self._ban_s = max(bans, default=0.0)
        if isinstance(account, ExchangeAccount):
            report.wallet_usdt = account.wallet_usdt
            report.positions = {
                symbol: position.quantity
                for symbol, position in account.positions.items()
                if self._concerns(symbol) and position.quantity
            }
        elif isinstance(account, ExchangeError):
            self._note(report.tries, "", "read the positions", problem=str(account))
        else:
            raise account
        if isinstance(orders, list):
            report.orders = tuple(order for order in orders if self._concerns(order.symbol))
        elif isinstance(orders, ExchangeError):
            self._note(report.tries, "", "read the open orders", problem=str(orders))
        else:
            raise orders
