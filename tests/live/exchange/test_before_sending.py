"""What never leaves: orders that the exchange's filters would refuse; and the dead man's switch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import pytest

from envs.account import Leg, Order, Side
from envs.errors import ExchangeUnavailableError, OrderRejectedError
from envs.synthetic import synthetic_market
from live.exchange.base import RetryPolicy, TriggerKind, TriggerOrder, client_order_id
from live.exchange.binance import BinanceExchange
from live.exchange.dead_man import DeadMan
from live.exchange.filters import MAX_OPEN_TRIGGERS
from live.paper.account import Account, PaperAccount
from live.paper.feeds import ReplayFeed, synthetic_feed
from live.paper.runtime import PaperServer
from live.settings import Credentials, paper_venue

CLOSE_MS = 1_736_630_399_999
ID = client_order_id("A", "BTCUSDT", CLOSE_MS, Leg.ORDER)
STOP_ID = client_order_id("A", "BTCUSDT", CLOSE_MS, Leg.STOP)


@pytest.fixture
def server() -> Iterator[PaperServer]:
    feed = synthetic_feed(("BTCUSDT",), history=5, seed=2)
    with PaperServer.start(feed, (PaperAccount(wallet_usdt=Decimal(10_000_000)),)) as started:
        yield started


@pytest.fixture
async def exchange(server: PaperServer) -> AsyncIterator[BinanceExchange]:
    async with connector(server) as connected:
        yield connected


def connector(server: PaperServer, **settings: Any) -> BinanceExchange:
    return BinanceExchange(
        paper_venue(server.rest_url, server.ws_url.rstrip("/")),
        Credentials("paper", "paper"),
        ("BTCUSDT",),
        retry=RetryPolicy(attempts=2, delay_s=0.01),
        **settings,
    )


def account_of(server: PaperServer) -> Account:
    return server.exchange.engine.accounts["paper"]


def watch(exchange: BinanceExchange) -> list[str]:
    """The methods that are sent from now on."""
    sent: list[str] = []
    original = exchange._rest.send

    async def send(method: str, **params: Any) -> Any:
        sent.append(method)
        return await original(method, **params)

    exchange._rest.send = send  # type: ignore[method-assign]
    return sent


@pytest.mark.parametrize(
    ("quantity", "code", "texts"),
    [
        ("0", -4003, ("LOT_SIZE", "BUY 0 BTCUSDT", "above 0")),
        ("0.0005", -4004, ("LOT_SIZE", "BUY 0.0005 BTCUSDT", "0.001", "Trade at least 0.001")),
        ("120.001", -4005, ("MARKET_LOT_SIZE", "120.001", "Split it into orders of at most 120")),
        ("0.0015", -4023, ("LOT_SIZE", "0.0015", "steps of 0.001", "Round to 0.001")),
    ],
)
async def test_a_quantity_that_would_be_refused_is_not_sent(
    server: PaperServer, exchange: BinanceExchange, quantity: str, code: int, texts: tuple[str, ...]
) -> None:
    sent = watch(exchange)
    for reduce_only in (False, True):
        order = Order("BTCUSDT", Side.BUY, Decimal(quantity), reduce_only, client_order_id=ID)
        with pytest.raises(OrderRejectedError, match="was not sent, the exchange would refuse it") as caught:
            await exchange.place(order)
        assert (caught.value.code, caught.value.http_status, caught.value.client_order_id) == (code, None, ID)
        for text in texts:
            assert text in str(caught.value)
    assert sent == [] and account_of(server).orders == {}


async def test_a_notional_that_is_too_small_is_not_sent_unless_it_closes(
    server: PaperServer, exchange: BinanceExchange
) -> None:
    engine = server.exchange.engine
    price = Decimal(str(engine.prices["BTCUSDT"]))
    least = Decimal(int(price))  # so that 0.001 BTC is a thousandth of what is asked
    loaded = exchange.loaded["BTCUSDT"]
    object.__setattr__(loaded, "min_notional_usdt", least)
    sent = watch(exchange)
    with pytest.raises(OrderRejectedError, match="MIN_NOTIONAL") as caught:
        await exchange.place(Order("BTCUSDT", Side.BUY, Decimal("0.5"), client_order_id=ID))
    assert caught.value.code == -4164
    assert f"the least is {least} USDT" in str(caught.value) and "Trade at least" in str(caught.value)
    assert sent == ["futures_mark_price"] and account_of(server).orders == {}
    enough = Decimal(str(caught.value).split("Trade at least ")[1].split(",")[0])
    await exchange.place(Order("BTCUSDT", Side.BUY, enough, client_order_id=ID))
    assert (enough - loaded.step_size) * price < least <= enough * price
    sent.clear()
    await exchange.place(Order("BTCUSDT", Side.SELL, Decimal("0.001"), True, client_order_id=f"{ID}1"))
    assert "futures_mark_price" not in sent


async def test_the_mark_price_is_asked_for_only_where_it_decides(
    server: PaperServer, exchange: BinanceExchange
) -> None:
    exchange._note_price("BTCUSDT", float(server.exchange.engine.prices["BTCUSDT"]))
    sent = watch(exchange)
    await exchange.place(Order("BTCUSDT", Side.BUY, Decimal("0.01"), client_order_id=ID))
    assert "futures_mark_price" not in sent


async def test_a_market_order_far_from_the_mark_price_is_not_sent(
    server: PaperServer, exchange: BinanceExchange
) -> None:
    price = Decimal(str(server.exchange.engine.prices["BTCUSDT"]))
    object.__setattr__(exchange.loaded["BTCUSDT"], "min_notional_usdt", price)
    exchange._note_price("BTCUSDT", float(price * Decimal("1.051")))
    for side, refused in ((Side.BUY, True), (Side.SELL, False)):
        order = Order("BTCUSDT", side, Decimal("1"), client_order_id=f"{ID}{side.value[0]}")
        if not refused:
            await exchange.place(order)
            continue
        with pytest.raises(OrderRejectedError, match=r"PERCENT_PRICE.*outside.*Wait until") as caught:
            await exchange.place(order)
        assert caught.value.code == -4131


def stop(price: Decimal, quantity: str | None = "0.01", name: str = STOP_ID) -> TriggerOrder:
    amount = None if quantity is None else Decimal(quantity)
    return TriggerOrder("BTCUSDT", Side.SELL, TriggerKind.STOP, price, name, amount)


@pytest.mark.parametrize(
    ("trigger", "code", "texts"),
    [
        (stop(Decimal("30000.05")), -4014, ("PRICE_FILTER", "ticks of 0.1", "30000.0", "30000.1")),
        (stop(Decimal("1")), -4013, ("PRICE_FILTER", "at 1 ", "least price")),
        (stop(Decimal("99999999")), -4002, ("PRICE_FILTER", "highest price")),
        (stop(Decimal("30000"), "0.0001"), -4004, ("LOT_SIZE", "0.001")),
        (stop(Decimal("30000"), "121"), -4005, ("MARKET_LOT_SIZE", "120")),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
async def test_a_stop_that_would_be_refused_is_not_sent(
    server: PaperServer, exchange: BinanceExchange, trigger: TriggerOrder, code: int, texts: tuple[str, ...]
) -> None:
    sent = watch(exchange)
    with pytest.raises(OrderRejectedError) as caught:
        await exchange.place_trigger(trigger)
    assert (caught.value.code, caught.value.client_order_id) == (code, STOP_ID)
    for text in texts:
        assert text in str(caught.value)
    assert sent == [] and account_of(server).algo_orders == {}


async def test_no_more_stops_than_the_account_may_have(
    server: PaperServer, exchange: BinanceExchange
) -> None:
    await exchange.place(Order("BTCUSDT", Side.BUY, Decimal("0.01"), client_order_id=ID))
    price = exchange.loaded["BTCUSDT"].round_price(
        Decimal(str(server.exchange.engine.prices["BTCUSDT"])) / 2, up=False
    )
    for number in range(MAX_OPEN_TRIGGERS):
        await exchange.place_trigger(stop(price, name=f"A_{number}"))
    sent = watch(exchange)
    with pytest.raises(
        OrderRejectedError, match=r"200 trigger orders are open, 200 are allowed.*Cancel"
    ) as caught:
        await exchange.place_trigger(stop(price))
    assert caught.value.code == -4045
    assert sent == ["futures_get_open_orders"]
    # Another connector finds out when it asks; one that has ended makes room, also if nobody told.
    account = account_of(server)
    server.exchange.engine.accounts["paper"].open_algo_orders.pop(next(iter(account.open_algo_orders)))
    await exchange.place_trigger(stop(price))


# --- the dead man's switch ---------------------------------------------------------------------------------


async def test_a_countdown_is_renewed_while_alive_and_runs_out_when_nobody_is() -> None:
    """On a paced exchange, whose clock runs: a resting order outlives the program by the countdown, its stop stays."""
    market = synthetic_market(("BTCUSDT",), n=60, interval="1m", seed=3)
    with PaperServer.start(
        ReplayFeed(market, 20, 1.0), (PaperAccount(wallet_usdt=Decimal(100_000)),)
    ) as server:
        exchange = connector(server, dead_man_s=1.2)
        await exchange.connect()
        account = account_of(server)
        await exchange.place(Order("BTCUSDT", Side.BUY, Decimal("0.01"), client_order_id=ID))
        price = exchange.loaded["BTCUSDT"].round_price(
            Decimal(str(server.exchange.engine.prices["BTCUSDT"])) / 2, up=False
        )
        await exchange.place_trigger(stop(price))
        server.fault("manual_trade", symbol="BTCUSDT", side="BUY", quantity="0.01", price=str(price))
        await asyncio.sleep(2.5)
        assert len(account.open_orders) == 1  # two countdowns long
        # The process dies: nothing renews, nothing is taken back.
        assert exchange._dead_man is not None and exchange._dead_man._task is not None
        exchange._dead_man._task.cancel()
        exchange._dead_man._task = None
        for _ in range(3000):
            if not account.open_orders:
                break
            await asyncio.sleep(0.01)
        assert not account.open_orders
        assert [one.client_algo_id for one in account.open_algo_orders.values()] == [STOP_ID]
        await exchange.close()


async def test_a_run_that_ends_in_order_takes_the_countdown_back(server: PaperServer) -> None:
    async with connector(server, dead_man_s=60.0):
        assert list(account_of(server).countdowns) == ["BTCUSDT"]
    assert account_of(server).countdowns == {}
    async with connector(server):
        assert account_of(server).countdowns == {}


async def test_a_renewal_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[tuple[str, int]] = []

    async def cancel_later(symbol: str, countdown_ms: int) -> None:
        asked.append((symbol, countdown_ms))
        if len(asked) == 2:
            raise ExchangeUnavailableError("down")

    switch = DeadMan(cancel_later, ("BTCUSDT",), 0.06)
    await switch.start()
    for _ in range(500):
        if len(asked) >= 4:
            break
        await asyncio.sleep(0.01)
    await switch.stop()
    count = len(asked)
    assert asked[: count - 1] == [("BTCUSDT", 60)] * (count - 1) and asked[-1] == ("BTCUSDT", 0)
    assert "could not be renewed: down" in caplog.text
    await asyncio.sleep(0.05)
    assert len(asked) == count
    await switch.stop()
    assert len(asked) == count
