"""The user data stream: events in order, and a Resync after everything that may have hidden one."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from envs.account import Order, Side
from envs.errors import AuthenticationError, ExchangeUnavailableError
from live.exchange.base import FillEvent, OrderEvent, Resync, UserEvent
from live.exchange.binance import BinanceExchange
from live.exchange.sockets import StreamSettings
from live.settings import Credentials

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.live.exchange.conftest import FaultyExchange

ID = "A_BTCUSDT_1736630399999o"


def update(trade_id: int, order_id: int = 1, *, quantity: str = "1", client_id: str = ID) -> dict[str, Any]:
    order = {
        "s": "BTCUSDT",
        "c": client_id,
        "S": "BUY",
        "X": "FILLED" if trade_id else "NEW",
        "i": order_id,
        "l": quantity if trade_id else "0",
        "z": quantity if trade_id else "0",
        "L": "100",
        "n": "0.05",
        "N": "USDT",
        "T": 1,
        "t": trade_id,
        "rp": "0",
    }
    return {"e": "ORDER_TRADE_UPDATE", "E": 1, "T": 1, "o": order}


async def following(stream: AsyncIterator[UserEvent]) -> UserEvent:
    return await asyncio.wait_for(anext(stream), 30)


async def test_events_come_in_order_after_a_first_resync(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    stream = client.stream_user_events()
    assert await following(stream) == Resync("connected")
    assert faulty.socket_keys == ["listen-key-1"]
    await faulty.say(update(0))
    await faulty.say({"e": "TRADE_LITE", "s": "BTCUSDT"})
    await faulty.say(update(7))
    first, second = await following(stream), await following(stream)
    assert isinstance(first, OrderEvent)
    assert first.status == "NEW"
    assert isinstance(second, FillEvent)
    assert (second.fill.trade_id, second.fill.client_order_id) == ("7", ID)


async def test_a_dropped_socket_is_opened_anew_and_says_so(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    stream = client.stream_user_events()
    await following(stream)
    await faulty.drop_socket()
    assert await following(stream) == Resync("reconnected")
    await faulty.say(update(8))
    assert isinstance(await following(stream), FillEvent)


async def test_an_expired_listen_key_is_replaced(faulty: FaultyExchange, client: BinanceExchange) -> None:
    stream = client.stream_user_events()
    await following(stream)
    faulty.listen_key = "listen-key-2"
    await faulty.say({"e": "listenKeyExpired", "E": 1, "listenKey": "listen-key-1"})
    assert await following(stream) == Resync("the listen key expired")
    assert faulty.socket_keys == ["listen-key-1", "listen-key-2"]


async def test_the_listen_key_is_kept_alive(faulty: FaultyExchange, client: BinanceExchange) -> None:
    stream = client.stream_user_events()
    await following(stream)
    async with asyncio.timeout(30):
        while faulty.keep_alives < 3:  # one each 0.1 s
            await asyncio.sleep(0.01)
    assert len(faulty.sockets) == 1
    faulty.listen_key = "listen-key-2"  # the old one was closed elsewhere: keeping alive names another
    assert await following(stream) == Resync("the listen key had expired")
    assert faulty.socket_keys == ["listen-key-1", "listen-key-2"]


async def test_minus_1125_on_keeping_alive_opens_a_new_stream(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    stream = client.stream_user_events()
    await following(stream)
    faulty.known_keys.clear()
    assert await following(stream) == Resync("the listen key had expired")


async def test_an_overflow_becomes_a_resync(faulty: FaultyExchange, client: BinanceExchange) -> None:
    stream = client.stream_user_events()
    await following(stream)
    for trade_id in range(1, 61):  # the buffer holds 50
        await faulty.say(update(trade_id, trade_id))
    async with asyncio.timeout(30):
        while not _is_fill(stream._events, "60"):
            await asyncio.sleep(0.01)
    events = [await following(stream)]
    assert events == [Resync("the buffer overflowed")]
    rest = [await following(stream) for _ in range(9)]
    assert [one.fill.trade_id for one in rest if isinstance(one, FillEvent)] == [
        str(n) for n in range(52, 61)
    ]


def _is_fill(events: Sequence[UserEvent], trade_id: str) -> bool:
    """Whether the newest event is this fill."""
    newest = events[-1] if events else None
    return isinstance(newest, FillEvent) and newest.fill.trade_id == trade_id


async def test_streamed_fills_spare_the_question_for_them(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    stream = client.stream_user_events()
    await following(stream)
    await faulty.say(update(7000, 1000, quantity="0.002"))
    await following(stream)
    report = await client.place(Order("BTCUSDT", Side.BUY, Decimal("0.002"), client_order_id=ID))
    assert [fill.trade_id for fill in report.fills] == ["7000"]
    assert report.fills[0].time_ms == 1  # the stream's, not that of userTrades


async def test_a_refused_key_ends_the_stream(faulty: FaultyExchange, client: BinanceExchange) -> None:
    from aiohttp import web

    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"code": -2015, "msg": "Invalid API-key"}, status=401)

    faulty.post_key = refuse
    stream = client.stream_user_events()
    with pytest.raises(AuthenticationError):
        await following(stream)


async def test_an_exchange_that_stays_away_ends_the_stream(faulty: FaultyExchange) -> None:
    exchange = BinanceExchange(
        faulty.venue(),
        Credentials("k", "s"),
        (),
        streams=StreamSettings(first_retry_s=0.01, longest_retry_s=0.02, give_up_s=0.2),
    )
    async with exchange:
        faulty.refuse_sockets = True
        stream = exchange.stream_user_events()
        with pytest.raises(ExchangeUnavailableError, match=r"no user events for .* s"):
            await following(stream)


async def test_closing_the_exchange_ends_its_streams(faulty: FaultyExchange, client: BinanceExchange) -> None:
    stream = client.stream_user_events()
    await following(stream)
    waiting = asyncio.ensure_future(following(stream))
    await asyncio.sleep(0.01)
    await client.close()
    with pytest.raises(StopAsyncIteration):
        await waiting
