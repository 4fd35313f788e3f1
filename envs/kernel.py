"""One account through one candle, compiled by numba: sizing, fills, fees, funding, stops, liquidation.

Everything here is float64 on plain arrays, so that the same functions serve a single environment, thousands
of accounts in one call, and the sizing of live orders. The rules are those of `docs/simulation.md`; the paper
exchange plays candles by the same rules in Decimal, and a parity test holds the two together.

Arrays (n symbols, T candles):

- `config`   record of CONFIG_DTYPE: one account's settings.
- `symbols`  [n] of SYMBOL_DTYPE: the exchange's rules.
- `account`  record of ACCOUNT_DTYPE: cash, equity, totals.
- `position` [n] of POSITION_DTYPE: quantity, entry, triggers.
- `order`    [n] of ORDER_DTYPE: what a step wants, and what became of it.
- `market`   [T, n, 6] float64: open, high, low, close, funding at the open, funding inside the candle
  (funding as quote per base unit held: sum of rate * mark).

Account t is at the close of candle t; a step fills orders at the open of candle t+1, plays it, and marks at
its close.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from envs.compiling import compiled

OPEN, HIGH, LOW, CLOSE, FUNDING_OPEN, FUNDING_INNER = range(6)

MAX_BRACKETS = 20

# action schemes
SCHEME_TARGET, SCHEME_SIGNAL, SCHEME_QUANTITY, SCHEME_DECISION = range(4)
# rewards
REWARD_LOG_RETURN, REWARD_DIFFERENTIAL_SHARPE, REWARD_DRAWDOWN_PENALISED = range(3)
# order codes: what the plan made of an action
PLAN_HOLD, PLAN_ORDER, PLAN_BELOW_MINIMUM = range(3)
# order outcome
OUTCOME_NONE, OUTCOME_FILLED, OUTCOME_NO_MARGIN, OUTCOME_LIQUIDATED = range(4)
# why an order is smaller than the action asked for (bit flags)
CUT_GROSS, CUT_BRACKET, CUT_MAX_QUANTITY = 1, 2, 4
# events while a candle plays
EVENT_NONE, EVENT_STOP, EVENT_PROTECTIVE_STOP, EVENT_TAKE_PROFIT, EVENT_LIQUIDATION = range(5)
# liquidation fractions outside the candle
_NEVER = 2.0
# accounts of a vector environment that are looked up together
_BLOCK = 16

CONFIG_DTYPE = np.dtype(
    [
        ("scheme", "i8"),
        ("max_leverage", "f8"),
        ("rebalance_band", "f8"),
        ("hold_threshold", "f8"),
        ("signal_fraction", "f8"),
        ("signal_flips", "i8"),
        ("stop_loss_fraction", "f8"),
        ("take_profit_fraction", "f8"),
        ("slippage_fraction", "f8"),
        ("fee_multiplier", "f8"),
        ("reward", "i8"),
        ("reward_rate", "f8"),
        ("reward_penalty", "f8"),
        ("terminate_drawdown", "f8"),
        ("window", "i8"),
        ("normalize_portfolio", "i8"),
        ("initial_capital", "f8"),
    ],
    align=True,
)

SYMBOL_DTYPE = np.dtype(
    [
        ("steps_per_unit", "f8"),
        ("ticks_per_unit", "f8"),
        ("min_notional", "f8"),
        ("max_quantity", "f8"),
        ("max_notional", "f8"),
        ("taker_fee", "f8"),
        ("liquidation_fee", "f8"),
        ("leverage", "f8"),
        ("brackets", "i8"),
        ("bracket_cap", "f8", (MAX_BRACKETS,)),
        ("bracket_rate", "f8", (MAX_BRACKETS,)),
        ("bracket_amount", "f8", (MAX_BRACKETS,)),
    ],
    align=True,
)


def _cache_lines(fields: list[tuple[str, str]]) -> np.dtype[Any]:
    """A record that fills whole cache lines, so that accounts in a row share none."""
    size = -(-8 * len(fields) // 64) * 64
    names, formats = [name for name, _ in fields], [kind for _, kind in fields]
    offsets = list(range(0, 8 * len(fields), 8))
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size}, align=True)


# What every step touches comes first.
ACCOUNT_DTYPE = _cache_lines(
    [
        ("wallet", "f8"),
        ("equity", "f8"),  # marked at the last close
        ("peak_equity", "f8"),
        ("drawdown", "f8"),
        ("max_drawdown", "f8"),
        ("liquidated", "i8"),
        ("fees", "f8"),
        ("realized_pnl", "f8"),
        ("trades", "i8"),
        ("reward_mean", "f8"),
        ("reward_mean_square", "f8"),
        ("funding", "f8"),
        ("insurance", "f8"),
        ("liquidations", "i8"),
    ]
)

POSITION_DTYPE = _cache_lines(
    [
        ("quantity", "f8"),
        ("entry_price", "f8"),
        ("stop_price", "f8"),  # 0: none, here and below
        ("guard_price", "f8"),
        ("take_profit_price", "f8"),
        ("candles_held", "i8"),
        ("fills", "i8"),
        ("event", "i8"),
        ("event_quantity", "f8"),
        ("event_price", "f8"),
        ("event_fee", "f8"),
        ("event_pnl", "f8"),
        ("funding", "f8"),  # since the start
    ]
)

ORDER_DTYPE = np.dtype(
    [
        ("code", "i8"),
        ("cut", "i8"),
        ("target", "f8"),  # signed position after the order
        ("quantity", "f8"),  # signed change
        ("set_triggers", "i8"),
        ("stop_price", "f8"),
        ("take_profit_price", "f8"),
        ("outcome", "i8"),
        ("fill_price", "f8"),
        ("fee", "f8"),
        ("pnl", "f8"),
    ],
    align=True,
)


# What `run_ahead` writes down, per step and symbol, and per step.
BAR_DTYPE = np.dtype(
    [
        ("action", "f8"),
        ("order_quantity", "f8"),  # signed change that was asked for
        ("fill_price", "f8"),
        ("fee", "f8"),
        ("pnl", "f8"),
        ("quantity", "f8"),  # held after the orders
        ("entry_price", "f8"),
        ("funding_open", "f8"),
        ("end_quantity", "f8"),  # held at the close of the candle
        ("end_entry_price", "f8"),
        ("funding_inner", "f8"),
        ("event_quantity", "f8"),
        ("event_price", "f8"),
        ("event_fee", "f8"),
        ("event_pnl", "f8"),
        ("fills", "i4"),  # after the orders
        ("end_fills", "i4"),
        ("code", "i1"),
        ("cut", "i1"),
        ("outcome", "i1"),
        ("event", "i1"),
    ],
    align=True,
)

STEP_DTYPE = np.dtype(
    [
        ("wallet", "f8"),  # after the orders
        ("end_wallet", "f8"),  # at the close of the candle
        ("end_equity", "f8"),
        ("reward", "f8"),
    ],
    align=True,
)

# Where `run_ahead` leaves a step to the risk layer; infinity, or 0 of the flags, where it has no say.
AHEAD_DTYPE = np.dtype(
    [
        ("drawdown", "f8"),
        ("leverage", "f8"),
        ("position_notional", "f8"),
        ("order_notional", "f8"),
        ("margin", "i8"),  # orders are judged by the margin that is free
        ("enlarging", "i8"),  # every order that enlarges a position is left to it
    ],
    align=True,
)

EPISODE_DTYPE = np.dtype(
    [
        ("candle", "i8"),  # the last closed one
        ("decided_on", "i8"),  # the candle that the last step's action was decided on
        ("first", "i8"),  # the candle of the first decision
        ("end", "i8"),  # the candle whose close truncates the episode
        ("reward", "f8"),  # sum since the first decision
    ],
    align=True,
)


def _jit(function: Any) -> Any:
    """Compile once per machine: the cache beside this file makes every later process start at once.

    The kernel allocates nothing, so it does without numba's reference counts (`_nrt`), whose atomic increments of
    arrays that all accounts share would cost more than the accounts. What it calls is inlined.
    """
    return compiled(function, _nrt=False, forceinline=True)


# --- exchange rules ---------------------------------------------------------------------------------------


@_jit
def whole_steps(quantity: float, steps_per_unit: float) -> float:
    """Number of whole quantity steps in an unsigned quantity, rounded down.

    A quantity that is a whole number of steps but for float noise keeps its last step.
    """
    return math.floor(quantity * steps_per_unit * (1.0 + 1e-12) + 1e-9)


@_jit
def maintenance_margin(symbol: Any, notional: float) -> float:
    """notional * rate - amount, by the leverage bracket of an unsigned notional."""
    last = symbol.brackets - 1
    row = 0
    while row < last and notional > symbol.bracket_cap[row]:
        row += 1
    return notional * symbol.bracket_rate[row] - symbol.bracket_amount[row]


@_jit
def _maintenance_rate(symbol: Any, notional: float) -> float:
    last = symbol.brackets - 1
    row = 0
    while row < last and notional > symbol.bracket_cap[row]:
        row += 1
    return symbol.bracket_rate[row]


# --- sizing -----------------------------------------------------------------------------------------------


@_jit
def plan_orders(
    config: Any, symbols: Any, position: Any, equity: float, close: Any, action: Any, order: Any
) -> bool:
    """Turn an action into rounded orders. Sizing uses the close that was decided on.

    `close` is [n]; fills `order`. False when the action is not finite; then `order` is undefined. `action` is [n], or
    [2n] for decisions: target quantities, then 1 where the symbol is to be traded and 0 where it is left alone.
    """
    n = position.shape[0]
    kept_gross = 0.0
    wanted_gross = 0.0
    scheme = config.scheme
    leverage = config.max_leverage
    sizing_equity = max(equity, 0.0)
    for i in range(n):
        value = float(action[i])
        if not math.isfinite(value):
            return False
        held = position[i].quantity * close[i]
        order[i].cut = 0
        order[i].code = PLAN_ORDER
        if scheme == SCHEME_TARGET:
            desired = min(1.0, max(-1.0, value)) * leverage * sizing_equity
        elif scheme == SCHEME_SIGNAL:
            desired = held
            same_side = held != 0.0 and (value > 0.0) == (held > 0.0)
            # A signal of 0 has no side: it holds even where the threshold is 0.
            if value == 0.0 or abs(value) < config.hold_threshold or same_side:
                order[i].code = PLAN_HOLD
            elif held != 0.0 and config.signal_flips == 0:
                desired = 0.0
            else:
                desired = math.copysign(config.signal_fraction * sizing_equity, value)
        elif scheme == SCHEME_DECISION and action[n + i] == 0.0:
            desired = held
            order[i].code = PLAN_HOLD
        else:
            desired = value * close[i]
        order[i].target = desired
        if order[i].code == PLAN_HOLD:
            kept_gross += abs(held)
        else:
            wanted_gross += abs(desired)

    room = max(0.0, leverage * sizing_equity - kept_gross)
    scale = 1.0
    if wanted_gross > room * (1.0 + 1e-12):
        scale = room / wanted_gross
    for i in range(n):
        _round_order(config, symbols[i], position[i], sizing_equity, close[i], scale, order[i])
    return True


@_jit
def _round_order(
    config: Any, symbol: Any, position: Any, equity: float, close: float, scale: float, order: Any
) -> None:
    """From a wanted notional (in `order.target`) to a target and an order on the exchange's grid."""
    held = position.quantity
    desired = order.target
    order.outcome = OUTCOME_NONE
    order.quantity = 0.0
    order.set_triggers = 0
    order.fill_price = 0.0
    order.fee = 0.0
    order.pnl = 0.0
    order.target = held
    if order.code == PLAN_HOLD:
        return
    if scale < 1.0 and desired != 0.0:
        desired *= scale
        order.cut |= CUT_GROSS
    if config.scheme == SCHEME_TARGET and abs(desired - held * close) < config.rebalance_band * equity:
        order.code = PLAN_HOLD
        return
    per_unit = symbol.steps_per_unit
    steps = whole_steps(abs(desired) / close, per_unit)
    if abs(desired) > symbol.max_notional:
        most = whole_steps(symbol.max_notional / close, per_unit)
        if steps > most:
            steps = most
            order.cut |= CUT_BRACKET
    if desired < 0.0:
        steps = -steps
    held_steps = np.rint(held * per_unit)
    change = steps - held_steps
    limit = whole_steps(symbol.max_quantity, per_unit)
    if abs(change) > limit:
        change = math.copysign(limit, change)
        order.cut |= CUT_MAX_QUANTITY
    if change == 0.0:
        order.code = PLAN_HOLD
        return
    target = (held_steps + change) / per_unit
    quantity = change / per_unit
    if target != 0.0 and abs(quantity) * close < symbol.min_notional * (1.0 - 1e-12):
        order.code = PLAN_BELOW_MINIMUM
        order.quantity = quantity
        return
    order.target = target
    order.quantity = quantity
    if abs(target) > abs(held) or target * held < 0.0:
        _set_triggers(config, symbol, close, order)


