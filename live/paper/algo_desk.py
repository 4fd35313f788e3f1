"""Conditional orders: placing and cancelling. Margin is not looked at before the trigger, as on Binance."""

from __future__ import annotations

from decimal import Decimal

from envs.instruments import Instrument
from live.paper import filters
from live.paper.account import Account
from live.paper.desk import (
    check_good_till,
    check_options,
    check_reduce_only,
    instrument_of,
    new_client_id,
)
from live.paper.engine import Engine
from live.paper.errors import refusal
from live.paper.matching import position_side_of
from live.paper.orders import AlgoOrder, AlgoRequest, AlgoStatus

MAX_OPEN_ALGO_ORDERS = 200
MIN_CALLBACK_PERCENT, MAX_CALLBACK_PERCENT = Decimal("0.1"), Decimal(20)
_CLOSING_TYPES = frozenset({"STOP_MARKET", "TAKE_PROFIT_MARKET"})


def place_algo_order(engine: Engine, account: Account, request: AlgoRequest) -> AlgoOrder:
    """Accept a conditional order, or refuse it with Binance's code."""
    instrument = instrument_of(engine, request.symbol)
    if request.type not in filters.CONDITIONAL_TYPES:
        raise refusal(-1116)
    if request.time_in_force not in filters.TIMES_IN_FORCE | {"GTE_GTC"}:
        raise refusal(-1115)
    check_good_till(engine, request.time_in_force, request.good_till_ms)
    limit = request.type in ("STOP", "TAKE_PROFIT")
    check_options(request.self_trade_prevention, request.price_match, limit=limit)
    position_side = position_side_of(account, request.position_side)
    check_reduce_only(position_side, request.reduce_only)
    client_id = request.client_algo_id or new_client_id()
    filters.check_client_id(client_id)
    if any(algo.client_algo_id == client_id for algo in account.open_algo_orders.values()):
        raise refusal(-4116)
    algo = AlgoOrder(
        algo_id=0,
        client_algo_id=client_id,
        symbol=request.symbol,
        side=request.side,
        type=request.type,
        trigger_price=request.trigger_price,
        quantity=request.quantity,
        close_position=request.close_position,
        reduce_only=request.reduce_only,
        time_in_force=request.time_in_force,
        position_side=position_side,
        working_type=request.working_type,
        price_protect=request.price_protect,
        time_ms=engine.clock_ms,
        update_ms=engine.clock_ms,
        price=request.price,
        callback_rate_percent=request.callback_rate_percent,
        activate_price=request.activate_price,
        # Binance keeps goodTillDate to the second.
        good_till_ms=request.good_till_ms // 1000 * 1000,
        price_match=request.price_match,
        self_trade_prevention=request.self_trade_prevention,
    )
    price = engine.mark(algo.symbol) if algo.working_type == "MARK_PRICE" else engine.prices[algo.symbol]
    if algo.close_position:
        _check_closing(account, algo)
    else:
        filters.check_quantity(instrument, algo.quantity, market=not limit)
    if algo.is_trailing:
        _check_trailing(instrument, algo, price)
        algo.follow(price)
    else:
        _check_trigger(instrument, algo, price)
    if not algo.close_position and not algo.only_reduces:
        reference = algo.price or algo.trigger_price or price
        filters.check_notional(instrument, algo.quantity * reference)
    if len(account.open_algo_orders) >= MAX_OPEN_ALGO_ORDERS:
        raise refusal(-4045)
    algo.algo_id = engine.algo_ids.next()
    account.add_algo_order(algo)
    engine.emit_algo(account, algo)
    return algo


def cancel_algo_order(engine: Engine, account: Account, algo: AlgoOrder | None) -> AlgoOrder:
    """Cancel a waiting conditional order: -2013 when it is unknown, -2011 when it has ended."""
    if algo is None:
        raise refusal(-2013)
    if not algo.is_open:
        raise refusal(-2011)
    engine.end_algo(account, algo, AlgoStatus.CANCELED)
    return algo


def cancel_all_algo_orders(engine: Engine, account: Account, symbol: str) -> None:
    """Cancel a symbol's waiting conditional orders."""
    instrument_of(engine, symbol)
    for algo in account.open_algo_orders_of(symbol):
        engine.end_algo(account, algo, AlgoStatus.CANCELED)


def _check_closing(account: Account, algo: AlgoOrder) -> None:
    """closePosition: market types only (-4136), no quantity (-4137), no reduceOnly (-4138), one a direction
    of stops and one of take-profits (-4130).
    """
    if algo.type not in _CLOSING_TYPES:
        raise refusal(-4136, algo.type, "true")
    if algo.quantity:
        raise refusal(-4137)
    if algo.reduce_only:
        raise refusal(-4138)
    for other in account.open_algo_orders_of(algo.symbol, algo.position_side):
        if other.close_position and other.side is algo.side and other.type == algo.type:
            raise refusal(-4130)


def _check_trigger(instrument: Instrument, algo: AlgoOrder, price: Decimal) -> None:
    """Prices on the grid; not so far apart (-4183, -4184); nothing that would trigger at once (-2021)."""
    filters.check_price(instrument, algo.trigger_price)
    if algo.is_limit and algo.price_match == "NONE":
        filters.check_price(instrument, algo.price)
        filters.check_stop_price(instrument, algo.side.sign, algo.price, algo.trigger_price)
    if price <= algo.trigger_price if algo.triggers_falling else price >= algo.trigger_price:
        raise refusal(-2021)


def _check_trailing(instrument: Instrument, algo: AlgoOrder, price: Decimal) -> None:
    """callbackRate from 0.1 to 20, in tenths (-2007); an activation that is still ahead (-2021)."""
    rate = algo.callback_rate_percent
    if not MIN_CALLBACK_PERCENT <= rate <= MAX_CALLBACK_PERCENT or rate % MIN_CALLBACK_PERCENT:
        raise refusal(-2007)
    if not algo.activate_price:
        return
    filters.check_price(instrument, algo.activate_price)
    # A selling one becomes active when the price has risen so far, a buying one when it has fallen.
    if price >= algo.activate_price if algo.triggers_falling else price <= algo.activate_price:
        raise refusal(-2021)
