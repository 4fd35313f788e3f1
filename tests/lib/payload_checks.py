"""What each kind of real payload must become: the parsers' results against the payload's own fields, read by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from envs.account import Leg, Side
from envs.errors import ExchangeError, InstrumentError
from live.exchange import parse
from live.exchange.account_reader import AccountReader
from live.exchange.base import (
    AccountEvent,
    AlgoEvent,
    FillEvent,
    FundingEvent,
    LeverageEvent,
    MarginCallEvent,
    OrderEvent,
)
from live.exchange.budget import RequestBudget
from live.exchange.candle_stream import _candle
from live.exchange.sockets import event_of
from live.exchange.user_events import message_kind, parse_user_message
from live.exchange.wire_client import WireError, read_reply

Check = Callable[[Any], None]
ONE = Decimal(1)


def same(text: Any, number: Decimal | float | None) -> bool:
    """Whether a field and a parsed number are the same; an empty field is 0."""
    return Decimal(str(text or "0")) == Decimal(str(number or "0"))


def rows_of(body: Any) -> list[Any]:
    return body if isinstance(body, list) else [body]


# --- REST ------------------------------------------------------------------------------------------------


def time(body: Any) -> None:
    assert isinstance(body["serverTime"], int) and body["serverTime"] > 10**12


def klines(body: Any) -> None:
    for row in body:
        if len(row) < 6:  # an abridged example: named, not guessed
            with pytest.raises(ExchangeError, match="a candle of X that cannot be read"):
                parse.candle("X", 60_000, row)
            continue
        candle = parse.candle("X", 60_000, row)
        assert candle.open_time_ms == row[0]
        assert [candle.open, candle.high, candle.low, candle.close, candle.volume] == [
            float(text) for text in row[1:6]
        ]


def funding_rates(body: Any) -> None:
    for row in body:
        rate = parse.funding_rate(row)
        assert (rate.symbol, rate.time_ms, rate.rate) == (
            row["symbol"],
            row["fundingTime"],
            float(row["fundingRate"]),
        )
        assert rate.mark_price == (float(row["markPrice"]) if row.get("markPrice") else None)


def mark_price(body: Any) -> None:
    for row in rows_of(body):
        assert parse.decimal_of(row["markPrice"]) == Decimal(row["markPrice"]) > 0


def exchange_info(body: Any) -> None:
    budget = RequestBudget()
    budget.learn_limits(body["rateLimits"])
    weights = [
        rule["limit"]
        for rule in body["rateLimits"]
        if (rule["rateLimitType"], rule["interval"], rule["intervalNum"]) == ("REQUEST_WEIGHT", "MINUTE", 1)
    ]
    assert [budget.weight.limit] == weights
    bracket = parse.brackets(
        {
            "symbol": "X",
            "brackets": [
                {"notionalFloor": 0, "notionalCap": 1, "initialLeverage": 20, "maintMarginRatio": 0, "cum": 0}
            ],
        }
    )["X"]
    for entry in body["symbols"]:
        by_type = {rule["filterType"]: rule for rule in entry["filters"]} if entry.get("filters") else {}
        needed = {"PRICE_FILTER", "LOT_SIZE", "MARKET_LOT_SIZE", "PERCENT_PRICE", "MIN_NOTIONAL"}
        if not (
            needed <= by_type.keys() and "liquidationFee" in entry and "tickSize" in by_type["PRICE_FILTER"]
        ):
            with pytest.raises(InstrumentError, match=r"cannot be read.*leave the symbol out"):
                parse.instrument(entry, bracket, maker_fee=ONE, taker_fee=ONE)
            continue
        if Decimal(by_type["PRICE_FILTER"]["tickSize"]) <= 0 or Decimal(by_type["LOT_SIZE"]["stepSize"]) <= 0:
            continue
        made = parse.instrument(entry, bracket, maker_fee=ONE, taker_fee=ONE)
        assert made.symbol == entry["symbol"] and made.base_asset == entry["baseAsset"]
        assert same(by_type["PRICE_FILTER"]["tickSize"], made.tick_size)
        assert same(by_type["MIN_NOTIONAL"]["notional"], made.min_notional_usdt)
        assert same(by_type["MARKET_LOT_SIZE"]["maxQty"], made.max_quantity_market)
        assert same(by_type["PERCENT_PRICE"]["multiplierUp"], made.price_multiplier_up)
        assert made.step_size in {Decimal(by_type[n]["stepSize"]) for n in ("LOT_SIZE", "MARKET_LOT_SIZE")}
        assert made.min_quantity >= made.step_size > 0


def brackets(body: Any) -> None:
    tables = parse.brackets(body)
    for entry in rows_of(body):
        table = tables[entry["symbol"]]
        assert len(table) == len(entry["brackets"])
        wanted = sorted(entry["brackets"], key=lambda row: row["notionalFloor"])
        for row, bracket in zip(wanted, table, strict=True):
            assert same(row["notionalCap"], bracket.notional_cap_usdt)
            assert bracket.max_leverage == row["initialLeverage"]
            assert same(row["maintMarginRatio"], bracket.maintenance_rate)
            assert same(row["cum"], bracket.maintenance_amount_usdt)


class _Stub:
    """Stands where requests are made, and gives what it was given."""

    def __init__(self, replies: dict[str, Any]) -> None:
        self.replies = replies
        self.clock = SimpleNamespace(now_ms=lambda: 7)
        self.venue = SimpleNamespace(name="x")

    async def read(self, method: str, **_: Any) -> Any:
        return self.replies[method]


def account(body: Any) -> None:
    held = [row for row in body["positions"] if Decimal(row["positionAmt"])]
    risks = [{"entryPrice": "1", "markPrice": "1", **row} for row in held]
    settings = [{"symbol": row["symbol"], "leverage": 9} for row in held]
    reader = AccountReader(
        _Stub(  # type: ignore[arg-type]
            {
                "futures_account": body,
                "futures_position_information": risks,
                "futures_symbol_config": settings,
            }
        )
    )
    if len({row["symbol"] for row in held}) != len(held):
        return  # hedge mode, which `check_modes` refuses
    read = asyncio.run(reader.account())
    wallets = [row["walletBalance"] for row in body["assets"] if row["asset"] == "USDT"]
    assert same(wallets[0] if wallets else "0", read.wallet_usdt)
    assert same(body["totalInitialMargin"], read.initial_margin_usdt)
    assert same(body["totalMaintMargin"], read.maintenance_margin_usdt)
    assert {name: one.quantity for name, one in read.positions.items()} == {
        row["symbol"]: Decimal(row["positionAmt"]) for row in held
    }


def account_config(body: Any) -> None:
    hedge_or_multi = bool(body.get("dualSidePosition") or body.get("multiAssetsMargin"))
    check = AccountReader(_Stub({"futures_account_config": body})).check_modes()  # type: ignore[arg-type]
    if hedge_or_multi or body.get("canTrade") is False:
        with pytest.raises(Exception, match=r"mode|may not trade"):
            asyncio.run(check)
    else:
        asyncio.run(check)


def positions(body: Any) -> None:
    for row in body:
        position = parse.position(row, 9)
        assert (position.symbol, position.quantity, position.entry_price, position.mark_price) == (
            row["symbol"],
            Decimal(row["positionAmt"]),
            Decimal(row["entryPrice"]),
            Decimal(row["markPrice"]),
        )
        stated = Decimal(row.get("liquidationPrice") or "0")
        assert position.liquidation_price == (stated if stated > 0 else None)


def income(body: Any) -> None:
    for row in body:
        payment = parse.funding_payment(row)
        assert (payment.symbol, payment.amount_usdt, payment.time_ms, payment.transaction_id) == (
            row["symbol"],
            Decimal(row["income"]),
            row["time"],
            str(row["tranId"]),
        )


def trades(body: Any) -> None:
    for row in body:
        fill = parse.fill(row, client_order_id="A_BTCUSDT_1736630399999s", exchange="x")
        assert (fill.symbol, fill.trade_id, fill.order_id, fill.side, fill.quantity, fill.price) == (
            row["symbol"],
            str(row["id"]),
            str(row["orderId"]),
            Side(row["side"]),
            Decimal(row["qty"]),
            Decimal(row["price"]),
        )
        assert same(row["commission"], fill.commission) and same(row["realizedPnl"], fill.realized_pnl)
        assert (fill.commission_asset, fill.maker, fill.time_ms) == (
            row["commissionAsset"],
            row["maker"],
            row["time"],
        )
        assert (fill.agent, fill.leg) == ("A", Leg.STOP)


def orders(body: Any) -> None:
    """Placed, read, cancelled, amended, batched: one form. A batch's refused items are errors by themselves."""
    for row in rows_of(body):
        if set(row) == {"code", "msg"}:
            with pytest.raises(WireError, match=r"Margin|Reduce|Unknown|cancel|operation"):
                read_reply(200, {}, json.dumps(row))
            continue
        report = parse.order_report(row)
        assert (report.symbol, report.client_order_id, report.order_id, report.status) == (
            row["symbol"],
            row["clientOrderId"],
            str(row["orderId"]),
            row["status"],
        )
        assert same(row["executedQty"], report.executed_quantity)
        assert report.is_final == (row["status"] in ("FILLED", "CANCELED", "EXPIRED"))
        resting = parse.open_order(row)
        assert (resting.side.value, resting.type, resting.is_trigger) == (row["side"], row["type"], False)
        assert same(row["origQty"], resting.quantity) and same(row["price"], resting.price)


