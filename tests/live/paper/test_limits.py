"""Rate limits: weights, 429 with Retry-After, 418 with growing bans, headers, and the clock they run by."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from live.paper.calls import Params, Route
from live.paper.dispatch import ROUTES
from live.paper.limits import LimitError, Limits, LimitSettings, MarketClock
from live.paper.runtime import PaperServer
from tests.lib.paper_client import PaperClient, paper_client

PING = ROUTES["GET", "/fapi/v1/ping"]
ORDER = ROUTES["POST", "/fapi/v1/order"]
NONE = Params({})

# The table of Binance's documentation. (verb, path, parameters) -> weight
WEIGHTS = {
    ("GET", "/fapi/v1/ping", ""): 1,
    ("GET", "/fapi/v1/time", ""): 1,
    ("GET", "/fapi/v1/exchangeInfo", ""): 1,
    ("GET", "/fapi/v1/klines", "limit=99"): 1,
    ("GET", "/fapi/v1/klines", "limit=100"): 2,
    ("GET", "/fapi/v1/klines", "limit=499"): 2,
    ("GET", "/fapi/v1/klines", ""): 5,
    ("GET", "/fapi/v1/klines", "limit=1000"): 5,
    ("GET", "/fapi/v1/klines", "limit=1001"): 10,
    ("GET", "/fapi/v1/markPriceKlines", "limit=1500"): 10,
    ("GET", "/fapi/v1/continuousKlines", "limit=50"): 1,
    ("GET", "/fapi/v1/premiumIndex", "symbol=BTCUSDT"): 1,
    ("GET", "/fapi/v1/premiumIndex", ""): 10,
    ("GET", "/fapi/v2/ticker/price", "symbol=BTCUSDT"): 1,
    ("GET", "/fapi/v2/ticker/price", ""): 2,
    ("GET", "/fapi/v1/ticker/bookTicker", "symbol=BTCUSDT"): 2,
    ("GET", "/fapi/v1/ticker/bookTicker", ""): 5,
    ("GET", "/fapi/v1/ticker/24hr", "symbol=BTCUSDT"): 1,
    ("GET", "/fapi/v1/ticker/24hr", ""): 40,
    ("GET", "/fapi/v1/depth", "limit=50"): 2,
    ("GET", "/fapi/v1/depth", "limit=100"): 5,
    ("GET", "/fapi/v1/depth", "limit=500"): 10,
    ("GET", "/fapi/v1/depth", "limit=1000"): 20,
    ("GET", "/fapi/v1/trades", ""): 5,
    ("GET", "/fapi/v1/historicalTrades", ""): 200,
    ("GET", "/fapi/v1/aggTrades", ""): 20,
    ("GET", "/fapi/v1/indexPriceKlines", "limit=100"): 2,
    ("GET", "/fapi/v1/premiumIndexKlines", "limit=99"): 1,
    ("GET", "/fapi/v1/leverageBracket", ""): 1,
    ("GET", "/fapi/v1/commissionRate", ""): 20,
    ("GET", "/fapi/v3/balance", ""): 5,
    ("GET", "/fapi/v3/account", ""): 5,
    ("GET", "/fapi/v2/account", ""): 5,
    ("GET", "/fapi/v3/positionRisk", ""): 5,
    ("GET", "/fapi/v1/accountConfig", ""): 5,
    ("GET", "/fapi/v1/symbolConfig", ""): 5,
    ("GET", "/fapi/v1/positionSide/dual", ""): 30,
    ("POST", "/fapi/v1/positionSide/dual", ""): 1,
    ("GET", "/fapi/v1/multiAssetsMargin", ""): 30,
    ("POST", "/fapi/v1/multiAssetsMargin", ""): 1,
    ("GET", "/fapi/v1/feeBurn", ""): 30,
    ("POST", "/fapi/v1/marginType", ""): 1,
    ("POST", "/fapi/v1/leverage", ""): 1,
    ("POST", "/fapi/v1/positionMargin", ""): 1,
    ("POST", "/fapi/v1/order", ""): 0,
    ("PUT", "/fapi/v1/order", ""): 0,
    ("POST", "/fapi/v1/algoOrder", ""): 0,
    ("POST", "/fapi/v1/batchOrders", ""): 5,
    ("DELETE", "/fapi/v1/order", ""): 1,
    ("DELETE", "/fapi/v1/allOpenOrders", ""): 1,
    ("DELETE", "/fapi/v1/batchOrders", ""): 1,
    ("DELETE", "/fapi/v1/algoOrder", ""): 1,
    ("DELETE", "/fapi/v1/algoOpenOrders", ""): 1,
    ("GET", "/fapi/v1/order", ""): 1,
    ("GET", "/fapi/v1/openOrder", ""): 1,
    ("GET", "/fapi/v1/algoOrder", ""): 1,
    ("GET", "/fapi/v1/openOrders", "symbol=BTCUSDT"): 1,
    ("GET", "/fapi/v1/openOrders", ""): 40,
    ("GET", "/fapi/v1/openAlgoOrders", "symbol=BTCUSDT"): 1,
    ("GET", "/fapi/v1/openAlgoOrders", ""): 40,
    ("GET", "/fapi/v1/allOrders", ""): 5,
    ("GET", "/fapi/v1/allAlgoOrders", ""): 5,
    ("GET", "/fapi/v1/userTrades", ""): 5,
    ("GET", "/fapi/v1/income", ""): 30,
    ("POST", "/fapi/v1/countdownCancelAll", ""): 10,
    ("POST", "/fapi/v1/listenKey", ""): 1,
    ("GET", "/fapi/v1/forceOrders", "symbol=BTCUSDT"): 20,
    ("GET", "/fapi/v1/forceOrders", ""): 50,
    ("GET", "/fapi/v1/adlQuantile", ""): 5,
    ("GET", "/fapi/v1/rateLimit/order", ""): 1,
    ("GET", "/fapi/v1/fundingRate", ""): 0,
    ("GET", "/fapi/v1/fundingInfo", ""): 0,
}
ORDERS = {"/fapi/v1/order": 1, "/fapi/v1/algoOrder": 1, "/fapi/v1/batchOrders": 5}


def test_weights_are_the_documented_ones() -> None:
    found = {
        (verb, path, given): ROUTES[verb, path].weight_of(Params.parse(given.encode(), b""))
        for verb, path, given in WEIGHTS
    }
    assert found == WEIGHTS


def test_orders_are_counted_by_account() -> None:
    for (verb, path), route in ROUTES.items():
        placing = verb in ("POST", "PUT") and path in ORDERS
        assert route.orders == (ORDERS[path] if placing else 0), (verb, path)


class Clock:
    """Seconds that the test moves."""

    def __init__(self) -> None:
        self.now_s = 600.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> Callable[..., Limits]:
    def make(**settings: object) -> Limits:
        return Limits(
            LimitSettings.parse(settings),
            now_s=clock,
            now_ms=lambda: 1_700_000_000_000 + int(clock.now_s * 1000),
        )

    return make


def refused(limits: Limits, route: Route = PING, ip: str = "1.2.3.4") -> LimitError:
    with pytest.raises(LimitError) as error:
        limits.admit(ip, route, NONE)
    return error.value


def test_the_minute_is_full_and_begins_again(limits: Callable[..., Limits], clock: Clock) -> None:
    one = limits(weight_per_minute=3)
    clock.now_s = 615.0
    for used in (b"1", b"2", b"3"):
        assert one.admit("1.2.3.4", PING, NONE) == [(b"x-mbx-used-weight-1m", used)]
    problem = refused(one)
    assert (problem.http_status, problem.code, problem.retry_after_s) == (429, -1003, 45)
    assert "current limit of IP(1.2.3.4) is 3 requests per minute" in problem.msg
    assert one.admit("5.6.7.8", PING, NONE) == [(b"x-mbx-used-weight-1m", b"1")]  # another address
    clock.now_s = 660.0
    assert one.admit("1.2.3.4", PING, NONE) == [(b"x-mbx-used-weight-1m", b"1")]


def test_who_goes_on_is_banned_and_longer_each_time(limits: Callable[..., Limits], clock: Clock) -> None:
    one = limits(weight_per_minute=1, patience=2, first_ban_s=120, longest_ban_s=400)
    for length_s in (120, 240, 400, 400):
        one.admit("1.2.3.4", PING, NONE)
        assert [refused(one).http_status for _ in range(3)] == [429, 429, 418]
        until_ms = 1_700_000_000_000 + int((clock.now_s + length_s) * 1000)
        clock.now_s += length_s - 1
        problem = refused(one)
        assert (problem.http_status, problem.code, problem.retry_after_s) == (418, -1003, 1)
        assert problem.msg.startswith(f"Way too many requests; IP(1.2.3.4) banned until {until_ms}.")
        clock.now_s = (clock.now_s // 60 + 2) * 60  # over, and a new minute


def test_patience_comes_back(limits: Callable[..., Limits], clock: Clock) -> None:
    one = limits(weight_per_minute=1, patience=2)
    for _ in range(5):
        one.admit("1.2.3.4", PING, NONE)
        assert [refused(one).http_status for _ in range(2)] == [429, 429]
        clock.now_s += 600


def test_orders_are_limited_per_account(limits: Callable[..., Limits], clock: Clock) -> None:
    one = limits(orders_per_10s=2, orders_per_minute=3)
    batch = ROUTES["POST", "/fapi/v1/batchOrders"]

    def place(key: str, route: Route = ORDER) -> list[bytes]:
        return [value for _, value in one.admit_orders("1.2.3.4", route, key)]

    assert [place("alice"), place("alice")] == [[b"1", b"1"], [b"2", b"2"]]
    with pytest.raises(LimitError, match="2 orders per TEN_SECONDS") as error:
        place("alice")
    assert (error.value.code, error.value.http_status, error.value.retry_after_s) == (-1015, 429, 10)
    assert place("bob") == [b"1", b"1"]
    with pytest.raises(LimitError):
        place("carol", batch)  # five at once
    clock.now_s += 10
    with pytest.raises(LimitError, match="3 orders per MINUTE") as error:
        place("alice")
    assert error.value.retry_after_s == 50
    assert one.admit_orders("1.2.3.4", PING, "alice") == []


def test_funding_has_a_pool_of_its_own(limits: Callable[..., Limits], clock: Clock) -> None:
    one = limits(weight_per_minute=1, funding_per_5min=2)
    funding = ROUTES["GET", "/fapi/v1/fundingRate"]
    assert [one.admit("1.2.3.4", funding, NONE) for _ in range(2)] == [[], []]
    assert one.admit("1.2.3.4", PING, NONE) == [(b"x-mbx-used-weight-1m", b"1")]
    assert refused(one, funding).retry_after_s == 300
    clock.now_s = 900
    assert one.admit("1.2.3.4", funding, NONE) == []


def test_limits_can_be_counted_only(limits: Callable[..., Limits]) -> None:
    one = limits(weight_per_minute=1, enforced=False)
    assert [one.admit("1.2.3.4", PING, NONE)[0][1] for _ in range(3)] == [b"1", b"2", b"3"]


def test_the_markets_clock_steps_with_the_market_and_runs_while_it_stands() -> None:
    feed_ms, wall_s = [0], [50.0]
    clock = MarketClock(lambda: feed_ms[0], lambda: wall_s[0])
    assert clock() == 0.0
    wall_s[0] = 53.0
    assert clock() == 3.0
    feed_ms[0] = 3_600_000
    assert clock() == 3603.0
    wall_s[0] = 54.0
    feed_ms[0] = 7_200_000
    assert clock() == 7203.0  # a step counts, or the time that it took, not both
    assert clock() == 7203.0


def test_waiting_helps_in_a_market_that_stood_for_long(clock: Clock) -> None:
    feed_ms = [0]
    market = MarketClock(lambda: feed_ms[0], clock)
    one = Limits(LimitSettings(weight_per_minute=1, patience=1), now_s=market, now_ms=lambda: feed_ms[0])
    one.admit("1.2.3.4", PING, NONE)
    clock.now_s += 36_000  # ten hours before somebody comes and moves it
    one.admit("1.2.3.4", PING, NONE)
    feed_ms[0] += 60_000
    one.admit("1.2.3.4", PING, NONE)
    for status in (429, 418):
        with pytest.raises(LimitError) as refused:
            one.admit("1.2.3.4", PING, NONE)
        assert refused.value.http_status == status
        clock.now_s += refused.value.retry_after_s
        one.admit("1.2.3.4", PING, NONE)


# --- on the wire --------------------------------------------------------------------------------------


@pytest.fixture
async def alice(server: PaperServer) -> AsyncIterator[PaperClient]:
    async with paper_client(server) as client:
        yield client


async def change(alice: PaperClient, **settings: object) -> int:
    async with alice.session.post(f"{alice.server.rest_url}/paper/limits", json=settings) as reply:
        return reply.status


async def test_headers_and_refusals_on_the_wire(alice: PaperClient) -> None:
    placed = await alice.order()
    assert {
        name.lower(): value for name, value in placed.headers.items() if name.lower().startswith("x-mbx")
    } == {
        "x-mbx-used-weight-1m": "0",
        "x-mbx-order-count-10s": "1",
        "x-mbx-order-count-1m": "1",
    }
    refused = await alice.order(side="HOLD")
    assert (refused.status, refused.headers["X-MBX-ORDER-COUNT-10S"]) == (400, "2")
    read = await alice.public("/fapi/v1/klines", symbol="BTCUSDT", interval="1h", limit=1000)
    assert read.headers["X-MBX-USED-WEIGHT-1M"] == "5"
    assert "X-MBX-ORDER-COUNT-10S" not in read.headers
    assert "X-MBX-USED-WEIGHT-1M" not in (await alice.public("/fapi/v1/fundingRate")).headers

    assert await change(alice, weight_per_minute=3, orders_per_10s=1, patience=2) == 200
    info = (await alice.public("/fapi/v1/exchangeInfo")).body
    assert [one["limit"] for one in info["rateLimits"]] == [3, 1200, 1]
    listed = (await alice.signed("GET", "/fapi/v1/rateLimit/order")).body
    assert [one["limit"] for one in listed] == [1200, 1]
    assert (await alice.order()).status == 200
    over = await alice.order()
    assert (over.status, over.body["code"], int(over.headers["Retry-After"]) <= 10) == (429, -1015, True)
    await alice.public("/fapi/v1/ping")
    statuses = [(await alice.public("/fapi/v1/ping")).status for _ in range(3)]
    assert statuses == [429, 418, 418]
    banned = await alice.order()  # all of the address's traffic stops
    assert (banned.status, banned.body["code"]) == (418, -1003)
    assert 100 < int(banned.headers["Retry-After"]) <= 120

    assert await change(alice, enforced=False) == 200
    assert [(await alice.public("/fapi/v1/ping")).status for _ in range(5)] == [200] * 5
    assert await change(alice, weight_per_hour=3) == 400


async def test_a_lock_step_run_never_meets_the_limits(alice: PaperClient) -> None:
    assert await change(alice, weight_per_minute=30, orders_per_10s=2) == 200
    for _ in range(20):
        for _ in range(2):
            assert (await alice.order(quantity="0.001", side="BUY")).status == 200
        assert (await alice.signed("GET", "/fapi/v3/account")).status == 200
        async with alice.session.post(f"{alice.server.rest_url}/paper/advance") as reply:
            assert reply.status == 200
