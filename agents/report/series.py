"""The numbers of a report, packed for the browser.

Arrays travel as base64 of little-endian numbers. The page draws what is in view at the resolution of the screen, so
it stays quick however long the run was; a run of more candles than `MAX_CANDLES` is thinned out here.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.metrics import candle_returns, fold_round_trips
from agents.simulate import Simulation, Trade
from envs.account import ZERO, ActionType, Leg, PositionSide
from envs.market import Market

Floats = npt.NDArray[np.float64]

MAX_CANDLES = 60_000
"""Most candles of one symbol in a report."""

_MAX_POINTS = 240_000  # candles of all symbols together
_MAX_TRADES = 100_000
_MAX_ROUND_TRIPS = 20_000
_HISTOGRAM_BINS = 61

MARKS = ("long entry", "short entry", "resize", "exit", "stop", "take-profit", "liquidation", "emergency")
"""Kinds of marks in the price chart."""

_MARK_OF = {
    ActionType.OPEN_LONG: 0,
    ActionType.FLIP_TO_LONG: 0,
    ActionType.OPEN_SHORT: 1,
    ActionType.FLIP_TO_SHORT: 1,
    ActionType.INCREASE_LONG: 2,
    ActionType.REDUCE_LONG: 2,
    ActionType.INCREASE_SHORT: 2,
    ActionType.REDUCE_SHORT: 2,
    ActionType.CLOSE_LONG: 3,
    ActionType.CLOSE_SHORT: 3,
    ActionType.STOP_LOSS: 4,
    ActionType.TAKE_PROFIT: 5,
    ActionType.LIQUIDATION: 6,
    ActionType.EMERGENCY_CLOSE: 7,
}


def pack(values: npt.ArrayLike, kind: str = "f4") -> dict[str, str]:
    """An array as `{"dtype", "bdata"}`; `kind` is f4, f8 or u1."""
    array = np.ascontiguousarray(values, dtype=np.dtype(kind).newbyteorder("<"))
    return {"dtype": kind, "bdata": base64.b64encode(array.tobytes()).decode("ascii")}


@dataclass(frozen=True, slots=True)
class Grid:
    """The time axis of a report: `count` groups of `group` candles, the first opening at `start_ms`."""

    start_ms: int
    interval_ms: int
    group: int
    count: int

    @property
    def step_ms(self) -> int:
        """Length of a group."""
        return self.interval_ms * self.group

    def last_of_each(self, values: Floats) -> Floats:
        """The last value [count] of each group of values that begin on the grid; the last one goes on to the end."""
        rows = np.minimum(np.arange(1, self.count + 1) * self.group, len(values)) - 1
        chosen: Floats = values[rows]
        return chosen

    def largest_of_each(self, values: Floats) -> Floats:
        """The largest value of each group that has one."""
        largest: Floats = np.maximum.reduceat(values, np.arange(0, len(values), self.group))
        return largest

    def smallest_of_each(self, values: Floats) -> Floats:
        """The smallest value of each group that has one."""
        smallest: Floats = np.minimum.reduceat(values, np.arange(0, len(values), self.group))
        return smallest


def make_grid(span: Market) -> Grid:
    """The grid of a market that begins with the first candle decided on."""
    most = max(1, min(MAX_CANDLES, _MAX_POINTS // len(span.symbols)))
    group = -(-len(span) // most)
    return Grid(int(span.open_time_ms[0]), span.interval_ms, group, -(-len(span) // group))


def payload(done: Simulation, benchmarks: Mapping[str, Simulation], market: Market) -> dict[str, Any]:
    """Everything that the page draws, as JSON can hold it."""
    longest = max((done, *benchmarks.values()), key=lambda one: len(one.time_ms))
    span = market.slice(int(done.time_ms[0]) + 1 - done.interval_ms, int(longest.time_ms[-1]) + 1)
    grid = make_grid(span)
    lines = {"agent": done, **benchmarks}
    return {
        "symbols": list(done.symbols),
        "grid": {"start": grid.start_ms, "step": grid.step_ms, "count": grid.count, "group": grid.group},
        "candles": _candles(span, grid),
        "equity": {name: pack(_line(one, grid)) for name, one in lines.items()},
        "drawdown": {name: pack(_drawdown(lines[name], grid)) for name in ("agent", "buy-and-hold")},
        "exposure": {
            symbol: pack(values)
            for symbol, values in zip(done.symbols, _exposures(done, market, grid), strict=True)
        },
        "trades": _trades(done),
        "marks": list(MARKS),
        "returns": _histogram(done, benchmarks["buy-and-hold"]),
        "trips": _round_trips(done),
    }


def _candles(span: Market, grid: Grid) -> dict[str, dict[str, dict[str, str]]]:
    first = np.arange(grid.count) * grid.group
    found = {}
    for column, symbol in enumerate(span.symbols):
        found[symbol] = {
            "open": pack(span.open[first, column]),
            "high": pack(grid.largest_of_each(span.high[:, column])),
            "low": pack(grid.smallest_of_each(span.low[:, column])),
            "close": pack(grid.last_of_each(span.close[:, column])),
        }
    return found


def _own_grid(done: Simulation, grid: Grid) -> Grid:
    """The grid as far as this run went."""
    rows = int((done.time_ms[-1] + 1 - grid.start_ms) // grid.interval_ms)
    return Grid(grid.start_ms, grid.interval_ms, grid.group, -(-rows // grid.group))


def _distinct(done: Simulation, values: Floats) -> Floats:
    """One value per close: an emergency marks the account twice at the last."""
    last = np.append(np.diff(done.time_ms) > 0, True)
    kept: Floats = values[last]
    return kept


def _line(done: Simulation, grid: Grid) -> Floats:
    return _own_grid(done, grid).last_of_each(_distinct(done, done.equity))


def _drawdown(done: Simulation, grid: Grid) -> Floats:
    """In percent, at or below 0; of each group the deepest."""
    equity = _distinct(done, done.equity)
    drawdown = 100.0 * (equity / np.maximum.accumulate(equity) - 1.0)
    return _own_grid(done, grid).smallest_of_each(drawdown)


def _exposures(done: Simulation, market: Market, grid: Grid) -> list[Floats]:
    """Signed notional as a multiple of equity, per symbol."""
    rows = np.searchsorted(market.close_time_ms, done.time_ms)
    held = done.quantities()
    equity = np.where(done.equity > 0, done.equity, np.inf)
    exposure = held * market.close[rows] / equity[:, None]
    own = _own_grid(done, grid)
    return [own.last_of_each(_distinct(done, exposure[:, i])) for i in range(len(done.symbols))]


def _trades(done: Simulation) -> dict[str, Any]:
    kept: Sequence[Trade] = done.trades
    if len(kept) > _MAX_TRADES:
        kept = kept[:: -(-len(kept) // _MAX_TRADES)]
    column = {symbol: i for i, symbol in enumerate(done.symbols)}
    return {
        "total": len(done.trades),
        "time": pack([trade.fill.time_ms for trade in kept], "f8"),
        "price": pack([float(trade.fill.price) for trade in kept], "f8"),
        "quantity": pack([float(trade.fill.signed_quantity) for trade in kept], "f8"),
        "mark": pack([_MARK_OF[trade.action_type] for trade in kept], "u1"),
        "symbol": pack([column[trade.fill.symbol] for trade in kept], "u1"),
    }


def _histogram(done: Simulation, benchmark: Simulation) -> dict[str, Any]:
    """Shares of candles, in percent, by their return in percent; what lies beyond the bins is in the outermost."""
    mine = 100.0 * candle_returns(done.equity)
    other = 100.0 * candle_returns(benchmark.equity)
    both = np.abs(np.concatenate((mine, other)))
    reach = float(np.quantile(both, 0.998)) if len(both) else 0.0
    reach = reach if reach > 0 else 1.0
    edges = np.linspace(-reach, reach, _HISTOGRAM_BINS + 1)
    shares = [
        (100.0 / max(len(values), 1) * np.histogram(np.clip(values, -reach, reach), edges)[0]).tolist()
        for values in (mine, other)
    ]
    return {
        "centres": ((edges[:-1] + edges[1:]) / 2).tolist(),
        "width": float(edges[1] - edges[0]),
        "shares": {"agent": shares[0], "buy-and-hold": shares[1]},
    }


_REASONS = {
    Leg.ORDER: "signal",
    Leg.STOP: "stop",
    Leg.TAKE_PROFIT: "take-profit",
    Leg.PROTECTIVE_STOP: "protective stop",
    Leg.EMERGENCY: "emergency",
}


def _round_trips(done: Simulation) -> dict[str, Any]:
    """Closed round trips, then what is still open, row by row."""
    fills = [trade.fill for trade in done.trades]
    trips = fold_round_trips(fills)
    exits = {(fill.symbol, fill.time_ms): fill for fill in fills}
    rows: list[list[Any]] = []
    for trip in trips[-_MAX_ROUND_TRIPS:]:
        fill = exits[trip.symbol, trip.exit_time_ms]
        basis = float(trip.quantity * trip.entry_price)
        rows.append(
            [
                trip.symbol,
                trip.side.value.lower(),
                trip.entry_time_ms,
                trip.exit_time_ms,
                float(trip.quantity),
                float(trip.entry_price),
                float(trip.exit_price),
                round(float(trip.net_pnl), 6),
                round(100.0 * float(trip.net_pnl) / basis, 6),
                round(float(trip.fees), 6),
                "liquidation" if trip.liquidated else _REASONS[fill.leg],
            ]
        )
    for position in done.account.positions.values():
        if position.side is PositionSide.FLAT:
            continue
        pnl = float(position.unrealized_pnl_usdt)
        basis = float(abs(position.quantity) * position.entry_price)
        rows.append(
            [
                position.symbol,
                position.side.value.lower(),
                _opened_ms(done, position.symbol),
                None,
                float(abs(position.quantity)),
                float(position.entry_price),
                float(position.mark_price),
                round(pnl, 6),
                round(100.0 * pnl / basis, 6),
                None,
                "still open",
            ]
        )
    return {"total": len(trips), "rows": rows}


def _opened_ms(done: Simulation, symbol: str) -> int | None:
    """When the position that is open at the end was opened."""
    held, opened = ZERO, None
    for trade in done.trades:
        if trade.fill.symbol != symbol:
            continue
        before, held = held, held + trade.fill.signed_quantity
        if before == 0 or before * held < 0:
            opened = trade.fill.time_ms
    return opened
