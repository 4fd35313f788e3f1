"""What crosses the exchange port: candles, orders' outcomes, the account, and events.

Money, prices of orders and quantities are Decimal; market data are floats; times are UTC ms by the exchange's clock.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from envs.account import Fill, Side

TERMINAL_STATUSES = frozenset({"FILLED", "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH", "REJECTED"})
"""Order statuses after which nothing more happens to an order."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a request that is known to have failed is sent again.

    Attributes:
        attempts: how often it is sent in all.
        delay_s: pause after the first attempt, in seconds; doubled with each further one.
        longest_delay_s: and no longer than this.
        jitter_fraction: each pause is longer or shorter by up to this fraction of it, so that programs that failed
            together do not come back together.
        max_wait_s: longest pause that the exchange may ask for (HTTP 429); beyond it the error is raised.
        max_wait_risk_s: the same for requests that reduce risk: closing a position late is better than not at all.
        resolve_s: longest time spent on finding out what became of an order, in seconds.
    """

    attempts: int = 3
    delay_s: float = 1.0
    longest_delay_s: float = 8.0
    jitter_fraction: float = 0.25
    max_wait_s: float = 10.0
    max_wait_risk_s: float = 65.0
    resolve_s: float = 30.0

    def pause_s(self, attempt: int, rng: random.Random) -> float:
        """Pause after the failure of attempt 1, 2, ..., in seconds."""
        pause_s = min(self.delay_s * 2.0 ** (attempt - 1), self.longest_delay_s)
        return pause_s * (1 + rng.uniform(-self.jitter_fraction, self.jitter_fraction))


@dataclass(frozen=True, slots=True)
class Candle:
    """One closed candle. Prices in quote per base unit, volume in base units."""

    symbol: str
    open_time_ms: int
    interval_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float

    @property
    def close_time_ms(self) -> int:
        """Last millisecond of the candle."""
        return self.open_time_ms + self.interval_ms - 1


@dataclass(frozen=True, slots=True)
class FundingRate:
    """A settled funding rate, as a fraction; longs pay positive rates. The mark price where the exchange tells."""

    symbol: str
    time_ms: int
    rate: float
    mark_price: float | None = None


@dataclass(frozen=True, slots=True)
class FundingPayment:
    """Funding received (above zero) or paid (below zero); also a transfer or a fee booked beside the trades."""

    symbol: str
    amount_usdt: Decimal
    time_ms: int
    transaction_id: str = ""


class BookingKind(StrEnum):
    """Why the exchange changed the wallet."""

    TRADE = "TRADE"  # realized PnL or commission: its fill tells it too
    FUNDING = "FUNDING"
    LIQUIDATION = "LIQUIDATION"  # a liquidation's fee, or what the insurance fund paid
    TRANSFER = "TRANSFER"
    OTHER = "OTHER"  # rebates, bonuses, conversions


@dataclass(frozen=True, slots=True)
class Booking:
    """One change of the wallet. `reason` is the exchange's own word, e.g. FUNDING_FEE; `symbol` may be empty."""

    kind: BookingKind
    reason: str
    symbol: str
    amount_usdt: Decimal
    time_ms: int
    transaction_id: str


@dataclass(frozen=True, slots=True)
class ExchangePosition:
    """A position as the exchange keeps it. `liquidation_price` is None when there is none."""

    symbol: str
    quantity: Decimal
    entry_price: Decimal
    mark_price: Decimal
    leverage: int
    liquidation_price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class ExchangeAccount:
    """The account as the exchange keeps it. Only symbols with a position are in `positions`."""

    time_ms: int
    wallet_usdt: Decimal
    available_usdt: Decimal
    initial_margin_usdt: Decimal
    maintenance_margin_usdt: Decimal
    positions: Mapping[str, ExchangePosition]


