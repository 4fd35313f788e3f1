"""The exchange's own leverage settings of an account that several agents share.

A setting bounds the net position's notional and the margin that it binds, and one agent's close may enlarge the net:
whoever closes a short beside another's long buys at the exchange as if it opened. An agent's own leverage is checked
before its order is sent; the exchange's must only never stand in the way of an order that passed.
"""

from __future__ import annotations

import asyncio
import logging
from decimal import Decimal

from envs.account import Order
from envs.errors import ConfigError, OrderRejectedError
from live.exchange.base import Exchange
from live.subaccount.view import AccountView

_LOG = logging.getLogger(__name__)

MARGIN_INSUFFICIENT = -2019
ABOVE_LEVERAGE_CAP = -2027
MARGIN_BELOW_LEVERAGE = -2028

_AHEAD = Decimal("1.01")
"""The exchange counts at its mark price, which may be above the last price."""


class RealLeverage:
    """Keeps the exchange's leverage at the highest that any agent needs, or at what the net position demands.

    Args:
        exchange: the account.
        view: of it; it also keeps what each agent has set for itself.
    """

    def __init__(self, exchange: Exchange, view: AccountView) -> None:
        self._exchange = exchange
        self._view = view
        self._lock = asyncio.Lock()
        self._real: dict[str, int] = {}

    async def set(self, agent: str, symbol: str, leverage: int) -> None:
        """Set an agent's leverage, and the exchange's to the highest of all agents'.

        Raises:
            ConfigError: the exchange has no such leverage.
            ExchangeError: it could not be set.
        """
        instrument = self._view.instruments.get(symbol)
        if instrument is None or not 1 <= leverage <= instrument.max_leverage:
            most = "" if instrument is None else f" from 1 to {instrument.max_leverage}"
            raise ConfigError(
                f"{agent}: leverage {leverage} for {symbol}: give a traded symbol and a number{most}"
            )
        async with self._lock:
            self._view.leverage[agent, symbol] = leverage
            needed = max(x for (_, name), x in self._view.leverage.items() if name == symbol)
            if self._real.get(symbol) == needed:
                return
            try:
                await self._set(symbol, needed)
            except OrderRejectedError as error:
                if error.code == MARGIN_BELOW_LEVERAGE:
                    # The net binds too much for so little; other agents' settings may follow.
                    _LOG.warning("%s: the exchange's leverage stays above %d: %s", symbol, needed, error)
                    return
                room = self._room(symbol, self._view.net(symbol))
                if error.code != ABOVE_LEVERAGE_CAP or room >= needed:
                    raise
                await self._set(symbol, room)

    async def make_room(self, order: Order, code: int | None) -> bool:
        """After the exchange refused an order by this code: change its leverage so that it might take the order.

        The highest leverage whose bracket admits the net position binds the least margin. False when the refusal was
        about something else, when that leverage is set already, or when the exchange refuses it.
        """
        if code not in (MARGIN_INSUFFICIENT, ABOVE_LEVERAGE_CAP):
            return False
        symbol = order.symbol
        async with self._lock:
            room = self._room(symbol, self._view.net(symbol) + order.signed_quantity)
            if self._real.get(symbol) == room:
                return False
            try:
                await self._set(symbol, room)
            except OrderRejectedError as error:
                _LOG.warning("%s: the exchange's leverage cannot be set to %d: %s", symbol, room, error)
                return False
            _LOG.info("%s: leverage %d at the exchange, for %s", symbol, room, order.client_order_id)
            return True

    async def _set(self, symbol: str, leverage: int) -> None:
        await self._exchange.set_leverage(symbol, leverage)
        self._real[symbol] = leverage

    def _room(self, symbol: str, net: Decimal) -> int:
        """The highest leverage at which a net position is allowed; 1 where none is."""
        instrument = self._view.instruments[symbol]
        notional = abs(net) * self._view.prices[symbol] * _AHEAD
        allowed = (one.max_leverage for one in instrument.brackets if one.notional_cap_usdt >= notional)
        return max(allowed, default=1)
