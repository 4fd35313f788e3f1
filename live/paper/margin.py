"""Margin and liquidation: what positions need, and where they end. Cross margin, one-way mode.

Formulas as published by Binance:
maintenance margin = notional * rate - amount, rate and amount by the bracket of the notional;
liquidation when wallet + unrealized PnL <= maintenance margin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from envs.instruments import Instrument
from live.paper.account import Account, Position
from live.paper.money import ONE, ZERO, booked
from live.paper.orders import Order

Prices = Mapping[str, Decimal]
Instruments = Mapping[str, Instrument]

# The simulator's float64 comparison has this much room; the same here keeps both on one side of a tie.
_TOLERANCE = Decimal("1.000000000001")


@dataclass(frozen=True, slots=True)
class PositionMargin:
    """Figures of one symbol at current prices, in USDT. `notional` is signed."""

    position: Position
    leverage: int
    mark_price: Decimal
    notional: Decimal
    unrealized: Decimal
    maintenance: Decimal
    position_initial: Decimal
    open_order_initial: Decimal
    bid_notional: Decimal
    ask_notional: Decimal


@dataclass(frozen=True, slots=True)
class AccountMargin:
    """Figures of a whole account at current prices, in USDT."""

    wallet: Decimal
    unrealized: Decimal
    maintenance: Decimal
    position_initial: Decimal
    open_order_initial: Decimal
    positions: tuple[PositionMargin, ...]

    @property
    def equity(self) -> Decimal:
        """Wallet plus unrealized PnL: Binance's margin balance."""
        return self.wallet + self.unrealized

    @property
    def initial(self) -> Decimal:
        """Initial margins of positions and open orders together."""
        return self.position_initial + self.open_order_initial

    @property
    def available(self) -> Decimal:
        """What new positions may use as initial margin."""
        return max(ZERO, self.equity - self.initial)

    @property
    def withdrawable(self) -> Decimal:
        """Like `available`, but unrealized profit cannot be withdrawn."""
        return max(ZERO, self.available - max(ZERO, self.unrealized))


def order_notionals(position: Position, orders: list[Order]) -> tuple[Decimal, Decimal]:
    """Notional of a symbol's resting bids and asks that could enlarge the position, in USDT."""
    bids = asks = ZERO
    for order in orders:
        if order.reduce_only:
            continue
        if order.side.sign > 0:
            bids += order.remaining * order.price
        else:
            asks += order.remaining * order.price
    return bids, asks


def margin_of_symbol(
    account: Account, symbol: str, instruments: Instruments, price: Decimal, leverage: int
) -> PositionMargin:
    """The figures of one symbol."""
    position = account.positions.get(symbol) or Position(symbol)
    notional = position.quantity * price
    bids, asks = order_notionals(position, [o for o in account.open_orders.values() if o.symbol == symbol])
    extra = max(abs(notional + bids), abs(notional - asks)) - abs(notional) if bids or asks else ZERO
    return PositionMargin(
        position=position,
        leverage=leverage,
        mark_price=price,
        notional=booked(notional),
        unrealized=booked(position.unrealized_pnl(price)),
        maintenance=booked(instruments[symbol].maintenance_margin_usdt(abs(notional))) if notional else ZERO,
        position_initial=booked(abs(notional) / leverage),
        open_order_initial=booked(max(ZERO, extra) / leverage),
        bid_notional=bids,
        ask_notional=asks,
    )


def margin_of_account(
    account: Account, instruments: Instruments, prices: Prices, leverage: Mapping[str, int]
) -> AccountMargin:
    """The figures of an account over all symbols, in the order of `prices`."""
    rows = tuple(
        margin_of_symbol(account, symbol, instruments, price, leverage[symbol])
        for symbol, price in prices.items()
    )
    return AccountMargin(
        wallet=account.wallet_usdt,
        unrealized=sum((row.unrealized for row in rows), ZERO),
        maintenance=sum((row.maintenance for row in rows), ZERO),
        position_initial=sum((row.position_initial for row in rows), ZERO),
        open_order_initial=sum((row.open_order_initial for row in rows), ZERO),
        positions=rows,
    )


