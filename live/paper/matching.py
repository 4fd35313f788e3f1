"""How an order meets the price: whether it takes, at what price, what becomes of the rest, what margin it needs.

There is no book: an order fills at the last price (with the slippage, against the taker) or rests.
"""

from __future__ import annotations

from decimal import Decimal

from envs.account import Side
from envs.instruments import Instrument
from live.paper.account import Account
from live.paper.engine import EXPIRED_BY_IOC, EXPIRED_UNFILLED, Engine
from live.paper.errors import refusal
from live.paper.margin import can_rest
from live.paper.money import ZERO
from live.paper.orders import LONG, Order, Status

PRICE_MATCHES = frozenset(
    {"OPPONENT", "OPPONENT_5", "OPPONENT_10", "OPPONENT_20", "QUEUE", "QUEUE_5", "QUEUE_10", "QUEUE_20"}
)


def crosses(order: Order, last: Decimal) -> bool:
    """Whether an order would take at the last price: a MARKET order always, a LIMIT order at or through it."""
    if order.type != "LIMIT":
        return True
    return order.price >= last if order.side is Side.BUY else order.price <= last


def taker_price(engine: Engine, order: Order, last: Decimal) -> Decimal:
    """Fill price of a taker: the last price with slippage, for LIMIT orders never beyond the limit."""
    price = engine.taker_price(last, order.side)
    if order.type != "LIMIT":
        return price
    return min(price, order.price) if order.side is Side.BUY else max(price, order.price)


def matched_price(instrument: Instrument, side: Side, last: Decimal, match: str) -> Decimal:
    """The LIMIT price that a priceMatch stands for, on a book with one level per tick around the last price.

    OPPONENT is the nearest price that takes, QUEUE the nearest that rests; _5, _10, _20 are the levels so far
    behind them.
    """
    kind, _, number = match.partition("_")
    behind = (int(number) - 1 if number else 0) * instrument.tick_size
    buying = side is Side.BUY
    if kind == "OPPONENT":
        nearest = instrument.round_price(last, up=buying)
        return nearest + behind if buying else nearest - behind
    nearest = instrument.round_price(last, up=not buying)
    if nearest == last:
        nearest += -instrument.tick_size if buying else instrument.tick_size
    return nearest - behind if buying else nearest + behind


def take_or_rest(engine: Engine, account: Account, order: Order, last: Decimal) -> None:
    """Fill an accepted order as far as it takes at `last`; end or rest what is left, by its time in force."""
    takes = crosses(order, last)
    if takes and order.time_in_force == "GTX":
        engine.end_order(account, order, Status.EXPIRED)
        return
    if takes:
        price = taker_price(engine, order, last)
        possible = engine.fillable(account, order)
        if order.time_in_force == "FOK":
            parts = [possible] if possible == order.remaining else []
        else:
            parts = engine.pieces(order.symbol, possible)
        for quantity in parts:
            engine.fill(account, order, price, quantity=quantity)
    if not order.is_open:
        return
    if order.type == "MARKET":
        engine.end_order(account, order, Status.EXPIRED, reason=EXPIRED_UNFILLED)
    elif order.time_in_force in ("IOC", "FOK"):
        engine.end_order(account, order, Status.EXPIRED, reason=EXPIRED_BY_IOC)
    elif order.only_reduces:
        engine.expire_superfluous(account, account.position_for(order))


def check_exposure(engine: Engine, account: Account, order: Order, last: Decimal) -> None:
    """Largest position at the leverage (-2027) and initial margin (-2019), for what enlarges exposure."""
    position = account.position_for(order)
    change = order.remaining * order.side.sign
    takes = crosses(order, last)
    if order.only_reduces or (takes and position.reduces(change)):
        return
    price = taker_price(engine, order, last) if takes else order.price
    largest = engine.instruments[order.symbol].max_notional_usdt(account.leverage[order.symbol])
    if not position.reduces(change) and _reach(account, order) * price > largest:
        raise refusal(-2027)
    if takes:
        affordable = engine.can_afford(account, position, change, price)
    else:
        commission = engine.commission(order.symbol, order.remaining, price, maker=True)
        affordable = can_rest(account, engine.mark_prices, order, commission)
    if not affordable:
        raise refusal(-2019)


def _reach(account: Account, order: Order) -> Decimal:
    """Size of the position if the order and every other open order of its direction were filled."""
    position = account.position_for(order)
    waiting = sum(
        (
            other.remaining
            for other in account.open_orders_of(order.symbol, order.position_side)
            if other.side is order.side and other is not order and not other.only_reduces
        ),
        ZERO,
    )
    held = abs(position.quantity) if order.position_side != "BOTH" else position.quantity * order.side.sign
    return abs(held + waiting + order.remaining)


def position_side_of(account: Account, asked: str) -> str:
    """The position side of an order: BOTH in one-way mode, LONG or SHORT in hedge mode; -4060, -4061."""
    side = asked or "BOTH"
    if side not in ("BOTH", LONG, "SHORT"):
        raise refusal(-4060)
    if side not in account.sides:
        raise refusal(-4061)
    return side
