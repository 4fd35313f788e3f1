"""The connector over the paper exchange: real HTTP and WebSockets, python-binance underneath, hand-worked numbers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import pytest

from envs.account import Leg, Order, Side
from envs.candles import from_columns
from envs.errors import (
    AuthenticationError,
    ConfigError,
    CredentialsError,
    InstrumentError,
    OrderRejectedError,
)
from envs.funding import FundingSeries
from envs.instruments import default_instruments
from envs.market import build_market
from live.exchange.base import (
    FillEvent,
    FundingEvent,
    FundingPayment,
    Resync,
    RetryPolicy,
    TriggerKind,
    TriggerOrder,
    client_order_id,
)
from live.exchange.binance import BinanceExchange
from live.exchange.rest import BinanceRest
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed, synthetic_feed
from live.paper.runtime import PaperServer
from live.settings import Credentials, paper_venue

HOUR = 3_600_000
START = 1_704_067_200_000  # 2024-01-01 00:00 UTC
PAPER = Credentials("paper", "paper")
FAST = RetryPolicy(attempts=2, delay_s=0.01)

# Opens at 50000 + 100 per hour from candle 2 on, which is the first to be played.
OPENS = [50_000.0, 50_000.0, 50_000.0, 50_100.0, 50_200.0, 50_300.0]


def btc_feed() -> ReplayFeed:
    """Six hourly candles, two of them history; funding of 0.01 % at 03:00, the open of candle 3."""
    closes = [*OPENS[1:], 50_400.0]
    candles = from_columns(
        {
            "open_time": [START + i * HOUR for i in range(6)],
            "open": OPENS,
            "high": [max(o, c) + 10 for o, c in zip(OPENS, closes, strict=True)],
            "low": [min(o, c) - 10 for o, c in zip(OPENS, closes, strict=True)],
            "close": closes,
            "volume": [1.5] * 6,
        },
        symbol="BTCUSDT",
        interval="1h",
    )
    funding = FundingSeries("BTCUSDT", [START + 3 * HOUR], [0.0001], "test")  # type: ignore[arg-type]
    return ReplayFeed(build_market([candles], funding={"BTCUSDT": funding}), 2)


@pytest.fixture
def server() -> Iterator[PaperServer]:
    with PaperServer.start(btc_feed(), [PaperAccount(wallet_usdt=Decimal(1000))]) as started:
        yield started


def connector(server: PaperServer, **options: object) -> BinanceExchange:
    settings: dict[str, object] = {"leverage": 5, "retry": FAST, **options}
    return BinanceExchange(
        paper_venue(server.rest_url, server.ws_url),
        settings.pop("credentials", PAPER),  # type: ignore[arg-type]
        settings.pop("symbols", ("BTCUSDT",)),  # type: ignore[arg-type]
        **settings,  # type: ignore[arg-type]
    )


@pytest.fixture
async def exchange(server: PaperServer) -> AsyncIterator[BinanceExchange]:
    async with connector(server) as connected:
        yield connected


def buy(quantity: str, candle: int = 1, leg: Leg = Leg.ORDER) -> Order:
    return Order("BTCUSDT", Side.BUY, Decimal(quantity), client_order_id=name(candle, leg))


def sell(quantity: str, candle: int = 1, leg: Leg = Leg.ORDER, *, reduce_only: bool = False) -> Order:
    return Order("BTCUSDT", Side.SELL, Decimal(quantity), reduce_only, client_order_id=name(candle, leg))


def name(candle: int, leg: Leg = Leg.ORDER) -> str:
    return client_order_id("A", "BTCUSDT", START + (candle + 1) * HOUR - 1, leg)


async def test_connecting_reads_the_rules_and_sets_the_account_up(
    server: PaperServer, exchange: BinanceExchange
) -> None:
    assert exchange.loaded == {"BTCUSDT": default_instruments()["BTCUSDT"]}
    assert await exchange.symbols() == ("BTCUSDT",)
    assert await exchange.server_time_ms() == START + 2 * HOUR == exchange.now_ms()
    assert server.exchange.engine.accounts["paper"].leverage["BTCUSDT"] == 5
    account = await exchange.account()
    assert (account.wallet_usdt, account.available_usdt, account.positions) == (1000, 1000, {})


async def test_only_closed_candles_are_history(server: PaperServer, exchange: BinanceExchange) -> None:
    rows = await exchange.candles("BTCUSDT", HOUR, limit=10)
    assert [row.open_time_ms for row in rows] == [START, START + HOUR]
    assert (rows[-1].open, rows[-1].close, rows[-1].volume) == (50_000.0, 50_000.0, 1.5)
    assert await exchange.candles("BTCUSDT", HOUR, limit=1) == rows[-1:]
    assert await exchange.candles("BTCUSDT", HOUR, limit=1, start_ms=START) == rows[:1]
    assert await exchange.candles("BTCUSDT", HOUR, limit=9, end_ms=START) == rows[:1]
    assert await exchange.candles("BTCUSDT", HOUR, limit=9, start_ms=START + 2 * HOUR) == []
    assert await exchange.candles("BTCUSDT", HOUR, limit=0) == []
    # The exchange's clock jumps an hour; the candle that has closed by then is known although it was cut off there.
    server.advance()
    (third,) = await exchange.candles(
        "BTCUSDT", HOUR, limit=9, start_ms=START + 2 * HOUR, end_ms=START + 2 * HOUR
    )
    assert (third.open, third.close) == (50_000.0, 50_100.0)
    marks = await exchange.mark_candles("BTCUSDT", HOUR, limit=10)
    assert [row.close for row in marks] == [50_000.0, 50_000.0, 50_100.0]
    assert {row.volume for row in marks} == {0.0}


async def test_histories_longer_than_a_page() -> None:
    feed = synthetic_feed(("BTCUSDT",), interval="1m", history=2_600, candles=10, seed=3)
    with PaperServer.start(feed) as server:
        async with connector(server, credentials=None, leverage=None, symbols=()) as exchange:
            newest = await exchange.candles("BTCUSDT", 60_000, limit=2_500)
            first = feed.start_ms - 2_500 * 60_000
            assert [row.open_time_ms for row in newest] == [first + i * 60_000 for i in range(2_500)]
            forward = await exchange.candles("BTCUSDT", 60_000, limit=5_000, start_ms=first)
            assert forward == newest
            column = feed.market.close[100:2_600, 0]
            assert [row.close for row in newest] == column.tolist()


async def test_an_order_its_fill_and_the_account(server: PaperServer, exchange: BinanceExchange) -> None:
    report = await exchange.place(buy("0.01"))
    # At the open of candle 2: 0.01 * 50000 = 500 USDT, fee 0.05 % = 0.25 USDT.
    assert (report.status, report.executed_quantity, report.average_price) == (
        "FILLED",
        Decimal("0.01"),
        50_000,
    )
    (fill,) = report.fills
    assert (fill.commission, fill.realized_pnl, fill.client_order_id) == (Decimal("0.25"), 0, name(1))
    assert (fill.agent, fill.exchange, fill.time_ms) == ("A", "paper", START + 2 * HOUR)
    account = await exchange.account()
    assert account.wallet_usdt == Decimal("999.75")
    assert account.initial_margin_usdt == 100  # 500 / 5
    assert account.maintenance_margin_usdt == 2  # 0.4 % of 500
    position = account.positions["BTCUSDT"]
    assert (position.quantity, position.entry_price, position.leverage) == (Decimal("0.01"), 50_000, 5)
    assert await exchange.order("BTCUSDT", name(1)) == report
    assert await exchange.order("BTCUSDT", name(0)) is None
    assert await exchange.fills("BTCUSDT") == [fill]
    assert await exchange.fills("BTCUSDT", order_id=report.order_id) == [fill]


async def test_closing_realizes_what_was_won(server: PaperServer, exchange: BinanceExchange) -> None:
    await exchange.place(buy("0.01"))
    server.advance()
    report = await exchange.place(sell("0.01", 2, reduce_only=True))
    # 0.01 * (50100 - 50000) = 1 USDT; fees 0.25 + 0.2505; funding 0.01 * 50100 * 0.0001 = 0.0501, paid at 03:00.
    assert report.fills[0].realized_pnl == 1
    account = await exchange.account()
    assert account.positions == {}
    assert account.wallet_usdt == 1000 + 1 - Decimal("0.25") - Decimal("0.2505") - Decimal("0.0501")
    (payment,) = await exchange.funding_payments(since_ms=START)
    assert payment == FundingPayment("BTCUSDT", Decimal("-0.0501"), START + 3 * HOUR, payment.transaction_id)
    (rate,) = await exchange.funding_rates("BTCUSDT", START, START + 5 * HOUR)
    assert (rate.time_ms, rate.rate) == (START + 3 * HOUR, 0.0001)
    fills = await exchange.fills("BTCUSDT", since_ms=START)
    assert [one.side for one in fills] == [Side.BUY, Side.SELL]
    assert await exchange.fills("BTCUSDT", from_id=fills[1].trade_id) == fills[1:]
    assert await exchange.fills("BTCUSDT", since_ms=START + 3 * HOUR) == fills[1:]


async def test_fills_of_many_orders_get_their_client_ids_after_a_restart(
    server: PaperServer, exchange: BinanceExchange
) -> None:
    for index in range(6):
        await exchange.place(buy("0.002", index))
    async with connector(server) as restarted:
        fills = await restarted.fills("BTCUSDT", since_ms=START - 30 * 24 * HOUR)
        assert [fill.client_order_id for fill in fills] == [name(index) for index in range(6)]


@pytest.mark.parametrize(
    ("order", "code", "text"),
    [
        (buy("1"), -2019, "Margin is insufficient.*Trade smaller"),
        (sell("0.01", reduce_only=True), -2022, "ReduceOnly"),
    ],
)
async def test_refusals_of_the_exchange(
    server: PaperServer, exchange: BinanceExchange, order: Order, code: int, text: str
) -> None:
    with pytest.raises(OrderRejectedError, match=text) as caught:
        await exchange.place(order)
    assert caught.value.code == code
    assert (await exchange.account()).wallet_usdt == 1000


async def test_triggers_rest_are_listed_and_cancelled(
    exchange: BinanceExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    await exchange.place(buy("0.01"))
    stop = TriggerOrder(
        "BTCUSDT", Side.SELL, TriggerKind.STOP, Decimal("49000"), name(1, Leg.STOP), Decimal("0.01")
    )
    profit = TriggerOrder(
        "BTCUSDT", Side.SELL, TriggerKind.TAKE_PROFIT, Decimal("51000"), name(1, Leg.TAKE_PROFIT)
    )
    first, second = await exchange.place_trigger(stop), await exchange.place_trigger(profit)
    assert (first.status, first.trigger_price, first.order_id) == ("NEW", 49_000, None)
    listed = {one.client_order_id: one for one in await exchange.open_orders("BTCUSDT")}
    assert listed[name(1, Leg.STOP)].quantity == Decimal("0.01")
    assert listed[name(1, Leg.TAKE_PROFIT)].quantity == 0  # closes whatever there is
    assert all(one.is_trigger and one.reduce_only and one.side is Side.SELL for one in listed.values())
    asked: list[str] = []
    send = BinanceRest.send

    async def listed_send(rest: BinanceRest, method: str, **params: Any) -> Any:
        asked.append(method)
        return await send(rest, method, **params)

    monkeypatch.setattr(BinanceRest, "send", listed_send)
    cancelled = await exchange.cancel_trigger("BTCUSDT", first.client_order_id)
    assert cancelled is not None
    assert cancelled.status == "CANCELED"
    assert asked == ["futures_cancel_order"]  # what it cancelled is known
    assert await exchange.cancel_trigger("BTCUSDT", first.client_order_id) == cancelled
    assert await exchange.cancel_trigger("BTCUSDT", "unknown") is None
    assert [one.order_id for one in await exchange.open_orders()] == [second.trigger_id]
    await exchange.cancel_all("BTCUSDT")
    assert await exchange.open_orders() == []


async def test_a_trigger_beyond_the_price_is_refused(exchange: BinanceExchange) -> None:
    await exchange.place(buy("0.01"))
    late = TriggerOrder("BTCUSDT", Side.SELL, TriggerKind.STOP, Decimal("50500"), name(1, Leg.STOP))
    with pytest.raises(OrderRejectedError, match=r"immediately trigger.*close at market") as caught:
        await exchange.place_trigger(late)
    assert caught.value.code == -2021


async def test_a_stop_that_triggered_fills_under_its_own_id(server: PaperServer) -> None:
    async with connector(server) as exchange:
        await exchange.place(sell("0.01"))
        stop = TriggerOrder(
            "BTCUSDT", Side.BUY, TriggerKind.STOP, Decimal("50050"), name(1, Leg.PROTECTIVE_STOP)
        )
        await exchange.place_trigger(stop)
        server.advance()
        fills = await exchange.fills("BTCUSDT")
        assert [fill.leg for fill in fills] == [Leg.ORDER, Leg.PROTECTIVE_STOP]
        # 0.01 * (50000 - 50050) = -0.5 USDT
        assert (fills[1].price, fills[1].realized_pnl) == (50_050, Decimal("-0.5"))
        report = await exchange.cancel_trigger("BTCUSDT", stop.client_order_id)
        assert report is not None
        assert (report.status, report.order_id) == ("FINISHED", fills[1].order_id)


async def test_cancelling_what_is_not_there_is_no_error(exchange: BinanceExchange) -> None:
    await exchange.place(buy("0.01"))
    report = await exchange.cancel("BTCUSDT", name(1))
    assert report is not None
    assert report.status == "FILLED"
    assert await exchange.cancel("BTCUSDT", "unknown") is None


async def test_streams_tell_what_happens(server: PaperServer, exchange: BinanceExchange) -> None:
    events = exchange.stream_user_events()
    assert await anext(events) == Resync("connected")
    candles = exchange.stream_candles(("BTCUSDT",), HOUR, after_ms=START)
    assert (await asyncio.wait_for(anext(candles), 30)).open_time_ms == START + HOUR  # from the history
    report = await exchange.place(buy("0.01"))
    server.advance()
    second = await asyncio.wait_for(anext(candles), 30)
    assert (second.open_time_ms, second.close) == (START + 2 * HOUR, 50_100.0)
    told = [await asyncio.wait_for(anext(events), 30) for _ in range(5)]
    fills = [one.fill for one in told if isinstance(one, FillEvent)]
    assert fills == list(report.fills)
    assert FundingEvent(START + 3 * HOUR, "BTCUSDT", Decimal("-0.0501")) in told
    assert exchange.now_ms() == START + 3 * HOUR


async def test_many_candles_in_lock_step_are_each_delivered_once() -> None:
    feed = synthetic_feed(("BTCUSDT", "ETHUSDT"), interval="1m", history=50, candles=300, seed=5)
    with PaperServer.start(feed) as server:
        async with connector(server, symbols=("BTCUSDT", "ETHUSDT")) as exchange:
            stream = exchange.stream_candles(("BTCUSDT", "ETHUSDT"), 60_000, after_ms=feed.start_ms - 60_000)
            seen: dict[str, list[float]] = {"BTCUSDT": [], "ETHUSDT": []}
            await asyncio.to_thread(server.advance, 300)
            for _ in range(600):
                one = await asyncio.wait_for(anext(stream), 30)
                seen[one.symbol].append(one.close)
            assert seen["BTCUSDT"] == feed.market.close[50:, 0].tolist()
            assert seen["ETHUSDT"] == feed.market.close[50:, 1].tolist()


async def test_a_liquidation_is_recognised() -> None:
    """A short of 0.1 at 50000 with 50 USDT: at 50300 it has lost 30, and 0.4 % of 5030 is 20.12 USDT of margin."""
    with PaperServer.start(btc_feed(), [PaperAccount(wallet_usdt=Decimal("52.5"))]) as poor:
        async with connector(poor, leverage=100) as exchange:
            await exchange.place(sell("0.1"))  # the fee of 2.5 USDT leaves 50
            poor.advance(2)
            assert len(await exchange.fills("BTCUSDT")) == 1
            poor.advance(2)
            opened, closed = await exchange.fills("BTCUSDT")
            assert not opened.liquidation
            assert (closed.liquidation, closed.side, closed.quantity) == (True, Side.BUY, Decimal("0.1"))
            assert closed.agent == ""
            assert (await exchange.account()).positions == {}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"symbols": ("BTCUSD",)}, InstrumentError, "paper has no symbol 'BTCUSD'. Did you mean BTCUSDT"),
        ({"leverage": 151}, ConfigError, "leverage of BTCUSDT cannot be set to 151"),
        ({"credentials": Credentials("unknown", "x")}, AuthenticationError, "Check the API key"),
        ({"credentials": Credentials("paper", "wrong")}, AuthenticationError, "check the API secret"),
    ],
)
async def test_connecting_says_what_is_wrong(
    server: PaperServer, options: dict[str, object], error: type[Exception], message: str
) -> None:
    exchange = connector(server, **options)
    with pytest.raises(error, match=message):
        await exchange.connect()


async def test_without_a_key_rules_come_from_the_bundled_table(server: PaperServer) -> None:
    async with connector(server, credentials=None, leverage=None) as exchange:
        assert exchange.loaded["BTCUSDT"].brackets == default_instruments()["BTCUSDT"].brackets
        with pytest.raises(InstrumentError, match="no symbol 'DOGEUSDT'"):
            await exchange.candles("DOGEUSDT", HOUR, limit=1)
        with pytest.raises(InstrumentError, match="BTCUSDTT"):
            await exchange.check_symbol("BTCUSDTT")
        with pytest.raises(CredentialsError):
            await exchange.set_leverage("BTCUSDT", 3)


async def test_it_can_be_connected_again(server: PaperServer) -> None:
    exchange = connector(server)
    for _ in range(2):
        async with exchange:
            assert (await exchange.account()).wallet_usdt == 1000
