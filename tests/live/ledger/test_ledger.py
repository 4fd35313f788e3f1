"""Recording: once each, all or nothing, in any order, through restarts and kills, on both databases."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_support import SYMBOLS, T0, fill, random_fills
from sqlalchemy import text

from envs.account import Fill
from envs.errors import LedgerError, StoreError
from live.ledger import MANUAL, Cursor, Income, IncomeKind, Ledger, Transfer
from live.ledger.identity import check_identity
from live.ledger.queries import Where, round_trips
from live.store import Store
from live.store.check import check


def state_of(ledger: Ledger, exchange: str) -> list[object]:
    """Everything that is folded, in memory and in the tables."""
    trips = [replace(one, exchange="") for one in round_trips(ledger.store, Where(exchange=exchange))]
    with ledger.store.read() as connection:
        parts = connection.execute(
            text(
                "SELECT p.symbol, a.name, p.kind, p.reference, p.time_ms, p.quantity, p.amount FROM allocations p "
                "JOIN accounts a ON a.id = p.account_id JOIN exchanges e ON e.id = p.exchange_id WHERE e.name = :name"
            ),
            {"name": exchange},
        ).all()
    books = [
        (
            book.symbol,
            book.positions,
            book.net_quantity,
            book.net_cost,
            book.net_realized,
            book.reported,
            book.events,
        )
        for book in ledger.books(exchange)
    ]
    return [books, trips, sorted(map(tuple, parts)), ledger.wallets(exchange)]


def healthy(store: Store) -> None:
    assert [one for one in check(store) if one.problem] == []


def incomes(exchange: str, seed: int, until_ms: int) -> list[Income]:
    dice = random.Random(seed)
    return [
        Income(
            exchange,
            dice.choice(SYMBOLS),
            dice.randint(T0 + 1, until_ms),
            Decimal(dice.randint(-99, 99)) / 1000,
            f"t{n}",
        )
        for n in range(6)
    ]


def clearances(fills: Sequence[Fill], seed: int) -> list[Income]:
    """Fees of liquidations: in a fill's millisecond, or behind it."""
    dice = random.Random(seed)
    kind, amount = IncomeKind.CLEARANCE, Decimal("-0.017")
    found = []
    for n in range(4):
        one = dice.choice(fills)
        at = one.time_ms + dice.choice((0, 0, 1, 1500, 59_000, 70_000))
        found.append(Income("", one.symbol, at, amount, f"c{n}", kind))
    return found


def test_a_fill_counts_once(store: Store) -> None:
    ledger = Ledger(store)
    one = fill(1, "BUY", "0.5", "100", commission="0.02")
    assert ledger.record(one) is True
    assert ledger.record(one) is False
    assert ledger.record_many([one, one, fill(2, "SELL", "0.2", "110")]) == (fill(2, "SELL", "0.2", "110"),)
    state = ledger.position("paper", "LLM-A", "BTCUSDT")
    assert (state.quantity, state.realized, state.fees) == (Decimal("0.3"), Decimal(2), Decimal("0.02"))
    assert ledger.wallet("paper", "LLM-A") == Decimal("1.98")
    assert state_of(Ledger(store), "paper") == state_of(ledger, "paper")
    healthy(store)


def test_what_contradicts_a_known_entry_is_refused_and_nothing_is_recorded(store: Store) -> None:
    ledger = Ledger(store)
    one = fill(1, "BUY", "0.5", "100")
    ledger.record(one)
    before = state_of(ledger, "paper")
    with pytest.raises(LedgerError, match="price 100, and now comes with 101"):
        ledger.record_many([fill(2, "BUY", "1", "100"), replace(one, price=Decimal(101))])
    with pytest.raises(LedgerError, match="client order id"):
        ledger.record(replace(one, client_order_id="other"))
    assert ledger.record(fill(5, "BUY", "1", "100", agent="sac", symbol="ETHUSDT"))
    assert ledger.accounts("paper") == ["LLM-A", "sac"]
    assert ledger.wallets("paper").keys() == {"LLM-A", "sac", MANUAL}
    before = state_of(ledger, "paper")
    ledger.record_income([Income("paper", "BTCUSDT", T0, Decimal(1), "x")])
    with pytest.raises(LedgerError, match="known with the amount 1"):
        ledger.record_income([Income("paper", "BTCUSDT", T0, Decimal(2), "x")])
    for bad in (
        replace(one, trade_id="9", quantity=Decimal(0)),
        replace(one, trade_id="9", price=Decimal("NaN")),
        replace(one, trade_id="9", commission=0.1),  # type: ignore[arg-type]
        replace(one, trade_id="9", time_ms=0),
        replace(one, trade_id=""),
        replace(one, trade_id="9", symbol="BTCEUR"),
    ):
        with pytest.raises(LedgerError):
            ledger.record(bad)
    assert ledger.position("paper", "LLM-A", "BTCUSDT").fills == 1
    assert before[1] == state_of(ledger, "paper")[1]
    assert state_of(Ledger(store), "paper") == state_of(ledger, "paper")