def triggers(body: Any) -> None:
    for row in rows_of(body):
        report = parse.trigger_report(row)
        assert (report.symbol, report.client_order_id, report.trigger_id, report.status) == (
            row["symbol"],
            row["clientAlgoId"],
            str(row["algoId"]),
            row["algoStatus"],
        )
        assert same(row["triggerPrice"], report.trigger_price)
        assert report.order_id == (str(row["actualOrderId"]) if row.get("actualOrderId") else None)
        resting = parse.open_order(row)
        assert (
            resting.is_trigger
            and resting.type == (row.get("orderType") or row["type"])
            and resting.side.value == row["side"]
        )
        assert same(row["quantity"], resting.quantity) and same(row["triggerPrice"], resting.price)
        assert resting.reduce_only == (row["reduceOnly"] or row.get("closePosition", False))


def done(body: Any) -> None:
    """A success that carries a code: the number 200, or the text. Cancelling a trigger order may also show it."""
    if "algoStatus" in body:
        triggers(body)
        return
    assert int(body["code"]) == 200
    assert read_reply(200, {}, json.dumps(body)) == body


def leverage(body: Any) -> None:
    assert isinstance(body["leverage"], int) and body["leverage"] > 0


def symbol_config(body: Any) -> None:
    for row in body:
        assert int(row["leverage"]) > 0 and row["symbol"]


