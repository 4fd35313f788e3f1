"""Client order ids: made from agent, symbol, candle and leg, and taken apart again."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.account import Leg
from envs.errors import ConfigError
from live.exchange.client_ids import (
    ClientOrderId,
    check_agent_name,
    client_order_id,
    parse_client_order_id,
)

CLOSE_MS = 1_736_630_400_000


def test_the_form_is_the_documented_one() -> None:
    assert client_order_id("LLM-A", "BTCUSDT", CLOSE_MS, Leg.ORDER) == "LLM-A_BTCUSDT_1736630400000o"
    assert client_order_id("a.b_c", "ETHUSDT", CLOSE_MS, Leg.EMERGENCY, 2) == "a.b_c_ETHUSDT_1736630400000x2"


@given(
    agent=st.from_regex(r"[A-Za-z0-9._-]{1,8}", fullmatch=True),
    symbol=st.sampled_from(["BTCUSDT", "1000SHIBUSDT"]),
    close_ms=st.integers(1_500_000_000_000, 4_000_000_000_000),
    leg=st.sampled_from(Leg),
    attempt=st.integers(0, 9),
)
def test_what_is_made_can_be_taken_apart(
    agent: str, symbol: str, close_ms: int, leg: Leg, attempt: int
) -> None:
    text = client_order_id(agent, symbol, close_ms, leg, attempt) if len(agent) <= 7 else ""
    if text:
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,36}", text)
        assert parse_client_order_id(text) == ClientOrderId(agent, symbol, close_ms, leg, attempt)


@pytest.mark.parametrize(
    ("agent", "symbol", "message"),
    [
        ("a" * 14, "BTCUSDT", "shorten the agent's name by 1"),
        ("a b", "BTCUSDT", "use only letters"),
        ("a:b", "BTCUSDT", "use only letters"),
        ("", "BTCUSDT", "use only letters"),
        ("agent", "btcusdt", "upper-case symbol"),
        ("agent", "BTCUSDÜ", "use only letters"),
    ],
)
def test_an_id_that_the_exchange_would_refuse_is_a_config_error(
    agent: str, symbol: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        client_order_id(agent, symbol, CLOSE_MS, Leg.ORDER)


def test_a_name_is_checked_for_the_longest_of_its_ids() -> None:
    # 12 + len("_BTCUSDT_") + 13 digits + leg + attempt = 36
    check_agent_name("a" * 12, ("BTCUSDT",))
    with pytest.raises(ConfigError, match="36"):
        check_agent_name("a" * 13, ("BTCUSDT",))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "autoclose-123",
        "adl_autoclose",
        "x-Cb7ytekJabc",
        "web_abc",
        "A_BTCUSDT_1736630400000q",
        "_BTCUSDT_1736630400000o",
    ],
)
def test_foreign_ids_are_not_taken_for_ours(text: str) -> None:
    assert parse_client_order_id(text) is None
