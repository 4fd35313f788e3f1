"""Files of candles: what is read of ours and of others, and how what is wrong is named."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from candle_frames import HOUR, candles, changed, frame

from envs.candles import load_candles, load_funding, parse_time_ms
from envs.errors import CandleError

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real candles of ../shared/data are not here")


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
