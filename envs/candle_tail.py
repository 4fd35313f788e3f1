"""The newest candles of one symbol while they arrive one by one, as the indicators read them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]

FIELDS = ("open", "high", "low", "close", "volume")


class Candles(Protocol):
    """What an indicator reads of candles: see `envs.candles.CandleSet`, which is one."""

    @property
    def symbol(self) -> str: ...
    @property
    def interval_ms(self) -> int: ...
    @property
    def open_time_ms(self) -> Times: ...
    @property
    def close_time_ms(self) -> Times: ...
    @property
    def open(self) -> Floats: ...
    @property
    def high(self) -> Floats: ...
    @property
    def low(self) -> Floats: ...
    @property
    def close(self) -> Floats: ...
    @property
    def volume(self) -> Floats: ...
    def __len__(self) -> int: ...


class CandleTail:
    """The last candles of one symbol, as many as are wanted: views that are cut when they are read.

    Args:
        symbol, interval_ms: of the candles.
        open_time_ms: int64 [T].
        columns: float64 [5, T], in the order of `FIELDS`, each row contiguous.
    """

    __slots__ = ("_columns", "_count", "_times", "interval_ms", "symbol")

    def __init__(self, symbol: str, interval_ms: int, open_time_ms: Times, columns: Floats) -> None:
        self.symbol = symbol
        self.interval_ms = interval_ms
        self._times = open_time_ms
        self._columns = columns
        self._count = len(open_time_ms)

    def show(self, count: int) -> None:
        """From now on, have only the last `count` candles, or all where there are fewer."""
        self._count = min(count, len(self._times))

    def __len__(self) -> int:
        return self._count

    @property
    def open_time_ms(self) -> Times:
        return self._times[-self._count :]

    @property
    def close_time_ms(self) -> Times:
        return self._times[-self._count :] + (self.interval_ms - 1)

    @property
    def open(self) -> Floats:
        return self._columns[0, -self._count :]

    @property
    def high(self) -> Floats:
        return self._columns[1, -self._count :]

    @property
    def low(self) -> Floats:
        return self._columns[2, -self._count :]

    @property
    def close(self) -> Floats:
        return self._columns[3, -self._count :]

    @property
    def volume(self) -> Floats:
        return self._columns[4, -self._count :]
