"""Loading a market from files, on synthetic files and on the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agents.data import load_market
from envs.candles import CandleSet
from envs.errors import CandleError, ConfigError
from envs.funding import FundingSeries
from envs.synthetic import synthetic_candles

HOUR_MS = 3_600_000
DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


def write_candles(folder: Path, symbol: str, n: int = 200) -> CandleSet:
    candles = synthetic_candles(symbol=symbol, interval="1h", n=n, seed=1)
    candles.to_parquet(folder / f"{symbol}_1h.parquet")
    return candles


def write_funding(folder: Path, candles: CandleSet, *, skip: int = 0, drop: int = 0) -> Path:
    start_ms = int(candles.open_time_ms[0])
    times = np.arange(start_ms - start_ms % (8 * HOUR_MS), int(candles.close_time_ms[-1]) + 1, 8 * HOUR_MS)
    times = times[skip : len(times) - drop]
    path = folder / f"{candles.symbol}_funding.parquet"
    FundingSeries(candles.symbol, times, np.full(len(times), 0.0002), "test").to_parquet(path)
    return path


def test_symbols_come_in_the_order_asked_for(tmp_path: Path) -> None:
    for symbol in ("BTCUSDT", "ETHUSDT", "XRPUSDT"):
        write_candles(tmp_path, symbol)
    files = [tmp_path / f"{s}_1h.parquet" for s in ("BTCUSDT", "ETHUSDT", "XRPUSDT")]
    assert load_market(files).symbols == ("BTCUSDT", "ETHUSDT", "XRPUSDT")
    assert load_market(files, symbols=["XRPUSDT", "BTCUSDT"]).symbols == ("XRPUSDT", "BTCUSDT")
    with pytest.raises(ConfigError, match="no candle file is of ADAUSDT"):
        load_market(files, symbols=["ADAUSDT"])


def test_candles_before_start_stay_and_those_from_end_on_go(tmp_path: Path) -> None:
    candles = write_candles(tmp_path, "BTCUSDT")
    file = tmp_path / "BTCUSDT_1h.parquet"
    start, end = int(candles.open_time_ms[50]), int(candles.open_time_ms[150])
    market = load_market([file], start=start, end=end)
    assert len(market) == 150
    assert market.open_time_ms[0] == candles.open_time_ms[0]
    with pytest.raises(ConfigError, match="is not before end"):
        load_market([file], start=end, end=start)
    with pytest.raises(CandleError, match="they cover"):
        load_market([file], start="2040-01-01")


def test_a_span_that_the_candles_do_not_cover_is_told(tmp_path: Path) -> None:
    candles = write_candles(tmp_path, "BTCUSDT")
    first, after = int(candles.open_time_ms[0]), int(candles.open_time_ms[-1]) + HOUR_MS
    said: list[str] = []
    load_market([tmp_path / "BTCUSDT_1h.parquet"], start=first, end=after, notice=said.append)
    assert said == []
    load_market([tmp_path / "BTCUSDT_1h.parquet"], start=first - 1, end=after + 1, notice=said.append)
    begin, end = said
    assert begin.startswith("BTCUSDT: the candles begin at 2023-01-01 00:00 UTC, after the start")
    assert end.startswith("BTCUSDT: the candles end at 2023-01-09 08:00 UTC, before the end")


def test_candles_are_cropped_to_the_fundings_and_it_is_said(tmp_path: Path) -> None:
    candles = write_candles(tmp_path, "BTCUSDT")
    file = tmp_path / "BTCUSDT_1h.parquet"
    funding = write_funding(tmp_path, candles, skip=4, drop=3)
    said: list[str] = []
    market = load_market([file], funding=[funding], notice=said.append)
    assert len(said) == 1 and "left out" in said[0]
    series = market.funding[0]
    assert series is not None
    # The settlements that are missing would have come 8 hours before the first and after the last.
    assert market.open_time_ms[0] == int(series.time_ms[0]) - 7 * HOUR_MS
    assert market.close_time_ms[-1] < int(series.time_ms[-1]) + 8 * HOUR_MS
    # 0.02 % of the candle's open, at each of the settlements.
    row = int(np.searchsorted(market.open_time_ms, series.time_ms[1]))
    assert market.funding_open[row, 0] == pytest.approx(0.0002 * market.open[row, 0])
    # A span that was asked for is not cut in silence.
    with pytest.raises(CandleError, match="fundings only from"):
        load_market([file], funding=[funding], start=int(candles.open_time_ms[0]))
    with pytest.raises(CandleError, match="fundings only from"):
        load_market([file], funding=[funding], end=int(candles.close_time_ms[-1]) + 1)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    bitcoin, ether = write_candles(tmp_path, "BTCUSDT"), write_candles(tmp_path, "ETHUSDT")
    files = [tmp_path / "BTCUSDT_1h.parquet", tmp_path / "ETHUSDT_1h.parquet"]
    ether_funding = write_funding(tmp_path, ether)
    with pytest.raises(ConfigError, match="the funding file of ETHUSDT has no candles beside it"):
        load_market(files[:1], funding=[ether_funding])
    # With its candles there but not chosen, it is left out with them.
    assert load_market(files, funding=[ether_funding], symbols=["BTCUSDT"]).symbols == ("BTCUSDT",)
    with pytest.raises(ConfigError, match="two funding files are of ETHUSDT"):
        load_market(files, funding=[ether_funding, ether_funding])
    with pytest.raises(ConfigError, match="no candle file was given"):
        load_market([])
    assert len(bitcoin) == 200


@pytest.mark.skipif(not DATA.is_dir(), reason="real market data is not beside the checkout")
def test_real_bitcoin_with_fundings_and_marks() -> None:
    said: list[str] = []
    market = load_market(
        [DATA / "binance_um_BTCUSDT_1h_2019-09-08_2025-08-31.parquet"],
        funding=[DATA / "binance_um_BTCUSDT_funding_2019-09-10_2025-08-31.parquet"],
        marks=[DATA / "binance_um_BTCUSDT_1h_mark_2019-12-23_2025-08-31.parquet"],
        notice=said.append,
    )
    # The first known settlement is 2019-09-10 08:00; candles from 01:00 on have no unknown one.
    assert len(said) == 1 and "32 of 52423 candles left out" in said[0]
    assert len(market) == 52_391
    # 8-hourly settlements, each at a candle's open.
    assert np.count_nonzero(market.funding_open) > 6_500
    assert not market.funding_inner.any()
