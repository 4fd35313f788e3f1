"""What several accounts share: foreign fills, funding, liquidations. Numbers worked out by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest
from ledger_support import T0, fill

from envs.account import Fill
from live.ledger import MANUAL, Ledger
from live.ledger.book import Book, Derived
from live.ledger.booking import event_of, owner_of
from live.ledger.entries import Event, Income, IncomeEvent, IncomeKind, exit_reason
from live.ledger.queries import Where, round_trips
from live.store import Store
from live.store.check import check


def book_of(*entries: Fill | IncomeEvent) -> tuple[Book, Derived]:
    book, derived = Book("paper", "BTCUSDT"), Derived()
    events: list[Event] = [event_of(one, owner_of(one)) if isinstance(one, Fill) else one for one in entries]
    book.fold(events, derived)
    return book, derived


def quantities(book: Book) -> dict[str, Decimal]:
    return {name: state.p1 for name, state in sorted(book.positions.items()) if state.p1}


def funding(number: int, amount: str, rate: str | None = None, mark: str | None = None) -> IncomeEvent:
    return IncomeEvent(
        T0 + 1000 * number,
        f"tran{number}",
        IncomeKind.FUNDING,
        Decimal(amount),
        None if rate is None else Decimal(rate),
        None if mark is None else Decimal(mark),
    )


LONG_3 = fill(1, "BUY", "0.003", "100", agent="a")
LONG_1 = fill(2, "BUY", "0.001", "100", agent="b")


def test_agents_may_hold_opposite_positions() -> None:
    book, _ = book_of(LONG_3, fill(2, "SELL", "0.005", "100", agent="b"))
    assert quantities(book) == {"a": Decimal("0.003"), "b": Decimal("-0.005")}
    assert book.net_quantity == Decimal("-0.002")


def test_a_foreign_fill_that_reduces_is_borne_pro_rata_and_the_rest_is_manual() -> None:
    book, derived = book_of(LONG_3, LONG_1, fill(3, "SELL", "0.002", "110", agent="", commission="0.0004"))
    assert quantities(book) == {
        "a": Decimal("0.001"),
        "b": Decimal("0.001"),
    }  # 1.5 and 0.5 steps: whole ones, ties by name
    assert [(part.agent, part.quantity, part.amount) for part in derived.parts] == [
        ("a", Decimal("-0.002"), Decimal("0.0004"))
    ]
    book, derived = book_of(LONG_3, LONG_1, fill(3, "SELL", "0.0020", "110", agent="", commission="0.0004"))
    assert quantities(book) == {
        "a": Decimal("0.001"),
        "b": Decimal("0.001"),
    }  # a trailing zero makes no finer step
    book, derived = book_of(LONG_3, LONG_1, fill(3, "SELL", "0.003", "110", agent="", commission="0.0003"))
    assert [(part.agent, part.quantity, part.amount) for part in derived.parts] == [
        ("a", Decimal("-0.002"), Decimal("0.0002")),
        ("b", Decimal("-0.001"), Decimal("0.0001")),
    ]
    book, _ = book_of(LONG_3, LONG_1, fill(3, "SELL", "0.006", "110", agent=""))
    assert quantities(book) == {"MANUAL": Decimal("-0.002")}
    book, _ = book_of(LONG_3, fill(3, "BUY", "0.001", "110", agent=""))
    assert quantities(book) == {"MANUAL": Decimal("0.001"), "a": Decimal("0.003")}


def test_only_what_reduces_the_net_is_shared_out() -> None:
    short = fill(2, "SELL", "0.002", "100", agent="b")
    book, _ = book_of(LONG_3, short, fill(3, "SELL", "0.003", "110", agent=""))
    # The net was 0.001 long: so much closes a's long, the rest opens MANUAL's short.
    assert quantities(book) == {"MANUAL": Decimal("-0.002"), "a": Decimal("0.002"), "b": Decimal("-0.002")}


def test_a_person_closes_his_own_position_first_and_the_exchange_everybodys() -> None:
    manual = fill(2, "BUY", "0.001", "100", agent="")
    book, _ = book_of(LONG_3, manual, fill(3, "SELL", "0.002", "110", agent=""))
    assert quantities(book) == {"a": Decimal("0.002")}
    liquidation = fill(3, "SELL", "0.004", "80", agent="", client_order_id="autoclose-123")
    book, derived = book_of(LONG_3, manual, liquidation)
    assert quantities(book) == {}
    assert book.liquidated == {"MANUAL": Decimal("0.001"), "a": Decimal("0.003")}
    assert {exit_reason(trip.exit_client_id) for trip in derived.trips} == {"LIQUIDATION"}


@pytest.mark.parametrize(
    ("client_order_id", "reason"),
    [
        ("LLM-A_BTCUSDT_1736630400000o", "SIGNAL"),
        ("LLM-A_BTCUSDT_1736630400000s", "SL_HIT"),
        ("LLM-A_BTCUSDT_1736630400000t", "TP_HIT"),
        ("LLM-A_BTCUSDT_1736630400000p", "PROTECTIVE_STOP"),
        ("LLM-A_BTCUSDT_1736630400000x2", "EMERGENCY"),
        ("autoclose-1736630400000", "LIQUIDATION"),
        ("adl_autoclose", "ADL"),
        ("adl_autoclose-77", "ADL"),
        ("settlement_autoclose-1", "MANUAL"),
        ("web_abc", "MANUAL"),
        ("", "MANUAL"),
    ],
)
def test_exit_reasons(client_order_id: str, reason: str) -> None:
    assert exit_reason(client_order_id) == reason


def test_funding_is_split_by_position_and_adds_up() -> None:
    short = fill(2, "SELL", "0.001", "100", agent="b")
    book, derived = book_of(LONG_3, short, funding(3, "-0.05"))  # paid on a net of 0.002
    assert book.positions["a"].funding == Decimal("-0.075")
    assert book.positions["b"].funding == Decimal("0.025")
    assert book.net_income == Decimal("-0.05")
    assert [(part.agent, part.amount) for part in derived.parts] == [
        ("a", Decimal("-0.075")),
        ("b", Decimal("0.025")),
    ]
    thirds, _ = book_of(LONG_3, fill(2, "BUY", "0.004", "100", agent="b"), funding(3, "0.01"))
    assert thirds.positions["a"].funding == Decimal("0.004285714286")
    assert thirds.positions["b"].funding == Decimal("0.005714285714")


def test_opposite_agents_pay_each_other_when_the_exchange_books_nothing() -> None:
    short = fill(2, "SELL", "0.003", "100", agent="b")
    book, _ = book_of(LONG_3, short, funding(3, "0", rate="0.0001", mark="50000"))
    assert book.positions["a"].funding == Decimal("-0.015")
    assert book.positions["b"].funding == Decimal("0.015")


def test_funding_that_nobody_explains_is_manuals() -> None:
    book, _ = book_of(funding(1, "-0.5"))
    assert book.positions["MANUAL"].funding == Decimal("-0.5")
    book, _ = book_of(LONG_3, fill(2, "SELL", "0.003", "100", agent="b"), funding(3, "-0.5"))
    assert book.positions["MANUAL"].funding == Decimal("-0.5")


def test_funding_falls_on_what_was_held_before_the_trades_of_its_millisecond() -> None:
    at = T0 + 5000
    book, _ = book_of(LONG_3, funding(5, "-0.03"), fill(9, "BUY", "0.003", "100", agent="b", time_ms=at))
    assert book.positions["a"].funding == Decimal("-0.03")
    assert book.positions["b"].funding == 0


def test_a_liquidation_fee_falls_on_those_who_are_liquidated() -> None:
    fee = IncomeEvent(T0 + 3000, "clear", IncomeKind.CLEARANCE, Decimal("-0.4"), None, None)
    close = fill(3, "SELL", "0.004", "80", agent="", client_order_id="autoclose-1")
    book, derived = book_of(LONG_3, LONG_1, fee, close)  # of one millisecond: the fee comes first
    assert (book.positions["a"].clearance, book.positions["b"].clearance) == (
        Decimal("-0.3"),
        Decimal("-0.1"),
    )
    assert [trip.clearance for trip in derived.trips] == [Decimal("-0.3"), Decimal("-0.1")]


def test_a_liquidation_fee_that_is_booked_later_belongs_to_the_round_trips_that_it_ended() -> None:
    fee = IncomeEvent(T0 + 9000, "clear", IncomeKind.CLEARANCE, Decimal("-0.4"), None, None)
    close = fill(3, "SELL", "0.004", "80", agent="", client_order_id="autoclose-1")
    again = fill(4, "BUY", "0.005", "80", agent="a")  # the fee is not this position's
    book, derived = book_of(LONG_3, LONG_1, close, again, fee)
    assert (book.positions["a"].clearance, book.positions["b"].clearance) == (
        Decimal("-0.3"),
        Decimal("-0.1"),
    )
    assert book.positions["a"].trip_clearance == 0
    assert [(trip.agent, trip.clearance) for trip in derived.trips] == [
        ("a", 0),
        ("b", 0),
        ("a", Decimal("-0.3")),
        ("b", Decimal("-0.1")),
    ]
    # Long after it, the fee is of something that is not known: those who hold the net's side bear it.
    book, derived = book_of(LONG_3, LONG_1, close, again, fee._replace(time_ms=T0 + 64_000))
    assert book.positions["a"].clearance == book.positions["a"].trip_clearance == Decimal("-0.4")
    assert [trip.clearance for trip in derived.trips] == [0, 0]


def test_a_position_may_be_opened_and_liquidated_in_one_millisecond() -> None:
    fee = IncomeEvent(T0 + 3000, "clear", IncomeKind.CLEARANCE, Decimal("-0.4"), None, None)
    opened = fill(3, "BUY", "0.004", "100", agent="a")
    close = fill(4, "SELL", "0.004", "80", agent="", client_order_id="autoclose-1", time_ms=T0 + 3000)
    book, derived = book_of(fee, opened, close)
    assert book.positions["a"].clearance == Decimal("-0.4")
    assert book.positions.keys() == {"a"}
    assert [(trip.agent, trip.clearance) for trip in derived.trips] == [("a", Decimal("-0.4"))]


def test_a_liquidation_that_comes_after_its_fee_is_folded_with_it(store: Store) -> None:
    ledger = Ledger(store)
    ledger.record_income([Income("paper", "BTCUSDT", T0 + 3000, Decimal("-0.4"), "c", IncomeKind.CLEARANCE)])
    assert ledger.wallets("paper") == {MANUAL: Decimal("-0.4")}
    ledger.record(fill(3, "BUY", "0.004", "100", agent="a"))
    close = {"client_order_id": "autoclose-1", "time_ms": T0 + 3000, "realized_pnl": "-0.08"}
    ledger.record(fill(4, "SELL", "0.004", "80", agent="", **close))
    assert ledger.wallets("paper") == {"a": Decimal("-0.48"), MANUAL: 0}
    (trip,) = round_trips(store, Where("paper"))
    assert (trip.agent, trip.exit_reason, trip.clearance) == ("a", "LIQUIDATION", Decimal("-0.4"))
    late = Income("paper", "BTCUSDT", T0 + 4000, Decimal("-0.1"), "d", IncomeKind.CLEARANCE)
    ledger.snapshot()  # would forget which round trip the liquidation ended
    Ledger(store).record_income([late])
    (trip,) = round_trips(store, Where("paper"))
    assert trip.clearance == Decimal("-0.5")
    assert [one for one in check(store) if one.problem] == []


def test_a_copy_is_independent() -> None:
    book, _ = book_of(LONG_3, fill(2, "BUY", "1", "5", agent="a", commission="1", commission_asset="BNB"))
    other = book.copy()
    other.fold(
        [event_of(fill(7, "SELL", "1", "100", agent="a", commission="1", commission_asset="BNB"), "a")],
        Derived(),
    )
    assert quantities(book) == {"a": Decimal("1.003")}
    assert book.positions["a"].other_fees == {"BNB": Decimal(1)}
    assert other.positions["a"].other_fees == {"BNB": Decimal(2)}
    assert (book.events, other.events) == (2, 3)
