"""Decisions: what is understood, the schema that providers are given, and words made harmless."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_servers import opening

from agents.llm.decision import Decision, decision_schema, parse_decision
from agents.llm.errors import InvalidReplyError
from agents.llm.text import plain, quotable, redacted

SYMBOLS = ("BTCUSDT", "ETHUSDT")
_VALUES = (
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20) | st.lists(st.integers())
)


def test_a_whole_decision() -> None:
    decision = parse_decision(json.dumps(opening(side="SELL", quantity=2)), SYMBOLS)
    assert decision.signed_quantity == -2.0
    assert parse_decision('{"action": "HOLD"}', SYMBOLS) == Decision(action="HOLD")
    assert parse_decision('{"action":"CLOSE_POSITION","symbol":"ETHUSDT"}', SYMBOLS).signed_quantity == 0.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"action": "HOLD", "action": "OPEN_POSITION"}', "a field twice"),
        ('{"action": "HOLD", "confidence": -Infinity}', "-Infinity"),
        ("{" * 100_000, "characters|deeply|valid JSON"),
        ('{"a":' * 20_000 + "1" + "}" * 20_000, "characters|deeply"),
        ('{"action": "HOLD", "confidence": ' + "9" * 5000 + "}", "digits|confidence"),
        ("x" * 200_000, "200000 characters"),
        ('{"action": "HOLD"} {', "not valid JSON"),
        ("\x00", "no JSON object"),
    ],
)
def test_what_is_no_decision(text: str, words: str) -> None:
    with pytest.raises(InvalidReplyError, match=words) as caught:
        parse_decision(text, SYMBOLS)
    assert len(str(caught.value)) <= 400


@given(st.text(max_size=300))
def test_any_text_is_a_decision_or_an_invalid_reply(text: str) -> None:
    for reply in (text, f'{{"action": {json.dumps(text)}}}', f"{{{text}}}"):
        try:
            parse_decision(reply, SYMBOLS)
        except InvalidReplyError as error:
            assert "\n" not in str(error)


@given(st.dictionaries(st.sampled_from(sorted(Decision.model_fields)), _VALUES, max_size=10))
def test_no_odd_value_gets_through(values: dict[str, Any]) -> None:
    try:
        text = json.dumps({"action": "OPEN_POSITION", **values})
        decision = parse_decision(text, SYMBOLS)
    except InvalidReplyError:
        return
    assert decision.symbol in (None, *SYMBOLS)
    if decision.action == "OPEN_POSITION":
        assert decision.quantity is not None and 0.0 < decision.quantity < float("inf")


def test_the_schema_is_strict_and_names_the_symbols() -> None:
    schema = decision_schema(SYMBOLS)
    assert schema["additionalProperties"] is False
    assert schema["required"] == list(Decision.model_fields)
    assert schema["properties"]["symbol"]["anyOf"] == [
        {"type": "string", "enum": ["BTCUSDT", "ETHUSDT"]},
        {"type": "null"},
    ]
    text = json.dumps(schema)
    # Providers refuse these in a strict schema; the reply is checked for them here.
    for word in ("exclusiveMinimum", "maximum", "default", "title", "$ref"):
        assert f'"{word}"' not in text


@given(st.text(max_size=400), st.integers(0, 200))
def test_words_become_one_harmless_line(text: str, limit: int) -> None:
    line = quotable(text, limit)
    assert len(line) <= limit
    assert not set(line) & set("\n\r\t<>{}[]`#|\\*\u2028\u202e\u200b")
    assert all(unicodedata.category(char)[0] != "C" for char in plain(text, limit))


def test_keys_are_hidden_wherever_they_are() -> None:
    text = redacted("my key my-own-secret and sk-ant-abc123XYZ and Bearer abc.def", ["my-own-secret", ""])
    assert text == "my key *** and *** and ***"