@_jit
def _set_triggers(config: Any, symbol: Any, close: float, order: Any) -> None:
    """Stop and take-profit at configured fractions from the close, on the tick nearer to it."""
    if config.stop_loss_fraction <= 0.0 and config.take_profit_fraction <= 0.0:
        return
    order.set_triggers = 1
    order.stop_price = 0.0
    order.take_profit_price = 0.0
    ticks = symbol.ticks_per_unit
    direction = math.copysign(1.0, order.target)
    if config.stop_loss_fraction > 0.0:
        raw = close * (1.0 - direction * config.stop_loss_fraction) * ticks
        order.stop_price = (math.ceil(raw - 1e-6) if direction > 0.0 else math.floor(raw + 1e-6)) / ticks
    if config.take_profit_fraction > 0.0:
        raw = close * (1.0 + direction * config.take_profit_fraction) * ticks
        order.take_profit_price = (
            math.floor(raw + 1e-6) if direction > 0.0 else math.ceil(raw - 1e-6)
        ) / ticks


# --- fills ------------------------------------------------------------------------------------------------


@_jit
def _apply_fill(symbol: Any, account: Any, position: Any, quantity: float, price: float, fee: float) -> float:
    """Book one fill of a signed quantity. Returns the realized PnL before the fee."""
    held = position.quantity
    after = np.rint((held + quantity) * symbol.steps_per_unit) / symbol.steps_per_unit
    pnl = 0.0
    if held == 0.0 or (held > 0.0) == (quantity > 0.0):
        position.entry_price = (held * position.entry_price + quantity * price) / (held + quantity)
        if held == 0.0:
            position.candles_held = 0
    else:
        closed = min(abs(held), abs(quantity))
        pnl = math.copysign(closed, held) * (price - position.entry_price)
        if after == 0.0:
            _clear(position)
        elif (after > 0.0) != (held > 0.0):
            _clear(position)
            position.entry_price = price
    position.quantity = after
    position.fills += 1
    account.wallet += pnl - fee
    account.realized_pnl += pnl
    account.fees += fee
    account.trades += 1
    return pnl