def test_cursors_move_with_their_fills_or_not_at_all(store: Store) -> None:
    ledger = Ledger(store)
    ledger.record(fill(1, "BUY", "1", "100"), cursors=[Cursor("paper", "fills", T0 + 1000, "1", "BTCUSDT")])
    assert ledger.cursor("paper", "fills", "BTCUSDT") == Cursor("paper", "fills", T0 + 1000, "1", "BTCUSDT")
    bad = replace(fill(1, "BUY", "1", "100"), quantity=Decimal(2))
    with pytest.raises(LedgerError):
        ledger.record_many(
            [fill(2, "BUY", "1", "100"), bad], cursors=[Cursor("paper", "fills", T0 + 2000, "2", "BTCUSDT")]
        )
    assert ledger.cursor("paper", "fills", "BTCUSDT") == Cursor("paper", "fills", T0 + 1000, "1", "BTCUSDT")
    assert ledger.record(fill(2, "BUY", "1", "100")) is True  # it was not kept either
    ledger.record_batch(cursors=[Cursor("paper", "fills", T0 + 5, "0", "BTCUSDT")])  # a late page
    assert ledger.cursor("paper", "fills", "BTCUSDT") == Cursor("paper", "fills", T0 + 1000, "1", "BTCUSDT")
    assert ledger.cursor("paper", "funding") is None


def test_a_foreign_fill_may_be_recognised_later(store: Store) -> None:
    ledger = Ledger(store)
    ledger.record_many(
        [fill(1, "BUY", "1", "100"), fill(2, "SELL", "1", "120", agent="", client_order_id="")]
    )
    ledger.record(fill(3, "BUY", "2", "130", agent="sac"))
    known = fill(2, "SELL", "1", "120", agent="sac")
    assert ledger.record(known) is False
    assert ledger.position("paper", "sac", "BTCUSDT").quantity == Decimal(1)
    assert ledger.position("paper", "LLM-A", "BTCUSDT").quantity == Decimal(1)
    assert ledger.record(fill(2, "SELL", "1", "120", agent="", client_order_id="")) is False
    assert ledger.position("paper", "sac", "BTCUSDT").quantity == Decimal(1)
    healthy(store)


@pytest.fixture(scope="module")
def shared() -> Iterator[Store]:
    """One database for many examples, each of which takes an exchange of its own."""
    with Store.open("sqlite://") as opened:
        yield opened


_EXAMPLES = count()


