"""Reading from an exchange that misbehaves: repeated within bounds, and said plainly when it does not help."""

from __future__ import annotations

import logging
import time
import traceback
from decimal import Decimal
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from envs.account import Order, Side
from envs.errors import (
    AuthenticationError,
    ConfigError,
    CredentialsError,
    ExchangeError,
    ExchangeUnavailableError,
    RateLimitedError,
)
from live.exchange.base import RetryPolicy
from live.exchange.binance import BinanceExchange
from live.exchange.clock import ExchangeClock
from live.exchange.wire_client import WireError, read_reply
from live.settings import Credentials

if TYPE_CHECKING:
    from tests.live.exchange.conftest import FaultyExchange

ID = "A_BTCUSDT_1736630399999o"


def reply(status: int, code: int, text: str, **headers: str) -> web.Response:
    return web.json_response({"code": code, "msg": text}, status=status, headers=headers)


async def test_a_read_is_repeated_while_it_fails_for_a_passing_reason(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    faulty.get_faults.extend(["cut", reply(503, -1001, "Internal error")])
    assert await client.order("BTCUSDT", ID) is None
    # aiohttp itself repeats a GET whose connection broke, once.
    assert len(faulty.gets) >= 3


async def test_a_read_gives_up_after_its_attempts(faulty: FaultyExchange, client: BinanceExchange) -> None:
    html = [web.Response(status=502, text="<html><h1>Bad Gateway</h1></html>") for _ in range(3)]
    faulty.get_faults.extend(html)
    with pytest.raises(ExchangeUnavailableError, match="Bad Gateway") as caught:
        await client.order("BTCUSDT", ID)
    assert caught.value.http_status == 502
    assert faulty.gets == ["/fapi/v1/order"] * 3


async def test_a_silent_exchange_costs_the_timeout_once_per_attempt(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    faulty.get_faults.extend(["hang"] * 3)
    began = time.monotonic()
    with pytest.raises(ExchangeUnavailableError, match=r"no reply .* within 0.4 s"):
        await client.order("BTCUSDT", ID)
    assert time.monotonic() - began >= 1.2


async def test_a_clock_that_drifted_is_measured_again(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    faulty.get_faults.append(reply(400, -1021, "Timestamp for this request is outside of the recvWindow."))
    asked = faulty.times_asked
    assert await client.order("BTCUSDT", ID) is None
    assert faulty.times_asked == asked + 3


async def test_a_rate_limit_is_waited_for_within_bounds(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    faulty.get_faults.append(reply(429, -1003, "Too many requests.", **{"Retry-After": "1"}))
    began = time.monotonic()
    assert await client.order("BTCUSDT", ID) is None
    assert time.monotonic() - began >= 1
    faulty.get_faults.append(reply(429, -1003, "Too many requests.", **{"Retry-After": "60"}))
    with pytest.raises(RateLimitedError) as caught:
        await client.order("BTCUSDT", ID)
    assert caught.value.retry_after_s == 60


async def test_a_refusal_of_the_key_is_not_repeated(faulty: FaultyExchange, client: BinanceExchange) -> None:
    faulty.get_faults.append(reply(401, -2014, "API-key format invalid."))
    with pytest.raises(AuthenticationError, match="malformed"):
        await client.order("BTCUSDT", ID)
    assert len(faulty.gets) == 1


async def test_without_a_key_only_market_data_can_be_asked_for(faulty: FaultyExchange) -> None:
    async with BinanceExchange(faulty.venue(), None, ()) as exchange:
        assert abs(await exchange.server_time_ms() - time.time() * 1000) < 1000
        for request in (
            exchange.account(),
            exchange.place(Order("BTCUSDT", Side.BUY, Decimal(1), client_order_id=ID)),
            exchange.fills("BTCUSDT"),
            exchange.cancel_all("BTCUSDT"),
        ):
            with pytest.raises(CredentialsError, match="needs an API key of paper"):
                await request
        with pytest.raises(CredentialsError):
            exchange.stream_user_events()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"enableWithdrawals": True, "enableFutures": True}, "may withdraw funds"),
        ({"enableFutures": True}, "may withdraw funds"),
        ({"enableWithdrawals": False, "enableFutures": False}, "may not trade futures"),
        ({"code": -1002, "msg": "You are not authorized to execute this request."}, "cannot be checked"),
        ({"enableWithdrawals": False, "enableFutures": True}, None),
        ({"enableWithdrawals": False}, None),
    ],
)
async def test_a_key_must_provably_not_withdraw(
    faulty: FaultyExchange, client: BinanceExchange, answer: dict[str, object], message: str | None
) -> None:
    faulty.get_faults.append(web.json_response(answer))
    if message is None:
        await client.check_withdrawals_disabled()
        return
    with pytest.raises(CredentialsError, match=message):
        await client.check_withdrawals_disabled()


