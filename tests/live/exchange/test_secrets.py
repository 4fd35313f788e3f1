"""Key, secret, signature and listen key: in no log, error, traceback or repr, whichever way a request ends."""

from __future__ import annotations

import asyncio
import logging
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from envs.account import Order, Side
from envs.errors import PerpgymError
from live.exchange.base import RetryPolicy, TriggerKind, TriggerOrder
from live.exchange.binance import BinanceExchange
from live.exchange.sockets import StreamSettings
from live.settings import Credentials, paper_venue

if TYPE_CHECKING:
    from tests.live.exchange.conftest import FaultyExchange

KEY = "KEYkeyKEYkeyKEYkey0123456789"
SECRET = "SECRETsecretSECRETsecret0123456789"
LISTEN_KEY = "listen-key-1"
ID = "A_BTCUSDT_1736630399999o"
SHOWS_ALL = f"key {KEY} secret {SECRET} is not valid"

WAYS: dict[str, Callable[[], web.Response | str]] = {
    "silence": lambda: "hang",
    "cut": lambda: "cut",
    "html": lambda: web.Response(status=502, text=f"<html>{SHOWS_ALL}</html>"),
    "html ok": lambda: web.Response(status=200, text=f"<html>{SHOWS_ALL}</html>"),
    "garbage": lambda: web.Response(text="{" + SHOWS_ALL, content_type="application/json"),
    "a list": lambda: web.json_response([SHOWS_ALL], status=400),
    "error in a success": lambda: web.json_response({"code": -1121, "msg": SHOWS_ALL}),
    **{
        f"{status} {code}": lambda status=status, code=code: web.json_response(
            {"code": code, "msg": SHOWS_ALL}, status=status, headers={"Retry-After": "0"}
        )
        for status, code in (
            (400, -1022),
            (400, -1021),
            (400, -2019),
            (401, -2014),
            (401, -2015),
            (403, None),
            (404, None),
            (408, -1007),
            (418, -1003),
            (429, -1003),
            (429, -1015),
            (500, -1006),
            (503, None),
            (503, -1008),
        )
    },
    "a reply that lacks everything": lambda: web.json_response({"hint": SHOWS_ALL}),
}


@pytest.fixture
async def client(faulty: FaultyExchange) -> AsyncIterator[BinanceExchange]:
    exchange = BinanceExchange(
        faulty.venue(),
        Credentials(KEY, SECRET),
        (),
        retry=RetryPolicy(attempts=2, delay_s=0.001, resolve_s=0.05),
        streams=StreamSettings(first_retry_s=0.001, longest_retry_s=0.01, give_up_s=0.1),
        recv_window_ms=20,
        timeout_s=0.1,
        back_end_delay_s=0.0,
    )
    async with exchange:
        yield exchange


def requests(client: BinanceExchange) -> list[Callable[[], Awaitable[Any]]]:
    stop = TriggerOrder("BTCUSDT", Side.SELL, TriggerKind.STOP, Decimal(90), ID, Decimal(1))
    return [
        lambda: client.order("BTCUSDT", ID),
        lambda: client.place(Order("BTCUSDT", Side.BUY, Decimal(1), client_order_id=ID)),
        lambda: client.place_trigger(stop),
        lambda: client.cancel("BTCUSDT", ID),
        lambda: client.cancel_all("BTCUSDT"),
        lambda: client.set_leverage("BTCUSDT", 3),
        client.check_withdrawals_disabled,
        lambda: client.open_orders("BTCUSDT"),
    ]


@pytest.mark.parametrize("name", WAYS)
async def test_no_error_and_no_log_shows_a_secret(
    faulty: FaultyExchange, client: BinanceExchange, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = [repr(client), repr(client._rest), repr(client.venue)]
    failed = 0
    # The ways are the same for placing and for everything else.
    faulty.every = WAYS[name]
    for make in requests(client):
        client._rest.budget.forgive()
        try:
            await make()
        except PerpgymError as error:
            failed += 1
            shown += ["".join(traceback.format_exception(error)), repr(error), repr(vars(error))]
    assert failed >= 5
    shown.append(caplog.text)
    check("\n".join(shown))


async def test_streams_show_no_key_when_they_break(
    faulty: FaultyExchange, client: BinanceExchange, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    events = client.stream_user_events()
    await anext(events)
    await faulty.drop_socket()
    await anext(events)
    faulty.refuse_sockets = True
    await faulty.drop_socket()
    with pytest.raises(PerpgymError) as caught:
        await asyncio.wait_for(anext(events), 30)
    check("".join(traceback.format_exception(caught.value)) + caplog.text)
    assert "interrupted" in caplog.text


async def test_nobody_listening_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    exchange = BinanceExchange(
        paper_venue(url, url.replace("http", "ws")),
        Credentials(KEY, SECRET),
        (),
        retry=RetryPolicy(attempts=1),
    )
    with pytest.raises(PerpgymError) as caught:
        await exchange.connect()
    check("".join(traceback.format_exception(caught.value)) + caplog.text)


def check(shown: str) -> None:
    for secret in (KEY, SECRET, LISTEN_KEY, "signature=", "X-MBX-APIKEY"):
        assert secret not in shown