def has_margin(
    account: Account,
    prices: Prices,
    leverage: Mapping[str, int],
    *,
    symbol: str,
    change: Decimal,
    price: Decimal,
    commission: Decimal,
    reserved: Decimal = ZERO,
) -> bool:
    """Whether, after a fill of the signed `change` at `price`, initial margins fit into the equity.

    sum |quantity| * price / leverage <= equity after the commission, the filled symbol valued at its fill
    price, the others at their current price. `reserved` is margin held for resting orders, in USDT.
    """
    equity = account.wallet_usdt - commission
    required = reserved
    seen = False
    for position in account.held():
        held = after = position.quantity
        mark = prices[position.symbol]
        if position.symbol == symbol:
            seen = True
            mark = price
            after = held + change
        equity += held * (mark - position.entry_price)
        required += abs(after) * mark / leverage[position.symbol]
    if not seen:
        required += abs(change) * price / leverage[symbol]
    return required <= equity * _TOLERANCE


def margin_excess(account: Account, instruments: Instruments, prices: Prices) -> Decimal:
    """Equity minus maintenance margin at `prices`, in USDT: at or below 0 the account is liquidated."""
    excess = account.wallet_usdt
    for position in account.held():
        price = prices[position.symbol]
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

    def prices(self, symbols: list[str], x: Decimal) -> dict[str, Decimal]:
        """Prices of several symbols at x."""
        return {symbol: self.price(symbol, x) for symbol in symbols}


def liquidation_point(
    account: Account, instruments: Instruments, path: Path, start: Decimal
) -> Decimal | None:
    """The smallest x in [start, 1] where equity <= maintenance margin; None when there is none.

    The excess of equity over maintenance margin is linear in x between bracket borders and concave over all
    (rates grow with the notional), so it can only be at or below 0 inside when it is so at an end.
    """
    held = list(account.held())
    if not held:
        return None
    symbols = [position.symbol for position in held]

    def excess_at(x: Decimal) -> Decimal:
        return margin_excess(account, instruments, path.prices(symbols, x))

    first = excess_at(start)
    if first <= 0:
        return start
    if excess_at(ONE) > 0:
        return None
    low, low_excess = start, first
    for x in [*sorted(_bracket_borders(held, instruments, path, start)), ONE]:
        excess = excess_at(x)
        if excess <= 0:
            return low + (x - low) * low_excess / (low_excess - excess)
        low, low_excess = x, excess
    return ONE


def _bracket_borders(
    held: list[Position], instruments: Instruments, path: Path, start: Decimal
) -> set[Decimal]:
    """The x in (start, 1) at which a position's notional crosses into another leverage bracket."""
    borders: set[Decimal] = set()
    for position in held:
        begin, end = path.start[position.symbol], path.end[position.symbol]
        if begin == end:
            continue
        for bracket in instruments[position.symbol].brackets:
            x = (bracket.notional_cap_usdt / abs(position.quantity) - begin) / (end - begin)
            if start < x < ONE:
                borders.add(x)
    return borders


def liquidation_price(account: Account, instruments: Instruments, prices: Prices, symbol: str) -> Decimal:
    """Price of `symbol` at which the account would be liquidated, all other prices standing still; else 0.

    LP = (WB - TMM_other + UPNL_other + cum - s*q*EP) / (q*mmr - s*q), with the bracket of q * LP.
    """
    position = account.positions.get(symbol)
    if position is None or not position.quantity:
        return ZERO
    quantity = abs(position.quantity)
    side = ONE if position.quantity > 0 else -ONE
    base = account.wallet_usdt - side * quantity * position.entry_price
    for other in account.held():
        if other.symbol != symbol:
            price = prices[other.symbol]
            base += other.unrealized_pnl(price)
            base -= instruments[other.symbol].maintenance_margin_usdt(abs(other.quantity) * price)
    for bracket in instruments[symbol].brackets:
        price = (base + bracket.maintenance_amount_usdt) / (
            quantity * bracket.maintenance_rate - side * quantity
        )
        if bracket.notional_floor_usdt < quantity * price <= bracket.notional_cap_usdt:
            return booked(price)
    return ZERO
