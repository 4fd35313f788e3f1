"""One account's position: numbers worked out by hand, and against rational arithmetic."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_support import AGENTS, Reference, fill, random_fills

from envs.account import Fill, PositionSide
from envs.errors import LedgerError
from live.ledger.arithmetic import exact, share_out, share_quantity
from live.ledger.book import Book, Derived
from live.ledger.booking import event_of, owner_of
from live.ledger.entries import key_of
from live.ledger.positions import PositionState, Trip


def folded(*fills: Fill) -> tuple[PositionState, list[Trip]]:
    """The position of the one agent, and its ended round trips."""
    book, derived = Book("paper", fills[0].symbol), Derived()
    book.fold([event_of(one, owner_of(one)) for one in fills], derived)
    return book.positions["LLM-A"], derived.trips


def test_a_long_built_in_two_fills() -> None:
    state, trips = folded(
        fill(1, "BUY", "2", "100", commission="0.08"), fill(2, "BUY", "1", "130", commission="0.052")
    )
    assert (state.p1, state.p2, state.p1_fee, state.p2_fee) == (
        Decimal(3),
        Decimal(-330),
        Decimal(0),
        Decimal("0.132"),
    )
    assert state.entry_price == Decimal(110)
    assert state.break_even_price == Decimal("110.044")  # (330 + 0.132) / 3
    assert state.unrealized(Decimal(120)) == Decimal(30)
    assert (state.realized, state.income, state.side) == (Decimal(0), Decimal("-0.132"), PositionSide.LONG)
    assert trips == []


def test_a_short_breaks_even_below_its_entry() -> None:
    state, _ = folded(fill(1, "SELL", "2", "100", commission="0.08"))
    assert (state.p1, state.p2, state.cost) == (Decimal(-2), Decimal(200), Decimal(-200))
    assert state.entry_price == Decimal(100)
    assert state.break_even_price == Decimal("99.96")
    assert state.unrealized(Decimal(90)) == Decimal(20)


def test_a_reduction_leaves_the_entry_price_and_an_increase_after_it_averages_with_what_is_left() -> None:
    state, _ = folded(fill(1, "BUY", "1", "100"), fill(2, "BUY", "1", "200"), fill(3, "SELL", "1", "180"))
    assert (state.entry_price, state.realized) == (Decimal(150), Decimal(30))
    state, _ = folded(
        fill(1, "BUY", "1", "100"),
        fill(2, "BUY", "1", "200"),
        fill(3, "SELL", "1", "180"),
        fill(4, "BUY", "1", "300"),
    )
    assert state.entry_price == Decimal(
        225
    )  # as exchanges do, (150 + 300) / 2; over all opening fills it would be 200


def test_a_round_trip_ends_flat_and_says_everything() -> None:
    state, (trip,) = folded(
        fill(1, "BUY", "2", "100", commission="0.1"),
        fill(2, "SELL", "0.5", "120", commission="0.02"),
        fill(3, "SELL", "1.5", "90", commission="0.03", client_order_id="LLM-A_BTCUSDT_1700000000000s"),
    )
    assert state.p1 == state.p2 == state.cost == state.p2_fee == 0
    assert (state.realized, state.fees, state.cash, state.volume) == (
        Decimal(-5),
        Decimal("0.15"),
        Decimal(-5),
        Decimal(395),
    )
    assert state.break_even_price is None and state.entry_price == 0
    assert (trip.realized, trip.fees, trip.fills) == (Decimal(-5), Decimal("0.15"), 3)
    assert (trip.entry_id, trip.exit_id, trip.exit_client_id[-1]) == ("1", "3", "s")
    assert (trip.entry_quantity, trip.entry_quote, trip.exit_quantity, trip.exit_quote) == (2, 200, 2, 195)


def test_a_flip_is_one_fill_in_two_round_trips_and_its_fee_is_split() -> None:
    state, (trip,) = folded(
        fill(1, "BUY", "1", "100", commission="0.05"), fill(2, "SELL", "3", "110", commission="0.1")
    )
    assert (trip.realized, trip.side) == (Decimal(10), PositionSide.LONG)
    assert trip.fees == Decimal("0.05") + Decimal("0.033333333333")
    assert (state.p1, state.p2, state.entry_price) == (Decimal(-2), Decimal(220), Decimal(110))
    assert state.p2_fee == Decimal("0.066666666667")
    assert trip.fees + state.p2_fee == state.fees == Decimal("0.15")
    assert (state.opened_by, state.trip_fills, trip.fills) == ("2", 1, 2)


def test_commission_in_other_assets_stays_out_of_the_wallet() -> None:
    state, _ = folded(fill(1, "BUY", "1", "100", commission="0.001", commission_asset="BNB"))
    assert (state.fees, state.p1_fee, state.other_fees) == (Decimal(0), Decimal(0), {"BNB": Decimal("0.001")})
    state, _ = folded(
        fill(1, "BUY", "1", "600", commission="0.001", commission_asset="BNB", symbol="BNBUSDT")
    )
    # Bought 1, paid 0.001 of the same from the wallet: 0.999 must bring back 600.
    assert (state.p1, state.p1_fee, state.fees) == (Decimal(1), Decimal("0.001"), Decimal(0))
    assert state.break_even_price == Decimal("600.600600600601")


@given(st.integers(0, 10**9), st.integers(1, 60))
def test_against_rational_numbers(seed: int, count: int) -> None:
    fills = random_fills(count, seed, agents=("LLM-A",), symbols=("BTCUSDT",))
    ordered = sorted(fills, key=lambda one: key_of(event_of(one, None)))
    state, trips = folded(*ordered)
    reference = Reference(fills)
    assert Fraction(state.p1) == reference.quantity
    assert Fraction(state.fees) == reference.fees
    tolerance = Fraction(count, 10**12)
    assert abs(Fraction(state.realized) - reference.realized) <= tolerance
    assert abs(Fraction(state.cost) - reference.cost) <= tolerance
    with exact():
        assert state.realized == state.cash + state.cost  # exactly, whatever was rounded
        assert sum((trip.realized for trip in trips), state.trip_realized) == state.realized
        assert sum((trip.fees for trip in trips), state.p2_fee) == state.fees
        assert sum((-one.signed_quantity * one.price for one in fills), Decimal(0)) == state.cash


def test_the_ambient_precision_does_not_matter() -> None:
    fills = [
        fill(1, "BUY", "123456.78901234", "98765.43210987"),
        fill(2, "SELL", "0.00000001", "1.23456789012345"),
    ]
    with localcontext() as context:
        context.prec = 6
        state, _ = folded(*fills)
        assert state.unrealized(Decimal("98765.43210988")).adjusted() < 0
    with exact():
        assert state.p1 == Decimal("123456.78901233")
        assert state.realized == state.cash + state.cost


def test_the_fold_refuses_disorder_and_nonsense() -> None:
    with pytest.raises(LedgerError, match="in order"):
        folded(fill(2, "BUY", "1", "100"), fill(1, "BUY", "1", "100"))
    with pytest.raises(LedgerError, match="more digits than money has"):
        folded(fill(1, "BUY", "1E+150", "1"), fill(2, "BUY", "1E-150", "1"))


def test_trade_ids_are_ordered_as_numbers() -> None:
    ids = ["9", "10", "1000000000", "999999999", "2"]
    ordered = sorted(ids, key=lambda one: key_of(event_of(fill(int(one), "BUY", "1", "1", time_ms=5), None)))
    assert ordered == ["2", "9", "10", "999999999", "1000000000"]


@given(
    st.decimals(-(10**6), 10**6, places=8),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10**6).map(Decimal), min_size=1),
)
def test_shares_add_up(value: Decimal, weights: dict[str, Decimal]) -> None:
    with exact():
        parts = share_out(value, weights)
        assert sum(parts.values()) == value
        assert parts.keys() == weights.keys()
        for name, part in parts.items():
            ideal = Fraction(value) * Fraction(weights[name]) / sum(Fraction(one) for one in weights.values())
            assert abs(Fraction(part) - ideal) <= Fraction(len(weights), 10**12)


@given(
    st.dictionaries(st.sampled_from((*AGENTS[:2], "c", "d")), st.integers(1, 500), min_size=1),
    st.data(),
)
def test_quantities_are_split_on_the_step_and_within_holdings(
    held: dict[str, int], data: st.DataObject
) -> None:
    holdings = {name: Decimal(units) / 1000 for name, units in held.items()}
    quantity = Decimal(data.draw(st.integers(1, sum(held.values())))) / 1000
    with exact():
        parts = share_quantity(quantity, holdings)
        assert sum(parts.values()) == quantity
        for name, part in parts.items():
            assert 0 < part <= holdings[name]
            assert part % Decimal("0.001") == 0
            ideal = quantity * holdings[name] / 1
            assert abs(Fraction(part) - Fraction(ideal) / Fraction(sum(holdings.values()))) < Fraction(
                1, 1000
            )
