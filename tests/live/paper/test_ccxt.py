"""Unmodified ccxt, `binanceusdm`, trades for a day: only the addresses are ours.

Every figure is worked out by hand from the prices of `tests.lib.paper_day`; taker fee 0.05 %, maker fee 0.02 %.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import ccxt.pro
import pytest

from live.paper.runtime import PaperServer
from tests.lib.paper_day import HOUR_MS, KEY, SECRET, START_MS, only_loopback, trading_day

BTC = "BTC/USDT:USDT"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", only_loopback())


@pytest.fixture
def server() -> Iterator[PaperServer]:
    with trading_day() as running:
        yield running


@pytest.fixture
async def exchange(server: PaperServer) -> AsyncIterator[Any]:
    made = ccxt.pro.binanceusdm({"apiKey": KEY, "secret": SECRET})
    point_at(made, server)
    yield made
    await made.close()


def point_at(exchange: Any, server: PaperServer) -> None:
    """Replace scheme and host of every address."""

    def local(address: Any) -> Any:
        if isinstance(address, dict):
            return {name: local(part) for name, part in address.items()}
        return server.rest_url + urlsplit(address).path if address.startswith("http") else address

    exchange.urls["api"] = local(exchange.urls["api"])
    streams = exchange.urls["api"]["ws"]
    streams["linear"] = server.ws_url + "ws"
    streams["ws-api"]["linear"] = server.ws_url + "ws-fapi/v1"


async def advance(server: PaperServer, candles: int = 1) -> None:
    await asyncio.to_thread(server.advance, candles)


async def heard_streams(server: PaperServer, count: int) -> None:
    """Wait until so many streams are heard."""
    for _ in range(1200):
        if len(server.exchange.hub.names()) >= count:
            break
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)  # snapshots that the client takes first


class Watcher:
    """Collects what a `watch_...` method brings, until the exchange is closed."""

    def __init__(self, method: Any, *arguments: Any) -> None:
        self.seen: list[Any] = []
        self._task = asyncio.create_task(self._run(method, arguments))

    async def _run(self, method: Any, arguments: tuple[Any, ...]) -> None:
        while True:
            self.seen.extend(await method(*arguments))

    async def stop(self, until: Callable[[list[Any]], Any]) -> list[Any]:
        """End it once what came is enough, or nothing more can be hoped for; and return it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(30):
                while not (self.seen and until(self.seen)):
                    await asyncio.sleep(0.01)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        return self.seen


