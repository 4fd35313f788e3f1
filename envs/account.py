"""The domain's immutable types: targets, orders, fills, positions, accounts and step records.

Money and quantities are `Decimal`; times are UTC milliseconds. Quantities are in the base asset; a position's
quantity is signed (long above zero), an order's and a fill's is positive and its side gives the direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from typing import Generic, TypeVar

ZERO = Decimal(0)


class Side(StrEnum):
    """Direction of an order or fill."""

    BUY = "BUY"
    SELL = "SELL"

    @property
    def sign(self) -> int:
        """+1 for a buy, -1 for a sell."""
        return 1 if self is Side.BUY else -1


class PositionSide(StrEnum):
    """Direction of a position in one-way mode."""

    LONG = "LONG"
    SHORT = "SHORT"
    FLAT = "FLAT"


class Leg(StrEnum):
    """What an order is for; the last letter of its client order id."""

    ORDER = "o"
    STOP = "s"
    TAKE_PROFIT = "t"
    PROTECTIVE_STOP = "p"
    EMERGENCY = "x"


class ActionType(StrEnum):
    """What a step did, or tried to do, to one symbol's position."""

    HOLD = "hold"
    OPEN_LONG = "open_long"
    INCREASE_LONG = "increase_long"
    REDUCE_LONG = "reduce_long"
    CLOSE_LONG = "close_long"
    FLIP_TO_LONG = "flip_to_long"
    OPEN_SHORT = "open_short"
    INCREASE_SHORT = "increase_short"
    REDUCE_SHORT = "reduce_short"
    CLOSE_SHORT = "close_short"
    FLIP_TO_SHORT = "flip_to_short"
    STOP_LOSS = "stop_loss"
    TAKE_PROFIT = "take_profit"
    LIQUIDATION = "liquidation"
    EMERGENCY_CLOSE = "emergency_close"
    END = "end"


class OrderStatus(StrEnum):
    """How a planned order ended. The step log's `result`."""

    NONE = "none"  # nothing was to be done
    FILLED = "filled"
    PARTIAL = "partial"
    SKIPPED = "skipped"  # below the exchange's minimum: not sent
    REFUSED = "refused"  # by the risk layer: not sent
    REJECTED = "rejected"  # by the exchange: it does not exist
    FAILED = "failed"  # could not be sent, known not to exist
    UNKNOWN = "unknown"  # sent, and its outcome could not be established


def classify(before: Decimal, after: Decimal) -> ActionType:
    """Name the change of one position from `before` to `after` (signed base quantities)."""
    if before == after:
        return ActionType.HOLD
    if before == 0:
        return ActionType.OPEN_LONG if after > 0 else ActionType.OPEN_SHORT
    if after == 0:
        return ActionType.CLOSE_LONG if before > 0 else ActionType.CLOSE_SHORT
    if (before > 0) != (after > 0):
        return ActionType.FLIP_TO_LONG if after > 0 else ActionType.FLIP_TO_SHORT
    if before > 0:
        return ActionType.INCREASE_LONG if after > before else ActionType.REDUCE_LONG
    return ActionType.INCREASE_SHORT if after < before else ActionType.REDUCE_SHORT


@dataclass(frozen=True, slots=True)
class Order:
    """A market order, rounded to the exchange's rules.

    `reduce_only` orders can only shrink the position. The environment that sends it sets `client_order_id`.
    """

    symbol: str
    side: Side
    quantity: Decimal
    reduce_only: bool = False
    leg: Leg = Leg.ORDER
    client_order_id: str | None = None

    @property
    def signed_quantity(self) -> Decimal:
        """Change of the position that this order asks for, in base units."""
        return self.quantity * self.side.sign


@dataclass(frozen=True, slots=True)
class Protection:
    """Trigger prices that guard a position after the step; None where there is none.

    `guard_price` is the risk layer's protective stop; it stands beside the agent's own stop, and the one that is
    nearer to the price triggers first.
    """

    stop_price: Decimal | None = None
    take_profit_price: Decimal | None = None
    guard_price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class PlannedOrder:
    """What a step wants to do in one symbol, and why.

    Attributes:
        symbol: the instrument.
        action: the agent's raw action for this symbol.
        action_type: the name of the intended change.
        order: the order to send, or None when there is nothing to send.
        target_quantity: signed position that the order leads to.
        price: close of the candle that was decided on.
        protection: stop and take-profit to hold after the step, or None to leave them as they are.
        note: why there is no order, or how it was cut down; empty when there is nothing to say.
        skipped: True when an order was wanted, but the exchange's rules forbid one that small.
    """

    symbol: str
    action: float
    action_type: ActionType
    order: Order | None
    target_quantity: Decimal
    price: Decimal
    protection: Protection | None = None
    note: str = ""
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The orders of one step, one entry per symbol, in the order of the environment's symbols.

    Attributes:
        step: number of the step since the start of the episode or run.
        candle_close_ms: close time of the candle that was decided on.
        entries: one per symbol.
    """

    step: int
    candle_close_ms: int
    entries: tuple[PlannedOrder, ...]


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Approved(Generic[T]):
    """Something that the risk layer let through. `reduced_from` is set when it was made smaller."""

    value: T
    reduced_from: T | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal of the risk layer: which check, its limit, and the value that broke it."""

    check: str
    limit: str
    value: str

    def __str__(self) -> str:
        return f"{self.check}: {self.value} against a limit of {self.limit}"


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution, as the exchange reports it.

    Attributes:
        trade_id: unique per exchange account and symbol.
        quantity: base units, above zero.
        price: quote per base unit.
        commission: paid, in `commission_asset`; above zero when it costs.
        realized_pnl: of the closed part, before commission, as the exchange reports it.
        leg: what the order was for; LIQUIDATION fills have `liquidation` set.
    """

    symbol: str
    trade_id: str
    order_id: str
    client_order_id: str
    side: Side
    quantity: Decimal
    price: Decimal
    commission: Decimal
    realized_pnl: Decimal
    time_ms: int
    commission_asset: str = "USDT"
    maker: bool = False
    liquidation: bool = False
    leg: Leg = Leg.ORDER
    agent: str = ""
    exchange: str = ""

    @property
    def signed_quantity(self) -> Decimal:
        """Change of the position, in base units."""
        return self.quantity * self.side.sign

    @property
    def quote_quantity(self) -> Decimal:
        """Quantity times price, in the quote asset."""
        return self.quantity * self.price


@dataclass(frozen=True, slots=True)
class Position:
    """One symbol's position, marked at `mark_price`."""

    symbol: str
    quantity: Decimal = ZERO
    entry_price: Decimal = ZERO
    mark_price: Decimal = ZERO
    protection: Protection = field(default_factory=Protection)
    candles_held: int = 0

    @property
    def side(self) -> PositionSide:
        """LONG, SHORT or FLAT."""
        if self.quantity > 0:
            return PositionSide.LONG
        return PositionSide.SHORT if self.quantity < 0 else PositionSide.FLAT

    @property
    def notional_usdt(self) -> Decimal:
        """Signed notional at the mark price."""
        return self.quantity * self.mark_price

    @property
    def unrealized_pnl_usdt(self) -> Decimal:
        """quantity * (mark - entry)."""
        return self.quantity * (self.mark_price - self.entry_price)


