"""REST: what happened to an account: trades, income, liquidations, changes of margin and of orders."""

from __future__ import annotations

from typing import Any

from live.paper import views
from live.paper.account_views import margin_change
from live.paper.calls import Call, Handler, Route, Security, Weight, by_symbol
from live.paper.errors import ApiError, refusal
from live.paper.orders import Order
from live.paper.windows import KEPT_MS, WINDOW_MS, between, is_findable, time_window

_NO_ID = "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!"
_CLOSED_BY_EXCHANGE = {"LIQUIDATION": "autoclose-", "ADL": "adl_autoclose"}


def user_trades(call: Call) -> Any:
    """GET userTrades, ascending by id: from fromId on, else the oldest of the time window."""
    symbol = call.symbol()
    params = call.params
    limit = params.limit(500, 1000)
    trades = call.account.trades.get(symbol, [])
    order_id, from_id = params.integer("orderId"), params.integer("fromId")
    times = params.integer("startTime") is not None or params.integer("endTime") is not None
    if from_id is not None and times:
        raise refusal(-1128)
    oldest_ms = call.exchange.now_ms - KEPT_MS
    start, end = oldest_ms, call.exchange.now_ms
    if from_id is None and (order_id is None or times):
        start, end = time_window(call)
    # Ids count from 1 without a gap.
    later = trades if from_id is None else trades[max(0, from_id - 1) :]
    found = between(later, max(start, oldest_ms), end, lambda trade: trade.time_ms)
    if order_id is not None:
        found = [trade for trade in found if trade.order.order_id == order_id]
    instrument = call.exchange.engine.instruments[symbol]
    return [views.user_trade(trade, instrument) for trade in found[:limit]]


def income(call: Call) -> Any:
    """GET income, ascending, of the last 3 months; without times the last 7 days. `page` counts from 1."""
    params = call.params
    limit = params.limit(100, 1000)
    page = params.integer("page") or 1
    symbol = None if params.text("symbol") is None else call.symbol()
    kind = params.text("incomeType")
    now_ms = call.exchange.now_ms
    start, end = params.integer("startTime"), params.integer("endTime")
    if start is None and end is None:
        start = now_ms - WINDOW_MS
    rows = between(
        call.account.income,
        max(start or 0, now_ms - KEPT_MS),
        now_ms if end is None else end,
        lambda row: row.time_ms,
    )
    found = [
        row
        for row in rows
        if (symbol is None or row.symbol == symbol) and (kind is None or row.income_type == kind)
    ]
    return [views.income_row(row) for row in found[(page - 1) * limit : page * limit]]


def force_orders(call: Call) -> Any:
    """GET forceOrders: what the exchange closed by itself (LIQUIDATION, ADL), ascending."""
    symbols = set(call.symbols())
    kind = call.params.text("autoCloseType")
    if kind is not None and kind not in _CLOSED_BY_EXCHANGE:
        raise refusal(-1130, "autoCloseType")
    limit = call.params.limit(50, 100)
    start, end = time_window(call)
    prefixes = tuple(_CLOSED_BY_EXCHANGE.values()) if kind is None else (_CLOSED_BY_EXCHANGE[kind],)
    found = [
        order
        for order in call.account.orders.values()
        if order.symbol in symbols
        and order.client_order_id.startswith(prefixes)
        and start <= order.time_ms <= end
    ]
    instruments = call.exchange.engine.instruments
    return [views.read_order(order, instruments[order.symbol]) for order in found[:limit]]


def position_margin_history(call: Call) -> Any:
    """GET positionMargin/history of one symbol, ascending."""
    symbol = call.symbol()
    params = call.params
    limit = params.limit(500, 500)
    kind = params.integer("type")
    start, end = params.integer("startTime"), params.integer("endTime")
    found = [
        change
        for change in call.account.margin_changes
        if change.symbol == symbol
        and (kind is None or (change.amount_usdt > 0) == (kind == 1))
        and (start is None or change.time_ms >= start)
        and (end is None or change.time_ms <= end)
    ]
    return [margin_change(change) for change in found[:limit]]


def order_amendments(call: Call) -> Any:
    """GET orderAmendment: the changes of an order, the newest first."""
    symbol = call.symbol()
    limit = call.params.limit(50, 100)
    order = find_order(call)
    if order is None:
        raise refusal(-2013)
    start, end = call.params.integer("startTime"), call.params.integer("endTime")
    instrument = call.exchange.engine.instruments[symbol]
    return [
        views.amendment(order, number, instrument)
        for number in reversed(range(len(order.amendments)))
        if (start is None or order.amendments[number].time_ms >= start)
        and (end is None or order.amendments[number].time_ms <= end)
    ][:limit]


def find_order(call: Call) -> Order | None:
    """The order that orderId or origClientOrderId names (orderId wins), while it can be found: -1102."""
    symbol = call.symbol()
    order_id, client_id = call.params.integer("orderId"), call.params.text("origClientOrderId")
    if order_id is None and client_id is None:
        raise ApiError(-1102, _NO_ID)
    order = call.account.find_order(order_id, client_id)
    if order is None or order.symbol != symbol or not is_findable(order, call.exchange.now_ms):
        return None
    return order


def _signed(method: str, path: str, handler: Handler, weight: Weight = 1) -> Route:
    return Route(method, path, handler, Security.SIGNED, weight)


ROUTES: tuple[Route, ...] = (
    _signed("GET", "/fapi/v1/userTrades", user_trades, 5),
    _signed("GET", "/fapi/v1/income", income, 30),
    _signed("GET", "/fapi/v1/forceOrders", force_orders, by_symbol(20, 50)),
    _signed("GET", "/fapi/v1/positionMargin/history", position_margin_history),
    _signed("GET", "/fapi/v1/orderAmendment", order_amendments),
)
