"""Hourly candles as frames and sets, to be read, changed and broken by tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from envs.candles import CandleSet

HOUR = 3_600_000
START = 1_672_531_200_000  # 2023-01-01 00:00 UTC, a Sunday


def frame(rows: int = 6, **columns: Any) -> pd.DataFrame:
    """Hourly candles from 2023-01-01: open 100, 101, ...; close one above, high and low two beyond."""
    opens = 100.0 + np.arange(rows)
    values: dict[str, Any] = {
        "open_time": START + HOUR * np.arange(rows),
        "open": opens,
        "high": opens + 3,
        "low": opens - 2,
        "close": opens + 1,
        "volume": 10.0 * (1 + np.arange(rows)),
    }
    return pd.DataFrame(values | columns)


def candles(rows: int = 6, **columns: Any) -> CandleSet:
    """The same as candles of BTCUSDT."""
    return CandleSet.from_frame(frame(rows, **columns), symbol="BTCUSDT")


def changed(row: int, column: str, value: float) -> pd.DataFrame:
    """Six candles with one cell changed."""
    result = frame()
    result[column] = result[column].astype(float)
    result.loc[row, column] = value
    return result