@settings(max_examples=15)
@given(st.integers(0, 10**9), st.integers(1, 40), st.integers(1, 12), st.randoms(use_true_random=False))
def test_order_duplicates_and_snapshots_do_not_matter(
    shared: Store, seed: int, number: int, every: int, dice: random.Random
) -> None:
    straight, mixed = (f"e{next(_EXAMPLES)}-{way}" for way in ("straight", "mixed"))
    fills = [
        replace(one, client_order_id=f"autoclose-{one.trade_id}") if not one.agent and seed % 3 else one
        for one in random_fills(number, seed)
    ]
    income = [*incomes("", seed, fills[-1].time_ms + 10), *clearances(fills, seed)]
    ledger = Ledger(shared, snapshot_every=10**6)
    ledger.record_batch(
        [replace(one, exchange=straight) for one in fills],
        [replace(one, exchange=straight) for one in income],
    )
    # Again, and as REST tells of fills whose orders the exchange has forgotten.
    again = [replace(one, agent="", client_order_id="") for one in dice.choices(fills, k=number // 2)]
    entries: list[Fill | Income] = [*fills, *income, *dice.choices(fills, k=number // 2), *again]
    dice.shuffle(entries)
    other = Ledger(shared, snapshot_every=every)
    while entries:
        batch = [entries.pop() for _ in range(min(len(entries), dice.choice((1, 1, 3, 10))))]
        other.record_batch(
            [replace(one, exchange=mixed) for one in batch if isinstance(one, Fill)],
            [replace(one, exchange=mixed) for one in batch if isinstance(one, Income)],
        )
        if dice.random() < 0.1:
            other = Ledger(shared, snapshot_every=every)  # a restart
        if dice.random() < 0.1:
            other.snapshot()
    expected = state_of(ledger, straight)
    assert state_of(other, mixed) == expected
    assert state_of(Ledger(shared), mixed) == expected
    assert check_identity(other, mixed).holds


def test_every_start_from_a_snapshot_equals_a_full_fold(store: Store) -> None:
    fills = random_fills(600, seed=5)
    ledger = Ledger(store, snapshot_every=50)
    for first in range(0, 600, 35):
        ledger.record_many(fills[first : first + 35])
    expected = state_of(ledger, "paper")
    with store.read() as connection:
        times = [
            row[0] for row in connection.execute(text("SELECT time_ms FROM snapshots ORDER BY time_ms DESC"))
        ]
    assert len(times) >= 8
    for at in times:
        assert state_of(Ledger(store), "paper") == expected
        with store.write() as connection:
            connection.execute(text("DELETE FROM snapshots WHERE time_ms = :at"), {"at": at})
    assert state_of(Ledger(store), "paper") == expected  # without any
    healthy(store)


def test_a_late_fill_is_folded_from_the_snapshot_before_it(store: Store) -> None:
    fills = random_fills(300, seed=8, symbols=("BTCUSDT",))
    late = fills.pop(140)
    ledger = Ledger(store, snapshot_every=20)
    ledger.record_many(fills)
    with store.read() as connection:
        before = connection.execute(text("SELECT id, time_ms FROM snapshots ORDER BY id")).all()
    assert ledger.record(late)
    with store.read() as connection:
        after = {row[0] for row in connection.execute(text("SELECT id FROM snapshots"))}
    assert {row[0] for row in before if row[1] < late.time_ms} <= after
    whole = Ledger(store)
    assert state_of(ledger, "paper") == state_of(whole, "paper")
    healthy(store)


def test_two_processes_may_write(store: Store) -> None:
    fills = random_fills(60, seed=3)
    first, second = Ledger(store), Ledger(store)
    for number, one in enumerate(fills):
        (first, second)[number % 2].record(one)
        (second, first)[number % 3 == 0].record(one)
    one_by_one = Ledger(store)
    first.reload()
    assert state_of(first, "paper") == state_of(one_by_one, "paper")
    healthy(store)


def test_capital_is_made_of_transfers_that_are_never_edited(store: Store) -> None:
    ledger = Ledger(store)
    deposit = Transfer("paper", MANUAL, Decimal(1000), T0, "opening")
    assert ledger.record_transfers([deposit, deposit]) == 1
    assert ledger.assign_capital("paper", "LLM-A", Decimal(100), time_ms=T0, assignment="start-LLM-A")
    assert not ledger.assign_capital("paper", "LLM-A", Decimal(100), time_ms=T0 + 5, assignment="start-LLM-A")
    with pytest.raises(LedgerError, match="never edited"):
        ledger.assign_capital("paper", "LLM-A", Decimal(200), time_ms=T0, assignment="start-LLM-A")
    with pytest.raises(LedgerError, match="other than 0"):
        ledger.record_transfers([replace(deposit, amount_usdt=Decimal(0))])
    assert ledger.wallets("paper") == {"LLM-A": Decimal(100), MANUAL: Decimal(900)}
    assert ledger.booked_wallet("paper") == Decimal(1000)
    assert Ledger(store).wallets("paper") == {"LLM-A": Decimal(100), MANUAL: Decimal(900)}
    healthy(store)


def test_net_positions_over_exchanges(store: Store) -> None:
    ledger = Ledger(store)
    ledger.record_many(
        [
            fill(1, "BUY", "2", "100"),
            fill(2, "SELL", "0.5", "100", agent="sac"),
            fill(1, "SELL", "1", "100", exchange="other"),
            fill(3, "BUY", "1", "10", symbol="ETHUSDT"),
        ]
    )
    assert ledger.net_positions() == {"BTCUSDT": Decimal("0.5"), "ETHUSDT": Decimal(1)}
    assert ledger.net_positions("paper") == {"BTCUSDT": Decimal("1.5"), "ETHUSDT": Decimal(1)}
    assert set(ledger.positions("paper")) == {("LLM-A", "BTCUSDT"), ("LLM-A", "ETHUSDT"), ("sac", "BTCUSDT")}
    assert ledger.accounts("paper") == ["LLM-A", "sac"]
    assert ledger.exchanges() == ["other", "paper"]


def test_rows_changed_behind_its_back_are_an_error(store: Store) -> None:
    ledger = Ledger(store)
    ledger.record_many([fill(1, "BUY", "2", "100"), fill(2, "BUY", "1", "100")])
    with store.write() as connection:
        connection.execute(text("DELETE FROM fills WHERE trade_id = '2'"))
    with pytest.raises(LedgerError, match="1 entries by the fold, 2 by its book"):
        Ledger(store)


def test_a_cell_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "s.db")) as store:
        Ledger(store).record_many([fill(1, "BUY", "2", "100")])
        with store.write() as connection:
            connection.execute(text("UPDATE fills SET commission = 'lost'"))
        with pytest.raises(StoreError, match="holds 'lost' where a decimal number belongs"):
            Ledger(store)


ROOT = Path(__file__).resolve().parents[3]
CHILD = """
import sys
sys.path.insert(0, "tests/lib")
from ledger_support import fill, T0
from live.ledger import Cursor, Ledger
ledger = Ledger.open(sys.argv[1])
cursor = ledger.cursor("paper", "fills", "BTCUSDT")
number = int(cursor.position) // 3 if cursor else 0
while True:
    number += 1
    batch = [fill(number * 3 + n, "BUY" if n % 2 else "SELL", "0.1", "100", agent=("a", "", "b")[n]) for n in range(3)]
    at = batch[-1]
    ledger.record_many(batch, cursors=[Cursor("paper", "fills", at.time_ms, at.trade_id, "BTCUSDT")])
    print(at.trade_id, flush=True)
"""


def test_a_kill_at_any_moment_loses_nothing_that_was_recorded(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    reported = 0
    for attempt in range(2):
        command = [sys.executable, "-c", CHILD, path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
            assert child.stdout is not None
            for _ in range(10 + 15 * attempt):
                reported = int(child.stdout.readline())
            time.sleep(0.003 * attempt)
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read().split("\n")
            reported = max([reported, *(int(one) for one in rest[:-1])])
        with Store.open(path) as store:
            ledger = Ledger(store)
            cursor = ledger.cursor("paper", "fills", "BTCUSDT")
            assert cursor is not None and int(cursor.position) >= reported
            with store.read() as connection:
                newest = connection.execute(
                    text("SELECT max(CAST(trade_id AS INTEGER)), count(*) FROM fills")
                ).one()
            assert newest[0] == int(cursor.position)
            assert newest[1] % 3 == 0
            healthy(store)


def test_marks_show_what_is_open(store: Store) -> None:
    ledger = Ledger(store)
    ledger.record_many([fill(1, "BUY", "2", "100"), fill(2, "SELL", "1", "100", agent="sac")])
    ledger.mark("paper", {"BTCUSDT": Decimal(110), "XRPUSDT": Decimal(1)}, T0 + 9)
    shown = {one.agent: (one.last_price, one.unrealized, one.pnl_percent) for one in round_trips(store)}
    assert shown == {
        "LLM-A": (Decimal(110), Decimal(20), Decimal(10)),
        "sac": (Decimal(110), Decimal(-10), Decimal(-10)),
    }
    ledger = Ledger(store)
    ledger.record(fill(3, "SELL", "1", "120"))  # the mark of the symbol stays
    (trip,) = round_trips(store, Where(agent="LLM-A"))
    assert (trip.last_price, trip.unrealized, trip.realized) == (Decimal(110), Decimal(10), Decimal(20))
    ledger.record(fill(4, "SELL", "1", "120"))
    (trip,) = round_trips(store, Where(agent="LLM-A"))
    assert (trip.is_open, trip.unrealized, trip.realized, trip.exit_reason) == (
        False,
        None,
        Decimal(40),
        "SIGNAL",
    )
    healthy(store)