async def test_neither_logs_nor_errors_show_a_secret(
    faulty: FaultyExchange, caplog: pytest.LogCaptureFixture
) -> None:
    key, secret = "an-api-key-of-64-characters", "a-secret-that-nobody-may-ever-see"
    caplog.set_level(logging.DEBUG)
    exchange = BinanceExchange(
        faulty.venue(),
        Credentials(key, secret),
        (),
        retry=RetryPolicy(attempts=2, delay_s=0.01, resolve_s=0.2),
        recv_window_ms=100,
        timeout_s=0.2,
        back_end_delay_s=0.0,
    )
    texts = [repr(exchange)]
    async with exchange:
        faulty.get_faults.append(reply(401, -2015, f"Invalid API-key {key} or secret {secret}"))
        faulty.faults.extend([("lose", "timeout"), ("lose", "400", "-1102", f"Parameter {secret} malformed")])
        stream = exchange.stream_user_events()
        await anext(stream)
        for request in (
            exchange.order("BTCUSDT", ID),
            exchange.place(Order("BTCUSDT", Side.BUY, Decimal(1), client_order_id=ID)),
        ):
            with pytest.raises(ExchangeError) as caught:
                await request
            texts.append("".join(traceback.format_exception(caught.value)))
        await faulty.drop_socket()
        await anext(stream)
    texts.append(caplog.text)
    assert "****" in "".join(texts)
    for text in texts:
        assert key not in text
        assert secret not in text
        assert faulty.listen_key not in text


async def test_leverage_and_symbols_are_checked_before_anything_is_sent(faulty: FaultyExchange) -> None:
    for symbols, leverage, message in (
        (("BTCUSDT", "BTCUSDT"), None, "given twice"),
        (("BTCUSDT",), 0, "whole number from 1"),
        (("BTCUSDT",), {"ETHUSDT": 3}, "ETHUSDT"),
    ):
        with pytest.raises(ConfigError, match=message):
            BinanceExchange(faulty.venue(), None, symbols, leverage=leverage)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"dualSidePosition": True}, "hedge mode.*One-way"),
        ({"multiAssetsMargin": True}, "multi-assets mode.*Single-Asset"),
        ({"canTrade": False}, "may not trade"),
    ],
)
async def test_an_account_in_another_mode_is_refused(
    faulty: FaultyExchange, config: dict[str, bool], message: str
) -> None:
    faulty.account_config = config
    with pytest.raises(ConfigError, match=message):
        await BinanceExchange(faulty.venue(), Credentials("k", "s"), ()).connect()


@pytest.mark.parametrize("ahead_ms", [0, 200_000, -200_000])
async def test_the_open_candle_is_told_by_the_exchanges_clock(faulty: FaultyExchange, ahead_ms: int) -> None:
    faulty.clock_ahead_ms = ahead_ms
    async with BinanceExchange(faulty.real_venue(), None, ()) as exchange:
        before = faulty.now_ms() // 60_000
        rows = await exchange.candles("BTCUSDT", 60_000, limit=3)
        after = faulty.now_ms() // 60_000
        assert len(rows) == 3
        # The newest is the one before the open one (the minute may turn while asking).
        assert before - 1 <= rows[-1].open_time_ms // 60_000 <= after - 1


