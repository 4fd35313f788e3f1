"""What the connector does before an order is due: connections at hand, the request gone through, nothing sent."""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qsl

import aiohttp
import pytest
import yarl

from envs.account import Leg, Order, Side
from envs.errors import ConfigError, ExchangeUnavailableError
from live.exchange.base import RetryPolicy, client_order_id
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


async def test_a_rehearsed_order_is_made_as_the_sent_one_and_does_not_leave(
    faulty: FaultyExchange, client: BinanceExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    sign = FuturesClient.signed_text

    def signed(self: FuturesClient, params: Any) -> str:
        texts.append(sign(self, params))
        return texts[-1]

    monkeypatch.setattr(FuturesClient, "signed_text", signed)
    for _ in range(3):
        await client.rehearse(ORDER)
    assert (faulty.posts, faulty.gets) == ([], [])
    budget = client._rest.budget
    gauges = (budget.weight, budget.orders_10s, budget.orders_1m)
    assert [(gauge.in_flight, gauge.said(time.time())) for gauge in gauges] == [(0, 0)] * 3
    await client.place(ORDER)
    assert len(texts) == 4 and [gauge.in_flight for gauge in gauges] == [0, 0, 0]
    rehearsed, sent = (dict(parse_qsl(text)) for text in texts[2:])
    assert dict(faulty.posts[0]) == sent
    moving = ("timestamp", "signature")
    assert {k: v for k, v in rehearsed.items() if k not in moving} == {
        k: v for k, v in sent.items() if k not in moving
    }
    # The real secret signs what is sent, and nothing else.
    for text, secret in zip(texts, ["rehearsal"] * 3 + [SECRET], strict=True):
        text, _, signature = text.rpartition("&signature=")
        assert signature == hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()
    with pytest.raises(ConfigError, match="client order id"):
        await client.rehearse(replace(ORDER, client_order_id=None))


async def test_a_rehearsed_order_that_would_be_refused_is_not_asked_about(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    for quantity in ("0.0000001", "0.001", "1000000"):
        await client.rehearse(replace(ORDER, quantity=Decimal(quantity)))
    assert (faulty.posts, faulty.gets) == ([], [])


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


async def test_no_error_shows_the_url_of_an_order(
    client: BinanceExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parameters and its signature stand there; aiohttp puts the URL into the text of a timeout."""
    rest_client = client._rest._client
    assert rest_client is not None
    urls: list[str] = []

    def fail(url: yarl.URL, **_: Any) -> NoReturn:
        urls.append(str(url))
        raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {url}")

    monkeypatch.setattr(rest_client.session, "post", fail)
    monkeypatch.setattr(client._rest, "policy", RetryPolicy(attempts=1))
    with pytest.raises(ExchangeUnavailableError, match="cannot connect to") as caught:
        await client.place(ORDER)
    assert len(urls) == 1 and "signature=" in urls[0]
    assert "signature" not in str(caught.value) and "?" not in str(caught.value)
