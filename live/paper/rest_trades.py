"""REST: the market's trades as far as candles tell of them, open interest, and index and premium candles.

Prices come from candles, so there is one trade for each move of the price; the newest thousand of a symbol are kept.
"""

from __future__ import annotations

from typing import Any

from live.paper.calls import Call, Params, Route, Security
from live.paper.market_streams import MarketTrade
from live.paper.money import ZERO, plain, quantity_text
from live.paper.rest_market import KLINE_WEIGHT, mark_price_klines

_MOST = 1000


def recent_trades(call: Call) -> Any:
    """GET trades: the newest."""
    symbol = call.symbol()
    limit = call.params.limit(500, _MOST)
    return [_trade(one) for one in _tape(call, symbol)[-limit:]]


def historical_trades(call: Call) -> Any:
    """GET historicalTrades: from an id on, else the newest."""
    symbol = call.symbol()
    limit = call.params.limit(100, _MOST)
    from_id = call.params.integer("fromId")
    tape = _tape(call, symbol)
    found = tape[-limit:] if from_id is None else [one for one in tape if one.trade_id >= from_id][:limit]
    return [_trade(one) for one in found]


def aggregate_trades(call: Call) -> Any:
    """GET aggTrades: from an id or a time on, else the newest."""
    symbol = call.symbol()
    params = call.params
    limit = params.limit(500, _MOST)
    from_id, start_ms, end_ms = (params.integer(name) for name in ("fromId", "startTime", "endTime"))
    found = [
        one
        for one in _tape(call, symbol)
        if one.trade_id >= (from_id or 0)
        and one.time_ms >= (start_ms or 0)
        and (end_ms is None or one.time_ms <= end_ms)
    ]
    forward = from_id is not None or start_ms is not None
    return [
        {
            "a": one.trade_id,
            "p": plain(one.price),
            "q": plain(one.quantity),
            "nq": plain(one.quantity),
            "f": one.trade_id,
            "l": one.trade_id,
            "T": one.time_ms,
            "m": one.buyer_is_maker,
        }
        for one in (found[:limit] if forward else found[-limit:])
    ]


def open_interest(call: Call) -> Any:
    """GET openInterest: what this exchange's accounts hold long."""
    symbol = call.symbol()
    engine = call.exchange.engine
    held = sum(
        (
            position.quantity
            for account in engine.accounts.values()
            for position in account.held()
            if position.symbol == symbol and position.quantity > 0
        ),
        ZERO,
    )
    decimals = engine.instruments[symbol].quantity_precision
    return {"symbol": symbol, "openInterest": quantity_text(held, decimals), "time": call.exchange.now_ms}


def index_price_klines(call: Call) -> Any:
    """GET indexPriceKlines: the index is the mark price."""
    return mark_price_klines(_of_pair(call))


def premium_index_klines(call: Call) -> Any:
    """GET premiumIndexKlines: the mark never leaves the index, so the premium is 0."""
    rows = mark_price_klines(call)
    for row in rows:
        row[1:5] = ["0.00000000"] * 4
    return rows


def _of_pair(call: Call) -> Call:
    pair = call.params.required("pair")
    return Call(call.exchange, Params({**call.params.values, "symbol": pair}), call.caller)


def _tape(call: Call, symbol: str) -> list[MarketTrade]:
    return list(call.exchange.tape.trades[symbol])


def _trade(one: MarketTrade) -> dict[str, Any]:
    return {
        "id": one.trade_id,
        "price": plain(one.price),
        "qty": plain(one.quantity),
        "quoteQty": plain(one.price * one.quantity),
        "time": one.time_ms,
        "isBuyerMaker": one.buyer_is_maker,
        "isRPITrade": False,
    }


ROUTES: tuple[Route, ...] = (
    Route("GET", "/fapi/v1/trades", recent_trades, Security.NONE, 5),
    Route("GET", "/fapi/v1/historicalTrades", historical_trades, Security.KEY, 200),
    Route("GET", "/fapi/v1/aggTrades", aggregate_trades, Security.NONE, 20),
    Route("GET", "/fapi/v1/openInterest", open_interest, Security.NONE, 1),
    Route("GET", "/fapi/v1/indexPriceKlines", index_price_klines, Security.NONE, KLINE_WEIGHT),
    Route("GET", "/fapi/v1/premiumIndexKlines", premium_index_klines, Security.NONE, KLINE_WEIGHT),
)
