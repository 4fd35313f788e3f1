"""Candles: times, sets and their resampling, and how each broken rule is named."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from candle_frames import HOUR, START, candles, changed, frame

from envs.candles import CandleSet, interval_name, interval_to_ms, load_candles, parse_time_ms
from envs.errors import CandleError, ConfigError


class TestTimes:
    def test_intervals(self) -> None:
        assert interval_to_ms("1h") == 3_600_000
        assert interval_name(3_600_000) == "1h"
        assert interval_to_ms("1w") == 7 * 24 * HOUR
        for name in ["1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w"]:
            assert interval_name(interval_to_ms(name)) == name

    @pytest.mark.parametrize(("typed", "meant"), [("1H", "1h"), ("60m", "30m"), ("1min", "1m")])
    def test_unknown_interval_suggests(self, typed: str, meant: str) -> None:
        with pytest.raises(ConfigError, match=f"'{typed}'.*Did you mean '{meant}'"):
            interval_to_ms(typed)

    def test_unknown_length(self) -> None:
        with pytest.raises(ConfigError, match="61 ms"):
            interval_name(61)

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (None, None),
            ("2023-01-01", START),
            ("20230101", START),
            (" 2023-01-01T12:00 ", START + 12 * HOUR),
            ("2023-01-01 12:00", START + 12 * HOUR),
            ("2023-01-01T12:00:00Z", START + 12 * HOUR),
            ("2023-01-01T02:00+02:00", START),
            ("1672531200000", START),
            (START, START),
            (np.int64(START), START),
            (0, 0),
            (date(2023, 1, 1), START),
            (datetime(2023, 1, 1, 1), START + HOUR),  # noqa: DTZ001 - without an offset it is UTC
            (datetime(2023, 1, 1, 1, tzinfo=UTC), START + HOUR),
            (datetime(2023, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), START),
        ],
    )
    def test_parse(self, value: Any, expected: int | None) -> None:
        assert parse_time_ms(value) == expected

    @pytest.mark.parametrize(
        "value", ["yesterday", "2023-13-01", "", "1672531200", 20230101, -1, 10**15, 1.5, True, float("nan")]
    )
    def test_parse_refuses(self, value: Any) -> None:
        with pytest.raises(ConfigError, match="2023-01-01T12:00"):
            parse_time_ms(value)


class TestCandleSet:
    def test_fields(self) -> None:
        one = candles()
        assert len(one) == 6
        assert one.interval == "1h"
        assert one.close_time_ms[0] == START + HOUR - 1
        assert one.close.tolist() == [101, 102, 103, 104, 105, 106]
        assert not one.synthetic
        assert one.filled == 0

    def test_arrays_are_read_only_and_independent(self) -> None:
        source = frame()
        one = CandleSet.from_frame(source, symbol="BTCUSDT")
        source.loc[0, "close"] = 55.0
        assert one.close[0] == 101
        for name in ("open_time_ms", "close_time_ms", "open", "high", "low", "close", "volume"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(one, name)[0] = 1

    def test_slice_is_half_open(self) -> None:
        one = candles()
        assert one.slice("2023-01-01T01:00", "2023-01-01T03:00").open.tolist() == [101, 102]
        assert one.slice(START + 1, None).open.tolist() == [101, 102, 103, 104, 105]
        assert len(one.slice()) == 6

    def test_empty_slice_names_the_spans(self) -> None:
        with pytest.raises(CandleError, match=r"from 2024-01-01 00:00 UTC.*cover 2023-01-01 00:00 UTC"):
            candles().slice("2024-01-01")

    def test_resample_by_hand(self) -> None:
        # From 01:00: 01:00 belongs to a bucket that began at 00:00, 06:00 and 07:00 to one that is not over.
        one = candles(8).slice("2023-01-01T01:00").resample("2h")
        assert one.interval == "2h"
        assert one.open_time_ms.tolist() == [START + 2 * HOUR, START + 4 * HOUR, START + 6 * HOUR]
        assert one.open.tolist() == [102, 104, 106]
        assert one.high.tolist() == [106, 108, 110]
        assert one.low.tolist() == [100, 102, 104]
        assert one.close.tolist() == [104, 106, 108]
        assert one.volume.tolist() == [30 + 40, 50 + 60, 70 + 80]
        assert one.source == "frame (resampled from 1h, 1 candles at the ends dropped)"
        cut = candles(7).resample("4h")
        assert cut.open_time_ms.tolist() == [START]
        assert "3 candles at the ends dropped" in cut.source

    def test_weeks_begin_on_monday(self) -> None:
        weeks = candles(24 * 16).resample("1w")
        assert [pd.Timestamp(value, unit="ms").day_name() for value in weeks.open_time_ms] == ["Monday"] * 2

    @pytest.mark.parametrize("interval", ["30m", "1d"])
    def test_resample_refuses(self, interval: str) -> None:
        with pytest.raises(CandleError, match=interval):
            candles().resample(interval)

    def test_hash_is_of_the_numbers(self) -> None:
        one = candles()
        assert one.data_hash() == candles().data_hash()
        assert len(one.data_hash()) == 64
        assert one.data_hash() != candles(5).data_hash()
        assert (
            one.data_hash() != CandleSet.from_frame(changed(2, "volume", 30.5), symbol="BTCUSDT").data_hash()
        )
        assert one.data_hash() != CandleSet.from_frame(frame(), symbol="ETHUSDT").data_hash()

    def test_parquet_round_trip(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "candles.parquet"
        one = candles()
        one.to_parquet(path)
        again = load_candles(path)
        assert again.data_hash() == one.data_hash()
        assert (again.symbol, again.interval, again.source) == ("BTCUSDT", "1h", "frame")
        assert [entry.name for entry in path.parent.iterdir()] == ["candles.parquet"]
        pd.testing.assert_frame_equal(pd.read_parquet(path), one.to_frame())

    def test_synthetic_stays_labelled(self, tmp_path: Path) -> None:
        one = candles()
        made_up = CandleSet(
            "BTCUSDT",
            HOUR,
            one.open_time_ms,
            one.open,
            one.high,
            one.low,
            one.close,
            one.volume,
            "made up",
            True,
        )
        made_up.to_parquet(tmp_path / "a.parquet")
        assert load_candles(tmp_path / "a.parquet").synthetic

    def test_failed_write_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from pyarrow import parquet

        path = tmp_path / "a.parquet"
        candles(3).to_parquet(path)

        def fail(table: Any, where: Any, **_: Any) -> None:
            Path(where).write_bytes(b"half")
            raise OSError("disk full")

        monkeypatch.setattr(parquet, "write_table", fail)
        with pytest.raises(OSError, match="disk full"):
            candles(6).to_parquet(path)
        monkeypatch.undo()
        assert len(load_candles(path)) == 3
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.parquet"]


class TestRules:
    """Each rule: the row, its time, the values and the remedy are in the message."""

    @pytest.mark.parametrize(
        ("row", "column", "value", "message"),
        [
            (2, "close", np.nan, "a price is not a finite number.*close nan.*correct"),
            (3, "high", np.inf, "a price is not a finite number.*high inf"),
            (1, "volume", np.nan, "the volume is not a finite number.*give 0"),
            (4, "low", 0.0, "a price is not above 0"),
            (4, "open", -1.0, "a price is not above 0.*open -1"),
            (2, "low", 105.5, "low is above high: open 102, high 105, low 105.5, close 103, volume 30"),
            (3, "open", 99.0, "open lies outside low and high"),
            (3, "close", 107.0, "close lies outside low and high"),
            (5, "volume", -0.5, "the volume is negative.*-0.5"),
        ],
    )
    def test_values(self, row: int, column: str, value: float, message: str) -> None:
        with pytest.raises(
            CandleError, match=rf"row {row} \(2023-01-01 0{row}:00 UTC\): {message}"
        ) as caught:
            CandleSet.from_frame(changed(row, column, value), symbol="BTCUSDT")
        assert caught.value.row == row

    def test_the_first_bad_row_is_named(self) -> None:
        bad = changed(4, "close", np.nan)
        bad.loc[1, "volume"] = -1.0
        with pytest.raises(CandleError, match=r"row 1 .*volume is negative"):
            CandleSet.from_frame(bad, symbol="BTCUSDT")

    def test_unsorted(self) -> None:
        with pytest.raises(
            CandleError, match=r"row 3: not sorted: open_time 2023-01-01 00:00.*sort the rows"
        ) as e:
            CandleSet.from_frame(changed(3, "open_time", START), symbol="BTCUSDT")
        assert e.value.row == 3

    def test_duplicate(self) -> None:
        with pytest.raises(
            CandleError, match=r"row 3: duplicate open_time 2023-01-01 02:00 UTC.*row 2; keep one"
        ):
            CandleSet.from_frame(changed(3, "open_time", START + 2 * HOUR), symbol="BTCUSDT")

    def test_gap_names_the_span_and_the_remedy(self) -> None:
        holed = frame(10).drop(index=[3, 4, 7])
        with pytest.raises(CandleError) as caught:
            CandleSet.from_frame(holed, symbol="BTCUSDT")
        assert caught.value.row == 3
        text = str(caught.value)
        assert "row 3: gap before 2023-01-01 05:00 UTC: 2 candles missing" in text
        assert "2023-01-01 03:00 UTC to 2023-01-01 04:00 UTC" in text
        assert "2 gaps with 3 missing candles in all" in text
        assert "fill_gaps=True (fill_gaps: true in the section market of a backtest's config" in text

    def test_gap_filled_when_asked(self) -> None:
        holed = frame(10).drop(index=[3, 4, 7])
        one = CandleSet.from_frame(holed, symbol="BTCUSDT", fill_gaps=True)
        assert one.filled == 3
        assert len(one) == 10
        # Row 2 closed at 103, row 6 at 107.
        for row, price in ((3, 103.0), (4, 103.0), (7, 107.0)):
            assert (one.open[row], one.high[row], one.low[row], one.close[row]) == (price,) * 4
            assert one.volume[row] == 0
        assert one.open[5] == 105
        assert one.slice("2023-01-01T05:00").filled == 3

    def test_wrong_interval(self) -> None:
        with pytest.raises(
            CandleError, match=r"row 1: wrong interval: the candles are 1h apart.*not 5m.*interval='1h'"
        ):
            CandleSet.from_frame(frame(), symbol="BTCUSDT", interval="5m")

    def test_off_the_grid(self) -> None:
        with pytest.raises(
            CandleError, match=r"row 2: open_time 2023-01-01 02:00:00.001 UTC.*off the 1h grid"
        ):
            CandleSet.from_frame(changed(2, "open_time", START + 2 * HOUR + 1), symbol="BTCUSDT")

    def test_no_known_spacing(self) -> None:
        times = START + 7 * 60_000 * np.arange(6)
        with pytest.raises(CandleError, match="7 minutes apart, which is no known interval"):
            CandleSet.from_frame(frame(open_time=times), symbol="BTCUSDT")

    def test_one_row_needs_an_interval(self) -> None:
        with pytest.raises(CandleError, match="interval='1h'"):
            CandleSet.from_frame(frame(1), symbol="BTCUSDT")
        assert len(CandleSet.from_frame(frame(1), symbol="BTCUSDT", interval="1h")) == 1

    def test_empty(self) -> None:
        with pytest.raises(CandleError, match="no rows"):
            CandleSet.from_frame(frame(0), symbol="BTCUSDT")

    def test_lengths_differ(self) -> None:
        one = candles()
        with pytest.raises(CandleError, match=r"high has shape \(5,\)"):
            CandleSet(
                "BTCUSDT", HOUR, one.open_time_ms, one.open, one.high[:5], one.low, one.close, one.volume, "x"
            )

    @pytest.mark.parametrize(
        ("wrong", "right"),
        [("Open", "open"), ("closee", "close"), ("timestamp", "open_time"), ("date", "open_time")],
    )
    def test_missing_column_suggests(self, wrong: str, right: str) -> None:
        with pytest.raises(CandleError, match=f"column '{right}' is missing. Rename '{wrong}' to '{right}'"):
            CandleSet.from_frame(frame().rename(columns={right: wrong}), symbol="BTCUSDT")

    def test_text_in_a_number(self) -> None:
        bad = frame().astype({"close": object})
        bad.loc[2, "close"] = "n/a"
        with pytest.raises(CandleError, match="row 2: close is 'n/a', which is not a number"):
            CandleSet.from_frame(bad, symbol="BTCUSDT")
