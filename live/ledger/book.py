"""One contract on one exchange account: all accounts' positions folded together, in the order of the entries.

They are folded together because some entries are shared out by what everybody holds at that moment: foreign fills
and income. The shares are part of the fold, not of the recording, so that an entry that arrives late moves them too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from envs.errors import LedgerError
from live.ledger.arithmetic import ZERO, divide, exact, portion, share_out, share_quantity
from live.ledger.entries import (
    MANUAL,
    QUOTE,
    Event,
    FillEvent,
    IncomeEvent,
    IncomeKind,
    Key,
    base_asset,
    by_exchange,
    is_liquidation,
    key_of,
)
from live.ledger.positions import PositionState, Trip, apply_fill, open_trip

ONE = Decimal(1)

RULES = 2
"""Version of the fold's rules: another one when the same entries give other positions, parts or round trips.

A book that was folded by other rules is folded anew at the next start.
"""

_BOOKED_WITHIN_MS = 60_000
"""So much later than a liquidation its fee may be booked."""


@dataclass(frozen=True, slots=True)
class Part:
    """An account's part of a shared entry; `docs/store.md` (allocations) explains the fields."""

    agent: str
    kind: str
    reference: str
    time_ms: int
    quantity: Decimal
    amount: Decimal


@dataclass(slots=True)
class Derived:
    """What a fold produced beside the positions: ended round trips, and the parts of shared entries."""

    trips: list[Trip] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)


