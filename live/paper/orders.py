"""Orders, conditional (algo) orders, trades and income rows as the exchange keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from envs.account import Side
from live.paper.money import ONE, ZERO, booked

BOTH, LONG, SHORT = "BOTH", "LONG", "SHORT"


class Status(StrEnum):
    """Status of an ordinary order."""

    NEW = "NEW"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"


class AlgoStatus(StrEnum):
    """Status of a conditional order."""

    NEW = "NEW"
    TRIGGERING = "TRIGGERING"
    TRIGGERED = "TRIGGERED"
    FINISHED = "FINISHED"
    CANCELED = "CANCELED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """What a client asked for on `/order`, parsed but not yet checked against rules and margin."""

    symbol: str
    side: Side
    type: str
    quantity: Decimal
    price: Decimal = ZERO
    time_in_force: str = "GTC"
    reduce_only: bool = False
    position_side: str = BOTH
    working_type: str = "CONTRACT_PRICE"
    client_order_id: str = ""
    good_till_ms: int = 0
    price_match: str = "NONE"
    self_trade_prevention: str = "EXPIRE_MAKER"


@dataclass(frozen=True, slots=True)
class AlgoRequest:
    """What a client asked for on `/algoOrder`. `quantity` is 0 with `close_position`.

    `trigger_price` is 0 and `callback_rate_percent` given for TRAILING_STOP_MARKET only; `activate_price` 0
    stands for none.
    """

    symbol: str
    side: Side
    type: str
    trigger_price: Decimal = ZERO
    quantity: Decimal = ZERO
    close_position: bool = False
    reduce_only: bool = False
    time_in_force: str = "GTC"
    position_side: str = BOTH
    working_type: str = "CONTRACT_PRICE"
    price_protect: bool = False
    client_algo_id: str = ""
    price: Decimal = ZERO
    callback_rate_percent: Decimal = ZERO
    activate_price: Decimal = ZERO
    good_till_ms: int = 0
    price_match: str = "NONE"
    self_trade_prevention: str = "EXPIRE_MAKER"


def only_reduces(side: Side, position_side: str, reduce_only: bool) -> bool:
    """Whether an order may only make its position smaller: reduce-only, or a closing one in hedge mode."""
    if position_side == BOTH:
        return reduce_only
    return (position_side == LONG) == (side is Side.SELL)


@dataclass(frozen=True, slots=True)
class Amendment:
    """One change of an open order's price and quantity."""

    amendment_id: int
    time_ms: int
    price_before: Decimal
    price_after: Decimal
    quantity_before: Decimal
    quantity_after: Decimal


@dataclass(slots=True)
class Order:
    """An ordinary order. `executed_quantity` and `cumulative_quote` grow with its fills."""

    order_id: int
    client_order_id: str
    symbol: str
    side: Side
    type: str
    time_in_force: str
    quantity: Decimal
    price: Decimal
    reduce_only: bool
    position_side: str
    working_type: str
    time_ms: int
    update_ms: int
    orig_type: str
    stop_price: Decimal = ZERO
    close_position: bool = False
    price_protect: bool = False
    good_till_ms: int = 0
    price_match: str = "NONE"
    self_trade_prevention: str = "EXPIRE_MAKER"
    activate_price: Decimal = ZERO
    callback_rate_percent: Decimal = ZERO
    status: Status = Status.NEW
    executed_quantity: Decimal = ZERO
    cumulative_quote: Decimal = ZERO
    amendments: list[Amendment] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        """Whether it can still be filled or cancelled."""
        return self.status in (Status.NEW, Status.PARTIALLY_FILLED)

    @property
    def remaining(self) -> Decimal:
        """Quantity not yet filled."""
        return self.quantity - self.executed_quantity

    @property
    def average_price(self) -> Decimal:
        """Average price of the fills, 0 before the first."""
        return booked(self.cumulative_quote / self.executed_quantity) if self.executed_quantity else ZERO

    @property
    def only_reduces(self) -> bool:
        """Whether it may only make its position smaller."""
        return only_reduces(self.side, self.position_side, self.reduce_only)


@dataclass(slots=True)
class AlgoOrder:
    """A conditional order. `order` is the ordinary order that its trigger made.

    A trailing stop follows `extreme_price`, the best price since it became active.
    """

    algo_id: int
    client_algo_id: str
    symbol: str
    side: Side
    type: str
    trigger_price: Decimal
    quantity: Decimal
    close_position: bool
    reduce_only: bool
    time_in_force: str
    position_side: str
    working_type: str
    price_protect: bool
    time_ms: int
    update_ms: int
    price: Decimal = ZERO
    callback_rate_percent: Decimal = ZERO
    activate_price: Decimal = ZERO
    good_till_ms: int = 0
    price_match: str = "NONE"
    self_trade_prevention: str = "EXPIRE_MAKER"
    extreme_price: Decimal | None = None
    status: AlgoStatus = AlgoStatus.NEW
    trigger_ms: int = 0
    order: Order | None = None
    reason: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it still waits for its trigger."""
        return self.status is AlgoStatus.NEW

    @property
    def is_stop(self) -> bool:
        """True for the stop types, trailing ones too; False for the take-profit types."""
        return not self.type.startswith("TAKE_PROFIT")

    @property
    def is_trailing(self) -> bool:
        """Whether the trigger follows the price."""
        return self.type == "TRAILING_STOP_MARKET"

    @property
    def is_limit(self) -> bool:
        """Whether its trigger makes a LIMIT order."""
        return self.type in ("STOP", "TAKE_PROFIT")

    @property
    def triggers_falling(self) -> bool:
        """Whether a price at or below the trigger sets it off (else: at or above)."""
        return self.is_stop == (self.side is Side.SELL)

    @property
    def only_reduces(self) -> bool:
        """Whether its order may only make a position smaller."""
        return only_reduces(self.side, self.position_side, self.reduce_only or self.close_position)

    @property
    def level(self) -> Decimal | None:
        """The price that sets it off now; None for a trailing stop that is not active yet."""
        if not self.is_trailing:
            return self.trigger_price
        if self.extreme_price is None:
            return None
        return booked(self.extreme_price * (ONE + self.side.sign * self.callback_rate_percent / 100))

    def follow(self, price: Decimal) -> bool:
        """Let a trailing stop see a price. True when it became active or its extreme moved."""
        if not self.is_trailing:
            return False
        selling = self.side is Side.SELL
        if self.extreme_price is None:
            active = not self.activate_price or (
                price >= self.activate_price if selling else price <= self.activate_price
            )
            self.extreme_price = price if active else None
            return active
        best = max(self.extreme_price, price) if selling else min(self.extreme_price, price)
        moved = best != self.extreme_price
        self.extreme_price = best
        return moved


@dataclass(frozen=True, slots=True)
class Trade:
    """One fill. `realized_pnl_usdt` is before the commission."""

    trade_id: int
    order: Order
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    quote_usdt: Decimal
    commission_usdt: Decimal
    realized_pnl_usdt: Decimal
    maker: bool
    time_ms: int


@dataclass(frozen=True, slots=True)
class Income:
    """One change of the wallet, as `/fapi/v1/income` lists it."""

    income_type: str
    amount_usdt: Decimal
    symbol: str
    time_ms: int
    transaction_id: int
    trade_id: int | None = None


@dataclass(frozen=True, slots=True)
class MarginChange:
    """Margin moved between the cross wallet and an isolated position (positive: into the position).

    `cause` is USER_ADJUST or TRADE.
    """

    symbol: str
    position_side: str
    amount_usdt: Decimal
    cause: str
    time_ms: int
