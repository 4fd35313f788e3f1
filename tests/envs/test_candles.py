"""Candles and fundings: what is read, and how each broken rule is named."""

from __future__ import annotations

import gzip
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from envs.candles import (
    CandleSet,
    FundingSeries,
    interval_name,
    interval_to_ms,
    load_candles,
    load_funding,
    parse_time_ms,
)
from envs.errors import CandleError, ConfigError

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / ".." / "shared" / "data"
HOUR = 3_600_000
START = 1_672_531_200_000  # 2023-01-01 00:00 UTC, a Sunday

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real candles of ../shared/data are not here")


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
    return CandleSet.from_frame(frame(rows, **columns), symbol="BTCUSDT")


def changed(row: int, column: str, value: float) -> pd.DataFrame:
    result = frame()
    result[column] = result[column].astype(float)
    result.loc[row, column] = value
    return result


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


class TestTimeColumns:
    def test_datetimes_and_microseconds(self) -> None:
        for times in (
            pd.to_datetime(frame()["open_time"], unit="ms"),
            pd.to_datetime(frame()["open_time"], unit="ms", utc=True).dt.tz_convert("Asia/Tokyo"),
            frame()["open_time"] * 1000,
            frame()["open_time"].astype(float),
        ):
            assert candles(open_time=times).data_hash() == candles().data_hash()

    def test_files_written_by_others(self, tmp_path: Path) -> None:
        path = tmp_path / "BTCUSDT_1h.parquet"
        zoned = frame(open_time=pd.to_datetime(frame()["open_time"], unit="ms", utc=True))
        texts = frame().astype(dict.fromkeys(["open", "high", "low", "close", "volume"], str))
        for other in (zoned, zoned.set_index("open_time"), texts, frame().astype({"close": "float32"})):
            other.to_parquet(path)
            assert load_candles(path).data_hash() == candles().data_hash()
        csv = tmp_path / "BTCUSDT_1h.csv"
        csv.write_bytes(b"\xef\xbb\xbf" + frame().to_csv(index=False, lineterminator="\r\n").encode())
        assert load_candles(csv).data_hash() == candles().data_hash()

    def test_other_units_are_refused(self) -> None:
        with pytest.raises(CandleError, match="seems to be in seconds"):
            candles(open_time=frame()["open_time"] // 1000)
        with pytest.raises(CandleError, match="seems to be in nanoseconds"):
            candles(open_time=frame()["open_time"] * 1_000_000)

    def test_missing_time(self) -> None:
        times = frame()["open_time"].astype(float)
        times[3] = np.nan
        with pytest.raises(CandleError, match="row 3: open_time is nan"):
            candles(open_time=times)


class TestFiles:
    def test_csv_with_header(self, tmp_path: Path) -> None:
        path = tmp_path / "ETHUSDT_1h.csv"
        frame().to_csv(path, index=False)
        one = load_candles(path)
        assert (one.symbol, one.interval, one.source) == ("ETHUSDT", "1h", "ETHUSDT_1h.csv")
        assert one.close.tolist() == candles().close.tolist()
        packed = tmp_path / "ETHUSDT_1h.csv.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert load_candles(packed).data_hash() == one.data_hash()

    def test_dates_in_a_csv(self, tmp_path: Path) -> None:
        path = tmp_path / "BTCUSDT_1h.csv"
        frame(open_time=pd.to_datetime(frame()["open_time"], unit="ms")).to_csv(path, index=False)
        assert load_candles(path).data_hash() == candles().data_hash()

    def test_binance_kline_csv(self, tmp_path: Path) -> None:
        header = (
            "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,"
            "taker_buy_quote_volume,ignore\n"
        )
        rows = [
            "67992.70,68094.60,67804.70,67835.20,5179.117",
            "67835.20,67886.40,67711.00,67720.00,4148.330",
        ]
        for factor, top in ((1, header), (1, ""), (1000, "")):
            lines = [
                f"{(1730073600000 + i * HOUR) * factor},{row},{(1730077199999 + i * HOUR) * factor},1.5,7,1,2,0\n"
                for i, row in enumerate(rows)
            ]
            path = tmp_path / "BTCUSDT-1h-2024-10-28.csv"
            path.write_text(top + "".join(lines))
            one = load_candles(path)
            assert (one.symbol, one.interval, len(one)) == ("BTCUSDT", "1h", 2)
            assert one.open_time_ms[0] == parse_time_ms("2024-10-28")
            assert one.close.tolist() == [67835.2, 67720.0]
            assert one.volume.tolist() == [5179.117, 4148.33]

    def test_what_is_asked_comes_before_the_name(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.csv"
        frame().to_csv(path, index=False)
        with pytest.raises(
            CandleError, match=r"--symbol BTCUSDT \(symbol='BTCUSDT'\), or name .* BTCUSDT_1h.csv"
        ):
            load_candles(path)
        one = load_candles(path, symbol="ADAUSDT", start="2023-01-01T02:00", end="2023-01-01T04:00")
        assert (one.symbol, one.interval, len(one)) == ("ADAUSDT", "1h", 2)
        with pytest.raises(CandleError, match=r"mine.csv \(4h given\): row 1: wrong interval"):
            load_candles(path, symbol="ADAUSDT", interval="4h")

    def test_name_is_checked_against_the_spacing(self, tmp_path: Path) -> None:
        path = tmp_path / "BTCUSDT_5m.csv"
        frame().to_csv(path, index=False)
        with pytest.raises(CandleError, match=r"5m in the file's name.*wrong interval"):
            load_candles(path)

    def test_another_symbol_than_the_file_says(self, tmp_path: Path) -> None:
        candles().to_parquet(tmp_path / "a.parquet")
        with pytest.raises(CandleError, match="holds BTCUSDT, but ETHUSDT was asked for"):
            load_candles(tmp_path / "a.parquet", symbol="ETHUSDT")

    def test_candles_without_volume(self, tmp_path: Path) -> None:
        path = tmp_path / "binance_um_BTCUSDT_1h_mark_2023.csv"
        frame().drop(columns="volume").to_csv(path, index=False)
        assert load_candles(path).volume.tolist() == [0.0] * 6

    def test_gaps_in_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "BTCUSDT_1h.csv"
        frame().drop(index=2).to_csv(path, index=False)
        with pytest.raises(CandleError, match="1 candle missing, 2023-01-01 02:00 UTC;"):
            load_candles(path)
        filled = load_candles(path, fill_gaps=True)
        assert filled.filled == 1
        filled.to_parquet(tmp_path / "filled.parquet")
        assert load_candles(tmp_path / "filled.parquet").filled == 1

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.parquet", b"PAR1 nonsense", "not a readable Parquet file"),
            ("a.parquet", b"", "not a readable Parquet file"),
            ("a.csv", b"", "the file is empty"),
            ("a.csv", b"open_time,open,high,low,close,volume\n", "the file has no rows"),
            ("a.csv", b"1672531200000,1,2,0.5,1,3\n", "no header, and 6 columns"),
            ("a.csv", b"open_time,open\n1672531200000,1\n1672534800000,1,2\n", "not a readable CSV file"),
            ("a.csv", b"open_time,open,open\n1672531200000,1,2\n", "column 'open' is there twice"),
            ("a.zip", b"PK", "'.zip' cannot be read; unpack it"),
            ("a.txt", b"x", "'.txt' cannot be read"),
        ],
    )
    def test_unreadable(self, tmp_path: Path, name: str, content: bytes, message: str) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CandleError, match=message):
            load_candles(path, symbol="BTCUSDT", interval="1h")

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(CandleError, match="does not exist"):
            load_candles(tmp_path / "none.parquet")
        with pytest.raises(CandleError, match="is a folder"):
            load_candles(tmp_path)

    def test_an_empty_cell_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "BTCUSDT_1h.csv"
        text = changed(2, "close", 103).to_csv(index=False).replace("103.0,30.0", ",30.0")
        path.write_text(text)
        with pytest.raises(
            CandleError, match=r"row 2 \(2023-01-01 02:00 UTC\): a price is not a finite number"
        ):
            load_candles(path)
        path.write_text(text.replace(",,30.0", ",oops,30.0"))
        with pytest.raises(CandleError, match="row 2: close is 'oops'"):
            load_candles(path)

    def test_loading_needs_no_pandas(self, tmp_path: Path) -> None:
        candles().to_parquet(tmp_path / "a.parquet")
        code = (
            "import sys; from envs.candles import load_candles; load_candles(sys.argv[1]); "
            "heavy = {'pandas', 'numba', 'torch', 'sklearn', 'talib'} & set(sys.modules); assert not heavy, heavy"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.parquet")], cwd=ROOT, check=True)


class TestFunding:
    def series(self) -> FundingSeries:
        return FundingSeries(
            "BTCUSDT", START + 8 * HOUR * np.arange(4), np.array([1e-4, -2e-4, 3e-4, 0]), "x"
        )

    def test_round_trip_and_slice(self, tmp_path: Path) -> None:
        self.series().to_parquet(tmp_path / "f.parquet")
        again = load_funding(tmp_path / "f.parquet")
        assert again.data_hash() == self.series().data_hash()
        assert again.slice("2023-01-01T08:00", "2023-01-02").rate.tolist() == [-2e-4, 3e-4]
        assert len(again.slice("2030-01-01")) == 0
        assert again.spacing_ms == 8 * HOUR

    def test_times_are_rounded_to_the_second(self, tmp_path: Path) -> None:
        path = tmp_path / "BTCUSDT_funding.csv"
        path.write_text(f"funding_time,funding_rate\n{START + 5},0.0001\n{START + 8 * HOUR - 3},0.0002\n")
        assert load_funding(path).time_ms.tolist() == [START, START + 8 * HOUR]
        assert load_funding(path).symbol == "BTCUSDT"

    @pytest.mark.parametrize(
        ("times", "rates", "message"),
        [
            ([0, 16, 8], [0, 0, 0], "row 2: not sorted: funding_time"),
            ([0, 8, 8], [0, 0, 0], "row 2: duplicate funding_time"),
            ([0, 8, 16], [0, np.nan, 0], r"row 1 \(2023-01-01 08:00 UTC\): funding_rate nan is not a finite"),
            ([0, 8, 16], [0, 0, 1.0], r"row 2 .*funding_rate 1 is too large; give a fraction"),
        ],
    )
    def test_rules(self, times: list[int], rates: list[float], message: str) -> None:
        with pytest.raises(CandleError, match=message):
            FundingSeries("BTCUSDT", START + HOUR * np.array(times), np.array(rates), "x")

    def test_another_symbol(self, tmp_path: Path) -> None:
        self.series().to_parquet(tmp_path / "f.parquet")
        with pytest.raises(CandleError, match="holds BTCUSDT, but ETHUSDT"):
            load_funding(tmp_path / "f.parquet", symbol="ETHUSDT")

    def test_candles_are_not_fundings(self, tmp_path: Path) -> None:
        candles().to_parquet(tmp_path / "a.parquet")
        with pytest.raises(CandleError, match="column 'funding_time' is missing"):
            load_funding(tmp_path / "a.parquet")


@needs_data
class TestRealFiles:
    def test_every_perpetual_file_loads(self) -> None:
        for path in sorted(DATA.glob("binance_um_*USDT_*.parquet")):
            if "funding" in path.name:
                assert load_funding(path).symbol in path.name
            elif "5m" not in path.name:
                one = load_candles(path)
                assert f"_{one.symbol}_{one.interval}_" in path.name
                assert one.filled == 0

    def test_spot_gaps(self) -> None:
        path = DATA / "binance_spot_BTCUSDT_1h_2018-01-01_2025-08-31.parquet"
        with pytest.raises(CandleError, match=r"row 76: gap.*27 gaps with 122 missing candles in all"):
            load_candles(path)
        one = load_candles(path, fill_gaps=True)
        assert (one.filled, one.market) == (122, "spot")

    @pytest.mark.parametrize("market", ["um", "spot"])
    def test_archive_csv(self, market: str) -> None:
        one = load_candles(DATA / "payloads" / f"binance_{market}_archive_klines_BTCUSDT-1h-2024-10-28.csv")
        assert (one.symbol, one.interval, len(one)) == ("BTCUSDT", "1h", 24)

    def test_resampled_minutes_equal_the_hours(self) -> None:
        minutes = load_candles(DATA / "binance_um_BTCUSDT_1m_2025-05-04_2025-06-24.parquet").resample("1h")
        hours = load_candles(DATA / "binance_um_BTCUSDT_1h_2019-09-08_2025-08-31.parquet")
        same = hours.slice(int(minutes.open_time_ms[0]), int(minutes.open_time_ms[-1]) + 1)
        for name in ("open_time_ms", "open", "high", "low", "close"):
            assert np.array_equal(getattr(minutes, name), getattr(same, name)), name
        assert np.allclose(minutes.volume, same.volume, rtol=1e-9)
