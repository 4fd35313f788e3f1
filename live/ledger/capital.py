"""Capital: transfers that are never edited, and the cursors that move with what is recorded."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, select

from envs.errors import LedgerError
from live.ledger.arithmetic import ZERO, exact
from live.ledger.entries import Cursor
from live.store.models import TRANSFER_KINDS, Exchange, SyncCursor
from live.store.models import Transfer as TransferRow
from live.store.names import Names, insert_of


@dataclass(frozen=True, slots=True)
class Transfer:
    """Capital into an account's wallet (above zero) or out of it. Unique by exchange, account and transaction id.

    `kind` is DEPOSIT (from or to the world) or CAPITAL (between accounts; the rows of one id add up to zero).
    """

    exchange: str
    agent: str
    amount_usdt: Decimal
    time_ms: int
    transaction_id: str
    kind: str = "DEPOSIT"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Capital:
    """Sums of the transfers, by exchange and account."""

    _sums: dict[tuple[str, str], Decimal] = field(default_factory=dict)

    def plus(self, transfers: Iterable[Transfer]) -> Capital:
        """Another one, with these counted in."""
        sums = dict(self._sums)
        with exact():
            for one in transfers:
                key = one.exchange, one.agent
                sums[key] = sums.get(key, ZERO) + one.amount_usdt
        return Capital(sums)

    def accounts(self, exchange: str) -> set[str]:
        """Who ever had any."""
        return {agent for place, agent in self._sums if place == exchange}

    def of(self, exchange: str, agent: str) -> Decimal:
        """The sum of an account."""
        return self._sums.get((exchange, agent), ZERO)

    def total(self, exchange: str) -> Decimal:
        """The sum of all accounts on an exchange account; only inside `exact()`."""
        return sum((amount for (place, _), amount in self._sums.items() if place == exchange), ZERO)


def read_capital(connection: Connection, names: Names) -> Capital:
    """All transfers."""
    rows = connection.execute(select(TransferRow)).all()
    return Capital().plus(
        Transfer(
            *names.name(connection, row.account_id),
            row.amount_usdt,
            row.time_ms,
            row.transaction_id,
            row.kind,
            row.note,
        )
        for row in rows
    )


def insert_transfers(connection: Connection, names: Names, transfers: Sequence[Transfer]) -> list[Transfer]:
    """Write transfers that are not there yet, and tell which these are.

    Raises:
        LedgerError: one cannot be true, or is known with another amount.
    """
    new = []
    insert = insert_of(connection.dialect.name)
    for one in transfers:
        if not isinstance(one.amount_usdt, Decimal) or not one.amount_usdt.is_finite() or not one.amount_usdt:
            raise LedgerError(f"transfer {one}: the amount must be a finite Decimal other than 0")
        if one.kind not in TRANSFER_KINDS or not one.transaction_id or one.time_ms <= 0:
            raise LedgerError(
                f"transfer {one}: kind must be one of {', '.join(TRANSFER_KINDS)}, and id and time be given"
            )
        key = {
            "exchange_id": names.exchange(connection, one.exchange),
            "account_id": names.account(connection, one.exchange, one.agent),
            "transaction_id": one.transaction_id,
        }
        values = {
            **key,
            "amount_usdt": one.amount_usdt,
            "time_ms": one.time_ms,
            "kind": one.kind,
            "note": one.note,
        }
        written = insert(TransferRow).values(values).on_conflict_do_nothing().returning(TransferRow.id)
        if connection.execute(written).first() is not None:
            new.append(one)
            continue
        known = connection.execute(select(TransferRow.amount_usdt).filter_by(**key)).scalar_one()
        if known != one.amount_usdt:
            raise LedgerError(
                f"transfer {one.transaction_id!r} of {one.agent} is known with {known} USDT, and now comes with "
                f"{one.amount_usdt}; transfers are never edited: record the difference under another id"
            )
    return new


def move_cursors(connection: Connection, names: Names, cursors: Iterable[Cursor]) -> None:
    """Move cursors on. One that is further already stays: a late page cannot pull it back."""
    rows = [
        {
            "exchange_id": names.exchange(connection, one.exchange),
            "stream": one.stream,
            "symbol": one.symbol,
            "position": one.position,
            "time_ms": one.time_ms,
        }
        for one in cursors
    ]
    if rows:
        connection.execute(_upsert_of_cursors(connection.dialect.name), rows)


@functools.cache
def _upsert_of_cursors(dialect: str) -> Any:
    statement = insert_of(dialect)(SyncCursor)
    return statement.on_conflict_do_update(
        index_elements=("exchange_id", "stream", "symbol"),
        set_={"position": statement.excluded.position, "time_ms": statement.excluded.time_ms},
        where=SyncCursor.time_ms <= statement.excluded.time_ms,
    )


def read_cursor(connection: Connection, exchange: str, stream: str, symbol: str) -> Cursor | None:
    """A cursor, None when it never moved."""
    found = connection.execute(
        select(SyncCursor.time_ms, SyncCursor.position)
        .join(Exchange, Exchange.id == SyncCursor.exchange_id)
        .where(Exchange.name == exchange, SyncCursor.stream == stream, SyncCursor.symbol == symbol)
    ).one_or_none()
    return None if found is None else Cursor(exchange, stream, found.time_ms, found.position, symbol)
