"""Readers of a ledger never wait for its writer, and see only what is committed, all of one moment."""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import Any

import pytest
from ledger_support import fill

from live.ledger import MANUAL, Ledger, Transfer
from live.store import Store

D = Decimal


def test_a_reader_does_not_wait_for_a_transaction(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(store)
    ledger.record(fill(1, "BUY", "2", "100"))
    writing, go_on = threading.Event(), threading.Event()
    fold = Ledger._fold

    def slow_fold(self: Ledger, *arguments: Any) -> None:
        fold(self, *arguments)
        writing.set()
        assert go_on.wait(30)

    monkeypatch.setattr(Ledger, "_fold", slow_fold)
    writer = threading.Thread(target=ledger.record, args=(fill(2, "BUY", "1", "130"),))
    writer.start()
    try:
        assert writing.wait(30)
        # Folded, not committed: everybody sees the state before. With a lock this would never end.
        assert ledger.position("paper", "LLM-A", "BTCUSDT").p1 == 2
        assert ledger.net_positions("paper") == {"BTCUSDT": D(2)}
        assert [book.events for book in ledger.books("paper")] == [1]
        assert set(ledger.wallets("paper")) == {"LLM-A", MANUAL}
        assert ledger.booked_wallet("paper") == ledger.wallet("paper", "LLM-A")
    finally:
        go_on.set()
        writer.join(30)
    assert ledger.position("paper", "LLM-A", "BTCUSDT").p1 == 3


def test_what_was_held_stays_as_it_was(store: Store) -> None:
    ledger = Ledger(store)
    ledger.record_transfers([Transfer("paper", MANUAL, D(1000), 1, "in")])
    before = ledger.held
    ledger.record(fill(1, "BUY", "2", "100", commission="0.1"))
    ledger.assign_capital("paper", "LLM-A", D(300), time_ms=2, assignment="first")
    assert before.wallets("paper") == {MANUAL: D(1000)}
    assert before.positions("paper") == {}
    assert ledger.wallets("paper") == {MANUAL: D(700), "LLM-A": D("299.9")}
    # A copy that somebody changes is his own.
    ledger.books("paper")[0].positions["LLM-A"].p1 = D(99)
    ledger.position("paper", "LLM-A", "BTCUSDT").p1 = D(99)
    assert ledger.held.position("paper", "LLM-A", "BTCUSDT").p1 == 2


def test_a_transaction_that_fails_changes_nothing_for_readers(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(store)
    ledger.record_transfers([Transfer("paper", MANUAL, D(1000), 1, "in")])
    before = ledger.held

    def fail(*_: Any) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr("live.ledger.ledger.move_cursors", fail)
    with pytest.raises(RuntimeError):
        ledger.record(fill(1, "BUY", "2", "100"))
    with pytest.raises(RuntimeError):
        ledger.record_transfers([Transfer("paper", MANUAL, D(5), 2, "more")])
    assert ledger.held is before
    monkeypatch.undo()
    ledger.reload()
    assert (ledger.wallets("paper"), ledger.positions("paper")) == ({MANUAL: D(1000)}, {})
    assert ledger.record_transfers([Transfer("paper", MANUAL, D(5), 2, "more")]) == 1
    assert ledger.wallet("paper", MANUAL) == 1005
