"""The exchange port: what perpgym asks of a derivatives exchange, whichever it is.

`Exchange` is one account in one-way mode with cross margin. Money, prices of orders and quantities are Decimal;
market data are floats; times are UTC milliseconds by the exchange's clock. Every failure is an `ExchangeError`
(`envs/errors.py`) or one of its children, or an `InputError` for what the caller gave.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Protocol, Self

from envs.account import Fill, Order
from envs.instruments import Instrument
from live.exchange.client_ids import ClientOrderId, client_order_id, parse_client_order_id
from live.exchange.records import (
    AccountEvent,
    AlgoEvent,
    Booking,
    BookingKind,
    Candle,
    ExchangeAccount,
    ExchangePosition,
    FillEvent,
    FundingEvent,
    FundingPayment,
    FundingRate,
    LeverageEvent,
    MarginCallEvent,
    OpenOrder,
    OrderEvent,
    OrderReport,
    Resync,
    RetryPolicy,
    TriggerKind,
    TriggerOrder,
    TriggerReport,
    UserEvent,
)

__all__ = [
    "AccountEvent",
    "AlgoEvent",
    "Booking",
    "BookingKind",
    "Candle",
    "ClientOrderId",
    "Exchange",
    "ExchangeAccount",
    "ExchangePosition",
    "FillEvent",
    "FundingEvent",
    "FundingPayment",
    "FundingRate",
    "LeverageEvent",
    "MarginCallEvent",
    "OpenOrder",
    "OrderEvent",
    "OrderReport",
    "Resync",
    "RetryPolicy",
    "TriggerKind",
    "TriggerOrder",
    "TriggerReport",
    "UserEvent",
    "UserEventStream",
    "client_order_id",
    "parse_client_order_id",
]


class UserEventStream(Protocol):
    """An account's events: an asynchronous iterator that is to be closed."""

    @property
    def connected(self) -> bool:
        """Whether the exchange can tell of an event now."""

    def __aiter__(self) -> AsyncIterator[UserEvent]: ...

    async def aclose(self) -> None: ...


