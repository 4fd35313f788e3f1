"""Questions to the ledger: trades, round trips, statistics. They read the database, so any process may ask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select

from envs.account import Fill, PositionSide
from live.ledger.arithmetic import ZERO, divide, exact
from live.ledger.booking import read_fills
from live.store import models
from live.store.database import Store
from live.store.names import Names


@dataclass(frozen=True, slots=True)
class Where:
    """Which entries; None does not restrict. Times are UTC ms, `since_ms` included, `until_ms` not."""

    exchange: str | None = None
    symbol: str | None = None
    agent: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A row of `transactions` (`docs/store.md`), with the names of its exchange and its agent."""

    exchange: str
    agent: str
    symbol: str
    side: PositionSide
    entry_ms: int
    entry_trade_id: str
    exit_ms: int | None
    exit_trade_id: str
    exit_reason: str
    quantity: Decimal
    open_quantity: Decimal
    entry_price: Decimal
    exit_price: Decimal | None
    open_cost: Decimal
    entry_quote: Decimal
    exit_quote: Decimal
    realized: Decimal
    fees: Decimal
    funding: Decimal
    clearance: Decimal
    fills: int
    last_price: Decimal | None
    last_price_ms: int | None
    unrealized: Decimal | None

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.exit_ms is None

    @property
    def duration_ms(self) -> int | None:
        """From entry to exit, None while open."""
        return None if self.exit_ms is None else self.exit_ms - self.entry_ms

    @property
    def net_pnl(self) -> Decimal:
        """Realized PnL - fees + funding + liquidation fees; without what is unrealized."""
        with exact():
            return self.realized - self.fees + self.funding + self.clearance

    @property
    def pnl_percent(self) -> Decimal:
        """Net PnL, with what is unrealized while open, in percent of the entry value; rounded to 1e-8."""
        with exact():
            pnl = self.net_pnl + (self.unrealized or ZERO)
            return divide(pnl * 100, self.entry_quote, Decimal("1E-8"))

    @property
    def is_winner(self) -> bool:
        """Whether it has ended and its net PnL is above zero."""
        return not self.is_open and self.net_pnl > 0


@dataclass(frozen=True, slots=True)
class Statistics:
    """What trading did. Fractions and averages are rounded; they are None where there is nothing to divide by.

    Attributes:
        trades: fills.
        volume_usdt: their quote quantity.
        fees_usdt: their commission in USDT.
        round_trips, open_round_trips: ended ones, and those that have not ended.
        wins: ended ones with a net PnL above zero.
        win_rate_fraction: of the ended ones.
        profit_factor: gains of the winners over losses of the others; None without a loss.
        average_duration_ms: of the ended ones.
        net_pnl_usdt: of the ended ones: realized PnL - fees + funding + liquidation fees.
        funding_usdt: of the ended ones.
    """

    trades: int
    volume_usdt: Decimal
    fees_usdt: Decimal
    round_trips: int
    open_round_trips: int
    wins: int
    win_rate_fraction: Decimal | None
    profit_factor: Decimal | None
    average_duration_ms: int | None
    net_pnl_usdt: Decimal
    funding_usdt: Decimal


def trades(store: Store, where: Where | None = None, *, limit: int | None = None) -> list[Fill]:
    """Fills in the order of time, the newest `limit` of them.

    With an agent: his own, and his parts of foreign fills, with quantity and commission of the part.
    """
    where = where or Where()
    names = Names()
    with store.read() as connection, exact():
        names.load(connection)
        found = list(read_fills(connection, names, _newest(_fills(where), models.Fill, limit)))
        if where.agent is not None:
            for row in connection.execute(_newest(_parts(where), models.Fill, limit)).all():
                (whole,) = read_fills(
                    connection, names, select(models.Fill).where(models.Fill.id == row.fill_id)
                )
                part = replace(
                    whole, quantity=abs(row.part_quantity), commission=row.part_amount, agent=where.agent
                )
                found.append(part)
    found.sort(key=lambda fill: (fill.time_ms, len(fill.trade_id), fill.trade_id))
    return found if limit is None else found[-limit:] if limit else []


