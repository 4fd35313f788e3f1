"""REST: an account's settings, and the margin of its isolated positions."""

from __future__ import annotations

from typing import Any

from live.paper import account_desk
from live.paper.calls import Call, Handler, Route, Security
from live.paper.errors import refusal
from live.paper.matching import position_side_of
from live.paper.money import plain

_SUCCESS = {"code": 200, "msg": "success"}


def set_leverage(call: Call) -> Any:
    """POST leverage."""
    symbol = call.symbol()
    leverage = call.params.integer("leverage")
    if leverage is None:
        raise refusal(-1102, "leverage")
    account_desk.set_leverage(call.exchange.engine, call.account, symbol, leverage)
    instrument = call.exchange.engine.instruments[symbol]
    return {
        "leverage": leverage,
        "maxNotionalValue": plain(instrument.max_notional_usdt(leverage)),
        "symbol": symbol,
    }


def set_margin_type(call: Call) -> Any:
    """POST marginType: CROSSED or ISOLATED."""
    symbol = call.symbol()
    account_desk.set_margin_type(
        call.exchange.engine, call.account, symbol, call.params.required("marginType")
    )
    return _SUCCESS


def change_position_margin(call: Call) -> Any:
    """POST positionMargin: type 1 adds to an isolated position, 2 takes out."""
    symbol = call.symbol()
    amount = call.params.required_decimal("amount")
    kind = call.params.integer("type")
    if kind is None:
        raise refusal(-1102, "type")
    if kind not in (1, 2):
        raise refusal(-1130, "type")
    side = position_side_of(call.account, call.params.text("positionSide") or "")
    account_desk.change_position_margin(
        call.exchange.engine, call.account, call.account.position(symbol, side), amount, add=kind == 1
    )
    return {
        "amount": float(amount),
        "code": 200,
        "msg": "Successfully modify position margin.",
        "type": kind,
    }


def get_position_mode(call: Call) -> Any:
    """GET positionSide/dual."""
    return {"dualSidePosition": call.account.hedge_mode}


def set_position_mode(call: Call) -> Any:
    """POST positionSide/dual: "true" is hedge mode."""
    call.params.required("dualSidePosition")
    account_desk.set_position_mode(
        call.exchange.engine, call.account, hedge=call.params.boolean("dualSidePosition")
    )
    return _SUCCESS


def get_multi_assets_mode(call: Call) -> Any:
    """GET multiAssetsMargin."""
    return {"multiAssetsMargin": False}


def set_multi_assets_mode(call: Call) -> Any:
    """POST multiAssetsMargin: single-asset mode only."""
    call.params.required("multiAssetsMargin")
    account_desk.set_multi_assets_mode(multi=call.params.boolean("multiAssetsMargin"))
    return _SUCCESS


def get_fee_burn(call: Call) -> Any:
    """GET feeBurn."""
    return {"feeBurn": call.account.fee_burn}


def set_fee_burn(call: Call) -> Any:
    """POST feeBurn: kept and shown; there is no BNB in the wallet, so fees stay in USDT."""
    call.params.required("feeBurn")
    call.account.fee_burn = call.params.boolean("feeBurn")
    return _SUCCESS


def _signed(method: str, path: str, handler: Handler, weight: int = 1) -> Route:
    return Route(method, path, handler, Security.SIGNED, weight)


ROUTES: tuple[Route, ...] = (
    _signed("POST", "/fapi/v1/leverage", set_leverage),
    _signed("POST", "/fapi/v1/marginType", set_margin_type),
    _signed("POST", "/fapi/v1/positionMargin", change_position_margin),
    _signed("GET", "/fapi/v1/positionSide/dual", get_position_mode, 30),
    _signed("POST", "/fapi/v1/positionSide/dual", set_position_mode),
    _signed("GET", "/fapi/v1/multiAssetsMargin", get_multi_assets_mode, 30),
    _signed("POST", "/fapi/v1/multiAssetsMargin", set_multi_assets_mode),
    _signed("GET", "/fapi/v1/feeBurn", get_fee_burn, 30),
    _signed("POST", "/fapi/v1/feeBurn", set_fee_burn),
)