class Exchange(ABC):
    """One account at one exchange. Use as an async context manager, or call `connect` and `close`.

    `name` tells the exchange apart in fills and records, e.g. `testnet`.
    """

    name: str

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @abstractmethod
    async def connect(self) -> None:
        """Measure the clock, load the instruments, check the account's modes, set the leverage."""

    @abstractmethod
    async def close(self) -> None:
        """End all streams and connections. Orders and positions stay as they are."""

    @abstractmethod
    def now_ms(self) -> int:
        """The exchange's clock by the measured offset, without a request."""

    @abstractmethod
    async def server_time_ms(self) -> int:
        """The exchange's clock, by a request."""

    @abstractmethod
    async def symbols(self) -> tuple[str, ...]:
        """All perpetual contracts that trade now."""

    @abstractmethod
    async def instruments(self, symbols: Sequence[str]) -> dict[str, Instrument]:
        """Trading rules, leverage brackets and this account's fees.

        Raises:
            InstrumentError: a symbol is unknown, not a perpetual, or does not trade.
        """

    @abstractmethod
    async def candles(
        self,
        symbol: str,
        interval_ms: int,
        *,
        limit: int,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> list[Candle]:
        """Closed candles, ascending by open time, at most `limit` of them.

        With `start_ms` the first that open at or after it, else the newest. None opens after `end_ms`.
        """

    @abstractmethod
    async def mark_candles(
        self,
        symbol: str,
        interval_ms: int,
        *,
        limit: int,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> list[Candle]:
        """As `candles`, of the mark price; volumes are 0."""

    @abstractmethod
    async def funding_rates(self, symbol: str, start_ms: int, end_ms: int) -> list[FundingRate]:
        """Rates settled in [start_ms, end_ms], ascending."""

    @abstractmethod
    async def prices(self) -> dict[str, Decimal]:
        """Last prices of all contracts, by one request."""

    @abstractmethod
    def stream_candles(
        self, symbols: Sequence[str], interval_ms: int, *, after_ms: int
    ) -> AsyncIterator[Candle]:
        """Closed candles that open after `after_ms`, each once, in order per symbol, without gaps.

        `after_ms` may be the open or the close time of the last candle that is known. Holes (a lost message, a
        reconnect) are filled from the history before anything newer is delivered. A cancelled `anext` (a consumer's
        timeout) loses nothing, so this is no asynchronous generator: that would end with it.

        Raises:
            MarketDataError: a hole cannot be filled, the exchange stays away, or nobody reads the candles.
        """

    @abstractmethod
    def stream_user_events(self) -> UserEventStream:
        """Fills, orders, funding and account changes as they happen; a `Resync` first and after every hole."""

    @abstractmethod
    async def account(self) -> ExchangeAccount:
        """Wallet, margins and positions."""

    @abstractmethod
    async def place(self, order: Order) -> OrderReport:
        """Send a market order and tell what became of it.

        The order's `client_order_id` must be set and used once. An unclear outcome is asked about; the order is
        sent again, under the same id, only when it is known not to exist.

        Raises:
            OrderRejectedError: refused; it does not exist.
            ExchangeUnavailableError: could not be placed; known not to exist.
            RateLimitedError: not placed; too many requests.
            OutcomeUnknownError: it could not be found out in time; ask with `order` later.
        """

    @abstractmethod
    async def cancel(self, symbol: str, client_order_id: str) -> OrderReport | None:
        """Cancel a resting order and tell how it ended; None when the exchange knows no such order."""

    @abstractmethod
    async def order(self, symbol: str, client_order_id: str) -> OrderReport | None:
        """What became of an order, with its fills; None when the exchange knows no such order."""

    @abstractmethod
    async def open_orders(self, symbol: str | None = None) -> list[OpenOrder]:
        """Resting orders, trigger orders included, of one symbol or of all."""

    @abstractmethod
    async def cancel_all(self, symbol: str) -> None:
        """Cancel every resting order of a symbol, trigger orders included."""

    @abstractmethod
    async def place_trigger(self, trigger: TriggerOrder) -> TriggerReport:
        """Rest a stop or take-profit at the exchange. Errors as `place`."""

    @abstractmethod
    async def cancel_trigger(self, symbol: str, client_order_id: str) -> TriggerReport | None:
        """Cancel a trigger order and tell how it ended; None when the exchange knows no such order."""

    @abstractmethod
    async def fills(
        self,
        symbol: str,
        *,
        since_ms: int | None = None,
        from_id: str | None = None,
        order_id: str | None = None,
    ) -> list[Fill]:
        """This account's fills, ascending by trade id: since a time, from a trade id on, or of one order."""

    async def fill_pages(
        self, symbol: str, *, since_ms: int | None = None, from_id: str | None = None
    ) -> AsyncIterator[list[Fill]]:
        """As `fills`, page by page, so that a long history is never in memory at once."""
        yield await self.fills(symbol, since_ms=since_ms, from_id=from_id)

    async def booking_pages(self, *, since_ms: int) -> AsyncIterator[list[Booking]]:
        """Everything that changed the wallet since a time, ascending, page by page.

        Bookings of trades may be missing where the exchange has no listing of all; the fills tell them too.
        """
        kinds = (BookingKind.FUNDING, BookingKind.LIQUIDATION, BookingKind.TRANSFER)
        booked = [
            await self.funding_payments(since_ms=since_ms),
            await self.liquidation_fees(since_ms=since_ms),
            await self.transfers(since_ms=since_ms),
        ]
        page = [
            Booking(kind, kind.value, one.symbol, one.amount_usdt, one.time_ms, one.transaction_id)
            for kind, rows in zip(kinds, booked, strict=True)
            for one in rows
        ]
        yield sorted(page, key=lambda one: one.time_ms)

    @abstractmethod
    async def funding_payments(self, *, since_ms: int) -> list[FundingPayment]:
        """Funding booked since a time, ascending."""

    @abstractmethod
    async def transfers(self, *, since_ms: int) -> list[FundingPayment]:
        """Deposits (above zero) and withdrawals (below zero) booked since a time, ascending."""

    @abstractmethod
    async def liquidation_fees(self, *, since_ms: int) -> list[FundingPayment]:
        """Fees of liquidations booked since a time, ascending; amounts are below zero."""

    async def warm_up(self, connections: int) -> None:  # noqa: B027  (most exchanges need nothing)
        """Open so many connections where they have been closed meanwhile. What fails is found out by who needs them."""

    async def rehearse(self, order: Order) -> None:  # noqa: B027
        """Do what `place` does up to an order's request and its reply, and send nothing to the exchange."""

    @abstractmethod
    async def set_leverage(self, symbol: str, leverage: int) -> None:
        """Set a symbol's leverage; it bounds the position's notional and the margin that it binds."""