def _newest(statement: Select[Any], table: Any, limit: int | None) -> Select[Any]:
    order = (table.time_ms.desc(), func.length(table.trade_id).desc(), table.trade_id.desc())
    return statement.order_by(*order) if limit is None else statement.order_by(*order).limit(limit)


def _fills(where: Where) -> Select[Any]:
    statement = select(models.Fill).where(*_restrict(where, models.Fill, models.Fill.time_ms))
    if where.agent is not None:
        statement = statement.join(models.Account, models.Account.id == models.Fill.account_id)
        statement = statement.where(models.Account.name == where.agent)
    return statement


def _parts(where: Where) -> Select[Any]:
    fill, part = models.Fill, models.Allocation
    columns: tuple[Any, ...] = (
        fill.id.label("fill_id"),
        part.quantity.label("part_quantity"),
        part.amount.label("part_amount"),
    )
    of_fill = (
        (fill.exchange_id == part.exchange_id)
        & (fill.symbol == part.symbol)
        & (fill.trade_id == part.reference)
    )
    return (
        select(*columns)
        .select_from(part)
        .join(fill, of_fill)
        .join(models.Account, models.Account.id == part.account_id)
        .where(part.kind == "FILL", models.Account.name == where.agent, *_restrict(where, fill, fill.time_ms))
    )


def _restrict(where: Where, table: Any, time: Any) -> list[ColumnElement[bool]]:
    conditions = []
    if where.exchange is not None:
        wanted = select(models.Exchange.id).where(models.Exchange.name == where.exchange).scalar_subquery()
        conditions.append(table.exchange_id == wanted)
    if where.symbol is not None:
        conditions.append(table.symbol == where.symbol)
    if where.since_ms is not None:
        conditions.append(time >= where.since_ms)
    if where.until_ms is not None:
        conditions.append(time < where.until_ms)
    return conditions


def round_trips(store: Store, where: Where | None = None, *, is_open: bool | None = None) -> list[RoundTrip]:
    """Round trips by entry; all, or only those that are open or have ended. Times restrict the exit, or the entry while
    it is open."""
    where = where or Where()
    row = models.Transaction
    statement = (
        select(row, models.Account.name.label("agent"), models.Exchange.name.label("exchange"))
        .join(models.Account, models.Account.id == row.account_id)
        .join(models.Exchange, models.Exchange.id == row.exchange_id)
        .where(*_restrict(where, row, func.coalesce(row.exit_ms, row.entry_ms)))
        .order_by(row.entry_ms, func.length(row.entry_trade_id), row.entry_trade_id, models.Account.name)
    )
    if where.agent is not None:
        statement = statement.where(models.Account.name == where.agent)
    if is_open is not None:
        statement = statement.where(row.exit_ms.is_(None) if is_open else row.exit_ms.is_not(None))
    names = [field.name for field in fields(RoundTrip)]
    with store.read() as connection:
        return [
            RoundTrip(**{**{name: getattr(one, name) for name in names}, "side": PositionSide(one.side)})
            for one in connection.execute(statement)
        ]


def statistics(store: Store, where: Where | None = None) -> Statistics:
    """Statistics over fills by their time and round trips by their exit."""
    where = where or Where()
    fills = trades(store, where)
    trips = round_trips(store, where)
    ended = [trip for trip in trips if not trip.is_open]
    with exact():
        results = [trip.net_pnl for trip in ended]
        gains = _sum(result for result in results if result > 0)
        losses = -_sum(result for result in results if result < 0)
        wins = sum(result > 0 for result in results)
        count = len(ended)
        return Statistics(
            trades=len(fills),
            volume_usdt=_sum(fill.quote_quantity for fill in fills),
            fees_usdt=_sum(fill.commission for fill in fills if fill.commission_asset == "USDT"),
            round_trips=count,
            open_round_trips=len(trips) - count,
            wins=wins,
            win_rate_fraction=divide(Decimal(wins), Decimal(count)) if count else None,
            profit_factor=divide(gains, losses) if losses else None,
            average_duration_ms=sum(trip.duration_ms or 0 for trip in ended) // count if count else None,
            net_pnl_usdt=_sum(results),
            funding_usdt=_sum(trip.funding for trip in ended),
        )


def _sum(values: Iterable[Decimal]) -> Decimal:
    return sum(values, ZERO)
