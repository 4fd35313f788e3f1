"""JSON shapes of orders, trades and income in REST replies. Money, prices, quantities are strings."""

from __future__ import annotations

from typing import Any

from envs.instruments import Instrument
from live.paper.money import ZERO, amount_text, plain, price_text, quantity_text
from live.paper.orders import AlgoOrder, Income, Order, Trade

Json = dict[str, Any]


def placed_order(order: Order, instrument: Instrument, *, acknowledged: bool = False) -> Json:
    """Reply to placing or cancelling: without avgPrice and cumQuote, since 2026-06.

    `acknowledged` shows the order as it was accepted, before it filled (newOrderRespType ACK).
    """
    decimals = instrument.price_precision
    executed = quantity_text(ZERO if acknowledged else order.executed_quantity, instrument.quantity_precision)
    view = {
        "orderId": order.order_id,
        "symbol": order.symbol,
        "status": "NEW" if acknowledged else order.status.value,
        "clientOrderId": order.client_order_id,
        "price": price_text(order.price, decimals),
        "origQty": quantity_text(order.quantity, instrument.quantity_precision),
        "executedQty": executed,
        "cumQty": executed,
        "timeInForce": order.time_in_force,
        "type": order.type,
        "reduceOnly": order.reduce_only,
        "closePosition": order.close_position,
        "side": order.side.value,
        "positionSide": order.position_side,
        "stopPrice": price_text(order.stop_price, decimals),
        "workingType": order.working_type,
        "priceProtect": order.price_protect,
        "origType": order.orig_type,
        "priceMatch": order.price_match,
        "selfTradePreventionMode": order.self_trade_prevention,
        "goodTillDate": order.good_till_ms,
        "updateTime": order.update_ms,
    }
    if order.callback_rate_percent:
        view["activatePrice"] = price_text(order.activate_price, decimals)
        view["priceRate"] = plain(order.callback_rate_percent)
    return view


def amended_order(order: Order, instrument: Instrument) -> Json:
    """Reply to modifying: like placing, with the pair and the number of the change."""
    view = placed_order(order, instrument)
    view["pair"] = order.symbol
    view["cumBase"] = "0"
    view["modifyId"] = order.amendments[-1].amendment_id if order.amendments else 0
    return view


def amendment(order: Order, number: int, instrument: Instrument) -> Json:
    """One row of orderAmendment: the change with this index."""
    change = order.amendments[number]
    decimals = instrument.price_precision
    return {
        "amendmentId": change.amendment_id,
        "symbol": order.symbol,
        "pair": order.symbol,
        "orderId": order.order_id,
        "clientOrderId": order.client_order_id,
        "time": change.time_ms,
        "amendment": {
            "price": {
                "before": price_text(change.price_before, decimals),
                "after": price_text(change.price_after, decimals),
            },
            "origQty": {
                "before": quantity_text(change.quantity_before, instrument.quantity_precision),
                "after": quantity_text(change.quantity_after, instrument.quantity_precision),
            },
            "count": number + 1,
        },
        "priceMatch": order.price_match,
    }


def read_order(order: Order, instrument: Instrument) -> Json:
    """Reply to reading: with avgPrice, cumQuote and the time of creation."""
    view = placed_order(order, instrument)
    del view["cumQty"]
    view["avgPrice"] = price_text(order.average_price, instrument.price_precision)
    view["cumQuote"] = plain(order.cumulative_quote)
    view["time"] = order.time_ms
    view["pair"] = order.symbol
    view["cumBase"] = "0"
    return view


def placed_algo(algo: AlgoOrder, instrument: Instrument) -> Json:
    """Reply to placing a conditional order."""
    return {
        "algoId": algo.algo_id,
        "clientAlgoId": algo.client_algo_id,
        "algoType": "CONDITIONAL",
        "orderType": algo.type,
        "symbol": algo.symbol,
        "side": algo.side.value,
        "positionSide": algo.position_side,
        "timeInForce": algo.time_in_force,
        "quantity": quantity_text(algo.quantity, instrument.quantity_precision),
        "algoStatus": algo.status.value,
        "triggerPrice": price_text(algo.trigger_price, instrument.price_precision),
        "price": price_text(algo.price, instrument.price_precision),
        "icebergQuantity": None,
        "selfTradePreventionMode": algo.self_trade_prevention,
        "workingType": algo.working_type,
        "priceMatch": algo.price_match,
        "closePosition": algo.close_position,
        "priceProtect": algo.price_protect,
        "reduceOnly": algo.reduce_only,
        "activatePrice": plain(algo.activate_price) if algo.activate_price else "",
        "callbackRate": plain(algo.callback_rate_percent) if algo.callback_rate_percent else "",
        "createTime": algo.time_ms,
        "updateTime": algo.update_ms,
        "triggerTime": algo.trigger_ms,
        "goodTillDate": algo.good_till_ms,
    }


def read_algo(algo: AlgoOrder, instrument: Instrument) -> Json:
    """Reply to reading a conditional order: with the order that its trigger made."""
    order = algo.order
    return {
        **placed_algo(algo, instrument),
        "actualOrderId": str(order.order_id) if order else "",
        "actualPrice": price_text(order.average_price if order else ZERO, instrument.price_precision),
        "actualType": order.type if order else "",
        "actualQty": plain(order.executed_quantity) if order else "0.0",
        "isActivated": algo.extreme_price is not None,
        "tpOrderType": "",
        "tpTriggerPrice": "0",
        "tpPrice": "0",
        "slTriggerPrice": "0",
        "slPrice": "0",
    }


def cancelled_algo(algo: AlgoOrder) -> Json:
    """Reply to cancelling a conditional order; its code is a string."""
    return {
        "algoId": algo.algo_id,
        "clientAlgoId": algo.client_algo_id,
        "code": "200",
        "msg": "success",
    }


def user_trade(trade: Trade, instrument: Instrument) -> Json:
    """One row of userTrades."""
    return {
        "buyer": trade.side.sign > 0,
        "commission": amount_text(trade.commission_usdt),
        "commissionAsset": "USDT",
        "id": trade.trade_id,
        "maker": trade.maker,
        "orderId": trade.order.order_id,
        "price": plain(trade.price),
        "qty": quantity_text(trade.quantity, instrument.quantity_precision),
        "quoteQty": amount_text(trade.quote_usdt),
        "baseQty": "0",
        "marginAsset": "USDT",
        "realizedPnl": amount_text(trade.realized_pnl_usdt),
        "side": trade.side.value,
        "positionSide": trade.order.position_side,
        "symbol": trade.symbol,
        "pair": trade.symbol,
        "time": trade.time_ms,
    }


def income_row(income: Income) -> Json:
    """One row of income."""
    return {
        "symbol": income.symbol,
        "incomeType": income.income_type,
        "income": amount_text(income.amount_usdt),
        "asset": "USDT",
        "info": income.income_type,
        "time": income.time_ms,
        "tranId": income.transaction_id,
        "tradeId": "" if income.trade_id is None else str(income.trade_id),
    }
