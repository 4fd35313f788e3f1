"""Where positions are liquidated: by price, and along a path of prices.

Positions that share one margin form a group: all cross positions of an account, or one isolated position. A
group is liquidated when its wallet plus unrealized PnL is at or below its maintenance margin, by mark price.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from live.paper.account import Account
from live.paper.margin import Instruments, Prices
from live.paper.money import ONE, ZERO, booked
from live.paper.positions import Position


@dataclass(frozen=True, slots=True)
class MarginGroup:
    """Positions that share one margin, and the wallet that carries them, in USDT."""

    wallet_usdt: Decimal
    positions: tuple[Position, ...]
    isolated: bool

    @property
    def key(self) -> tuple[str, str]:
        """Symbol and side of an isolated position; two empty texts for the cross group."""
        return (self.positions[0].symbol, self.positions[0].side) if self.isolated else ("", "")


def margin_groups(account: Account) -> list[MarginGroup]:
    """The groups of an account that hold something, the cross one first."""
    held = list(account.held())
    if not account.isolated_symbols:
        return [MarginGroup(account.wallet_usdt, tuple(held), False)] if held else []
    cross = tuple(position for position in held if not account.is_isolated(position.symbol))
    groups = [MarginGroup(account.cross_wallet_usdt, cross, False)] if cross else []
    groups += [
        MarginGroup(position.isolated_wallet_usdt, (position,), True)
        for position in held
        if account.is_isolated(position.symbol)
    ]
    return groups


def margin_excess(group: MarginGroup, instruments: Instruments, marks: Prices) -> Decimal:
    """Equity minus maintenance margin at mark prices, in USDT: at or below 0 the group is liquidated."""
    excess = group.wallet_usdt
    for position in group.positions:
        price = marks[position.symbol]
        excess += position.quantity * (price - position.entry_price)
        excess -= instruments[position.symbol].maintenance_margin_usdt(abs(position.quantity) * price)
    return excess


@dataclass(frozen=True, slots=True)
class Path:
    """All prices moving together from `start` to `end`; x in [0, 1] is how far along they are."""

    start: Prices
    end: Prices

    def price(self, symbol: str, x: Decimal) -> Decimal:
        """Price of one symbol at x."""
        start = self.start[symbol]
        return start + x * (self.end[symbol] - start)

    def prices(self, x: Decimal) -> dict[str, Decimal]:
        """Prices of all symbols at x."""
        return {symbol: self.price(symbol, x) for symbol in self.start}


def liquidation_point(
    group: MarginGroup, instruments: Instruments, path: Path, start: Decimal
) -> Decimal | None:
    """The smallest x in [start, 1] where equity <= maintenance margin; None when there is none.

    The excess of equity over maintenance margin is linear in x between bracket borders and concave over all
    (rates grow with the notional), so it can only be at or below 0 inside when it is so at an end.
    """
    if not group.positions:
        return None

    def excess_at(x: Decimal) -> Decimal:
        prices = {position.symbol: path.price(position.symbol, x) for position in group.positions}
        return margin_excess(group, instruments, prices)

    first = excess_at(start)
    if first <= 0:
        return start
    if excess_at(ONE) > 0:
        return None
    low, low_excess = start, first
    for x in [*sorted(_bracket_borders(group, instruments, path, start)), ONE]:
        excess = excess_at(x)
        if excess <= 0:
            return low + (x - low) * low_excess / (low_excess - excess)
        low, low_excess = x, excess
    return ONE


def _bracket_borders(
    group: MarginGroup, instruments: Instruments, path: Path, start: Decimal
) -> set[Decimal]:
    """The x in (start, 1) at which a position's notional crosses into another leverage bracket."""
    borders: set[Decimal] = set()
    for position in group.positions:
        begin, end = path.start[position.symbol], path.end[position.symbol]
        if begin == end:
            continue
        for bracket in instruments[position.symbol].brackets:
            x = (bracket.notional_cap_usdt / abs(position.quantity) - begin) / (end - begin)
            if start < x < ONE:
                borders.add(x)
    return borders


def liquidation_price(
    account: Account, instruments: Instruments, marks: Prices, position: Position
) -> Decimal:
    """Price of a position's symbol at which its group would be liquidated, all others standing still; else 0.

    LP = (WB - TMM_other + UPNL_other + sum(cum) - sum(s*q*EP)) / (sum(q*mmr) - sum(s*q)), the sums over the
    group's positions in the symbol (two in hedge mode), with the brackets of q * LP. With two solutions (a
    hedge that is nearly closed) it is the one that the net position moves against.
    """
    if not position.quantity:
        return ZERO
    group = next(group for group in margin_groups(account) if position in group.positions)
    own = [other for other in group.positions if other.symbol == position.symbol]
    base = group.wallet_usdt
    for other in group.positions:
        if other.symbol != position.symbol:
            price = marks[other.symbol]
            base += other.unrealized_pnl(price)
            base -= instruments[other.symbol].maintenance_margin_usdt(abs(other.quantity) * price)
    for other in own:
        base -= other.quantity * other.entry_price
    instrument = instruments[position.symbol]
    # Beyond the last bracket there is no rule, and no position could be so large.
    highest = min(instrument.brackets[-1].notional_cap_usdt / abs(other.quantity) for other in own)
    borders = sorted(
        {
            min(highest, bracket.notional_cap_usdt / abs(other.quantity))
            for other in own
            for bracket in instrument.brackets
        }
    )
    found = []
    low = ZERO
    for high in borders:
        weight, amount = ZERO, base
        for other in own:
            # A price strictly inside the segment, so that the bracket is not in doubt.
            bracket = instrument.bracket_at(abs(other.quantity) * (low + high) / 2)
            weight += abs(other.quantity) * bracket.maintenance_rate - other.quantity
            amount += bracket.maintenance_amount_usdt
        if weight:
            price = amount / weight
            if low < price <= high:
                found.append(price)
        low = high
    if not found:
        return ZERO
    net = sum((other.quantity for other in own), ZERO)
    return booked(found[0] if net > 0 else found[-1])
