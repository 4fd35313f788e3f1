"""Books that a program with other rules of the fold has left: folded anew from the entries, never trusted."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from ledger_support import T0, fill
from sqlalchemy import delete, select, update

from envs.errors import LedgerError
from live.ledger import Income, IncomeKind, Ledger
from live.store import Store, models
from live.store.check import check
from live.store.models import Allocation, Position, Snapshot, Transaction

LONG_3 = fill(1, "BUY", "0.003", "100", agent="a")
LONG_1 = fill(2, "BUY", "0.001", "100", agent="b")


def derived_rows(store: Store) -> dict[str, list[Any]]:
    with store.read() as connection:
        return {
            table.__tablename__: sorted(
                tuple(row)
                for row in connection.execute(
                    select(*(one for one in table.__table__.columns if one.name not in ("id", "snapshot_id")))
                )
            )
            for table in (Snapshot, Position, Allocation, Transaction)
        }


def test_what_older_rules_folded_is_folded_anew(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(store, snapshot_every=2)
    ledger.record_many([LONG_3, LONG_1])
    close = {"client_order_id": "autoclose-1", "time_ms": T0 + 3000, "realized_pnl": "-0.08"}
    ledger.record(fill(3, "SELL", "0.004", "80", agent="", **close))
    fee = Income("paper", "BTCUSDT", T0 + 3000, Decimal("-0.4"), "c", IncomeKind.CLEARANCE)
    ledger.record_income([fee])
    ledger.record(fill(200, "BUY", "0.002", "90", agent="a"))
    ledger.record(fill(201, "BUY", "0.001", "90", agent="a", symbol="ETHUSDT"))
    ledger.mark("paper", {"BTCUSDT": Decimal(95)}, T0 + 300_000)
    wallets, rows = ledger.wallets("paper"), derived_rows(store)
    assert all(rows.values())
    with store.write() as connection:
        # As a program left it that gave the whole fee to another.
        connection.execute(update(models.Book).where(models.Book.symbol == "BTCUSDT").values(rules=1))
        other = select(models.Account.id).where(models.Account.name == "b").scalar_subquery()
        connection.execute(update(Allocation).where(Allocation.kind == "CLEARANCE").values(account_id=other))
        connection.execute(update(Transaction).values(clearance=Decimal(0)))
        connection.execute(update(Position).values(clearance=Decimal(7)))
    assert derived_rows(store) != rows
    found = {one.check: one for one in check(store)}["book paper BTCUSDT"]
    assert (found.detail, found.problem) == (
        "5 entries, folded by rules 1; the next start folds them anew, by rules 2",
        "",
    )
    again = Ledger(store, snapshot_every=2)
    assert [one.getMessage() for one in caplog.records] == [
        "paper BTCUSDT: all 5 entries were folded anew: the rules of the fold are of version 2, they were of 1"
    ]
    assert again.wallets("paper") == wallets
    assert derived_rows(store) == rows
    assert [one for one in check(store) if one.problem] == []
    # One that was open all the time, and a third, see it by the book's version, and fold on.
    ledger.record(fill(202, "SELL", "0.002", "95", agent="a"))
    again.record(fill(203, "BUY", "0.002", "95", agent="b"))
    Ledger(store)
    assert len(caplog.records) == 1
    assert [one for one in check(store) if one.problem] == []


def test_what_other_rules_folded_meanwhile_is_folded_anew_at_the_next_entry(store: Store) -> None:
    ledger = Ledger(store, snapshot_every=2)
    ledger.record_many([LONG_3, LONG_1])
    with store.write() as connection:
        connection.execute(update(models.Book).values(rules=99, version=models.Book.version + 1))
        connection.execute(update(Position).values(realized=Decimal(7)))
    ledger.record(fill(3, "SELL", "0.004", "80", agent="a"))
    assert ledger.wallets("paper")["a"] == Decimal("-0.06")
    with store.read() as connection:
        assert connection.execute(select(models.Book.rules)).scalars().all() == [2]
    assert [one for one in check(store) if one.problem] == []


def test_an_entry_that_is_missing_stops_it_before_anything_is_thrown_away(store: Store) -> None:
    ledger = Ledger(store, snapshot_every=2)
    ledger.record_many([LONG_3, LONG_1, fill(3, "SELL", "0.003", "80", agent="a")])
    with store.write() as connection:
        connection.execute(update(models.Book).values(rules=1))
        connection.execute(delete(models.Fill).where(models.Fill.trade_id == "3"))
    rows = derived_rows(store)
    with pytest.raises(
        LedgerError, match=r"BTCUSDT: 2 entries by the fold, 3 by its book; .* live.store check"
    ):
        Ledger(store)
    assert derived_rows(store) == rows
    assert [one.problem for one in check(store) if one.problem] == ["2 entries are there, 3 were recorded"]
