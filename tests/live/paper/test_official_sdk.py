"""Binance's own Python SDK, unmodified, trades for a day: REST, the WS-API and its three stream sockets.

The same day as in `test_ccxt`, with the figures worked out there.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from binance_common.errors import BadRequestError
from binance_sdk_derivatives_trading_usds_futures.derivatives_trading_usds_futures import (
    ConfigurationRestAPI,
    ConfigurationWebSocketAPI,
    ConfigurationWebSocketStreams,
    DerivativesTradingUsdsFutures,
)

from live.paper.runtime import PaperServer
from tests.lib.paper_day import HOUR_MS, KEY, SECRET, START_MS, only_loopback, trading_day

pytestmark = pytest.mark.filterwarnings(
    # binance-common hands aiohttp's ws_connect a number, which aiohttp has replaced by ClientWSTimeout.
    "ignore:parameter 'timeout' of type 'float' is deprecated:DeprecationWarning"
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", only_loopback())


@pytest.fixture
def server() -> Iterator[PaperServer]:
    with trading_day() as running:
        yield running


@pytest.fixture
def sdk(server: PaperServer) -> DerivativesTradingUsdsFutures:
    return DerivativesTradingUsdsFutures(
        config_rest_api=ConfigurationRestAPI(KEY, SECRET, base_path=server.rest_url, timeout=5000),
        config_ws_api=ConfigurationWebSocketAPI(KEY, SECRET, stream_url=f"{server.ws_url}ws-fapi/v1"),
        config_ws_streams=ConfigurationWebSocketStreams(stream_url=server.ws_url.rstrip("/")),
    )


@pytest.fixture
def rest(sdk: DerivativesTradingUsdsFutures) -> Iterator[Any]:
    yield sdk.rest_api
    sdk.rest_api._session.close()


@pytest.fixture
async def streams(sdk: DerivativesTradingUsdsFutures) -> AsyncIterator[Any]:
    made = await sdk.websocket_streams.create_connection()
    yield made
    await made.close_connection(close_session=True)


@pytest.fixture
async def ws_api(sdk: DerivativesTradingUsdsFutures) -> AsyncIterator[Any]:
    made = await sdk.websocket_api.create_connection()
    yield made
    await made.close_connection(close_session=True)


async def ask(method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """The data of a REST call, made in a thread: the SDK blocks."""
    reply = await asyncio.to_thread(method, *arguments, **named)
    return reply.data()


async def advance(server: PaperServer, candles: int = 1) -> None:
    await asyncio.to_thread(server.advance, candles)


async def test_a_day(server: PaperServer, rest: Any, streams: Any) -> None:
    info = await ask(rest.exchange_information)
    assert [one.symbol for one in info.symbols] == ["BTCUSDT", "ETHUSDT"]
    (balance,) = await ask(rest.futures_account_balance_v3)
    assert balance.balance == "10000.00000000"
    assert (await ask(rest.change_initial_leverage, "BTCUSDT", 10)).leverage == 10

    key = (await ask(rest.start_user_data_stream)).listen_key
    user, hours, books, marks = [], [], [], []
    (await streams.user_data(key)).on("message", user.append)
    (await streams.kline_candlestick_streams(symbol="btcusdt", interval="1h")).on("message", hours.append)
    (await streams.individual_symbol_book_ticker_streams(symbol="btcusdt")).on("message", books.append)
    (await streams.mark_price_stream(symbol="btcusdt")).on("message", marks.append)

    # 00:00: 0.1 at 50000; half of a limit order that crosses; a buy order that rests at 49650 until 01:00.
    bought = await ask(
        rest.new_order,
        "BTCUSDT",
        "BUY",
        "MARKET",
        quantity=0.1,
        new_client_order_id="sdk-1",
        new_order_resp_type="RESULT",
    )
    assert (bought.status, bought.executed_qty, bought.client_order_id) == ("FILLED", "0.100", "sdk-1")
    await asyncio.to_thread(server.fault, "partial_fill", share="0.5", pieces=2)
    limit = {"quantity": 0.1, "price": 50_005.0, "time_in_force": "GTC", "new_order_resp_type": "RESULT"}
    part = await ask(rest.new_order, "BTCUSDT", "BUY", "LIMIT", **limit)
    assert (part.status, part.executed_qty) == ("PARTIALLY_FILLED", "0.050")
    cancelled = await ask(rest.cancel_order, "BTCUSDT", order_id=part.order_id)
    assert (cancelled.status, cancelled.executed_qty) == ("CANCELED", "0.050")
    resting = {"quantity": 0.05, "price": 49_650.0, "time_in_force": "GTC", "new_client_order_id": "sdk-2"}
    await ask(rest.new_order, "BTCUSDT", "BUY", "LIMIT", **resting)
    await advance(server, 2)
    filled = await ask(rest.query_order, "BTCUSDT", orig_client_order_id="sdk-2")
    assert (filled.status, filled.avg_price) == ("FILLED", "49650.00")
    (position,) = await ask(rest.position_information_v3)
    assert (position.position_amt, position.entry_price) == ("0.200", "49912.5")

    # 02:00: half of it leaves by a take-profit at 50400; 04:00: the rest by a stop at 50100.
    closing = {"quantity": 0.1, "reduce_only": "true"}
    await ask(
        rest.new_algo_order,
        "CONDITIONAL",
        "BTCUSDT",
        "SELL",
        "TAKE_PROFIT_MARKET",
        trigger_price=50_400,
        client_algo_id="sdk-t",
        **closing,
    )
    (waiting,) = await ask(rest.current_all_algo_open_orders)
    assert (waiting.client_algo_id, waiting.algo_status) == ("sdk-t", "NEW")
    await advance(server)
    await ask(
        rest.new_algo_order,
        "CONDITIONAL",
        "BTCUSDT",
        "SELL",
        "STOP_MARKET",
        trigger_price=50_100,
        client_algo_id="sdk-s",
        **closing,
    )
    await advance(server, 2)
    done = await ask(rest.query_algo_order, client_algo_id="sdk-s")
    assert (done.algo_status, done.actual_price) == ("FINISHED", "50100.00")
    assert await ask(rest.position_information_v3) == []

    # 05:00: short 0.1 at 50000 until 20:00, over two fundings of 0.5 each.
    await ask(rest.new_order, "BTCUSDT", "SELL", "MARKET", quantity=0.1)
    await advance(server, 15)
    await ask(rest.new_order, "BTCUSDT", "BUY", "MARKET", **closing)
    await advance(server, 4)
    account = await ask(rest.account_information_v3)
    assert float(account.total_wallet_balance) == pytest.approx(10_054.2285, abs=1e-9)
    trades = await ask(rest.account_trade_list, "BTCUSDT")
    assert [one.price for one in trades] == [
        "50000",
        "50000",
        "50000",
        "49650",
        "50400",
        "50100",
        "50000",
        "50000",
    ]
    fundings = await ask(rest.get_income_history, income_type="FUNDING_FEE")
    assert [(one.income, one.time) for one in fundings] == [
        ("0.50000000", START_MS + 8 * HOUR_MS),
        ("0.50000000", START_MS + 16 * HOUR_MS),
    ]

    async with asyncio.timeout(30):
        while min(len(hours), len(books), len(marks)) < 24 or len(fills_in(user)) < len(trades):
            await asyncio.sleep(0.01)
    events = [one.actual_instance for one in user]
    kinds = {type(one).__name__ for one in events}
    assert kinds >= {"OrderTradeUpdate", "AccountUpdate", "AlgoUpdate", "TradeLite"}
    assert [(one.t, one.L) for one in fills_in(user)] == [(one.id, one.price) for one in trades]
    assert [one.k.t for one in hours] == [START_MS + hour * HOUR_MS for hour in range(24)]
    assert (len(books), len(marks)) == (24, 24)
    assert marks[1].p == "49700.00000000"


def fills_in(user: list[Any]) -> list[Any]:
    """The fills among what the user stream told."""
    events = [one.actual_instance for one in user]
    return [one.o for one in events if type(one).__name__ == "OrderTradeUpdate" and one.o.x == "TRADE"]


async def test_the_ws_api(server: PaperServer, ws_api: Any) -> None:
    async def asked(method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return (await method(*arguments, **named)).data().result

    order = {"quantity": 0.01, "price": 49_000.0, "time_in_force": "GTC", "new_client_order_id": "ws-1"}
    reply = await ws_api.new_order("BTCUSDT", "BUY", "LIMIT", **order)
    assert reply.data().result.status == "NEW"
    assert [(one.rateLimitType, one.intervalNum, one.count) for one in reply.rate_limits] == [
        ("ORDERS", 10, 1),
        ("ORDERS", 1, 1),
    ]
    named = {"orig_client_order_id": "ws-1"}
    modified = await asked(ws_api.modify_order, "BTCUSDT", "BUY", quantity=0.02, price=49_100.0, **named)
    assert (modified.orig_qty, modified.price) == ("0.020", "49100.00")
    assert (await asked(ws_api.query_order, "BTCUSDT", **named)).status == "NEW"
    assert (await asked(ws_api.cancel_order, "BTCUSDT", **named)).status == "CANCELED"
    # The SDK hands an error over as data.
    again = await ws_api.cancel_order("BTCUSDT", **named)
    assert again.data() == {"error": {"code": -2011, "msg": "Unknown order sent."}}

    stop = {"trigger_price": 45_000.0, "close_position": "true", "client_algo_id": "ws-s"}
    placed = await asked(ws_api.new_algo_order, "CONDITIONAL", "BTCUSDT", "SELL", "STOP_MARKET", **stop)
    assert (placed.client_algo_id, placed.algo_status) == ("ws-s", "NEW")
    assert (await asked(ws_api.cancel_algo_order, client_algo_id="ws-s")).code == "200"

    await asked(ws_api.new_order, "BTCUSDT", "BUY", "MARKET", quantity=0.1)
    (position,) = await asked(ws_api.position_information_v2)
    assert (position.symbol, position.position_amt) == ("BTCUSDT", "0.100")
    assert len(await asked(ws_api.position_information)) == 2
    for method in (ws_api.futures_account_balance, ws_api.futures_account_balance_v2):
        assert (await asked(method))[0].balance == "9997.50000000"
    for method in (ws_api.account_information, ws_api.account_information_v2):
        assert (await asked(method)).total_wallet_balance == "9997.50000000"

    price = (await ws_api.symbol_price_ticker(symbol="BTCUSDT")).data().actual_instance.result
    assert price.price == "50000"
    best = (await ws_api.symbol_order_book_ticker(symbol="BTCUSDT")).data().actual_instance.result
    assert (best.bid_price, best.ask_price) == ("50000", "50000.1")
    assert (await asked(ws_api.order_book, "BTCUSDT", limit=5)).last_update_id > 0
    key = (await asked(ws_api.start_user_data_stream)).listen_key
    assert (await asked(ws_api.keepalive_user_data_stream)).listen_key == key
    await ws_api.close_user_data_stream()
    assert server.exchange.hub.keep_listen_key(server.exchange.engine.accounts[KEY]) is None


async def test_refusals_have_binances_codes(rest: Any) -> None:
    with pytest.raises(BadRequestError, match="Margin is insufficient") as refused:
        await ask(rest.new_order, "BTCUSDT", "BUY", "MARKET", quantity=100)
    assert refused.value.status_code == -2019
