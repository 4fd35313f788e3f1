"""A second simulator: one account in plain Decimal, slow and direct, written from docs/simulation.md.

It shares no code with `envs/kernel.py` and differs from it wherever there is another way: exact decimals instead
of floats, a search by halving instead of Newton's steps, the settled fundings themselves instead of the market's
prepared columns. `tests/property/test_reference.py` runs the two side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext

from envs.instruments import Instrument

ZERO, ONE = Decimal(0), Decimal(1)
# Float noise may leave a whole number of steps a hair below it; the last step counts all the same.
_STEP_NOISE = Decimal("1e-9")


@dataclass(frozen=True)
class RefCandle:
    """One candle of one symbol."""

    time_ms: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal


@dataclass(frozen=True)
class RefSettings:
    """What the account and the action scheme need to know."""

    capital: Decimal
    max_leverage: Decimal
    leverage: tuple[int, ...]
    slippage: Decimal
    scheme: str = "target"
    band: Decimal = ZERO
    threshold: Decimal = ZERO
    fraction: Decimal = ZERO
    flip: bool = True
    stop: Decimal = ZERO
    take_profit: Decimal = ZERO
    terminate_drawdown: Decimal | None = None


@dataclass
class RefPosition:
    """Signed quantity, entry and triggers; None: no trigger."""

    quantity: Decimal = ZERO
    entry: Decimal = ZERO
    stop: Decimal | None = None
    take_profit: Decimal | None = None
    held: int = 0


@dataclass(frozen=True)
class RefFill:
    """A fill of a signed quantity. `kind`: order, stop_loss, take_profit, liquidation."""

    kind: str
    symbol: int
    quantity: Decimal
    price: Decimal
    fee: Decimal
    pnl: Decimal


@dataclass
class RefStep:
    """What one step did."""

    fills: list[RefFill] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    funding: list[Decimal] = field(default_factory=list)
    ended: bool = False


class ReferenceAccount:
    """One account over candles [t][symbol]; at the close of candle `t`."""

    def __init__(
        self,
        candles: Sequence[Sequence[RefCandle]],
        funding: Sequence[Sequence[tuple[int, Decimal]]],
        marks: Sequence[Mapping[int, Decimal]],
        rules: Sequence[Instrument],
        settings: RefSettings,
        interval_ms: int,
    ) -> None:
        self.candles = candles
        self.funding = funding
        self.marks = marks
        self.rules = rules
        self.settings = settings
        self.interval_ms = interval_ms
        self.reset(0)

    def reset(self, t: int) -> None:
        """Start afresh at the close of candle t."""
        self.t = t
        self.wallet = self.settings.capital
        self.fees = self.realized = self.funding_total = self.insurance = ZERO
        self.positions = [RefPosition() for _ in self.rules]
        self.peak = self.settings.capital
        self.max_drawdown = ZERO
        self.liquidated = False
        self.out = RefStep()

    # --- figures -------------------------------------------------------------------------------------------

    def equity(self, prices: Sequence[Decimal]) -> Decimal:
        """Wallet and unrealized PnL at `prices`."""
        return self.wallet + sum(
            (p.quantity * (price - p.entry) for p, price in zip(self.positions, prices, strict=True)), ZERO
        )

    def maintenance(self, prices: Sequence[Decimal]) -> Decimal:
        """Maintenance margin at `prices`, by the bracket of each notional."""
        total = ZERO
        for position, price, rule in zip(self.positions, prices, self.rules, strict=True):
            notional = abs(position.quantity) * price
            if notional == 0:
                continue
            bracket = next((b for b in rule.brackets if notional <= b.notional_cap_usdt), rule.brackets[-1])
            total += notional * bracket.maintenance_rate - bracket.maintenance_amount_usdt
        return total

    def closes(self) -> list[Decimal]:
        """Closes of candle t."""
        return [c.close for c in self.candles[self.t]]

    def _mark(self, prices: Sequence[Decimal]) -> Decimal:
        equity = self.equity(prices)
        self.peak = max(self.peak, equity)
        self.max_drawdown = max(self.max_drawdown, 1 - equity / self.peak)
        return equity

    # --- one step ------------------------------------------------------------------------------------------

    def step(self, action: Sequence[float]) -> RefStep:
        """From the close of candle t to the close of candle t + 1."""
        with localcontext() as context:
            context.prec = 50
            return self._step([Decimal(value) for value in action])

    def _step(self, action: list[Decimal]) -> RefStep:
        self.out = RefStep(funding=[ZERO for _ in self.rules])
        old_closes = self.closes()
        orders = self._plan(action, old_closes)
        candle = self.candles[self.t + 1]
        opens = [c.open for c in candle]

        self._pay_funding(candle, at_open=True)
        if self._held() and self.equity(opens) <= self.maintenance(opens):
            self._liquidate(opens)
        else:
            self._fill_orders(orders, opens)
            self._mark(old_closes)
            self._pay_funding(candle, at_open=False)
            self._adverse_leg(candle)
            self._take_profits(candle)
        if not self._held() and self.wallet < 0:
            self.insurance -= self.wallet
            self.wallet = ZERO
        self.t += 1
        equity = self._mark(self.closes())
        for position in self.positions:
            position.held = position.held + 1 if position.quantity else 0
        limit = self.settings.terminate_drawdown
        self.out.ended = (
            self.liquidated or equity <= 0 or (limit is not None and 1 - equity / self.peak >= limit)
        )
        return self.out

    def _held(self) -> bool:
        return any(p.quantity for p in self.positions)

    # --- sizing --------------------------------------------------------------------------------------------

    def _plan(
        self, action: list[Decimal], closes: list[Decimal]
    ) -> list[tuple[Decimal, tuple[Decimal | None, Decimal | None] | None]]:
        """Signed order quantities, each with the triggers that it sets (None: leaves them)."""
        s = self.settings
        equity = max(self.equity(closes), ZERO)
        desired: list[Decimal | None] = []
        for value, position, close in zip(action, self.positions, closes, strict=True):
            held = position.quantity * close
            if s.scheme == "target":
                desired.append(max(-ONE, min(ONE, value)) * s.max_leverage * equity)
            elif s.scheme == "quantity":
                desired.append(value * close)
            elif value == 0 or abs(value) < s.threshold or value * held > 0:
                desired.append(None)
            elif held != 0 and not s.flip:
                desired.append(ZERO)
            else:
                desired.append((s.fraction * equity).copy_sign(value))
        kept = sum(
            (
                abs(p.quantity) * close
                for d, p, close in zip(desired, self.positions, closes, strict=True)
                if d is None
            ),
            ZERO,
        )
        wanted = sum((abs(d) for d in desired if d is not None), ZERO)
        room = max(ZERO, s.max_leverage * equity - kept)
        scale = room / wanted if wanted > room else ONE
        return [
            self._round(i, None if d is None else d * scale, closes[i], equity) for i, d in enumerate(desired)
        ]

    def _round(
        self, i: int, desired: Decimal | None, close: Decimal, equity: Decimal
    ) -> tuple[Decimal, tuple[Decimal | None, Decimal | None] | None]:
        s, rule, held = self.settings, self.rules[i], self.positions[i].quantity
        if desired is None:
            return ZERO, None
        if s.scheme == "target" and abs(desired - held * close) < s.band * equity:
            return ZERO, None
        step = rule.step_size
        cap = next(b.notional_cap_usdt for b in reversed(rule.brackets) if b.max_leverage >= s.leverage[i])
        steps = min(_floor(abs(desired) / close / step), _floor(cap / close / step))
        target = (steps * step).copy_sign(desired)
        change = target - held
        if abs(change) > rule.max_quantity_market:
            change = rule.max_quantity_market.copy_sign(change)
        target = held + change
        if change == 0:
            return ZERO, None
        if target != 0 and abs(change) * close < rule.min_notional_usdt:
            self.out.skipped.append(i)
            return ZERO, None
        triggers = None
        if (abs(target) > abs(held) or target * held < 0) and (s.stop or s.take_profit):
            sign = ONE.copy_sign(target)
            stop = _tick(close * (1 - sign * s.stop), rule.tick_size, up=sign > 0) if s.stop else None
            take = (
                _tick(close * (1 + sign * s.take_profit), rule.tick_size, up=sign < 0)
                if s.take_profit
                else None
            )
            triggers = (stop, take)
        return change, triggers

    # --- fills ---------------------------------------------------------------------------------------------

    def _fill_orders(
        self,
        orders: list[tuple[Decimal, tuple[Decimal | None, Decimal | None] | None]],
        opens: list[Decimal],
    ) -> None:
        def reduces(i: int) -> bool:
            held, change = self.positions[i].quantity, orders[i][0]
            return held * change < 0 and abs(change) <= abs(held)

        reducing = [i for i in range(len(orders)) if orders[i][0] and reduces(i)]
        enlarging = [i for i in range(len(orders)) if orders[i][0] and not reduces(i)]
        for i in reducing + enlarging:
            change, triggers = orders[i]
            price = self._taker_price(opens[i], change)
            fee = abs(change) * price * self.rules[i].taker_fee
            if i in enlarging and not self._margin_suffices(i, change, price, fee, opens):
                self.out.refused.append(i)
                continue
            self._fill("order", i, change, price, fee)
            if triggers is not None:
                self.positions[i].stop, self.positions[i].take_profit = triggers

    def _margin_suffices(
        self, i: int, change: Decimal, price: Decimal, fee: Decimal, opens: list[Decimal]
    ) -> bool:
        prices = [price if k == i else p for k, p in enumerate(opens)]
        need = sum(
            (
                abs(p.quantity + (change if k == i else 0)) * prices[k] / self.settings.leverage[k]
                for k, p in enumerate(self.positions)
            ),
            ZERO,
        )
        return need <= self.equity(prices) - fee

    def _taker_price(self, price: Decimal, change: Decimal) -> Decimal:
        return price * (1 + self.settings.slippage) if change > 0 else price * (1 - self.settings.slippage)

    def _fill(self, kind: str, i: int, change: Decimal, price: Decimal, fee: Decimal) -> None:
        """Fold a fill into the position as cost: what is left of opposite lots is realized."""
        p = self.positions[i]
        after = p.quantity + change
        pnl = ZERO
        if p.quantity * change < 0:
            closed = min(abs(p.quantity), abs(change)).copy_sign(p.quantity)
            pnl = closed * (price - p.entry)
        if p.quantity * change >= 0:
            p.entry = (abs(p.quantity) * p.entry + abs(change) * price) / abs(after)
        elif after * p.quantity <= 0:
            self.positions[i] = p = RefPosition(entry=price if after else ZERO)
        p.quantity = after
        self.wallet += pnl - fee
        self.fees += fee
        self.realized += pnl
        self.out.fills.append(RefFill(kind, i, change, price, fee, pnl))

    # --- while the candle plays ----------------------------------------------------------------------------

    def _pay_funding(self, candle: Sequence[RefCandle], *, at_open: bool) -> None:
        for i, one in enumerate(candle):
            for time_ms, rate in self.funding[i]:
                inside = one.time_ms < time_ms < one.time_ms + self.interval_ms
                if time_ms != one.time_ms if at_open else not inside:
                    continue
                payment = -self.positions[i].quantity * self.marks[i].get(time_ms, one.open) * rate
                self.wallet += payment
                self.funding_total += payment
                self.out.funding[i] += payment

    def _adverse_leg(self, candle: Sequence[RefCandle]) -> None:
        def at(x: Decimal) -> list[Decimal]:
            return [
                c.open + x * ((c.low if p.quantity > 0 else c.high) - c.open)
                for c, p in zip(candle, self.positions, strict=True)
            ]

        def excess(x: Decimal) -> Decimal:
            return self.equity(at(x)) - self.maintenance(at(x))

        x = ZERO
        while self._held():
            stops = [
                (max(x, reach), i) for i, reach in enumerate(self._stop_reach(candle)) if reach is not None
            ]
            first = min(stops, default=None)
            dead = _first_at_or_below_zero(excess, x)
            if dead is not None and (first is None or dead <= first[0]):
                self._liquidate(at(dead))
                return
            if first is None:
                return
            x, i = first
            stop = self.positions[i].stop
            assert stop is not None
            long = self.positions[i].quantity > 0
            gap = candle[i].open <= stop if long else candle[i].open >= stop
            self._trigger("stop_loss", i, candle[i].open if gap else stop)

    def _stop_reach(self, candle: Sequence[RefCandle]) -> list[Decimal | None]:
        """How far along the adverse leg each position's stop lies; None when it is not reached."""
        reach: list[Decimal | None] = []
        for c, p in zip(candle, self.positions, strict=True):
            if p.quantity == 0 or p.stop is None:
                reach.append(None)
                continue
            sign = ONE.copy_sign(p.quantity)
            worst = c.low if sign > 0 else c.high
            if sign * (c.open - p.stop) <= 0:
                reach.append(ZERO)
            elif sign * (worst - p.stop) <= 0:
                reach.append((c.open - p.stop) / (c.open - worst))
            else:
                reach.append(None)
        return reach

    def _take_profits(self, candle: Sequence[RefCandle]) -> None:
        for i, c in enumerate(candle):
            p = self.positions[i]
            if p.quantity == 0 or p.take_profit is None:
                continue
            if p.quantity > 0 and c.high >= p.take_profit:
                self._trigger("take_profit", i, max(c.open, p.take_profit))
            elif p.quantity < 0 and c.low <= p.take_profit:
                self._trigger("take_profit", i, min(c.open, p.take_profit))

    def _trigger(self, kind: str, i: int, price: Decimal) -> None:
        change = -self.positions[i].quantity
        fill_price = self._taker_price(price, change)
        self._fill(kind, i, change, fill_price, abs(change) * fill_price * self.rules[i].taker_fee)

    def _liquidate(self, prices: Sequence[Decimal]) -> None:
        closed = [(i, p.quantity) for i, p in enumerate(self.positions) if p.quantity]
        first = len(self.out.fills)
        for i, quantity in closed:
            self._fill("liquidation", i, -quantity, prices[i], ZERO)
        for k, (i, quantity) in enumerate(closed):
            fee = min(self.rules[i].liquidation_fee * abs(quantity) * prices[i], max(self.wallet, ZERO))
            self.wallet -= fee
            self.fees += fee
            old = self.out.fills[first + k]
            self.out.fills[first + k] = RefFill(old.kind, i, old.quantity, old.price, fee, old.pnl)
        self.liquidated = True


def _floor(steps: Decimal) -> Decimal:
    return (steps + _STEP_NOISE).to_integral_value(rounding=ROUND_FLOOR)


def _tick(price: Decimal, tick: Decimal, *, up: bool) -> Decimal:
    """On the tick grid; a price within a millionth of a tick lies on it."""
    ticks = price / tick
    noise = Decimal("1e-6")
    if up:
        return (ticks - noise).to_integral_value(rounding=ROUND_CEILING) * tick
    return (ticks + noise).to_integral_value(rounding=ROUND_FLOOR) * tick


def _first_at_or_below_zero(excess: object, start: Decimal) -> Decimal | None:
    """Where a falling function reaches zero in [start, 1], by halving; None when it does not."""
    assert callable(excess)
    if excess(start) <= 0:
        return start
    if excess(ONE) > 0:
        return None
    low, high = start, ONE
    for _ in range(80):
        middle = (low + high) / 2
        if excess(middle) > 0:
            low = middle
        else:
            high = middle
    return high
