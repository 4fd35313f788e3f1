"""The orders of an account, written down as its stream, its fills and its list of open orders tell of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal

from envs.account import Fill
from envs.time_grid import DAY_MS, MINUTE_MS
from live.exchange.base import AlgoEvent, Exchange, FillEvent, OpenOrder, OrderEvent, UserEvent
from live.exchange.client_ids import parse_client_order_id
from live.ledger.arithmetic import exact
from live.ledger.booking import owner_of
from live.ledger.queries import Where, trades
from live.store.journal import Journal, OrderRecord
from live.sync.writer import LedgerWriter

RESTING = frozenset({"NEW", "PARTIALLY_FILLED", "TRIGGERING"})
GONE = "GONE"
"""Status of a stop or take-profit that ended while nobody listened: the exchange no longer says how."""

TRIGGER_PREFIX = "algo:"
_PAUSE_S = 0.25
_ASKED_AT_ONCE = 20
_REMEMBERED = 10_000
# An order that was placed while the open ones were read may be missing among them.
_YOUNG_MS = 10_000
_Key = tuple[str, str]


class OrderLog:
    """Keeps the table `orders` of one exchange account.

    Nobody waits for it: what arrives is collected and written a moment later, on the thread that writes the ledger.
    What a killed process had not written yet follows from the fills and from the open orders at the next start.

    Args:
        account: the exchange account's name in the ledger.
    """

    def __init__(self, exchange: Exchange, writer: LedgerWriter, account: str) -> None:
        self._exchange = exchange
        self._writer = writer
        self._account = account
        self._journal = Journal(writer.ledger.store)
        self._news: dict[_Key, OrderRecord] = {}
        self._told: dict[_Key, int] = {}
        self._open: dict[_Key, OrderRecord] = {}
        self._described: dict[_Key, None] = {}
        self._arrived = asyncio.Event()

    # What is heard

    def on_event(self, event: UserEvent) -> None:
        """Take an order from an event of the user stream."""
        if not isinstance(event, (FillEvent, OrderEvent, AlgoEvent)) or event.order is None:
            return
        if isinstance(event, FillEvent):
            self._note(event.order, event.order_status, event.fill.time_ms)
        else:
            self._note(event.order, event.status, event.time_ms, event.reason)

    def on_fill(self, fill: Fill) -> None:
        """A fill is recorded; where no event has told of it yet, its order follows from it."""
        key = fill.symbol, fill.order_id
        if fill.order_id and (key not in self._described or key in self._open):
            self._told[key] = min(fill.time_ms, self._told.get(key, fill.time_ms))
            self._arrived.set()

    def _note(self, order: OpenOrder, status: str, time_ms: int, reason: str = "") -> None:
        parsed = parse_client_order_id(order.client_order_id)
        record = OrderRecord(
            exchange=self._account,
            symbol=order.symbol,
            order_id=TRIGGER_PREFIX + order.order_id if order.is_trigger else order.order_id,
            client_order_id=order.client_order_id,
            side=str(order.side),
            type=order.type,
            quantity=order.quantity,
            status=status,
            created_ms=time_ms,
            updated_ms=time_ms,
            agent=parsed.agent if parsed else "",
            price=order.price or None,
            reduce_only=order.reduce_only,
            executed_quantity=order.executed_quantity,
            reason=reason,
        )
        self._put(record)
        key = record.symbol, record.order_id
        self._told.pop(key, None)
        self._described[key] = None
        while len(self._described) > _REMEMBERED:
            del self._described[next(iter(self._described))]

    def _put(self, record: OrderRecord) -> None:
        key = record.symbol, record.order_id
        known = self._news.get(key)
        if known is not None and known.updated_ms > record.updated_ms:
            return
        self._news[key] = replace(record, created_ms=known.created_ms) if known else record
        if record.status in RESTING:
            self._open[key] = record
        else:
            self._open.pop(key, None)
        self._arrived.set()

    # What rests at the exchange

    async def start(self) -> None:
        """Recall the orders that rested when they were last looked at, and write those that only fills tell of."""
        for one in await self._writer.run(self._journal.orders_of, self._account, statuses=sorted(RESTING)):
            self._open.setdefault((one.symbol, one.order_id), one)
        await self._writer.run(self._write_forgotten)

    def _write_forgotten(self) -> None:
        """A process that was killed may have recorded fills, and not yet their orders."""
        newest_ms = self._journal.newest_order_ms(self._account)
        told: dict[_Key, int] = {}
        where = Where(exchange=self._account, since_ms=newest_ms - MINUTE_MS)
        for fill in trades(self._writer.ledger.store, where):
            told.setdefault((fill.symbol, fill.order_id), fill.time_ms)
        if told:
            self._write([], told)

    async def compare(self, resting: Iterable[OpenOrder], time_ms: int) -> None:
        """Take the exchange's list of open orders; ask after those that rested and are not on it any more.

        Raises:
            ExchangeError: one cannot be asked after; it is tried again with the next list.
        """
        there = set()
        for order in resting:
            key = order.symbol, TRIGGER_PREFIX + order.order_id if order.is_trigger else order.order_id
            there.add(key)
            known = self._open.get(key)
            if known is None or not known.type or known.executed_quantity != order.executed_quantity:
                self._note(order, "PARTIALLY_FILLED" if order.executed_quantity else "NEW", time_ms)
        missing = [
            one
            for key, one in self._open.items()
            if key not in there and time_ms - one.updated_ms > _YOUNG_MS
        ]
        for one in missing[:_ASKED_AT_ONCE]:
            report = await self._exchange.order(one.symbol, one.client_order_id)
            if one.order_id.startswith(TRIGGER_PREFIX):
                # Its order bears its id: with one, it was triggered.
                self._put(replace(one, status="FINISHED" if report else GONE, updated_ms=time_ms))
            elif report is None or report.order_id != one.order_id:
                self._put(replace(one, status=GONE, updated_ms=time_ms))
            else:
                executed = report.executed_quantity
                self._put(replace(one, status=report.status, executed_quantity=executed, updated_ms=time_ms))

    # Writing

    async def run(self) -> None:
        """Write what arrives until cancelled."""
        while True:
            await self._arrived.wait()
            await asyncio.sleep(_PAUSE_S)
            await self.write()

    async def write(self) -> None:
        """Write what has arrived."""
        self._arrived.clear()
        news, self._news = self._news, {}
        told, self._told = self._told, {}
        if not (news or told):
            return
        try:
            await self._writer.run(self._write, list(news.values()), told)
        except asyncio.CancelledError:
            # It may never have been begun; whoever writes next writes it, once more if need be.
            self._news = news | self._news
            self._told = told | self._told
            self._arrived.set()
            raise

    def _write(self, news: Sequence[OrderRecord], told: dict[_Key, int]) -> None:
        # One after the other: what was described stays where fills have more to say of the same order.
        for records in (news, self._from_fills(told)):
            if records:
                self._journal.orders(records)

    def _from_fills(self, told: dict[_Key, int]) -> list[OrderRecord]:
        since: dict[str, int] = {}
        for (symbol, _), time_ms in told.items():
            since[symbol] = min(time_ms, since.get(symbol, time_ms))
        found: dict[_Key, OrderRecord] = {}
        for symbol, first_ms in since.items():
            where = Where(exchange=self._account, symbol=symbol, since_ms=first_ms - DAY_MS)
            for fill in trades(self._writer.ledger.store, where):
                key = symbol, fill.order_id
                if key in told:
                    found[key] = _with(found.get(key), fill)
        for key, order in found.items():
            known = self._open.get(key)
            if known is not None and order.executed_quantity < known.quantity:
                found[key] = replace(order, status="PARTIALLY_FILLED")
        return list(found.values())


def _with(order: OrderRecord | None, fill: Fill) -> OrderRecord:
    """An order as its fills show it: filled as far as they go, and of a type that they do not tell."""
    with exact():
        executed = fill.quantity + (order.executed_quantity if order else Decimal(0))
    return OrderRecord(
        exchange=fill.exchange,
        symbol=fill.symbol,
        order_id=fill.order_id,
        client_order_id=fill.client_order_id,
        side=str(fill.side),
        type="",
        quantity=executed,
        status="FILLED",
        created_ms=order.created_ms if order else fill.time_ms,
        updated_ms=fill.time_ms,
        agent=owner_of(fill) or "",
        executed_quantity=executed,
    )