@_jit
def _clear(position: Any) -> None:
    position.quantity = 0.0
    position.entry_price = 0.0
    position.stop_price = 0.0
    position.guard_price = 0.0
    position.take_profit_price = 0.0
    position.candles_held = 0


@_jit
def _has_margin(
    symbols: Any, account: Any, position: Any, row: Any, index: int, quantity: float, price: float, fee: float
) -> bool:
    """Whether initial margins after the fill fit into the equity after the commission."""
    equity = account.wallet - fee
    required = 0.0
    for i in range(position.shape[0]):
        held = position[i].quantity
        if i == index:
            mark = price
            after = held + quantity
        else:
            mark = row[i, OPEN]
            after = held
        equity += held * (mark - position[i].entry_price)
        required += abs(after) * mark / symbols[i].leverage
    return required <= equity * (1.0 + 1e-12)


@_jit
def execute_orders(config: Any, symbols: Any, account: Any, position: Any, row: Any, order: Any) -> None:
    """Fill the orders of a step at the open of `row` ([n, 6]), moved by the slippage.

    Orders that only reduce go first, so that they free the margin that the others need.
    """
    n = position.shape[0]
    for enlarging in range(2):
        for i in range(n):
            if order[i].code != PLAN_ORDER or order[i].quantity == 0.0:
                continue
            held = position[i].quantity
            quantity = order[i].quantity
            reduces = held * quantity < 0.0 and abs(quantity) <= abs(held)
            if order[i].outcome != OUTCOME_NONE or reduces == (enlarging == 1):
                continue
            direction = math.copysign(1.0, quantity)
            price = row[i, OPEN] * (1.0 + direction * config.slippage_fraction)
            fee = abs(quantity) * price * symbols[i].taker_fee * config.fee_multiplier
            if not reduces and not _has_margin(symbols, account, position, row, i, quantity, price, fee):
                order[i].outcome = OUTCOME_NO_MARGIN
                continue
            order[i].pnl = _apply_fill(symbols[i], account, position[i], quantity, price, fee)
            order[i].fill_price = price
            order[i].fee = fee
            order[i].outcome = OUTCOME_FILLED
            if order[i].set_triggers == 1 and position[i].quantity != 0.0:
                position[i].stop_price = order[i].stop_price
                position[i].take_profit_price = order[i].take_profit_price


