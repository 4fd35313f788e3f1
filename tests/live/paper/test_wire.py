"""The exchange over real HTTP and WebSockets, through python-binance's own client and socket manager."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from binance import AsyncClient, BinanceSocketManager
from binance.exceptions import BinanceAPIException

from live.paper.runtime import PaperServer

HOUR_MS = 3_600_000
START_MS = 1_704_067_200_000
AT_START_MS = START_MS + 100 * HOUR_MS


def client_for(server: PaperServer, key: str = "alice", secret: str | None = None) -> AsyncClient:
    """python-binance's client with nothing changed but its addresses."""

    class Local(AsyncClient):  # type: ignore[misc]
        API_URL = f"{server.rest_url}/api"
        FUTURES_URL = f"{server.rest_url}/fapi"

    return Local(key, f"{key}-secret" if secret is None else secret)


def sockets_for(server: PaperServer, client: AsyncClient) -> BinanceSocketManager:
    """python-binance's socket manager with nothing changed but its address."""

    class Local(BinanceSocketManager):  # type: ignore[misc]
        FSTREAM_URL = server.ws_url

    return Local(client, max_queue_size=1000)


@pytest.fixture
async def client(server: PaperServer) -> AsyncIterator[AsyncClient]:
    made = client_for(server)
    yield made
    await made.close_connection()


async def advance(server: PaperServer, candles: int = 1) -> dict[str, Any]:
    """Play candles without blocking the test's loop."""
    return await asyncio.to_thread(server.advance, candles)


async def refused(call: Any) -> tuple[int, int]:
    """(code, HTTP status) that a call is refused with."""
    with pytest.raises(BinanceAPIException) as problem:
        await call
    return problem.value.code, problem.value.status_code


async def test_market_data(server: PaperServer, client: AsyncClient) -> None:
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


async def test_account_and_settings(server: PaperServer, client: AsyncClient) -> None:
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
    assert await refused(client.futures_change_margin_type(symbol="BTCUSDT", marginType="ISOLATED")) == (
        -1130,
        400,
    )
    assert await client.futures_get_position_mode() == {"dualSidePosition": False}
    assert await refused(client.futures_change_position_mode(dualSidePosition="false")) == (-4059, 400)
    assert await refused(client.futures_change_position_mode(dualSidePosition="true")) == (-1130, 400)
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


async def test_keys_signatures_and_timestamps(server: PaperServer) -> None:
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
        await stranger.close_connection()
    late = client_for(server)
    # Neither the wall clock's time nor one in the replayed span.
    late.timestamp_offset = -365 * 24 * HOUR_MS
    assert await refused(late.futures_account_balance()) == (-1021, 400)
    late.timestamp_offset = AT_START_MS - int(time.time() * 1000)
    assert len(await late.futures_account_balance()) == 1  # the feed's own time
    await late.close_connection()


async def test_market_order_place_read_and_account(server: PaperServer, client: AsyncClient) -> None:
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


async def test_refused_orders(server: PaperServer, client: AsyncClient) -> None:
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
    assert await order(newOrderRespType="FULL") == (-1130, 400)
    assert await order(type="LIMIT", price="51000") == (-1102, 400)
    assert await order(type="LIMIT", price="51000", timeInForce="GTD") == (-1115, 400)
    assert await order(newClientOrderId="a:b") == (
        -1022,
        400,
    )  # python-binance signs it raw, aiohttp encodes it
    assert await client.futures_get_all_orders(symbol="BTCUSDT") == []


async def test_lookups_cancels_and_duplicates(server: PaperServer, client: AsyncClient) -> None:
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


async def test_batch_orders_succeed_and_fail_one_by_one(server: PaperServer, client: AsyncClient) -> None:
    good = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01"}
    replies = await client.futures_place_batch_order(
        batchOrders=[good, {**good, "reduceOnly": "true", "side": "BUY"}, {**good, "symbol": "ETHUSDT"}]
    )
    assert replies[0]["symbol"] == "BTCUSDT"
    assert replies[1] == {"code": -2022, "msg": "ReduceOnly Order is rejected."}
    assert replies[2]["symbol"] == "ETHUSDT"


async def test_conditional_orders(server: PaperServer, client: AsyncClient) -> None:
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
    await advance(server)  # high 51020
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


