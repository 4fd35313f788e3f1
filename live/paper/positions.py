"""One position: how fills change its quantity, entry price, break-even price and isolated wallet."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from live.paper.money import ZERO, booked
from live.paper.orders import BOTH


@dataclass(slots=True)
class Position:
    """A position of a symbol: the only one in one-way mode (`side` BOTH), LONG or SHORT in hedge mode.

    `quantity` is signed; all is zero when flat. `quote_flow_usdt` (minus what was bought, plus what was sold)
    and `fees_usdt` run since it was last flat and give the break-even price. `isolated_wallet_usdt` is the
    part of the wallet set aside for it under isolated margin.
    """

    symbol: str
    side: str = BOTH
    quantity: Decimal = ZERO
    entry_price: Decimal = ZERO
    quote_flow_usdt: Decimal = ZERO
    fees_usdt: Decimal = ZERO
    realized_usdt: Decimal = ZERO
    isolated_wallet_usdt: Decimal = ZERO
    update_ms: int = 0

    @property
    def break_even_price(self) -> Decimal:
        """Price at which closing would return what was paid, opening fees included; 0 when flat."""
        if not self.quantity:
            return ZERO
        return booked((self.fees_usdt - self.quote_flow_usdt) / self.quantity)

    def unrealized_pnl(self, price: Decimal) -> Decimal:
        """quantity * (price - entry), in USDT."""
        return self.quantity * (price - self.entry_price)

    def reduces(self, change: Decimal) -> bool:
        """Whether a signed change only makes the position smaller (closing it included)."""
        return self.quantity * change < 0 and abs(change) <= abs(self.quantity)

    def closed_by(self, change: Decimal) -> Decimal:
        """How much of the position a signed change closes; 0 when it enlarges."""
        return min(abs(change), abs(self.quantity)) if self.quantity * change < 0 else ZERO

    def apply(self, change: Decimal, price: Decimal, commission: Decimal) -> Decimal:
        """Book a fill of a signed quantity. Returns the realized PnL before the commission, in USDT."""
        held = self.quantity
        after = held + change
        realized = ZERO
        if held * change >= 0:
            self.entry_price = booked((held * self.entry_price + change * price) / after)
            self.quote_flow_usdt -= change * price
            self.fees_usdt += commission
        elif abs(change) <= abs(held):
            realized = booked(-change * (price - self.entry_price))
            self.quote_flow_usdt -= change * price
            self.fees_usdt += commission
            if not after:
                self.entry_price = self.quote_flow_usdt = self.fees_usdt = ZERO
        else:
            realized = booked(held * (price - self.entry_price))
            self.entry_price = price
            self.quote_flow_usdt = -after * price
            self.fees_usdt = booked(commission * abs(after / change))
        self.quantity = after
        self.realized_usdt += realized
        return realized

    def margin_moved_by(self, change: Decimal, price: Decimal, commission: Decimal, leverage: int) -> Decimal:
        """What a fill moves into the isolated wallet (negative: out of it), in USDT. Asked before `apply`.

        What it closes releases its share of the isolated wallet; what it opens brings its initial margin,
        less its share of the commission, which Binance takes from the isolated wallet.
        """
        closed = self.closed_by(change)
        opened = abs(change) - closed
        moved = ZERO
        if closed == abs(self.quantity):
            moved -= self.isolated_wallet_usdt
        elif closed:
            moved -= booked(self.isolated_wallet_usdt * closed / abs(self.quantity))
        if opened:
            moved += booked(opened * price / leverage - commission * opened / abs(change))
        return moved
