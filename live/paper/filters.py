"""The exchange's checks of one order against an instrument's rules, with Binance's codes."""

from __future__ import annotations

import re
from decimal import Decimal

from envs.instruments import Instrument
from live.paper.errors import refusal
from live.paper.money import plain

ORDER_TYPES = frozenset({"LIMIT", "MARKET"})
CONDITIONAL_TYPES = frozenset(
    {"STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET"}
)
TIMES_IN_FORCE = frozenset({"GTC", "IOC", "FOK", "GTX", "GTD"})
WORKING_TYPES = frozenset({"CONTRACT_PRICE", "MARK_PRICE"})

# How far beyond the mark price a MARKET order may take: marketTakeBound in exchangeInfo.
MARKET_TAKE_BOUND = Decimal("0.05")

_CLIENT_ID = re.compile(r"[.A-Z:/a-z0-9_-]{1,36}")


def check_client_id(client_id: str) -> None:
    """Client order ids are 1 to 36 characters of a small alphabet: -4015."""
    if not _CLIENT_ID.fullmatch(client_id):
        raise refusal(-4015)


def check_quantity(instrument: Instrument, quantity: Decimal, *, market: bool) -> None:
    """LOT_SIZE or MARKET_LOT_SIZE: -4003, -1111, -4004, -4005, -4023."""
    if quantity <= 0:
        raise refusal(-4003)
    if _decimals(quantity) > instrument.quantity_precision:
        raise refusal(-1111)
    if quantity < instrument.min_quantity:
        raise refusal(-4004)
    if quantity > (instrument.max_quantity_market if market else instrument.max_quantity_limit):
        raise refusal(-4005)
    if quantity % instrument.step_size:
        raise refusal(-4023)


def check_price(instrument: Instrument, price: Decimal) -> None:
    """PRICE_FILTER: -4013, -4002, -1111, -4014."""
    if price < instrument.min_price:
        raise refusal(-4013)
    if price > instrument.max_price:
        raise refusal(-4002)
    if _decimals(price) > instrument.price_precision:
        raise refusal(-1111)
    if price % instrument.tick_size:
        raise refusal(-4014)


def check_percent_price(instrument: Instrument, side_sign: int, price: Decimal, mark: Decimal) -> None:
    """PERCENT_PRICE, one-sided: a buy not far above the mark (-4016), a sell not far below it (-4024)."""
    highest = mark * instrument.price_multiplier_up
    lowest = mark * instrument.price_multiplier_down
    if side_sign > 0 and price > highest:
        raise refusal(-4016, plain(highest))
    if side_sign < 0 and price < lowest:
        raise refusal(-4024, plain(lowest))


def check_take_bound(side_sign: int, last: Decimal, mark: Decimal) -> None:
    """marketTakeBound: a MARKET order does not take at a price too far beyond the mark (-4131)."""
    if (last - mark) * side_sign > mark * MARKET_TAKE_BOUND:
        raise refusal(-4131)


def check_stop_price(instrument: Instrument, side_sign: int, price: Decimal, trigger: Decimal) -> None:
    """PERCENT_PRICE of a conditional LIMIT order, measured from its trigger: -4183, -4184."""
    highest = trigger * instrument.price_multiplier_up
    lowest = trigger * instrument.price_multiplier_down
    if side_sign > 0 and price > highest:
        raise refusal(-4183, plain(highest))
    if side_sign < 0 and price < lowest:
        raise refusal(-4184, plain(lowest))


def check_notional(instrument: Instrument, notional: Decimal) -> None:
    """MIN_NOTIONAL: -4164. Reduce-only orders are not asked."""
    if notional < instrument.min_notional_usdt:
        raise refusal(-4164, plain(instrument.min_notional_usdt))


def _decimals(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0