# --- funding, liquidation, triggers -----------------------------------------------------------------------


@_jit
def charge_funding(account: Any, position: Any, row: Any, column: int) -> None:
    """Book funding: payment = -quantity * mark * rate, so that longs pay a positive rate."""
    for i in range(position.shape[0]):
        if position[i].quantity != 0.0 and row[i, column] != 0.0:
            amount = -position[i].quantity * row[i, column]
            account.wallet += amount
            account.funding += amount
            position[i].funding += amount


@_jit
def _adverse(position: Any, row: Any, i: int) -> float:
    return row[i, LOW] if position[i].quantity > 0.0 else row[i, HIGH]


@_jit
def _margin_excess(symbols: Any, account: Any, position: Any, row: Any, x: float) -> tuple[float, float]:
    """Equity minus maintenance margin, and its slope, a fraction x of the way to the adverse extremes."""
    excess = account.wallet
    slope = 0.0
    for i in range(position.shape[0]):
        quantity = position[i].quantity
        if quantity == 0.0:
            continue
        step = _adverse(position, row, i) - row[i, OPEN]
        price = row[i, OPEN] + x * step
        notional = abs(quantity) * price
        rate = _maintenance_rate(symbols[i], notional)
        excess += quantity * (price - position[i].entry_price) - maintenance_margin(symbols[i], notional)
        slope += quantity * step - abs(quantity) * step * rate
    return excess, slope


@_jit
def _liquidation_point(symbols: Any, account: Any, position: Any, row: Any, start: float) -> float:
    """The first x in [start, 1] at which equity <= maintenance margin; above 1 when there is none.

    The excess falls strictly and is linear between bracket borders, so Newton's step inside a shrinking
    interval finds the crossing exactly once it is on the right piece.
    """
    flat = True
    for i in range(position.shape[0]):
        if position[i].quantity != 0.0:
            flat = False
    if flat:
        return _NEVER
    end_excess, _ = _margin_excess(symbols, account, position, row, 1.0)
    if end_excess > 0.0:
        return _NEVER
    excess, slope = _margin_excess(symbols, account, position, row, start)
    if excess <= 0.0:
        return start
    low, high = start, 1.0
    x = start
    for _ in range(100):
        guess = x - excess / slope if slope < 0.0 else 0.5 * (low + high)
        if not (low <= guess <= high):
            guess = 0.5 * (low + high)
        if guess == x:
            break
        x = guess
        excess, slope = _margin_excess(symbols, account, position, row, x)
        if excess > 0.0:
            low = x
        else:
            high = x
        if high - low <= 1e-16:
            break
    return x


@_jit
def _liquidate(symbols: Any, account: Any, position: Any, row: Any, x: float) -> None:
    """Close everything at fraction x, charge the liquidation fee, keep the wallet at or above zero."""
    n = position.shape[0]
    for i in range(n):
        quantity = position[i].quantity
        if quantity == 0.0:
            continue
        price = row[i, OPEN] + x * (_adverse(position, row, i) - row[i, OPEN])
        position[i].event = EVENT_LIQUIDATION
        position[i].event_quantity = -quantity
        position[i].event_price = price
        position[i].event_pnl = _apply_fill(symbols[i], account, position[i], -quantity, price, 0.0)
    for i in range(n):
        if position[i].event != EVENT_LIQUIDATION:
            continue
        notional = abs(position[i].event_quantity) * position[i].event_price
        fee = min(symbols[i].liquidation_fee * notional, max(account.wallet, 0.0))
        position[i].event_fee = fee
        account.wallet -= fee
        account.fees += fee
    account.liquidated = 1
    account.liquidations += 1


