"""Replies and events have the fields and types of recorded Binance payloads.

The examples are partly older than the API of today, so each comparison names what has gone since.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from binance import AsyncClient

from live.paper import events
from live.paper.account import PaperAccount
from live.paper.account_desk import set_leverage
from live.paper.closing import liquidate, warn_where_due
from live.paper.exchange import PaperExchange
from live.paper.feeds import ReplayFeed
from live.paper.history import Bar
from live.paper.market_events import kline
from live.paper.runtime import PaperServer
from live.paper.streams import Delivery
from tests.lib.payload_names import Recorded
from tests.live.paper.conftest import Bench, rising

PAYLOADS = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "payloads"
REPLIES = PAYLOADS / "binance_um_rest_responses.json"
EVENTS = PAYLOADS / "binance_um_stream_events.json"

needs_payloads = pytest.mark.skipif(not REPLIES.exists(), reason="../shared/data/payloads is not there")

# field -> why it may be missing: it belongs to another order type, to another product, or was removed.
GONE = {
    "activatePrice": "trailing orders",
    "priceRate": "trailing orders",
    "leverage": "left v3 positionRisk",
    "marginType": "left v3 positionRisk",
    "maxNotionalValue": "left v3 positionRisk",
    "isAutoAddMargin": "left v3 positionRisk",
    "avgPrice": "left place replies in 2026-06",
    "cumQuote": "left place replies in 2026-06",
    "AP": "trailing orders",
    "cr": "trailing orders",
}
# An order that did not fill tells of no commission.
ORDINARY_ORDERS_LACK = {f"ORDER_TRADE_UPDATE: o.{name} is missing" for name in ("N", "n")}
# (path, field) whose type in the examples is not what the exchange sends today.
TYPES_DIFFER = {
    ("/fapi/v1/income", "tranId"),
    ("/fapi/v1/income", "tradeId"),
    ("/fapi/v1/symbolConfig", "isAutoAddMargin"),
    ("/fapi/v1/leverageBracket", "cum"),
    ("/fapi/v1/leverageBracket", "notionalCoef"),
    ("/fapi/v1/exchangeInfo", "autoAssetExchange"),
    ("/fapi/v1/exchangeInfo", "multiplierDecimal"),
}


def example(method: str, path: str) -> Any:
    """The recorded answer of a path."""
    for row in json.loads(REPLIES.read_text()):
        if (row["method"], row["path"]) == (method, path):
            return row["response"]
    raise KeyError(path)


def differences(path: str, ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Fields of `theirs` that ours lacks, or has with another JSON type."""
    if isinstance(theirs, list):
        if not isinstance(ours, list):
            return [f"{where}: not a list"]
        return differences(path, ours[0], theirs[0], where) if ours and theirs else []
    if not isinstance(theirs, dict):
        return []
    found = []
    for name, value in theirs.items():
        place = f"{where}.{name}"
        if name not in ours:
            if name not in GONE:
                found.append(f"{place}: missing")
        elif value is not None and type(ours[name]) is not type(value) and (path, name) not in TYPES_DIFFER:
            found.append(f"{place}: {type(ours[name]).__name__} instead of {type(value).__name__}")
        else:
            found += differences(path, ours[name], value, place)
    return found


@pytest.fixture
async def client(server: PaperServer) -> AsyncIterator[AsyncClient]:
    class Local(AsyncClient):  # type: ignore[misc]
        FUTURES_URL = f"{server.rest_url}/fapi"

    made = Local("alice", "alice-secret")
    order = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.1"}
    await made.futures_create_order(**order, newClientOrderId="opened")
    yield made
    await made.close_connection()


@needs_payloads
async def test_rest_replies(client: AsyncClient) -> None:
    btc = {"symbol": "BTCUSDT"}
    limit = {
        **btc,
        "side": "BUY",
        "type": "LIMIT",
        "timeInForce": "GTC",
        "quantity": "0.01",
        "price": "50000",
    }
    stop = {**btc, "side": "SELL", "type": "STOP_MARKET", "stopPrice": "50000", "closePosition": "true"}
    placed = await client.futures_create_order(**limit)
    await client.futures_create_order(
        **{**stop, "type": "TAKE_PROFIT_MARKET", "stopPrice": "60000"}, clientAlgoId="a"
    )
    ours = {
        ("POST", "/fapi/v1/order"): placed,
        ("GET", "/fapi/v1/order"): await client.futures_get_order(**btc, orderId=placed["orderId"]),
        ("GET", "/fapi/v1/openOrder"): await client._request_futures_api(
            "get", "openOrder", True, data={**btc, "orderId": placed["orderId"]}
        ),
        ("GET", "/fapi/v1/openOrders"): await client.futures_get_open_orders(),
        ("GET", "/fapi/v1/allOrders"): await client.futures_get_all_orders(**btc),
        ("DELETE", "/fapi/v1/order"): await client.futures_cancel_order(**btc, orderId=placed["orderId"]),
        ("DELETE", "/fapi/v1/allOpenOrders"): await client.futures_cancel_all_open_orders(**btc),
        ("POST", "/fapi/v1/algoOrder"): await client.futures_create_order(**stop, clientAlgoId="b"),
        ("GET", "/fapi/v1/algoOrder"): await client.futures_get_algo_order(clientAlgoId="a"),
        ("GET", "/fapi/v1/openAlgoOrders"): await client.futures_get_open_algo_orders(),
        ("GET", "/fapi/v1/allAlgoOrders"): await client.futures_get_all_algo_orders(**btc),
        ("DELETE", "/fapi/v1/algoOpenOrders"): await client.futures_cancel_all_algo_open_orders(**btc),
        ("GET", "/fapi/v1/userTrades"): await client.futures_account_trades(**btc),
        ("GET", "/fapi/v1/income"): await client.futures_income_history(incomeType="COMMISSION"),
        ("GET", "/fapi/v2/account"): await client.futures_account(),
        ("GET", "/fapi/v3/account"): await client.futures_account(version=3),
        ("GET", "/fapi/v3/balance"): await client.futures_account_balance(),
        ("GET", "/fapi/v2/positionRisk"): await client.futures_position_information(version=2),
        ("GET", "/fapi/v3/positionRisk"): await client.futures_position_information(),
        ("GET", "/fapi/v1/accountConfig"): await client.futures_account_config(),
        ("GET", "/fapi/v1/symbolConfig"): await client.futures_symbol_config(),
        ("GET", "/fapi/v1/leverageBracket"): await client.futures_leverage_bracket(),
        ("POST", "/fapi/v1/leverage"): await client.futures_change_leverage(**btc, leverage=5),
        ("GET", "/fapi/v1/commissionRate"): await client.futures_commission_rate(**btc),
        ("GET", "/fapi/v1/exchangeInfo"): await client.futures_exchange_info(),
        ("GET", "/fapi/v1/premiumIndex"): await client.futures_mark_price(**btc),
        ("GET", "/fapi/v2/ticker/price"): await client.futures_symbol_ticker(**btc),
        ("GET", "/fapi/v1/ticker/24hr"): await client.futures_ticker(**btc),
        ("GET", "/fapi/v1/ticker/bookTicker"): await client.futures_orderbook_ticker(**btc),
    }
    found = []
    for (method, path), reply in ours.items():
        found += [f"{method} {path} {text}" for text in differences(path, reply, example(method, path))]
    assert found == []


