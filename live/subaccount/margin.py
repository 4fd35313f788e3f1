"""An agent's virtual margin: what its positions bind and what its own money bears, as the exchange would count it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext

from envs.account import ZERO
from envs.instruments import Instrument
from live.ledger.arithmetic import exact
from live.ledger.positions import PositionState

_DIGITS = 60


@dataclass(frozen=True, slots=True)
class Margins:
    """An account at given prices. Money in USDT; margins are rounded to 60 digits, the rest is exact."""

    wallet_usdt: Decimal
    unrealized_usdt: Decimal
    initial_usdt: Decimal
    maintenance_usdt: Decimal

    @property
    def equity_usdt(self) -> Decimal:
        """Wallet and unrealized PnL."""
        with exact():
            return self.wallet_usdt + self.unrealized_usdt

    @property
    def available_usdt(self) -> Decimal:
        """Equity that no position binds, never below zero."""
        with localcontext(prec=_DIGITS):
            return max(ZERO, self.equity_usdt - self.initial_usdt)

    @property
    def is_liquidated(self) -> bool:
        """Whether the equity has come down to the maintenance margin of what is open."""
        return self.maintenance_usdt > 0 and self.equity_usdt <= self.maintenance_usdt


def margins(
    wallet_usdt: Decimal,
    positions: Mapping[str, PositionState],
    prices: Mapping[str, Decimal],
    instruments: Mapping[str, Instrument],
    leverage: Mapping[str, int],
) -> Margins:
    """Margins of positions at prices, by the brackets of their own notional.

    Args:
        wallet_usdt: the account's wallet.
        positions: by symbol.
        prices: of every symbol with a position.
        instruments: brackets, by symbol.
        leverage: the account's own setting, by symbol.
    """
    unrealized = initial = maintenance = ZERO
    with localcontext(prec=_DIGITS):
        for symbol, state in positions.items():
            if not state.p1:
                continue
            price = prices[symbol]
            notional = abs(state.p1) * price
            initial += notional / leverage[symbol]
            maintenance += instruments[symbol].maintenance_margin_usdt(notional)
    with exact():
        for symbol, state in positions.items():
            if state.p1:
                unrealized += state.unrealized(prices[symbol])
    return Margins(wallet_usdt, unrealized, initial, maintenance)


def margin_after(
    margin: Margins,
    held: Mapping[str, Decimal],
    change: tuple[str, Decimal],
    prices: Mapping[str, Decimal],
    instruments: Mapping[str, Instrument],
    leverage: Mapping[str, int],
) -> tuple[Decimal, Decimal]:
    """Initial margin that would be bound after a market order, and the equity that would be left to bear it.

    Args:
        margin: as things are.
        held: signed quantities, with what is in flight.
        change: symbol and signed quantity of the order.
        prices, instruments, leverage: by symbol.
    """
    symbol, signed = change
    after = dict(held)
    after[symbol] = after.get(symbol, ZERO) + signed
    with localcontext(prec=_DIGITS):
        bound = sum((abs(q) * prices[s] / leverage[s] for s, q in after.items() if q), ZERO)
        fee = abs(signed) * prices[symbol] * instruments[symbol].taker_fee
        return bound, margin.equity_usdt - fee