@_jit
def _cover_shortfall(account: Any, position: Any) -> None:
    """A flat account never owes: the insurance fund covers what is missing."""
    for i in range(position.shape[0]):
        if position[i].quantity != 0.0:
            return
    if account.wallet < 0.0:
        account.insurance -= account.wallet
        account.wallet = 0.0


@_jit
def _trigger(
    config: Any, symbols: Any, account: Any, position: Any, i: int, price: float, event: int
) -> None:
    """Close one position at a trigger, as a taker."""
    quantity = -position[i].quantity
    fill_price = price * (1.0 + math.copysign(1.0, quantity) * config.slippage_fraction)
    fee = abs(quantity) * fill_price * symbols[i].taker_fee * config.fee_multiplier
    position[i].event = event
    position[i].event_quantity = quantity
    position[i].event_price = fill_price
    position[i].event_fee = fee
    position[i].event_pnl = _apply_fill(symbols[i], account, position[i], quantity, fill_price, fee)


@_jit
def open_candle(symbols: Any, account: Any, position: Any, row: Any) -> None:
    """The instant between two candles: funding at the open, then liquidation at the opening prices."""
    for i in range(position.shape[0]):
        position[i].event = EVENT_NONE
    charge_funding(account, position, row, FUNDING_OPEN)
    flat = True
    for i in range(position.shape[0]):
        if position[i].quantity != 0.0:
            flat = False
    if flat:
        return
    excess, _ = _margin_excess(symbols, account, position, row, 0.0)
    if excess <= 0.0:
        _liquidate(symbols, account, position, row, 0.0)
        _cover_shortfall(account, position)


@_jit
def play_candle(config: Any, symbols: Any, account: Any, position: Any, row: Any) -> None:
    """Funding inside the candle, then stops and liquidation on the way to the adverse extremes, then
    take-profits. A stop and a take-profit in one candle: the stop."""
    n = position.shape[0]
    charge_funding(account, position, row, FUNDING_INNER)
    x = 0.0
    while True:
        first = _NEVER
        index = -1
        for i in range(n):
            quantity = position[i].quantity
            if quantity == 0.0:
                continue
            stop = _effective_stop(position[i])
            if stop == 0.0:
                continue
            start = row[i, OPEN]
            adverse = _adverse(position, row, i)
            if (adverse - stop) * quantity > 0.0:
                continue
            gap = (start - stop) * quantity <= 0.0
            at = 0.0 if gap else (start - stop) / (start - adverse)
            at = max(at, x)
            if at < first:
                first = at
                index = i
        at_liquidation = _liquidation_point(symbols, account, position, row, x)
        if at_liquidation <= 1.0 and at_liquidation <= first:
            _liquidate(symbols, account, position, row, at_liquidation)
            break
        if index < 0:
            break
        stop = _effective_stop(position[index])
        gap = (row[index, OPEN] - stop) * position[index].quantity <= 0.0
        event = EVENT_PROTECTIVE_STOP if stop == position[index].guard_price else EVENT_STOP
        if stop == position[index].stop_price:
            event = EVENT_STOP
        _trigger(config, symbols, account, position, index, row[index, OPEN] if gap else stop, event)
        x = first
    for i in range(n):
        quantity = position[i].quantity
        take = position[i].take_profit_price
        if quantity == 0.0 or take == 0.0:
            continue
        favourable = row[i, HIGH] if quantity > 0.0 else row[i, LOW]
        if (favourable - take) * quantity < 0.0:
            continue
        gap = (row[i, OPEN] - take) * quantity >= 0.0
        _trigger(config, symbols, account, position, i, row[i, OPEN] if gap else take, EVENT_TAKE_PROFIT)
    _cover_shortfall(account, position)


@_jit
def _effective_stop(position: Any) -> float:
    """The trigger that is reached first of the agent's stop and the protective stop."""
    stop = position.stop_price
    guard = position.guard_price
    if stop == 0.0:
        return guard
    if guard == 0.0:
        return stop
    return max(stop, guard) if position.quantity > 0.0 else min(stop, guard)


# --- marking ----------------------------------------------------------------------------------------------


@_jit
def equity_at(account: Any, position: Any, row: Any) -> float:
    """wallet + sum of quantity * (close - entry), at the closes of `row` ([n, 6])."""
    equity = account.wallet
    for i in range(position.shape[0]):
        equity += position[i].quantity * (row[i, CLOSE] - position[i].entry_price)
    return equity


@_jit
def mark(account: Any, position: Any, row: Any) -> None:
    """Mark the account at the closes of `row` and renew peak and drawdown."""
    equity = equity_at(account, position, row)
    account.equity = equity
    if equity > account.peak_equity:
        account.peak_equity = equity
    account.drawdown = 1.0 - equity / account.peak_equity
    if account.drawdown > account.max_drawdown:
        account.max_drawdown = account.drawdown


