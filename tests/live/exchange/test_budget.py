"""The exchange's limits: slower before they are reached, a share kept for what reduces risk, 429 and 418 obeyed."""

from __future__ import annotations

import ast
import asyncio
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from envs.account import Order, Side
from envs.errors import RateLimitedError
from live.exchange.base import RetryPolicy, TriggerKind, TriggerOrder
from live.exchange.binance import BinanceExchange
from live.exchange.budget import RESERVED, SLOW_FROM, RequestBudget, Urgency, present_urgency, reducing_risk
from live.exchange.rest import BinanceRest
from live.exchange.sockets import Backoff, StreamSettings
from live.exchange.weights import Cost, cost_of, is_listed
from live.paper.feeds import synthetic_feed
from live.paper.limits import LimitSettings
from live.paper.runtime import PaperServer
from live.settings import Credentials, paper_venue

if TYPE_CHECKING:
    from tests.live.exchange.conftest import FaultyExchange

ROOT = Path(__file__).resolve().parents[3]
READ = Cost(weight=10)
ORDER = Cost(weight=0, orders=1)


class Time:
    """A clock that only sleeping moves: 30 s into a minute."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_030.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def budget(time: Time) -> RequestBudget:
    made = RequestBudget(wall_s=time, monotonic_s=time, sleep=time.sleep)
    made.weight.limit = 1000
    return made


def weight(used: int) -> dict[str, str]:
    return {"X-MBX-USED-WEIGHT-1M": str(used)}


async def ask(budget: RequestBudget, cost: Cost = READ, urgency: Urgency = Urgency.ORDINARY) -> None:
    """A request that is answered, the exchange telling what it has counted since."""
    used = budget.used_weight
    await budget.admit(cost, urgency, patience_s=10.0)
    budget.note(weight((used if budget.used_weight else 0) + cost.weight))
    budget.settle(cost, answered=True)


async def test_nothing_waits_below_four_fifths_of_the_limit(budget: RequestBudget, time: Time) -> None:
    budget.note(weight(790))
    await ask(budget)
    assert (budget.used_weight, time.slept) == (800, [])


async def test_above_it_what_is_left_is_spread_over_the_rest_of_the_minute(
    budget: RequestBudget, time: Time
) -> None:
    budget.note(weight(800))
    await ask(budget)
    # 30 s are left for 900 - 800 of weight, the last 100 being reserved: 10 of them take 3 s.
    assert time.slept == [pytest.approx(3.0)]
    for _ in range(9):
        await ask(budget)
    # The whole unreserved rest took the whole minute, and the limit was never reached.
    assert time.slept == [pytest.approx(3.0)] * 10
    assert budget.used_weight in (900, 10)


async def test_when_the_share_is_used_up_the_next_minute_is_waited_for(
    budget: RequestBudget, time: Time
) -> None:
    budget.note(weight(895))
    await ask(budget)
    assert time.slept == [pytest.approx(30.2)]
    assert budget.used_weight == 10


async def test_a_bulk_download_stands_back_before_others_are_slowed(
    budget: RequestBudget, time: Time
) -> None:
    budget.note(weight(int(SLOW_FROM * 1000) - 9))
    await ask(budget, urgency=Urgency.BULK)
    assert time.slept == [pytest.approx(30.2)]


async def test_what_reduces_risk_may_use_the_reserve_and_does_not_queue(
    budget: RequestBudget, time: Time
) -> None:
    budget.note(weight(895))
    waiting = asyncio.create_task(ask(budget))
    await asyncio.sleep(0)
    before_s = time.now_s
    for _ in range(10):
        await budget.admit(READ, Urgency.RISK, patience_s=65.0)
        budget.settle(READ, answered=True)
    assert time.now_s == before_s
    await waiting
    # Over the whole limit it waits as well: a 429 would help nobody.
    budget.note(weight(995))
    await budget.admit(READ, Urgency.RISK, patience_s=65.0)
    assert time.slept[-1] == pytest.approx(60.0 - time.slept[0] + 30.0, abs=0.5)


async def test_requests_at_once_share_the_budget(budget: RequestBudget, time: Time) -> None:
    budget.note(weight(700))
    await asyncio.gather(*(budget.admit(READ, Urgency.ORDINARY, patience_s=10.0) for _ in range(25)))
    # Ten fit below 800; of the others each waits its turn, and none is sent beyond the unreserved share.
    assert len([one for one in time.slept if one > 0]) >= 10
    assert budget.weight.used(time.now_s) <= (1 - RESERVED) * 1000
    assert time.now_s > 1_800_000_030 + 25


async def test_requests_on_their_way_count_and_lost_replies_too(budget: RequestBudget, time: Time) -> None:
    budget.note(weight(780))
    await budget.admit(READ, Urgency.ORDINARY, patience_s=10.0)
    await budget.admit(READ, Urgency.ORDINARY, patience_s=10.0)
    assert time.slept == []
    budget.settle(READ, answered=False)
    assert (budget.used_weight, budget.weight.in_flight) == (790, 10)
    await budget.admit(READ, Urgency.ORDINARY, patience_s=10.0)
    assert time.slept == [pytest.approx(3.0)]


def test_replies_that_overtake_one_another_do_not_lower_the_count(budget: RequestBudget, time: Time) -> None:
    budget.note(weight(500))
    budget.note(weight(480))
    assert budget.used_weight == 500
    # Much less is another window, whatever the clock here says: a replay's minutes are not ours.
    budget.note(weight(12))
    assert budget.used_weight == 12
    budget.note({"X-MBX-USED-WEIGHT-1M": "nonsense"})
    assert budget.used_weight == 12
    time.now_s += 30
    assert budget.used_weight == 0


async def test_orders_have_limits_of_their_own(budget: RequestBudget, time: Time) -> None:
    budget.note(weight(990))
    await budget.admit(ORDER, Urgency.ORDINARY, patience_s=10.0)  # costs no weight
    budget.settle(ORDER, answered=True)
    assert time.slept == []
    budget.note({"X-MBX-ORDER-COUNT-10S": "270", "X-MBX-ORDER-COUNT-1M": "270"})
    await budget.admit(ORDER, Urgency.RISK, patience_s=10.0)
    assert time.slept == []
    await budget.admit(ORDER, Urgency.ORDINARY, patience_s=15.0)
    assert time.slept == [pytest.approx(10.2)]
    budget.note({"X-MBX-ORDER-COUNT-1M": "1080"})
    with pytest.raises(RateLimitedError, match=r"limit on orders is used up; nothing was sent\. Wait 20 s"):
        await budget.admit(ORDER, Urgency.ORDINARY, patience_s=10.0)


async def test_after_429_everybody_waits_and_after_418_nobody_sends(
    budget: RequestBudget, time: Time
) -> None:
    budget.hold(4.0)
    await asyncio.gather(*(ask(budget) for _ in range(3)))
    assert time.now_s == 1_800_000_034
    budget.hold(30.0)
    with pytest.raises(RateLimitedError, match="nothing was sent") as caught:
        await budget.admit(READ, Urgency.ORDINARY, patience_s=10.0)
    assert caught.value.retry_after_s == 30.0
    await budget.admit(READ, Urgency.RISK, patience_s=65.0)
    assert time.now_s == 1_800_000_064
    budget.ban(120.0)
    for urgency in Urgency:
        with pytest.raises(RateLimitedError, match="banned this address; nothing was sent"):
            await budget.admit(READ, urgency, patience_s=1e9)


async def test_too_many_orders_hold_up_orders_alone(budget: RequestBudget, time: Time) -> None:
    budget.hold(4.0, orders_only=True)
    await ask(budget)
    assert time.slept == []
    await budget.admit(ORDER, Urgency.ORDINARY, patience_s=10.0)
    assert time.slept == [4.0]


def test_limits_are_taken_from_the_exchange() -> None:
    budget = RequestBudget()
    budget.learn_limits(
        [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000},
            {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": 1100},
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 290},
            {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 7},
        ]
    )
    budget.learn_limits(None)
    assert [gauge.limit for gauge in (budget.weight, budget.orders_1m, budget.orders_10s)] == [
        6000,
        1100,
        290,
    ]


def test_urgency_belongs_to_the_block() -> None:
    assert present_urgency() is Urgency.ORDINARY
    with reducing_risk():
        assert present_urgency() is Urgency.RISK
    assert present_urgency() is Urgency.ORDINARY


def test_the_cost_of_every_request_that_is_made_is_known() -> None:
    names = set()
    for path in (ROOT / "live" / "exchange").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and node.value.startswith(("futures_", "get_account_api"))
                and node.value != "futures_"
            ):
                names.add(node.value)
    assert len(names) > 20
    assert [name for name in names if not is_listed(name)] == []


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("futures_time", {}),
        ("futures_exchange_info", {}),
        *(
            (name, {"symbol": "BTCUSDT", "interval": "1h", "limit": limit})
            for name in ("futures_klines", "futures_mark_price_klines")
            for limit in (99, 100, 499, 500, 1000, 1001)
        ),
        ("futures_mark_price", {"symbol": "BTCUSDT"}),
        ("futures_mark_price", {}),
        ("futures_funding_rate", {"symbol": "BTCUSDT"}),
        ("futures_leverage_bracket", {}),
        ("futures_commission_rate", {"symbol": "BTCUSDT"}),
        ("futures_account", {"version": 3}),
        ("futures_position_information", {}),
        ("futures_account_config", {}),
        ("futures_symbol_config", {}),
        ("futures_change_leverage", {"symbol": "BTCUSDT", "leverage": 3}),
        ("futures_get_open_orders", {"symbol": "BTCUSDT"}),
        ("futures_get_open_orders", {}),
        ("futures_get_open_orders", {"symbol": "BTCUSDT", "conditional": True}),
        ("futures_get_all_orders", {"symbol": "BTCUSDT", "conditional": True}),
        ("futures_account_trades", {"symbol": "BTCUSDT"}),
        ("futures_income_history", {}),
        ("futures_cancel_all_open_orders", {"symbol": "BTCUSDT"}),
        ("futures_countdown_cancel_all", {"symbol": "BTCUSDT", "countdownTime": 0}),
        ("futures_stream_get_listen_key", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
async def test_costs_are_those_that_the_exchange_counts(
    counting: BinanceRest, method: str, params: dict[str, object]
) -> None:
    await counting.read("futures_time")
    before = counting.budget.used_weight
    await counting.read(method, **params)
    await counting.read("futures_time")
    # The funding rates' reply tells of no weight, so the next one is asked.
    assert counting.budget.used_weight - before - 1 == cost_of(method, params).weight
    assert (counting.budget.weight.in_flight, counting.budget.orders_1m.in_flight) == (0, 0)


@pytest.fixture(scope="module")
def paper() -> object:
    limits = LimitSettings(weight_per_minute=100_000)
    with PaperServer.start(synthetic_feed(("BTCUSDT",), history=5), limits=limits) as server:
        yield server


@pytest.fixture
async def counting(paper: PaperServer) -> object:
    rest = BinanceRest(
        paper_venue(paper.rest_url, paper.ws_url), Credentials("paper", "paper"), policy=RetryPolicy()
    )
    rest.budget.weight.limit = 100_000
    await rest.open()
    yield rest
    await rest.close()


async def test_a_busy_connector_stays_below_the_exchanges_limit() -> None:
    """A paper exchange with a small limit, on the wall clock: no 429, though three times the limit is asked for."""
    limits = LimitSettings(weight_per_minute=60)
    with PaperServer.start(synthetic_feed(("BTCUSDT",), history=5), limits=limits) as server:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            server.advance()  # an hour of market time: the exchange's next minute has begun

        rest = BinanceRest(
            paper_venue(server.rest_url, server.ws_url),
            Credentials("paper", "paper"),
            policy=RetryPolicy(attempts=1),
            sleep=sleep,
        )
        rest.budget.weight.limit = 60
        await rest.open()
        try:
            for _ in range(36):
                await rest.read("futures_account", version=3)
        finally:
            await rest.close()
        assert slept
        assert server.faults()["log"] == []


async def test_a_closing_order_goes_out_where_an_opening_one_waits(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    client._rest.budget.orders_10s.note(275, client._rest.budget._wall_s())
    client._rest.budget.orders_1m.note(1100, client._rest.budget._wall_s())
    opening = Order("BTCUSDT", Side.BUY, 1, client_order_id="A_BTCUSDT_1736630399999o")  # type: ignore[arg-type]
    closing = Order("BTCUSDT", Side.SELL, 1, reduce_only=True, client_order_id="A_BTCUSDT_1736630399999x")  # type: ignore[arg-type]
    with pytest.raises(RateLimitedError, match="limit on orders is used up"):
        await client.place(opening)
    assert faulty.posts == []
    await client.place(closing)
    assert [post["newClientOrderId"] for post in faulty.posts] == ["A_BTCUSDT_1736630399999x"]


async def test_a_stop_reduces_risk(faulty: FaultyExchange, client: BinanceExchange) -> None:
    seen = []
    original = client._rest.send

    async def send(method: str, **params: object) -> object:
        seen.append((method, present_urgency()))
        return await original(method, **params)  # type: ignore[arg-type]

    client._rest.send = send  # type: ignore[method-assign]
    stop = TriggerOrder("BTCUSDT", Side.SELL, TriggerKind.STOP, 90, "A_BTCUSDT_1736630399999p", 1)  # type: ignore[arg-type]
    faulty.faults.append(("lose", "400", "-2021", "Order would immediately trigger."))
    with pytest.raises(Exception, match="immediately trigger"):
        await client.place_trigger(stop)
    await client.cancel("BTCUSDT", "gone")
    assert {urgency for _, urgency in seen} == {Urgency.RISK}
    await client.order("BTCUSDT", "gone")
    assert seen[-1][1] is Urgency.ORDINARY


def test_pauses_grow_and_their_jitter_comes_from_the_seed() -> None:
    policy = RetryPolicy(delay_s=1.0, longest_delay_s=4.0, jitter_fraction=0.25)
    rng, same = random.Random(7), random.Random(7)
    pauses = [policy.pause_s(attempt, rng) for attempt in (1, 2, 3, 4)]
    assert pauses == [base * (1 + same.uniform(-0.25, 0.25)) for base in (1.0, 2.0, 4.0, 4.0)]
    assert len({round(pause, 6) for pause in pauses}) == 4
    still = RetryPolicy(delay_s=1.0, longest_delay_s=4.0, jitter_fraction=0.0)
    assert [still.pause_s(attempt, rng) for attempt in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 4.0]
    streams = StreamSettings(first_retry_s=1.0, longest_retry_s=4.0)
    backoff, other = Backoff(streams, random.Random(3)), random.Random(3)
    assert [backoff.pause_s() for _ in range(4)] == [
        base * other.uniform(0.5, 1.0) for base in (1.0, 2.0, 4.0, 4.0)
    ]


async def test_a_read_that_fails_is_repeated_after_exactly_these_pauses(faulty: FaultyExchange) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    policy = RetryPolicy(attempts=4, delay_s=1.0, longest_delay_s=3.0)
    rest = BinanceRest(
        faulty.venue(), Credentials("k" * 8, "s" * 8), policy=policy, rng=random.Random(11), sleep=sleep
    )
    await rest.open()
    try:
        busy = {"code": -1008, "msg": "Request throttled by system-level protection."}
        faulty.get_faults.extend(web.json_response(busy, status=503) for _ in range(3))
        assert await rest.read("futures_get_open_orders", symbol="BTCUSDT") == []
    finally:
        await rest.close()
    same = random.Random(11)
    assert slept == [base * (1 + same.uniform(-0.25, 0.25)) for base in (1.0, 2.0, 3.0)]
    assert len(faulty.gets) == 4


async def test_the_clock_is_measured_now_and_then(faulty: FaultyExchange) -> None:
    exchange = BinanceExchange(faulty.real_venue(), None, (), clock_every_s=0.05)
    async with exchange:
        asked = faulty.times_asked
        faulty.clock_ahead_ms = 5_000
        for _ in range(500):
            if exchange._rest.clock.offset_ms > 4_900 and faulty.times_asked >= asked + 6:
                break
            await asyncio.sleep(0.01)
        assert abs(exchange.now_ms() - faulty.now_ms()) < 2_000
    told = faulty.times_asked
    await asyncio.sleep(0.15)
    assert faulty.times_asked == told


async def test_requests_refused_together_for_the_clock_measure_it_once(
    faulty: FaultyExchange, client: BinanceExchange
) -> None:
    asked = faulty.times_asked
    await asyncio.gather(*(client._rest.sync_clock() for _ in range(5)))
    assert faulty.times_asked == asked + 3
