"""The judgement of one order, the state that survives restarts, and the protective stop's price."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import instrument

from envs.account import (
    AccountSnapshot,
    ActionType,
    Approved,
    Order,
    PlannedOrder,
    Position,
    Protection,
    Refused,
    Side,
    classify,
)
from envs.errors import ConfigError, PerpgymError
from envs.risk import RiskContext, RiskLimits, guard_prices, judge, with_guard
from envs.risk_state import FileRiskStore, RiskState, fresh_state

D = Decimal
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NOON_MS = 1_704_110_400_000 - 1  # the close of the candle before 2024-01-01 12:00 UTC
PRICE = D(100)


def entry_of(
    change: str, held: str = "0", symbol: str = "BTCUSDT", protection: Protection | None = None
) -> PlannedOrder:
    """A planned order of a signed quantity at a price of 100."""
    quantity, before = D(change), D(held)
    order = Order(
        symbol,
        Side.BUY if quantity > 0 else Side.SELL,
        abs(quantity),
        reduce_only=before * quantity < 0 and abs(quantity) <= abs(before),
    )
    after = before + quantity
    return PlannedOrder(symbol, 0.5, classify(before, after), order, after, PRICE, protection)


def context_of(
    held: Mapping[str, str] | str = "0",
    *,
    equity: str = "1000",
    peak: str = "1000",
    day_start: str = "1000",
    halted: str = "",
    order_times_ms: tuple[int, ...] = (),
    stale: frozenset[str] = frozenset(),
    leverage: int = 20,
    **limits: Any,
) -> RiskContext:
    """1000 USDT, everything at 100, minimum notional 5, step 0.001, leverage 20."""
    quantities = {"BTCUSDT": D(held)} if isinstance(held, str) else {s: D(q) for s, q in held.items()}
    positions = {s: Position(s, q, PRICE, PRICE) for s, q in quantities.items()}
    state = replace(
        fresh_state(D(1000), NOON_MS),
        peak_equity_usdt=D(peak),
        day_start_equity_usdt=D(day_start),
        halted_reason=halted,
        order_times_ms=order_times_ms,
    )
    return RiskContext(
        limits=RiskLimits.parse(limits),
        state=state,
        account=AccountSnapshot(NOON_MS, D(equity), positions),
        instruments={s: instrument(s) for s in quantities},
        leverage=dict.fromkeys(quantities, leverage),
        quantities=quantities,
        stale_symbols=stale,
    )


def refusal(verdict: Any) -> Refused:
    assert isinstance(verdict, Refused), verdict
    return verdict


def approved(verdict: Any) -> Approved[PlannedOrder]:
    assert isinstance(verdict, Approved), verdict
    return verdict


def change_of(verdict: Any) -> D:
    order = approved(verdict).value.order
    assert order is not None
    return order.signed_quantity


# --- each check ------------------------------------------------------------------------------------------------


def test_without_limits_an_order_passes_unchanged() -> None:
    entry = entry_of("3")
    verdict = approved(judge(entry, context_of()))
    assert verdict.value is entry and verdict.reduced_from is None


def test_nothing_to_send_is_nothing_to_judge() -> None:
    entry = replace(entry_of("3"), order=None)
    assert approved(judge(entry, context_of(halted="drawdown"))).value is entry


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"halted": "drawdown 5 %"}, Refused("halted", "not halted", "drawdown 5 %")),
        (
            {"stale": frozenset({"BTCUSDT"})},
            Refused("stale_candle", "a closed candle of this step", "none in time"),
        ),
        ({"peak": "1250", "max_drawdown_fraction": 0.2}, Refused("max_drawdown", "0.2", "0.200000")),
        ({"day_start": "1111", "daily_loss_fraction": 0.0999}, Refused("daily_loss", "0.0999", "0.099910")),
        (
            {"order_times_ms": (NOON_MS - 1, NOON_MS), "max_orders_per_hour": 2},
            Refused("orders_per_hour", "2", "2"),
        ),
        ({"allowed_symbols": ["ETHUSDT"]}, Refused("symbol_allowed", "ETHUSDT", "BTCUSDT")),
        ({"allowed_symbols": []}, Refused("symbol_allowed", "none", "BTCUSDT")),
        # Caps below the smallest order (5 USDT) refuse; above it they reduce.
        ({"max_leverage": 0.004}, Refused("max_leverage", "4.00 USDT", "300.00 USDT")),
        ({"max_position_notional_usdt": 4.5}, Refused("max_position_notional", "4.50 USDT", "300.00 USDT")),
        ({"max_order_notional_usdt": 1.0}, Refused("max_order_notional", "1.00 USDT", "300.00 USDT")),
        ({"equity": "0"}, Refused("available_margin", "0.00 USDT", "300.00 USDT")),
    ],
)
def test_each_refusal_names_check_limit_and_value(settings: dict[str, Any], expected: Refused) -> None:
    verdict = refusal(judge(entry_of("3"), context_of(**settings)))
    assert verdict == expected
    assert str(verdict) == f"{expected.check}: {expected.value} against a limit of {expected.limit}"


@pytest.mark.parametrize(
    ("settings", "quantity", "note"),
    [
        ({"max_leverage": 0.2}, "2", "reduced by max_leverage 200.00 USDT"),
        ({"max_position_notional_usdt": 123.45}, "1.234", "reduced by max_position_notional 123.45 USDT"),
        ({"max_order_notional_usdt": 50}, "0.5", "reduced by max_order_notional 50.00 USDT"),
        ({"leverage": 1, "equity": "250"}, "2.5", "reduced by available_margin 250.00 USDT"),
    ],
)
def test_a_cap_reduces_and_says_so(settings: dict[str, Any], quantity: str, note: str) -> None:
    entry = entry_of("3")
    verdict = approved(judge(entry, context_of(**settings)))
    assert change_of(verdict) == D(quantity)
    assert verdict.reduced_from is entry
    assert verdict.value.note == note
    assert verdict.value.target_quantity == D(quantity)
    assert verdict.value.action_type is ActionType.OPEN_LONG


def test_a_limit_is_reached_not_only_passed() -> None:
    just_below = context_of(peak="1249.99", max_drawdown_fraction=0.2)
    assert isinstance(judge(entry_of("3"), just_below), Approved)
    assert isinstance(judge(entry_of("3"), context_of(peak="1250", max_drawdown_fraction=0.2)), Refused)


def test_an_order_of_an_hour_ago_counts_no_more() -> None:
    old = context_of(order_times_ms=(NOON_MS - HOUR_MS, NOON_MS - HOUR_MS + 1), max_orders_per_hour=2)
    assert isinstance(judge(entry_of("3"), old), Approved)


def test_other_positions_count_for_leverage_and_margin() -> None:
    held = {"BTCUSDT": "0", "ETHUSDT": "-15"}
    # 1500 of 2 * 1000 are taken: 500 is left.
    assert change_of(judge(entry_of("30"), context_of(held, max_leverage=2))) == 5
    # At leverage 2, 750 of 1000 are bound: 250 * 2 is left.
    assert change_of(judge(entry_of("30"), context_of(held, leverage=2))) == 5


def test_what_is_held_counts_for_the_caps_of_a_position() -> None:
    context = context_of("8", max_position_notional_usdt=1000)
    assert change_of(judge(entry_of("5", "8"), context)) == 2
    over = context_of("12", max_position_notional_usdt=1000)
    assert refusal(judge(entry_of("5", "12"), over)).check == "max_position_notional"


def test_the_tightest_of_several_caps_wins_and_all_that_cut_are_named() -> None:
    context = context_of(max_leverage=0.25, max_position_notional_usdt=200, max_order_notional_usdt=100)
    verdict = approved(judge(entry_of("3"), context))
    assert change_of(verdict) == 1
    assert verdict.reason == (
        "max_leverage 250.00 USDT; max_position_notional 200.00 USDT; max_order_notional 100.00 USDT"
    )


# --- order of the checks -----------------------------------------------------------------------------------

# Every check in the order of docs/risk.md, each with settings that break it alone and make it refuse.
BREAKING: list[tuple[str, dict[str, Any]]] = [
    ("halted", {"halted": "x"}),
    ("stale_candle", {"stale": frozenset({"BTCUSDT"})}),
    ("max_drawdown", {"peak": "2000", "max_drawdown_fraction": 0.5}),
    ("daily_loss", {"day_start": "2000", "daily_loss_fraction": 0.5}),
    ("max_leverage", {"max_leverage": 0.001}),
    ("max_position_notional", {"max_position_notional_usdt": 1}),
    ("max_order_notional", {"max_order_notional_usdt": 1}),
    ("available_margin", {}),  # needs an account without equity; see below
    ("orders_per_hour", {"order_times_ms": (NOON_MS,), "max_orders_per_hour": 1}),
    ("symbol_allowed", {"allowed_symbols": ["ETHUSDT"]}),
]


@pytest.mark.parametrize("first", range(len(BREAKING)))
def test_checks_come_in_their_order(first: int) -> None:
    settings: dict[str, Any] = {}
    for name, one in BREAKING[first:]:
        if name == "available_margin" and name == BREAKING[first][0]:
            settings["equity"] = "0"
        settings |= one
    assert refusal(judge(entry_of("3"), context_of(**settings))).check == BREAKING[first][0]


# --- taking risk off -------------------------------------------------------------------------------------------

EVERYTHING = {name: value for _, one in BREAKING[2:] for name, value in one.items()}


@pytest.mark.parametrize("change", ["-1", "-3", "-0.001"])
def test_reductions_pass_every_limit(change: str) -> None:
    entry = entry_of(change, "3")
    assert approved(judge(entry, context_of("3", **EVERYTHING))).value is entry


@pytest.mark.parametrize("blocked", [{"halted": "x"}, {"stale": frozenset({"BTCUSDT"})}])
def test_but_not_a_halt_nor_a_missing_candle(blocked: dict[str, Any]) -> None:
    refusal(judge(entry_of("-1", "3"), context_of("3", **blocked)))


@pytest.mark.parametrize(("check", "settings"), [b for b in BREAKING[2:] if b[1]])
@pytest.mark.parametrize("side", [1, -1])
def test_a_flip_that_may_not_open_still_closes(check: str, settings: dict[str, Any], side: int) -> None:
    protection = Protection(D(110), D(90))
    entry = entry_of(str(-5 * side), str(3 * side), protection=protection)
    verdict = approved(judge(entry, context_of(str(3 * side), **settings)))
    assert change_of(verdict) == -3 * side
    value = verdict.value
    assert value.order is not None and value.order.reduce_only
    assert value.action_type is (ActionType.CLOSE_LONG if side > 0 else ActionType.CLOSE_SHORT)
    assert value.target_quantity == 0
    assert value.protection is None  # the triggers of the position that is not opened
    assert check in value.note and verdict.reduced_from is entry


def test_a_flip_is_cut_to_a_smaller_flip_where_the_cap_leaves_room() -> None:
    verdict = approved(judge(entry_of("-5", "3"), context_of("3", max_position_notional_usdt=100)))
    assert change_of(verdict) == -4
    assert verdict.value.action_type is ActionType.FLIP_TO_SHORT


def test_a_flip_is_never_cut_below_its_close() -> None:
    # The cap on orders is smaller than what closing takes; closing is always allowed.
    verdict = approved(judge(entry_of("-5", "3"), context_of("3", max_order_notional_usdt=150)))
    assert change_of(verdict) == -3


quantities = st.decimals(min_value=-50, max_value=50, places=3)
some_limits = st.fixed_dictionaries(
    {},
    optional={
        "max_leverage": st.floats(0.01, 5),
        "max_position_notional_usdt": st.floats(1, 4000),
        "max_order_notional_usdt": st.floats(1, 4000),
        "daily_loss_fraction": st.just(0.5),
        "max_orders_per_hour": st.just(1),
        "allowed_symbols": st.just(("ETHUSDT",)),
    },
)


@given(quantities, quantities.filter(bool), some_limits, st.booleans())
def test_whatever_the_limits_an_order_only_gets_smaller(
    held: D, change: D, limits: dict[str, Any], busy: bool
) -> None:
    entry = entry_of(str(change), str(held))
    context = context_of(
        str(held), day_start="2500" if busy else "1000", order_times_ms=(NOON_MS,) * busy, **limits
    )
    verdict = judge(entry, context)
    shrinks = held * change < 0 and abs(change) <= abs(held)
    if shrinks:
        assert approved(verdict).value is entry
        return
    if isinstance(verdict, Refused):
        assert held * change >= 0  # a flip at least closes
        return
    got = change_of(verdict)
    assert got * change > 0 and abs(got) <= abs(change)
    assert verdict.value.target_quantity == held + got
    assert got == instrument().round_quantity(got)
    if held * got < 0 and abs(got) <= abs(held):
        assert verdict.value.order is not None and verdict.value.order.reduce_only
        return
    target = abs(held + got) * PRICE
    assert target <= D("1000") * 20
    if "max_leverage" in limits:
        assert float(target) <= limits["max_leverage"] * 1000 * (1 + 1e-12)
    if "max_position_notional_usdt" in limits:
        assert float(target) <= limits["max_position_notional_usdt"] * (1 + 1e-12)
    if "max_order_notional_usdt" in limits:
        assert float(abs(got) * PRICE) <= limits["max_order_notional_usdt"] * (1 + 1e-12)


# --- protective stop -----------------------------------------------------------------------------------------


def guards(
    held: Mapping[str, str], *, equity: str, peak: str, limit: str, cost: str = "0", tick: str = "0.01"
) -> dict[str, D]:
    context = context_of(held, equity=equity)
    return guard_prices(
        context.quantities,
        context.account,
        peak_equity_usdt=D(peak),
        limit_fraction=D(limit),
        cost_fraction=D(cost),
        instruments={s: instrument(s, tick=tick) for s in held},
    )


def test_guard_of_a_long_by_hand() -> None:
    # 20 units at 100 with 1000 USDT: 10 % of 1000 is lost when the price has fallen by 5.
    assert guards({"BTCUSDT": "20"}, equity="1000", peak="1000", limit="0.1") == {"BTCUSDT": D("95.00")}


def test_guard_of_a_short_by_hand() -> None:
    assert guards({"BTCUSDT": "-20"}, equity="1000", peak="1000", limit="0.1") == {"BTCUSDT": D("105.00")}


def test_guard_counts_from_the_peak_and_leaves_room_for_the_costs_of_closing() -> None:
    # The limit is 1200 * 0.9 = 1080, 20 below 1100: 1 % of the 2000 held, less 0.1 % of costs.
    assert guards({"BTCUSDT": "20"}, equity="1100", peak="1200", limit="0.1", cost="0.001") == {
        "BTCUSDT": D("99.10")
    }


def test_guards_of_two_symbols_suppose_that_both_move() -> None:
    # 3000 gross: 100 lost at 3.333 % against both; on the tick nearer to the price.
    assert guards({"BTCUSDT": "20", "ETHUSDT": "-10"}, equity="1000", peak="1000", limit="0.1") == {
        "BTCUSDT": D("96.67"),
        "ETHUSDT": D("103.33"),
    }


def test_no_room_puts_the_guard_at_the_price_and_a_small_position_needs_none() -> None:
    assert guards({"BTCUSDT": "20"}, equity="900", peak="1000", limit="0.1") == {"BTCUSDT": D("100.00")}
    assert guards({"BTCUSDT": "0.5"}, equity="1000", peak="1000", limit="0.1") == {}
    assert guards({"BTCUSDT": "0"}, equity="1000", peak="1000", limit="0.1") == {}


def test_no_guard_where_the_exchange_takes_no_order() -> None:
    # 1000 USDT, half of them lost at 100 * (1 - 500 / gross): below the least price of 50 with less than 10 units.
    rules = {"BTCUSDT": replace(instrument("BTCUSDT"), min_price=D(50), max_price=D(150))}

    def guard(quantity: str) -> dict[str, D]:
        context = context_of({"BTCUSDT": quantity}, equity="1000")
        return guard_prices(
            context.quantities,
            context.account,
            peak_equity_usdt=D(1000),
            limit_fraction=D("0.5"),
            cost_fraction=D(0),
            instruments=rules,
        )

    assert [guard("10"), guard("9.9")] == [{"BTCUSDT": D("50.00")}, {}]
    assert [guard("-10"), guard("-9.9")] == [{"BTCUSDT": D("150.00")}, {}]


def test_the_guard_joins_the_triggers_of_the_entry_or_those_already_there() -> None:
    own, there = Protection(D(95), D(110)), Protection(D(94), None, D(90))
    assert with_guard(entry_of("3", protection=own), there, D(93)).protection == Protection(
        D(95), D(110), D(93)
    )
    assert with_guard(entry_of("3"), there, D(93)).protection == Protection(D(94), None, D(93))


# --- state ------------------------------------------------------------------------------------------------------


def test_peak_drawdown_and_largest_drawdown() -> None:
    state = fresh_state(D(1000), NOON_MS)
    for hours, equity in enumerate((1100, 990, 1045, 1210), start=1):
        state = state.marked(D(equity), NOON_MS + hours * HOUR_MS)
    assert state.peak_equity_usdt == 1210
    assert state.max_drawdown_fraction == D("0.1")
    assert state.initial_equity_usdt == 1000
    assert state.last_candle_close_ms == NOON_MS + 4 * HOUR_MS


def test_a_day_begins_with_the_equity_at_midnight() -> None:
    midnight_ms = NOON_MS + 12 * HOUR_MS  # the close of the day's last candle, a millisecond before 00:00
    state = fresh_state(D(1000), NOON_MS)
    state = state.marked(D(980), midnight_ms - HOUR_MS)
    assert state.day_start_equity_usdt == 1000
    state = state.marked(D(970), midnight_ms)
    assert state.day_start_equity_usdt == 970
    # What the first candle of the day loses is a loss of this day.
    state = state.marked(D(940), midnight_ms + HOUR_MS)
    assert state.day_start_equity_usdt == 970
    assert state.day_start_ms == midnight_ms + 1


def test_the_equity_after_midnights_orders_is_not_another_start() -> None:
    midnight_ms = NOON_MS + 12 * HOUR_MS
    state = fresh_state(D(1000), NOON_MS).marked(D(970), midnight_ms).marked(D(969), midnight_ms)
    assert state.day_start_equity_usdt == 970


def test_a_gap_over_midnight_still_begins_a_day() -> None:
    state = fresh_state(D(1000), NOON_MS).marked(D(900), NOON_MS + 30 * HOUR_MS)
    assert state.day_start_equity_usdt == 900


STATE = RiskState(
    initial_equity_usdt=D("1000"),
    peak_equity_usdt=D("1234.567890123456789"),
    day_start_ms=NOON_MS + 1,
    day_start_equity_usdt=D("1100.1"),
    max_drawdown_fraction=D("0.0123456789"),
    order_times_ms=(NOON_MS - 5, NOON_MS),
    halted_reason='drawdown 5 %, "quoted"\nand on',
    last_candle_close_ms=NOON_MS,
)


def test_the_store_gives_back_what_it_was_given(tmp_path: Path) -> None:
    store = FileRiskStore(tmp_path / "deep" / "risk.json")
    assert store.load() is None
    store.save(STATE)
    assert FileRiskStore(store.path).load() == STATE
    assert [p.name for p in store.path.parent.iterdir()] == ["risk.json"]


def later(**changes: Any) -> RiskState:
    return replace(STATE, last_candle_close_ms=STATE.last_candle_close_ms + 1, **changes)


def test_what_was_noted_counts_when_it_is_about_a_later_candle(tmp_path: Path) -> None:
    store = FileRiskStore(tmp_path / "risk.json")
    store.note(later())
    assert store.load() is None  # without the file itself nothing is known, as when somebody deleted it
    store.save(STATE)
    assert FileRiskStore(store.path).load() == STATE  # and the note has gone with it
    store.note(STATE)
    assert FileRiskStore(store.path).load() == STATE
    store.note(later())
    assert FileRiskStore(store.path).load() == later()
    halted = later(halted_reason="drawdown")
    store.save(halted)
    assert FileRiskStore(store.path).load() == halted


def test_a_shorter_note_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    store = FileRiskStore(tmp_path / "risk.json")
    store.save(STATE)
    store.note(later(order_times_ms=tuple(range(10**12, 10**12 + 1000))))
    assert store.load() == later(order_times_ms=tuple(range(10**12, 10**12 + 1000)))
    store.note(later())
    assert store.load() == later()


def test_a_note_of_an_earlier_session_does_not_outlive_the_next_ones_first_save(tmp_path: Path) -> None:
    before = FileRiskStore(tmp_path / "risk.json")
    before.save(STATE)
    before.note(later(halted_reason=""))
    # A simulated market that begins anew: its candles are older, and the halt at one of them must hold.
    store = FileRiskStore(before.path)
    halted = replace(STATE, last_candle_close_ms=5, halted_reason="drawdown")
    store.save(replace(halted, halted_reason=""))
    store.note(replace(halted, last_candle_close_ms=4, halted_reason=""))
    store.save(halted)
    assert FileRiskStore(before.path).load() == halted


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_a_note_that_was_torn_does_not_count(tmp_path: Path, at: float) -> None:
    store = FileRiskStore(tmp_path / "risk.json")
    store.save(STATE)
    many = tuple(range(10**12, 10**12 + 1000))
    store.note(later(order_times_ms=many))
    before = store.noted_path.read_bytes()
    peak = STATE.peak_equity_usdt + 1
    store.note(later(order_times_ms=many, peak_equity_usdt=peak))
    after = store.noted_path.read_bytes()
    torn = int(at * len(after.rstrip()))
    store.noted_path.write_bytes(after[:torn] + before[torn:])
    assert FileRiskStore(store.path).load() == STATE
    store.noted_path.write_bytes(after[:torn])
    assert FileRiskStore(store.path).load() == STATE
    store.noted_path.write_bytes(after)
    noted = FileRiskStore(store.path).load()
    assert noted is not None and noted.peak_equity_usdt == peak


def test_a_note_that_found_no_room_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileRiskStore(tmp_path / "risk.json")
    store.save(STATE)
    monkeypatch.setattr("envs.risk_state.os.write", lambda _file, data: len(data) // 2)
    with pytest.raises(PerpgymError, match="No space left"):
        store.note(later())


@pytest.mark.parametrize("text", ["", "{", '{"halted_reason": ""}'])
def test_a_damaged_note_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    store = FileRiskStore(tmp_path / "risk.json")
    store.save(STATE)
    (tmp_path / "risk.noted").write_text(text, encoding="utf-8")
    assert store.load() == STATE


def test_a_note_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(PerpgymError, match="cannot be written"):
        FileRiskStore(tmp_path / "missing" / "risk.json").note(STATE)


def damaged(**changes: Any) -> str:
    values = {
        name: list(value) if isinstance(value, tuple) else value if isinstance(value, int) else str(value)
        for name in RiskState.__dataclass_fields__
        for value in (getattr(STATE, name),)
    }
    values |= changes
    return json.dumps({name: value for name, value in values.items() if value is not ...})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        damaged(peak_equity_usdt=...),
        damaged(halted_reason=...),
        damaged(peak_equity_usdt="lots"),
        damaged(peak_equity_usdt="NaN"),
        damaged(day_start_equity_usdt="Infinity"),
        damaged(order_times_ms="never"),
        damaged(last_candle_close_ms=None),
    ],
)
def test_a_damaged_store_is_never_guessed_at(tmp_path: Path, text: str) -> None:
    path = tmp_path / "risk.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"risk\.json cannot be read .*whether the run is halted"):
        FileRiskStore(path).load()


def test_a_store_that_is_not_text_is_damaged_too(tmp_path: Path) -> None:
    path = tmp_path / "risk.json"
    path.write_bytes(b"\x00\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        FileRiskStore(path).load()


def test_an_undamaged_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / "risk.json"
    path.write_text(damaged(), encoding="utf-8")
    assert FileRiskStore(path).load() == STATE


def test_a_store_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("", encoding="utf-8")
    with pytest.raises(PerpgymError, match="cannot be written"):
        FileRiskStore(blocker / "risk.json").save(STATE)
