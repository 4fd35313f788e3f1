"""The order desk: requests become orders, or are refused with Binance's codes."""

from __future__ import annotations

import secrets
from decimal import Decimal

from envs.account import Side
from envs.instruments import Instrument
from live.paper import events, filters
from live.paper.account import Account
from live.paper.engine import EXPIRED_BY_IOC, EXPIRED_UNFILLED, Engine
from live.paper.errors import refusal
from live.paper.margin import margin_of_account
from live.paper.money import ZERO
from live.paper.orders import AlgoOrder, AlgoRequest, AlgoStatus, Order, OrderRequest, Status

MAX_OPEN_ALGO_ORDERS = 200


def instrument_of(engine: Engine, symbol: str) -> Instrument:
    """Trading rules of a symbol: -1121 when it is not traded here."""
    found = engine.instruments.get(symbol)
    if found is None:
        raise refusal(-1121)
    return found


def new_client_id() -> str:
    """A client id for an order that was sent without one."""
    return secrets.token_hex(11)


def prepare_order(engine: Engine, account: Account, request: OrderRequest) -> Order:
    """Check an order against types, filters, position and margin. Nothing is changed yet."""
    instrument = instrument_of(engine, request.symbol)
    market = request.type == "MARKET"
    if request.type in filters.CONDITIONAL_TYPES:
        raise refusal(-4120)
    if request.type not in filters.ORDER_TYPES:
        raise refusal(-1116)
    if not market and request.time_in_force not in filters.TIMES_IN_FORCE:
        raise refusal(-1115)
    if request.position_side != "BOTH":
        raise refusal(-4061)
    client_id = request.client_order_id or new_client_id()
    filters.check_client_id(client_id)
    if any(order.client_order_id == client_id for order in account.open_orders.values()):
        raise refusal(-4116)
    last = engine.prices[request.symbol]
    sign = request.side.sign
    filters.check_quantity(instrument, request.quantity, market=market)
    if not market:
        filters.check_price(instrument, request.price)
        filters.check_percent_price(instrument, sign, request.price, last)
    if not request.reduce_only:
        filters.check_notional(instrument, request.quantity * (last if market else request.price))
    quantity = request.quantity
    held = account.position(request.symbol).quantity
    if request.reduce_only:
        if held * sign >= 0:
            raise refusal(-2022)
        quantity = min(quantity, abs(held)) if market else quantity
    order = Order(
        order_id=0,
        client_order_id=client_id,
        symbol=request.symbol,
        side=request.side,
        type=request.type,
        time_in_force="GTC" if market else request.time_in_force,
        quantity=quantity,
        price=ZERO if market else request.price,
        reduce_only=request.reduce_only,
        position_side="BOTH",
        working_type=request.working_type,
        time_ms=engine.clock_ms,
        update_ms=engine.clock_ms,
        orig_type=request.type,
    )
    _check_crossing(order, last)
    _check_exposure(engine, account, order)
    return order


def place_order(engine: Engine, account: Account, request: OrderRequest) -> Order:
    """Accept an order and fill it if it can be filled now."""
    order = prepare_order(engine, account, request)
    order.order_id = engine.order_ids.next()
    engine.accept(account, order)
    last = engine.prices[order.symbol]
    if order.type == "MARKET" or _crosses(order, last):
        _take(engine, account, order)
    elif order.time_in_force == "IOC":
        engine.end_order(account, order, Status.EXPIRED, reason=EXPIRED_BY_IOC)
    return order


def _take(engine: Engine, account: Account, order: Order) -> None:
    """Fill what can be filled now. The rest of a MARKET order expires, that of a LIMIT order may rest."""
    wanted = _fillable(account, order)
    price = _taker_price(engine, order)
    whole = order.time_in_force == "FOK"
    for quantity in [wanted] if whole else engine.pieces(order.symbol, wanted):
        engine.fill(account, order, price, quantity=quantity)
        wanted -= quantity
    if order.is_open:
        if order.type == "MARKET":
            engine.end_order(account, order, Status.EXPIRED, reason=EXPIRED_UNFILLED if wanted else 0)
        elif order.time_in_force == "IOC":
            engine.end_order(account, order, Status.EXPIRED, reason=EXPIRED_BY_IOC)
        elif not wanted:
            engine.end_order(account, order, Status.EXPIRED)


def cancel_order(engine: Engine, account: Account, order: Order | None) -> Order:
    """Cancel an open order: -2011 when it is unknown or has ended."""
    if order is None or not order.is_open:
        raise refusal(-2011)
    engine.end_order(account, order, Status.CANCELED)
    return order


