"""What the exchange knows of the market: candles by index in Decimal, and kline rows as Binance lists them.

Only candles before `closed` (the number of closed candles) are ever shown, and the one that is forming.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from envs.candles import CandleSet
from envs.market import Market
from live.paper.errors import refusal
from live.paper.kline_grid import KlineGrid
from live.paper.money import exact, plain
from live.paper.play import Candle

KlineRow = list[int | str]


@dataclass(slots=True)
class Forming:
    """The open candle of one symbol."""

    open_time_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float = 0.0

    @classmethod
    def at(cls, open_time_ms: int, price: float) -> Forming:
        """A candle that has just opened."""
        return cls(open_time_ms, price, price, price, price)

    def trade(self, price: float, volume: float) -> None:
        """Let the price move to `price` with some more volume."""
        self.close = price
        self.high = max(self.high, price)
        self.low = min(self.low, price)
        self.volume += volume


@dataclass(frozen=True, slots=True)
class Bar:
    """One candle of any interval. `volume` is in the base asset."""

    open_time_ms: int
    close_time_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float

    @property
    def quote_volume(self) -> float:
        """Estimate (the files hold no quote volume): volume at the mean of high, low and close."""
        return self.volume * (self.high + self.low + self.close) / 3.0

    def row(self) -> KlineRow:
        """The 12 entries of a kline row. Trade count and taker volumes are not known: 0."""
        return [
            self.open_time_ms,
            number_text(self.open),
            number_text(self.high),
            number_text(self.low),
            number_text(self.close),
            number_text(self.volume),
            self.close_time_ms,
            f"{self.quote_volume:.8f}",
            0,
            "0",
            "0",
            "0",
        ]


def number_text(value: float) -> str:
    """A float as Binance writes numbers: shortest exact, never scientific."""
    text = repr(float(value))
    return plain(Decimal(text)) if "e" in text else text


@dataclass(frozen=True, slots=True)
class MarketHistory:
    """A market and, for display, its mark-price candles."""

    market: Market
    marks: Mapping[str, CandleSet]

    def __len__(self) -> int:
        return len(self.market)

    def open_time_ms(self, index: int) -> int:
        """Open time of a candle; of the one after the last too."""
        if index < len(self.market):
            return int(self.market.open_time_ms[index])
        return int(self.market.open_time_ms[-1]) + self.market.interval_ms

    def index_of(self, open_time_ms: int) -> int:
        """The candle that begins at a time, or the next one."""
        return int(np.searchsorted(self.market.open_time_ms, open_time_ms))

    def opens(self, index: int) -> dict[str, Decimal]:
        """Opening prices by symbol."""
        return self._column(self.market.open, index)

    def closes(self, index: int) -> dict[str, Decimal]:
        """Closing prices by symbol."""
        return self._column(self.market.close, index)

    def candle(self, index: int) -> Candle:
        """One candle of every symbol."""
        market = self.market
        return Candle(
            open=self._column(market.open, index),
            high=self._column(market.high, index),
            low=self._column(market.low, index),
            close=self._column(market.close, index),
        )

    def funding_at_open(self, index: int) -> dict[str, Decimal]:
        """Funding at a candle's open, USDT per unit of base, by symbol; empty when there is none."""
        return self._funding(self.market.funding_open, index)

    def funding_inside(self, index: int) -> dict[str, Decimal]:
        """Funding strictly inside a candle, USDT per unit of base, by symbol; empty when there is none."""
        return self._funding(self.market.funding_inner, index)

    def funding_time_inside(self, index: int) -> int:
        """Time of the last settlement strictly inside a candle (the sum is booked there)."""
        begin = self.open_time_ms(index)
        end = begin + self.market.interval_ms
        latest = begin
        for series in self.market.funding:
            if series is None:
                continue
            place = int(np.searchsorted(series.time_ms, end)) - 1
            if place >= 0 and series.time_ms[place] > latest:
                latest = int(series.time_ms[place])
        return latest

    def bar(
        self, symbol: str, open_time_ms: int, end_ms: int, closed: int, forming: Forming | None
    ) -> Bar | None:
        """The candle from a time to the opening of the next one, as far as it is known; None when nothing is."""
        market = self.market
        column = market.symbols.index(symbol)
        first = int(np.searchsorted(market.open_time_ms, open_time_ms))
        last = min(closed, int(np.searchsorted(market.open_time_ms, end_ms)))
        live = forming if forming and open_time_ms <= forming.open_time_ms < end_ms else None
        if first >= last:
            if live is None:
                return None
            return Bar(open_time_ms, end_ms - 1, live.open, live.high, live.low, live.close, live.volume)
        part = slice(first, last)
        high = float(market.high[part, column].max())
        low = float(market.low[part, column].min())
        volume = float(market.volume[part, column].sum())
        close = float(market.close[last - 1, column])
        if live is not None:
            high, low = max(high, live.high), min(low, live.low)
            volume, close = volume + live.volume, live.close
        return Bar(open_time_ms, end_ms - 1, float(market.open[first, column]), high, low, close, volume)

    def bars(
        self,
        symbol: str,
        interval: str,
        *,
        start_ms: int | None,
        end_ms: int | None,
        limit: int,
        closed: int,
        forming: Forming | None,
    ) -> list[Bar]:
        """Candles with start <= open time <= end, ascending, the forming one last.

        With a start the first `limit` of them, without one the last `limit`. An interval that the market's own does
        not make up is refused with -1120.
        """
        grid = _grid(interval, self.market.interval_ms)
        known_ms = forming.open_time_ms if forming else self.open_time_ms(closed) - 1
        oldest_ms, newest_ms = grid.ceil(self.open_time_ms(0)), grid.floor(known_ms)
        chosen = grid.select(oldest_ms, newest_ms, start_ms=start_ms, end_ms=end_ms, limit=limit)
        found = (self.bar(symbol, time_ms, grid.shift(time_ms, 1), closed, forming) for time_ms in chosen)
        return [bar for bar in found if bar is not None]

    def mark_bars(
        self, symbol: str, interval: str, *, start_ms: int | None, end_ms: int | None, limit: int, now_ms: int
    ) -> list[Bar]:
        """Mark-price candles from the mark series; in its own interval the open one too, as its open price."""
        marks = self.marks[symbol]
        grid = _grid(interval, marks.interval_ms)
        last_ms = int(marks.open_time_ms[-1])
        if grid.length_ms == marks.interval_ms:
            newest_ms = min(grid.floor(now_ms), last_ms)
        else:
            newest_ms = grid.shift(grid.floor(min(now_ms, last_ms + marks.interval_ms)), -1)
        oldest_ms = grid.ceil(int(marks.open_time_ms[0]))
        chosen = grid.select(oldest_ms, newest_ms, start_ms=start_ms, end_ms=end_ms, limit=limit)
        return [_mark_bar(marks, time_ms, grid.shift(time_ms, 1), now_ms) for time_ms in chosen]

    def mark_at(self, symbol: str, time_ms: int) -> float:
        """The mark of a settlement: the mark candle that begins then, else the open of the last candle's."""
        marks = self.marks.get(symbol)
        if marks is not None:
            place = int(np.searchsorted(marks.open_time_ms, time_ms))
            if place < len(marks) and marks.open_time_ms[place] == time_ms:
                return float(marks.open[place])
        row = int(np.searchsorted(self.market.open_time_ms, time_ms, side="right")) - 1
        return float(self.market.open[max(row, 0), self.market.symbols.index(symbol)])

    def _column(
        self, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], index: int
    ) -> dict[str, Decimal]:
        row = values[index].tolist()
        return {symbol: exact(value) for symbol, value in zip(self.market.symbols, row, strict=True)}

    def _funding(
        self, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], index: int
    ) -> dict[str, Decimal]:
        row = values[index].tolist()
        return {symbol: exact(value) for symbol, value in zip(self.market.symbols, row, strict=True) if value}


def _grid(interval: str, native_ms: int) -> KlineGrid:
    grid = KlineGrid.of(interval, native_ms)
    if grid is None:
        raise refusal(-1120)
    return grid


def _mark_bar(marks: CandleSet, open_time_ms: int, end_ms: int, now_ms: int) -> Bar:
    """One mark-price candle; the one that is not closed yet is known by its open only."""
    part = slice(*np.searchsorted(marks.open_time_ms, (open_time_ms, end_ms)))
    begin = float(marks.open[part][0])
    is_open = end_ms > now_ms
    return Bar(
        open_time_ms=open_time_ms,
        close_time_ms=end_ms - 1,
        open=begin,
        high=begin if is_open else float(marks.high[part].max()),
        low=begin if is_open else float(marks.low[part].min()),
        close=begin if is_open else float(marks.close[part][-1]),
        volume=0.0,
    )
