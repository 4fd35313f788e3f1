"""Margin: what positions and open orders need, cross and isolated, one-way and hedge mode.

Formulas as published by Binance: maintenance margin = notional * rate - amount, rate and amount by the bracket
of the notional; initial margin = notional / leverage. Available balance = cross wallet + cross unrealized PnL
- initial margins of cross positions - margins of all open orders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from envs.instruments import Instrument
from live.paper.account import Account
from live.paper.money import ZERO, booked
from live.paper.orders import BOTH, LONG, Order
from live.paper.positions import Position

Prices = Mapping[str, Decimal]
Instruments = Mapping[str, Instrument]

# The simulator's float64 comparison has this much room; the same here keeps both on one side of a tie.
_TOLERANCE = Decimal("1.000000000001")


@dataclass(frozen=True, slots=True)
class PositionMargin:
    """Figures of one position at current prices, in USDT. `notional` is signed."""

    position: Position
    isolated: bool
    leverage: int
    mark_price: Decimal
    notional: Decimal
    unrealized: Decimal
    maintenance: Decimal
    position_initial: Decimal
    open_order_initial: Decimal
    bid_notional: Decimal
    ask_notional: Decimal

    @property
    def isolated_margin(self) -> Decimal:
        """Isolated wallet plus unrealized PnL: the position's own margin balance; 0 under cross margin."""
        return self.position.isolated_wallet_usdt + self.unrealized if self.isolated else ZERO


@dataclass(frozen=True, slots=True)
class AccountMargin:
    """Figures of a whole account at current prices, in USDT."""

    wallet: Decimal
    cross_wallet: Decimal
    positions: tuple[PositionMargin, ...]

    @property
    def unrealized(self) -> Decimal:
        """Unrealized PnL of all positions."""
        return sum((row.unrealized for row in self.positions), ZERO)

    @property
    def cross_unrealized(self) -> Decimal:
        """Unrealized PnL of the cross positions."""
        return sum((row.unrealized for row in self.positions if not row.isolated), ZERO)

    @property
    def maintenance(self) -> Decimal:
        """Maintenance margin of all positions."""
        return sum((row.maintenance for row in self.positions), ZERO)

    @property
    def cross_maintenance(self) -> Decimal:
        """Maintenance margin of the cross positions."""
        return sum((row.maintenance for row in self.positions if not row.isolated), ZERO)

    @property
    def position_initial(self) -> Decimal:
        """Initial margin of all positions."""
        return sum((row.position_initial for row in self.positions), ZERO)

    @property
    def cross_position_initial(self) -> Decimal:
        """Initial margin of the cross positions."""
        return sum((row.position_initial for row in self.positions if not row.isolated), ZERO)

    @property
    def open_order_initial(self) -> Decimal:
        """Margin held for open orders, isolated ones too: it comes from the cross wallet until they fill."""
        return sum((row.open_order_initial for row in self.positions), ZERO)

    @property
    def equity(self) -> Decimal:
        """Wallet plus unrealized PnL: Binance's margin balance."""
        return self.wallet + self.unrealized

    @property
    def cross_equity(self) -> Decimal:
        """Cross wallet plus the unrealized PnL of the cross positions."""
        return self.cross_wallet + self.cross_unrealized

    @property
    def initial(self) -> Decimal:
        """Initial margins of positions and open orders together."""
        return self.position_initial + self.open_order_initial

    @property
    def available(self) -> Decimal:
        """What new positions may use as initial margin."""
        return max(ZERO, self.cross_equity - self.cross_position_initial - self.open_order_initial)

    @property
    def withdrawable(self) -> Decimal:
        """Like `available`, but unrealized profit cannot be withdrawn."""
        return max(ZERO, self.available - max(ZERO, self.cross_unrealized))

    @property
    def addable(self) -> Decimal:
        """What may be moved into an isolated position."""
        orders = sum((row.open_order_initial for row in self.positions if row.isolated), ZERO)
        return max(ZERO, min(self.cross_wallet - orders - self.cross_maintenance, self.available))


def order_notionals(orders: Iterable[Order]) -> tuple[Decimal, Decimal]:
    """Notional of resting bids and asks of one position that could enlarge it, in USDT."""
    bids = asks = ZERO
    for order in orders:
        if order.only_reduces:
            continue
        if order.side.sign > 0:
            bids += order.remaining * order.price
        else:
            asks += order.remaining * order.price
    return bids, asks


def order_margin(notional: Decimal, side: str, bids: Decimal, asks: Decimal, leverage: int) -> Decimal:
    """Margin that open orders hold beside a position of a signed notional, in USDT.

    One-way: (max(|notional + bids|, |notional - asks|) - |notional|) / leverage, so that reducing is free.
    Hedge: only opening orders count, and each side has its own.
    """
    if not bids and not asks:
        return ZERO
    if side != BOTH:
        return (bids if side == LONG else asks) / leverage
    extra = max(abs(notional + bids), abs(notional - asks)) - abs(notional)
    return max(ZERO, extra) / leverage