async def test_accounts_do_not_see_each_other(server: PaperServer, client: AsyncClient) -> None:
    bob = client_for(server, "bob")
    await client.futures_create_order(symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.1")
    assert (await bob.futures_account(version=3))["totalWalletBalance"] == "500.00000000"
    assert await bob.futures_account_trades(symbol="BTCUSDT") == []
    assert await refused(bob.futures_get_order(symbol="BTCUSDT", orderId=1)) == (-2013, 400)
    assert await bob.futures_stream_get_listen_key() != await client.futures_stream_get_listen_key()
    await bob.close_connection()


async def test_headers_and_unknown_paths(server: PaperServer, client: AsyncClient) -> None:
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


async def test_user_stream_tells_of_orders_and_triggers(server: PaperServer, client: AsyncClient) -> None:
    async with closing_soon(sockets_for(server, client).futures_user_socket()) as user:
        await client.futures_create_order(
            symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.1", newClientOrderId="first"
        )
        new, lite, fill, account = [await receive(user) for _ in range(4)]
        assert [e["e"] for e in (new, lite, fill, account)] == [
            "ORDER_TRADE_UPDATE",
            "TRADE_LITE",
            "ORDER_TRADE_UPDATE",
            "ACCOUNT_UPDATE",
        ]
        assert (new["o"]["x"], new["o"]["X"], new["T"]) == ("NEW", "NEW", AT_START_MS)
        order = fill["o"]
        assert (order["c"], order["x"], order["X"], order["t"]) == ("first", "TRADE", "FILLED", 1)
        assert (order["L"], order["n"], order["N"], order["rp"]) == (
            "51005.1",
            "2.55025500",
            "USDT",
            "0.00000000",
        )
        assert account["a"]["B"][0]["wb"] == "9997.44974500"
        assert (account["a"]["P"][0]["pa"], account["a"]["P"][0]["ep"]) == ("0.100", "51005.1")
        await client.futures_create_order(
            symbol="BTCUSDT", side="SELL", type="TAKE_PROFIT_MARKET", stopPrice="51020", closePosition="true"
        )
        await advance(server)
        heard = [await receive(user) for _ in range(8)]
        assert [e["o"]["X"] for e in heard if e["e"] == "ALGO_UPDATE"] == [
            "NEW",
            "TRIGGERING",
            "TRIGGERED",
            "FINISHED",
        ]
        assert {e["T"] for e in heard[1:]} == {AT_START_MS + HOUR_MS - 1}  # the close of the candle


async def test_lock_step_klines(server: PaperServer, client: AsyncClient) -> None:
    streams = ["btcusdt@kline_1h", "ethusdt@kline_1h", "btcusdt@kline_4h"]
    async with closing_soon(sockets_for(server, client).futures_multiplex_socket(streams)) as market:
        await asyncio.sleep(0.1)
        state = await advance(server, 4)
        assert state == {"clock": AT_START_MS + 4 * HOUR_MS, "index": 104, "remaining": 56, "done": False}
        heard = [await receive(market) for _ in range(9)]
        assert [m["stream"] for m in heard[:2]] == ["btcusdt@kline_1h", "ethusdt@kline_1h"]
        first = heard[0]["data"]
        assert first["E"] == AT_START_MS + HOUR_MS - 1
        assert first["k"]["t"] == AT_START_MS
        assert (first["k"]["o"], first["k"]["h"], first["k"]["l"], first["k"]["c"], first["k"]["x"]) == (
            "51000.0",
            "51020.0",
            "50990.0",
            "51010.0",
            True,
        )
        (longer,) = [m["data"]["k"] for m in heard if m["stream"] == "btcusdt@kline_4h"]
        assert (longer["t"], longer["o"], longer["h"], longer["l"], longer["c"], longer["v"]) == (
            AT_START_MS,
            "51000.0",
            "51050.0",
            "50990.0",
            "51040.0",
            "40.0",
        )
        rows = await client.futures_klines(symbol="BTCUSDT", interval="4h", limit=2)
        assert (rows[0][0], rows[0][4]) == (longer["t"], longer["c"])


async def test_single_kline_socket_speaks_continuous_klines(server: PaperServer, client: AsyncClient) -> None:
    async with closing_soon(sockets_for(server, client).kline_futures_socket("btcusdt", "1h")) as market:
        await asyncio.sleep(0.1)
        await advance(server)
        event = await receive(market)
    assert (event["e"], event["ps"], event["ct"], event["k"]["x"]) == (
        "continuous_kline",
        "BTCUSDT",
        "PERPETUAL",
        True,
    )
    assert "s" not in event["k"]


async def test_listen_keys(server: PaperServer, client: AsyncClient) -> None:
    key = await client.futures_stream_get_listen_key()
    assert len(key) == 64
    assert await client.futures_stream_get_listen_key() == key
    await client.futures_stream_keepalive(listenKey=key)
    await client.futures_stream_close(listenKey=key)
    assert await refused(client.futures_stream_keepalive(listenKey=key)) == (-1125, 400)
    assert await client.futures_stream_get_listen_key() != key


async def test_control_routes_refuse_nonsense(server: PaperServer, client: AsyncClient) -> None:
    for body in ("nonsense", '{"candles": 0}', '{"candles": true}', '{"candles": "2"}', "[1]"):
        async with client.session.post(f"{server.rest_url}/paper/advance", data=body) as reply:
            assert reply.status == 400
    async with client.session.get(f"{server.rest_url}/paper/state") as reply:
        assert await reply.json() == {
            "clock": AT_START_MS,
            "index": 100,
            "remaining": 60,
            "done": False,
            "speed": None,
            "lock_step": True,
            "symbols": ["BTCUSDT", "ETHUSDT"],
            "interval": "1h",
            "synthetic": False,
        }
    assert (await advance(server, 1000))["done"] is True
    rows = await client.futures_klines(symbol="BTCUSDT", interval="1h", limit=2)
    assert rows[-1][6] < (await client.futures_time())["serverTime"]  # no open candle is left


def closing_soon(socket: Any) -> Any:
    """The same socket, looking up from its wait often: it is closed only then, by default after 10 s."""
    socket.TIMEOUT = 0.1
    return socket


async def receive(socket: Any) -> Any:
    """The next message, within 5 s."""
    return await asyncio.wait_for(socket.recv(), 5)


def test_decimal_amounts_survive_the_wire(server: PaperServer) -> None:
    (account, _) = server.exchange.engine.accounts.values()
    assert account.wallet_usdt == Decimal(10_000)
