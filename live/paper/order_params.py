"""What a client asked for, read from the parameters of a call: ordinary and conditional orders."""

from __future__ import annotations

from decimal import Decimal

from live.paper import filters
from live.paper.calls import Call, Params
from live.paper.errors import refusal
from live.paper.money import ZERO
from live.paper.orders import AlgoRequest, OrderRequest


def order_request(call: Call) -> OrderRequest:
    """The order that POST order asks for."""
    params = call.params
    symbol, side, kind = call.symbol(), params.side(), params.required("type")
    if kind in filters.CONDITIONAL_TYPES:
        raise refusal(-4120)
    if kind not in filters.ORDER_TYPES:
        raise refusal(-1116)
    if params.boolean("closePosition"):
        raise refusal(-4136, kind, "true")
    match = params.text("priceMatch") or "NONE"
    unwanted = ["stopPrice", "triggerPrice"]
    if kind == "MARKET":
        unwanted += ["price", "timeInForce"]
    elif match != "NONE":
        unwanted.append("price")
    _refuse(params, unwanted)
    time_in_force = "GTC" if kind == "MARKET" else params.required("timeInForce")
    quantity = params.required_decimal("quantity")
    price = ZERO
    if kind == "LIMIT" and match == "NONE":
        price = params.required_decimal("price")
    return OrderRequest(
        symbol=symbol,
        side=side,
        type=kind,
        quantity=quantity,
        price=price,
        time_in_force=time_in_force,
        reduce_only=_reduce_only(call),
        position_side=params.text("positionSide") or "",
        working_type=_working_type(params),
        client_order_id=params.text("newClientOrderId") or "",
        good_till_ms=params.integer("goodTillDate") or 0,
        price_match=match,
        self_trade_prevention=params.text("selfTradePreventionMode") or "EXPIRE_MAKER",
    )


def algo_request(call: Call) -> AlgoRequest:
    """The conditional order that POST algoOrder asks for."""
    params = call.params
    if params.required("algoType") != "CONDITIONAL":
        raise refusal(-1130, "algoType")
    symbol, side, kind = call.symbol(), params.side(), params.required("type")
    if kind not in filters.CONDITIONAL_TYPES:
        raise refusal(-1116)
    trailing, limit = kind == "TRAILING_STOP_MARKET", kind in ("STOP", "TAKE_PROFIT")
    match = params.text("priceMatch") or "NONE"
    unwanted = []
    if not limit or match != "NONE":
        unwanted.append("price")
    unwanted += ["triggerPrice"] if trailing else ["callbackRate", "activatePrice"]
    _refuse(params, unwanted)
    close_position = params.boolean("closePosition")
    quantity = params.decimal("quantity")
    if quantity is None and not close_position:
        raise refusal(-1102, "quantity")
    price = ZERO
    if limit and match == "NONE":
        price = params.required_decimal("price")
    return AlgoRequest(
        symbol=symbol,
        side=side,
        type=kind,
        trigger_price=ZERO if trailing else params.required_decimal("triggerPrice"),
        quantity=quantity if quantity is not None else ZERO,
        close_position=close_position,
        reduce_only=_reduce_only(call),
        time_in_force=params.text("timeInForce") or "GTC",
        position_side=params.text("positionSide") or "",
        working_type=_working_type(params),
        price_protect=_price_protect(params),
        client_algo_id=params.text("clientAlgoId") or "",
        price=price,
        callback_rate_percent=params.required_decimal("callbackRate") if trailing else ZERO,
        activate_price=_or_zero(params.decimal("activatePrice")),
        good_till_ms=params.integer("goodTillDate") or 0,
        price_match=match,
        self_trade_prevention=params.text("selfTradePreventionMode") or "EXPIRE_MAKER",
    )


def _refuse(params: Params, names: list[str]) -> None:
    for name in names:
        if params.text(name) is not None:
            raise refusal(-1106, name)


def _reduce_only(call: Call) -> bool:
    """In hedge mode the parameter may not even be false."""
    if call.account.hedge_mode and call.params.text("reduceOnly") is not None:
        raise refusal(-1106, "reduceonly")
    return call.params.boolean("reduceOnly")


def _working_type(params: Params) -> str:
    value = params.text("workingType") or "CONTRACT_PRICE"
    if value not in filters.WORKING_TYPES:
        raise refusal(-1130, "workingType")
    return value


def _price_protect(params: Params) -> bool:
    value = params.text("priceProtect")
    if value is not None and value.lower() not in ("true", "false"):
        raise refusal(-1130, "priceProtect")
    return value is not None and value.lower() == "true"


def _or_zero(value: Decimal | None) -> Decimal:
    return ZERO if value is None else value
