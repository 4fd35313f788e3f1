"""User data stream events, in the shapes that Binance sends."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from envs.instruments import Instrument
from live.paper.account import Account
from live.paper.margin import PositionMargin
from live.paper.money import amount_text, plain, price_text, quantity_text
from live.paper.orders import AlgoOrder, Order, Trade
from live.paper.positions import Position

Event = dict[str, Any]


def order_trade_update(
    instrument: Instrument,
    order: Order,
    time_ms: int,
    execution: str,
    *,
    trade: Trade | None = None,
    bids: Decimal,
    asks: Decimal,
    reason: int = 0,
) -> Event:
    """ORDER_TRADE_UPDATE. `execution` is Binance's x: NEW, TRADE, AMENDMENT, CANCELED, EXPIRED, CALCULATED."""
    decimals = instrument.quantity_precision
    body: Event = {
        "s": order.symbol,
        "c": order.client_order_id,
        "S": order.side.value,
        "o": order.type,
        "f": order.time_in_force,
        "q": quantity_text(order.quantity, decimals),
        "p": plain(order.price),
        "ap": plain(order.average_price),
        "sp": plain(order.stop_price),
        "x": execution,
        "X": order.status.value,
        "i": order.order_id,
        "l": quantity_text(trade.quantity, decimals) if trade else "0",
        "z": quantity_text(order.executed_quantity, decimals),
        "L": plain(trade.price) if trade else "0",
        "T": time_ms,
        "t": trade.trade_id if trade else 0,
        "b": plain(bids),
        "a": plain(asks),
        "m": trade.maker if trade else False,
        "R": order.reduce_only,
        "wt": order.working_type,
        "ot": order.orig_type,
        "ps": order.position_side,
        "cp": order.close_position,
        "rp": amount_text(trade.realized_pnl_usdt) if trade else "0",
        "pP": order.price_protect,
        "si": 0,
        "ss": 0,
        "V": order.self_trade_prevention,
        "pm": order.price_match,
        "gtd": order.good_till_ms,
        "er": str(reason),
    }
    if order.callback_rate_percent:
        body["AP"] = plain(order.activate_price)
        body["cr"] = plain(order.callback_rate_percent)
    if trade:
        body["N"] = "USDT"
        body["n"] = amount_text(trade.commission_usdt)
    return {"e": "ORDER_TRADE_UPDATE", "E": time_ms, "T": time_ms, "o": body}


def trade_lite(instrument: Instrument, trade: Trade) -> Event:
    """TRADE_LITE, the early and abridged copy of a fill."""
    order = trade.order
    return {
        "e": "TRADE_LITE",
        "E": trade.time_ms,
        "T": trade.time_ms,
        "s": order.symbol,
        "q": quantity_text(order.quantity, instrument.quantity_precision),
        "p": plain(order.price),
        "m": trade.maker,
        "c": order.client_order_id,
        "S": order.side.value,
        "L": plain(trade.price),
        "l": quantity_text(trade.quantity, instrument.quantity_precision),
        "t": trade.trade_id,
        "i": order.order_id,
    }


def account_update(
    account: Account,
    time_ms: int,
    reason: str,
    *,
    positions: Iterable[tuple[Position, Decimal, Instrument]] = (),
    balance_change: Decimal | None = None,
    symbol: str | None = None,
) -> Event:
    """ACCOUNT_UPDATE with the balance and the changed positions (position, mark price, instrument).

    `balance_change` is the change other than PnL and commission.
    """
    body: Event = {
        "m": reason,
        "B": [
            {
                "a": "USDT",
                "wb": amount_text(account.wallet_usdt),
                "cw": amount_text(account.cross_wallet_usdt),
                "bc": amount_text(balance_change) if balance_change is not None else "0",
            }
        ],
        "P": [
            {
                "s": position.symbol,
                "pa": quantity_text(position.quantity, instrument.quantity_precision),
                "ep": plain(position.entry_price),
                "bep": plain(position.break_even_price),
                "cr": amount_text(position.realized_usdt),
                "up": amount_text(position.unrealized_pnl(mark)),
                "mt": "isolated" if account.is_isolated(position.symbol) else "cross",
                "iw": amount_text(position.isolated_wallet_usdt) if position.isolated_wallet_usdt else "0",
                "ps": position.side,
            }
            for position, mark, instrument in positions
        ],
    }
    if symbol is not None:
        body["S"] = symbol
    return {"e": "ACCOUNT_UPDATE", "E": time_ms, "T": time_ms, "a": body}


def algo_update(instrument: Instrument, algo: AlgoOrder, time_ms: int) -> Event:
    """ALGO_UPDATE in the algo order's present status."""
    order = algo.order
    decimals = instrument.quantity_precision
    return {
        "e": "ALGO_UPDATE",
        "E": time_ms,
        "T": time_ms,
        "o": {
            "caid": algo.client_algo_id,
            "aid": algo.algo_id,
            "at": "CONDITIONAL",
            "o": algo.type,
            "s": algo.symbol,
            "S": algo.side.value,
            "ps": algo.position_side,
            "f": algo.time_in_force,
            "q": quantity_text(algo.quantity, decimals),
            "X": algo.status.value,
            "ai": str(order.order_id) if order else "",
            "ap": plain(order.average_price) if order else "0",
            "aq": quantity_text(order.executed_quantity, decimals) if order else "0",
            "act": order.type if order else "",
            "tp": price_text(algo.trigger_price, instrument.price_precision),
            "p": plain(algo.price),
            "V": algo.self_trade_prevention,
            "wt": algo.working_type,
            "pm": algo.price_match,
            "cp": algo.close_position,
            "pP": algo.price_protect,
            "R": algo.reduce_only,
            "tt": algo.trigger_ms,
            "gtd": algo.good_till_ms,
            "rm": algo.reason,
            "ia": algo.extreme_price is not None,
        },
    }


def margin_call(
    time_ms: int, cross_wallet: Decimal | None, rows: Iterable[tuple[PositionMargin, Instrument]]
) -> Event:
    """MARGIN_CALL: positions near their liquidation. `cross_wallet` is None for an isolated one."""
    event: Event = {
        "e": "MARGIN_CALL",
        "E": time_ms,
        "p": [
            {
                "s": row.position.symbol,
                "ps": row.position.side,
                "pa": quantity_text(row.position.quantity, instrument.quantity_precision),
                "mt": "ISOLATED" if row.isolated else "CROSSED",
                "iw": amount_text(row.position.isolated_wallet_usdt) if row.isolated else "0",
                "mp": amount_text(row.mark_price),
                "up": amount_text(row.unrealized),
                "mm": amount_text(row.maintenance),
            }
            for row, instrument in rows
        ],
    }
    if cross_wallet is not None:
        event["cw"] = amount_text(cross_wallet)
    return event


def leverage_update(symbol: str, leverage: int, time_ms: int) -> Event:
    """ACCOUNT_CONFIG_UPDATE after a change of leverage."""
    return {
        "e": "ACCOUNT_CONFIG_UPDATE",
        "E": time_ms,
        "T": time_ms,
        "ac": {"s": symbol, "l": leverage},
    }


def listen_key_expired(listen_key: str, time_ms: int) -> Event:
    """Last event of a user stream whose listen key was not kept alive."""
    return {"e": "listenKeyExpired", "E": time_ms, "listenKey": listen_key}