def commission(body: Any) -> None:
    assert 0 < parse.decimal_of(body["makerCommissionRate"]) <= parse.decimal_of(body["takerCommissionRate"])


def listen_key(body: Any) -> None:
    assert body == {} or len(body["listenKey"]) >= 60


def countdown(body: Any) -> None:
    assert body == {"symbol": "BTCUSDT", "countdownTime": "100000"}


def unread(body: Any) -> None:
    """The connector never asks for it; as a reply it is a success all the same."""
    assert read_reply(200, {}, json.dumps(body, default=str)) is not None


# --- streams ---------------------------------------------------------------------------------------------


def kline_event(message: Any) -> None:
    kline = event_of(message)["k"]
    candle = _candle(kline["s"], 60_000, kline)
    assert (candle.symbol, candle.open_time_ms) == (kline["s"], kline["t"])
    assert [candle.open, candle.high, candle.low, candle.close, candle.volume] == [
        float(kline[name]) for name in "ohlcv"
    ]
    assert isinstance(kline["x"], bool)


def ignored_event(message: Any) -> None:
    """Not of the user stream's, or one that says nothing that the full events do not say."""
    assert parse_user_message(message if isinstance(message, dict) else {"data": message}, exchange="x") == ()


def order_event(message: Any) -> None:
    body = event_of(message)
    order = body["o"]
    (event,) = parse_user_message(message, exchange="x")
    if Decimal(order["l"]) > 0 and order["t"] > 0:
        assert isinstance(event, FillEvent)
        fill = event.fill
        assert (fill.symbol, fill.client_order_id, fill.order_id, fill.trade_id) == (
            order["s"],
            order["c"],
            str(order["i"]),
            str(order["t"]),
        )
        assert (fill.side.value, fill.quantity, fill.price, fill.time_ms, fill.maker) == (
            order["S"],
            Decimal(order["l"]),
            Decimal(order["L"]),
            order["T"],
            order["m"],
        )
        assert same(order.get("n"), fill.commission) and same(order["rp"], fill.realized_pnl)
        assert event.order_status == order["X"] and same(order["z"], event.executed_quantity)
        assert fill.liquidation == order["c"].startswith("autoclose-")
        return
    assert isinstance(event, OrderEvent)
    assert (event.symbol, event.client_order_id, event.order_id, event.status, event.time_ms) == (
        order["s"],
        order["c"],
        str(order["i"]),
        order["X"],
        body["T"],
    )
    assert same(order["z"], event.executed_quantity)


