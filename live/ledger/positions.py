"""One account's position in one contract, as a fold over its fills and its share of the income.

The running totals are exact decimals. The one thing that rounds is the entry value that leaves the books when a
position is reduced (to 1e-12); what stays is the difference, so that `realized == cash + cost` holds at every moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from envs.account import PositionSide
from live.ledger.arithmetic import ZERO, divide, exact, portion

PRICE_GRID = Decimal("1E-12")


@dataclass(slots=True)
class PositionState:
    """A position and what led to it. Amounts in the quote asset unless said otherwise.

    Attributes:
        p1, p2: change in base (+ bought) and in quote (- bought) since last flat.
        p1_fee, p2_fee: commission in the base and in the quote asset since last flat.
        cost: signed entry value of the open quantity.
        realized, fees, funding, clearance, cash, volume, fills: totals since the first fill. `cash` is the change in
            quote by all trades; `clearance` what liquidations cost beside the trades.
        other_fees: commission in any other asset than the quote, by asset.
        opened_ms, opened_by: time and trade id that began the round trip; 0 and empty when flat.
        entry_quantity, entry_quote, exit_quantity, exit_quote: its opening and closing fills.
        trip_realized, trip_funding, trip_clearance, trip_fills: its totals; its fees are `p2_fee`.
    """

    p1: Decimal = ZERO
    p2: Decimal = ZERO
    p1_fee: Decimal = ZERO
    p2_fee: Decimal = ZERO
    cost: Decimal = ZERO
    realized: Decimal = ZERO
    fees: Decimal = ZERO
    funding: Decimal = ZERO
    clearance: Decimal = ZERO
    cash: Decimal = ZERO
    volume: Decimal = ZERO
    other_fees: dict[str, Decimal] = field(default_factory=dict)
    fills: int = 0
    opened_ms: int = 0
    opened_by: str = ""
    entry_quantity: Decimal = ZERO
    entry_quote: Decimal = ZERO
    exit_quantity: Decimal = ZERO
    exit_quote: Decimal = ZERO
    trip_realized: Decimal = ZERO
    trip_funding: Decimal = ZERO
    trip_clearance: Decimal = ZERO
    trip_fills: int = 0

    @property
    def quantity(self) -> Decimal:
        """Signed open quantity."""
        return self.p1

    @property
    def side(self) -> PositionSide:
        """LONG, SHORT or FLAT."""
        if not self.p1:
            return PositionSide.FLAT
        return PositionSide.LONG if self.p1 > 0 else PositionSide.SHORT

    @property
    def entry_price(self) -> Decimal:
        """Average price of the open quantity, rounded to 1e-12; 0 when flat."""
        return divide(self.cost, self.p1, PRICE_GRID) if self.p1 else ZERO

    @property
    def break_even_price(self) -> Decimal | None:
        """Price at which closing, without a further fee, ends even: -(p2 - p2_fee) / (p1 - p1_fee). None when flat."""
        with exact():
            quantity = self.p1 - self.p1_fee
            return -divide(self.p2 - self.p2_fee, quantity, PRICE_GRID) if self.p1 and quantity else None

    @property
    def income(self) -> Decimal:
        """What the wallet gained: realized PnL - fees + funding + clearance."""
        with exact():
            return self.realized - self.fees + self.funding + self.clearance

    def unrealized(self, price: Decimal) -> Decimal:
        """PnL of the open quantity at a price, exactly."""
        with exact():
            return self.p1 * price - self.cost

    def copy(self) -> PositionState:
        """An independent copy."""
        return PositionState(
            self.p1, self.p2, self.p1_fee, self.p2_fee, self.cost, self.realized, self.fees, self.funding,
            self.clearance, self.cash, self.volume, dict(self.other_fees), self.fills, self.opened_ms, self.opened_by,
            self.entry_quantity, self.entry_quote, self.exit_quantity, self.exit_quote, self.trip_realized,
            self.trip_funding, self.trip_clearance, self.trip_fills,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trip:
    """A round trip, ended or not; `docs/store.md` (transactions) explains the fields.

    `exit_id` is None while it is open. `exit_client_id` is the client order id of the last closing fill.
    """

    agent: str
    side: PositionSide
    entry_ms: int
    entry_id: str
    exit_ms: int | None
    exit_id: str | None
    exit_client_id: str
    open_quantity: Decimal
    open_cost: Decimal
    entry_quantity: Decimal
    entry_quote: Decimal
    exit_quantity: Decimal
    exit_quote: Decimal
    realized: Decimal
    fees: Decimal
    funding: Decimal
    clearance: Decimal
    fills: int


def open_trip(agent: str, state: PositionState) -> Trip:
    """The round trip that a position is in; it must not be flat."""
    return _trip(agent, state, state.p1 > 0, None, None, "")


def _trip(
    agent: str, state: PositionState, is_long: bool, exit_ms: int | None, exit_id: str | None, client_id: str
) -> Trip:
    return Trip(
        agent, PositionSide.LONG if is_long else PositionSide.SHORT, state.opened_ms, state.opened_by, exit_ms, exit_id,
        client_id, state.p1, state.cost, state.entry_quantity, state.entry_quote, state.exit_quantity,
        state.exit_quote, state.trip_realized, state.p2_fee, state.trip_funding, state.trip_clearance,
        state.trip_fills,
    )  # fmt: skip


def apply_fill(
    state: PositionState,
    agent: str,
    signed: Decimal,
    price: Decimal,
    fee: Decimal,
    fee_base: Decimal,
    time_ms: int,
    trade_id: str,
    client_id: str,
) -> Trip | None:
    """Fold one fill into a position; the round trip that it ended, or None. Only inside `exact()`.

    Args:
        state: changed in place.
        agent: owner, for the trip.
        signed: quantity, + bought.
        price: price.
        fee: commission in the quote asset.
        fee_base: commission in the base asset.
        time_ms, trade_id, client_id: of the fill.
    """
    value = signed * price
    size, worth = abs(signed), abs(value)
    held = state.p1
    state.cash -= value
    state.fees += fee
    state.fills += 1
    state.volume += worth
    if not held:
        _open(state, signed, -value, fee, fee_base, time_ms, trade_id)
        return None
    if (held > 0) == (signed > 0):
        state.p1 = held + signed
        state.p2 -= value
        state.cost += value
        state.p2_fee += fee
        if fee_base:
            state.p1_fee += fee_base
        state.entry_quantity += size
        state.entry_quote += worth
        state.trip_fills += 1
        return None
    left = held + signed
    if not left or (left > 0) == (held > 0):
        closed_cost = -portion(state.cost, signed, held) if left else state.cost
        gain = -value - closed_cost
        state.p1 = left
        state.p2 -= value
        state.cost -= closed_cost
        state.realized += gain
        state.trip_realized += gain
        state.p2_fee += fee
        if fee_base:
            state.p1_fee += fee_base
        state.exit_quantity += size
        state.exit_quote += worth
        state.trip_fills += 1
        if left:
            return None
        trip = _trip(agent, state, held > 0, time_ms, trade_id, client_id)
        _reset(state)
        return trip
    # A flip: the part that closes ends one trip, the rest begins the next. Both count the fill.
    closing_cash = held * price
    closing_fee = portion(fee, -held, signed)
    closing_base = portion(fee_base, -held, signed) if fee_base else ZERO
    gain = closing_cash - state.cost
    state.realized += gain
    state.trip_realized += gain
    state.p1 = ZERO
    state.cost = ZERO
    state.p2_fee += closing_fee
    state.exit_quantity += abs(held)
    state.exit_quote += abs(closing_cash)
    state.trip_fills += 1
    trip = _trip(agent, state, held > 0, time_ms, trade_id, client_id)
    _reset(state)
    _open(state, left, -value - closing_cash, fee - closing_fee, fee_base - closing_base, time_ms, trade_id)
    return trip


def _open(
    state: PositionState,
    signed: Decimal,
    cash: Decimal,
    fee: Decimal,
    fee_base: Decimal,
    time_ms: int,
    trade_id: str,
) -> None:
    state.p1 = signed
    state.p2 = cash
    state.cost = -cash
    state.p2_fee = fee
    state.p1_fee = fee_base
    state.entry_quantity = abs(signed)
    state.entry_quote = abs(cash)
    state.opened_ms = time_ms
    state.opened_by = trade_id
    state.trip_fills = 1


def _reset(state: PositionState) -> None:
    state.p1 = state.p2 = state.p1_fee = state.p2_fee = state.cost = ZERO
    state.opened_ms = 0
    state.opened_by = ""
    state.entry_quantity = state.entry_quote = state.exit_quantity = state.exit_quote = ZERO
    state.trip_realized = state.trip_funding = state.trip_clearance = ZERO
    state.trip_fills = 0
