"""An instrument's rules, applied before an order is sent: what the exchange would refuse never leaves.

A refusal here is the same `OrderRejectedError`, with the code that the exchange would have given, so that callers
treat both alike; `http_status` is None, because nothing was sent.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import NoReturn

from envs.account import Order
from envs.errors import OrderRejectedError
from envs.instruments import Instrument
from live.exchange.parse import plain
from live.exchange.records import TriggerOrder

MAX_OPEN_TRIGGERS = 200
"""Trigger orders that an account may have open."""

NEAR = Decimal("1.1")
"""Below this multiple of the minimum notional the mark price is asked for: that of the last trade is not exact."""


def check_order(order: Order, instrument: Instrument) -> None:
    """LOT_SIZE and MARKET_LOT_SIZE of a market order.

    Raises:
        OrderRejectedError: it breaks a rule; names filter, value and remedy.
    """
    what = f"{order.side.value} {plain(order.quantity)} {order.symbol}"
    _check_quantity(order.quantity, instrument, what, order.client_order_id)


def check_notional(order: Order, instrument: Instrument, price: Decimal) -> None:
    """MIN_NOTIONAL of an order that does not only reduce, at the mark price.

    Raises:
        OrderRejectedError: it is too small.
    """
    notional, least = order.quantity * price, instrument.min_notional_usdt
    if order.reduce_only or notional >= least:
        return
    steps = (least / (price * instrument.step_size)).to_integral_value(rounding=ROUND_CEILING)
    _refuse(
        f"{order.side.value} {plain(order.quantity)} {order.symbol}",
        "MIN_NOTIONAL",
        f"{notional.normalize():f} USDT at {plain(price)}, the least is {plain(least)} USDT",
        f"Trade at least {plain(steps * instrument.step_size)}, or leave it.",
        -4164,
        order.client_order_id,
    )


def check_percent_price(order: Order, instrument: Instrument, last: Decimal, mark: Decimal) -> None:
    """PERCENT_PRICE of a market order: what it would trade at may not be far beyond the mark price.

    Raises:
        OrderRejectedError: the last price is outside the band on the order's side.
    """
    highest, lowest = mark * instrument.price_multiplier_up, mark * instrument.price_multiplier_down
    if lowest <= last <= highest or (last < lowest if order.side.sign > 0 else last > highest):
        return
    _refuse(
        f"{order.side.value} {plain(order.quantity)} {order.symbol}",
        "PERCENT_PRICE",
        f"the last price {plain(last)} is outside {lowest.normalize():f} to {highest.normalize():f}, the band around "
        f"the mark price {plain(mark)}",
        "Wait until the two come together, or trade when the book is fuller.",
        -4131,
        order.client_order_id,
    )


def check_trigger(trigger: TriggerOrder, instrument: Instrument) -> None:
    """PRICE_FILTER of the trigger price, and the quantity's filters where there is one.

    Raises:
        OrderRejectedError: it breaks a rule; names filter, value and remedy.
    """
    price = trigger.trigger_price
    what = f"{trigger.kind.value} {trigger.side.value} {trigger.symbol} at {plain(price)}"
    client_id = trigger.client_order_id
    if trigger.quantity is not None:
        _check_quantity(trigger.quantity, instrument, what, client_id)
    if price < instrument.min_price:
        least = plain(instrument.min_price)
        _refuse(
            what,
            "PRICE_FILTER",
            f"the least price is {least}",
            "Take a nearer trigger price.",
            -4013,
            client_id,
        )
    if price > instrument.max_price:
        most = plain(instrument.max_price)
        _refuse(
            what,
            "PRICE_FILTER",
            f"the highest price is {most}",
            "Take a nearer trigger price.",
            -4002,
            client_id,
        )
    if price % instrument.tick_size:
        below, above = (plain(instrument.round_price(price, up=up)) for up in (False, True))
        _refuse(
            what,
            "PRICE_FILTER",
            f"prices move in ticks of {plain(instrument.tick_size)}",
            f"Round to {below} or {above}.",
            -4014,
            client_id,
        )


def refuse_trigger_count(trigger: TriggerOrder, count: int) -> NoReturn:
    """Raise the error for an account that has as many trigger orders as it may have."""
    _refuse(
        f"{trigger.kind.value} {trigger.side.value} {trigger.symbol} at {plain(trigger.trigger_price)}",
        "MAX_NUM_ALGO_ORDERS",
        f"{count} trigger orders are open, {MAX_OPEN_TRIGGERS} are allowed",
        "Cancel those that are left over.",
        -4045,
        trigger.client_order_id,
    )


def _check_quantity(quantity: Decimal, instrument: Instrument, what: str, client_id: str | None) -> None:
    step, least, most = instrument.step_size, instrument.min_quantity, instrument.max_quantity_market
    if quantity <= 0:
        _refuse(what, "LOT_SIZE", "a quantity is above 0", "Leave the order.", -4003, client_id)
    if quantity < least:
        _refuse(
            what,
            "LOT_SIZE",
            f"the least quantity is {plain(least)}",
            f"Trade at least {plain(least)}, or leave it.",
            -4004,
            client_id,
        )
    if quantity > most:
        _refuse(
            what,
            "MARKET_LOT_SIZE",
            f"the largest quantity is {plain(most)}",
            f"Split it into orders of at most {plain(most)}.",
            -4005,
            client_id,
        )
    if quantity % step:
        rounded = plain(instrument.round_quantity(quantity))
        _refuse(
            what,
            "LOT_SIZE",
            f"quantities move in steps of {plain(step)}",
            f"Round to {rounded}.",
            -4023,
            client_id,
        )


def _refuse(what: str, name: str, why: str, remedy: str, code: int, client_order_id: str | None) -> NoReturn:
    raise OrderRejectedError(
        f"{what} was not sent, the exchange would refuse it by its filter {name} (code {code}): {why}. {remedy}",
        code=code,
        client_order_id=client_order_id,
    )
