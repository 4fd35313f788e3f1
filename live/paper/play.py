"""How prices move and what they set off on the way: whole candles (lock-step) or segments of a path (paced).

Everything moves along straight legs. On a leg all symbols move together, x in [0, 1] says how far, and whatever
is reached first happens first: a resting LIMIT order fills at its price (a maker), a conditional order triggers,
a margin group is liquidated (before the others on a tie). What the leg's start has already passed happens there:
triggers at the price of the start, LIMIT orders at their own price.

A candle has three legs, seen from each account: from the open to the first extreme, on to the second, and to the
close. The first extreme is the adverse one of each symbol that is held (the low for a net long, the high for a
net short), for other symbols the one nearer to the open. So the worse comes first, as in the simulator, and
nothing fills outside the candle:

1. On the adverse leg stops, LIMIT orders and liquidation. Closing take-profits wait, even where the open has
   passed them: if a stop and a take-profit lie inside one candle, the stop is taken.
2. On the favourable leg take-profits (one that the open has passed fills at the open) and whatever lies there.
3. On the way to the close what was new after that: LIMIT orders of triggered STOP and TAKE_PROFIT orders,
   trailing stops that followed the price.

What the simulator knows (market orders, stop and take-profit of a position, liquidation) plays exactly as there:
on legs 2 and 3 liquidation is looked for only where they can be worse than the first, that is when something
was opened on the way or a position moves against its own side.

LIMIT orders that the next open has jumped over fill at that open, at their price: the price went through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from envs.account import Side
from live.paper.account import Account
from live.paper.closing import cover_shortfall, liquidate, warn_where_due
from live.paper.engine import Engine
from live.paper.liquidation import MarginGroup, Path, liquidation_point, margin_groups
from live.paper.margin import Prices
from live.paper.money import ONE, ZERO
from live.paper.orders import AlgoOrder, Order
from live.paper.triggers import is_protected, trigger


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
    engine.marks = {}
    for account in engine.accounts.values():
        if account.open_algo_orders or account.open_orders or any(account.held()):
            _play(engine, account, candle)
        cover_shortfall(engine, account)
    engine.prices = dict(candle.close)
    warn_where_due(engine)


def move_prices(engine: Engine, prices: Prices, marks: Prices | None = None) -> None:
    """Move every price in a straight line to `prices`, setting off everything on the way.

    `marks` are the new mark prices where they differ from the last prices.
    """
    last = Path(dict(engine.prices), prices)
    mark = None
    if marks or engine.marks:
        mark = Path(engine.mark_prices, {**prices, **(marks or {})})
    for account in engine.accounts.values():
        if account.open_orders or account.open_algo_orders or any(account.held()):
            _Walk(engine, account, last, mark).go()
            cover_shortfall(engine, account)
    engine.prices = dict(prices)
    engine.marks = dict(marks or {})
    warn_where_due(engine)


def jump_prices(engine: Engine, prices: Prices) -> None:
    """Let prices jump (between two candles): what was jumped over happens at the new price."""
    engine.prices = dict(prices)
    move_prices(engine, prices, dict(engine.marks))


def fill_crossed_limits(engine: Engine) -> None:
    """Fill resting LIMIT orders that the current price has reached, the nearest to the old price first."""
    for account in engine.accounts.values():
        waiting = sorted(account.open_orders.values(), key=lambda order: -order.side.sign * order.price)
        for order in waiting:
            if order.is_open and _reached(order, engine.prices[order.symbol]):
                engine.fill_resting(account, order)


def _play(engine: Engine, account: Account, candle: Candle) -> None:
    first, second = _extremes(account, candle)
    before = account.enlargements
    walk = _Walk(engine, account, Path(candle.open, first))
    walk.go(hold_back=True)
    against = any(p.quantity * (second[p.symbol] - first[p.symbol]) < 0 for p in account.held())
    walk.turn(Path(first, second), candle.open)
    walk.go(liquidating=against or account.enlargements != before)
    walk.turn(Path(second, candle.close), None)
    walk.go(liquidating=account.enlargements != before)


def _extremes(account: Account, candle: Candle) -> tuple[dict[str, Decimal], dict[str, Decimal]]:
    net: dict[str, Decimal] = {}
    for position in account.held():
        net[position.symbol] = net.get(position.symbol, ZERO) + position.quantity
    first, second = {}, {}
    for symbol, start in candle.open.items():
        low, high = candle.low[symbol], candle.high[symbol]
        quantity = net.get(symbol, ZERO)
        falls_first = quantity > 0 if quantity else start - low <= high - start
        first[symbol], second[symbol] = (low, high) if falls_first else (high, low)
    return first, second


@dataclass(slots=True)
class _Walk:
    """One account on its way along legs.

    Attributes:
        last, mark: the present leg, by last and by mark prices; no mark where they are one.
        gap: prices at which closing take-profits fill that these have already passed (the candle's open).
        passed: orders that were reached and could not do anything; they wait for the next candle or price.
    """

    engine: Engine
    account: Account
    last: Path
    mark: Path | None = None
    gap: Prices | None = None
    passed: set[int] = field(default_factory=set)

    def turn(self, leg: Path, gap: Prices | None) -> None:
        """Begin another leg, on which last and mark price are one."""
        self.last, self.mark, self.gap = leg, None, gap

    def go(self, *, hold_back: bool = False, liquidating: bool = True) -> None:
        """Go along the leg, letting everything happen in the order in which it is reached."""
        engine, account = self.engine, self.account
        order_of = {symbol: index for index, symbol in enumerate(self.last.start)}
        x = ZERO
        self._stand_at(x)
        self._follow()
        while True:
            first: tuple[Decimal, int, int] | None = None
            found: Waiting | None = None
            waiting: list[Waiting] = [*account.open_algo_orders.values(), *account.open_orders.values()]
            for rank, item in enumerate(waiting):
                if id(item) in self.passed or (hold_back and self._is_closing_profit(item)):
                    continue
                at = self._reach(item, x)
                if at is None:
                    continue
                key = (max(at, x), order_of[item.symbol], rank)
                if first is None or key < first:
                    first, found = key, item
            end, group = self._liquidation(x) if liquidating else (None, None)
            if end is not None and (first is None or end <= first[0]):
                x = end
                self._stand_at(x)
                liquidate(engine, account, group)
            elif first is not None and found is not None:
                x = first[0]
                self._stand_at(x)
                self._fire(found)
            else:
                break
        self._stand_at(ONE)
        self._follow()

    def _stand_at(self, x: Decimal) -> None:
        self.engine.prices = self.last.prices(x)
        self.engine.marks = {} if self.mark is None else self.mark.prices(x)

    def _follow(self) -> None:
        """Let trailing stops see the price at which the leg begins or ends."""
        for algo in self.account.open_algo_orders.values():
            if algo.is_trailing and algo.follow(self._price(algo)):
                self.engine.changed_algos[algo.algo_id] = (self.account, algo)

    def _price(self, item: Waiting) -> Decimal:
        engine = self.engine
        return engine.mark(item.symbol) if _by_mark(item) else engine.prices[item.symbol]

    def _reach(self, item: Waiting, x: Decimal) -> Decimal | None:
        """Where the leg reaches an order; None when it never does."""
        level = _level(item)
        if level is None:
            return None
        path = self.mark if self.mark is not None and _by_mark(item) else self.last
        start, end = path.start[item.symbol], path.end[item.symbol]
        if _reached(item, start):
            # Passed at the start; whatever came up only later was not, if the price has left it behind.
            return x if not x or _reached(item, path.price(item.symbol, x)) else None
        if not _reached(item, end):
            return None
        return min(ONE, (start - level) / (start - end))

    def _liquidation(self, x: Decimal) -> tuple[Decimal | None, MarginGroup | None]:
        """The next liquidation: where, and of which group."""
        path = self.last if self.mark is None else self.mark
        nearest: Decimal | None = None
        found: MarginGroup | None = None
        for group in margin_groups(self.account):
            at = liquidation_point(group, self.engine.instruments, path, x)
            if at is not None and (nearest is None or at < nearest):
                nearest, found = at, group
        return nearest, found

    def _fire(self, item: Waiting) -> None:
        engine, account = self.engine, self.account
        if isinstance(item, Order):
            engine.fill_resting(account, item)
            if item.is_open:
                self.passed.add(id(item))
        elif is_protected(engine, item):
            self.passed.add(id(item))
        else:
            trigger(engine, account, item, self._trigger_price(item))

    def _trigger_price(self, algo: AlgoOrder) -> Decimal:
        """The price at which a reached trigger acts."""
        if self.mark is not None and _by_mark(algo):
            return self.engine.prices[algo.symbol]
        start = self.last.start[algo.symbol]
        if self.gap is not None and self._is_closing_profit(algo):
            start = self.gap[algo.symbol]
        level = algo.level
        return start if level is None or _reached(algo, start) else level

    def _is_closing_profit(self, item: Waiting) -> bool:
        if isinstance(item, Order) or item.is_stop:
            return False
        return self.account.position_for(item).quantity * item.side.sign < 0


def _by_mark(item: Waiting) -> bool:
    return isinstance(item, AlgoOrder) and item.working_type == "MARK_PRICE"


def _falling(item: Waiting) -> bool:
    """Whether a falling price sets the order off."""
    return item.side is Side.BUY if isinstance(item, Order) else item.triggers_falling


def _level(item: Waiting) -> Decimal | None:
    return item.price if isinstance(item, Order) else item.level


def _reached(item: Waiting, price: Decimal) -> bool:
    level = _level(item)
    if level is None:
        return False
    return price <= level if _falling(item) else price >= level
