"""REST: account, settings, trades, income, listen keys."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from envs.time_grid import DAY_MS
from live.paper import desk, views
from live.paper.calls import Call, Handler, Route, Security
from live.paper.errors import ApiError, refusal
from live.paper.margin import (
    AccountMargin,
    PositionMargin,
    liquidation_price,
    margin_of_account,
    margin_of_symbol,
)
from live.paper.money import plain

_WINDOW_MS = 7 * DAY_MS


def balance(call: Call) -> Any:
    """GET v2 and v3 balance."""
    return [views.balance(call.account, _margin(call))]


def account_v3(call: Call) -> Any:
    """GET v3/account: only symbols with a position or open orders."""
    margin = _margin(call)
    instruments = call.exchange.engine.instruments
    view = views.account_totals(call.account, margin)
    view["positions"] = [
        views.account_position_v3(row, instruments[row.position.symbol])
        for row in margin.positions
        if _in_use(row)
    ]
    return view


def account_v2(call: Call) -> Any:
    """GET v2/account: every symbol."""
    margin = _margin(call)
    instruments = call.exchange.engine.instruments
    return {
        "feeTier": 0,
        "feeBurn": False,
        "canTrade": True,
        "canDeposit": True,
        "canWithdraw": False,
        "multiAssetsMargin": False,
        "tradeGroupId": -1,
        "updateTime": 0,
        **views.account_totals(call.account, margin),
        "positions": [
            views.account_position_v2(row, instruments[row.position.symbol]) for row in margin.positions
        ],
    }


def position_risk_v3(call: Call) -> Any:
    """GET v3/positionRisk: only symbols with a position or open orders."""
    return [
        views.position_risk_v3(
            row, call.exchange.engine.instruments[row.position.symbol], _liquidation(call, row)
        )
        for row in _rows(call)
        if _in_use(row)
    ]


def position_risk_v2(call: Call) -> Any:
    """GET v2/positionRisk: every symbol."""
    return [
        views.position_risk_v2(
            row, call.exchange.engine.instruments[row.position.symbol], _liquidation(call, row)
        )
        for row in _rows(call)
    ]


def account_config(call: Call) -> Any:
    """GET accountConfig."""
    return {
        "feeTier": 0,
        "canTrade": True,
        "canDeposit": True,
        "canWithdraw": False,
        "dualSidePosition": False,
        "updateTime": 0,
        "multiAssetsMargin": False,
        "tradeGroupId": -1,
    }


def symbol_config(call: Call) -> Any:
    """GET symbolConfig."""
    instruments = call.exchange.engine.instruments
    return [
        {
            "symbol": symbol,
            "marginType": "CROSSED",
            "isAutoAddMargin": False,
            "leverage": call.account.leverage[symbol],
            "maxNotionalValue": plain(instruments[symbol].max_notional_usdt(call.account.leverage[symbol])),
        }
        for symbol in call.symbols()
    ]


def leverage_bracket(call: Call) -> Any:
    """GET leverageBracket: a list, with a symbol too."""
    return [views.leverage_brackets(call.exchange.engine.instruments[symbol]) for symbol in call.symbols()]


def commission_rate(call: Call) -> Any:
    """GET commissionRate."""
    instrument = call.exchange.engine.instruments[call.symbol()]
    return {
        "symbol": instrument.symbol,
        "makerCommissionRate": f"{instrument.maker_fee:.6f}",
        "takerCommissionRate": f"{instrument.taker_fee:.6f}",
        "rpiCommissionRate": f"{instrument.maker_fee:.6f}",
    }


def set_leverage(call: Call) -> Any:
    """POST leverage."""
    symbol = call.symbol()
    leverage = call.params.integer("leverage")
    if leverage is None:
        raise refusal(-1102, "leverage")
    desk.set_leverage(call.exchange.engine, call.account, symbol, leverage)
    instrument = call.exchange.engine.instruments[symbol]
    return {
        "leverage": leverage,
        "maxNotionalValue": plain(instrument.max_notional_usdt(leverage)),
        "symbol": symbol,
    }


def set_margin_type(call: Call) -> Any:
    """POST marginType: every symbol is cross margined, and stays so."""
    call.symbol()
    wanted = call.params.required("marginType")
    if wanted == "CROSSED":
        raise refusal(-4046)
    if wanted == "ISOLATED":
        raise ApiError(-1130, "Data sent for parameter 'marginType' is not valid: cross margin only here.")
    raise refusal(-1130, "marginType")


def get_position_mode(call: Call) -> Any:
    """GET positionSide/dual."""
    return {"dualSidePosition": False}


def set_position_mode(call: Call) -> Any:
    """POST positionSide/dual: one-way mode only."""
    call.params.required("dualSidePosition")
    if call.params.boolean("dualSidePosition"):
        raise ApiError(
            -1130, "Data sent for parameter 'dualSidePosition' is not valid: one-way mode only here."
        )
    raise refusal(-4059)


def get_multi_assets_mode(call: Call) -> Any:
    """GET multiAssetsMargin."""
    return {"multiAssetsMargin": False}


def user_trades(call: Call) -> Any:
    """GET userTrades, ascending by id. With only a limit: the oldest of the last 7 days."""
    symbol = call.symbol()
    params = call.params
    limit = params.limit(500, 1000)
    trades = call.account.trades.get(symbol, [])
    order_id, from_id = params.integer("orderId"), params.integer("fromId")
    if from_id is not None:
        found = trades[max(0, from_id - 1) :]
    elif order_id is not None:
        found = trades
    else:
        start, end = time_window(call)
        first = bisect_left(trades, start, key=lambda trade: trade.time_ms)
        last = bisect_left(trades, end + 1, key=lambda trade: trade.time_ms)
        found = trades[first:last]
    if order_id is not None:
        found = [trade for trade in found if trade.order.order_id == order_id]
    instrument = call.exchange.engine.instruments[symbol]
    return [views.user_trade(trade, instrument) for trade in found[:limit]]


def income(call: Call) -> Any:
    """GET income, ascending. Without times the last 7 days."""
    params = call.params
    limit = params.limit(100, 1000)
    page = params.integer("page") or 1
    symbol = params.text("symbol")
    if symbol is not None:
        symbol = call.symbol()
    kind = params.text("incomeType")
    start, end = params.integer("startTime"), params.integer("endTime")
    if start is None and end is None:
        start = call.exchange.now_ms - _WINDOW_MS
    rows = call.account.income
    first = 0 if start is None else bisect_left(rows, start, key=lambda row: row.time_ms)
    last = len(rows) if end is None else bisect_left(rows, end + 1, key=lambda row: row.time_ms)
    found = [
        row
        for row in rows[first:last]
        if (symbol is None or row.symbol == symbol) and (kind is None or row.income_type == kind)
    ]
    return [views.income_row(row) for row in found[(page - 1) * limit : page * limit]]


def open_listen_key(call: Call) -> Any:
    """POST listenKey: the same key while it lives."""
    return {"listenKey": call.exchange.hub.open_listen_key(call.account)}


def keep_listen_key(call: Call) -> Any:
    """PUT listenKey: another 60 minutes; -1125 when there is none."""
    key = call.exchange.hub.keep_listen_key(call.account)
    if key is None:
        raise refusal(-1125)
    return {"listenKey": key}


def close_listen_key(call: Call) -> Any:
    """DELETE listenKey."""
    call.exchange.hub.close_listen_key(call.account)
    return {}


def time_window(call: Call) -> tuple[int, int]:
    """startTime and endTime, at most 7 days apart (-4165); by default the last 7 days."""
    start, end = call.params.integer("startTime"), call.params.integer("endTime")
    if start is None and end is None:
        end = call.exchange.now_ms
        return end - _WINDOW_MS, end
    if end is None:
        assert start is not None
        return start, start + _WINDOW_MS
    if start is None:
        return end - _WINDOW_MS, end
    if end - start > _WINDOW_MS:
        raise refusal(-4165, 7)
    return start, end


def _margin(call: Call) -> AccountMargin:
    engine = call.exchange.engine
    return margin_of_account(call.account, engine.instruments, engine.prices, call.account.leverage)


def _rows(call: Call) -> list[PositionMargin]:
    engine = call.exchange.engine
    return [
        margin_of_symbol(
            call.account, symbol, engine.instruments, engine.prices[symbol], call.account.leverage[symbol]
        )
        for symbol in call.symbols()
    ]


def _in_use(row: PositionMargin) -> bool:
    return bool(row.position.quantity or row.bid_notional or row.ask_notional)


def _liquidation(call: Call, row: PositionMargin) -> str:
    engine = call.exchange.engine
    return plain(liquidation_price(call.account, engine.instruments, engine.prices, row.position.symbol))


def _signed(method: str, path: str, handler: Handler, weight: int = 1) -> Route:
    return Route(method, path, handler, Security.SIGNED, weight)


ROUTES: tuple[Route, ...] = (
    _signed("GET", "/fapi/v2/balance", balance, 5),
    _signed("GET", "/fapi/v3/balance", balance, 5),
    _signed("GET", "/fapi/v2/account", account_v2, 5),
    _signed("GET", "/fapi/v3/account", account_v3, 5),
    _signed("GET", "/fapi/v2/positionRisk", position_risk_v2, 5),
    _signed("GET", "/fapi/v3/positionRisk", position_risk_v3, 5),
    _signed("GET", "/fapi/v1/accountConfig", account_config, 5),
    _signed("GET", "/fapi/v1/symbolConfig", symbol_config, 5),
    _signed("GET", "/fapi/v1/leverageBracket", leverage_bracket),
    _signed("GET", "/fapi/v1/commissionRate", commission_rate, 20),
    _signed("POST", "/fapi/v1/leverage", set_leverage),
    _signed("POST", "/fapi/v1/marginType", set_margin_type),
    _signed("GET", "/fapi/v1/positionSide/dual", get_position_mode, 30),
    _signed("POST", "/fapi/v1/positionSide/dual", set_position_mode),
    _signed("GET", "/fapi/v1/multiAssetsMargin", get_multi_assets_mode, 30),
    _signed("GET", "/fapi/v1/userTrades", user_trades, 5),
    _signed("GET", "/fapi/v1/income", income, 30),
    Route("POST", "/fapi/v1/listenKey", open_listen_key, Security.KEY),
    Route("PUT", "/fapi/v1/listenKey", keep_listen_key, Security.KEY),
    Route("DELETE", "/fapi/v1/listenKey", close_listen_key, Security.KEY),
)