async def test_a_day(server: PaperServer, exchange: Any) -> None:
    markets = await exchange.load_markets()
    assert sorted(markets) == [BTC, "ETH/USDT:USDT"]
    precision = markets[BTC]["precision"]
    assert (precision["amount"], precision["price"]) == (0.001, 0.1)
    assert markets[BTC]["limits"]["cost"]["min"] == 50
    assert (await exchange.fetch_balance())["USDT"] == {"free": 10_000.0, "used": 0.0, "total": 10_000.0}
    assert (await exchange.set_leverage(10, BTC))["leverage"] == 10
    assert (await exchange.fetch_leverage(BTC))["longLeverage"] == 10
    assert (await exchange.fetch_trading_fee(BTC))["taker"] == 0.0005

    orders, own_trades = Watcher(exchange.watch_orders), Watcher(exchange.watch_my_trades)
    hours = Watcher(exchange.watch_ohlcv, BTC, "1h")
    await heard_streams(server, 2)

    # 00:00: 0.1 at 50000, fee 2.5.
    bought = await exchange.create_order(BTC, "market", "buy", 0.1, None, {"clientOrderId": "ccxt-1"})
    assert (bought["status"], bought["filled"], bought["clientOrderId"]) == ("closed", 0.1, "ccxt-1")
    assert (await exchange.fetch_order(bought["id"], BTC))["average"] == 50_000.0

    # Half of a limit order that crosses is filled at 50000, fee 1.25; the other half rests and is cancelled.
    await asyncio.to_thread(server.fault, "partial_fill", share="0.5", pieces=2)
    part = await exchange.create_order(BTC, "limit", "buy", 0.1, 50_005)
    assert (part["status"], part["filled"], part["remaining"]) == ("open", 0.05, 0.05)
    await exchange.cancel_order(part["id"], BTC)
    part = await exchange.fetch_order(part["id"], BTC)
    assert (part["status"], part["filled"], part["average"]) == ("canceled", 0.05, 50_000.0)

    # 01:00: a buy order rests at 49650 and is a maker's: fee 0.4965. The average is 49912.5 then.
    resting = await exchange.create_order(BTC, "limit", "buy", 0.05, 49_650)
    assert [one["id"] for one in await exchange.fetch_open_orders(BTC)] == [resting["id"]]
    await advance(server, 2)
    assert (await exchange.fetch_order(resting["id"], BTC))["status"] == "closed"
    (position,) = await exchange.fetch_positions()
    assert (position["side"], position["contracts"], position["entryPrice"]) == ("long", 0.2, 49_912.5)
    assert position["unrealizedPnl"] == pytest.approx(0.2 * (49_700 - 49_912.5))

    # 02:00: half of it leaves by a take-profit at 50400, fee 2.52; 04:00: the rest by a stop at 50100, fee 2.505.
    closing = {"reduceOnly": True}
    taken = await exchange.create_order(
        BTC, "market", "sell", 0.1, None, {"takeProfitPrice": 50_400, **closing}
    )
    (waiting,) = await exchange.fetch_open_orders(BTC, params={"trigger": True})
    assert (waiting["id"], waiting["triggerPrice"], waiting["reduceOnly"]) == (taken["id"], 50_400, True)
    await advance(server)
    stopped = await exchange.create_order(
        BTC, "market", "sell", 0.1, None, {"stopLossPrice": 50_100, **closing}
    )
    other = await exchange.create_order(
        BTC, "market", "sell", 0.1, None, {"stopLossPrice": 49_000, **closing}
    )
    await exchange.cancel_order(other["id"], BTC, {"trigger": True})
    await advance(server, 2)
    assert await exchange.fetch_positions() == []
    assert await exchange.fetch_open_orders(BTC, params={"trigger": True}) == []
    done = await exchange.fetch_order(stopped["id"], BTC, {"trigger": True})
    # ccxt does not read how much of a conditional order was filled.
    assert (done["status"], done["info"]["actualQty"]) == ("closed", "0.1")

    # 05:00: short 0.1 at 50000, fee 2.5; funding at 08:00 and 16:00 brings 0.5 each; 20:00: back at 50000, fee 2.5.
    await exchange.create_order(BTC, "market", "sell", 0.1)
    await advance(server, 15)
    assert (await exchange.fetch_balance())["USDT"]["used"] == 500.0
    await exchange.create_order(BTC, "market", "buy", 0.1, None, closing)
    await advance(server, 4)

    # 10000 + 48.75 + 18.75 (realized) + 1 (funding) - 14.2715 (fees)
    assert (await exchange.fetch_balance())["USDT"]["total"] == pytest.approx(10_054.2285, abs=1e-9)
    trades = await exchange.fetch_my_trades(BTC)
    assert [(one["side"], one["amount"], one["price"]) for one in trades] == [
        ("buy", 0.1, 50_000.0),
        ("buy", 0.025, 50_000.0),
        ("buy", 0.025, 50_000.0),
        ("buy", 0.05, 49_650.0),
        ("sell", 0.1, 50_400.0),
        ("sell", 0.1, 50_100.0),
        ("sell", 0.1, 50_000.0),
        ("buy", 0.1, 50_000.0),
    ]
    assert sum(one["fee"]["cost"] for one in trades) == pytest.approx(14.2715)
    income = await exchange.fetch_ledger("USDT")
    assert sum(one["amount"] for one in income if one["info"]["incomeType"] == "REALIZED_PNL") == 67.5
    paid = await exchange.fetch_funding_history(BTC)
    assert [(one["amount"], one["timestamp"]) for one in paid] == [
        (0.5, START_MS + 8 * HOUR_MS),
        (0.5, START_MS + 16 * HOUR_MS),
    ]

    heard_orders = await orders.stop(
        lambda seen: [o["status"] for o in seen if o["id"] == part["id"]][-1:] == ["canceled"]
    )
    heard_trades = await own_trades.stop(lambda seen: len(seen) >= len(trades))
    heard_hours = await hours.stop(lambda seen: seen[-1][0] >= START_MS + 23 * HOUR_MS)
    assert [one["id"] for one in heard_trades] == [one["id"] for one in trades]
    assert {one["clientOrderId"] for one in heard_orders} >= {"ccxt-1", part["clientOrderId"]}
    assert [one["status"] for one in heard_orders if one["id"] == part["id"]][-1] == "canceled"
    closes = {row[0]: row[4] for row in heard_hours}
    assert list(closes) == [START_MS + hour * HOUR_MS for hour in range(24)]
    history = await exchange.fetch_ohlcv(BTC, "1h", since=START_MS, limit=24)
    assert {row[0]: row[4] for row in history} == closes


