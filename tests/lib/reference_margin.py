"""A futures account a second time, for the paper exchange's to be compared with: in fractions, from Binance's formulas.

Nothing here is shared with `live.paper`. It is told facts (fills, fundings, transfers, settings, open orders, marks)
and works out everything else anew each time it is asked:

- wallet: the sum of what was paid in, realized PnL, minus fees, plus fundings;
- maintenance margin = notional * rate - cum, by the bracket of the notional at the mark;
- initial margin = notional / leverage;
- liquidation price, per margin group, with LONG, SHORT and BOTH as Binance publishes it:
  (WB - TMM1 + UPNL1 + cumB + cumL + cumS - sB*qB*EPB - qL*EPL + qS*EPS)
  / (qB*mmrB + qL*mmrL + qS*mmrS - sB*qB - qL + qS), with the brackets that fit the price found.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction as Q

Key = tuple[str, str]


@dataclass(frozen=True)
class Bracket:
    """One leverage bracket: notionals above `floor` up to `cap`."""

    floor: Q
    cap: Q
    rate: Q
    cum: Q


@dataclass(frozen=True)
class Resting:
    """An open LIMIT order; `quantity` is what is left of it, above zero."""

    symbol: str
    side: str
    buys: bool
    quantity: Q
    price: Q
    reduces: bool


@dataclass
class Held:
    """A position by what it cost: entry price is cost / quantity. `margin` is its isolated wallet."""

    quantity: Q = Q(0)
    cost: Q = Q(0)
    margin: Q = Q(0)

    @property
    def entry(self) -> Q:
        return self.cost / self.quantity if self.quantity else Q(0)


@dataclass
class ReferenceAccount:
    """See the module's docstring. `brackets` and `leverage` by symbol."""

    brackets: Mapping[str, Sequence[Bracket]]
    leverage: dict[str, int]
    paid_in: Q
    realized: Q = Q(0)
    fees: Q = Q(0)
    funding: Q = Q(0)
    isolated: set[str] = field(default_factory=set)
    held: dict[Key, Held] = field(default_factory=dict)
    turnover: Q = Q(0)

    # --- what happens ---------------------------------------------------------------------------------

    def fill(self, key: Key, change: Q, price: Q, fee: Q) -> None:
        """A fill of a signed quantity."""
        one = self.held.setdefault(key, Held())
        closed = min(abs(change), abs(one.quantity)) if one.quantity * change < 0 else Q(0)
        opened = abs(change) - closed
        if closed:
            share = closed / abs(one.quantity)
            direction = 1 if one.quantity > 0 else -1
            self.realized += closed * direction * (price - one.entry)
            one.cost -= one.cost * share
            one.margin -= one.margin * share
        if opened:
            one.cost += opened * price * (1 if change > 0 else -1)
            if key[0] in self.isolated:
                one.margin += opened * price / self.leverage[key[0]] - fee * opened / abs(change)
        one.quantity += change
        self.fees += fee
        self.turnover += abs(change) * price

    def charge_funding(self, symbol: str, per_unit: Q) -> None:
        """Every position of the symbol pays quantity * per_unit."""
        for (name, _), one in self.held.items():
            if name == symbol:
                self.funding -= one.quantity * per_unit
                if symbol in self.isolated:
                    one.margin -= one.quantity * per_unit

    # --- figures --------------------------------------------------------------------------------------

    @property
    def wallet(self) -> Q:
        return self.paid_in + self.realized - self.fees + self.funding

    @property
    def cross_wallet(self) -> Q:
        return self.wallet - sum((one.margin for one in self.held.values()), Q(0))

    def bracket(self, symbol: str, notional: Q) -> Bracket:
        """The bracket of a notional; beyond the last cap, the last."""
        return next((one for one in self.brackets[symbol] if notional <= one.cap), self.brackets[symbol][-1])

    def maintenance(self, key: Key, mark: Q) -> Q:
        notional = abs(self.held[key].quantity) * mark
        found = self.bracket(key[0], notional)
        return notional * found.rate - found.cum if notional else Q(0)

    def unrealized(self, key: Key, mark: Q) -> Q:
        one = self.held[key]
        return one.quantity * mark - one.cost

    def initial(self, key: Key, mark: Q) -> Q:
        return abs(self.held[key].quantity) * mark / self.leverage[key[0]]

    def open_order_margin(self, key: Key, mark: Q, orders: Iterable[Resting]) -> Q:
        """One-way: by how much the orders could enlarge the position; hedge: the orders that open."""
        symbol, side = key
        mine = [one for one in orders if (one.symbol, one.side) == key and not one.reduces]
        bids = sum((one.quantity * one.price for one in mine if one.buys), Q(0))
        asks = sum((one.quantity * one.price for one in mine if not one.buys), Q(0))
        if side == "LONG":
            needed = bids
        elif side == "SHORT":
            needed = asks
        else:
            now = self.held[key].quantity * mark if key in self.held else Q(0)
            needed = max(Q(0), max(abs(now + bids), abs(now - asks)) - abs(now))
        return needed / self.leverage[symbol]

    def keys(self, orders: Iterable[Resting] = ()) -> list[Key]:
        """Positions that are held or have open orders."""
        held = [key for key, one in self.held.items() if one.quantity]
        return list(dict.fromkeys([*held, *((one.symbol, one.side) for one in orders)]))

    def cross_keys(self) -> list[Key]:
        return [key for key in self.keys() if key[0] not in self.isolated]

    def available(self, marks: Mapping[str, Q], orders: Sequence[Resting]) -> Q:
        """Cross wallet + cross unrealized PnL - cross initial margins - margins of all open orders, from 0 up."""
        free = self.cross_wallet
        for key in self.cross_keys():
            free += self.unrealized(key, marks[key[0]]) - self.initial(key, marks[key[0]])
        for key in self.keys(orders):
            free -= self.open_order_margin(key, marks[key[0]], orders)
        return max(Q(0), free)

    def withdrawable(self, marks: Mapping[str, Q], orders: Sequence[Resting]) -> Q:
        profit = sum((self.unrealized(key, marks[key[0]]) for key in self.cross_keys()), Q(0))
        return max(Q(0), self.available(marks, orders) - max(Q(0), profit))

    def excess(self, keys: Iterable[Key], wallet: Q, marks: Mapping[str, Q]) -> Q:
        """Margin balance minus maintenance margin of a margin group: at or below 0 it is liquidated."""
        return wallet + sum(
            (self.unrealized(key, marks[key[0]]) - self.maintenance(key, marks[key[0]]) for key in keys), Q(0)
        )

    def group_of(self, key: Key) -> tuple[list[Key], Q]:
        """The positions that share a position's margin, and their wallet."""
        if key[0] in self.isolated:
            return [key], self.held[key].margin
        return self.cross_keys(), self.cross_wallet

    def liquidation_price(self, key: Key, marks: Mapping[str, Q]) -> Q:
        """The published formula; 0 when no bracket fits its price."""
        group, base = self.group_of(key)
        own = [other for other in group if other[0] == key[0]]
        for other in group:
            if other not in own:
                base += self.unrealized(other, marks[other[0]]) - self.maintenance(other, marks[other[0]])
        found = set()
        for choice in itertools.product(self.brackets[key[0]], repeat=len(own)):
            top, bottom = base, Q(0)
            for other, one in zip(own, choice, strict=True):
                top += one.cum - self.held[other].cost
                bottom += abs(self.held[other].quantity) * one.rate - self.held[other].quantity
            if not bottom:
                continue
            price = top / bottom
            sizes = [abs(self.held[other].quantity) * price for other in own]
            if price > 0 and all(
                one.floor < size <= one.cap for one, size in zip(choice, sizes, strict=True)
            ):
                found.add(price)
        if not found:
            return Q(0)
        net = sum((self.held[other].quantity for other in own), Q(0))
        return min(found) if net > 0 else max(found)

    def affords(
        self, key: Key, change: Q, price: Q, fee: Q, marks: Mapping[str, Q], orders: Sequence[Resting]
    ) -> Q:
        """What is left of the margin after a fill: negative where it must be refused (-2019).

        Cross: margin balance after the fee minus all initial margins, this symbol's at the fill price, minus the
        margins of open orders. Isolated: what it opens comes out of what the cross wallet has free; what it closes
        comes back first.
        """
        symbol = key[0]
        one = self.held.get(key, Held())
        closed = min(abs(change), abs(one.quantity)) if one.quantity * change < 0 else Q(0)
        left = self.cross_wallet - fee
        for other in self.cross_keys():
            at = price if other[0] == symbol and symbol not in self.isolated else marks[other[0]]
            size = self.held[other].quantity + (change if other == key else 0)
            left += self.unrealized(other, at) - abs(size) * at / self.leverage[other[0]]
        if symbol in self.isolated:
            if closed:
                left += one.margin * closed / abs(one.quantity)
                left += closed * (price - one.entry) * (1 if one.quantity > 0 else -1)
            left -= (abs(change) - closed) * price / self.leverage[symbol]
        elif key not in self.cross_keys():
            left -= abs(change) * price / self.leverage[symbol]
        moved = self.held.get(key)
        self.held[key] = Held(one.quantity + change)
        for other in dict.fromkeys((order.symbol, order.side) for order in orders):
            left -= self.open_order_margin(other, marks[other[0]], orders)
        if moved is None:
            del self.held[key]
        else:
            self.held[key] = moved
        return left