@_jit
def close_candle(account: Any, position: Any, row: Any) -> None:
    """Mark at the close of the candle just played and count the candles that positions were held."""
    mark(account, position, row)
    for i in range(position.shape[0]):
        if position[i].quantity != 0.0:
            position[i].candles_held += 1


@_jit
def maintenance_at(symbols: Any, position: Any, row: Any) -> float:
    """Maintenance margin of all positions at the closes of `row`."""
    total = 0.0
    for i in range(position.shape[0]):
        if position[i].quantity != 0.0:
            total += maintenance_margin(symbols[i], abs(position[i].quantity) * row[i, CLOSE])
    return total


# --- reward, observation ----------------------------------------------------------------------------------


@_jit
def step_reward(config: Any, account: Any, equity_before: float, drawdown_before: float) -> float:
    """Reward of the step that took equity from `equity_before` to `account.equity`. See envs/rewards.py."""
    floor = 1e-6 * config.initial_capital
    growth = 0.0
    if account.equity != equity_before:
        growth = math.log(max(account.equity, floor) / max(equity_before, floor))
    if config.reward == REWARD_LOG_RETURN:
        return growth
    if config.reward == REWARD_DRAWDOWN_PENALISED:
        return growth - config.reward_penalty * max(0.0, account.drawdown - drawdown_before)
    mean = account.reward_mean
    square = account.reward_mean_square
    rate = config.reward_rate
    variance = square - mean * mean
    value = 0.0
    if variance > 1e-16:
        value = (square * (growth - mean) - 0.5 * mean * (growth * growth - square)) / variance**1.5
    account.reward_mean = mean + rate * (growth - mean)
    account.reward_mean_square = square + rate * (growth * growth - square)
    return value


@_jit
def portfolio_vector(config: Any, symbols: Any, account: Any, position: Any, row: Any, out: Any) -> None:
    """The portfolio part of the observation, float32 [3n + 2], clipped to +-10. See envs/observation.py."""
    n = position.shape[0]
    equity = account.equity
    scale = config.max_leverage if config.normalize_portfolio == 1 else 1.0
    maintenance = 0.0
    for i in range(n):
        quantity = position[i].quantity
        exposure = 0.0
        unrealized = 0.0
        if quantity != 0.0 and equity > 0.0:
            close = row[i, CLOSE]
            exposure = quantity * close / equity / scale
            unrealized = quantity * (close - position[i].entry_price) / equity
            maintenance += maintenance_margin(symbols[i], abs(quantity) * close)
        out[3 * i] = min(10.0, max(-10.0, exposure))
        out[3 * i + 1] = min(10.0, max(-10.0, unrealized))
        out[3 * i + 2] = min(10.0, position[i].candles_held / config.window)
    out[3 * n] = account.drawdown
    out[3 * n + 1] = min(10.0, maintenance / equity) if equity > 0.0 else 10.0


@_jit
def observe(
    config: Any, symbols: Any, account: Any, position: Any, market: Any, features: Any, t: int, out: Any
) -> None:
    """Write the observation at the close of candle t: window rows t-W+1..t, then the portfolio."""
    columns = features.shape[1]
    size = config.window * columns
    end = (t + 1) * columns
    # Slices of flat arrays: this loop becomes as fast as a memcpy.
    source = features.reshape(-1)[end - size : end]
    target = out[:size]
    for j in range(size):
        target[j] = source[j]
    portfolio_vector(config, symbols, account, position, market[t], out[size:])


@_jit
def step_account(
    config: Any, symbols: Any, account: Any, position: Any, order: Any, market: Any, t: int, action: Any
) -> tuple[float, int]:
    """One whole step of one account from the close of candle t to the close of candle t+1.

    Returns (reward, state): state 0 goes on, 1 ended by liquidation or drawdown, -1 the action is not finite.
    """
    equity_before = account.equity
    drawdown_before = account.drawdown
    if not plan_orders(config, symbols, position, equity_before, market[t, :, CLOSE], action, order):
        return 0.0, -1
    row = market[t + 1]
    open_candle(symbols, account, position, row)
    if account.liquidated == 0:
        execute_orders(config, symbols, account, position, row, order)
        # A fee can make the drawdown larger at the old marks: the peak sees it, as the phases do.
        mark(account, position, market[t])
        play_candle(config, symbols, account, position, row)
    close_candle(account, position, row)
    reward = step_reward(config, account, equity_before, drawdown_before)
    ended = account.liquidated == 1 or account.equity <= 0.0
    if config.terminate_drawdown > 0.0 and account.drawdown >= config.terminate_drawdown:
        ended = True
    return reward, 1 if ended else 0


@_jit
def step_env(
    config: Any,
    symbols: Any,
    account: Any,
    position: Any,
    order: Any,
    market: Any,
    features: Any,
    t: int,
    action: Any,
    observation: Any,
) -> tuple[float, int]:
    """`step_account` for a single environment's one-record arrays, with its observation."""
    reward, state = step_account(config[0], symbols, account[0], position, order, market, t, action)
    if state >= 0:
        observe(config[0], symbols, account[0], position, market, features, t + 1, observation)
    return reward, state


