"""Which faults strike when: matching, counting, and the draw by a seed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from envs.errors import ConfigError
from live.paper.fault_specs import (
    ACTION_KINDS,
    REQUEST_KINDS,
    STREAM_KINDS,
    Action,
    FaultSchedule,
    RequestFault,
    StreamFault,
    parse_fault,
)
from live.paper.faults import LOG_LENGTH, MAX_ARMED, Asked, FaultBook


def order(client_id: str = "a-1", method: str = "POST", path: str = "/fapi/v1/order", **params: str) -> Asked:
    return Asked(method, path, {"newClientOrderId": client_id, "timestamp": "1", **params}, "alice")


TIME = Asked("GET", "/fapi/v1/time", {}, "")


def armed(kind: str, **settings: Any) -> FaultBook:
    book = FaultBook()
    fault = parse_fault({"kind": kind, **settings})
    assert not isinstance(fault, Action)
    book.arm(fault)
    return book


def strikes(book: FaultBook, *asked: Asked) -> list[bool]:
    return [book.for_request(one) is not None for one in asked]


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "POST"},
        {"path": "/fapi/v1/order"},
        {"path": "/fapi/*/order"},
        {"client_id": "b-*"},
        {"api_key": "alice", "method": "POST"},
    ],
)
def test_a_fault_strikes_what_it_matches_as_often_as_it_says(settings: dict[str, Any]) -> None:
    book = armed("lost_after", count=2, **settings)
    reading = Asked("GET", "/fapi/v1/allOrders", {}, "bob")
    assert strikes(book, TIME, order("b-1"), reading, order("b-2"), order("b-3")) == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert book.idle
    assert [one["kind"] for one in book.as_json()["log"]] == ["lost_after"] * 2


def test_some_are_spared_first() -> None:
    assert strikes(armed("lost_before", skip=2), *[order()] * 4) == [False, False, True, False]


def test_look_ups_are_matched_by_the_id_that_they_ask_for() -> None:
    asked = Asked("GET", "/fapi/v1/order", {"origClientOrderId": "x-9"}, "alice")
    algo = Asked("POST", "/fapi/v1/algoOrder", {"clientAlgoId": "x-9"}, "alice")
    assert strikes(armed("lost_before", client_id="x-9", count=2), asked, order(), algo) == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("kind", "hit", "spared"),
    [
        ("reject_margin", order(), TIME),
        ("order_limited", order(path="/fapi/v1/algoOrder"), order(method="DELETE")),
        ("partial_fill", order(), order(path="/fapi/v1/algoOrder")),
        ("stale_timestamp", order(), TIME),
        ("throttled_503", order(), order(reduceOnly="true")),
        ("throttled_503", TIME, order(method="DELETE")),
        ("throttled_503", order(), order(path="/fapi/v1/algoOrder", closePosition="true")),
    ],
)
def test_a_fault_strikes_only_where_it_makes_sense(kind: str, hit: Asked, spared: Asked) -> None:
    assert strikes(armed(kind), spared, hit) == [False, True]


def test_events_are_matched_by_stream_type_and_account() -> None:
    book = armed("stream_lose", stream="user", event="ORDER_*", api_key="alice", count=2)
    found = [
        book.for_event(*event) is not None
        for event in (
            ("btcusdt@kline_1m", "kline", ""),
            ("user", "ACCOUNT_UPDATE", "alice"),
            ("user", "ORDER_TRADE_UPDATE", "bob"),
            ("user", "ORDER_TRADE_UPDATE", "alice"),
        )
    ]
    assert found == [False, False, False, True]
    assert book.for_request(order()) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "lost_afterwards"}, "did you mean 'lost_after'"),
        ({}, "there are lost_before"),
        ({"kind": "lost_after", "symbol": "BTCUSDT"}, "unknown setting 'symbol'"),
        ({"kind": "lost_after", "clientid": "a"}, "did you mean 'client_id'"),
        ({"kind": "delay_after", "delay_ms": 600_001}, "delay_ms"),
        ({"kind": "lost_after", "count": 0}, "count"),
        ({"kind": "partial_fill", "share": 1.5}, "share"),
        ({"kind": "manual_trade", "side": "HOLD"}, "side"),
    ],
)
def test_nonsense_is_refused_with_a_remedy(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_fault(values)


def test_kinds_belong_to_their_moment() -> None:
    for kinds, model in ((REQUEST_KINDS, RequestFault), (STREAM_KINDS, StreamFault), (ACTION_KINDS, Action)):
        assert {type(parse_fault({"kind": kind})) for kind in kinds} == {model}


def test_what_is_armed_and_logged_is_bounded() -> None:
    book = FaultBook()
    for _ in range(MAX_ARMED):
        book.arm(RequestFault(kind="lost_before", count=10_000))
    with pytest.raises(ConfigError, match="DELETE /paper/faults"):
        book.arm(RequestFault(kind="lost_before"))
    for _ in range(LOG_LENGTH + 10):
        book.for_request(order())
    assert len(book.log) == LOG_LENGTH
    book.clear()
    assert book.idle


# --- the draw -----------------------------------------------------------------------------------------


def drawn(schedule: FaultSchedule, *asked: Asked) -> list[str]:
    book = FaultBook()
    book.draw_by(schedule)
    found = [book.for_request(one) for one in asked]
    return [fault.model_dump_json() if fault else "" for fault in found]


def by_rate(rate: float, seed: int = 1, **changes: Any) -> FaultSchedule:
    return FaultSchedule(seed=seed, probability={"lost_after": rate}, **changes)


def test_a_seed_gives_the_same_faults_again_and_another_seed_others() -> None:
    schedule, many = FaultSchedule.everything(7, 0.5), [order(f"a-{n}") for n in range(50)]
    assert drawn(schedule, *many) == drawn(schedule, *many)
    assert drawn(schedule, *many) != drawn(FaultSchedule.everything(8, 0.5), *many)


def test_what_strikes_one_order_does_not_depend_on_what_else_goes_on() -> None:
    schedule = by_rate(0.5, in_a_row=10)
    alone = drawn(schedule, *[order("a-1")] * 20)
    mixed = drawn(schedule, *[one for _ in range(20) for one in (order("a-1"), TIME, order("b-1"))])
    assert mixed[::3] == alone


def test_rates_come_out() -> None:
    found = drawn(by_rate(0.2, limit=100_000), *[order(f"a-{n}") for n in range(2_000)])
    assert 330 < sum(map(bool, found)) < 470


def test_faults_in_a_row_and_in_all_are_bounded() -> None:
    found = drawn(by_rate(1.0, in_a_row=2), *[order()] * 9)
    assert [bool(one) for one in found] == [True, True, False] * 3
    assert sum(map(bool, drawn(by_rate(1.0, limit=5), *[order(f"a-{n}") for n in range(20)]))) == 5


def test_all_that_can_be_drawn_is_drawn() -> None:
    book = FaultBook()
    book.draw_by(FaultSchedule.everything(3, 0.9).model_copy(update={"limit": 100_000, "in_a_row": 100}))
    kinds: Counter[str] = Counter()
    for n in range(3_000):
        for fault in (book.for_request(order(f"a-{n}")), book.for_event("user", f"E{n}"), book.for_candle()):
            if fault is not None:
                kinds[fault.kind] += 1
    not_drawn = {"refuse", "clock_skew", "manual_trade", "liquidate", "deleverage", "transfer"}
    assert set(kinds) == {*REQUEST_KINDS, *STREAM_KINDS, *ACTION_KINDS} - not_drawn


@pytest.mark.parametrize(
    ("probability", "message"),
    [
        ({"lost_after": 0.6, "lost_before": 0.6}, "add up to 1.2"),
        ({"manual_trade": 0.1}, "no fault 'manual_trade' is drawn"),
        ({"lost_aftr": 0.1}, "did you mean 'lost_after'"),
        ({"lost_after": 1.1}, "less than or equal to 1"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(probability: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FaultSchedule.parse({"seed": 1, "probability": probability}, where="schedule")
