"""REST: conditional (algo) orders."""

from __future__ import annotations

from typing import Any

from live.paper import algo_desk, views
from live.paper.calls import Call, Handler, Route, Security, Weight, by_symbol
from live.paper.errors import ApiError, refusal
from live.paper.order_params import algo_request
from live.paper.orders import AlgoOrder
from live.paper.windows import is_findable, time_window

_CANCELLED_ALL = {"code": 200, "msg": "The operation of cancel all open order is done."}
_NO_ID = "Param 'clientAlgoId' or 'algoId' must be sent, but both were empty/null!"


def place_algo_order(call: Call) -> Any:
    """POST algoOrder."""
    algo = algo_desk.place_algo_order(call.exchange.engine, call.account, algo_request(call))
    return views.placed_algo(algo, call.exchange.engine.instruments[algo.symbol])


def get_algo_order(call: Call) -> Any:
    """GET algoOrder: -2013."""
    algo = _find(call)
    if algo is None:
        raise refusal(-2013)
    return _read(call, algo)


def cancel_algo_order(call: Call) -> Any:
    """DELETE algoOrder: -2013 unknown, -2011 ended."""
    algo = algo_desk.cancel_algo_order(call.exchange.engine, call.account, _find(call))
    return views.cancelled_algo(algo)


def get_open_algo_orders(call: Call) -> Any:
    """GET openAlgoOrders: a bare list."""
    symbols = set(call.symbols())
    algo_id = call.params.integer("algoId")
    return [
        _read(call, algo)
        for algo in call.account.open_algo_orders.values()
        if algo.symbol in symbols and algo_id in (None, algo.algo_id)
    ]


def get_all_algo_orders(call: Call) -> Any:
    """GET allAlgoOrders: ascending; from algoId on, else the newest of the time window."""
    symbols = set(call.symbols())
    limit = call.params.limit(500, 1000)
    from_id = call.params.integer("algoId")
    now_ms = call.exchange.now_ms
    algos = [
        algo
        for algo in call.account.algo_orders.values()
        if algo.symbol in symbols and is_findable(algo, now_ms)
    ]
    if from_id is not None:
        return [_read(call, algo) for algo in algos if algo.algo_id >= from_id][:limit]
    start, end = time_window(call)
    return [_read(call, algo) for algo in algos if start <= algo.time_ms <= end][-limit:]


def cancel_all_algo_orders(call: Call) -> Any:
    """DELETE algoOpenOrders of one symbol."""
    algo_desk.cancel_all_algo_orders(call.exchange.engine, call.account, call.symbol())
    return _CANCELLED_ALL


def _find(call: Call) -> AlgoOrder | None:
    algo_id, client_id = call.params.integer("algoId"), call.params.text("clientAlgoId")
    if algo_id is None and client_id is None:
        raise ApiError(-1102, _NO_ID)
    algo = call.account.find_algo_order(algo_id, client_id)
    return algo if algo is not None and is_findable(algo, call.exchange.now_ms) else None


def _read(call: Call, algo: AlgoOrder) -> Any:
    return views.read_algo(algo, call.exchange.engine.instruments[algo.symbol])


def _signed(method: str, path: str, handler: Handler, weight: Weight = 1, orders: int = 0) -> Route:
    return Route(method, path, handler, Security.SIGNED, weight, orders)


ROUTES: tuple[Route, ...] = (
    _signed("POST", "/fapi/v1/algoOrder", place_algo_order, 0, 1),
    _signed("GET", "/fapi/v1/algoOrder", get_algo_order),
    _signed("DELETE", "/fapi/v1/algoOrder", cancel_algo_order),
    _signed("GET", "/fapi/v1/openAlgoOrders", get_open_algo_orders, by_symbol(1, 40)),
    _signed("GET", "/fapi/v1/allAlgoOrders", get_all_algo_orders, 5),
    _signed("DELETE", "/fapi/v1/algoOpenOrders", cancel_all_algo_orders),
)
