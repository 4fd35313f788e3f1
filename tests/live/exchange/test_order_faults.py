"""What the connector does when placing an order goes wrong: no order twice, none lost, each end named."""

from __future__ import annotations

import asyncio
import socket
import time
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from envs.account import Leg, Order, Side
from envs.errors import (
    AuthenticationError,
    ClockSkewError,
    ConfigError,
    ExchangeError,
    ExchangeUnavailableError,
    OrderRejectedError,
    OutcomeUnknownError,
    RateLimitedError,
)
from live.exchange.base import RetryPolicy, client_order_id
from live.exchange.binance import BinanceExchange
from live.settings import Credentials, paper_venue

if TYPE_CHECKING:
    from tests.live.exchange.conftest import FaultyExchange

ID = client_order_id("A", "BTCUSDT", 1_736_630_399_999, Leg.ORDER)
UNKNOWN = "Unknown error, please check your request or try again later."


def order(client_id: str | None = ID) -> Order:
    return Order("BTCUSDT", Side.BUY, Decimal("0.002"), client_order_id=client_id)


def sent_ids(faulty: FaultyExchange) -> list[str]:
    return [params["newClientOrderId"] for params in faulty.posts]


async def test_an_order_is_sent_in_plain_form_and_its_fills_come_back(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    tiny = Order("DOGEUSDT", Side.SELL, Decimal("1E+3"), reduce_only=True, client_order_id=ID)
    report = await client.place(tiny)
    sent = faulty.posts[0]
    assert {name: sent[name] for name in sent if name not in ("timestamp", "signature")} == {
        "symbol": "DOGEUSDT",
        "side": "SELL",
        "type": "MARKET",
        "quantity": "1000",
        "reduceOnly": "true",
        "newClientOrderId": ID,
        "newOrderRespType": "RESULT",
        "recvWindow": "400",
    }
    assert (report.status, report.executed_quantity, report.average_price) == ("FILLED", 1000, 100)
    (fill,) = report.fills
    assert (fill.client_order_id, fill.agent, fill.leg, fill.exchange) == (ID, "A", Leg.ORDER, "paper")
    assert (fill.commission, fill.commission_asset, fill.quote_quantity) == (Decimal("0.05"), "USDT", 100_000)


@pytest.mark.parametrize(
    "fault",
    [
        ("accept", "timeout"),
        ("accept", "cut"),
        ("accept", "html"),
        ("accept", "garbage"),
        ("accept", "503", "", UNKNOWN),
        ("accept", "503", "-1007", "Timeout waiting for response from backend server."),
        ("accept", "500", "-1006", "An unexpected response was received from the message bus."),
        ("accept", "408", "-1007", "Timeout waiting for response from backend server."),
        ("accept", "400", "-1000", "An unknown error occurred while processing the request."),
        ("accept", "ok_error", "-1007", "Timeout waiting for response from backend server."),
        ("accept", "504", "", "Gateway timeout"),
    ],
    ids=lambda fault: "-".join(fault)[:40],
)
async def test_an_accepted_order_whose_reply_is_lost_is_found_and_not_sent_again(
    faulty: FaultyExchange, client: BinanceExchange, fault: tuple[str, ...]
) -> None:
    faulty.faults.append(fault)
    report = await client.place(order())
    assert report.status == "FILLED"
    assert len(report.fills) == 1
    assert sent_ids(faulty) == [ID]
    assert len(faulty.trades) == 1


@pytest.mark.parametrize("kind", ["timeout", "cut", "html"])
async def test_a_lost_order_is_sent_again_only_after_the_receive_window(
    faulty: FaultyExchange, client: BinanceExchange, kind: str
) -> None:
    faulty.faults.append(("lose", kind))
    began = time.monotonic()
    report = await client.place(order())
    # 400 ms receive window + 100 ms for the back end.
    assert time.monotonic() - began >= 0.5
    assert report.status == "FILLED"
    assert sent_ids(faulty) == [ID, ID]
    assert len(faulty.trades) == 1


async def test_an_order_accepted_late_within_its_window_is_not_doubled(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    faulty.faults.append(("late", "cut", "0.25"))
    report = await client.place(order())
    assert report.status == "FILLED"
    assert sent_ids(faulty) == [ID]
    assert len(faulty.trades) == 1


async def test_an_order_that_the_look_up_denies_is_found_by_its_trades(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    faulty.faults.append(("accept", "cut"))
    faulty.deny_orders = True
    report = await client.place(order())
    assert report.status == "FILLED"
    assert sent_ids(faulty) == [ID]
    assert len(faulty.trades) == 1


async def test_an_order_that_stays_unclear_is_said_to_be_unknown(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    faulty.faults.append(("accept", "timeout"))
    faulty.get_faults.extend(["cut"] * 500)
    with pytest.raises(OutcomeUnknownError, match=f"{ID}.*Ask for it by its client order id") as caught:
        await client.place(order())
    assert caught.value.client_order_id == ID
    assert sent_ids(faulty) == [ID]


async def test_a_filled_order_whose_trades_cannot_be_read_is_not_called_failed(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    original = faulty.accept

    def accept_without_trade(params: dict[str, str]) -> object:
        reply = original(params)
        faulty.trades.clear()
        return reply

    faulty.accept = accept_without_trade  # type: ignore[assignment,method-assign]
    with pytest.raises(OutcomeUnknownError, match="was placed, but how it was filled could not be read"):
        await client.place(order())
    assert sent_ids(faulty) == [ID]


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        ("503", "", "Service Unavailable."),
        ("503", "-1001", "Internal error; unable to process your request. Please try again."),
        ("503", "", "Internal error; unable to process your request. Please try again."),
        ("503", "-1008", "Request throttled by system-level protection."),
        ("429", "-1008", "Request throttled by system-level protection."),
        ("403", "", "A firewall's page."),
    ],
)
async def test_a_known_failure_is_tried_three_times_under_one_id(
    faulty: FaultyExchange, client: BinanceExchange, status: str, code: str, text: str
) -> None:
    if status == "429":
        faulty.faults.extend([("lose", "limited", "0")] * 2)
    else:
        faulty.faults.extend([("lose", status, code, text)] * 2)
    report = await client.place(order())
    assert report.status == "FILLED"
    assert sent_ids(faulty) == [ID] * 3
    # It was asked before each of the two repetitions what had become of it.
    assert faulty.gets.count("/fapi/v1/order") == 2
    assert len(faulty.trades) == 1


async def test_when_every_attempt_fails_the_order_is_known_not_to_exist(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    faulty.faults.extend([("lose", "503", "", "Service Unavailable.")] * 5)
    with pytest.raises(ExchangeUnavailableError, match="3 attempts and does not exist") as caught:
        await client.place(order())
    assert caught.value.client_order_id == ID
    assert caught.value.http_status == 503
    assert len(faulty.posts) == 3


async def test_a_failure_that_was_an_acceptance_after_all_is_noticed_before_sending_again(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    faulty.faults.append(("accept", "503", "", "Service Unavailable."))
    assert (await client.place(order())).status == "FILLED"
    assert len(faulty.posts) == 1


@pytest.mark.parametrize(
    ("status", "code", "text", "remedy"),
    [
        ("400", "-2019", "Margin is insufficient.", "Trade smaller"),
        ("400", "-1111", "Precision is over the maximum defined for this asset.", "Round by"),
        ("400", "-4164", "Order's notional must be no smaller than 50", "minimum notional"),
        ("400", "-2022", "ReduceOnly Order is rejected.", "flat or smaller"),
        ("400", "-9999", "Something new.", "list of error codes"),
    ],
)
async def test_a_refusal_carries_code_text_and_remedy_and_is_not_repeated(
    faulty: FaultyExchange, client: BinanceExchange, status: str, code: str, text: str, remedy: str
) -> None:
    faulty.faults.append(("lose", status, code, text))
    with pytest.raises(OrderRejectedError, match=remedy) as caught:
        await client.place(order())
    assert caught.value.code == int(code)
    assert caught.value.client_order_id == ID
    assert text.rstrip(".") in str(caught.value)
    assert len(faulty.posts) == 1


async def test_an_error_in_the_body_of_a_success_is_an_error(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    faulty.faults.append(("lose", "ok_error", "-1121", "Invalid symbol."))
    with pytest.raises(OrderRejectedError, match="Invalid symbol") as caught:
        await client.place(order())
    assert (caught.value.code, caught.value.http_status) == (-1121, 200)


async def test_a_duplicate_id_means_that_the_first_one_is_there(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    faulty.faults.append(("accept", "400", "-4116", "ClientOrderId is duplicated."))
    assert (await client.place(order())).status == "FILLED"
    assert len(faulty.posts) == 1


async def test_a_wrong_clock_is_measured_again_and_the_order_sent_once_more(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    asked = faulty.times_asked
    faulty.clock_ahead_ms = 5_000
    faulty.faults.append(("lose", "400", "-1021", "Timestamp for this request is outside of the recvWindow."))
    assert (await client.place(order())).status == "FILLED"
    assert faulty.times_asked == asked + 3
    first, second = (int(params["timestamp"]) for params in faulty.posts)
    assert 4_900 <= second - first < 15_000  # five seconds, and what the machine was busy for


async def test_a_clock_that_stays_wrong_is_an_error(faulty: FaultyExchange, client: BinanceExchange) -> None:
    faulty.faults.extend([("lose", "400", "-1021", "Timestamp for this request is outside.")] * 3)
    with pytest.raises(ClockSkewError, match="NTP"):
        await client.place(order())
    assert len(faulty.posts) == 2


async def test_a_short_rate_limit_is_waited_for_and_a_long_one_raised(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    faulty.faults.append(("lose", "limited", "1"))
    began = time.monotonic()
    await client.place(order())
    assert time.monotonic() - began >= 1.0
    faulty.faults.append(("lose", "limited", "30"))
    with pytest.raises(RateLimitedError, match="Wait 30 s") as caught:
        await client.place(order(ID + "1"))
    assert caught.value.retry_after_s == 30
    assert len(faulty.posts) == 3


async def test_after_a_ban_nothing_is_sent_any_more(faulty: FaultyExchange, client: BinanceExchange) -> None:
    faulty.faults.append(("lose", "banned", "120"))
    with pytest.raises(RateLimitedError) as caught:
        await client.place(order())
    assert caught.value.http_status == 418
    with pytest.raises(RateLimitedError, match="nothing was sent"):
        await client.place(order(ID + "1"))
    assert len(faulty.posts) == 1


async def test_a_refused_key_is_named_as_such(faulty: FaultyExchange, client: BinanceExchange) -> None:
    faulty.faults.append(("lose", "401", "-2015", "Invalid API-key, IP, or permissions for action."))
    with pytest.raises(AuthenticationError, match="Check the API key"):
        await client.place(order())
    assert len(faulty.posts) == 1


async def test_an_order_needs_an_id_of_its_own(client: BinanceExchange) -> None:
    for bad in (None, "", "x" * 37):
        with pytest.raises(ConfigError, match="client order id"):
            await client.place(order(bad))


async def test_nothing_was_sent_when_nobody_listens(unused_port: int) -> None:
    url = f"http://127.0.0.1:{unused_port}"
    exchange = BinanceExchange(
        paper_venue(url, url.replace("http", "ws")),
        Credentials("k" * 10, "s" * 10),
        (),
        retry=RetryPolicy(attempts=2, delay_s=0.01),
    )
    with pytest.raises(ExchangeUnavailableError, match="nothing was sent"):
        await exchange.connect()
    with pytest.raises(ExchangeError, match="not connected"):
        await exchange.place(order())


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_two_symbols_are_placed_at_once(faulty: FaultyExchange, client: BinanceExchange) -> None:
    reports = await asyncio.gather(
        client.place(order()),
        client.place(Order("ETHUSDT", Side.SELL, Decimal("1"), client_order_id="A_ETHUSDT_1736630399999o")),
    )
    assert [(one.symbol, one.fills[0].side) for one in reports] == [
        ("BTCUSDT", Side.BUY),
        ("ETHUSDT", Side.SELL),
    ]