async def test_orders_over_the_ws_api(server: PaperServer, exchange: Any) -> None:
    await exchange.load_markets()
    placed = await exchange.create_order_ws(BTC, "limit", "buy", 0.01, 49_000)
    assert placed["status"] == "open"
    assert (await exchange.fetch_balance_ws({"type": "future"}))["USDT"]["total"] == 10_000
    cancelled = await exchange.cancel_order_ws(placed["id"], BTC)
    assert cancelled["status"] == "canceled"
    with pytest.raises(ccxt.ExchangeError, match="-2011"):
        await exchange.cancel_order_ws(placed["id"], BTC)
    await exchange.create_order_ws(BTC, "market", "buy", 0.01)
    (position,) = await exchange.fetch_positions_ws()
    assert position["contracts"] == 0.01


async def test_market_streams(server: PaperServer, exchange: Any) -> None:
    await exchange.load_markets()
    watchers = {
        "ticker": Watcher(one_of(exchange.watch_ticker), BTC),
        "book": Watcher(one_of(exchange.watch_order_book), BTC, 5),
        "trades": Watcher(exchange.watch_trades, BTC),
        "mark": Watcher(one_of(exchange.watch_mark_price), BTC),
        "best": Watcher(one_of(exchange.watch_bids_asks), [BTC]),
    }
    await heard_streams(server, len(watchers))
    await advance(server, 2)
    complete: dict[str, Callable[[list[Any]], Any]] = {
        "ticker": lambda heard: len(heard) >= 2,
        "book": lambda heard: heard[-1]["bids"] and heard[-1]["bids"][0][0] == 49_700.0,
        "trades": lambda heard: len(heard) >= 2,
        "mark": lambda heard: heard[-1]["markPrice"] == 49_700.0,
        "best": lambda heard: heard[-1][BTC]["ask"] == 49_700.1,
    }
    seen = {name: await watcher.stop(complete[name]) for name, watcher in watchers.items()}
    assert [one["last"] for one in seen["ticker"]] == [50_000.0, 49_700.0]
    assert (seen["ticker"][-1]["low"], seen["ticker"][-1]["open"]) == (49_600.0, 50_000.0)
    assert seen["book"][-1]["bids"][0] == [49_700.0, 100.0]
    assert len(seen["book"][-1]["bids"]) == len(seen["book"][-1]["asks"]) == 1
    assert [(one["price"], one["amount"]) for one in seen["trades"]] == [(50_000.0, 10.0), (49_700.0, 10.0)]
    assert seen["mark"][-1]["markPrice"] == 49_700.0
    assert seen["best"][-1][BTC]["ask"] == 49_700.1


def one_of(method: Any) -> Any:
    """The same method, its single result in a list."""

    async def wrapped(*arguments: Any) -> list[Any]:
        return [await method(*arguments)]

    return wrapped


