"""JSON shapes of orders, trades, income and accounts in REST replies. Money, prices, quantities are strings."""

from __future__ import annotations

from typing import Any

from envs.instruments import Instrument
from live.paper.account import Account
from live.paper.margin import AccountMargin, PositionMargin
from live.paper.money import ZERO, amount_text, plain, price_text, quantity_text
from live.paper.orders import AlgoOrder, Income, Order, Trade

Json = dict[str, Any]


def placed_order(order: Order, instrument: Instrument, *, acknowledged: bool = False) -> Json:
    """Reply to placing or cancelling: without avgPrice and cumQuote, since 2026-06.

    `acknowledged` shows the order as it was accepted, before it filled (newOrderRespType ACK).
    """
    executed = quantity_text(ZERO if acknowledged else order.executed_quantity, instrument.quantity_precision)
    return {
        "orderId": order.order_id,
        "symbol": order.symbol,
        "status": "NEW" if acknowledged else order.status.value,
        "clientOrderId": order.client_order_id,
        "price": price_text(order.price, instrument.price_precision),
        "origQty": quantity_text(order.quantity, instrument.quantity_precision),
        "executedQty": executed,
        "cumQty": executed,
        "timeInForce": order.time_in_force,
        "type": order.type,
        "reduceOnly": order.reduce_only,
        "closePosition": order.close_position,
        "side": order.side.value,
        "positionSide": order.position_side,
        "stopPrice": price_text(order.stop_price, instrument.price_precision),
        "workingType": order.working_type,
        "priceProtect": order.price_protect,
        "origType": order.orig_type,
        "priceMatch": "NONE",
        "selfTradePreventionMode": "EXPIRE_MAKER",
        "goodTillDate": 0,
        "updateTime": order.update_ms,
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
        "price": price_text(ZERO, instrument.price_precision),
        "icebergQuantity": None,
        "selfTradePreventionMode": "EXPIRE_MAKER",
        "workingType": algo.working_type,
        "priceMatch": "NONE",
        "closePosition": algo.close_position,
        "priceProtect": algo.price_protect,
        "reduceOnly": algo.reduce_only,
        "activatePrice": "",
        "callbackRate": "",
        "createTime": algo.time_ms,
        "updateTime": algo.update_ms,
        "triggerTime": algo.trigger_ms,
        "goodTillDate": 0,
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
        "isActivated": False,
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


def balance(account: Account, margin: AccountMargin) -> Json:
    """One asset of v2 and v3 balance."""
    return {
        "accountAlias": account.alias,
        "asset": "USDT",
        "balance": amount_text(margin.wallet),
        "crossWalletBalance": amount_text(margin.wallet),
        "crossUnPnl": amount_text(margin.unrealized),
        "availableBalance": amount_text(margin.available),
        "maxWithdrawAmount": amount_text(margin.withdrawable),
        "marginAvailable": True,
        "updateTime": account.update_ms,
    }


def account_totals(account: Account, margin: AccountMargin) -> Json:
    """Totals and the USDT asset, common to v2 and v3 account."""
    return {
        "totalInitialMargin": amount_text(margin.initial),
        "totalMaintMargin": amount_text(margin.maintenance),
        "totalWalletBalance": amount_text(margin.wallet),
        "totalUnrealizedProfit": amount_text(margin.unrealized),
        "totalMarginBalance": amount_text(margin.equity),
        "totalPositionInitialMargin": amount_text(margin.position_initial),
        "totalOpenOrderInitialMargin": amount_text(margin.open_order_initial),
        "totalCrossWalletBalance": amount_text(margin.wallet),
        "totalCrossUnPnl": amount_text(margin.unrealized),
        "availableBalance": amount_text(margin.available),
        "maxWithdrawAmount": amount_text(margin.withdrawable),
        "assets": [
            {
                "asset": "USDT",
                "walletBalance": amount_text(margin.wallet),
                "unrealizedProfit": amount_text(margin.unrealized),
                "marginBalance": amount_text(margin.equity),
                "maintMargin": amount_text(margin.maintenance),
                "initialMargin": amount_text(margin.initial),
                "positionInitialMargin": amount_text(margin.position_initial),
                "openOrderInitialMargin": amount_text(margin.open_order_initial),
                "crossWalletBalance": amount_text(margin.wallet),
                "crossUnPnl": amount_text(margin.unrealized),
                "availableBalance": amount_text(margin.available),
                "maxWithdrawAmount": amount_text(margin.withdrawable),
                "marginAvailable": True,
                "updateTime": account.update_ms,
            }
        ],
    }


def account_position_v3(row: PositionMargin, instrument: Instrument) -> Json:
    """One position of v3 account."""
    position = row.position
    return {
        "symbol": position.symbol,
        "positionSide": "BOTH",
        "positionAmt": quantity_text(position.quantity, instrument.quantity_precision),
        "unrealizedProfit": amount_text(row.unrealized),
        "isolatedMargin": "0",
        "notional": amount_text(row.notional),
        "isolatedWallet": "0",
        "initialMargin": amount_text(row.position_initial + row.open_order_initial),
        "maintMargin": amount_text(row.maintenance),
        "updateTime": position.update_ms,
    }


def account_position_v2(row: PositionMargin, instrument: Instrument) -> Json:
    """One position of v2 account."""
    return {
        **account_position_v3(row, instrument),
        "positionInitialMargin": amount_text(row.position_initial),
        "openOrderInitialMargin": amount_text(row.open_order_initial),
        "leverage": str(row.leverage),
        "isolated": False,
        "entryPrice": plain(row.position.entry_price),
        "breakEvenPrice": plain(row.position.break_even_price),
        "maxNotional": plain(instrument.max_notional_usdt(row.leverage)),
        "bidNotional": plain(row.bid_notional),
        "askNotional": plain(row.ask_notional),
    }


def position_risk(row: PositionMargin, instrument: Instrument, liquidation_price: str) -> Json:
    """What v2 and v3 positionRisk have in common."""
    position = row.position
    return {
        "symbol": position.symbol,
        "positionSide": "BOTH",
        "positionAmt": quantity_text(position.quantity, instrument.quantity_precision),
        "entryPrice": plain(position.entry_price),
        "breakEvenPrice": plain(position.break_even_price),
        "markPrice": amount_text(row.mark_price),
        "unRealizedProfit": amount_text(row.unrealized),
        "liquidationPrice": liquidation_price,
        "isolatedMargin": "0",
        "notional": amount_text(row.notional),
        "isolatedWallet": "0",
        "updateTime": position.update_ms,
    }


def position_risk_v3(row: PositionMargin, instrument: Instrument, liquidation_price: str) -> Json:
    """One position of v3 positionRisk: no leverage, no margin type."""
    return {
        **position_risk(row, instrument, liquidation_price),
        "marginAsset": "USDT",
        "initialMargin": amount_text(row.position_initial + row.open_order_initial),
        "maintMargin": amount_text(row.maintenance),
        "positionInitialMargin": amount_text(row.position_initial),
        "openOrderInitialMargin": amount_text(row.open_order_initial),
        "adl": 1,
        "bidNotional": plain(row.bid_notional),
        "askNotional": plain(row.ask_notional),
    }


def position_risk_v2(row: PositionMargin, instrument: Instrument, liquidation_price: str) -> Json:
    """One position of v2 positionRisk."""
    return {
        **position_risk(row, instrument, liquidation_price),
        "marginType": "cross",
        "isAutoAddMargin": "false",
        "leverage": str(row.leverage),
        "maxNotionalValue": plain(instrument.max_notional_usdt(row.leverage)),
    }


def leverage_brackets(instrument: Instrument) -> Json:
    """One entry of leverageBracket; numbers, not strings."""
    return {
        "symbol": instrument.symbol,
        "notionalCoef": 1.0,
        "brackets": [
            {
                "bracket": number,
                "initialLeverage": bracket.max_leverage,
                "notionalCap": int(bracket.notional_cap_usdt),
                "notionalFloor": int(bracket.notional_floor_usdt),
                "maintMarginRatio": float(bracket.maintenance_rate),
                "cum": float(bracket.maintenance_amount_usdt),
            }
            for number, bracket in enumerate(instrument.brackets, start=1)
        ],
    }