@dataclass(frozen=True)
class AccountSnapshot:
    """The account at one moment. Money in USDT.

    Attributes:
        time_ms: close time of the candle that it is marked at.
        wallet_usdt: cash: deposits + realized PnL - commissions + funding.
        positions: by symbol, every symbol of the environment.
        initial_margin_usdt: sum of |notional| / leverage setting.
        maintenance_margin_usdt: by the leverage brackets.
        pending_orders: how many orders rest at the exchange, algo orders included.
    """

    time_ms: int
    wallet_usdt: Decimal
    positions: Mapping[str, Position]
    initial_margin_usdt: Decimal = ZERO
    maintenance_margin_usdt: Decimal = ZERO
    pending_orders: int = 0

    @cached_property
    def unrealized_pnl_usdt(self) -> Decimal:
        """Sum over the positions."""
        return sum((p.unrealized_pnl_usdt for p in self.positions.values()), ZERO)

    @cached_property
    def equity_usdt(self) -> Decimal:
        """wallet + sum of quantity * (mark - entry)."""
        return self.wallet_usdt + self.unrealized_pnl_usdt

    @property
    def available_usdt(self) -> Decimal:
        """Equity not bound as initial margin, never below zero."""
        return max(ZERO, self.equity_usdt - self.initial_margin_usdt)

    @cached_property
    def gross_notional_usdt(self) -> Decimal:
        """Sum of the positions' absolute notionals."""
        return sum((abs(p.notional_usdt) for p in self.positions.values()), ZERO)

    @property
    def is_flat(self) -> bool:
        """No position in any symbol."""
        return all(p.quantity == 0 for p in self.positions.values())


@dataclass(frozen=True, slots=True)
class OrderResult:
    """What became of one planned order."""

    planned: PlannedOrder
    status: OrderStatus
    fills: tuple[Fill, ...] = ()
    error: str = ""
    refusal: Refused | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """The outcome of a plan: one result per symbol, and the account afterwards.

    Attributes:
        results: one per symbol, in the environment's order.
        account: marked at the close that was decided on.
        funding_usdt: by symbol, received (+) or paid (-) with the candle's open, before the orders.
        emergency: the emergency protocol's report, when it ran after this execution.
        events: fills beside the orders, after them: a position that was closed again because its stop was refused.
        failure: why the exchange can no longer be relied on, empty when it can; a reason for the emergency protocol.
    """

    results: tuple[OrderResult, ...]
    account: AccountSnapshot
    funding_usdt: Mapping[str, Decimal] = field(default_factory=dict)
    emergency: EmergencyReport | None = None
    events: tuple[CandleEvent, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class EmergencyReport:
    """What the emergency protocol did.

    Attributes:
        reason: why it ran.
        time_ms: close of the candle that it ran at.
        drawdown_fraction, limit_fraction: what broke which limit; the limit is None when none was about drawdown.
        peak_equity_usdt: the peak that the drawdown is measured from.
        equity_usdt: before it ran.
        executions: one per try to flatten that the exchange answered.
        account: the account as it was last read back.
        failures: errors of the tries that ended in one.
    """

    reason: str
    time_ms: int
    drawdown_fraction: Decimal
    limit_fraction: Decimal | None
    peak_equity_usdt: Decimal
    equity_usdt: Decimal
    executions: tuple[Execution, ...]
    account: AccountSnapshot
    failures: tuple[str, ...] = ()

    @property
    def tries(self) -> int:
        """How often the protocol tried to get flat."""
        return len(self.executions) + len(self.failures)

    @property
    def succeeded(self) -> bool:
        """Flat, no order left at the exchange, and both read back after at least one try."""
        return bool(self.executions) and self.account.is_flat and self.account.pending_orders == 0


@dataclass(frozen=True, slots=True)
class CandleEvent:
    """A fill that no step asked for: a stop, take-profit or liquidation, or an order from elsewhere.

    `note` goes into the step log's `error` column.
    """

    action_type: ActionType
    fill: Fill
    note: str = ""
