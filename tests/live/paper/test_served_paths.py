"""Every path that is served, asked over HTTP: who may ask, what it weighs, what the answer looks like.

And the paths that the three clients know and that are not served here, so that a new one in a new version shows.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import binance.async_client
import binance_sdk_derivatives_trading_usds_futures as official
import ccxt
import pytest

from live.paper.calls import Pool, Route, Security
from live.paper.dispatch import ROUTES
from live.paper.runtime import PaperServer
from tests.lib.paper_client import PaperClient, paper_client
from tests.lib.payload_names import Recorded

BTC = {"symbol": "BTCUSDT"}
KLINES = {"interval": "1h", "limit": 2}
PAIR = {"pair": "BTCUSDT", **KLINES}
RESTING = {**BTC, "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.01", "price": "50000"}
STOP = {
    **BTC,
    "algoType": "CONDITIONAL",
    "side": "SELL",
    "type": "STOP_MARKET",
    "triggerPrice": "49000",
    "quantity": "0.01",
}
BATCH = '[{"symbol":"BTCUSDT","side":"BUY","type":"MARKET","quantity":"0.001"}]'
AMENDED = '[{"symbol":"BTCUSDT","origClientOrderId":"rests","side":"BUY","quantity":"0.011","price":"50001"}]'
RATIO = {**BTC, "period": "1h"}
NAMED = {**BTC, "origClientOrderId": "rests"}
N, K, S = Security.NONE, Security.KEY, Security.SIGNED

# (verb, path, who may ask, weight with these parameters, parameters, what the reply has: names, or a list of such)
SERVED: list[tuple[str, str, Security, int, dict[str, Any], Any]] = [
    ("GET", "/api/v3/ping", N, 1, {}, set()),
    ("GET", "/api/v3/time", N, 1, {}, {"serverTime"}),
    ("GET", "/fapi/v1/ping", N, 1, {}, set()),
    ("GET", "/fapi/v1/time", N, 1, {}, {"serverTime"}),
    ("GET", "/fapi/v1/exchangeInfo", N, 1, {}, {"symbols", "rateLimits", "assets"}),
    ("GET", "/fapi/v1/klines", N, 1, {**BTC, **KLINES}, [12]),
    ("GET", "/fapi/v1/continuousKlines", N, 1, {**PAIR, "contractType": "PERPETUAL"}, [12]),
    ("GET", "/fapi/v1/markPriceKlines", N, 1, {**BTC, **KLINES}, [12]),
    ("GET", "/fapi/v1/indexPriceKlines", N, 1, PAIR, [12]),
    ("GET", "/fapi/v1/premiumIndexKlines", N, 1, {**BTC, **KLINES}, [12]),
    ("GET", "/fapi/v1/premiumIndex", N, 1, BTC, {"markPrice", "lastFundingRate", "nextFundingTime"}),
    ("GET", "/fapi/v1/fundingRate", N, 0, BTC, []),
    ("GET", "/fapi/v1/fundingInfo", N, 0, {}, []),
    ("GET", "/fapi/v1/ticker/price", N, 1, BTC, {"symbol", "price", "time"}),
    ("GET", "/fapi/v2/ticker/price", N, 1, BTC, {"symbol", "price", "time"}),
    ("GET", "/fapi/v1/ticker/24hr", N, 1, BTC, {"lastPrice", "volume", "priceChange"}),
    ("GET", "/fapi/v1/ticker/bookTicker", N, 2, BTC, {"bidPrice", "askPrice"}),
    ("GET", "/fapi/v1/depth", N, 2, {**BTC, "limit": 5}, {"bids", "asks", "lastUpdateId"}),
    ("GET", "/fapi/v1/rpiDepth", N, 20, BTC, {"bids", "asks", "lastUpdateId"}),
    ("GET", "/fapi/v1/trades", N, 5, BTC, [{"id", "price", "qty"}]),
    ("GET", "/fapi/v1/historicalTrades", K, 200, BTC, [{"id", "price", "qty"}]),
    ("GET", "/fapi/v1/aggTrades", N, 20, BTC, [{"a", "p", "q", "T"}]),
    ("GET", "/fapi/v1/openInterest", N, 1, BTC, {"openInterest"}),
    ("GET", "/fapi/v1/constituents", N, 2, BTC, {"symbol", "constituents"}),
    ("GET", "/fapi/v1/indexInfo", N, 1, BTC, []),
    ("GET", "/fapi/v1/assetIndex", N, 10, {}, []),
    ("GET", "/fapi/v1/insuranceBalance", N, 1, BTC, {"symbols", "assets"}),
    ("GET", "/fapi/v1/symbolAdlRisk", N, 1, {}, [{"symbol", "adlRisk"}]),
    ("GET", "/fapi/v1/tradingSchedule", N, 5, {}, {"marketSchedules"}),
    ("GET", "/futures/data/openInterestHist", N, 0, RATIO, []),
    ("GET", "/futures/data/topLongShortPositionRatio", N, 0, RATIO, []),
    ("GET", "/futures/data/topLongShortAccountRatio", N, 0, RATIO, []),
    ("GET", "/futures/data/globalLongShortAccountRatio", N, 0, RATIO, []),
    ("GET", "/futures/data/takerlongshortRatio", N, 0, RATIO, []),
    (
        "GET",
        "/futures/data/basis",
        N,
        0,
        {"pair": "BTCUSDT", "contractType": "PERPETUAL", "period": "1h"},
        [{"basis", "futuresPrice", "timestamp"}],
    ),
    ("GET", "/fapi/v2/balance", S, 5, {}, [{"balance", "availableBalance"}]),
    ("GET", "/fapi/v3/balance", S, 5, {}, [{"balance", "availableBalance"}]),
    ("GET", "/fapi/v2/account", S, 5, {}, {"totalWalletBalance", "positions", "canTrade"}),
    ("GET", "/fapi/v3/account", S, 5, {}, {"totalWalletBalance", "positions", "assets"}),
    ("GET", "/fapi/v2/positionRisk", S, 5, {}, [{"positionAmt", "marginType", "leverage"}]),
    ("GET", "/fapi/v3/positionRisk", S, 5, {}, [{"positionAmt", "liquidationPrice", "adl"}]),
    ("GET", "/fapi/v1/adlQuantile", S, 5, {}, [{"symbol", "adlQuantile"}]),
    ("GET", "/fapi/v1/accountConfig", S, 5, {}, {"dualSidePosition", "canTrade"}),
    ("GET", "/fapi/v1/symbolConfig", S, 5, BTC, [{"marginType", "leverage"}]),
    ("GET", "/fapi/v1/leverageBracket", S, 1, BTC, [{"symbol", "brackets"}]),
    ("GET", "/fapi/v1/commissionRate", S, 20, BTC, {"makerCommissionRate", "takerCommissionRate"}),
    ("GET", "/fapi/v1/apiTradingStatus", S, 1, {}, {"indicators"}),
    ("POST", "/fapi/v1/listenKey", K, 1, {}, {"listenKey"}),
    ("PUT", "/fapi/v1/listenKey", K, 1, {}, {"listenKey"}),
    ("DELETE", "/fapi/v1/listenKey", K, 1, {}, set()),
    ("POST", "/fapi/v1/leverage", S, 1, {**BTC, "leverage": 10}, {"leverage", "maxNotionalValue"}),
    ("POST", "/fapi/v1/marginType", S, 1, {"symbol": "ETHUSDT", "marginType": "ISOLATED"}, {"code", "msg"}),
    (
        "POST",
        "/fapi/v1/positionMargin",
        S,
        1,
        {"symbol": "ETHUSDT", "amount": "1", "type": 1},
        {"amount", "type"},
    ),
    ("GET", "/fapi/v1/positionMargin/history", S, 1, {"symbol": "ETHUSDT"}, [{"amount", "deltaType"}]),
    ("GET", "/fapi/v1/positionSide/dual", S, 30, {}, {"dualSidePosition"}),
    ("GET", "/fapi/v1/multiAssetsMargin", S, 30, {}, {"multiAssetsMargin"}),
    ("GET", "/fapi/v1/feeBurn", S, 30, {}, {"feeBurn"}),
    ("POST", "/fapi/v1/feeBurn", S, 1, {"feeBurn": "true"}, {"code", "msg"}),
    ("POST", "/fapi/v1/order", S, 0, {**RESTING, "newClientOrderId": "another"}, {"orderId", "status"}),
    (
        "PUT",
        "/fapi/v1/order",
        S,
        0,
        {**NAMED, "side": "BUY", "quantity": "0.012", "price": "50002"},
        {"modifyId"},
    ),
    ("POST", "/fapi/v1/order/test", S, 1, RESTING, {"orderId", "status"}),
    ("GET", "/fapi/v1/order", S, 1, NAMED, {"orderId", "avgPrice", "time"}),
    ("GET", "/fapi/v1/openOrder", S, 1, NAMED, {"orderId", "avgPrice", "time"}),
    ("GET", "/fapi/v1/openOrders", S, 1, BTC, [{"orderId", "avgPrice", "time"}]),
    ("GET", "/fapi/v1/allOrders", S, 5, BTC, [{"orderId", "avgPrice", "time"}]),
    ("GET", "/fapi/v1/orderAmendment", S, 1, NAMED, [{"amendmentId", "amendment"}]),
    ("DELETE", "/fapi/v1/order", S, 1, NAMED, {"orderId", "status"}),
    ("POST", "/fapi/v1/batchOrders", S, 5, {"batchOrders": BATCH}, [{"orderId"}]),
    ("PUT", "/fapi/v1/batchOrders", S, 5, {"batchOrders": AMENDED}, [{"orderId", "modifyId"}]),
    ("DELETE", "/fapi/v1/batchOrders", S, 1, {**BTC, "origClientOrderIdList": '["rests"]'}, [{"orderId"}]),
    ("DELETE", "/fapi/v1/allOpenOrders", S, 1, BTC, {"code", "msg"}),
    (
        "POST",
        "/fapi/v1/countdownCancelAll",
        S,
        10,
        {**BTC, "countdownTime": 0},
        {"symbol", "countdownTime"},
    ),
    ("POST", "/fapi/v1/algoOrder", S, 0, {**STOP, "clientAlgoId": "another"}, {"algoId", "algoStatus"}),
    ("GET", "/fapi/v1/algoOrder", S, 1, {"clientAlgoId": "waits"}, {"algoId", "actualOrderId"}),
    ("GET", "/fapi/v1/openAlgoOrders", S, 40, {}, [{"algoId", "actualOrderId"}]),
    ("GET", "/fapi/v1/allAlgoOrders", S, 5, BTC, [{"algoId", "actualOrderId"}]),
    ("DELETE", "/fapi/v1/algoOrder", S, 1, {"clientAlgoId": "waits"}, {"algoId", "code"}),
    ("DELETE", "/fapi/v1/algoOpenOrders", S, 1, BTC, {"code", "msg"}),
    ("GET", "/fapi/v1/userTrades", S, 5, BTC, [{"id", "realizedPnl", "commission"}]),
    ("GET", "/fapi/v1/income", S, 30, {}, [{"incomeType", "income", "tranId"}]),
    ("GET", "/fapi/v1/forceOrders", S, 50, {}, []),
    ("GET", "/fapi/v1/rateLimit/order", S, 1, {}, [{"rateLimitType", "limit"}]),
    ("GET", "/sapi/v1/system/status", N, 1, {}, {"status", "msg"}),
    ("GET", "/sapi/v1/capital/config/getall", S, 1, {}, []),
    ("GET", "/sapi/v1/margin/allPairs", K, 1, {}, []),
    ("GET", "/sapi/v1/margin/isolated/allPairs", K, 1, {}, []),
    ("GET", "/sapi/v1/margin/allAssets", K, 1, {}, []),
]
# Asked of an account of its own: they do not go with open orders, or are refused here always.
APART = {("POST", "/fapi/v1/positionSide/dual"), ("POST", "/fapi/v1/multiAssetsMargin")}


def test_the_table_is_whole() -> None:
    assert {row[:2] for row in SERVED} | APART == set(ROUTES)
    assert len(SERVED) == len({row[:2] for row in SERVED})
    assert {(row[0], row[1]): row[2] for row in SERVED} == {
        key: route.security for key, route in ROUTES.items() if key not in APART
    }


async def ask(client: PaperClient, security: Security, verb: str, path: str, params: dict[str, Any]) -> Any:
    if security is N:
        return await client.public(path, **params)
    return await (client.signed if security is S else client.keyed)(verb, path, **params)


async def test_every_path_answers_whom_it_should_and_weighs_what_it_should(server: PaperServer) -> None:
    recorded, differences = Recorded.load(), []
    async with paper_client(server) as alice:
        await alice.order(quantity="0.02")
        for verb, path, security, weight, params, form in SERVED:
            if path == "/fapi/v1/positionMargin":
                await alice.order(symbol="ETHUSDT", quantity="0.1")
            if verb == "GET" and path == "/fapi/v1/orderAmendment":
                change = {"side": "BUY", "quantity": "0.013", "price": "50000"}
                await alice.signed("PUT", "/fapi/v1/order", **NAMED, **change)
            if path.startswith("/fapi/v1/") and "listenKey" not in path:
                # Both are there whatever the calls before did; while they are open the ids are taken.
                await alice.order(**RESTING, newClientOrderId="rests")
                await alice.signed("POST", "/fapi/v1/algoOrder", **STOP, clientAlgoId="waits")
            if security is not N:
                nobody = await alice._send(verb, path, "", {})
                assert (nobody.status, nobody.body["code"]) == (401, -2014), path
            if security is S:
                forged = await alice.signed(verb, path, **params, signature="0" * 64)
                assert (forged.status, forged.body["code"]) == (400, -1022), path
            before = server_weight(await alice.public("/fapi/v1/ping"))
            reply = await ask(alice, security, verb, path, params)
            assert reply.status == 200, (verb, path, reply.body)
            assert reply.headers["Content-Type"] == "application/json;charset=UTF-8"
            check_form(path, reply.body, form)
            differences += recorded.differences(f"{verb} {path}", reply.body)
            if ROUTES[verb, path].pool is Pool.WEIGHT:
                assert server_weight(reply) in (before + weight, weight), path  # or a new minute began
            else:
                assert "X-MBX-USED-WEIGHT-1M" not in reply.headers
            assert ("X-MBX-ORDER-COUNT-10S" in reply.headers) is bool(ROUTES[verb, path].orders), path
            if server_weight(await alice.public("/fapi/v1/ping")) > 1500:
                async with alice.session.post(f"{server.rest_url}/paper/limits", json={}):
                    pass
    assert differences == []


def server_weight(reply: Any) -> int:
    return int(reply.headers["X-MBX-USED-WEIGHT-1M"])


def check_form(path: str, body: Any, form: Any) -> None:
    if isinstance(form, set):
        assert isinstance(body, dict), path
        assert set(body) >= form, path
        return
    assert isinstance(body, list), path
    assert bool(body) is bool(form), (path, body)
    for row in body:
        if isinstance(form[0], int):
            assert len(row) == form[0], path
        else:
            assert set(row) >= form[0], (path, row)


async def test_the_two_that_stand_apart(server: PaperServer) -> None:
    async with paper_client(server, "bob") as bob:
        reply = await bob.signed("POST", "/fapi/v1/positionSide/dual", dualSidePosition="true")
        assert (reply.status, reply.body) == (200, {"code": 200, "msg": "success"})
        reply = await bob.signed("POST", "/fapi/v1/multiAssetsMargin", multiAssetsMargin="false")
        assert (reply.status, reply.body["code"]) == (400, -4171)
        reply = await bob.signed("POST", "/fapi/v1/multiAssetsMargin", multiAssetsMargin="true")
        assert (reply.status, reply.body["code"]) == (400, -1130)


@pytest.mark.parametrize(
    ("path", "params", "code"),
    [
        ("/futures/data/openInterestHist", {**BTC, "period": "2m"}, -1130),
        ("/futures/data/openInterestHist", BTC, -1102),
        ("/futures/data/openInterestHist", {"symbol": "NOPEUSDT", "period": "1h"}, -1121),
        ("/futures/data/takerlongshortRatio", {**RATIO, "limit": 501}, -1130),
        (
            "/futures/data/basis",
            {"pair": "NOPEUSDT", "contractType": "PERPETUAL", "period": "1h"},
            -1121,
        ),
        ("/futures/data/basis", {"pair": "BTCUSDT", "contractType": "SPOT", "period": "1h"}, -1130),
        ("/fapi/v1/constituents", {"symbol": "NOPEUSDT"}, -1121),
    ],
)
async def test_market_figures_check_what_is_asked(
    server: PaperServer, path: str, params: dict[str, Any], code: int
) -> None:
    async with paper_client(server) as alice:
        reply = await alice.public(path, **params)
        assert (reply.status, reply.body["code"]) == (400, code)


async def test_the_basis_is_zero_at_every_close(server: PaperServer) -> None:
    async with paper_client(server) as alice:
        asked = {"pair": "BTCUSDT", "contractType": "PERPETUAL", "period": "1h", "limit": 2}
        rows = (await alice.public("/futures/data/basis", **asked)).body
        now_ms = alice.now_ms()
        assert [(row["timestamp"], row["futuresPrice"], row["basis"]) for row in rows] == [
            (now_ms - 3_600_000, "50990.0", "0"),
            (now_ms, "51000.0", "0"),
        ]


# --- what is not served -------------------------------------------------------------------------------


async def test_what_is_not_served_is_answered_as_binance_does_and_logged_once(
    server: PaperServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with paper_client(server) as alice:
        for _ in range(3):
            reply = await alice.signed("GET", "/fapi/v1/pmAccountInfo", asset="USDT")
            assert (reply.status, reply.body) == (
                404,
                {"code": -5000, "msg": "Path /fapi/v1/pmAccountInfo, Method GET is invalid"},
            )
        assert (await alice.keyed("POST", "/fapi/v1/klines")).status == 404
    assert [record.getMessage() for record in caplog.records if "not served" in record.getMessage()] == [
        f"not served here: {asked}; the client was answered 404 with code -5000"
        for asked in ("GET /fapi/v1/pmAccountInfo", "POST /fapi/v1/klines")
    ]


# Downloads by mail, conversions, referrals, portfolio margin, tokenised stocks: no part of trading perpetuals. The v1
# account paths are retired, leveraged tokens too, and /batchOrder is a slip of python-binance that Binance does not
# know either.
NOT_SERVED = re.compile(
    r"/fapi/v1/(\w+/asyn(/id)?|convert/\w+|apiReferral/\w+|pmAccountInfo|pmExchangeInfo|stock/contract|"
    r"account|balance|positionRisk|lvtKlines|batchOrder)|/futures/data/delivery-price"
)


def test_what_the_three_clients_call_is_served_or_known_not_to_be() -> None:
    known = calls_of_the_sdk() | calls_of_ccxt() | calls_of_python_binance()
    assert len(known) > 110
    missing = {f"{verb} {path}" for verb, path in known - set(ROUTES) if not NOT_SERVED.fullmatch(path)}
    assert missing == set()


def calls_of_the_sdk() -> set[tuple[str, str]]:
    text = "".join(
        path.read_text() for path in (Path(official.__file__).parent / "rest_api" / "api").glob("*.py")
    )
    return set(re.findall(r'method="(\w+)",\s*path="([^"]+)"', text))


def calls_of_ccxt() -> set[tuple[str, str]]:
    groups = ccxt.binance().describe()["api"]
    bases = {
        f"fapi{kind}{version}": f"/fapi/{version.lower() or 'v1'}"
        for kind in ("Public", "Private")
        for version in ("", "V2", "V3")
    }
    bases["fapiData"] = "/futures/data"
    return {
        (verb.upper(), f"{base}/{name}")
        for group, base in bases.items()
        for verb, names in groups.get(group, {}).items()
        for name in names
    }


def calls_of_python_binance() -> set[tuple[str, str]]:
    text = inspect.getsource(binance.async_client)
    found = set()
    for kind, base in (("futures_api", "/fapi/v{}"), ("futures_data_api", "/futures/data")):
        for verb, name, rest in re.findall(
            rf'_request_{kind}\(\s*"(\w+)",\s*"([^"]+)"(.*?)\)', text, re.DOTALL
        ):
            version = re.search(r"version=(\d)", rest)
            found.add((verb.upper(), f"{base.format(version[1] if version else 1)}/{name}"))
    return found


def test_routes_are_what_their_key_says() -> None:
    for (verb, path), route in ROUTES.items():
        assert isinstance(route, Route)
        assert (route.method, route.path) == (verb, path)
