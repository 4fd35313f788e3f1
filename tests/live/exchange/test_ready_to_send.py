"""What the connector does before an order is due: connections at hand, the request gone through, nothing sent."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import pytest

from envs.account import Leg, Order, Side
from envs.errors import ConfigError
from live.exchange.base import client_order_id
from live.exchange.binance import BinanceExchange
from live.exchange.wire_client import FuturesClient

if TYPE_CHECKING:
    from tests.live.exchange.conftest import FaultyExchange

SECRET = "a-secret-that-nobody-may-ever-see"
ORDER = Order(
    "BTCUSDT",
    Side.BUY,
    Decimal("0.002"),
    client_order_id=client_order_id("A", "BTCUSDT", 1_736_630_399_999, Leg.ORDER),
)


async def test_a_rehearsed_order_is_signed_as_the_sent_one_and_does_not_leave(
    faulty: FaultyExchange, client: BinanceExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies: list[bytes] = []
    sign = FuturesClient.signed_form

    def signed(self: FuturesClient, params: Any) -> bytes:
        bodies.append(sign(self, params))
        return bodies[-1]

    monkeypatch.setattr(FuturesClient, "signed_form", signed)
    client.rehearse(ORDER)
    assert (faulty.posts, faulty.gets) == ([], [])
    used = client._rest.budget.orders_10s
    assert (used.in_flight, len(bodies)) == (0, 1)
    await client.place(ORDER)
    rehearsed, sent = (dict(parse_qsl(body.decode())) for body in bodies)
    assert dict(faulty.posts[0]) == sent
    for body in bodies:
        text, _, signature = body.decode().rpartition("&signature=")
        assert signature == hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).hexdigest()
    moving = ("timestamp", "signature")
    assert {k: v for k, v in rehearsed.items() if k not in moving} == {
        k: v for k, v in sent.items() if k not in moving
    }
    with pytest.raises(ConfigError, match="client order id"):
        client.rehearse(replace(ORDER, client_order_id=None))


async def test_connections_are_opened_by_the_lightest_request(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    before = faulty.times_asked
    await client.warm_up(3)
    assert faulty.times_asked == before + 3
    assert client._rest.budget.weight.in_flight == 0


async def test_no_connection_is_opened_where_the_limits_are_in_use(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    before = faulty.times_asked
    budget = client._rest.budget
    budget.weight.limit = 10
    await client.warm_up(6)
    assert faulty.times_asked == before
    await client.warm_up(5)
    assert faulty.times_asked == before + 5


async def test_an_exchange_that_does_not_answer_is_left_to_who_needs_it(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    await faulty.stop()
    client._rest.budget.ban(60.0)
    await client.warm_up(2)
    client._rest.budget.forgive()