def account_event(message: Any) -> None:
    body = event_of(message)
    account_of = body["a"]
    events = parse_user_message(message, exchange="x")
    (event,) = [one for one in events if isinstance(one, AccountEvent)]
    usdt = [row["wb"] for row in account_of["B"] if row["a"] == "USDT"]
    assert event.wallet_usdt == (Decimal(usdt[0]) if usdt else None)
    assert (event.time_ms, event.reason) == (body["T"], account_of["m"])
    assert event.positions == tuple(
        (row["s"], Decimal(row["pa"]), Decimal(row["ep"]))
        for row in account_of.get("P", [])
        if row["ps"] == "BOTH"
    )
    assert len([one for one in events if isinstance(one, FundingEvent)]) == (account_of["m"] == "FUNDING_FEE")


def trigger_event(message: Any) -> None:
    body = event_of(message)
    order = body["o"]
    (event,) = parse_user_message(message, exchange="x")
    assert isinstance(event, AlgoEvent)
    assert (event.symbol, event.client_order_id, event.trigger_id, event.status, event.time_ms) == (
        order["s"],
        order["caid"],
        str(order["aid"]),
        order["X"],
        body["T"],
    )
    assert event.order_id == (order["ai"] if order.get("ai") else None)


def config_event(message: Any) -> None:
    body = event_of(message)
    events = parse_user_message(message, exchange="x")
    if "ac" not in body:
        assert events == ()  # the multi-assets mode, which `check_modes` looks at
        return
    assert events == (LeverageEvent(body["ac"]["s"], body["ac"]["l"], body["T"]),)


def margin_call(message: Any) -> None:
    body = event_of(message)
    (event,) = parse_user_message(message, exchange="x")
    assert event == MarginCallEvent(body["E"], tuple(row["s"] for row in body["p"]))


EVENTS: dict[str, Check] = {
    "ORDER_TRADE_UPDATE": order_event,
    "ACCOUNT_UPDATE": account_event,
    "ALGO_UPDATE": trigger_event,
    "ACCOUNT_CONFIG_UPDATE": config_event,
    "MARGIN_CALL": margin_call,
    "kline": kline_event,
    **dict.fromkeys(
        (
            "TRADE_LITE",
            "STRATEGY_UPDATE",
            "GRID_UPDATE",
            "CONDITIONAL_ORDER_TRIGGER_REJECT",
            "continuous_kline",
            "aggTrade",
            "trade",
            "bookTicker",
            "depthUpdate",
            "forceOrder",
            "markPriceUpdate",
            "24hrTicker",
            "24hrMiniTicker",
            "assetIndexUpdate",
            "compositeIndex",
            "contractInfo",
            "EquityUpdate",
        ),
        ignored_event,
    ),
}
"""By event type."""


def event(message: Any) -> None:
    """Any message of a stream, by its type.

    Raises:
        KeyError: its type is not in `EVENTS`.
    """
    inner = message.get("data", message) if isinstance(message, dict) else message
    kind = str(inner[0]["e"]) if isinstance(inner, list) else message_kind(message)
    EVENTS[kind](message)


def foreign(sample: Any) -> None:
    """Of another exchange: nothing of it is mistaken for ours, and what cannot be read is said by name."""
    for one in rows_of(sample):
        if isinstance(one, dict):
            try:
                assert parse_user_message(one, exchange="x") == ()
            except ExchangeError as error:
                assert "cannot be read" in str(error)
            for parser in (parse.order_report, parse.trigger_report, parse.open_order):
                with pytest.raises(ExchangeError, match="cannot be read"):
                    parser(one)
