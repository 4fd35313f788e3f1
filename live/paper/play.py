"""How prices move and what they set off on the way: whole candles (lock-step) or segments of a path (paced).

A candle is played by the simulator's rules, so that a backtest and a lock-step run agree:

1. On the way from the open to each position's adverse extreme (low for a long, high for a short, all symbols
   together) stops and liquidation come in the order in which they are reached, liquidation first on a tie.
2. Then take-profits of what is still open. A stop and a take-profit inside one candle: the stop was taken.
3. Then whatever else the candle's range touched: triggers without a position to close, resting LIMIT orders.

A trigger that the open has already passed (a gap) fills at the open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from envs.account import Side
from live.paper.account import Account
from live.paper.engine import Engine
from live.paper.margin import Path, Prices, liquidation_point
from live.paper.money import ONE, ZERO
from live.paper.orders import AlgoOrder, Order


@dataclass(frozen=True, slots=True)
class Candle:
    """One candle of every symbol; the four prices by symbol."""

    open: Mapping[str, Decimal]
    high: Mapping[str, Decimal]
    low: Mapping[str, Decimal]
    close: Mapping[str, Decimal]


Waiting = AlgoOrder | Order


def play_candle(engine: Engine, candle: Candle) -> None:
    """Play a candle for every account and leave the prices at its close. The clock is the caller's."""
    for account in engine.accounts.values():
        if any(account.held()):
            engine.prices = dict(candle.open)
            path = Path(candle.open, _adverse_prices(account, candle))
            survived = _walk(engine, account, path, _closing_stops)
            if survived:
                _take_profits(engine, account, candle)
        if account.open_algo_orders or account.open_orders:
            engine.prices = dict(candle.close)
            _touch_rest(engine, account, candle)
        engine.cover_shortfall(account)
    engine.prices = dict(candle.close)


def move_prices(engine: Engine, prices: Prices) -> None:
    """Move every price in a straight line to `prices`, setting off everything on the way."""
    path = Path(dict(engine.prices), prices)
    for account in engine.accounts.values():
        if account.open_orders or account.open_algo_orders or any(account.held()):
            engine.prices = dict(path.start)
            _walk(engine, account, path, _everything)
            engine.cover_shortfall(account)
    engine.prices = dict(prices)


def jump_prices(engine: Engine, prices: Prices) -> None:
    """Let prices jump (between two candles): what was jumped over fills at the new price."""
    engine.prices = dict(prices)
    move_prices(engine, prices)


def fill_crossed_limits(engine: Engine) -> None:
    """Fill resting LIMIT orders that the current price has reached."""
    for account in engine.accounts.values():
        for order in list(account.open_orders.values()):
            if order.is_open and _reached(order, engine.prices[order.symbol]):
                engine.fill_resting(account, order)


def _walk(engine: Engine, account: Account, path: Path, waiting: Callable[[Account], list[Waiting]]) -> bool:
    """Go along `path`, firing what is reached, in order. False when the account was liquidated."""
    order_of = {symbol: index for index, symbol in enumerate(path.start)}
    symbols = list(path.start)
    x = ZERO
    while True:
        first: tuple[Decimal, int, int] | None = None
        found: Waiting | None = None
        for rank, item in enumerate(waiting(account)):
            at = _reach(item, path)
            if at is None:
                continue
            key = (max(at, x), order_of[item.symbol], rank)
            if first is None or key < first:
                first, found = key, item
        end = liquidation_point(account, engine.instruments, path, x)
        if end is not None and (first is None or end <= first[0]):
            engine.prices = path.prices(symbols, end)
            engine.liquidate(account)
            return False
        if first is None or found is None:
            return True
        x = first[0]
        engine.prices = path.prices(symbols, x)
        _fire(engine, account, found, path.start[found.symbol])


def _take_profits(engine: Engine, account: Account, candle: Candle) -> None:
    for symbol in candle.open:
        for algo in list(account.open_algo_orders.values()):
            position = account.position(symbol)
            closing = position.quantity * algo.side.sign < 0
            if algo.symbol != symbol or algo.is_stop or not closing:
                continue
            best = candle.high if position.quantity > 0 else candle.low
            if _reached(algo, best[symbol]):
                engine.prices[symbol] = best[symbol]
                _fire(engine, account, algo, candle.open[symbol])


def _touch_rest(engine: Engine, account: Account, candle: Candle) -> None:
    waiting: list[Waiting] = [*account.open_algo_orders.values(), *account.open_orders.values()]
    for item in waiting:
        extreme = candle.low if _falling(item) else candle.high
        if item.is_open and _reached(item, extreme[item.symbol]):
            _fire(engine, account, item, candle.open[item.symbol])


def _fire(engine: Engine, account: Account, item: Waiting, start: Decimal) -> None:
    """Set off one order that the price has reached, coming from `start`."""
    if isinstance(item, Order):
        engine.fill_resting(account, item)
    else:
        engine.trigger(account, item, start if _reached(item, start) else item.trigger_price)


def _adverse_prices(account: Account, candle: Candle) -> dict[str, Decimal]:
    prices = dict(candle.open)
    for position in account.held():
        worst = candle.low if position.quantity > 0 else candle.high
        prices[position.symbol] = worst[position.symbol]
    return prices


def _closing_stops(account: Account) -> list[Waiting]:
    return [
        algo
        for algo in account.open_algo_orders.values()
        if algo.is_stop and account.position(algo.symbol).quantity * algo.side.sign < 0
    ]


def _everything(account: Account) -> list[Waiting]:
    return [*account.open_algo_orders.values(), *account.open_orders.values()]


def _falling(item: Waiting) -> bool:
    """Whether a falling price sets the order off."""
    return item.side is Side.BUY if isinstance(item, Order) else item.triggers_falling


def _level(item: Waiting) -> Decimal:
    return item.price if isinstance(item, Order) else item.trigger_price


def _reached(item: Waiting, price: Decimal) -> bool:
    return price <= _level(item) if _falling(item) else price >= _level(item)


def _reach(item: Waiting, path: Path) -> Decimal | None:
    """The x at which the path reaches an order, 0 when it starts beyond it, None when it never does."""
    start, end = path.start[item.symbol], path.end[item.symbol]
    if _reached(item, start):
        return ZERO
    if not _reached(item, end):
        return None
    return min(ONE, (start - _level(item)) / (start - end))