@needs_payloads
def test_klines_have_the_types_of_a_row(server: PaperServer) -> None:
    theirs = example("GET", "/fapi/v1/klines")[0]
    ours = Bar(0, 1, 1.0, 2.0, 0.5, 1.5, 3.0).row()
    assert [type(value) for value in ours] == [type(value) for value in theirs]


@needs_payloads
def test_events(bench) -> None:
    recorded = {}
    for row in json.loads(EVENTS.read_text()):
        for message in row["messages"]:
            data = isinstance(message.get("received"), dict) and message["received"].get("data")
            if isinstance(data, dict):
                recorded[row["name"]] = data
    b = bench(BTCUSDT="50000")
    b.market("BTCUSDT", "0.1")
    b.trigger("BTCUSDT", "SELL", "STOP_MARKET", "49000")
    ours = {
        "OrderUpdate": b.heard("ORDER_TRADE_UPDATE")[-1],
        "TradeUpdate": b.heard("TRADE_LITE")[-1],
        "AccountUpdate": b.heard("ACCOUNT_UPDATE")[-1],
        "AlgoOrderUpdate": b.heard("ALGO_UPDATE")[-1],
        "Leverage": events.leverage_update("BTCUSDT", 5, 1),
        "Klines": kline("BTCUSDT", "1h", Bar(0, 1, 1.0, 2.0, 0.5, 1.5, 3.0), 1, closed=True),
        "ContKlines": kline(
            "BTCUSDT", "1h", Bar(0, 1, 1.0, 2.0, 0.5, 1.5, 3.0), 1, closed=True, continuous=True
        ),
    }
    found = []
    for name, event in ours.items():
        found += [f"{name} {text}" for text in differences(name, event, recorded[name])]
    assert found == []


class Listener:
    """Hears streams without a socket."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def push(self, text: str) -> None:
        message = json.loads(text)
        self.events += message if isinstance(message, list) else [message]


@needs_payloads
def test_every_event_has_the_names_of_recorded_ones_and_no_others(market) -> None:
    exchange = PaperExchange(
        ReplayFeed(market({"BTCUSDT": rising(12)}), 5), [PaperAccount("key", "secret", Decimal(1_000))]
    )
    engine = exchange.engine
    (account,) = engine.accounts.values()
    listener, here = Listener(), Bench(engine, account)
    for kind in (
        "kline_1h",
        "markPrice",
        "aggTrade",
        "trade",
        "ticker",
        "miniTicker",
        "bookTicker",
        "depth",
        "depth5",
    ):
        exchange.hub.subscribe(listener, f"btcusdt@{kind}", Delivery(enveloped=False))  # type: ignore[arg-type]
    for name in (
        *("btcusdt_perpetual@continuousKline_1h", "!ticker@arr", "!miniTicker@arr", "!markPrice@arr"),
        *("!bookTicker", "!forceOrder@arr", exchange.hub.open_listen_key(account)),
    ):
        exchange.hub.subscribe(listener, name, Delivery(enveloped=False))  # type: ignore[arg-type]
    here.market("BTCUSDT", "0.1")
    here.limit("BTCUSDT", "0.01", "49800")
    here.trigger("BTCUSDT", "SELL", "STOP_MARKET", "49000")
    set_leverage(engine, account, "BTCUSDT", 21)
    exchange.flush()
    exchange.advance()
    here.price("BTCUSDT", "40250")  # equity 17.50, maintenance margin 16.10
    warn_where_due(engine)
    liquidate(engine, account)
    exchange.flush()
    recorded, found = Recorded.load(), set()
    for event in listener.events:
        found |= set(recorded.differences(event["e"], event))
    assert found == ORDINARY_ORDERS_LACK
    heard = {event["e"] for event in listener.events}
    silent = {"contractInfo", "compositeIndex", "assetIndexUpdate"}
    not_futures = {"STRATEGY_UPDATE", "GRID_UPDATE", "CONDITIONAL_ORDER_TRIGGER_REJECT", "EquityUpdate"}
    known = {name for name in recorded.shapes if "/" not in name}
    assert heard == known - silent - not_futures
