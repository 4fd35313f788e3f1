"""Signatures over raw bytes, and timestamps by wall clock or feed clock."""

from __future__ import annotations

from decimal import Decimal

import pytest

from live.paper.account import Account, PaperAccount
from live.paper.auth import TimeRules, check_signature, find_account, sign
from live.paper.calls import Params
from live.paper.errors import ApiError

# The example of Binance's documentation.
SECRET = "2b5eb11e18796d12d88f13dc27dbbd02c2cc51ff7059765ed9821957d82bb4d9"
PAYLOAD = (
    b"symbol=BTCUSDT&side=BUY&type=LIMIT&quantity=1&price=9000&timeInForce=GTC"
    b"&recvWindow=5000&timestamp=1591702613943"
)
SIGNATURE = b"3c661234138461fcc7a7d8746c6558c9842d4e10870d2ecbedf7777cad694af9"
NOW_MS = 1_591_702_613_943


def rules(now_ms: int = NOW_MS, **changes: object) -> TimeRules:
    values = {"start_ms": now_ms, "wall_ms": 0, "wall_elapsed_ms": 0, "real_time": True, **changes}
    return TimeRules(now_ms=now_ms, **values)  # type: ignore[arg-type]


def verify(query: bytes, body: bytes, at: TimeRules | None = None) -> None:
    account = Account(PaperAccount("key", SECRET, Decimal(1)), 1, 0)
    check_signature(account, query, body, Params.parse(query, body).values, at or rules())


def code_of(query: bytes, body: bytes = b"", at: TimeRules | None = None) -> int:
    with pytest.raises(ApiError) as refused:
        verify(query, body, at)
    return refused.value.code


def test_the_documented_example_is_signed_alike() -> None:
    assert sign(SECRET.encode(), PAYLOAD).encode() == SIGNATURE


@pytest.mark.parametrize(
    ("query", "body"),
    [
        (PAYLOAD + b"&signature=" + SIGNATURE, b""),
        (b"", PAYLOAD + b"&signature=" + SIGNATURE),
        (b"signature=" + SIGNATURE + b"&" + PAYLOAD, b""),
        (PAYLOAD + b"&signature=" + SIGNATURE.upper(), b""),
        # Mixed: query and body are concatenated without an ampersand.
        (PAYLOAD[:40], PAYLOAD[40:] + b"&signature=" + SIGNATURE),
    ],
)
def test_the_signature_may_travel_in_query_or_body(query: bytes, body: bytes) -> None:
    verify(query, body)


def test_any_changed_byte_breaks_the_signature() -> None:
    signed = PAYLOAD + b"&signature=" + SIGNATURE
    assert code_of(signed.replace(b"quantity=1", b"quantity=2")) == -1022
    assert code_of(PAYLOAD + b"&signature=0" + SIGNATURE[1:]) == -1022
    assert code_of(PAYLOAD + b"&signature=\xc3\xa9") == -1022
    # The same parameters in another order, or encoded otherwise, are other bytes.
    assert code_of(b"side=BUY&" + PAYLOAD.replace(b"side=BUY&", b"") + b"&signature=" + SIGNATURE) == -1022


def test_what_a_signed_request_must_carry() -> None:
    assert code_of(PAYLOAD) == -1102
    assert code_of(b"symbol=BTCUSDT&signature=" + SIGNATURE) == -1102
    assert code_of(PAYLOAD.replace(b"=1591702613943", b"=now") + b"&signature=" + SIGNATURE) == -1102
    assert code_of(PAYLOAD.replace(b"=5000", b"=60001") + b"&signature=" + SIGNATURE) == -1131


@pytest.mark.parametrize(
    ("server_ahead_ms", "accepted"), [(0, True), (5000, True), (5001, False), (-999, True), (-1000, False)]
)
def test_binances_time_rule(server_ahead_ms: int, accepted: bool) -> None:
    assert rules(NOW_MS + server_ahead_ms).accepts(NOW_MS, 5000) is accepted


def test_a_replay_takes_wall_time_or_a_time_in_its_span() -> None:
    # Feed started at 1,000,000 and stands at 3,600,000; the wall clock shows 2e12, 10 s after the start.
    replay = rules(3_600_000, start_ms=1_000_000, wall_ms=2 * 10**12, wall_elapsed_ms=10_000, real_time=False)
    assert replay.accepts(2 * 10**12 - 4000, 5000)
    assert replay.accepts(3_600_999, 5000)
    assert replay.accepts(995_000, 5000)
    assert not replay.accepts(994_999, 5000)
    assert not replay.accepts(3_602_000, 5000)
    # In lock-step the clock stands; a client's own clock, set to it at the start, runs on.
    idle = rules(1_000_000, start_ms=1_000_000, wall_ms=2 * 10**12, wall_elapsed_ms=600_000, real_time=False)
    assert idle.accepts(1_600_000, 5000)


def test_keys() -> None:
    account = Account(PaperAccount("key", SECRET, Decimal(1)), 1, 0)
    assert find_account({"key": account}, "key") is account
    for key, code in ((None, -2014), ("", -2014), ("other", -2015)):
        with pytest.raises(ApiError) as refused:
            find_account({"key": account}, key)
        assert (refused.value.code, refused.value.http_status) == (code, 401)
