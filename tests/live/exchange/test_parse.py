"""Real and documented payloads through the parsers."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from envs.account import Leg, Side
from envs.errors import ExchangeError, InstrumentError
from envs.instruments import default_instruments
from live.exchange import parse
from live.exchange.base import (
    AccountEvent,
    AlgoEvent,
    FillEvent,
    FundingEvent,
    LeverageEvent,
    MarginCallEvent,
    OrderEvent,
)
from live.exchange.user_events import message_kind, parse_user_message
from live.exchange.wire_client import read_reply

PAYLOADS = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "payloads"
needs_payloads = pytest.mark.skipif(not PAYLOADS.is_dir(), reason="the shared payloads are not here")


def payload(name: str) -> Any:
    path = PAYLOADS / name
    text = gzip.decompress(path.read_bytes()).decode() if name.endswith(".gz") else path.read_text()
    return read_reply(200, {}, text)


@needs_payloads
def test_every_trading_perpetual_of_a_captured_exchange_info_becomes_an_instrument() -> None:
    listed = payload("binance_um_exchangeInfo_testnet_2025-12-24.json.gz")["symbols"]
    tables = parse.brackets(payload("binance_um_leverageBracket_2026-05-07.json.gz"))
    fee = Decimal("0.0005")
    made = [
        parse.instrument(entry, tables[entry["symbol"]], maker_fee=fee, taker_fee=fee)
        for entry in listed
        if entry["status"] == "TRADING"
        and entry["contractType"] == "PERPETUAL"
        and entry["symbol"] in tables
        and entry["quoteAsset"] == "USDT"
    ]
    assert len(made) > 400
    bundled = default_instruments()
    for instrument in made:
        if instrument.symbol in bundled:
            known = bundled[instrument.symbol]
            assert (instrument.tick_size, instrument.price_precision) == (
                known.tick_size,
                known.price_precision,
            )
            assert instrument.quantity_precision == known.quantity_precision


@needs_payloads
@pytest.mark.parametrize(
    "name", ["2023-08-01_7symbols.json", "2024-10-24_7symbols.json", "2026-05-07_7symbols.json"]
)
def test_captured_leverage_brackets_are_continuous(name: str) -> None:
    listed = payload("binance_um_exchangeInfo_testnet_2025-12-24_subset.json")["symbols"]
    tables = parse.brackets(payload(f"binance_um_leverageBracket_{name}"))
    for entry in listed:
        if entry["symbol"] in default_instruments():
            # The constructor checks cum_n = cum_{n-1} + floor_n * (rate_n - rate_{n-1}).
            parse.instrument(entry, tables[entry["symbol"]], maker_fee=Decimal(0), taker_fee=Decimal(0))


@needs_payloads
def test_every_documented_user_event_is_understood_or_ignored() -> None:
    kinds: dict[str, int] = {}
    messages = [
        message["received"]
        for case in payload("binance_um_stream_events.json")
        for message in case["messages"]
        if "received" in message
    ]
    nautilus = payload("binance_um_events_nautilus.json")
    messages += [one for name, one in nautilus.items() if "ws_messages" in name or "user_data" in name]
    for message in messages:
        if isinstance(message, dict):
            for event in parse_user_message(message, exchange="x"):
                kinds[type(event).__name__] = kinds.get(type(event).__name__, 0) + 1
    assert set(kinds) >= {
        "FillEvent",
        "OrderEvent",
        "AccountEvent",
        "AlgoEvent",
        "MarginCallEvent",
        "LeverageEvent",
    }


@needs_payloads
def test_liquidations_and_adl_are_told_apart() -> None:
    events = payload("binance_um_events_nautilus.json")
    fills = {}
    for name, message in events.items():
        if "order_update" in name:
            for event in parse_user_message(message, exchange="x"):
                if isinstance(event, FillEvent):
                    fills[Path(name).stem] = event.fill
    liquidation = fills["ws_futures_order_update_liquidation"]
    assert liquidation.liquidation
    assert (liquidation.quantity, liquidation.price, liquidation.side) == (
        Decimal("0.100"),
        50_000,
        Side.SELL,
    )
    assert not fills["order_update_adl"].liquidation
    assert fills["order_update_trade"].maker
    # A liquidation order of nothing is no fill.
    assert "ws_futures_order_update_liquidation_zero_qty" not in fills
    assert "order_update_calculated_pending" not in fills


@needs_payloads
def test_documented_rest_answers_are_understood() -> None:
    answers = {case["name"]: case["response"] for case in payload("binance_um_rest_responses.json")}
    by_path: dict[str, list[Any]] = {}
    for case in payload("binance_um_rest_responses.json"):
        by_path.setdefault(f"{case['method']} {case['path']}", []).append(case["response"])
    assert answers
    for row in by_path["GET /fapi/v1/userTrades"][0]:
        assert parse.fill(row, client_order_id="", exchange="x").quantity > 0
    for row in by_path["GET /fapi/v1/klines"][0]:
        assert parse.candle("BTCUSDT", 60_000, row).high > 0
    for row in by_path["GET /fapi/v1/fundingRate"][0]:
        assert parse.funding_rate(row).symbol
    for reply in by_path["GET /fapi/v1/order"]:
        assert parse.order_report(reply).order_id
    for rows in by_path["GET /fapi/v1/openOrders"] + by_path["GET /fapi/v1/openAlgoOrders"]:
        assert all(parse.open_order(row).order_id for row in rows)
    for reply in by_path["GET /fapi/v1/algoOrder"]:
        assert parse.trigger_report(reply).trigger_id


def fill_message(**changes: Any) -> dict[str, Any]:
    """The fact sheet's ORDER_TRADE_UPDATE, after June 2026."""
    order = json.loads(
        '{"s":"BTCUSDT","c":"A_BTCUSDT_1736630399999o","S":"BUY","o":"MARKET","f":"GTC","q":"0.002","p":"0",'
        '"ap":"91234.50","sp":"0","x":"TRADE","X":"FILLED","i":8000123456,"l":"0.002","z":"0.002","L":"91234.50",'
        '"n":"0.09123450","N":"USDT","T":1795219200160,"t":600700800,"b":"0","a":"0","m":false,"R":false,'
        '"rp":"-1.5","er":"0"}'
    )
    return {"e": "ORDER_TRADE_UPDATE", "E": 1795219200161, "T": 1795219200160, "o": {**order, **changes}}


