"""A virtual account: one agent's part of a shared exchange account, behind the exchange port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy import select

from envs.account import ZERO, Fill, Order
from envs.instruments import Instrument
from envs.time_grid import WEEK_MS
from live.exchange.base import (
    Candle,
    Exchange,
    ExchangeAccount,
    ExchangePosition,
    FundingPayment,
    FundingRate,
    OpenOrder,
    OrderReport,
    TriggerOrder,
    TriggerReport,
)
from live.exchange.budget import reducing_risk
from live.ledger import IncomeKind
from live.store import models
from live.subaccount.events import OwnEvents

if TYPE_CHECKING:
    from live.subaccount.shared import SharedAccount


class SubAccount(Exchange):
    """What one agent has and does on a shared account. Its wallet, positions and margins are folds of the ledger.

    Its orders, open orders, fills, funding and transfers are its own only; a foreign fill that was attributed to it
    shows with its part. Realized PnL is by its own entry price. Market data are the account's.
    """

    def __init__(self, shared: SharedAccount, agent: str) -> None:
        self.name = shared.account
        self.agent = agent
        self._shared = shared
        self._exchange = shared.exchange
        self._view = shared.view
        self._desk = shared.desk
        self._events: list[OwnEvents] = []

    # Life and market data

    async def connect(self) -> None:
        """Nothing to do: the shared account is connected."""
        self._shared.check()

    async def close(self) -> None:
        """End this agent's streams; the shared account goes on."""
        events, self._events = self._events, []
        for stream in events:
            await stream.aclose()

    def now_ms(self) -> int:
        """The exchange's clock by the measured offset, without a request."""
        return self._exchange.now_ms()

    async def server_time_ms(self) -> int:
        """The exchange's clock, by a request."""
        return await self._exchange.server_time_ms()

    async def symbols(self) -> tuple[str, ...]:
        """All perpetual contracts that trade now."""
        return await self._exchange.symbols()

    async def instruments(self, symbols: Sequence[str]) -> dict[str, Instrument]:
        """Trading rules, as they were read when the shared account started; see `Exchange.instruments`."""
        known = self._view.instruments
        if any(symbol not in known for symbol in symbols):
            return await self._exchange.instruments(symbols)
        return {symbol: known[symbol] for symbol in symbols}

    async def candles(
        self,
        symbol: str,
        interval_ms: int,
        *,
        limit: int,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> list[Candle]:
        """Closed candles; see `Exchange.candles`."""
        return await self._exchange.candles(
            symbol, interval_ms, limit=limit, start_ms=start_ms, end_ms=end_ms
        )

    async def mark_candles(
        self,
        symbol: str,
        interval_ms: int,
        *,
        limit: int,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> list[Candle]:
        """As `candles`, of the mark price."""
        return await self._exchange.mark_candles(
            symbol, interval_ms, limit=limit, start_ms=start_ms, end_ms=end_ms
        )

    async def funding_rates(self, symbol: str, start_ms: int, end_ms: int) -> list[FundingRate]:
        """Rates settled in [start_ms, end_ms], ascending."""
        return await self._exchange.funding_rates(symbol, start_ms, end_ms)

    async def prices(self) -> dict[str, Decimal]:
        """Last prices of all contracts."""
        return await self._exchange.prices()

    def stream_candles(
        self, symbols: Sequence[str], interval_ms: int, *, after_ms: int
    ) -> AsyncIterator[Candle]:
        """Closed candles, out of the one stream that all agents share; see `Exchange.stream_candles`."""
        return self._shared.candles.subscribe(symbols, interval_ms, after_ms)

    def stream_user_events(self) -> OwnEvents:
        """This agent's events; see `Exchange.stream_user_events`."""
        stream = self._shared.open_events(self.agent)
        self._events = [one for one in self._events if not one.closed] + [stream]
        return stream

    # The account

    async def account(self) -> ExchangeAccount:
        """Wallet, margins and positions of this agent, after making sure that the ledger has all the exchange has."""
        await self._shared.verify()
        view = self._view
        positions = view.positions(self.agent)
        margin = view.margins(self.agent)
        leverages = view.leverages(self.agent)
        return ExchangeAccount(
            time_ms=self.now_ms(),
            wallet_usdt=margin.wallet_usdt,
            available_usdt=margin.available_usdt,
            initial_margin_usdt=margin.initial_usdt,
            maintenance_margin_usdt=margin.maintenance_usdt,
            positions={
                symbol: ExchangePosition(
                    symbol, state.p1, state.entry_price, view.prices[symbol], leverages[symbol]
                )
                for symbol, state in positions.items()
            },
        )

    async def set_leverage(self, symbol: str, leverage: int) -> None:
        """Set this agent's leverage; the exchange's own setting follows the highest of all agents'."""
        await self._shared.set_leverage(self.agent, symbol, leverage)

    async def fills(
        self,
        symbol: str,
        *,
        since_ms: int | None = None,
        from_id: str | None = None,
        order_id: str | None = None,
    ) -> list[Fill]:
        """This agent's fills, and its parts of foreign ones; see `Exchange.fills`."""
        await self._shared.verify()
        own = await self._view.own_fills(self.agent, symbol)
        if order_id is not None:
            return await own.fills_of(order_id, 0)
        if from_id is not None:
            return await own.fills_from(from_id)
        return await own.fills_since(self.now_ms() - WEEK_MS if since_ms is None else since_ms)

    async def funding_payments(self, *, since_ms: int) -> list[FundingPayment]:
        """This agent's part of the funding booked since a time, ascending."""
        await self._shared.read_bookings()
        return await self._shared.sync.run(self._income, IncomeKind.FUNDING, since_ms)

    async def liquidation_fees(self, *, since_ms: int) -> list[FundingPayment]:
        """This agent's part of the fees of liquidations booked since a time, ascending."""
        await self._shared.read_bookings()
        found = await self._shared.sync.run(self._income, IncomeKind.CLEARANCE, since_ms)
        return [one for one in found if one.amount_usdt < 0]

    def _income(self, kind: IncomeKind, since_ms: int) -> list[FundingPayment]:
        part = models.Allocation
        statement = (
            select(part.symbol, part.amount, part.time_ms, part.reference)
            .join(models.Account, models.Account.id == part.account_id)
            .join(models.Exchange, models.Exchange.id == part.exchange_id)
            .where(
                models.Exchange.name == self.name,
                models.Account.name == self.agent,
                part.kind == kind.value,
                part.time_ms >= since_ms,
            )
            .order_by(part.time_ms, part.symbol, part.id)
        )
        with self._shared.ledger.store.read() as connection:
            return [
                FundingPayment(row.symbol, row.amount, row.time_ms, row.reference)
                for row in connection.execute(statement)
            ]

    async def transfers(self, *, since_ms: int) -> list[FundingPayment]:
        """Capital that was given to this agent or taken back since a time, ascending."""
        return await self._shared.sync.run(self._transfers, since_ms)

    def _transfers(self, since_ms: int) -> list[FundingPayment]:
        row = models.Transfer
        statement = (
            select(row.amount_usdt, row.time_ms, row.transaction_id)
            .join(models.Account, models.Account.id == row.account_id)
            .join(models.Exchange, models.Exchange.id == models.Account.exchange_id)
            .where(
                models.Exchange.name == self.name,
                models.Account.name == self.agent,
                row.time_ms >= since_ms,
            )
            .order_by(row.time_ms, row.id)
        )
        with self._shared.ledger.store.read() as connection:
            return [
                FundingPayment("", one.amount_usdt, one.time_ms, one.transaction_id)
                for one in connection.execute(statement)
            ]

    # Orders

    async def place(self, order: Order) -> OrderReport:
        """Send a market order within this agent's own means; see `Exchange.place`.

        Raises:
            OrderRejectedError: also with code -2019 where the agent's own margin is insufficient, though the
                account's would do; nothing was sent then.
        """
        self._shared.check()
        return await self._own(await self._desk.place(self.agent, order))

    async def warm_up(self, connections: int) -> None:
        """See `Exchange.warm_up`."""
        await self._exchange.warm_up(connections)

    async def rehearse(self, order: Order) -> None:
        """See `Exchange.rehearse`."""
        await self._exchange.rehearse(order)

    async def order(self, symbol: str, client_order_id: str) -> OrderReport | None:
        """What became of an order of this agent; None for another's."""
        if not self._is_own(client_order_id):
            return None
        report = await self._exchange.order(symbol, client_order_id)
        if report is None:
            return None
        await self._shared.sync.record(*report.fills)
        return await self._own(report)

    async def cancel(self, symbol: str, client_order_id: str) -> OrderReport | None:
        """Cancel an order of this agent; None for another's."""
        if not self._is_own(client_order_id):
            return None
        report = await self._exchange.cancel(symbol, client_order_id)
        return None if report is None else await self._own(report)

    async def open_orders(self, symbol: str | None = None) -> list[OpenOrder]:
        """This agent's resting orders."""
        return [one for one in await self._exchange.open_orders(symbol) if self._is_own(one.client_order_id)]

    async def cancel_all(self, symbol: str) -> None:
        """Cancel every resting order of this agent in a symbol; the others' stay."""
        with reducing_risk():
            for one in await self.open_orders(symbol):
                if one.is_trigger:
                    await self._desk.cancel_trigger(self.agent, symbol, one.client_order_id)
                else:
                    await self._exchange.cancel(symbol, one.client_order_id)

    async def place_trigger(self, trigger: TriggerOrder) -> TriggerReport:
        """Rest a stop or take-profit over what this agent holds; see `Exchange.place_trigger`."""
        self._shared.check()
        return await self._desk.place_trigger(self.agent, trigger)

    async def cancel_trigger(self, symbol: str, client_order_id: str) -> TriggerReport | None:
        """Cancel a trigger order of this agent; None for another's."""
        if not self._is_own(client_order_id):
            return None
        return await self._desk.cancel_trigger(self.agent, symbol, client_order_id)

    def _is_own(self, client_order_id: str) -> bool:
        return self._view.owner_of_id(client_order_id) == self.agent

    async def _own(self, report: OrderReport) -> OrderReport:
        """The report with this agent's realized PnL in its fills."""
        if not report.fills:
            return report
        fills = await self._view.own_fills(self.agent, report.symbol)
        own = await fills.fills_of(report.order_id, min(fill.time_ms for fill in report.fills))
        counted: Decimal = sum((fill.quantity for fill in own), ZERO)
        return replace(report, fills=tuple(own)) if counted == report.executed_quantity else report
