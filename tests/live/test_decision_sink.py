"""Decisions on their way into the database."""

from __future__ import annotations

from decimal import Decimal

from agents.llm.records import DecisionRecord, Ruling, Verdict
from agents.llm.request import Usage
from live.decision_sink import StoreSink
from live.store.journal import Decision

RECORD = DecisionRecord(
    agent="LLM-A",
    model="m" * 200,
    template="/a/long/folder/" + "x" * 200 + "/v9",
    close_ms=1_736_630_399_999,
    verdict=Verdict.ACCEPTED,
    decision={"action": "OPEN_POSITION", "symbol": "BTCUSDT"},
    reply="words",
    prompt={"system": "one", "messages": "two"},
    calls=2,
    usage=Usage(7, 1000, 200, 5),
    usd=0.0125,
    latency_ms=9,
    fills=(("BTCUSDT", "BUY", "1", "100"),),
)


def stored(record: DecisionRecord) -> Decision:
    kept: list[Decision] = []
    StoreSink(kept.append, "account", "openai").record(record)
    (one,) = kept
    return one


def test_what_was_carried_out_is_stored_with_its_order_and_its_cost() -> None:
    one = stored(RECORD)
    assert (one.exchange, one.agent, one.symbol, one.action) == (
        "account",
        "LLM-A",
        "BTCUSDT",
        "OPEN_POSITION",
    )
    assert (one.verdict, one.reason) == ("ACCEPTED", "")
    assert one.client_order_id == "LLM-A_BTCUSDT_1736630399999o"
    # Tokens read, cached ones included: as the table says.
    assert (one.input_tokens, one.cached_tokens, one.output_tokens) == (1207, 1000, 5)
    assert one.cost_usd == Decimal("0.0125")
    assert one.prompt == "one\n\ntwo"
    # Columns of PostgreSQL have a length; of a path the end says more.
    assert len(one.model) == len(one.template) == 128
    assert one.template.endswith("/v9")


def test_what_was_not_carried_out_is_a_hold_with_its_reason() -> None:
    for detail, reason in (
        ("99 against a limit of 2", "leverage: 99 against a limit of 2"),
        ("leverage: 99 against a limit of 2", "leverage: 99 against a limit of 2"),
        ("", "leverage"),
    ):
        one = stored(RECORD.ruled(Ruling(Verdict.REJECTED, "leverage", detail)))
        assert (one.verdict, one.action, one.reason) == ("REJECTED", "HOLD", reason)
        assert one.decision == {"action": "OPEN_POSITION", "symbol": "BTCUSDT"}


def test_a_question_that_was_not_asked_has_no_symbol_and_no_order() -> None:
    record = DecisionRecord(
        "a", "m", "v1", 1_736_630_399_999, Verdict.OVER_BUDGET, "usd_per_day", "usd_per_day: 2 of 2"
    )
    one = stored(record)
    assert (one.action, one.symbol, one.client_order_id, one.cost_usd) == ("HOLD", "", "", Decimal("0.0"))
    assert one.reason == "usd_per_day: 2 of 2"