def margin_of_position(
    account: Account, position: Position, instrument: Instrument, price: Decimal
) -> PositionMargin:
    """The figures of one position at a mark price."""
    leverage = account.leverage[position.symbol]
    notional = position.quantity * price
    bids, asks = order_notionals(account.open_orders_of(position.symbol, position.side))
    return PositionMargin(
        position=position,
        isolated=account.is_isolated(position.symbol),
        leverage=leverage,
        mark_price=price,
        notional=booked(notional),
        unrealized=booked(position.unrealized_pnl(price)),
        maintenance=booked(instrument.maintenance_margin_usdt(abs(notional))) if notional else ZERO,
        position_initial=booked(abs(notional) / leverage),
        open_order_initial=booked(order_margin(notional, position.side, bids, asks, leverage)),
        bid_notional=bids,
        ask_notional=asks,
    )


def margin_of_account(account: Account, instruments: Instruments, marks: Prices) -> AccountMargin:
    """The figures of an account: every position side of every symbol, in the order of `marks`."""
    rows = tuple(
        margin_of_position(account, position, instruments[symbol], price)
        for symbol, price in marks.items()
        for position in account.positions_of(symbol)
    )
    return AccountMargin(account.wallet_usdt, account.cross_wallet_usdt, rows)


def has_margin(
    account: Account,
    marks: Prices,
    position: Position,
    change: Decimal,
    price: Decimal,
    commission: Decimal,
) -> bool:
    """Whether, after a fill of the signed `change` at `price`, initial margins fit into the equity.

    sum |quantity| * price / leverage + margin of open orders <= equity after the commission, over what is
    cross margined; the filled symbol is valued at its fill price, the others at their mark price. Under
    isolated margin the fill needs the initial margin of what it opens, and gets back what it closes.
    """
    if account.is_isolated(position.symbol):
        return _has_isolated_margin(account, marks, position, change, price, commission)
    equity = account.cross_wallet_usdt - commission
    required = ZERO
    seen = False
    for other in account.held():
        if account.is_isolated(other.symbol):
            continue
        held = after = other.quantity
        mark = marks[other.symbol]
        if other.symbol == position.symbol:
            mark = price
            if other.side == position.side:
                seen = True
                after = held + change
        equity += held * (mark - other.entry_price)
        required += abs(after) * mark / account.leverage[other.symbol]
    if not seen:
        required += abs(change) * price / account.leverage[position.symbol]
    required += _held_for_orders(account, marks, position, change)
    return required <= equity * _TOLERANCE


def can_rest(account: Account, marks: Prices, order: Order, commission: Decimal) -> bool:
    """Whether the margin of open orders, with a further resting one, fits into what is available.

    An order that adds no margin always may.
    """
    before = _held_for_orders(account, marks)
    after = _held_for_orders(account, marks, extra=order)
    if after <= before:
        return True
    equity, required = _cross_figures(account, marks)
    return required + after <= (equity - commission) * _TOLERANCE


def _has_isolated_margin(
    account: Account, marks: Prices, position: Position, change: Decimal, price: Decimal, commission: Decimal
) -> bool:
    closed = position.closed_by(change)
    opened = abs(change) - closed
    equity, required = _cross_figures(account, marks)
    equity -= commission
    if closed:
        equity += position.isolated_wallet_usdt * closed / abs(position.quantity)
        equity += closed * (price - position.entry_price) * (1 if position.quantity > 0 else -1)
    required += opened * price / account.leverage[position.symbol]
    required += _held_for_orders(account, marks, position, change)
    return required <= equity * _TOLERANCE


def _cross_figures(account: Account, marks: Prices) -> tuple[Decimal, Decimal]:
    """Equity of the cross margined part, and the initial margin of its positions, in USDT."""
    equity, initial = account.cross_wallet_usdt, ZERO
    for position in account.held():
        if not account.is_isolated(position.symbol):
            mark = marks[position.symbol]
            equity += position.unrealized_pnl(mark)
            initial += abs(position.quantity) * mark / account.leverage[position.symbol]
    return equity, initial


def _held_for_orders(
    account: Account,
    marks: Prices,
    position: Position | None = None,
    change: Decimal = ZERO,
    *,
    extra: Order | None = None,
) -> Decimal:
    """Margin of all open orders (and one `extra`), with `position` changed by `change`, in USDT."""
    orders = [*account.open_orders.values(), *([extra] if extra is not None else [])]
    total = ZERO
    for symbol, side in dict.fromkeys((order.symbol, order.position_side) for order in orders):
        quantity = account.position(symbol, side).quantity
        if position is not None and (position.symbol, position.side) == (symbol, side):
            quantity += change
        bids, asks = order_notionals(o for o in orders if (o.symbol, o.position_side) == (symbol, side))
        total += order_margin(quantity * marks[symbol], side, bids, asks, account.leverage[symbol])
    return total