async def test_pages_are_counted_by_what_came_back(faulty: FaultyExchange) -> None:
    faulty.klines_cap = 400  # the exchange's documents disagree on its cap
    async with BinanceExchange(faulty.real_venue(), None, ()) as exchange:
        rows = await exchange.candles("BTCUSDT", 60_000, limit=1_000)
        assert len({row.open_time_ms for row in rows}) == 1_000
        assert [b.open_time_ms - a.open_time_ms for a, b in pairwise(rows)] == [60_000] * 999
        start_ms = rows[100].open_time_ms
        assert await exchange.candles("BTCUSDT", 60_000, limit=900, start_ms=start_ms) == rows[100:]
        faulty.listed_ms = rows[400].open_time_ms
        newest = await exchange.candles("BTCUSDT", 60_000, limit=1_000, end_ms=rows[-1].open_time_ms)
        assert newest == rows[400:]


async def test_fills_are_looked_for_as_far_back_as_the_exchange_keeps_them(faulty: FaultyExchange) -> None:
    async with BinanceExchange(faulty.real_venue(), Credentials("k", "s"), ()) as exchange:
        assert await exchange.fills("BTCUSDT", since_ms=0) == []
        assert faulty.gets.count("/fapi/v1/userTrades") == 13  # three months, a week at a time


def test_replies_are_read_by_status_and_body() -> None:
    assert read_reply(200, {}, '{"a": 0.1, "b": 1e-05}') == {"a": Decimal("0.1"), "b": Decimal("0.00001")}
    assert read_reply(200, {}, '{"code":"200","msg":"success"}')["msg"] == "success"
    assert read_reply(200, {}, '{"code":200,"msg":"done"}')["code"] == 200
    assert read_reply(200, {}, "") == {}
    assert read_reply(200, {}, "[]") == []
    for status, body, code, text in (
        (200, '{"code":-1121,"msg":"Invalid symbol."}', -1121, "Invalid symbol."),
        (400, '{"code":-2019,"msg":"Margin"}', -2019, "Margin"),
        (400, "[1]", None, "[1]"),
        (502, "<html><title>x</title><h1>Bad\n Gateway</h1></html>", None, "no JSON, but: x Bad Gateway"),
        (200, "{broken", None, "no JSON, but: {broken"),
        (500, "", None, "(no message)"),
    ):
        with pytest.raises(WireError) as caught:
            read_reply(status, {}, body)
        assert (caught.value.http_status, caught.value.code, caught.value.text) == (status, code, text)


async def test_the_clock_takes_the_sample_with_the_shortest_round_trip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1_000.0]
    monkeypatch.setattr("live.exchange.clock.time", SimpleNamespace(time=lambda: now[0]))
    clock = ExchangeClock(simulated=False)
    delays = iter((0.5, 0.004, 0.2))

    async def ask() -> int:
        at = round(now[0] * 1000) + 2_000
        now[0] += next(delays)
        return at

    await clock.measure(ask)
    assert clock.offset_ms == pytest.approx(1_998, abs=1e-6)
    assert clock.uncertainty_ms == pytest.approx(2, abs=1e-6)
    assert clock.now_ms() == pytest.approx(now[0] * 1000 + 1_998, abs=1)


def test_a_simulated_clock_stands_where_it_was_last_seen() -> None:
    clock = ExchangeClock(simulated=True)
    clock.observe(1_000)
    clock.observe(500)
    assert clock.now_ms() == 1_000
    # However long the answer took: the candle that closed at 999 is closed.
    clock.uncertainty_ms = 50.0
    assert clock.certain_ms(1_000) == 1_000
    clock.simulated = False
    assert clock.certain_ms(1_000) == 950


async def test_the_used_weight_that_the_ticker_tells_is_not_believed(
    faulty: FaultyExchange, client: BinanceExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str | None] = []
    budget = client._rest.budget
    monkeypatch.setattr(budget, "note", lambda headers: heard.append(headers.get("X-MBX-USED-WEIGHT-1M")))
    for number in ("1", "2"):
        faulty.get_faults.append(web.json_response([], headers={"X-MBX-USED-WEIGHT-1M": number}))
    assert await client.prices() == {}
    assert heard == []
    assert await client.open_orders() == []
    assert "2" in heard
