"""REST: ordinary and conditional (algo) orders."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from live.paper import desk, filters, views
from live.paper.calls import Call, Handler, Params, Route, Security, Weight, by_symbol
from live.paper.errors import ApiError, refusal
from live.paper.money import ZERO
from live.paper.orders import AlgoOrder, AlgoRequest, Order, OrderRequest
from live.paper.rest_account import time_window

_CANCELLED_ALL = {"code": 200, "msg": "The operation of cancel all open order is done."}
_NO_ID = "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!"
_NO_ALGO_ID = "Param 'clientAlgoId' or 'algoId' must be sent, but both were empty/null!"
_MAX_BATCH = 5


def place_order(call: Call) -> Any:
    """POST order. ACK shows the order as accepted, RESULT as it ended."""
    return _place(call)


def test_order(call: Call) -> Any:
    """POST order/test: every check, nothing stored."""
    request = _order_request(call)
    order = desk.prepare_order(call.exchange.engine, call.account, request)
    return _placed(call, order, acknowledged=True)


def place_batch(call: Call) -> Any:
    """POST batchOrders: up to 5; each succeeds or fails on its own."""
    try:
        items = json.loads(call.params.required("batchOrders"))
    except json.JSONDecodeError:
        raise refusal(-1130, "batchOrders") from None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise refusal(-1130, "batchOrders")
    if not 1 <= len(items) <= _MAX_BATCH:
        raise refusal(-4082)
    replies: list[Any] = []
    for item in items:
        params = Params({str(name): _as_text(value) for name, value in item.items()})
        try:
            replies.append(_place(Call(call.exchange, params, call.caller)))
        except ApiError as problem:
            replies.append({"code": problem.code, "msg": problem.msg})
    return replies


def get_order(call: Call) -> Any:
    """GET order, in any status: -2013."""
    order = _find(call)
    if order is None:
        raise refusal(-2013)
    return _read(call, order)


def get_open_order(call: Call) -> Any:
    """GET openOrder: -2013 when it is not open."""
    order = _find(call)
    if order is None or not order.is_open:
        raise refusal(-2013)
    return _read(call, order)


def cancel_order(call: Call) -> Any:
    """DELETE order: -2011 when it is unknown or has ended."""
    order = desk.cancel_order(call.exchange.engine, call.account, _find(call))
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
    orders = [order for order in call.account.orders.values() if order.symbol in symbols]
    if from_id is not None:
        return [_read(call, order) for order in orders if order.order_id >= from_id][:limit]
    start, end = time_window(call)
    return [_read(call, order) for order in orders if start <= order.time_ms <= end][-limit:]


def cancel_all_orders(call: Call) -> Any:
    """DELETE allOpenOrders of one symbol; algo orders stay."""
    desk.cancel_all(call.exchange.engine, call.account, call.symbol())
    return _CANCELLED_ALL


def place_algo_order(call: Call) -> Any:
    """POST algoOrder."""
    params = call.params
    if params.required("algoType") != "CONDITIONAL":
        raise refusal(-1130, "algoType")
    symbol, side, kind = call.symbol(), params.side(), params.required("type")
    if kind not in filters.CONDITIONAL_TYPES:
        raise refusal(-1116)
    if kind not in filters.SUPPORTED_CONDITIONAL_TYPES:
        raise ApiError(-1116, f"Invalid orderType: {kind} is not available on this exchange yet.")
    close_position = params.boolean("closePosition")
    quantity = params.decimal("quantity")
    if quantity is None and not close_position:
        raise refusal(-1102, "quantity")
    request = AlgoRequest(
        symbol=symbol,
        side=side,
        type=kind,
        trigger_price=params.required_decimal("triggerPrice"),
        quantity=quantity if quantity is not None else ZERO,
        close_position=close_position,
        reduce_only=params.boolean("reduceOnly"),
        time_in_force=_algo_time_in_force(params),
        position_side=params.text("positionSide") or "BOTH",
        working_type=_working_type(params),
        price_protect=_price_protect(params),
        client_algo_id=params.text("clientAlgoId") or "",
    )
    algo = desk.place_algo_order(call.exchange.engine, call.account, request)
    return views.placed_algo(algo, call.exchange.engine.instruments[symbol])


def get_algo_order(call: Call) -> Any:
    """GET algoOrder: -2013."""
    algo = _find_algo(call)
    if algo is None:
        raise refusal(-2013)
    return _read_algo(call, algo)


def cancel_algo_order(call: Call) -> Any:
    """DELETE algoOrder: -2013 unknown, -2011 ended."""
    algo = desk.cancel_algo_order(call.exchange.engine, call.account, _find_algo(call))
    return views.cancelled_algo(algo)


def get_open_algo_orders(call: Call) -> Any:
    """GET openAlgoOrders: a bare list."""
    symbols = set(call.symbols())
    waiting = call.account.open_algo_orders.values()
    return [_read_algo(call, algo) for algo in waiting if algo.symbol in symbols]


def get_all_algo_orders(call: Call) -> Any:
    """GET allAlgoOrders: ascending; from algoId on, else the newest of the time window."""
    symbols = set(call.symbols())
    limit = call.params.limit(500, 1000)
    from_id = call.params.integer("algoId")
    algos = [algo for algo in call.account.algo_orders.values() if algo.symbol in symbols]
    if from_id is not None:
        return [_read_algo(call, algo) for algo in algos if algo.algo_id >= from_id][:limit]
    start, end = time_window(call)
    return [_read_algo(call, algo) for algo in algos if start <= algo.time_ms <= end][-limit:]


def cancel_all_algo_orders(call: Call) -> Any:
    """DELETE algoOpenOrders of one symbol."""
    desk.cancel_all_algo_orders(call.exchange.engine, call.account, call.symbol())
    return _CANCELLED_ALL


def _place(call: Call) -> Any:
    request = _order_request(call)
    answer = call.params.text("newOrderRespType") or "ACK"
    if answer not in ("ACK", "RESULT"):
        raise refusal(-1130, "newOrderRespType")
    order = desk.place_order(call.exchange.engine, call.account, request)
    return _placed(call, order, acknowledged=answer == "ACK")


def _order_request(call: Call) -> OrderRequest:
    params = call.params
    symbol, side, kind = call.symbol(), params.side(), params.required("type")
    if kind in filters.CONDITIONAL_TYPES:
        raise refusal(-4120)
    if kind not in filters.ORDER_TYPES:
        raise refusal(-1116)
    price: Decimal = ZERO
    time_in_force = "GTC"
    if kind == "MARKET":
        for name in ("price", "timeInForce"):
            if params.text(name) is not None:
                raise refusal(-1106, name)
    else:
        time_in_force = params.required("timeInForce")
    quantity = params.required_decimal("quantity")
    if kind == "LIMIT":
        price = params.required_decimal("price")
    return OrderRequest(
        symbol=symbol,
        side=side,
        type=kind,
        quantity=quantity,
        price=price,
        time_in_force=time_in_force,
        reduce_only=params.boolean("reduceOnly"),
        position_side=params.text("positionSide") or "BOTH",
        working_type=_working_type(params),
        client_order_id=params.text("newClientOrderId") or "",
    )


def _working_type(params: Params) -> str:
    value = params.text("workingType") or "CONTRACT_PRICE"
    if value not in filters.WORKING_TYPES:
        raise refusal(-1130, "workingType")
    return value


def _algo_time_in_force(params: Params) -> str:
    value = params.text("timeInForce") or "GTC"
    if value not in ("GTC", "GTE_GTC"):
        raise refusal(-1115)
    return value


def _price_protect(params: Params) -> bool:
    """Mark and last price are one here, so price protection never holds a trigger back."""
    value = params.text("priceProtect")
    if value is not None and value.lower() not in ("true", "false"):
        raise refusal(-1130, "priceProtect")
    return value is not None and value.lower() == "true"


def _find(call: Call) -> Order | None:
    symbol = call.symbol()
    order_id, client_id = call.params.integer("orderId"), call.params.text("origClientOrderId")
    if order_id is None and client_id is None:
        raise ApiError(-1102, _NO_ID)
    order = call.account.find_order(order_id, client_id)
    return order if order is not None and order.symbol == symbol else None


def _find_algo(call: Call) -> AlgoOrder | None:
    algo_id, client_id = call.params.integer("algoId"), call.params.text("clientAlgoId")
    if algo_id is None and client_id is None:
        raise ApiError(-1102, _NO_ALGO_ID)
    return call.account.find_algo_order(algo_id, client_id)


def _placed(call: Call, order: Order, *, acknowledged: bool = False) -> Any:
    instrument = call.exchange.engine.instruments[order.symbol]
    return views.placed_order(order, instrument, acknowledged=acknowledged)


def _read(call: Call, order: Order) -> Any:
    return views.read_order(order, call.exchange.engine.instruments[order.symbol])


def _read_algo(call: Call, algo: AlgoOrder) -> Any:
    return views.read_algo(algo, call.exchange.engine.instruments[algo.symbol])


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _signed(method: str, path: str, handler: Handler, weight: Weight = 1, orders: int = 0) -> Route:
    return Route(method, path, handler, Security.SIGNED, weight, orders)


ROUTES: tuple[Route, ...] = (
    _signed("POST", "/fapi/v1/order", place_order, 0, 1),
    _signed("POST", "/fapi/v1/order/test", test_order, 1),
    _signed("GET", "/fapi/v1/order", get_order),
    _signed("DELETE", "/fapi/v1/order", cancel_order),
    _signed("POST", "/fapi/v1/batchOrders", place_batch, 5, 5),
    _signed("GET", "/fapi/v1/openOrder", get_open_order),
    _signed("GET", "/fapi/v1/openOrders", get_open_orders, by_symbol(1, 40)),
    _signed("GET", "/fapi/v1/allOrders", get_all_orders, 5),
    _signed("DELETE", "/fapi/v1/allOpenOrders", cancel_all_orders),
    _signed("POST", "/fapi/v1/algoOrder", place_algo_order, 0, 1),
    _signed("GET", "/fapi/v1/algoOrder", get_algo_order),
    _signed("DELETE", "/fapi/v1/algoOrder", cancel_algo_order),
    _signed("GET", "/fapi/v1/openAlgoOrders", get_open_algo_orders, by_symbol(1, 40)),
    _signed("GET", "/fapi/v1/allAlgoOrders", get_all_algo_orders, 5),
    _signed("DELETE", "/fapi/v1/algoOpenOrders", cancel_all_algo_orders),
)
