"""The rules that candles and fundings obey. A broken one is a CandleError naming row, values and remedy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from envs.errors import CandleError
from envs.time_grid import (
    INTERVALS_MS,
    MINUTE_MS,
    format_time,
    grid_offset_ms,
    interval_name,
)

PRICE_COLUMNS = ("open", "high", "low", "close")

Times = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def check_order(times_ms: Times, label: str, column: str = "open_time") -> None:
    """Times must increase; the first row that goes back or repeats is named."""
    steps = np.diff(times_ms)
    if (steps > 0).all():
        return
    row = int(np.argmax(steps <= 0)) + 1
    time = format_time(times_ms[row])
    if steps[row - 1] == 0:
        raise CandleError(
            f"{label}: row {row}: duplicate {column} {time}, the same as in row {row - 1}; "
            f"keep one of the two rows",
            row=row,
        )
    raise CandleError(
        f"{label}: row {row}: not sorted: {column} {time} comes after {format_time(times_ms[row - 1])} "
        f"in row {row - 1}; sort the rows by {column}",
        row=row,
    )


def infer_interval_ms(open_time_ms: Times, label: str) -> int:
    """The interval that most rows are apart by.

    Raises:
        CandleError: fewer than two rows, or a spacing that no interval has.
    """
    if len(open_time_ms) < 2:
        raise CandleError(f"{label}: one row does not tell the interval; give it, as interval='1h'")
    spacing = int(np.median(np.diff(open_time_ms)))
    if spacing not in INTERVALS_MS.values():
        raise CandleError(
            f"{label}: row 1: the rows are {spacing / MINUTE_MS:g} minutes apart, which is no known interval "
            f"({', '.join(INTERVALS_MS)}); give the interval if rows are missing",
            row=1,
        )
    return spacing


def check_grid(open_time_ms: Times, interval_ms: int, label: str) -> None:
    """Every candle must begin on a multiple of the interval."""
    name = interval_name(interval_ms)
    if len(open_time_ms) > 1:
        spacing = int(np.median(np.diff(open_time_ms)))
        if spacing != interval_ms and spacing in INTERVALS_MS.values():
            row = int(np.argmax(np.diff(open_time_ms) != interval_ms)) + 1
            raise CandleError(
                f"{label}: row {row}: wrong interval: the candles are {interval_name(spacing)} apart "
                f"({format_time(open_time_ms[row - 1])}, {format_time(open_time_ms[row])}), not {name}; "
                f"give interval={interval_name(spacing)!r}, or resample them",
                row=row,
            )
    # Exchanges disagree on where a three-day candle begins; any day will do.
    grid_ms = INTERVALS_MS["1d"] if name == "3d" else interval_ms
    off_grid = (open_time_ms - grid_offset_ms(interval_ms)) % grid_ms != 0
    if name == "3d":
        off_grid |= (open_time_ms - open_time_ms[0]) % interval_ms != 0
    if off_grid.any():
        row = int(np.argmax(off_grid))
        raise CandleError(
            f"{label}: row {row}: open_time {format_time(open_time_ms[row])} ({open_time_ms[row]}) is off "
            f"the {name} grid; a {name} candle begins at a whole multiple of {name}, UTC: correct the time "
            f"or the interval",
            row=row,
        )


def check_no_gap(open_time_ms: Times, interval_ms: int, label: str) -> None:
    """Candles must follow each other without a hole."""
    gaps = np.flatnonzero(np.diff(open_time_ms) != interval_ms)
    if len(gaps) == 0:
        return
    row = int(gaps[0]) + 1
    first = int(open_time_ms[row - 1]) + interval_ms
    last = int(open_time_ms[row]) - interval_ms
    missing = (last - first) // interval_ms + 1
    expected = (int(open_time_ms[-1]) - int(open_time_ms[0])) // interval_ms + 1
    total = expected - len(open_time_ms)
    rest = f" ({len(gaps)} gaps with {total} missing candles in all)" if len(gaps) > 1 else ""
    span = format_time(first) if missing == 1 else f"{format_time(first)} to {format_time(last)}"
    raise CandleError(
        f"{label}: row {row}: gap before {format_time(open_time_ms[row])}: {missing} "
        f"candle{'s' if missing > 1 else ''} missing, {span}{rest}; fetch them, or fill with the previous "
        f"close and zero volume by fill_gaps=True (fill_gaps: true in the section market of a backtest's config, "
        f"data of a training's)",
        row=row,
    )


def check_values(open_time_ms: Times, columns: Mapping[str, Floats], label: str) -> None:
    """Prices finite and above 0, low <= open, close <= high, volume finite and not negative."""
    open, high, low, close = (columns[name] for name in PRICE_COLUMNS)
    volume = columns["volume"]
    prices = np.stack((open, high, low, close))
    outside = (open < low) | (open > high) | (close < low) | (close > high)
    if (
        np.isfinite(prices).all()
        and (prices > 0).all()
        and not outside.any()
        and np.isfinite(volume).all()
        and (volume >= 0).all()
    ):
        return
    rules: tuple[tuple[npt.NDArray[np.bool_], str, str], ...] = (
        (~np.all(np.isfinite(prices), axis=0), "a price is not a finite number", "correct or remove the row"),
        (~np.isfinite(volume), "the volume is not a finite number", "correct it, or give 0"),
        (np.any(prices <= 0, axis=0), "a price is not above 0", "correct or remove the row"),
        (low > high, "low is above high", "check the order of the columns"),
        ((open < low) | (open > high), "open lies outside low and high", "check the order of the columns"),
        ((close < low) | (close > high), "close lies outside low and high", "check the order of the columns"),
        (volume < 0, "the volume is negative", "correct it, or give 0"),
    )
    row = min(int(np.argmax(broken)) for broken, _, _ in rules if broken.any())
    for broken, what, remedy in rules:
        if broken[row]:
            raise CandleError(
                f"{label}: row {row} ({format_time(open_time_ms[row])}): {what}: open {open[row]:.10g}, "
                f"high {high[row]:.10g}, low {low[row]:.10g}, close {close[row]:.10g}, volume {volume[row]:.10g}; "
                f"{remedy}",
                row=row,
            )


def fill_gaps(
    open_time_ms: Times, columns: dict[str, Floats], interval_ms: int
) -> tuple[Times, dict[str, Floats], int]:
    """Put a candle of the previous close and zero volume wherever one is missing.

    Args:
        open_time_ms: [T], increasing and on the grid.
        columns: open, high, low, close and volume, each [T].

    Returns:
        times and columns without gaps, and the number of candles put in.
    """
    length = (int(open_time_ms[-1]) - int(open_time_ms[0])) // interval_ms + 1
    times = open_time_ms[0] + np.arange(length, dtype=np.int64) * interval_ms
    source = np.searchsorted(open_time_ms, times, side="right") - 1
    missing = open_time_ms[source] != times
    filled = {name: values[source].copy() for name, values in columns.items()}
    for name in PRICE_COLUMNS:
        filled[name][missing] = columns["close"][source[missing]]
    filled["volume"][missing] = 0.0
    return times, filled, int(missing.sum())