async def test_other_order_types_and_an_edit(server: PaperServer, exchange: Any) -> None:
    await exchange.load_markets()
    await exchange.create_order(BTC, "market", "buy", 0.2)
    stop = await exchange.create_order(
        BTC, "limit", "sell", 0.05, 49_640, {"stopLossPrice": 49_800, "reduceOnly": True}
    )
    trailing = await exchange.create_order(
        BTC, "market", "sell", 0.05, None, {"trailingPercent": 0.5, "reduceOnly": True}
    )
    waiting = await exchange.fetch_open_orders(BTC, params={"trigger": True})
    assert {one["info"]["orderType"] for one in waiting} == {"STOP", "TRAILING_STOP_MARKET"}
    resting = await exchange.create_order(BTC, "limit", "buy", 0.01, 49_000)
    edited = await exchange.edit_order(resting["id"], BTC, "limit", "buy", 0.02, 49_100)
    assert (edited["id"], edited["amount"], edited["price"]) == (resting["id"], 0.02, 49_100)
    post_only = await exchange.create_order(BTC, "limit", "buy", 0.01, 48_000, {"postOnly": True})
    batch = await exchange.create_orders(
        [
            {"symbol": BTC, "type": "limit", "side": "buy", "amount": 0.01, "price": 48_500},
            {"symbol": BTC, "type": "limit", "side": "buy", "amount": 0.01, "price": 48_600},
        ]
    )
    assert len(await exchange.fetch_open_orders(BTC)) == 4
    await exchange.cancel_orders([one["id"] for one in batch], BTC)
    assert {one["id"] for one in await exchange.fetch_open_orders(BTC)} == {edited["id"], post_only["id"]}
    await advance(server, 2)  # 01:00 falls to 49600: through the stop, and 0.5 % below any high
    trades = await exchange.fetch_my_trades(BTC)
    assert sorted(one["amount"] for one in trades if one["side"] == "sell") == [0.05, 0.05]
    for conditional in (stop, trailing):
        done = await exchange.fetch_order(conditional["id"], BTC, {"trigger": True})
        assert done["info"]["actualQty"] == "0.05"
    await exchange.cancel_all_orders(BTC)
    assert await exchange.fetch_open_orders(BTC) == []


async def test_hedge_mode_and_isolated_margin(server: PaperServer, exchange: Any) -> None:
    await exchange.load_markets()
    await exchange.set_position_mode(True)
    assert (await exchange.fetch_position_mode())["hedged"] is True
    await exchange.set_margin_mode("isolated", BTC)
    with pytest.raises(ccxt.ExchangeError, match="-4046"):
        await exchange.set_margin_mode("isolated", BTC)
    await exchange.set_leverage(20, BTC)
    await exchange.create_order(BTC, "market", "buy", 0.2, None, {"positionSide": "LONG"})
    await exchange.create_order(BTC, "market", "sell", 0.1, None, {"positionSide": "SHORT"})
    positions = {one["side"]: one for one in await exchange.fetch_positions()}
    assert {side: one["contracts"] for side, one in positions.items()} == {"long": 0.2, "short": 0.1}
    assert positions["long"]["marginMode"] == "isolated"
    assert positions["long"]["collateral"] == pytest.approx(495.0)  # 10000 / 20, less the fee of 5
    await exchange.add_margin(BTC, 100, {"positionSide": "LONG"})
    positions = {one["side"]: one for one in await exchange.fetch_positions()}
    assert positions["long"]["collateral"] == pytest.approx(595.0)


async def test_refusals_have_binances_codes(exchange: Any) -> None:
    await exchange.load_markets()
    with pytest.raises(ccxt.ExchangeError, match="-2019"):
        await exchange.create_order(BTC, "market", "buy", 100)
    with pytest.raises(ccxt.ExchangeError, match="-2022"):
        await exchange.create_order(BTC, "market", "buy", 0.1, None, {"reduceOnly": True})
    with pytest.raises(ccxt.OrderNotFound):
        await exchange.cancel_order("12345", BTC)
