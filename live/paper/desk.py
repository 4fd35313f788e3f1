"""The order desk: requests become orders, or are refused with Binance's codes."""

from __future__ import annotations

import secrets

from envs.instruments import Instrument
from live.paper import filters
from live.paper.account import Account
from live.paper.engine import Engine, by_priority
from live.paper.errors import refusal
from live.paper.matching import (
    PRICE_MATCHES,
    check_exposure,
    crosses,
    matched_price,
    position_side_of,
    take_or_rest,
)
from live.paper.money import ZERO
from live.paper.orders import BOTH, Order, OrderRequest, Status

MAX_OPEN_ORDERS = 200
SELF_TRADE_PREVENTIONS = frozenset({"NONE", "EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"})
_GOOD_TILL_AHEAD_MS = 600_000
_GOOD_TILL_LATEST_MS = 253_402_300_799_000


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
    check_good_till(engine, request.time_in_force, request.good_till_ms)
    check_options(request.self_trade_prevention, request.price_match, limit=not market)
    position_side = position_side_of(account, request.position_side)
    check_reduce_only(position_side, request.reduce_only)
    client_id = request.client_order_id or new_client_id()
    filters.check_client_id(client_id)
    if any(order.client_order_id == client_id for order in account.open_orders.values()):
        raise refusal(-4116)
    last, mark = engine.prices[request.symbol], engine.mark(request.symbol)
    price = ZERO if market else request.price
    if request.price_match != "NONE":
        price = matched_price(instrument, request.side, last, request.price_match)
    filters.check_quantity(instrument, request.quantity, market=market)
    if market:
        filters.check_take_bound(request.side.sign, last, mark)
    else:
        filters.check_price(instrument, price)
        filters.check_percent_price(instrument, request.side.sign, price, mark)
    order = Order(
        order_id=0,
        client_order_id=client_id,
        symbol=request.symbol,
        side=request.side,
        type=request.type,
        time_in_force="GTC" if market else request.time_in_force,
        quantity=request.quantity,
        price=price,
        reduce_only=request.reduce_only,
        position_side=position_side,
        working_type=request.working_type,
        time_ms=engine.clock_ms,
        update_ms=engine.clock_ms,
        orig_type=request.type,
        # Binance keeps goodTillDate to the second.
        good_till_ms=request.good_till_ms // 1000 * 1000,
        price_match=request.price_match,
        self_trade_prevention=request.self_trade_prevention,
    )
    if not order.only_reduces:
        filters.check_notional(instrument, request.quantity * (mark if market else price))
    if order.only_reduces:
        _cut_to_position(account, order)
    if len(account.open_orders_of(request.symbol)) >= MAX_OPEN_ORDERS:
        raise refusal(-2025)
    _check_crossing(engine, account, order)
    check_exposure(engine, account, order, last)
    return order


def place_order(engine: Engine, account: Account, request: OrderRequest) -> Order:
    """Accept an order, fill it as far as it takes, and rest what is left."""
    order = prepare_order(engine, account, request)
    order.order_id = engine.order_ids.next()
    engine.accept(account, order)
    take_or_rest(engine, account, order, engine.prices[order.symbol])
    return order


def cancel_order(engine: Engine, account: Account, order: Order | None) -> Order:
    """Cancel an open order: -2011 when it is unknown or has ended."""
    if order is None or not order.is_open:
        raise refusal(-2011)
    engine.end_order(account, order, Status.CANCELED)
    return order


def cancel_all(engine: Engine, account: Account, symbol: str) -> None:
    """Cancel a symbol's open orders. Algo orders stay, as on Binance."""
    instrument_of(engine, symbol)
    for order in account.open_orders_of(symbol):
        engine.end_order(account, order, Status.CANCELED)


def check_good_till(engine: Engine, time_in_force: str, good_till_ms: int) -> None:
    """A GTD order needs a goodTillDate more than 600 s ahead (-1102, -5040); no other order has one (-1106)."""
    if time_in_force != "GTD":
        if good_till_ms:
            raise refusal(-1106, "goodTillDate")
        return
    if not good_till_ms:
        raise refusal(-1102, "goodTillDate")
    if not engine.clock_ms + _GOOD_TILL_AHEAD_MS < good_till_ms < _GOOD_TILL_LATEST_MS:
        raise refusal(-5040)


def check_options(self_trade_prevention: str, price_match: str, *, limit: bool) -> None:
    """selfTradePreventionMode (-5039) and priceMatch (-5037; -5038 on an order that is no LIMIT)."""
    if self_trade_prevention not in SELF_TRADE_PREVENTIONS:
        raise refusal(-5039)
    if price_match == "NONE":
        return
    if price_match not in PRICE_MATCHES:
        raise refusal(-5037)
    if not limit:
        raise refusal(-5038)


def check_reduce_only(position_side: str, reduce_only: bool) -> None:
    """Hedge mode knows no reduceOnly: there the position side says what closes (-1106)."""
    if reduce_only and position_side != BOTH:
        raise refusal(-1106, "reduceonly")


def _cut_to_position(account: Account, order: Order) -> None:
    """What only reduces needs something to reduce that better orders leave to it: -2022.

    A MARKET order comes before everything that rests, and is cut at the position; so is a LIMIT order, but only
    when it fills. In hedge mode an order larger than the position is refused.
    """
    position = account.position_for(order)
    held = abs(position.quantity)
    if position.quantity * order.side.sign >= 0:
        raise refusal(-2022)
    if order.position_side != BOTH and order.quantity > held:
        raise refusal(-2022)
    if order.type == "MARKET" or order.time_in_force == "FOK":
        order.quantity = min(order.quantity, held)
        return
    # Nearer prices are served first; an order at the same price is older.
    better = [o for o in by_priority(account, position) if (o.price - order.price) * order.side.sign >= 0]
    if sum((other.remaining for other in better), ZERO) >= held:
        raise refusal(-2022)


def _check_crossing(engine: Engine, account: Account, order: Order) -> None:
    """Post-only must not take (-5022), fill-or-kill must fill wholly at once (-5021)."""
    takes = crosses(order, engine.prices[order.symbol])
    if order.time_in_force == "GTX" and takes:
        raise refusal(-5022)
    if order.time_in_force == "FOK" and not (takes and engine.fillable(account, order) == order.quantity):
        raise refusal(-5021)
