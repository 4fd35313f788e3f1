"""What a conditional order does when its price is reached."""

from __future__ import annotations

from decimal import Decimal

from live.paper.account import Account
from live.paper.engine import Engine
from live.paper.errors import ApiError
from live.paper.matching import check_exposure, matched_price, take_or_rest
from live.paper.money import ZERO
from live.paper.orders import AlgoOrder, AlgoStatus, Order

# While mark and last price are further apart than this, a price-protected order does not trigger.
TRIGGER_PROTECT = Decimal("0.05")


def trigger(engine: Engine, account: Account, algo: AlgoOrder, price: Decimal) -> None:
    """Set off a conditional order: a MARKET order that fills at `price` moved by the slippage, or a LIMIT one
    that takes at `price` or rests. Only now its margin is looked at.
    """
    algo.status = AlgoStatus.TRIGGERING
    algo.trigger_ms = algo.update_ms = engine.clock_ms
    if algo.is_trailing:
        algo.trigger_price = algo.level or ZERO
    account.close_algo_order(algo)
    engine.emit_algo(account, algo)
    quantity = algo.quantity
    if algo.only_reduces:
        held = account.position_for(algo).quantity
        if held * algo.side.sign >= 0:
            engine.end_algo(account, algo, AlgoStatus.EXPIRED, "ReduceOnly reject")
            return
        quantity = abs(held) if algo.close_position else min(quantity, abs(held))
    order = _order(engine, algo, quantity, price)
    try:
        check_exposure(engine, account, order, price)
    except ApiError as problem:
        engine.end_algo(account, algo, AlgoStatus.REJECTED, problem.msg)
        return
    order.order_id = engine.order_ids.next()
    algo.order = order
    algo.status = AlgoStatus.TRIGGERED
    account.triggered[order.order_id] = algo
    engine.emit_algo(account, algo)
    engine.accept(account, order)
    take_or_rest(engine, account, order, price)


def is_protected(engine: Engine, algo: AlgoOrder) -> bool:
    """Whether price protection holds a trigger back: mark and last price are too far apart."""
    if not algo.price_protect:
        return False
    last = engine.prices[algo.symbol]
    return abs(engine.mark(algo.symbol) / last - 1) > TRIGGER_PROTECT


def _order(engine: Engine, algo: AlgoOrder, quantity: Decimal, price: Decimal) -> Order:
    limit = ZERO
    if algo.is_limit:
        limit = algo.price
        if algo.price_match != "NONE":
            limit = matched_price(engine.instruments[algo.symbol], algo.side, price, algo.price_match)
    return Order(
        order_id=0,
        client_order_id=algo.client_algo_id,
        symbol=algo.symbol,
        side=algo.side,
        type="LIMIT" if algo.is_limit else "MARKET",
        time_in_force=algo.time_in_force,
        quantity=quantity,
        price=limit,
        reduce_only=algo.reduce_only or algo.close_position,
        position_side=algo.position_side,
        working_type=algo.working_type,
        time_ms=engine.clock_ms,
        update_ms=engine.clock_ms,
        orig_type=algo.type,
        stop_price=algo.trigger_price,
        close_position=algo.close_position,
        price_protect=algo.price_protect,
        good_till_ms=algo.good_till_ms,
        price_match=algo.price_match,
        self_trade_prevention=algo.self_trade_prevention,
        activate_price=algo.activate_price,
        callback_rate_percent=algo.callback_rate_percent,
    )