def test_a_fill_event_raw_and_in_an_envelope() -> None:
    for message in (fill_message(), {"stream": "key", "data": fill_message()}):
        (event,) = parse_user_message(message, exchange="testnet")
        assert isinstance(event, FillEvent)
        fill = event.fill
        assert (fill.trade_id, fill.order_id, fill.time_ms) == ("600700800", "8000123456", 1795219200160)
        assert (fill.quantity, fill.price) == (Decimal("0.002"), Decimal("91234.50"))
        assert (fill.commission, fill.realized_pnl) == (Decimal("0.09123450"), Decimal("-1.5"))
        assert (fill.agent, fill.leg, fill.exchange) == ("A", Leg.ORDER, "testnet")
        assert (event.order_status, event.executed_quantity) == ("FILLED", Decimal("0.002"))


def test_a_fill_without_a_fee_and_an_expiry() -> None:
    (event,) = parse_user_message(fill_message(n=None, N=None), exchange="x")
    assert isinstance(event, FillEvent)
    assert (event.fill.commission, event.fill.commission_asset) == (0, "USDT")
    (ended,) = parse_user_message(fill_message(x="EXPIRED", X="EXPIRED", l="0", t=0, er="9"), exchange="x")
    assert isinstance(ended, OrderEvent)
    assert (ended.status, ended.executed_quantity, ended.reason) == ("EXPIRED", Decimal("0.002"), "9")


