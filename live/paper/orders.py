"""Orders, conditional (algo) orders, trades and income rows as the exchange keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from envs.account import Side
from live.paper.money import ZERO, booked


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
    position_side: str = "BOTH"
    working_type: str = "CONTRACT_PRICE"
    client_order_id: str = ""


@dataclass(frozen=True, slots=True)
class AlgoRequest:
    """What a client asked for on `/algoOrder`. `quantity` is 0 with `close_position`."""

    symbol: str
    side: Side
    type: str
    trigger_price: Decimal
    quantity: Decimal = ZERO
    close_position: bool = False
    reduce_only: bool = False
    time_in_force: str = "GTC"
    position_side: str = "BOTH"
    working_type: str = "CONTRACT_PRICE"
    price_protect: bool = False
    client_algo_id: str = ""


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
    status: Status = Status.NEW
    executed_quantity: Decimal = ZERO
    cumulative_quote: Decimal = ZERO

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


@dataclass(slots=True)
class AlgoOrder:
    """A conditional order. `order` is the ordinary order that its trigger made."""

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
        """True for the stop types, False for the take-profit types."""
        return self.type.startswith("STOP")

    @property
    def triggers_falling(self) -> bool:
        """Whether a price at or below the trigger sets it off (else: at or above)."""
        return self.is_stop == (self.side is Side.SELL)


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
