"""`python -m live.download` against the paper exchange: the files, going on after an interruption, and errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from envs.candles import CandleSet, from_columns, load_candles
from envs.errors import CandleError, ConfigError
from envs.funding import FundingSeries, load_funding
from envs.market import build_market
from envs.time_grid import DAY_MS
from live.download import app, parse_venue
from live.exchange.base import Candle, FundingRate
from live.exchange.binance import BinanceExchange
from live.exchange.series import PARTIAL_FOLDER, CandleSeries, FundingRates, Request, download_series
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from live.settings import venue

HOUR = 3_600_000
START = 1_704_067_200_000  # 2024-01-01 00:00 UTC
HOURS = 24 * 260  # more than one chunk of 5000


def candles(scale: float = 1.0) -> CandleSet:
    close = 50_000 * scale * np.exp(np.cumsum(np.random.default_rng(7).normal(0, 0.003, HOURS)))
    opens = np.concatenate(([50_000 * scale], close[:-1]))
    columns = {
        "open_time": START + np.arange(HOURS) * HOUR,
        "open": opens,
        "high": np.maximum(opens, close) * 1.001,
        "low": np.minimum(opens, close) * 0.999,
        "close": close,
        "volume": np.arange(HOURS) * 0.5,
    }
    return from_columns(columns, symbol="BTCUSDT", interval="1h", source="test")


@pytest.fixture(scope="module")
def server() -> Iterator[PaperServer]:
    """260 days of hourly candles; the last day is still to be played."""
    times = START + np.arange(0, HOURS // 8) * 8 * HOUR
    rates = np.arange(len(times)) * 1e-6
    funding = FundingSeries("BTCUSDT", times, rates, "test")
    market = build_market([candles()], funding={"BTCUSDT": funding})
    with PaperServer.start(ReplayFeed(market, HOURS - 24, marks={"BTCUSDT": candles(1.001)})) as started:
        yield started


def run(
    server: PaperServer, out: Path, *arguments: str, span: tuple[str, str] = ("2024-01-01", "2024-09-01")
) -> Result:
    given = ["BTCUSDT", "1h", *span, "--out", str(out), "--venue", server.rest_url, *arguments]
    return CliRunner().invoke(app, given)


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def test_the_files_have_the_form_of_the_other_data_files(server: PaperServer, tmp_path: Path) -> None:
    result = run(server, tmp_path)
    assert result.exit_code == 0, result.output
    assert names(tmp_path) == [
        "binance_um_BTCUSDT_1h_2024-01-01_2024-08-31.parquet",
        "binance_um_BTCUSDT_1h_mark_2024-01-01_2024-08-31.parquet",
        "binance_um_BTCUSDT_funding_2024-01-01_2024-08-31.parquet",
    ]
    last_lines = [Path(line).name for line in result.stdout.splitlines()[-3:]]
    assert last_lines == names(tmp_path)
    expected = candles().slice(end="2024-09-01")
    loaded = load_candles(tmp_path / names(tmp_path)[0])
    assert loaded.data_hash() == expected.data_hash()
    assert (loaded.symbol, loaded.interval, loaded.synthetic) == ("BTCUSDT", "1h", True)
    schemas = [pq.read_schema(tmp_path / name).names for name in names(tmp_path)]
    assert schemas == [
        ["open_time", "open", "high", "low", "close", "volume"],
        ["open_time", "open", "high", "low", "close"],
        ["funding_time", "funding_rate"],
    ]
    marks = load_candles(tmp_path / names(tmp_path)[1])
    assert np.array_equal(marks.close, candles(1.001).close[: len(marks)])
    funding = load_funding(tmp_path / names(tmp_path)[2])
    assert (len(funding), funding.time_ms[0], funding.rate[5]) == (244 * 3, START, 5 * 1e-6)


def test_a_complete_series_is_not_fetched_again(server: PaperServer, tmp_path: Path) -> None:
    assert (
        run(server, tmp_path, "--no-marks", "--no-funding", span=("2024-01-01", "2024-01-03")).exit_code == 0
    )
    (name,) = names(tmp_path)
    written = (tmp_path / name).stat().st_mtime_ns
    again = run(server, tmp_path, "--no-marks", "--no-funding", span=("2024-01-01", "2024-01-03"))
    assert again.exit_code == 0
    assert "there already" in again.output
    assert (tmp_path / name).stat().st_mtime_ns == written


def test_an_end_in_the_future_gives_what_has_closed(server: PaperServer, tmp_path: Path) -> None:
    span = ("2024-09-10", "2025-01-01")
    for _ in range(2):  # the span is not over, so it is fetched again
        result = run(server, tmp_path, "--no-marks", "--no-funding", span=span)
        assert result.exit_code == 0, result.output
        assert "there already" not in result.output
    (name,) = names(tmp_path)
    loaded = load_candles(tmp_path / name)
    # 260 days from January 1st end with September 16th; that day is not played yet.
    assert name == "binance_um_BTCUSDT_1h_2024-09-10_2024-09-15.parquet"
    assert len(loaded) == 6 * 24


class BrokenOffError(Exception):
    """Stands for Ctrl+C or a kill between two requests."""


class CountingExchange(BinanceExchange):
    """Counts what is asked for, and breaks off when told to."""

    asked: list[int]
    break_after: int

    async def candles(self, symbol: str, interval_ms: int, **options: int | None) -> list[Candle]:  # type: ignore[override]
        if len(self.asked) >= self.break_after:
            raise BrokenOffError
        assert options["start_ms"] is not None
        self.asked.append(options["start_ms"])
        return await super().candles(symbol, interval_ms, **options)  # type: ignore[arg-type]


async def fetch(server: PaperServer, out: Path, break_after: int) -> tuple[Path | None, list[int]]:
    request = Request.parse("BTCUSDT", "1h", "2024-01-01", "2024-09-01", parse_venue(server.rest_url))
    exchange = CountingExchange(request.venue, None, ())
    exchange.asked, exchange.break_after = [], break_after
    async with exchange:
        path, _ = await download_series(exchange, CandleSeries(request), out, lambda *_: None)
    return path, exchange.asked


async def test_an_interrupted_download_goes_on_where_it_stopped(server: PaperServer, tmp_path: Path) -> None:
    with pytest.raises(BrokenOffError):
        await fetch(server, tmp_path, 1)
    assert names(tmp_path) == [PARTIAL_FOLDER]
    (folder,) = (tmp_path / PARTIAL_FOLDER).iterdir()
    # A file that was being written when the process died.
    (folder / ".1-2.parquet.99.tmp").write_bytes(b"half a fi")
    path, asked = await fetch(server, tmp_path, 9)
    assert asked == [START + 5_000 * HOUR]
    assert path is not None
    assert load_candles(path).data_hash() == candles().slice(end="2024-09-01").data_hash()
    assert names(tmp_path) == [path.name]


class ThinExchange(BinanceExchange):
    """Answers from lists, to show what the paper exchange never does."""

    rows: list[Candle]
    rates: list[FundingRate]

    async def candles(self, symbol: str, interval_ms: int, **options: int | None) -> list[Candle]:  # type: ignore[override]
        start_ms = options["start_ms"] or 0
        return [row for row in self.rows if row.open_time_ms >= start_ms]

    async def funding_rates(self, symbol: str, start_ms: int, end_ms: int) -> list[FundingRate]:
        return [rate for rate in self.rates if start_ms <= rate.time_ms <= end_ms]

    def now_ms(self) -> int:
        return START + 900 * DAY_MS


def thin(rows: list[Candle], rates: list[FundingRate]) -> ThinExchange:
    exchange = ThinExchange(venue("live"), None, ())
    exchange.rows, exchange.rates = rows, rates
    return exchange


def row(hour: int, low: float = 99.0) -> Candle:
    return Candle("BTCUSDT", START + hour * HOUR, HOUR, 100.0, 101.0, low, 100.0, 1.0)


REQUEST = Request.parse("BTCUSDT", "1h", "2024-01-01", "2024-01-02", venue("live"))


async def test_candles_that_the_exchange_lacks_are_noted_not_invented(tmp_path: Path) -> None:
    exchange = thin([row(hour) for hour in (*range(10), 12)], [])
    path, note = await download_series(exchange, CandleSeries(REQUEST), tmp_path, lambda *_: None)
    assert path is not None
    assert "lacks 2 candles, the first after 2024-01-01 09:00 UTC" in note
    with pytest.raises(CandleError):
        load_candles(path)
    assert len(load_candles(path, fill_gaps=True)) == 13
    metadata = pq.read_schema(path).metadata
    assert (metadata[b"source"], metadata[b"market"], metadata[b"synthetic"]) == (
        b"live (https://fapi.binance.com)",
        b"USD-M perp",
        b"false",
    )


async def test_broken_candles_are_refused_and_kept_aside(tmp_path: Path) -> None:
    exchange = thin([row(0), row(1, low=100.5)], [])
    with pytest.raises(CandleError, match=r"row 1.*Delete .*BTCUSDT_1h_.* to fetch them again"):
        await download_series(exchange, CandleSeries(REQUEST), tmp_path, lambda *_: None)
    assert names(tmp_path) == [PARTIAL_FOLDER]


async def test_settlements_are_put_on_their_hour(tmp_path: Path) -> None:
    request = Request.parse("BTCUSDT", "1h", "2024-01-01", "2025-06-01", venue("live"))
    first = [FundingRate("BTCUSDT", START + i * 8 * HOUR + 7, 1e-4 * i) for i in range(3)]
    later = [FundingRate("BTCUSDT", START + 400 * DAY_MS + 12 * HOUR + 90_000, 5e-4)]
    exchange = thin([], first + later)
    path, note = await download_series(exchange, FundingRates(request), tmp_path, lambda *_: None)
    assert path is not None
    assert path.name == "binance_um_BTCUSDT_funding_2024-01-01_2025-02-04.parquet"
    loaded = pq.read_table(path)
    assert loaded.column("funding_time").to_pylist() == [
        START,
        START + 8 * HOUR,
        START + 16 * HOUR,
        START + 400 * DAY_MS + 12 * HOUR + 90_000,
    ]
    assert note == ""


async def test_a_series_that_is_empty_leaves_nothing_behind(tmp_path: Path) -> None:
    path, note = await download_series(thin([], []), CandleSeries(REQUEST), tmp_path, lambda *_: None)
    assert (path, note) == (None, "the exchange has none in this span")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["BTCUSD", "1h", "2024-01-01", "2024-01-02"], "paper has no symbol 'BTCUSD'. Did you mean BTCUSDT?"),
        (["BTCUSDT", "7h", "2024-01-01", "2024-01-02"], "unknown interval '7h'"),
        (["BTCUSDT", "1h", "yesterday", "2024-01-02"], "cannot read 'yesterday' as a time"),
        (["BTCUSDT", "1h", "2024-01-02", "2024-01-02"], "is not before end"),
        (["BTCUSDT", "1h", "2100-01-01", "2100-01-02"], "lies in the future"),
        (["BTCUSDT", "1h", "2020-01-01", "2020-01-02"], "paper has no 1h candles from 2020-01-01 00:00 UTC"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    server: PaperServer, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path), "--venue", server.rest_url])
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_one_line(server: PaperServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = run(server, tmp_path / "file", span=("2024-01-01", "2024-01-02"))
    assert result.exit_code == 2
    assert "error: cannot write" in result.stderr and "--out" in result.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_an_exchange_that_is_not_there_is_exit_code_1(tmp_path: Path) -> None:
    given = [
        "BTCUSDT",
        "1h",
        "2024-01-01",
        "2024-01-02",
        "--out",
        str(tmp_path),
        "--venue",
        "http://127.0.0.1:9",
    ]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 1
    assert "cannot connect to http://127.0.0.1:9" in result.stderr


def test_venues() -> None:
    assert parse_venue("testnet").name == "testnet"
    assert parse_venue("http://127.0.0.1:80").ws_url == "ws://127.0.0.1:80"
    assert parse_venue("https://host").ws_url == "wss://host"
    with pytest.raises(ConfigError, match="unknown venue"):
        parse_venue("moon")


def test_a_span_is_put_on_the_grid() -> None:
    request = Request.parse("BTCUSDT", "4h", "2024-01-01T01:00", "2024-01-01T08:00", venue("live"))
    assert (request.start_ms, request.end_ms) == (START + 4 * HOUR, START + 8 * HOUR)
