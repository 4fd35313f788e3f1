"""REST over real HTTP, through python-binance's own client."""

from __future__ import annotations

import time
from typing import Any

import aiohttp
import pytest

from live.paper.runtime import PaperServer
from live.paper.server import PaperApp

HOUR_MS = 3_600_000
START_MS = 1_704_067_200_000
AT_START_MS = START_MS + 100 * HOUR_MS


async def test_market_data(client, refused) -> None:
    assert await client.futures_ping() == {}
    assert await client.futures_time() == {"serverTime": AT_START_MS}
    info = await client.futures_exchange_info()
    assert [s["symbol"] for s in info["symbols"]] == ["BTCUSDT", "ETHUSDT"]
    filters = {f["filterType"]: f for f in info["symbols"][0]["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "0.10"
    assert filters["MIN_NOTIONAL"]["notional"] == "50"
    rows = await client.futures_klines(symbol="BTCUSDT", interval="1h", limit=3)
    assert [row[0] for row in rows] == [AT_START_MS - 2 * HOUR_MS, AT_START_MS - HOUR_MS, AT_START_MS]
    assert rows[1][1:6] == ["50990.0", "51010.0", "50980.0", "51000.0", "10.0"]
    assert rows[2][1:7] == ["51000.0"] * 4 + ["0.0", AT_START_MS + HOUR_MS - 1]
    assert (await client.futures_symbol_ticker(symbol="BTCUSDT"))["price"] == "51000"
    mark = await client.futures_mark_price(symbol="ETHUSDT")
    assert mark["markPrice"] == "2600.00000000"
    assert (await client.futures_orderbook_ticker(symbol="BTCUSDT"))["askPrice"] == "51000.1"
    assert (await client.futures_order_book(symbol="BTCUSDT", limit=5))["bids"][0][0] == "51000"
    assert (await client.futures_ticker(symbol="BTCUSDT"))["priceChange"] == "240"
    assert await client.futures_funding_rate(symbol="BTCUSDT") == []
    assert await refused(client.futures_klines(symbol="NOPEUSDT", interval="1h")) == (-1121, 400)
    assert await refused(client.futures_klines(symbol="BTCUSDT", interval="1s")) == (-1120, 400)
    assert await refused(client.futures_klines(symbol="BTCUSDT", interval="1h", limit=1501)) == (-1130, 400)
    assert await refused(client.futures_order_book(symbol="BTCUSDT", limit=7)) == (-4021, 400)


@pytest.mark.parametrize(
    ("client", "headers", "status"),
    [
        ("127.0.0.1", [], 200),
        ("::1", [], 200),
        ("192.0.2.7", [], 403),
        ("127.0.0.1", [(b"origin", b"http://127.0.0.1:8899")], 403),  # a page in somebody's browser
    ],
)
async def test_who_may_control_the_exchange(
    exchange, market, client: str, headers: list[tuple[bytes, bytes]], status: int
) -> None:
    app = PaperApp(exchange(market({"BTCUSDT": [(50_000.0,) * 4] * 3})), wall_s=time.time)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/paper/advance",
        "query_string": b"",
        "headers": headers,
    }
    await app({**scope, "client": (client, 40_000)}, receive, send)
    assert sent[0]["status"] == status
    assert app.exchange.index == (2 if status == 200 else 1)


async def test_nobody_may_call_himself_local(
    server: PaperServer, monkeypatch: pytest.MonkeyPatch, exchange, market
) -> None:
    # What a proxy on this machine says of its client is believed.
    async with aiohttp.ClientSession() as session:
        headers = {"X-Forwarded-For": "192.0.2.7"}
        async with session.get(f"{server.rest_url}/paper/state", headers=headers) as reply:
            assert reply.status == 403
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    other = PaperServer(exchange(market({"BTCUSDT": [(50_000.0,) * 4] * 3})))
    assert other._server.config.forwarded_allow_ips == "127.0.0.1"
    other.stop()


async def test_account_and_settings(client, refused) -> None:
    (balance,) = await client.futures_account_balance()
    assert (balance["asset"], balance["balance"]) == ("USDT", "10000.00000000")
    account = await client.futures_account(version=3)
    assert (account["totalMarginBalance"], account["positions"]) == ("10000.00000000", [])
    assert account["assets"][0]["updateTime"] > 0
    assert [p["leverage"] for p in (await client.futures_account())["positions"]] == ["20", "20"]
    assert await client.futures_position_information() == []
    assert len(await client.futures_position_information(version=2)) == 2
    assert await client.futures_change_leverage(symbol="BTCUSDT", leverage=10) == {
        "leverage": 10,
        "maxNotionalValue": "230000000",
        "symbol": "BTCUSDT",
    }
    assert [row["leverage"] for row in await client.futures_symbol_config()] == [10, 20]
    assert await refused(client.futures_change_leverage(symbol="BTCUSDT", leverage=200)) == (-4028, 400)
    assert await refused(client.futures_change_margin_type(symbol="BTCUSDT", marginType="CROSSED")) == (
        -4046,
        400,
    )
    assert await client.futures_change_margin_type(symbol="BTCUSDT", marginType="ISOLATED") == {
        "code": 200,
        "msg": "success",
    }
    assert [row["marginType"] for row in await client.futures_symbol_config()] == ["ISOLATED", "CROSSED"]
    assert await client.futures_get_position_mode() == {"dualSidePosition": False}
    assert await refused(client.futures_change_position_mode(dualSidePosition="false")) == (-4059, 400)
    await client.futures_change_position_mode(dualSidePosition="true")
    assert await client.futures_get_position_mode() == {"dualSidePosition": True}
    assert len(await client.futures_position_information(version=2)) == 4
    assert [
        len(view["positions"])
        for view in (await client.futures_account(), await client.futures_account(version=3))
    ] == [6, 0]
    assert await client.futures_get_multi_assets_mode() == {"multiAssetsMargin": False}
    (brackets,) = await client.futures_leverage_bracket(symbol="BTCUSDT")
    assert brackets["brackets"][1] == {
        "bracket": 2,
        "initialLeverage": 100,
        "notionalCap": 800_000,
        "notionalFloor": 300_000,
        "maintMarginRatio": 0.005,
        "cum": 300.0,
    }
    assert (await client.futures_commission_rate(symbol="BTCUSDT"))["takerCommissionRate"] == "0.000500"


async def test_keys_signatures_and_timestamps(server, client_for, refused) -> None:
    cases = [
        (client_for(server, "alice", "wrong"), (-1022, 400)),
        (client_for(server, "nobody"), (-2015, 401)),
    ]
    for stranger, expected in cases:
        assert await refused(stranger.futures_account_balance()) == expected
        assert (
            await refused(
                stranger.futures_create_order(symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.01")
            )
            == expected
        )
    late = client_for(server)
    # Neither the wall clock's time nor one in the replayed span.
    late.timestamp_offset = -365 * 24 * HOUR_MS
    assert await refused(late.futures_account_balance()) == (-1021, 400)
    late.timestamp_offset = AT_START_MS - int(time.time() * 1000)
    assert len(await late.futures_account_balance()) == 1  # the feed's own time


async def test_market_order_place_read_and_account(client) -> None:
    placed = await client.futures_create_order(
        symbol="BTCUSDT",
        side="BUY",
        type="MARKET",
        quantity="0.1",
        newClientOrderId="agent_BTCUSDT_1o",
        newOrderRespType="RESULT",
    )
    assert (placed["status"], placed["executedQty"], placed["cumQty"]) == ("FILLED", "0.100", "0.100")
    assert "avgPrice" not in placed
    assert "cumQuote" not in placed
    read = await client.futures_get_order(symbol="BTCUSDT", origClientOrderId="agent_BTCUSDT_1o")
    assert read["orderId"] == placed["orderId"]
    assert (read["avgPrice"], read["cumQuote"]) == ("51005.10", "5100.51")  # 51000 * 1.0001
    (trade,) = await client.futures_account_trades(symbol="BTCUSDT")
    assert (trade["id"], trade["price"], trade["commission"]) == (1, "51005.1", "2.55025500")
    (position,) = await client.futures_position_information()
    assert (position["positionAmt"], position["entryPrice"]) == ("0.100", "51005.1")
    assert position["unRealizedProfit"] == "-0.51000000"
    account = await client.futures_account(version=3)
    assert account["totalWalletBalance"] == "9997.44974500"
    assert account["totalInitialMargin"] == "255.00000000"  # 5100 / 20
    assert account["totalMaintMargin"] == "20.40000000"
    acknowledged = await client.futures_create_order(
        symbol="BTCUSDT", side="SELL", type="MARKET", quantity="0.1", reduceOnly="true"
    )
    assert (acknowledged["status"], acknowledged["executedQty"]) == ("NEW", "0.000")
    assert await client.futures_position_information() == []
    income = await client.futures_income_history()
    assert [row["incomeType"] for row in income] == ["TRANSFER", "COMMISSION", "REALIZED_PNL", "COMMISSION"]
    assert [row["tranId"] for row in income] == [1, 2, 3, 4]
    assert await client.futures_income_history(incomeType="REALIZED_PNL", symbol="ETHUSDT") == []
    assert len(await client.futures_account_trades(symbol="BTCUSDT", fromId=2)) == 1


async def test_refused_orders(client, refused) -> None:
    def order(**changes: Any) -> Any:
        wanted = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01", **changes}
        return refused(client.futures_create_order(**{k: v for k, v in wanted.items() if v is not None}))

    assert await order(symbol="NOPEUSDT") == (-1121, 400)
    assert await order(symbol=None) == (-1102, 400)
    assert await order(side="HOLD") == (-1117, 400)
    assert await order(type="ICEBERG") == (-1116, 400)
    assert await order(quantity=None) == (-1102, 400)
    assert await order(quantity=0.00001) == (-1100, 400)  # python writes 1e-05
    assert await order(quantity="0.0001") == (-1111, 400)
    assert await order(quantity="1000") == (-4005, 400)
    assert await order(quantity="0.0") == (-4003, 400)
    assert await order(price="50000") == (-1106, 400)
    assert await order(quantity="5") == (-2019, 400)
    assert await order(reduceOnly=True) == (-1130, 400)  # python writes True
    assert await order(reduceOnly="true") == (-2022, 400)
    assert await order(positionSide="LONG") == (-4061, 400)
    assert await order(newOrderRespType="FULL") == (-1136, 400)
    assert await order(type="LIMIT", price="51000") == (-1102, 400)
    assert await order(type="LIMIT", price="51000", timeInForce="GTD") == (-1102, 400)
    assert await order(newClientOrderId="a:b") == (
        -1022,
        400,
    )  # python-binance signs it raw, aiohttp encodes it
    assert await client.futures_get_all_orders(symbol="BTCUSDT") == []


async def test_lookups_cancels_and_duplicates(client, refused) -> None:
    missing = {"symbol": "BTCUSDT", "origClientOrderId": "never-sent"}
    assert await refused(client.futures_get_order(**missing)) == (-2013, 400)
    assert await refused(client.futures_cancel_order(**missing)) == (-2011, 400)
    assert await refused(client.futures_get_order(symbol="BTCUSDT")) == (-1102, 400)
    limit = {
        "symbol": "BTCUSDT",
        "side": "BUY",
        "type": "LIMIT",
        "timeInForce": "GTC",
        "quantity": "0.01",
        "price": "50000",
        "newClientOrderId": "rests",
    }
    placed = await client.futures_create_order(**limit)
    assert await refused(client.futures_create_order(**limit)) == (-4116, 400)
    (resting,) = await client.futures_get_open_orders()
    assert (resting["orderId"], resting["price"], resting["status"]) == (placed["orderId"], "50000.00", "NEW")
    cancelled = await client.futures_cancel_order(symbol="BTCUSDT", origClientOrderId="rests")
    assert cancelled["status"] == "CANCELED"
    assert await client.futures_get_open_orders(symbol="BTCUSDT") == []
    await client.futures_create_order(**limit)
    assert (await client.futures_cancel_all_open_orders(symbol="BTCUSDT"))["code"] == 200
    assert [o["status"] for o in await client.futures_get_all_orders(symbol="BTCUSDT")] == ["CANCELED"] * 2
    tested = await client.futures_create_test_order(**limit)
    assert tested["orderId"] == 0
    assert len(await client.futures_get_all_orders(symbol="BTCUSDT")) == 2


async def test_batch_orders_succeed_and_fail_one_by_one(client) -> None:
    good = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01"}
    replies = await client.futures_place_batch_order(
        batchOrders=[good, {**good, "reduceOnly": "true", "side": "BUY"}, {**good, "symbol": "ETHUSDT"}]
    )
    assert replies[0]["symbol"] == "BTCUSDT"
    assert replies[1] == {"code": -2022, "msg": "ReduceOnly Order is rejected."}
    assert replies[2]["symbol"] == "ETHUSDT"


async def test_conditional_orders(client, advance, refused) -> None:
    await client.futures_create_order(symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.1")
    placed = await client.futures_create_order(
        symbol="BTCUSDT",
        side="SELL",
        type="TAKE_PROFIT_MARKET",
        stopPrice="51020",
        closePosition="true",
        clientAlgoId="agent_BTCUSDT_1t",
    )
    assert (placed["algoStatus"], placed["triggerPrice"]) == ("NEW", "51020.00")
    assert await client.futures_get_open_orders(symbol="BTCUSDT") == []
    (waiting,) = await client.futures_get_open_orders(symbol="BTCUSDT", conditional=True)
    assert (waiting["clientAlgoId"], waiting["actualOrderId"]) == ("agent_BTCUSDT_1t", "")
    stop = await client.futures_create_order(
        symbol="BTCUSDT",
        side="SELL",
        type="STOP_MARKET",
        stopPrice="50000",
        quantity="0.1",
        reduceOnly="true",
    )
    cancelled = await client.futures_cancel_order(symbol="BTCUSDT", algoId=stop["algoId"])
    assert cancelled == {
        "algoId": stop["algoId"],
        "clientAlgoId": stop["clientAlgoId"],
        "code": "200",
        "msg": "success",
    }
    await advance()  # high 51020
    done = await client.futures_get_order(symbol="BTCUSDT", clientAlgoId="agent_BTCUSDT_1t")
    assert (done["algoStatus"], done["actualQty"]) == ("FINISHED", "0.1")
    order = await client.futures_get_order(symbol="BTCUSDT", origClientOrderId="agent_BTCUSDT_1t")
    assert str(order["orderId"]) == done["actualOrderId"]
    assert (order["type"], order["origType"]) == ("MARKET", "TAKE_PROFIT_MARKET")
    assert await refused(client.futures_cancel_order(symbol="BTCUSDT", clientAlgoId="agent_BTCUSDT_1t")) == (
        -2011,
        400,
    )
    assert await refused(client.futures_cancel_order(symbol="BTCUSDT", clientAlgoId="unknown")) == (
        -2013,
        400,
    )
    raw = {
        "symbol": "BTCUSDT",
        "side": "SELL",
        "type": "STOP_MARKET",
        "stopPrice": "50000",
        "closePosition": "true",
    }
    assert await refused(client._request_futures_api("post", "order", True, data=dict(raw))) == (-4120, 400)
    await client.futures_create_order(**{**raw, "clientAlgoId": "left"})
    assert (await client.futures_cancel_all_open_orders(symbol="BTCUSDT", conditional=True))["code"] == 200
    statuses = [a["algoStatus"] for a in await client.futures_get_all_algo_orders(symbol="BTCUSDT")]
    assert statuses == ["FINISHED", "CANCELED", "CANCELED"]


async def test_accounts_do_not_see_each_other(server, client, client_for, refused) -> None:
    bob = client_for(server, "bob")
    await client.futures_create_order(symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.1")
    assert (await bob.futures_account(version=3))["totalWalletBalance"] == "500.00000000"
    assert await bob.futures_account_trades(symbol="BTCUSDT") == []
    assert await refused(bob.futures_get_order(symbol="BTCUSDT", orderId=1)) == (-2013, 400)
    assert await bob.futures_stream_get_listen_key() != await client.futures_stream_get_listen_key()


async def test_headers_and_unknown_paths(server, client) -> None:
    await client.futures_account_balance()
    used = int(client.response.headers["X-MBX-USED-WEIGHT-1M"])
    await client.futures_account_balance()
    assert int(client.response.headers["X-MBX-USED-WEIGHT-1M"]) in (used + 5, 5)  # 5: a new minute began
    await client.futures_create_order(symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.01")
    assert client.response.headers["X-MBX-ORDER-COUNT-10S"] == "1"
    assert client.response.headers["Content-Type"].startswith("application/json")
    async with client.session.get(f"{server.rest_url}/fapi/v1/nothing") as reply:
        assert reply.status == 404
        assert (await reply.json())["code"] == -5000
