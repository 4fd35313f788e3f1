"""Every error code of Binance's that matters, over the wire: what the connector does when an order meets it.

The table says per code what becomes of a request to place an order: its exception (none when the order comes to
exist), how often it was sent, and a piece of the remedy. Each row is played against a local exchange for a market
order and for a stop, whether the exchange accepted it or not where the code leaves that open.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from envs.account import Leg, Order, Side
from envs.errors import (
    AuthenticationError,
    ClockSkewError,
    ConfigError,
    ExchangeError,
    ExchangeUnavailableError,
    OrderRejectedError,
    RateLimitedError,
)
from live.exchange.base import RetryPolicy, TriggerKind, TriggerOrder, client_order_id
from live.exchange.binance import BinanceExchange
from live.exchange.error_codes import RULES, Outcome
from live.paper.errors import MESSAGES
from live.settings import Credentials

if TYPE_CHECKING:
    from tests.live.exchange.conftest import FaultyExchange

FACTS = Path(__file__).resolve().parents[3] / ".." / "shared" / "binance-futures.md"
KEY, SECRET = "an-api-key-of-64-characters", "a-secret-that-nobody-may-ever-see"
ORDER_ID = client_order_id("A", "BTCUSDT", 1_736_630_399_999, Leg.ORDER)
STOP_ID = client_order_id("A", "BTCUSDT", 1_736_630_399_999, Leg.PROTECTIVE_STOP)
ATTEMPTS = 3


@dataclass(frozen=True)
class Row:
    """One code.

    outcome: what the code says of the request; remedy: part of the message that tells what to do.
    """

    code: int
    text: str
    outcome: Outcome
    remedy: str
    status: int = 400


R, F, U = Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN
K, L, C, N, A = Outcome.FORBIDDEN, Outcome.LIMITED, Outcome.CLOCK, Outcome.NOT_FOUND, Outcome.ALREADY

TABLE = [
    Row(-1000, "An unknown error occurred while processing the request.", U, "Ask for the order by its"),
    Row(-1001, "Internal error; unable to process your request. Please try again.", F, "try again", 503),
    Row(-1002, "You are not authorized to execute this request.", K, "Check the API key", 401),
    Row(-1003, "Too many requests.", L, "Send fewer requests", 429),
    Row(-1006, "An unexpected response was received from the message bus.", U, "Ask for the order", 500),
    Row(-1007, "Timeout waiting for response from backend server.", U, "Ask for the order by its", 408),
    Row(-1008, "Request throttled by system-level protection.", F, "overloaded", 503),
    Row(-1013, "Invalid message.", R, "reload the exchange's rules"),
    Row(
        -1015,
        "Too many new orders; current limit is 300 orders per TEN_SECONDS.",
        L,
        "Send fewer orders",
        429,
    ),
    Row(-1016, "This service is no longer available.", F, "under maintenance", 503),
    Row(-1021, "Timestamp for this request is outside of the recvWindow.", C, "clock (NTP)"),
    Row(-1022, "Signature for this request is not valid.", K, "check the API secret"),
    Row(-1099, "Not found, authenticated, or authorized.", K, "Check the API key", 401),
    Row(-1100, "Illegal characters found in parameter 'symbol'.", R, "reload the exchange's rules"),
    Row(-1102, "Mandatory parameter 'side' was not sent.", R, "reload the exchange's rules"),
    Row(-1106, "Parameter 'price' sent when not required.", R, "reload the exchange's rules"),
    Row(-1111, "Precision is over the maximum defined for this asset.", R, "tick and step size"),
    Row(-1115, "Invalid timeInForce.", R, "reload the exchange's rules"),
    Row(-1116, "Invalid orderType.", R, "reload the exchange's rules"),
    Row(-1117, "Invalid side.", R, "reload the exchange's rules"),
    Row(-1120, "Invalid interval.", R, "candle intervals"),
    Row(-1121, "Invalid symbol.", R, "Check the symbol"),
    Row(-1125, "This listenKey does not exist.", R, "new listen key"),
    Row(-1128, "Combination of optional parameters invalid.", R, "reload the exchange's rules"),
    Row(-1131, "recvWindow must be less than 60000.", R, "receive_window_ms"),
    Row(-1136, "Invalid newOrderRespType.", R, "reload the exchange's rules"),
    Row(-2007, "Invalid callBack rate.", R, "trigger price"),
    Row(-4032, "Exceed maximum cancel order size.", R, "reload the exchange's rules"),
    Row(-4049, "Add margin only support for isolated position.", R, "then decide anew"),
    Row(-4054, "Cannot add position margin: position is 0.", R, "then decide anew"),
    Row(-4055, "Amount must be positive.", R, "then decide anew"),
    Row(
        -4130,
        "An open stop or take profit order with closePosition is existing.",
        R,
        "Cancel the closePosition",
    ),
    Row(-4171, "Adjusted asset mode is currently set.", A, "set already"),
    *(Row(code, "A parameter of the order is invalid.", R, "reload") for code in range(-5040, -5036)),
    Row(-1130, "Data sent for parameter 'limit' is not valid.", R, "reload the exchange's rules"),
    Row(-2010, "NEW_ORDER_REJECTED", R, "then decide anew"),
    Row(-2011, "Unknown order sent.", N, "ask how it ended"),
    Row(-2012, "CANCEL_ALL_FAIL", F, "one by one"),
    Row(-2013, "Order does not exist.", N, "may not be visible yet"),
    Row(-2014, "API-key format invalid.", K, "malformed", 401),
    Row(-2015, "Invalid API-key, IP, or permissions for action.", K, "Check the API key", 401),
    Row(-2017, "API Keys are locked on this account.", K, "unlock them"),
    Row(-2018, "Balance is insufficient.", R, "Transfer USDT"),
    Row(-2019, "Margin is insufficient.", R, "Trade smaller"),
    Row(-2020, "Unable to fill.", R, "too thin"),
    Row(-2021, "Order would immediately trigger.", R, "close at market"),
    Row(-2022, "ReduceOnly Order is rejected.", R, "flat or smaller"),
    Row(-2023, "User in liquidation mode now.", K, "being liquidated"),
    Row(-2024, "Position is not sufficient.", R, "then decide anew"),
    Row(-2025, "Reach max open order limit.", R, "left over"),
    Row(-2026, "This OrderType is not supported when reduceOnly.", R, "reload the exchange's rules"),
    Row(-2027, "Exceeded the maximum allowable position at current leverage.", R, "lower leverage"),
    Row(-2028, "Leverage is smaller than permitted: insufficient margin balance.", R, "margin balance"),
    Row(-4001, "Price less than 0.", R, "tick and step size"),
    Row(-4002, "Price greater than max price.", R, "tick and step size"),
    Row(-4003, "Quantity less than zero.", R, "tick and step size"),
    Row(-4004, "Quantity less than min quantity.", R, "minimum quantity"),
    Row(-4005, "Quantity greater than max quantity.", R, "Split the order"),
    Row(-4013, "Price less than min price.", R, "tick and step size"),
    Row(-4014, "Price not increased by tick size.", R, "tick and step size"),
    Row(-4015, "Client order id is not valid.", R, "36 characters"),
    Row(-4016, "Limit price can't be higher than 105000.", R, "nearer to the mark price"),
    Row(-4021, "7 is not a valid depth limit.", R, "reload the exchange's rules"),
    Row(-4023, "Quantity not increased by step size.", R, "tick and step size"),
    Row(-4024, "Limit price can't be lower than 95000.", R, "nearer to the mark price"),
    Row(-4028, "Leverage 200 is not valid", R, "leverage"),
    Row(-4045, "Reach max stop order limit.", R, "left over"),
    Row(-4046, "No need to change margin type.", A, "set already"),
    Row(-4047, "Margin type cannot be changed if there exists open orders.", R, "Cancel"),
    Row(-4048, "Margin type cannot be changed if there exists position.", R, "Close"),
    Row(-4050, "Cross balance insufficient.", R, "Transfer USDT"),
    Row(-4051, "Isolated balance insufficient.", R, "Transfer USDT"),
    Row(-4059, "No need to change position side.", A, "set already"),
    Row(-4060, "Invalid position side.", R, "one-way mode"),
    Row(-4061, "Order's position side does not match user's setting.", R, "one-way mode"),
    Row(-4067, "Position side cannot be changed if there exists open orders.", R, "Cancel all open orders"),
    Row(-4068, "Position side cannot be changed if there exists position.", R, "Close all positions"),
    Row(-4082, "Invalid number of batch place orders.", R, "reload the exchange's rules"),
    Row(-4087, "User can only place reduce only order.", K, "only reduce positions"),
    Row(-4088, "User can not place order currently.", K, "may not place orders"),
    Row(-4109, "This account is inactive.", K, "Transfer funds"),
    Row(-4116, "ClientOrderId is duplicated.", R, "ask what became of it"),
    Row(-4117, "stop order in triggering.", R, "shortly after"),
    Row(-4118, "ReduceOnly Order Failed.", R, "then decide anew"),
    Row(-4120, "Order type not supported for this endpoint.", R, "algo-order service"),
    Row(-4131, "The counterparty's best price does not meet the PERCENT_PRICE filter limit.", R, "too thin"),
    *(Row(code, "A conditional parameter is wrong.", R, "trigger price") for code in range(-4142, -4134)),
    Row(-4161, "Leverage reduction is not supported in Isolated Margin Mode.", R, "lowering the leverage"),
    Row(-4164, "Order's notional must be no smaller than 50.", R, "minimum notional"),
    Row(-4165, "Invalid time interval: maximum 7 days.", R, "reload the exchange's rules"),
    Row(-4183, "Price is higher than stop price multiplier cap.", R, "trigger price"),
    Row(-4184, "Price is lower than stop price multiplier floor.", R, "trigger price"),
    Row(-4192, "Trade forbidden due to Cooling-off Period.", K, "cooling-off period"),
    *(Row(code, "Leverage needs verification.", R, "lower leverage") for code in range(-4211, -4201)),
    *(Row(code, "Only reduceOnly is allowed.", K, "stop opening") for code in range(-4403, -4399)),
    Row(-4531, "Position mode change failed: UM and CM.", R, "by hand at the exchange"),
    Row(
        -5021,
        "Due to the order could not be filled immediately, the FOK order has been rejected.",
        R,
        "normal",
    ),
    Row(-5022, "Due to the order could not be executed as maker, it will be rejected.", R, "normal end"),
    *(Row(code, "The order cannot be amended.", R, "amend") for code in (-5024, -5025, -5026, -5029, -5047)),
    Row(-5027, "No need to modify the order.", A, "so already"),
    Row(-5028, "Timestamp for this request is outside of the ME recvWindow.", C, "too late"),
]
IDS = [str(row.code) for row in TABLE]

RAISED: dict[Outcome, type[ExchangeError]] = {
    Outcome.REFUSED: OrderRejectedError,
    Outcome.FAILED: ExchangeUnavailableError,
    # Whoever asks about an order that never came to exist learns that it does not.
    Outcome.UNKNOWN: ExchangeUnavailableError,
    Outcome.CLOCK: ClockSkewError,
    Outcome.LIMITED: RateLimitedError,
    Outcome.FORBIDDEN: AuthenticationError,
    Outcome.NOT_FOUND: ExchangeError,
    Outcome.ALREADY: ExchangeError,
}
SENT = {
    Outcome.FAILED: ATTEMPTS,
    Outcome.UNKNOWN: ATTEMPTS,
    Outcome.CLOCK: 2,
    Outcome.LIMITED: ATTEMPTS,
}


@pytest.fixture
async def client(faulty: FaultyExchange) -> AsyncIterator[BinanceExchange]:
    """As impatient as can be: an order that is not found is known not to exist after 30 ms."""
    exchange = BinanceExchange(
        faulty.venue(),
        Credentials(KEY, SECRET),
        (),
        retry=RetryPolicy(attempts=ATTEMPTS, delay_s=0.001, resolve_s=1.0),
        recv_window_ms=20,
        timeout_s=2.0,
        back_end_delay_s=0.01,
    )
    async with exchange:
        yield exchange


def arm(faulty: FaultyExchange, row: Row, *, accepted: bool, times: int) -> None:
    faulty.faults.extend(
        [("accept" if accepted else "lose", "coded", str(row.status), str(row.code), row.text)] * times
    )


async def place(client: BinanceExchange, kind: str) -> object:
    if kind == "market":
        return await client.place(Order("BTCUSDT", Side.BUY, Decimal("0.002"), client_order_id=ORDER_ID))
    stop = TriggerOrder("BTCUSDT", Side.SELL, TriggerKind.STOP, Decimal(90), STOP_ID, Decimal("0.002"))
    return await client.place_trigger(stop)


def placed(faulty: FaultyExchange, kind: str) -> int:
    """How many orders the exchange has."""
    return len(faulty.trades) if kind == "market" else len(faulty.triggers)


def sent(faulty: FaultyExchange, kind: str) -> list[str]:
    """The client ids under which it was sent."""
    if kind == "market":
        return [post["newClientOrderId"] for post in faulty.posts]
    return [post["clientAlgoId"] for post in faulty.trigger_posts]


def check_shown(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    shown = "".join(traceback.format_exception(error)) + repr(error) + caplog.text
    for secret in (KEY, SECRET, "signature="):
        assert secret not in shown


@pytest.mark.parametrize("row", TABLE, ids=IDS)
async def test_an_order_that_is_answered_with_this_code_each_time(
    faulty: FaultyExchange, client: BinanceExchange, row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for kind in ("market", "stop"):
        await answered_each_time(faulty, client, row, kind, caplog)


async def answered_each_time(
    faulty: FaultyExchange,
    client: BinanceExchange,
    row: Row,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    faulty.faults.clear()
    arm(faulty, row, accepted=False, times=10)
    with pytest.raises(ExchangeError) as caught:
        await place(client, kind)
    error = caught.value
    # "Not found" and "is so already" are no answers to an order; what they say is that it was not accepted.
    senseless = row.outcome in (Outcome.NOT_FOUND, Outcome.ALREADY)
    assert type(error) is (OrderRejectedError if senseless else RAISED[row.outcome])
    assert (error.code, error.http_status) == (row.code, row.status)
    # The remedy, the exchange's own words, and which order it was about.
    assert row.remedy in str(error)
    assert row.text.rstrip(".") in str(error)
    name = ORDER_ID if kind == "market" else STOP_ID
    assert name in str(error) and error.client_order_id == name
    assert sent(faulty, kind) == [name] * SENT.get(row.outcome, 1)
    assert placed(faulty, kind) == 0
    check_shown(error, caplog)


@pytest.mark.parametrize("kind", ["market", "stop"])
@pytest.mark.parametrize("row", [row for row in TABLE if row.outcome in SENT], ids=lambda row: str(row.code))
async def test_an_order_that_is_answered_with_this_code_once(
    faulty: FaultyExchange, client: BinanceExchange, row: Row, kind: str
) -> None:
    arm(faulty, row, accepted=False, times=1)
    await place(client, kind)
    assert placed(faulty, kind) == 1
    assert len(sent(faulty, kind)) == 2


@pytest.mark.parametrize("kind", ["market", "stop"])
@pytest.mark.parametrize(
    "row",
    [row for row in TABLE if row.outcome in (Outcome.UNKNOWN, Outcome.FAILED) or row.code == -4116],
    ids=lambda row: str(row.code),
)
async def test_an_order_that_was_accepted_though_answered_with_this_code(
    faulty: FaultyExchange, client: BinanceExchange, row: Row, kind: str
) -> None:
    """Also where the code says that nothing happened: it is asked about before anything is sent again."""
    arm(faulty, row, accepted=True, times=1)
    await place(client, kind)
    assert placed(faulty, kind) == 1
    assert len(sent(faulty, kind)) == 1


@pytest.mark.parametrize("row", TABLE, ids=IDS)
async def test_a_question_that_is_answered_with_this_code(
    faulty: FaultyExchange, client: BinanceExchange, row: Row
) -> None:
    """Reads are repeated where the failure may pass; an order that is not there is an answer, not an error."""
    body = {"code": row.code, "msg": row.text}
    headers = {"Retry-After": "0"} if row.outcome is Outcome.LIMITED else {}
    faulty.get_faults.extend(web.json_response(body, status=row.status, headers=headers) for _ in range(10))
    if row.code == -2013:
        assert await client.order("BTCUSDT", ORDER_ID) is None
    else:
        with pytest.raises(RAISED[row.outcome], match=re.escape(row.remedy)) as caught:
            await client.order("BTCUSDT", ORDER_ID)
        assert caught.value.code == row.code
    assert len(faulty.gets) == SENT.get(row.outcome, 1)
    assert faulty.posts == []


@pytest.mark.parametrize(
    "row", [row for row in TABLE if row.outcome is Outcome.NOT_FOUND], ids=lambda r: str(r.code)
)
async def test_cancelling_what_is_gone_tells_how_it_ended(
    faulty: FaultyExchange, client: BinanceExchange, row: Row
) -> None:
    await place(client, "market")
    faulty.get_faults.append(web.json_response({"code": row.code, "msg": row.text}, status=400))
    report = await client.cancel("BTCUSDT", ORDER_ID)
    assert report is not None and report.status == "FILLED"


@pytest.mark.parametrize("code", [-4046, -4059, -5027])
async def test_a_setting_that_is_so_already_is_no_failure(
    faulty: FaultyExchange, client: BinanceExchange, code: int
) -> None:
    faulty.get_faults.append(web.json_response({"code": code, "msg": "No need to change."}, status=400))
    await client._account.prepare("BTCUSDT", None)


@pytest.mark.parametrize("code", [-4047, -4048, -4067, -4068, -4531])
async def test_a_mode_that_cannot_be_set_says_what_to_do(
    faulty: FaultyExchange, client: BinanceExchange, code: int
) -> None:
    faulty.get_faults.append(web.json_response({"code": code, "msg": "cannot be changed"}, status=400))
    with pytest.raises(ConfigError, match=re.escape(RULES[code].remedy)):
        await client._account.prepare("BTCUSDT", None)


@pytest.mark.parametrize("code", [-4028, -4161, -2028, -4202, -4211])
async def test_a_leverage_that_cannot_be_set_says_what_to_do(
    faulty: FaultyExchange, client: BinanceExchange, code: int
) -> None:
    ok = web.json_response({"code": 200, "msg": "success"})
    faulty.get_faults.extend([ok, web.json_response({"code": code, "msg": "cannot be set"}, status=400)])
    with pytest.raises(
        ConfigError, match=r"the leverage of BTCUSDT cannot be set to 7.*" + re.escape(RULES[code].remedy)
    ):
        await client._account.prepare("BTCUSDT", 7)


def test_the_table_has_every_code_that_has_a_rule() -> None:
    assert sorted(IDS) == sorted(map(str, RULES))
    assert [row.code for row in TABLE if RULES[row.code].outcome is not row.outcome] == []


def test_every_code_that_the_paper_exchange_gives_has_a_rule() -> None:
    assert sorted(set(MESSAGES) - set(RULES)) == []


def test_the_table_has_every_code_of_the_fact_sheet() -> None:
    if not FACTS.is_file():
        pytest.skip("the shared fact sheet is not here")
    section = FACTS.read_text(encoding="utf-8").split("### 4.3 Codes")[1].split("\n## ")[0]
    named: set[int] = set()
    for line in section.splitlines():
        cell = line.split("|")[1] if line.startswith("| -") else ""
        for first, last in re.findall(r"(-\d{4}) \.\. (-\d{4})", cell):
            named.update(range(int(last), int(first) + 1))
        named.update(map(int, re.findall(r"-\d{4}", cell)))
    assert len(named) > 100
    assert sorted(named - {row.code for row in TABLE}) == []
