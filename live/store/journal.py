"""The journal: orders, decisions, equity and emergencies, written and read with plain records.

Accounts are named as in the ledger, and made when they are new.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select, update

from live.store.bulk import BulkInsert
from live.store.database import Store
from live.store.journal_models import DecisionRow, EmergencyRow, EquityRow, Order
from live.store.names import Names, insert_of

ZERO = Decimal(0)
_ORDER_NEWS = [
    f"{name} = excluded.{name}"
    for name in ("client_order_id", "account_id", "status", "executed_quantity", "reason", "updated_ms")
] + [
    # What only fills tell of does not take the place of what the exchange described.
    f"{name} = CASE WHEN excluded.type = '' THEN orders.{name} ELSE excluded.{name} END"
    for name in ("type", "quantity", "price", "reduce_only")
]
_ORDERS = BulkInsert(
    Order,
    f"ON CONFLICT (exchange_id, symbol, order_id) DO UPDATE SET {', '.join(_ORDER_NEWS)} "
    "WHERE orders.updated_ms <= excluded.updated_ms",
)

_FAILURES = 50
"""So many errors of an emergency are kept, the newest ones."""


@dataclass(frozen=True, slots=True)
class OrderRecord:
    """An order with its last known status; `docs/store.md` (orders) explains the fields. `agent` is empty for a foreign
    one."""

    exchange: str
    symbol: str
    order_id: str
    client_order_id: str
    side: str
    type: str
    quantity: Decimal
    status: str
    created_ms: int
    updated_ms: int
    agent: str = ""
    price: Decimal | None = None
    reduce_only: bool = False
    executed_quantity: Decimal = ZERO
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """A language model's decision; `docs/store.md` (decisions) explains the fields."""

    exchange: str
    agent: str
    time_ms: int
    action: str
    verdict: str
    provider: str
    model: str
    prompt_hash: str
    symbol: str = ""
    decision: Any = None
    reason: str = ""
    template: str = ""
    prompt: str | None = None
    reply: str = ""
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = ZERO
    latency_ms: int = 0
    calls: int = 1
    client_order_id: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a decision cost and whether it was carried out, without its texts."""

    time_ms: int
    verdict: str
    output_tokens: int
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class Equity:
    """An account at one moment; `docs/store.md` (equity) explains the fields."""

    exchange: str
    agent: str
    time_ms: int
    wallet_usdt: Decimal
    unrealized_usdt: Decimal
    equity_usdt: Decimal
    peak_usdt: Decimal
    drawdown_fraction: Decimal
    initial_margin_usdt: Decimal | None = ZERO
    maintenance_margin_usdt: Decimal | None = ZERO
    kind: str = "STEP"


@dataclass(frozen=True, slots=True)
class Emergency:
    """A run of the emergency protocol; `docs/store.md` (emergencies). `agent` is empty for the whole account."""

    exchange: str
    time_ms: int
    reason: str
    drawdown_fraction: Decimal
    peak_usdt: Decimal
    equity_before_usdt: Decimal
    equity_after_usdt: Decimal
    tries: int
    succeeded: bool
    agent: str = ""
    limit_fraction: Decimal | None = None
    failures: Sequence[str] = field(default_factory=tuple)
    acknowledged_ms: int | None = None


class Journal:
    """Writes and reads the tables beside the ledger. Each call is one transaction."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def orders(self, records: Iterable[OrderRecord]) -> None:
        """Write orders; one that is known gets its new status, unless the news is older than what is known."""
        with self.store.write() as connection:
            names = _names(connection)
            # Of two records of one order the later counts: a statement may touch a row only once.
            rows: dict[tuple[int, str, str], dict[str, Any]] = {}
            for one in records:
                values = _values(connection, names, one, optional=True)
                key = values["exchange_id"], one.symbol, one.order_id
                if key not in rows or rows[key]["updated_ms"] <= one.updated_ms:
                    rows[key] = values
            _ORDERS.write(connection, list(rows.values()))

    def orders_of(
        self, exchange: str, agent: str | None = None, *, statuses: Sequence[str] = ()
    ) -> list[OrderRecord]:
        """The orders of an exchange account, oldest first; all, or an agent's, or of some statuses."""
        with self.store.read() as connection:
            names = _names(connection)
            if exchange not in names.exchanges():
                return []
            statement = select(Order).where(Order.exchange_id == names.exchange(connection, exchange))
            if agent is not None:
                if agent not in names.accounts(exchange):
                    return []
                statement = statement.where(Order.account_id == names.account(connection, exchange, agent))
            if statuses:
                statement = statement.where(Order.status.in_(statuses))
            found = []
            for row in connection.execute(statement.order_by(Order.created_ms, Order.id)):
                owner, values = _owned(connection, names, row)
                found.append(OrderRecord(exchange=exchange, agent=owner, **values))
            return found

    def newest_order_ms(self, exchange: str) -> int:
        """When the newest status of an order was seen, 0 without any."""
        with self.store.read() as connection:
            names = _names(connection)
            if exchange not in names.exchanges():
                return 0
            key = names.exchange(connection, exchange)
            newest = connection.execute(select(func.max(Order.updated_ms)).where(Order.exchange_id == key))
            return int(newest.scalar_one() or 0)

    def decide(self, decision: Decision) -> int:
        """Write a decision; its key."""
        with self.store.write() as connection:
            values = _values(connection, _names(connection), decision)
            del values["exchange_id"]
            written = connection.execute(
                insert_of(connection.dialect.name)(DecisionRow).values(values).returning(DecisionRow.id)
            )
            return int(written.scalar_one())

    def link_order(self, decision_id: int, client_order_id: str) -> None:
        """Note which order followed a decision."""
        with self.store.write() as connection:
            connection.execute(
                update(DecisionRow)
                .where(DecisionRow.id == decision_id)
                .values(client_order_id=client_order_id)
            )

    def decisions(
        self, exchange: str, agent: str, *, since_ms: int = 0, limit: int | None = None
    ) -> list[Decision]:
        """An agent's decisions by time, the newest `limit` of them."""
        with self.store.read() as connection:
            names = _names(connection)
            if agent not in names.accounts(exchange):
                return []
            statement = (
                select(DecisionRow)
                .where(
                    DecisionRow.account_id == names.account(connection, exchange, agent),
                    DecisionRow.time_ms >= since_ms,
                )
                .order_by(DecisionRow.time_ms.desc(), DecisionRow.id.desc())
            )
            rows = connection.execute(statement if limit is None else statement.limit(limit)).all()
            return [
                Decision(
                    exchange=exchange,
                    agent=agent,
                    **{
                        name: value
                        for name, value in row._asdict().items()
                        if name not in ("id", "account_id")
                    },
                )
                for row in reversed(rows)
            ]

    def costs(self, exchange: str, agent: str, *, since_ms: int = 0) -> list[Cost]:
        """What an agent's decisions cost, by time."""
        with self.store.read() as connection:
            names = _names(connection)
            if agent not in names.accounts(exchange):
                return []
            columns = [getattr(DecisionRow, one.name) for one in fields(Cost)]
            rows = connection.execute(
                select(*columns)
                .where(
                    DecisionRow.account_id == names.account(connection, exchange, agent),
                    DecisionRow.time_ms >= since_ms,
                )
                .order_by(DecisionRow.time_ms, DecisionRow.id)
            )
            return [Cost(*row) for row in rows]

    def equity(self, records: Iterable[Equity]) -> None:
        """Write equity snapshots; one of the same account and moment is replaced."""
        with self.store.write() as connection:
            names = _names(connection)
            for one in records:
                values = _values(connection, names, one)
                del values["exchange_id"]
                insert = insert_of(connection.dialect.name)(EquityRow).values(values)
                changed = {
                    name: insert.excluded[name]
                    for name in values
                    if name not in ("account_id", "kind", "time_ms")
                }
                connection.execute(
                    insert.on_conflict_do_update(
                        index_elements=("account_id", "kind", "time_ms"), set_=changed
                    )
                )

    def equity_of(
        self, exchange: str, agent: str, *, since_ms: int = 0, kind: str | None = "STEP"
    ) -> list[Equity]:
        """An account's equity over time, after the steps of its runs; with another kind at its syncs, None: both."""
        statement = select(EquityRow).where(EquityRow.time_ms >= since_ms).order_by(EquityRow.time_ms)
        if kind is not None:
            statement = statement.where(EquityRow.kind == kind)
        return self._equity(exchange, agent, statement)

    def newest_equity(self, exchange: str, agent: str) -> Equity | None:
        """An account's newest row of any kind, None without one."""
        rows = self._equity(exchange, agent, select(EquityRow).order_by(EquityRow.time_ms.desc()).limit(1))
        return rows[0] if rows else None

    def _equity(self, exchange: str, agent: str, statement: Select[Any]) -> list[Equity]:
        with self.store.read() as connection:
            names = _names(connection)
            if agent not in names.accounts(exchange):
                return []
            key = names.account(connection, exchange, agent)
            rows = connection.execute(statement.where(EquityRow.account_id == key))
            return [
                Equity(
                    exchange=exchange,
                    agent=agent,
                    **{
                        name: value
                        for name, value in row._asdict().items()
                        if name not in ("id", "account_id")
                    },
                )
                for row in rows
            ]

    def emergency(self, record: Emergency) -> None:
        """Write an emergency. Another one of the same account and moment goes on with the first: its tries and
        failures are added, its outcome counts."""
        with self.store.write() as connection:
            values = _values(connection, _names(connection), record, optional=True)
            row = EmergencyRow
            first = connection.execute(
                select(row.id, row.tries, row.failures)
                .where(
                    *(getattr(row, key) == values[key] for key in ("exchange_id", "account_id", "time_ms"))
                )
                .order_by(row.id.desc())
                .limit(1)
            ).one_or_none()
            if first is None:
                connection.execute(insert_of(connection.dialect.name)(row).values(values))
                return
            connection.execute(
                update(row)
                .where(row.id == first.id)
                .values(
                    tries=first.tries + record.tries,
                    failures=[*first.failures, *record.failures][-_FAILURES:],
                    equity_after_usdt=record.equity_after_usdt,
                    succeeded=record.succeeded,
                    acknowledged_ms=record.acknowledged_ms,
                )
            )

    def emergencies(self, exchange: str, *, unacknowledged: bool = False) -> list[Emergency]:
        """The emergencies of an exchange account by time; all, or those that nobody acknowledged yet."""
        with self.store.read() as connection:
            names = _names(connection)
            if exchange not in names.exchanges():
                return []
            statement = select(EmergencyRow).where(
                EmergencyRow.exchange_id == names.exchange(connection, exchange)
            )
            if unacknowledged:
                statement = statement.where(EmergencyRow.acknowledged_ms.is_(None))
            found = []
            for row in connection.execute(statement.order_by(EmergencyRow.time_ms, EmergencyRow.id)):
                agent, values = _owned(connection, names, row)
                found.append(
                    Emergency(
                        exchange=exchange, agent=agent, **{**values, "failures": tuple(values["failures"])}
                    )
                )
            return found

    def acknowledge(self, exchange: str, time_ms: int) -> int:
        """Mark all emergencies of an exchange account as acknowledged; how many were not yet."""
        with self.store.write() as connection:
            names = _names(connection)
            if exchange not in names.exchanges():
                return 0
            done = connection.execute(
                update(EmergencyRow)
                .where(
                    EmergencyRow.exchange_id == names.exchange(connection, exchange),
                    EmergencyRow.acknowledged_ms.is_(None),
                )
                .values(acknowledged_ms=time_ms)
            )
            return done.rowcount


def _names(connection: Connection) -> Names:
    names = Names()
    names.load(connection)
    return names


def _owned(connection: Connection, names: Names, row: Row[Any]) -> tuple[str, dict[str, Any]]:
    """Whose a row is, empty for nobody's, and its columns without ids."""
    values = row._asdict()
    owner = "" if row.account_id is None else names.name(connection, row.account_id)[1]
    for name in ("id", "exchange_id", "account_id"):
        del values[name]
    return owner, values


def _values(connection: Connection, names: Names, record: Any, *, optional: bool = False) -> dict[str, Any]:
    """Columns of a record: names become keys."""
    values = asdict(record)
    exchange, agent = values.pop("exchange"), values.pop("agent")
    values["exchange_id"] = names.exchange(connection, exchange)
    values["account_id"] = None if optional and not agent else names.account(connection, exchange, agent)
    return values
