"""REST: balances, positions, margins, listen keys."""

from __future__ import annotations

from typing import Any

from live.paper import account_views as views
from live.paper import rest_history, rest_settings
from live.paper.calls import Call, Handler, Route, Security, Weight
from live.paper.errors import refusal
from live.paper.liquidation import liquidation_price
from live.paper.margin import AccountMargin, PositionMargin, margin_of_account, margin_of_position
from live.paper.orders import BOTH


def balance(call: Call) -> Any:
    """GET v2 and v3 balance."""
    return [views.balance(call.account, _margin(call))]


def account_v3(call: Call) -> Any:
    """GET v3/account: only positions that are held or have open orders."""
    margin = _margin(call)
    instruments = call.exchange.engine.instruments
    view = views.account_totals(call.account, margin)
    view["positions"] = [
        views.account_position_v3(row, instruments[row.position.symbol])
        for row in margin.positions
        if _in_use(call, row)
    ]
    return view


def account_v2(call: Call) -> Any:
    """GET v2/account: every symbol; in hedge mode BOTH, LONG and SHORT."""
    margin = _margin(call)
    account = call.account
    view = {
        "feeTier": 0,
        "feeBurn": account.fee_burn,
        "canTrade": True,
        "canDeposit": True,
        "canWithdraw": False,
        "multiAssetsMargin": False,
        "tradeGroupId": -1,
        "updateTime": 0,
        **views.account_totals_v2(account, margin),
    }
    rows = list(margin.positions)
    if account.hedge_mode:
        rows += [_row(call, symbol, BOTH) for symbol in call.exchange.symbols]
    instruments = call.exchange.engine.instruments
    view["positions"] = [views.account_position_v2(row, instruments[row.position.symbol]) for row in rows]
    return view


def position_risk_v3(call: Call) -> Any:
    """GET v3/positionRisk: only positions that are held or have open orders."""
    engine = call.exchange.engine
    return [
        views.position_risk_v3(
            row,
            engine.instruments[row.position.symbol],
            liquidation_price(call.account, engine.instruments, engine.mark_prices, row.position),
        )
        for row in _rows(call)
        if _in_use(call, row)
    ]


def position_risk_v2(call: Call) -> Any:
    """GET v2/positionRisk: every symbol."""
    engine = call.exchange.engine
    return [
        views.position_risk_v2(
            row,
            engine.instruments[row.position.symbol],
            liquidation_price(call.account, engine.instruments, engine.mark_prices, row.position),
        )
        for row in _rows(call)
    ]


def adl_quantile(call: Call) -> Any:
    """GET adlQuantile, of one symbol or all."""
    rows = _rows(call)
    return [
        views.adl_quantiles(call.account, symbol, [row for row in rows if row.position.symbol == symbol])
        for symbol in call.symbols()
    ]


def account_config(call: Call) -> Any:
    """GET accountConfig."""
    return {
        "feeTier": 0,
        "canTrade": True,
        "canDeposit": True,
        "canWithdraw": False,
        "dualSidePosition": call.account.hedge_mode,
        "updateTime": 0,
        "multiAssetsMargin": False,
        "tradeGroupId": -1,
    }


def symbol_config(call: Call) -> Any:
    """GET symbolConfig."""
    instruments = call.exchange.engine.instruments
    return [views.symbol_config(call.account, instruments[symbol]) for symbol in call.symbols()]


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


def trading_status(call: Call) -> Any:
    """GET apiTradingStatus: nobody is ever locked out for bad order ratios here."""
    return {"indicators": {}, "updateTime": call.exchange.now_ms}


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


def _margin(call: Call) -> AccountMargin:
    engine = call.exchange.engine
    return margin_of_account(call.account, engine.instruments, engine.mark_prices)


def _row(call: Call, symbol: str, side: str) -> PositionMargin:
    engine = call.exchange.engine
    position = call.account.position(symbol, side)
    return margin_of_position(call.account, position, engine.instruments[symbol], engine.mark(symbol))


def _rows(call: Call) -> list[PositionMargin]:
    return [_row(call, symbol, side) for symbol in call.symbols() for side in call.account.sides]


def _in_use(call: Call, row: PositionMargin) -> bool:
    position = row.position
    return bool(position.quantity or call.account.open_orders_of(position.symbol, position.side))


def _signed(method: str, path: str, handler: Handler, weight: Weight = 1) -> Route:
    return Route(method, path, handler, Security.SIGNED, weight)


ROUTES: tuple[Route, ...] = (
    _signed("GET", "/fapi/v2/balance", balance, 5),
    _signed("GET", "/fapi/v3/balance", balance, 5),
    _signed("GET", "/fapi/v2/account", account_v2, 5),
    _signed("GET", "/fapi/v3/account", account_v3, 5),
    _signed("GET", "/fapi/v2/positionRisk", position_risk_v2, 5),
    _signed("GET", "/fapi/v3/positionRisk", position_risk_v3, 5),
    _signed("GET", "/fapi/v1/adlQuantile", adl_quantile, 5),
    _signed("GET", "/fapi/v1/accountConfig", account_config, 5),
    _signed("GET", "/fapi/v1/symbolConfig", symbol_config, 5),
    _signed("GET", "/fapi/v1/leverageBracket", leverage_bracket),
    _signed("GET", "/fapi/v1/commissionRate", commission_rate, 20),
    _signed("GET", "/fapi/v1/apiTradingStatus", trading_status),
    Route("POST", "/fapi/v1/listenKey", open_listen_key, Security.KEY),
    Route("PUT", "/fapi/v1/listenKey", keep_listen_key, Security.KEY),
    Route("DELETE", "/fapi/v1/listenKey", close_listen_key, Security.KEY),
    *rest_settings.ROUTES,
    *rest_history.ROUTES,
)
