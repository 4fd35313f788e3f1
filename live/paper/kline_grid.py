"""Where the candles of an interval begin: at multiples of its length, weeks on Monday, months on the first, all UTC."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from envs.time_grid import DAY_MS, INTERVALS_MS, grid_offset_ms

MONTH = "1M"


@dataclass(frozen=True, slots=True)
class KlineGrid:
    """The boundaries of an interval, as UTC ms.

    Attributes:
        length_ms: of each candle; 0 for calendar months.
    """

    length_ms: int

    @classmethod
    def of(cls, interval: str, native_ms: int) -> KlineGrid | None:
        """The grid of an interval by Binance's name; None where candles of `native_ms` do not make up its own."""
        if interval == MONTH:
            return None if DAY_MS % native_ms else cls(0)
        length_ms = INTERVALS_MS.get(interval)
        return None if length_ms is None or length_ms % native_ms else cls(length_ms)

    def floor(self, time_ms: int) -> int:
        """The last boundary at or before a time."""
        if self.length_ms:
            return time_ms - (time_ms - grid_offset_ms(self.length_ms)) % self.length_ms
        return _month_ms(_month(time_ms))

    def shift(self, boundary_ms: int, count: int) -> int:
        """The boundary so many candles after one, or before it."""
        if self.length_ms:
            return boundary_ms + count * self.length_ms
        return _month_ms(_month(boundary_ms) + count)

    def ceil(self, time_ms: int) -> int:
        """The first boundary at or after a time."""
        before_ms = self.floor(time_ms)
        return before_ms if before_ms == time_ms else self.shift(before_ms, 1)

    def select(
        self, oldest_ms: int, newest_ms: int, *, start_ms: int | None, end_ms: int | None, limit: int
    ) -> Iterator[int]:
        """Of the boundaries from `oldest_ms` to `newest_ms` those with start <= boundary <= end, ascending.

        With a start the first `limit` of them, without one the last `limit`.
        """
        # Any number may be asked for: no calendar has a month for each.
        if (
            newest_ms < oldest_ms
            or (start_ms or 0) > newest_ms
            or (end_ms is not None and end_ms < oldest_ms)
        ):
            return
        last = newest_ms if end_ms is None else self.floor(min(newest_ms, end_ms))
        if start_ms is None:
            first = max(oldest_ms, self.shift(last, 1 - limit))
        else:
            first = self.ceil(max(oldest_ms, start_ms))
            last = min(last, self.shift(first, limit - 1))
        while first <= last:
            yield first
            first = self.shift(first, 1)


def _month(time_ms: int) -> int:
    """Months since the year 0."""
    moment = datetime.fromtimestamp(time_ms // 1000, tz=UTC)
    return moment.year * 12 + moment.month - 1


def _month_ms(month: int) -> int:
    year, index = divmod(month, 12)
    return int(datetime(year, index + 1, 1, tzinfo=UTC).timestamp()) * 1000
