"""Paced feeds: the path of a candle, and an exchange that runs by the wall clock."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal

import aiohttp
import pytest

from envs.errors import ConfigError
from live.paper.account import PaperAccount
from live.paper.errors import ApiError
from live.paper.exchange import PaperExchange
from live.paper.feeds import ReplayFeed, synthetic_feed
from live.paper.pacing import candle_path
from live.paper.play import Candle, jump_prices, move_prices
from live.paper.runtime import PaperServer

D = Decimal


def one(value: str) -> dict[str, Decimal]:
    return {"BTCUSDT": D(value)}


def test_a_path_visits_the_nearer_extreme_first_and_ends_at_the_close() -> None:
    candle = Candle(one("100.0"), one("112.0"), one("96.0"), one("104.0"))
    path = candle_path(candle, 0, 5999, 2, one("0.1"))
    assert [str(point.prices["BTCUSDT"]) for point in path] == [
        "98.0",
        "96.0",  # the low is nearer to the open
        "104.0",
        "112.0",
        "108.0",
        "104.0",
    ]
    assert path[-1].time_ms == 5999
    assert [point.time_ms for point in path[:2]] == [999, 1999]


def test_prices_on_the_way_are_on_the_tick_and_inside_the_candle() -> None:
    candle = Candle(one("100.0"), one("100.3"), one("99.9"), one("100.1"))
    for point in candle_path(candle, 0, 1000, 7, one("0.1")):
        price = point.prices["BTCUSDT"]
        assert price % D("0.1") == 0
        assert D("99.9") <= price <= D("100.3")


def test_moving_prices_sets_off_what_lies_on_the_way_in_its_order(bench) -> None:
    b = bench(BTCUSDT="50000")
    b.market("BTCUSDT", "0.1")
    b.trigger("BTCUSDT", "SELL", "TAKE_PROFIT_MARKET", "50500")
    b.limit("BTCUSDT", "-0.05", "50200")
    move_prices(b.engine, one("50600"))
    assert [(t.price, t.quantity, t.maker) for t in b.account.trades["BTCUSDT"][1:]] == [
        (D("50200"), D("0.05"), True),
        (D("50500"), D("0.05"), False),
    ]


def test_moving_prices_liquidates_where_the_margin_ends(bench) -> None:
    b = bench(BTCUSDT="60000")
    b.account.position("BTCUSDT").apply(D(1), D(60_000), D(0))
    b.account.book_income("TRANSFER", D(-7_000), "", 0)
    move_prices(b.engine, one("57300"))
    assert not b.account.trades
    move_prices(b.engine, one("57000"))
    assert b.account.trades["BTCUSDT"][0].price == D("57228.915662650602")


def test_a_jump_fills_at_the_new_price(bench) -> None:
    b = bench(BTCUSDT="50000")
    b.market("BTCUSDT", "0.1")
    b.trigger("BTCUSDT", "SELL", "STOP_MARKET", "49500")
    jump_prices(b.engine, one("49000"))
    assert b.account.trades["BTCUSDT"][-1].price == 49_000


def test_a_paced_exchange_is_not_advanced_by_hand(market) -> None:
    exchange = PaperExchange(ReplayFeed(market({"BTCUSDT": [(100.0,) * 4] * 3}), 1, speed=60.0))
    with pytest.raises(ApiError):
        exchange.advance()


def test_feed_settings_are_checked(market) -> None:
    world = market({"BTCUSDT": [(100.0,) * 4] * 3})
    for start, speed in ((0, None), (4, None), (1, 0.0), (1, -1.0)):
        with pytest.raises(ConfigError):
            ReplayFeed(world, start, speed)


async def test_a_paced_replay_on_the_wire(market) -> None:
    # Six minutes at 120 times, half a second each; the first ones are for the client to connect in.
    quiet, falling = (50_000.0, 50_100.0, 49_900.0, 50_000.0), (50_000.0, 50_100.0, 48_000.0, 48_500.0)
    rows = [quiet] * 5 + [falling] * 2
    feed = ReplayFeed(market({"BTCUSDT": rows}, interval="1m"), 1, speed=120.0)
    with PaperServer.start(feed, [PaperAccount()]) as server:
        account = server.exchange.engine.accounts["paper"]
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(
                server.ws_url + "market/stream?streams=btcusdt@kline_1m/btcusdt@markPrice"
            ) as socket,
        ):
            first = await session.get(f"{server.rest_url}/fapi/v1/time")
            begun = (await first.json())["serverTime"]
            klines = []
            while sum(event["k"]["x"] and event["k"]["l"] == "48000.0" for event in klines) < 2:
                message = await asyncio.wait_for(socket.receive_json(), 30)
                if message["data"]["e"] == "kline":
                    klines.append(message["data"])
            state = await asyncio.to_thread(server.state)
    closed = [event["k"] for event in klines if event["k"]["x"]][-3:]
    assert [(k["o"], k["h"], k["l"], k["c"]) for k in closed] == [
        ("50000.0", "50100.0", "49900.0", "50000.0"),
        ("50000.0", "50100.0", "48000.0", "48500.0"),
        ("50000.0", "50100.0", "48000.0", "48500.0"),
    ]
    assert len(klines) > 6  # open candles in between
    assert all(event["E"] >= begun - 60_000 for event in klines)
    times = [event["E"] for event in klines]
    assert times == sorted(times)
    assert state["done"] is True
    assert account.wallet_usdt == 10_000


def test_a_synthetic_market_runs_in_real_time() -> None:
    feed = synthetic_feed(["BTCUSDT"], interval="1m", candles=3, history=10, speed=1.0)
    with PaperServer.start(feed) as server:
        assert server.exchange.real_time
        time.sleep(0.05)
        assert abs(server.state()["clock"] - time.time() * 1000) < 2_000
        assert server.state()["synthetic"] is True
    assert not synthetic_feed(["BTCUSDT"], candles=3, history=10).starts_now(int(time.time() * 1000))


def test_a_seed_gives_the_same_synthetic_market() -> None:
    first, second = (synthetic_feed(["BTCUSDT", "ETHUSDT"], candles=5, history=5, seed=3) for _ in range(2))
    assert (first.market.close == second.market.close).all()
    assert first.start_ms == second.start_ms