@dataclass(frozen=True, slots=True)
class OrderReport:
    """What became of an order.

    Attributes:
        status: the exchange's: NEW, PARTIALLY_FILLED, FILLED, CANCELED, EXPIRED, ...
        executed_quantity: base units filled so far.
        average_price: over the fills, None when nothing was filled.
        fills: all of them, in the order of their trade ids, as far as `executed_quantity` counts.
    """

    symbol: str
    client_order_id: str
    order_id: str
    status: str
    executed_quantity: Decimal
    average_price: Decimal | None
    fills: tuple[Fill, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to the order."""
        return self.status in TERMINAL_STATUSES


class TriggerKind(StrEnum):
    """A stop triggers when the price moves against the position, a take-profit when it moves with it."""

    STOP = "STOP_MARKET"
    TAKE_PROFIT = "TAKE_PROFIT_MARKET"


@dataclass(frozen=True, slots=True)
class TriggerOrder:
    """A market order that waits for a price.

    Attributes:
        side: of the order: SELL guards a long.
        quantity: base units, or None to close the whole position whatever its size is then.
        by_mark_price: whether the mark price triggers it, instead of the last price.
        reduce_only: whether the exchange may let it only reduce the account's position; not where several agents
            share the account, whose net may be smaller than this position. Closing the whole position always does.
    """

    symbol: str
    side: Side
    kind: TriggerKind
    trigger_price: Decimal
    client_order_id: str
    quantity: Decimal | None = None
    by_mark_price: bool = False
    reduce_only: bool = True


@dataclass(frozen=True, slots=True)
class TriggerReport:
    """What became of a trigger order. `order_id` is that of the market order that its trigger made, or None."""

    symbol: str
    client_order_id: str
    trigger_id: str
    status: str
    trigger_price: Decimal
    order_id: str | None = None


@dataclass(frozen=True, slots=True)
class OpenOrder:
    """An order that rests at the exchange.

    Attributes:
        type: LIMIT, STOP_MARKET, TAKE_PROFIT_MARKET, ...
        quantity: base units; 0 when it closes the whole position.
        price: limit price or trigger price.
        is_trigger: whether it waits in the algo-order service, to be cancelled with `cancel_trigger`.
    """

    symbol: str
    client_order_id: str
    order_id: str
    side: Side
    type: str
    quantity: Decimal
    executed_quantity: Decimal
    price: Decimal
    reduce_only: bool
    is_trigger: bool


@dataclass(frozen=True, slots=True)
class FillEvent:
    """A fill, with the status of its order after it and the quantity filled of it so far.

    `order` is the order as the event describes it, here and in the other events; None where it does not.
    """

    fill: Fill
    order_status: str
    executed_quantity: Decimal
    order: OpenOrder | None = None


@dataclass(frozen=True, slots=True)
class OrderEvent:
    """An order changed without a fill. `reason` is the exchange's code for an expiry, empty when there is none."""

    symbol: str
    client_order_id: str
    order_id: str
    status: str
    executed_quantity: Decimal
    time_ms: int
    reason: str = ""
    order: OpenOrder | None = None


@dataclass(frozen=True, slots=True)
class AccountEvent:
    """Balance or positions changed; only what changed is listed.

    Attributes:
        reason: the exchange's, such as ORDER, FUNDING_FEE, DEPOSIT, WITHDRAW, INSURANCE_CLEAR.
        wallet_usdt: the new wallet, None when it did not change.
        positions: symbol, new signed quantity and entry price of each position that changed.
    """

    time_ms: int
    reason: str
    wallet_usdt: Decimal | None
    positions: tuple[tuple[str, Decimal, Decimal], ...] = ()


@dataclass(frozen=True, slots=True)
class FundingEvent:
    """Funding was booked. `symbol` is None where the exchange does not say which."""

    time_ms: int
    symbol: str | None
    amount_usdt: Decimal


@dataclass(frozen=True, slots=True)
class AlgoEvent:
    """A trigger order changed: NEW, TRIGGERING, TRIGGERED, FINISHED, CANCELED, REJECTED or EXPIRED."""

    symbol: str
    client_order_id: str
    trigger_id: str
    status: str
    time_ms: int
    order_id: str | None = None
    reason: str = ""
    order: OpenOrder | None = None


@dataclass(frozen=True, slots=True)
class LeverageEvent:
    """The leverage setting of a symbol changed."""

    symbol: str
    leverage: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class MarginCallEvent:
    """The exchange warns that these positions are near liquidation."""

    time_ms: int
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Resync:
    """Events may have been missed up to now: read account, orders and fills again. Also the first event."""

    reason: str


UserEvent = (
    FillEvent
    | OrderEvent
    | AccountEvent
    | FundingEvent
    | AlgoEvent
    | LeverageEvent
    | MarginCallEvent
    | Resync
)
