"""Kline rows: order, limits, the open candle, longer intervals, mark candles."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from envs.candles import from_columns
from live.paper.errors import ApiError
from live.paper.history import Forming, MarketHistory, number_text
from live.paper.kline_grid import KlineGrid

HOUR_MS = 3_600_000
START_MS = 1_704_067_200_000


@pytest.fixture
def history(market) -> MarketHistory:
    # Candle i opens at 100 + i, ranges one up and one down, closes at 101 + i; 12 of them from midnight.
    rows = [(100.0 + i, 102.0 + i, 99.0 + i, 101.0 + i) for i in range(12)]
    return MarketHistory(market({"BTCUSDT": rows}), {})


def opens(history: MarketHistory, interval: str = "1h", closed: int = 9, **wanted: Any) -> list[int]:
    """Hours after the start at which the listed candles open; candle `closed` is forming."""
    asked: dict[str, Any] = {"start_ms": None, "end_ms": None, "limit": 500, **wanted}
    forming = Forming.at(history.open_time_ms(closed), 100.0 + closed)
    bars = history.bars("BTCUSDT", interval, closed=closed, forming=forming, **asked)
    return [(bar.open_time_ms - START_MS) // HOUR_MS for bar in bars]


def test_the_newest_come_without_times_the_oldest_with_a_start(history: MarketHistory) -> None:
    assert opens(history, limit=3) == [7, 8, 9]
    assert opens(history, start_ms=START_MS, limit=3) == [0, 1, 2]
    assert opens(history, start_ms=0, limit=1) == [0]
    assert opens(history, end_ms=START_MS + 5 * HOUR_MS, limit=2) == [4, 5]
    assert opens(history, start_ms=START_MS + 2 * HOUR_MS, end_ms=START_MS + 4 * HOUR_MS) == [2, 3, 4]
    assert opens(history, start_ms=START_MS + 2 * HOUR_MS + 1, limit=1) == [3]
    assert opens(history, start_ms=START_MS + 20 * HOUR_MS) == []


def test_nothing_of_the_future_shows(history: MarketHistory) -> None:
    assert opens(history, closed=5) == [0, 1, 2, 3, 4, 5]
    forming = Forming.at(history.open_time_ms(5), 105.0)
    bars = history.bars("BTCUSDT", "1h", start_ms=None, end_ms=None, limit=1, closed=5, forming=forming)
    assert bars[0].row()[1:6] == ["105.0", "105.0", "105.0", "105.0", "0.0"]


def test_after_the_end_no_candle_is_open(history: MarketHistory) -> None:
    bars = history.bars("BTCUSDT", "1h", start_ms=None, end_ms=None, limit=2, closed=12, forming=None)
    assert [(bar.open_time_ms - START_MS) // HOUR_MS for bar in bars] == [10, 11]


def test_longer_intervals_are_built_from_the_candles(history: MarketHistory) -> None:
    assert opens(history, "4h") == [0, 4, 8]
    forming = Forming.at(history.open_time_ms(9), 109.0)
    forming.trade(120.0, 2.0)
    rows = [
        bar.row()
        for bar in history.bars(
            "BTCUSDT", "4h", start_ms=None, end_ms=None, limit=2, closed=9, forming=forming
        )
    ]
    # 4 to 8: opens at 104, up to candle 7's 109, down to candle 4's 103, closes at 108, volume 4 * 10.
    assert rows[0][:7] == [
        START_MS + 4 * HOUR_MS,
        "104.0",
        "109.0",
        "103.0",
        "108.0",
        "40.0",
        START_MS + 8 * HOUR_MS - 1,
    ]
    # 8 is closed and 9 still open.
    assert rows[1][1:6] == ["108.0", "120.0", "107.0", "120.0", "12.0"]


def days(market, count: int, start: datetime) -> MarketHistory:
    """Daily candles from a day on: number i opens at 100 + i, ranges one up and one down, closes at 101 + i."""
    rows = [(100.0 + i, 102.0 + i, 99.0 + i, 101.0 + i) for i in range(count)]
    start_ms = int(start.timestamp()) * 1000
    columns = {
        "open_time": [start_ms + i * 24 * HOUR_MS for i in range(count)],
        **{name: [row[place] for row in rows] for place, name in enumerate(("open", "high", "low", "close"))},
    }
    marks = from_columns(columns, symbol="BTCUSDT", interval="1d")
    return MarketHistory(market({"BTCUSDT": rows}, interval="1d", start_ms=start_ms), {"BTCUSDT": marks})


def test_months_begin_on_the_first(market) -> None:
    # From the 20th of December: January, February (leap), March and April, of which five days are closed.
    history = days(market, 130, datetime(2023, 12, 20, tzinfo=UTC))
    closed = 12 + 31 + 29 + 31 + 5
    forming = Forming.at(history.open_time_ms(closed), 300.0)

    def listed(**wanted: Any) -> list[list[Any]]:
        asked: dict[str, Any] = {"start_ms": None, "end_ms": None, "limit": 500, **wanted}
        bars = history.bars("BTCUSDT", "1M", closed=closed, forming=forming, **asked)
        opened = [datetime.fromtimestamp(bar.open_time_ms / 1000, UTC) for bar in bars]
        assert all(time.day == 1 and time.hour == 0 for time in opened)
        return [[time.month, *bar.row()[1:6]] for time, bar in zip(opened, bars, strict=True)]

    january = [1, "112.0", "144.0", "111.0", "143.0", "310.0"]
    february = [2, "143.0", "173.0", "142.0", "172.0", "290.0"]
    march = [3, "172.0", "204.0", "171.0", "203.0", "310.0"]
    april = [4, "203.0", "300.0", "202.0", "300.0", "50.0"]
    assert listed() == [january, february, march, april]
    assert listed(limit=2) == [march, april]
    after_new_year_ms = int(datetime(2024, 1, 1, 0, 0, 1, tzinfo=UTC).timestamp()) * 1000
    assert listed(start_ms=after_new_year_ms, limit=2) == [february, march]
    assert listed(end_ms=after_new_year_ms) == [january]
    assert listed(start_ms=0, end_ms=10**30) == [january, february, march, april]
    assert listed(start_ms=10**30) == listed(end_ms=0) == listed(end_ms=-(10**30)) == []
    bars = history.bars("BTCUSDT", "1M", start_ms=0, end_ms=None, limit=2, closed=closed, forming=forming)
    assert bars[0].close_time_ms + 1 == bars[1].open_time_ms
    # Of marks, only what is closed.
    marks = history.mark_bars(
        "BTCUSDT", "1M", start_ms=None, end_ms=None, limit=2, now_ms=history.open_time_ms(closed)
    )
    assert [bar.row()[1:5] for bar in marks] == [february[1:5], march[1:5]]


def test_marks_that_fill_no_longer_candle_are_an_empty_list(market) -> None:
    history = days(market, 5, datetime(2024, 1, 3, tzinfo=UTC))
    for interval in ("1w", "1M"):
        bars = history.mark_bars(
            "BTCUSDT", interval, start_ms=None, end_ms=None, limit=9, now_ms=history.open_time_ms(5)
        )
        assert bars == []


@pytest.mark.parametrize("interval", ["1s", "30m", "7h", "1y", "2M", ""])
def test_intervals_that_cannot_be_served(history: MarketHistory, interval: str) -> None:
    with pytest.raises(ApiError) as refused:
        opens(history, interval)
    assert refused.value.code == -1120


def test_weeks_do_not_make_up_months() -> None:
    assert KlineGrid.of("1M", 7 * 24 * HOUR_MS) is None


def test_mark_candles_show_the_open_one_by_its_open(market) -> None:
    rows = [(100.0, 100.0, 100.0, 100.0)] * 4
    marks = from_columns(
        {
            "open_time": [START_MS + i * HOUR_MS for i in range(4)],
            "open": [10.0, 11.0, 12.0, 13.0],
            "high": [20.0, 21.0, 22.0, 23.0],
            "low": [5.0, 6.0, 7.0, 8.0],
            "close": [11.0, 12.0, 13.0, 14.0],
        },
        symbol="BTCUSDT",
        interval="1h",
    )
    history = MarketHistory(market({"BTCUSDT": rows}), {"BTCUSDT": marks})
    bars = history.mark_bars(
        "BTCUSDT", "1h", start_ms=None, end_ms=None, limit=2, now_ms=START_MS + 2 * HOUR_MS
    )
    assert [bar.row()[1:5] for bar in bars] == [["11.0", "21.0", "6.0", "12.0"], ["12.0"] * 4]
    assert history.mark_at("BTCUSDT", START_MS + 2 * HOUR_MS) == 12.0
    assert history.mark_at("BTCUSDT", START_MS + 2 * HOUR_MS + 1) == 100.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(16_800.1, "16800.1"), (1e-05, "0.00001"), (1e22, "10000000000000000000000"), (0.0, "0.0")],
)
def test_numbers_are_never_scientific(value: float, text: str) -> None:
    assert number_text(value) == text