def test_funding_leverage_margin_call_and_algo_events() -> None:
    funding = {
        "e": "ACCOUNT_UPDATE",
        "E": 2,
        "T": 1,
        "a": {
            "m": "FUNDING_FEE",
            "S": "BTCUSDT",
            "B": [{"a": "USDT", "wb": "999.5", "cw": "999.5", "bc": "-0.5"}],
        },
    }
    assert parse_user_message(funding, exchange="x") == (
        FundingEvent(1, "BTCUSDT", Decimal("-0.5")),
        AccountEvent(1, "FUNDING_FEE", Decimal("999.5")),
    )
    del funding["a"]["S"]  # type: ignore[attr-defined]
    assert parse_user_message(funding, exchange="x")[0] == FundingEvent(1, None, Decimal("-0.5"))
    leverage = {"e": "ACCOUNT_CONFIG_UPDATE", "E": 2, "T": 1, "ac": {"s": "BTCUSDT", "l": 10}}
    assert parse_user_message(leverage, exchange="x") == (LeverageEvent("BTCUSDT", 10, 1),)
    assert (
        parse_user_message({"e": "ACCOUNT_CONFIG_UPDATE", "E": 2, "T": 1, "ai": {"j": True}}, exchange="x")
        == ()
    )
    call = {"e": "MARGIN_CALL", "E": 2, "p": [{"s": "BTCUSDT"}]}
    assert parse_user_message(call, exchange="x") == (MarginCallEvent(2, ("BTCUSDT",)),)
    algo = {
        "e": "ALGO_UPDATE",
        "T": 1,
        "E": 2,
        "o": {"caid": "pg-s", "aid": 3, "s": "BTCUSDT", "X": "FINISHED", "ai": "77", "rm": ""},
    }
    assert parse_user_message(algo, exchange="x") == (AlgoEvent("BTCUSDT", "pg-s", "3", "FINISHED", 1, "77"),)


def test_what_does_not_matter_is_ignored_and_what_is_broken_is_not() -> None:
    for message in ({"result": None, "id": 1}, {"e": "TRADE_LITE", "s": "BTCUSDT"}, {"e": "SOMETHING_NEW"}):
        assert parse_user_message(message, exchange="x") == ()
    assert message_kind({"stream": "k", "data": {"e": "listenKeyExpired"}}) == "listenKeyExpired"
    assert message_kind({"result": None}) == ""
    with pytest.raises(ExchangeError, match="ORDER_TRADE_UPDATE event that cannot be read"):
        parse_user_message({"e": "ORDER_TRADE_UPDATE", "o": {}}, exchange="x")
    with pytest.raises(ExchangeError, match="ORDER_TRADE_UPDATE"):
        parse_user_message(fill_message(L="abc"), exchange="x")
    for read in (
        parse.funding_rate,
        parse.funding_payment,
        parse.order_report,
        parse.trigger_report,
        parse.open_order,
    ):
        with pytest.raises(ExchangeError, match="cannot be read"):
            read({})
    with pytest.raises(ExchangeError, match="a candle of X"):
        parse.candle("X", 60_000, [1, "a"])
    with pytest.raises(InstrumentError, match="X: the exchange's trading rules cannot be read"):
        parse.instrument({"symbol": "X"}, (), maker_fee=Decimal(0), taker_fee=Decimal(0))


def test_brackets_come_as_a_list_or_as_one_object() -> None:
    one = read_reply(
        200,
        {},
        '{"symbol":"BTCUSDT","brackets":[{"bracket":1,"initialLeverage":150,"notionalCap":300000,"notionalFloor":0,'
        '"maintMarginRatio":0.004,"cum":0.0}]}',
    )
    assert parse.brackets(one) == parse.brackets([one])
    (row,) = parse.brackets(one)["BTCUSDT"]
    assert (row.max_leverage, row.maintenance_rate) == (150, Decimal("0.004"))


def test_numbers_are_written_without_an_exponent() -> None:
    assert parse.plain(Decimal("1E-5")) == "0.00001"
    assert parse.plain(Decimal("1E+3")) == "1000"
    assert parse.plain(Decimal("0.00100")) == "0.00100"


def test_the_average_price_is_weighted_by_quantity() -> None:
    rows = [("1", "0.001", "100"), ("2", "0.003", "104")]
    fills = [
        parse.fill(
            {
                "symbol": "BTCUSDT",
                "id": trade_id,
                "orderId": 5,
                "side": "BUY",
                "qty": quantity,
                "price": price,
                "commission": "0",
                "commissionAsset": "USDT",
                "realizedPnl": "0",
                "maker": False,
                "time": 1,
            },
            client_order_id="autoclose-1",
            exchange="x",
        )
        for trade_id, quantity, price in rows
    ]
    # (0.001 * 100 + 0.003 * 104) / 0.004 = 0.412 / 0.004 = 103
    assert parse.average_price(fills) == 103
    assert parse.average_price([]) is None
    assert all(fill.liquidation for fill in fills)
