"""Changing an open LIMIT order in place: price and quantity, the order id stays.

As on Binance an amendment that breaks a rule is refused and the order stays as it is, except in two cases, in
which the order ends: the new quantity is already filled, or a GTX order would take at the new price.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from envs.account import Side
from live.paper import filters
from live.paper.account import Account
from live.paper.desk import check_options
from live.paper.engine import Engine
from live.paper.errors import refusal
from live.paper.matching import check_exposure, crosses, matched_price, take_or_rest
from live.paper.orders import Amendment, Order, Status

MAX_AMENDMENTS = 10_000


def amend_order(
    engine: Engine,
    account: Account,
    order: Order | None,
    *,
    side: Side,
    quantity: Decimal,
    price: Decimal,
    price_match: str = "NONE",
) -> Order:
    """Give an open order another price and quantity; it loses its place and may take.

    Refusals: -2013 unknown or ended, -5025 not a LIMIT order, -1117 another side, -5026 too many amendments,
    -5027 nothing would change, and those of the filters, of -2019 and -2027.
    """
    if order is None or not order.is_open:
        raise refusal(-2013)
    if order.type != "LIMIT":
        raise refusal(-5025)
    if side is not order.side:
        raise refusal(-1117)
    if len(order.amendments) >= MAX_AMENDMENTS:
        raise refusal(-5026)
    instrument = engine.instruments[order.symbol]
    last = engine.prices[order.symbol]
    if price_match != "NONE":
        check_options(order.self_trade_prevention, price_match, limit=True)
        price = matched_price(instrument, order.side, last, price_match)
    filters.check_quantity(instrument, quantity, market=False)
    filters.check_price(instrument, price)
    filters.check_percent_price(instrument, order.side.sign, price, engine.mark(order.symbol))
    if (price, quantity) == (order.price, order.quantity):
        raise refusal(-5027)
    if not order.only_reduces:
        filters.check_notional(instrument, quantity * price)
    if quantity <= order.executed_quantity:
        engine.end_order(account, order, Status.CANCELED)
        return order
    changed = replace(order, price=price, quantity=quantity)
    takes = crosses(changed, last)
    if takes and order.time_in_force == "GTX":
        engine.end_order(account, order, Status.EXPIRED)
        return order
    # The order's own margin is free while the changed one is looked at.
    account.close_order(order)
    try:
        check_exposure(engine, account, changed, last)
    finally:
        account.open_orders[order.order_id] = order
    order.amendments.append(
        Amendment(
            amendment_id=engine.amendment_ids.next(),
            time_ms=engine.clock_ms,
            price_before=order.price,
            price_after=price,
            quantity_before=order.quantity,
            quantity_after=quantity,
        )
    )
    order.price, order.quantity = price, quantity
    order.price_match = price_match
    order.update_ms = engine.clock_ms
    engine.emit_order(account, order, "AMENDMENT")
    take_or_rest(engine, account, order, last)
    return order
