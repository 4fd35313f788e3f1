"""REST: ordinary orders."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from live.paper import amend, desk, rest_algo, timers, views
from live.paper.calls import Call, Handler, Params, Route, Security, Weight, by_symbol
from live.paper.errors import ApiError, refusal
from live.paper.money import ZERO
from live.paper.order_params import order_request
from live.paper.orders import Order
from live.paper.rest_history import find_order
from live.paper.windows import is_findable, time_window

_CANCELLED_ALL = {"code": 200, "msg": "The operation of cancel all open order is done."}
_MAX_BATCH = 5
_MAX_BATCH_CANCEL = 10


def place_order(call: Call) -> Any:
    """POST order. ACK shows the order as accepted, RESULT as it ended."""
    request = order_request(call)
    answer = call.params.text("newOrderRespType") or "ACK"
    if answer not in ("ACK", "RESULT"):
        raise refusal(-1136)
    order = desk.place_order(call.exchange.engine, call.account, request)
    return _placed(call, order, acknowledged=answer == "ACK")


def test_order(call: Call) -> Any:
    """POST order/test: every check, nothing stored."""
    order = desk.prepare_order(call.exchange.engine, call.account, order_request(call))
    return _placed(call, order, acknowledged=True)


def modify_order(call: Call) -> Any:
    """PUT order: another price and quantity, the order id stays."""
    params = call.params
    match = params.text("priceMatch") or "NONE"
    if match != "NONE" and params.text("price") is not None:
        raise refusal(-1106, "price")
    order = amend.amend_order(
        call.exchange.engine,
        call.account,
        find_order(call),
        side=params.side(),
        quantity=params.required_decimal("quantity"),
        price=ZERO if match != "NONE" else params.required_decimal("price"),
        price_match=match,
    )
    return views.amended_order(order, call.exchange.engine.instruments[order.symbol])


def place_batch(call: Call) -> Any:
    """POST batchOrders: up to 5; each succeeds or fails on its own."""
    return _batch(call, place_order)


def modify_batch(call: Call) -> Any:
    """PUT batchOrders: up to 5; each succeeds or fails on its own."""
    return _batch(call, modify_order)


def cancel_batch(call: Call) -> Any:
    """DELETE batchOrders: up to 10, by order ids or by client order ids; each succeeds or fails on its own."""
    order_ids = _list(call.params, "orderIdList")
    client_ids = _list(call.params, "origClientOrderIdList")
    wanted = [{"orderId": one} for one in order_ids] or [{"origClientOrderId": one} for one in client_ids]
    if not wanted:
        raise refusal(-1102, "orderIdList")
    if len(wanted) > _MAX_BATCH_CANCEL:
        raise refusal(-4032)
    symbol = call.symbol()
    return _each(call, [{"symbol": symbol, **one} for one in wanted], cancel_order)


def get_order(call: Call) -> Any:
    """GET order, in any status: -2013."""
    order = find_order(call)
    if order is None:
        raise refusal(-2013)
    return _read(call, order)


def get_open_order(call: Call) -> Any:
    """GET openOrder: -2013 when it is not open."""
    order = find_order(call)
    if order is None or not order.is_open:
        raise refusal(-2013)
    return _read(call, order)


def cancel_order(call: Call) -> Any:
    """DELETE order: -2011 when it is unknown or has ended."""
    order = desk.cancel_order(call.exchange.engine, call.account, find_order(call))
    return _placed(call, order)


def get_open_orders(call: Call) -> Any:
    """GET openOrders, of one symbol or all."""
    symbols = set(call.symbols())
    return [_read(call, order) for order in call.account.open_orders.values() if order.symbol in symbols]


def get_all_orders(call: Call) -> Any:
    """GET allOrders: ascending; from orderId on, else the newest of the time window."""
    symbols = set(call.symbols())
    limit = call.params.limit(500, 1000)
    from_id = call.params.integer("orderId")
    now_ms = call.exchange.now_ms
    orders = [
        order
        for order in call.account.orders.values()
        if order.symbol in symbols and is_findable(order, now_ms)
    ]
    if from_id is not None:
        return [_read(call, order) for order in orders if order.order_id >= from_id][:limit]
    start, end = time_window(call)
    return [_read(call, order) for order in orders if start <= order.time_ms <= end][-limit:]


def cancel_all_orders(call: Call) -> Any:
    """DELETE allOpenOrders of one symbol; algo orders stay."""
    desk.cancel_all(call.exchange.engine, call.account, call.symbol())
    return _CANCELLED_ALL


def countdown_cancel_all(call: Call) -> Any:
    """POST countdownCancelAll of one symbol; algo orders stay. 0 takes it back."""
    symbol = call.symbol()
    countdown = call.params.integer("countdownTime")
    if countdown is None:
        raise refusal(-1102, "countdownTime")
    timers.set_countdown(call.exchange.engine, call.account, symbol, countdown)
    return {"symbol": symbol, "countdownTime": str(countdown)}


def _batch(call: Call, handler: Handler) -> list[Any]:
    try:
        items = json.loads(call.params.required("batchOrders"))
    except json.JSONDecodeError:
        raise refusal(-1130, "batchOrders") from None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise refusal(-1130, "batchOrders")
    if not 1 <= len(items) <= _MAX_BATCH:
        raise refusal(-4082)
    return _each(call, items, handler)


def _each(call: Call, items: list[dict[str, Any]], handler: Callable[[Call], Any]) -> list[Any]:
    replies: list[Any] = []
    for item in items:
        params = Params({str(name): _as_text(value) for name, value in item.items()})
        try:
            replies.append(handler(Call(call.exchange, params, call.caller)))
        except ApiError as problem:
            replies.append({"code": problem.code, "msg": problem.msg})
    return replies


def _list(params: Params, name: str) -> list[Any]:
    """A JSON list; python-binance sends the name in lower case."""
    text = params.text(name) or params.text(name.lower())
    if text is None:
        return []
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        raise refusal(-1130, name) from None
    if not isinstance(found, list):
        raise refusal(-1130, name)
    return found


def _placed(call: Call, order: Order, *, acknowledged: bool = False) -> Any:
    instrument = call.exchange.engine.instruments[order.symbol]
    return views.placed_order(order, instrument, acknowledged=acknowledged)


def _read(call: Call, order: Order) -> Any:
    return views.read_order(order, call.exchange.engine.instruments[order.symbol])


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _signed(method: str, path: str, handler: Handler, weight: Weight = 1, orders: int = 0) -> Route:
    return Route(method, path, handler, Security.SIGNED, weight, orders)


ROUTES: tuple[Route, ...] = (
    _signed("POST", "/fapi/v1/order", place_order, 0, 1),
    _signed("PUT", "/fapi/v1/order", modify_order, 0, 1),
    _signed("POST", "/fapi/v1/order/test", test_order, 1),
    _signed("GET", "/fapi/v1/order", get_order),
    _signed("DELETE", "/fapi/v1/order", cancel_order),
    _signed("POST", "/fapi/v1/batchOrders", place_batch, 5, 5),
    _signed("PUT", "/fapi/v1/batchOrders", modify_batch, 5, 5),
    _signed("DELETE", "/fapi/v1/batchOrders", cancel_batch),
    _signed("GET", "/fapi/v1/openOrder", get_open_order),
    _signed("GET", "/fapi/v1/openOrders", get_open_orders, by_symbol(1, 40)),
    _signed("GET", "/fapi/v1/allOrders", get_all_orders, 5),
    _signed("DELETE", "/fapi/v1/allOpenOrders", cancel_all_orders),
    _signed("POST", "/fapi/v1/countdownCancelAll", countdown_cancel_all, 10),
    *rest_algo.ROUTES,
)
