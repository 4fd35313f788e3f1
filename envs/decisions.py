"""Decisions as numbers: the rows of the `decision` scheme, and what a plan makes of them.

A row says what happens to one symbol, in the columns of `DECISION_COLUMNS`:

| column | meaning |
|---|---|
| verb | below 0.5 leave alone, below 1.5 close, else hold the target quantity |
| quantity | signed position to hold after the step, base units |
| leverage | largest notional of that position as a multiple of equity; 0 is no bound of its own |
| stop_price, take_profit_price | triggers; 0 takes the scheme's fractions, and none where these are 0 |

The quantity is a target, not an addition: a decision that is repeated changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.account import PlannedOrder, Protection
from envs.instruments import Instrument

DECISION_COLUMNS = ("verb", "quantity", "leverage", "stop_price", "take_profit_price")
DECISION_LOW = np.array([0.0, -np.inf, 0.0, 0.0, 0.0])
DECISION_HIGH = np.array([2.0, np.inf, np.inf, np.inf, np.inf])

VERB, QUANTITY, LEVERAGE, STOP, TAKE_PROFIT = range(5)
LEAVE, CLOSE, TARGET = 0.0, 1.0, 2.0

CUT_LEVERAGE = "cut to the decision's own leverage"


@dataclass(frozen=True, slots=True)
class Decided:
    """What is decided for one symbol. `quantity` is signed; 0 closes. None leaves a trigger to the scheme."""

    quantity: float
    leverage: float = 0.0
    stop_price: float | None = None
    take_profit_price: float | None = None


def decision_action(symbols: Sequence[str], decided: Mapping[str, Decided]) -> NDArray[np.float64]:
    """The action for `symbols`, float64 [n, 5]; symbols without a decision are left alone."""
    rows = np.zeros((len(symbols), len(DECISION_COLUMNS)))
    for row, symbol in zip(rows, symbols, strict=True):
        one = decided.get(symbol)
        if one is None:
            continue
        if one.quantity == 0.0:
            row[VERB] = CLOSE
            continue
        row[:] = (TARGET, one.quantity, one.leverage, one.stop_price or 0.0, one.take_profit_price or 0.0)
    return rows


def decided_targets(
    rows: NDArray[np.float64], held: Any, close: NDArray[np.float64], equity_usdt: float
) -> NDArray[np.float64]:
    """What the kernel plans from, [2n]: target quantities within the decision's leverage, and which symbols trade.

    A symbol that is left alone has the quantity that is held.
    """
    n = len(rows)
    targets = np.zeros(2 * n)
    targets[n:] = rows[:, VERB] >= 0.5
    opens = rows[:, VERB] >= 1.5
    leverage = np.where(rows[:, LEVERAGE] > 0.0, rows[:, LEVERAGE], np.inf)
    # A price is above 0; the equity of a ruined account is not.
    with np.errstate(over="ignore"):  # no bound, at a price below 1
        largest = np.minimum(leverage * max(equity_usdt, 0.0), np.finfo(np.float64).max) / close
    wanted = np.clip(rows[:, QUANTITY], -largest, largest)
    targets[:n] = np.where(opens, wanted, np.where(targets[n:] == 1.0, 0.0, held))
    return targets


def with_decision(
    entry: PlannedOrder, row: NDArray[np.float64], target: float, instrument: Instrument
) -> PlannedOrder:
    """The entry with the decision's triggers, and a note where its own leverage made it smaller.

    Triggers go to the tick that is nearer to the price, as everywhere.
    """
    if row[VERB] < 1.5:
        return entry
    if abs(target) < abs(row[QUANTITY]):
        entry = replace(entry, note="; ".join(part for part in (CUT_LEVERAGE, entry.note) if part))
    after = entry.target_quantity
    if after == 0 or entry.skipped or (row[STOP] == 0.0 and row[TAKE_PROFIT] == 0.0):
        return entry
    long = after > 0
    base = entry.protection or Protection()
    protection = replace(
        base,
        stop_price=_trigger(row[STOP], instrument, up=long) or base.stop_price,
        take_profit_price=_trigger(row[TAKE_PROFIT], instrument, up=not long) or base.take_profit_price,
    )
    return replace(entry, protection=protection)


def _trigger(price: float, instrument: Instrument, *, up: bool) -> Decimal | None:
    # The shortest decimal that reads back as the same float, as in envs.planning.
    return instrument.round_price(Decimal(repr(float(price))), up=up) if price > 0.0 else None