class Book:
    """The positions of every account in one contract, after a number of entries.

    Attributes:
        exchange, symbol: which contract; the symbol is empty for income that names none.
        positions: by account.
        net_quantity, net_cost, net_realized: the fold over all fills as if one account had made them.
        net_fees, net_income: commission in USDT, and income, as the exchange booked them.
        reported: sum of the realized PnL that the exchange reported.
        events: how many entries are folded.
        last: key of the last one, None without any.
        liquidated: the accounts' quantities in the last liquidation.
    """

    def __init__(self, exchange: str, symbol: str) -> None:
        self.exchange = exchange
        self.symbol = symbol
        self.positions: dict[str, PositionState] = {}
        self.net_quantity = ZERO
        self.net_cost = ZERO
        self.net_realized = ZERO
        self.net_fees = ZERO
        self.net_income = ZERO
        self.reported = ZERO
        self.events = 0
        self.last: Key | None = None
        self.liquidated: dict[str, Decimal] = {}
        self._base = base_asset(symbol) if symbol else ""
        # Of the last liquidation, not in snapshots: when it was, and the round trips that it ended.
        self._liquidated_ms = 0
        self._ended: dict[str, Trip] = {}

    def copy(self) -> Book:
        """An independent copy."""
        other = Book(self.exchange, self.symbol)
        other.positions = {name: state.copy() for name, state in self.positions.items()}
        other.net_quantity, other.net_cost, other.net_realized = (
            self.net_quantity,
            self.net_cost,
            self.net_realized,
        )
        other.net_fees, other.net_income = self.net_fees, self.net_income
        other.reported, other.events, other.last = self.reported, self.events, self.last
        other.liquidated = dict(self.liquidated)
        other._liquidated_ms, other._ended = self._liquidated_ms, dict(self._ended)
        return other

    @property
    def awaits_clearance(self) -> bool:
        """Whether a liquidation's fee may still come: a snapshot would forget which round trips it ended."""
        return self.last is not None and self.last[0] <= self._liquidated_ms + _BOOKED_WITHIN_MS

    @property
    def rounding(self) -> Decimal:
        """What the exchange's reported realized PnL exceeds the exact one by; it belongs to MANUAL."""
        with exact():
            return self.reported - self.net_realized

    def open_trips(self) -> list[Trip]:
        """The round trips that have not ended."""
        return [open_trip(name, state) for name, state in sorted(self.positions.items()) if state.p1]

    def fold(self, events: Iterable[Event], derived: Derived) -> None:
        """Fold entries, which must come in the order of their keys, all after the last.

        Raises:
            LedgerError: out of order, or an amount is nonsense. The book is then half changed: throw it away.
        """
        before: Key = self.last or (0, 0, 0, "", "")
        last_ms, last, count = before[0], None, 0
        # Fees of liquidations come before the fills of their millisecond, but go with the liquidation's own.
        fees: list[IncomeEvent] = []
        with exact():
            for event in events:
                time_ms = event.time_ms
                # Keys take time to make: most entries are told apart by the time alone.
                if time_ms <= last_ms and key_of(event) <= (before := key_of(last) if last else before):
                    raise LedgerError(
                        f"{self.exchange} {self.symbol}: entry {key_of(event)} comes after {before}; the fold needs "
                        "them in order"
                    )
                if fees and time_ms > last_ms:
                    self._late(fees, derived)
                last_ms, last = time_ms, event
                count += 1
                if isinstance(event, FillEvent):
                    self._fill(event, fees, derived)
                elif event.kind == IncomeKind.CLEARANCE:
                    fees.append(event)
                else:
                    self._book(event, self._funding_parts(event), derived)
            if last is not None:
                self.last = key_of(last)
                self.events += count
            if fees:
                self._late(fees, derived)
                # A fill of this millisecond that comes later may be the liquidation's: then it is folded again.
                self.last = (last_ms, 2, 0, "", "")

    def _fill(self, event: FillEvent, fees: list[IncomeEvent], derived: Derived) -> None:
        agent = event.agent
        if agent is not None:
            self._apply(agent, event.signed, event.commission, event, derived)
        else:
            self._foreign(event, fees, derived)
        self._net(event.signed, event.price)
        if event.realized_pnl:
            self.reported += event.realized_pnl
        if event.commission_asset == QUOTE:
            self.net_fees += event.commission

    def _apply(
        self, agent: str, signed: Decimal, paid: Decimal, event: FillEvent, derived: Derived
    ) -> Trip | None:
        state = self.positions.get(agent)
        if state is None:
            state = self.positions[agent] = PositionState()
        fee, fee_base = paid, ZERO
        if event.commission_asset != QUOTE and paid:
            # Paid from another asset's balance: neither the position nor the USDT wallet feels it.
            asset = event.commission_asset
            state.other_fees[asset] = state.other_fees.get(asset, ZERO) + paid
            fee, fee_base = ZERO, paid if asset == self._base else ZERO
        trip = apply_fill(
            state,
            agent,
            signed,
            event.price,
            fee,
            fee_base,
            event.time_ms,
            event.trade_id,
            event.client_order_id,
        )
        if trip is not None:
            derived.trips.append(trip)
        return trip

    def _foreign(self, event: FillEvent, fees: list[IncomeEvent], derived: Derived) -> None:
        shares = self._shares(event)
        liquidation = is_liquidation(event.client_order_id)
        if liquidation:
            self.liquidated = dict(shares)
            self._liquidated_ms = event.time_ms
            for fee in fees:
                self._book(fee, share_out(fee.amount, shares), derived)
            fees.clear()
        paid = share_out(event.commission, shares)
        for agent in sorted(shares):
            signed = shares[agent] if event.signed > 0 else -shares[agent]
            trip = self._apply(agent, signed, paid[agent], event, derived)
            if liquidation:
                self._ended.pop(agent, None)
                if trip is not None:
                    self._ended[agent] = trip
            derived.parts.append(Part(agent, "FILL", event.trade_id, event.time_ms, signed, paid[agent]))

    def _shares(self, event: FillEvent) -> dict[str, Decimal]:
        """Who bears how much of a foreign fill.

        A person's order first closes what MANUAL holds. As far as a fill reduces the net, those who hold that side bear
        it pro rata; the exchange's own orders (liquidation) take MANUAL as one of them. The rest is MANUAL's.
        """
        left = abs(event.signed)
        bought = event.signed > 0
        holders = {
            name: abs(state.p1)
            for name, state in self.positions.items()
            if state.p1 and (state.p1 < 0) == bought
        }
        shares: dict[str, Decimal] = {}
        if not by_exchange(event.client_order_id) and MANUAL in holders:
            own = min(holders.pop(MANUAL), left)
            shares[MANUAL] = own
            left -= own
        net = self.net_quantity + sum(shares.values(), ZERO) * (1 if bought else -1)
        reduces = min(left, abs(net)) if net and (net < 0) == bought else ZERO
        if reduces and holders:
            reduces = min(reduces, sum(holders.values(), ZERO))
            for name, quantity in share_quantity(reduces, holders).items():
                shares[name] = shares.get(name, ZERO) + quantity
            left -= reduces
        if left:
            shares[MANUAL] = shares.get(MANUAL, ZERO) + left
        return shares

    def _net(self, signed: Decimal, price: Decimal) -> None:
        held = self.net_quantity
        value = signed * price
        left = held + signed
        if not held or (held > 0) == (signed > 0):
            self.net_cost += value
        elif not left or (left > 0) == (held > 0):
            closed = -portion(self.net_cost, signed, held) if left else self.net_cost
            self.net_realized += -value - closed
            self.net_cost -= closed
        else:
            self.net_realized += held * price - self.net_cost
            self.net_cost = left * price
        self.net_quantity = left

    def _book(self, event: IncomeEvent, parts: Mapping[str, Decimal], derived: Derived) -> None:
        """Book income by its parts on the accounts and their open round trips."""
        self.net_income += event.amount
        for agent in sorted(parts):
            amount = parts[agent]
            state = self.positions.get(agent)
            if state is None:
                state = self.positions[agent] = PositionState()
            if event.kind == IncomeKind.FUNDING:
                state.funding += amount
                if state.p1:
                    state.trip_funding += amount
            else:
                state.clearance += amount
                if state.p1:
                    state.trip_clearance += amount
            if amount:
                derived.parts.append(
                    Part(agent, str(event.kind), event.transaction_id, event.time_ms, ZERO, amount)
                )

    def _late(self, fees: list[IncomeEvent], derived: Derived) -> None:
        """Book fees of liquidations in whose millisecond no liquidation's fill was.

        A little behind the last liquidation they are of that one, and belong to the round trips that it ended.
        """
        for fee in fees:
            if fee.time_ms > self._liquidated_ms + _BOOKED_WITHIN_MS:
                self._book(fee, self._clearance_parts(fee), derived)
                continue
            parts = share_out(fee.amount, self.liquidated)
            self._book(fee, parts, derived)
            for agent in sorted(parts.keys() & self._ended.keys()):
                state, trip = self.positions[agent], self._ended[agent]
                if state.p1:
                    state.trip_clearance -= parts[agent]
                self._ended[agent] = replace(trip, clearance=trip.clearance + parts[agent])
                derived.trips.append(self._ended[agent])
        fees.clear()

    def _funding_parts(self, event: IncomeEvent) -> dict[str, Decimal]:
        """Linear in the position: amount * quantity / net; by rate and mark price where the net is zero."""
        held = {name: state.p1 for name, state in self.positions.items() if state.p1}
        if held and self.net_quantity:
            parts = {
                name: portion(event.amount, quantity, self.net_quantity) for name, quantity in held.items()
            }
        elif held and event.rate is not None and event.mark_price is not None:
            payment = -(event.rate * event.mark_price)
            parts = {name: divide(quantity * payment, ONE) for name, quantity in held.items()}
        else:
            return {MANUAL: event.amount} if event.amount else {}
        heaviest = min(parts, key=lambda name: (-abs(held[name]), name))
        parts[heaviest] += event.amount - sum(parts.values(), ZERO)
        return parts

    def _clearance_parts(self, event: IncomeEvent) -> dict[str, Decimal]:
        """By the holders of the net's side; those of the last liquidation where it is flat already."""
        net = self.net_quantity
        weights = {
            name: abs(state.p1)
            for name, state in self.positions.items()
            if net and state.p1 and (state.p1 > 0) == (net > 0)
        } or self.liquidated
        return share_out(event.amount, weights) if weights else {MANUAL: event.amount}


def unrealized(book: Book, price: Decimal) -> Mapping[str, Decimal]:
    """Unrealized PnL at a price, of each account with a position."""
    return {name: state.unrealized(price) for name, state in book.positions.items() if state.p1}
