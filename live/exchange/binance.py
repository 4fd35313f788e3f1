"""Binance USD-M futures as an `Exchange`: testnet, demo, real money, or the paper exchange, by the venue's URLs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from envs.account import Fill, Order
from envs.errors import ConfigError
from envs.instruments import Instrument
from live.exchange.account_reader import AccountReader
from live.exchange.base import (
    Booking,
    Candle,
    Exchange,
    ExchangeAccount,
    FillEvent,
    FundingPayment,
    FundingRate,
    LeverageEvent,
    OpenOrder,
    OrderReport,
    RetryPolicy,
    TriggerOrder,
    TriggerReport,
    UserEvent,
)
from live.exchange.budget import RequestBudget
from live.exchange.buffer import EventStream
from live.exchange.candle_stream import CandleStream
from live.exchange.checks import OrderChecks
from live.exchange.dead_man import DeadMan
from live.exchange.history import MARK_KLINES, PAGE_CANDLES, History
from live.exchange.listing import Listing, naming_unknown_symbol
from live.exchange.orders import Orders
from live.exchange.rest import DEFAULT_CLOCK_EVERY_S, DEFAULT_RECV_WINDOW_MS, DEFAULT_TIMEOUT_S, BinanceRest
from live.exchange.sockets import StreamSettings
from live.exchange.trades import Trades
from live.exchange.user_stream import UserStream
from live.settings import Credentials, Venue


class BinanceExchange(Exchange):
    """One account at one venue. Without credentials only market data can be read.

    Args:
        venue: where; see `live.settings`.
        credentials: of the account, or None.
        symbols: traded here; each is checked, set to cross margin and to `leverage` by `connect`.
        leverage: one for all symbols, or by symbol; None leaves the account's settings.
        retry: how failed requests are repeated.
        streams: patience of the streams.
        recv_window_ms: how long after its timestamp the exchange may still accept a request. It bounds how soon an
            unclear order can be known not to exist.
        timeout_s: for the reply to a request.
        back_end_delay_s: margin after the receive window before an order that is not found counts as not there.
        budget: the exchange's limits, where several connectors of one address and account share them.
        clock_every_s: how often the exchange's clock is measured again.
        dead_man_s: countdown after which the exchange cancels the traded symbols' resting ordinary orders unless it
            hears from this connector; None leaves them. Trigger orders stay.
        rng: of the jitter of pauses; seeded, they are the same each time.

    Raises:
        ConfigError: a symbol is given twice, or a leverage is below 1 or for another symbol.
    """

    def __init__(
        self,
        venue: Venue,
        credentials: Credentials | None,
        symbols: Sequence[str],
        *,
        leverage: int | Mapping[str, int] | None = None,
        retry: RetryPolicy | None = None,
        streams: StreamSettings | None = None,
        recv_window_ms: int = DEFAULT_RECV_WINDOW_MS,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        back_end_delay_s: float = 1.0,
        budget: RequestBudget | None = None,
        clock_every_s: float = DEFAULT_CLOCK_EVERY_S,
        dead_man_s: float | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if len(set(symbols)) != len(symbols):
            raise ConfigError(f"a symbol is given twice in {', '.join(symbols)}")
        wanted = dict.fromkeys(symbols, leverage) if isinstance(leverage, int) else dict(leverage or {})
        for symbol, value in wanted.items():
            if symbol not in symbols or not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"leverage {value!r} for {symbol}: give a whole number from 1 for a traded symbol"
                )
        self.name = venue.name
        self.venue = venue
        self.traded = tuple(symbols)
        self.loaded: dict[str, Instrument] = {}
        self._wanted_leverage = wanted
        self._streams = streams or StreamSettings()
        self._rest = BinanceRest(
            venue,
            credentials,
            policy=retry or RetryPolicy(),
            recv_window_ms=recv_window_ms,
            timeout_s=timeout_s,
            budget=budget,
            clock_every_s=clock_every_s,
            rng=rng,
        )
        self._prices: dict[str, Decimal] = {}
        self._listing = Listing(self._rest)
        self._history = History(self._rest)
        self._account = AccountReader(self._rest)
        self._trades = Trades(self._rest, self.name)
        self._orders = Orders(
            self._rest,
            self._trades,
            checks=OrderChecks(self._rest, self.loaded, self._prices),
            back_end_delay_s=back_end_delay_s,
        )
        self._dead_man = (
            DeadMan(self._orders.cancel_later, symbols, dead_man_s) if dead_man_s is not None else None
        )
        self._open_streams: list[EventStream[Any]] = []

    def __repr__(self) -> str:
        return f"BinanceExchange({self.name}, {', '.join(self.traded) or 'no symbols'})"

    async def connect(self) -> None:
        """Measure the clock; with symbols, load and check their rules; with a key, check and set the account's modes.

        Raises:
            InstrumentError: a symbol does not trade here as a perpetual.
            ConfigError: the account is in hedge or multi-assets mode, or a symbol cannot be set to cross margin or to
                its leverage.
            AuthenticationError: the key is refused.
        """
        await self._rest.open()
        try:
            if self._rest.has_key:
                await asyncio.gather(self.instruments(self.traded), self._account.check_modes())
                await asyncio.gather(
                    *(self._account.prepare(one, self._wanted_leverage.get(one)) for one in self.traded)
                )
                if self._dead_man is not None:
                    await self._dead_man.start()
            else:
                await self.instruments(self.traded)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End all streams and connections. Orders and positions stay as they are."""
        streams, self._open_streams = self._open_streams, []
        await asyncio.gather(*(stream.aclose() for stream in streams))
        if self._dead_man is not None:
            await self._dead_man.stop()
        await self._rest.close()

    def now_ms(self) -> int:
        """The exchange's clock by the measured offset, without a request."""
        return self._rest.clock.now_ms()

    async def server_time_ms(self) -> int:
        """The exchange's clock, by a request."""
        return await self._rest.server_time_ms()

    # Market data

    async def symbols(self) -> tuple[str, ...]:
        """All perpetual contracts that trade now."""
        return await self._listing.symbols()

    async def check_symbol(self, symbol: str) -> None:
        """Raise an InstrumentError, with a suggestion, unless the exchange lists the symbol, in whatever state."""
        await self._listing.check(symbol)

    async def instruments(self, symbols: Sequence[str]) -> dict[str, Instrument]:
        """Trading rules; leverage brackets and fees are the account's, or without a key those of the bundled table."""
        found = await self._listing.instruments(symbols)
        self.loaded |= {symbol: found[symbol] for symbol in symbols if symbol in self.traded}
        return found

    async def candles(
        self,
        symbol: str,
        interval_ms: int,
        *,
        limit: int,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> list[Candle]:
        """Closed candles, ascending; see `Exchange.candles`."""
        with naming_unknown_symbol(symbol, self.name):
            found = await self._history.candles(
                symbol, interval_ms, limit=limit, start_ms=start_ms, end_ms=end_ms
            )
        if found and start_ms is None and end_ms is None and symbol not in self._prices:
            self._note_price(symbol, found[-1].close)
        return found

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
        with naming_unknown_symbol(symbol, self.name):
            return await self._history.candles(
                symbol, interval_ms, limit=limit, start_ms=start_ms, end_ms=end_ms, method=MARK_KLINES
            )

    async def funding_rates(self, symbol: str, start_ms: int, end_ms: int) -> list[FundingRate]:
        """Rates settled in [start_ms, end_ms], ascending."""
        with naming_unknown_symbol(symbol, self.name):
            return await self._history.funding_rates(symbol, start_ms, end_ms)

    async def prices(self) -> dict[str, Decimal]:
        """Last prices of all contracts, by one request."""
        return await self._listing.prices()

    def stream_candles(
        self, symbols: Sequence[str], interval_ms: int, *, after_ms: int
    ) -> AsyncIterator[Candle]:
        """Closed candles that open after `after_ms`; see `Exchange.stream_candles`. Ends with `close`."""

        async def read_history(symbol: str, start_ms: int, end_ms: int | None) -> list[Candle]:
            return await self._history.candles(
                symbol, interval_ms, limit=PAGE_CANDLES, start_ms=start_ms, end_ms=end_ms, urgent=True
            )

        stream = CandleStream(
            self.venue.ws_url,
            symbols,
            interval_ms,
            after_ms,
            read_history=read_history,
            clock=self._rest.clock,
            settings=self._streams,
            rng=self._rest.rng,
            on_price=self._note_price,
        )
        self._open_streams.append(stream)
        return stream

    def _note_price(self, symbol: str, price: float) -> None:
        self._prices[symbol] = Decimal(repr(price))

    def stream_user_events(self) -> UserStream:
        """The account's events; see `Exchange.stream_user_events`. Ends with `close`."""
        self._rest.require_key("the user stream")
        stream = UserStream(self._rest, exchange=self.name, on_event=self._learn, settings=self._streams)
        self._open_streams.append(stream)
        return stream

    def _learn(self, event: UserEvent) -> None:
        if isinstance(event, FillEvent):
            self._trades.know_fill(event.fill)
        elif isinstance(event, LeverageEvent):
            self._account.know_leverage(event.symbol, event.leverage)

    # Account

    async def account(self) -> ExchangeAccount:
        """Wallet, margins and positions, of one moment."""
        self._rest.require_key("the account")
        return await self._account.account()

    async def account_id(self) -> str:
        """The exchange's own name of the account, whichever key asks; empty where it gives none."""
        self._rest.require_key("the account")
        return await self._account.account_id()

    async def set_leverage(self, symbol: str, leverage: int) -> None:
        """Set a symbol's leverage."""
        self._rest.require_key("setting the leverage")
        await self._account.set_leverage(symbol, leverage)

    async def check_withdrawals_disabled(self) -> None:
        """Raise a CredentialsError unless the API key provably cannot withdraw; for real money."""
        self._rest.require_key("this check")
        await self._account.check_withdrawals_disabled()

    async def booking_pages(self, *, since_ms: int) -> AsyncIterator[list[Booking]]:
        """Everything that changed the wallet since a time; see `Exchange.booking_pages`."""
        self._rest.require_key("the income")
        async for page in self._trades.booking_pages(since_ms):
            yield page

    async def funding_payments(self, *, since_ms: int) -> list[FundingPayment]:
        """Funding booked since a time, ascending."""
        self._rest.require_key("the funding payments")
        return await self._trades.funding_payments(since_ms)

    async def transfers(self, *, since_ms: int) -> list[FundingPayment]:
        """Deposits and withdrawals booked since a time, ascending."""
        self._rest.require_key("the transfers")
        return await self._trades.transfers(since_ms)

    async def liquidation_fees(self, *, since_ms: int) -> list[FundingPayment]:
        """Fees of liquidations booked since a time; see `Exchange.liquidation_fees`."""
        self._rest.require_key("the liquidation fees")
        return await self._trades.liquidation_fees(since_ms)

    # Orders

    async def place(self, order: Order) -> OrderReport:
        """Send a market order and tell what became of it; see `Exchange.place`."""
        self._rest.require_key("an order")
        return await self._orders.place(order)

    async def warm_up(self, connections: int) -> None:
        """See `Exchange.warm_up`; costs a request of the least weight per connection."""
        await self._rest.warm_up(connections)

    async def rehearse(self, order: Order) -> None:
        """See `Exchange.rehearse`."""
        self._rest.require_key("an order")
        await self._orders.rehearse(order)

    async def cancel(self, symbol: str, client_order_id: str) -> OrderReport | None:
        """Cancel a resting order and tell how it ended."""
        self._rest.require_key("cancelling an order")
        return await self._orders.cancel(symbol, client_order_id)

    async def order(self, symbol: str, client_order_id: str) -> OrderReport | None:
        """What became of an order, with its fills."""
        self._rest.require_key("an order")
        return await self._orders.order(symbol, client_order_id)

    async def open_orders(self, symbol: str | None = None) -> list[OpenOrder]:
        """Resting orders, trigger orders included."""
        self._rest.require_key("the open orders")
        return await self._orders.open_orders(symbol)

    async def cancel_all(self, symbol: str) -> None:
        """Cancel every resting order of a symbol, trigger orders included."""
        self._rest.require_key("cancelling orders")
        await self._orders.cancel_all(symbol)

    async def place_trigger(self, trigger: TriggerOrder) -> TriggerReport:
        """Rest a stop or take-profit at the exchange."""
        self._rest.require_key("a trigger order")
        return await self._orders.place_trigger(trigger)

    async def cancel_trigger(self, symbol: str, client_order_id: str) -> TriggerReport | None:
        """Cancel a trigger order and tell how it ended."""
        self._rest.require_key("cancelling an order")
        return await self._orders.cancel_trigger(symbol, client_order_id)

    async def fill_pages(
        self, symbol: str, *, since_ms: int | None = None, from_id: str | None = None
    ) -> AsyncIterator[list[Fill]]:
        """This account's fills page by page; see `Exchange.fill_pages`."""
        self._rest.require_key("the fills")
        async for page in self._trades.pages(symbol, since_ms=since_ms, from_id=from_id):
            yield page

    async def fills(
        self,
        symbol: str,
        *,
        since_ms: int | None = None,
        from_id: str | None = None,
        order_id: str | None = None,
    ) -> list[Fill]:
        """This account's fills, ascending by trade id."""
        self._rest.require_key("the fills")
        return await self._trades.find(symbol, since_ms=since_ms, from_id=from_id, order_id=order_id)