@_jit
def reset_account(config: Any, account: Any, position: Any) -> None:
    """A fresh account with the configured capital and no position."""
    account.wallet = config.initial_capital
    account.equity = config.initial_capital
    account.peak_equity = config.initial_capital
    account.drawdown = 0.0
    account.max_drawdown = 0.0
    account.fees = 0.0
    account.funding = 0.0
    account.realized_pnl = 0.0
    account.insurance = 0.0
    account.liquidated = 0
    account.liquidations = 0
    account.trades = 0
    account.reward_mean = 0.0
    account.reward_mean_square = 0.0
    for i in range(position.shape[0]):
        _clear(position[i])
        position[i].fills = 0
        position[i].funding = 0.0
        position[i].event = EVENT_NONE


# --- many accounts ----------------------------------------------------------------------------------------


@_jit
def _step_part(
    part: int,
    configs: Any,
    symbols: Any,
    accounts: Any,
    positions: Any,
    orders: Any,
    market: Any,
    features: Any,
    episodes: Any,
    actions: Any,
    observations: Any,
    rewards: Any,
    terminated: Any,
    truncated: Any,
) -> None:
    """One step of the accounts of one part. See `step_accounts`."""
    part, parts, count = int(part), orders.shape[0], accounts.shape[0]
    order = orders[part]
    end = (part + 1) * count // parts
    for start in range(part * count // parts, end, _BLOCK):
        block = range(start, min(end, start + _BLOCK))
        # The candles of a block are wherever their episodes are. Read here, without anything that waits for them,
        # they come from memory all at once and not one after the other.
        touched = 0.0
        for k in block:
            touched += market[episodes[k].candle + 1, 0, FUNDING_INNER]
        order[-1].fill_price = touched
        for k in block:
            config = configs[min(k, configs.shape[0] - 1)]
            episode = episodes[k]
            t = episode.candle
            reward, state = step_account(
                config, symbols, accounts[k], positions[k], order, market, t, actions[k]
            )
            t += 1
            observe(config, symbols, accounts[k], positions[k], market, features, t, observations[k])
            episode.decided_on = episode.candle
            episode.candle = t
            episode.reward += reward
            rewards[k] = reward
            terminated[k] = state == 1
            truncated[k] = state == 0 and t >= episode.end


def step_accounts(
    configs: Any,
    symbols: Any,
    accounts: Any,
    positions: Any,
    orders: Any,
    market: Any,
    features: Any,
    episodes: Any,
    actions: Any,
    observations: Any,
    rewards: Any,
    terminated: Any,
    truncated: Any,
) -> None:
    """`step_account` and `observe` for every account; the actions are finite.

    Arrays (E accounts): `configs` [1] for one that all share, or [E]; `accounts` [E], `positions` [E, n], `episodes`
    [E] of EPISODE_DTYPE, `actions` [E, n], `observations` [E, size], the results [E]. `orders` is room to work in:
    [1, n + 1] here, and as many rows as there are parts to work on in parallel; the last of a row keeps the threads
    off each other's cache lines.
    """
    _step_part(
        0, configs, symbols, accounts, positions, orders, market, features, episodes, actions,
        observations, rewards, terminated, truncated,
    )  # fmt: skip


def step_accounts_in_parallel(
    configs: Any,
    symbols: Any,
    accounts: Any,
    positions: Any,
    orders: Any,
    market: Any,
    features: Any,
    episodes: Any,
    actions: Any,
    observations: Any,
    rewards: Any,
    terminated: Any,
    truncated: Any,
) -> None:
    """`step_accounts` on numba's threads. Accounts share nothing that they write, so the results are the same."""
    for part in prange(orders.shape[0]):
        _step_part(
            part, configs, symbols, accounts, positions, orders, market, features, episodes, actions,
            observations, rewards, terminated, truncated,
        )  # fmt: skip


# Two functions for what could be one: numba's cache does not tell apart how a function is compiled.
step_accounts = compiled(step_accounts, nogil=True, _nrt=False)
step_accounts_in_parallel = compiled(step_accounts_in_parallel, nogil=True, _nrt=False, parallel=True)


@_jit
def reset_accounts(
    slots: Any,
    configs: Any,
    symbols: Any,
    accounts: Any,
    positions: Any,
    market: Any,
    features: Any,
    episodes: Any,
    observations: Any,
) -> None:
    """Begin new episodes in `slots` at the candles `episodes.first`, and observe."""
    for slot in slots:
        config = configs[min(slot, configs.shape[0] - 1)]
        reset_account(config, accounts[slot], positions[slot])
        episode = episodes[slot]
        episode.candle = episode.first
        episode.reward = 0.0
        t = episode.first
        observe(config, symbols, accounts[slot], positions[slot], market, features, t, observations[slot])


# --- a run whose actions are known ------------------------------------------------------------------------


@_jit
def _risk_layer_agrees(
    limits: Any, symbols: Any, position: Any, order: Any, close: Any, equity: float, held: Any
) -> bool:
    """Whether every order is surely within the limits, so that the risk layer changes none.

    Orders that shrink a position pass, and count first, as there. `held` is [n], room to work in. What is within
    rounding of a limit is left to exact numbers.
    """
    n = position.shape[0]
    sure = 1.0 - 1e-9
    equity = max(equity, 0.0)
    for i in range(n):
        held[i] = position[i].quantity
    for shrinking in (True, False):
        for i in range(n):
            change = order[i].quantity
            if order[i].code != PLAN_ORDER or change == 0.0:
                continue
            before = position[i].quantity
            shrinks = before * change < 0.0 and abs(change) <= abs(before)
            if shrinks != shrinking:
                continue
            if not shrinks:
                if limits.enlarging == 1:
                    return False
                gross = 0.0
                margins = 0.0
                for j in range(n):
                    if j != i:
                        gross += abs(held[j]) * close[j]
                        margins += abs(held[j]) * close[j] / symbols[j].leverage
                after = abs(held[i] + change) * close[i]
                if (
                    after > (limits.leverage * equity - gross) * sure
                    or after > limits.position_notional * sure
                    or abs(change) * close[i] > limits.order_notional * sure
                    or after > (equity - margins) * symbols[i].leverage * sure
                ):
                    return False
            held[i] += change
    return True


@_jit
def run_ahead(
    config: Any,
    symbols: Any,
    accounts: Any,
    position: Any,
    order: Any,
    market: Any,
    t: int,
    actions: Any,
    seen: Any,
    limits: Any,
    saved_account: Any,
    saved_position: Any,
    work: Any,
    bars: Any,
    steps: Any,
) -> int:
    """Steps from the close of candle t on, one for each row of `actions` [K, n], each as `step_account` does it.

    It stops before a step that is not ordinary: the account is liquidated, terminates or comes to the drawdown of
    `limits` (but for rounding), the action is not finite, or the risk layer may change an order. The account is
    then as it was before that step.

    Args:
        accounts: [1].
        seen: [n] where an action counts until a position in its symbol was observed, and is 0 from then on: where
            that is so. [0] where every action counts.
        limits: record of AHEAD_DTYPE.
        saved_account, saved_position, work: room to work in: [1], [n], float64 [2, n].
        bars, steps: what happened, [K, n] of BAR_DTYPE and [K] of STEP_DTYPE.

    Returns:
        How many steps were done.
    """
    n = position.shape[0]
    account = accounts[0]
    action, held = work[0], work[1]
    scale = config.max_leverage if config.normalize_portfolio == 1 else 1.0
    for k in range(actions.shape[0]):
        saved_account[0] = accounts[0]
        for i in range(n):
            saved_position[i] = position[i]
            action[i] = actions[k, i]
            if seen.shape[0] > 0:
                if position[i].quantity != 0.0 and account.equity > 0.0:
                    # As in the observation, where a position may be too small to be seen.
                    exposure = position[i].quantity * market[t, i, CLOSE] / account.equity / scale
                    if np.float32(exposure) != np.float32(0.0):
                        seen[i] = True
                if seen[i]:
                    action[i] = 0.0
        row = market[t + 1]
        close = market[t, :, CLOSE]
        equity_before, drawdown_before = account.equity, account.drawdown
        ordinary = plan_orders(config, symbols, position, equity_before, close, action, order)
        if ordinary and limits.margin == 1:
            ordinary = _risk_layer_agrees(limits, symbols, position, order, close, equity_before, held)
        if ordinary:
            open_candle(symbols, account, position, row)
            ordinary = account.liquidated == 0
        if ordinary:
            execute_orders(config, symbols, account, position, row, order)
            mark(account, position, market[t])
            steps[k].wallet = account.wallet
            for i in range(n):
                _write_orders(position[i], order[i], action[i], saved_position[i].funding, bars[k, i])
                held[i] = position[i].funding
            play_candle(config, symbols, account, position, row)
            close_candle(account, position, row)
            steps[k].reward = step_reward(config, account, equity_before, drawdown_before)
            steps[k].end_wallet = account.wallet
            steps[k].end_equity = account.equity
            for i in range(n):
                _write_candle(position[i], held[i], bars[k, i])
            ended = account.liquidated == 1 or account.equity <= 0.0
            if config.terminate_drawdown > 0.0 and account.drawdown >= config.terminate_drawdown:
                ended = True
            # The largest drawdown has seen both marks of this step.
            ordinary = not ended and account.max_drawdown < limits.drawdown - 1e-9
        if not ordinary:
            accounts[0] = saved_account[0]
            for i in range(n):
                position[i] = saved_position[i]
            return k
        t += 1
    return actions.shape[0]


@_jit
def _write_orders(position: Any, order: Any, action: float, funding_before: float, bar: Any) -> None:
    """What a step did to one symbol up to its orders."""
    bar.action = action
    bar.order_quantity = order.quantity
    bar.fill_price = order.fill_price
    bar.fee = order.fee
    bar.pnl = order.pnl
    bar.quantity = position.quantity
    bar.entry_price = position.entry_price
    bar.funding_open = position.funding - funding_before
    bar.fills = position.fills
    bar.code = order.code
    bar.cut = order.cut
    bar.outcome = order.outcome


@_jit
def _write_candle(position: Any, funding_before: float, bar: Any) -> None:
    """What the candle after them did."""
    bar.end_quantity = position.quantity
    bar.end_entry_price = position.entry_price
    bar.funding_inner = position.funding - funding_before
    bar.event = position.event
    bar.event_quantity = position.event_quantity
    bar.event_price = position.event_price
    bar.event_fee = position.event_fee
    bar.event_pnl = position.event_pnl
    bar.end_fills = position.fills