def cancel_all(engine: Engine, account: Account, symbol: str) -> None:
    """Cancel a symbol's open orders. Algo orders stay, as on Binance."""
    instrument_of(engine, symbol)
    for order in [o for o in account.open_orders.values() if o.symbol == symbol]:
        engine.end_order(account, order, Status.CANCELED)


def place_algo_order(engine: Engine, account: Account, request: AlgoRequest) -> AlgoOrder:
    """Accept a conditional order. Margin is not looked at before it triggers."""
    instrument = instrument_of(engine, request.symbol)
    if request.type not in filters.SUPPORTED_CONDITIONAL_TYPES:
        raise refusal(-1116)
    if request.position_side != "BOTH":
        raise refusal(-4061)
    client_id = request.client_algo_id or new_client_id()
    filters.check_client_id(client_id)
    if any(algo.client_algo_id == client_id for algo in account.open_algo_orders.values()):
        raise refusal(-4116)
    if request.close_position:
        if request.quantity:
            raise refusal(-4137)
        if request.reduce_only:
            raise refusal(-4138)
    else:
        filters.check_quantity(instrument, request.quantity, market=True)
        if not request.reduce_only:
            filters.check_notional(instrument, request.quantity * request.trigger_price)
    filters.check_price(instrument, request.trigger_price)
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
        position_side="BOTH",
        working_type=request.working_type,
        price_protect=request.price_protect,
        time_ms=engine.clock_ms,
        update_ms=engine.clock_ms,
    )
    last = engine.prices[request.symbol]
    if last <= algo.trigger_price if algo.triggers_falling else last >= algo.trigger_price:
        raise refusal(-2021)
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
    for algo in [a for a in account.open_algo_orders.values() if a.symbol == symbol]:
        engine.end_algo(account, algo, AlgoStatus.CANCELED)


def set_leverage(engine: Engine, account: Account, symbol: str, leverage: int) -> None:
    """Change a symbol's leverage: -4028 out of range, -2027 position too large, -2028 margin too small."""
    instrument = instrument_of(engine, symbol)
    if not 1 <= leverage <= instrument.max_leverage:
        raise refusal(-4028, leverage)
    notional = abs(account.position(symbol).quantity) * engine.prices[symbol]
    if notional > instrument.max_notional_usdt(leverage):
        raise refusal(-2027)
    if leverage < account.leverage[symbol] and notional:
        wanted = {**account.leverage, symbol: leverage}
        figures = margin_of_account(account, engine.instruments, engine.prices, wanted)
        if figures.initial > figures.equity:
            raise refusal(-2028)
    changed = account.leverage[symbol] != leverage
    account.leverage[symbol] = leverage
    if changed:
        engine.emit(account, events.leverage_update(symbol, leverage, engine.clock_ms))


def _check_crossing(order: Order, last: Decimal) -> None:
    """Post-only must not take (-5022), fill-or-kill must fill at once (-5021)."""
    if order.time_in_force == "GTX" and _crosses(order, last):
        raise refusal(-5022)
    if order.time_in_force == "FOK" and not _crosses(order, last):
        raise refusal(-5021)


def _check_exposure(engine: Engine, account: Account, order: Order) -> None:
    """Largest position at the leverage (-2027) and initial margin (-2019), for what enlarges exposure."""
    position = account.position(order.symbol)
    change = order.quantity * order.side.sign
    if order.reduce_only or position.reduces(change):
        return
    takes = order.type == "MARKET" or _crosses(order, engine.prices[order.symbol])
    price = _taker_price(engine, order) if takes else order.price
    leverage = account.leverage[order.symbol]
    largest = engine.instruments[order.symbol].max_notional_usdt(leverage)
    if abs(position.quantity + change) * price > largest:
        raise refusal(-2027)
    reserved = ZERO
    if account.open_orders:
        figures = margin_of_account(account, engine.instruments, engine.prices, account.leverage)
        reserved = figures.open_order_initial
    if not engine.can_afford(account, order.symbol, change, price, maker=not takes, reserved=reserved):
        raise refusal(-2019)


def _crosses(order: Order, last: Decimal) -> bool:
    """Whether a LIMIT order would take at the last price."""
    if order.type != "LIMIT":
        return False
    return order.price >= last if order.side is Side.BUY else order.price <= last


def _taker_price(engine: Engine, order: Order) -> Decimal:
    """Fill price now: the last price with slippage, for LIMIT orders never beyond the limit."""
    price = engine.taker_price(engine.prices[order.symbol], order.side)
    if order.type != "LIMIT":
        return price
    return min(price, order.price) if order.side is Side.BUY else max(price, order.price)


def _fillable(account: Account, order: Order) -> Decimal:
    """What of the order may fill: a reduce-only order never more than the position."""
    if not order.reduce_only:
        return order.remaining
    return min(order.remaining, abs(account.position(order.symbol).quantity))
