"""The market: aligned candles, and fundings laid on them by hand-worked numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.candles import CandleSet, FundingSeries, load_candles, load_funding
from envs.errors import CandleError, ConfigError
from envs.market import Market, build_market

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
HOUR = 3_600_000
START = 1_672_531_200_000  # 2023-01-01 00:00 UTC

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real candles of ../shared/data are not here")


def candles(
    rows: int = 24, *, symbol: str = "BTCUSDT", first_hour: int = 0, hours: int = 1, price: float = 100.0
) -> CandleSet:
    """Candles that open at price + hour of the market's time, and close one above."""
    begin = first_hour + hours * np.arange(rows)
    opens = (price + begin).astype(np.float64)
    return CandleSet(
        symbol=symbol,
        interval_ms=hours * HOUR,
        open_time_ms=START + HOUR * begin,
        open=opens,
        high=opens + 2,
        low=opens - 1,
        close=opens + 1,
        volume=np.ones(rows),
        source="hand",
    )


def funding(hours: Any, rates: Any, symbol: str = "BTCUSDT") -> FundingSeries:
    return FundingSeries(symbol, START + HOUR * np.asarray(hours), np.asarray(rates, dtype=float), "hand")


class TestOneSymbol:
    def test_shapes_and_values(self) -> None:
        market = build_market([candles()])
        assert len(market) == 24
        assert market.symbols == ("BTCUSDT",)
        assert market.open.shape == (24, 1)
        assert market.close[3, 0] == 104
        assert market.close_time_ms[0] == START + HOUR - 1
        assert not market.synthetic

    def test_constant_rate_by_hand(self) -> None:
        # 0.01 % at 00:00, 08:00 and 16:00 of the opens 100, 108 and 116.
        market = build_market([candles()])
        expected = np.zeros(24)
        expected[[0, 8, 16]] = [0.01, 0.0108, 0.0116]
        assert np.allclose(market.funding_open[:, 0], expected, rtol=1e-15)
        assert not market.funding_inner.any()
        series = market.funding[0]
        assert series is not None
        assert series.source == "constant"
        assert series.time_ms[-1] == START + 16 * HOUR
        assert set(series.rate) == {0.0001}

    def test_constant_rate_of_another_interval(self) -> None:
        market = build_market([candles()], constant_funding_rate=-0.001, funding_interval_hours=12)
        assert np.flatnonzero(market.funding_open[:, 0]).tolist() == [0, 12]
        assert market.funding_open[12, 0] == pytest.approx(-0.112)

    @pytest.mark.parametrize("options", [{"constant_funding_rate": 0.0}, {"funding_interval_hours": 0}])
    def test_no_funding(self, options: dict[str, Any]) -> None:
        market = build_market([candles()], **options)
        assert market.funding == (None,)
        assert not market.funding_open.any()

    def test_given_rates_without_marks(self) -> None:
        # F == open of candle 4: open 104; F half an hour into candle 9: open 109.
        series = FundingSeries(
            "BTCUSDT",
            START + np.array([-4 * HOUR, 4 * HOUR, 9 * HOUR + HOUR // 2, 12 * HOUR, 20 * HOUR]),
            np.array([0.05, 0.001, -0.002, 0.0, 0.003]),
            "hand",
        )
        market = build_market([candles()], funding={"BTCUSDT": series})
        assert np.flatnonzero(market.funding_open).tolist() == [4, 20]
        assert market.funding_open[4, 0] == pytest.approx(0.104)
        assert market.funding_open[20, 0] == pytest.approx(0.36)
        assert np.flatnonzero(market.funding_inner).tolist() == [9]
        assert market.funding_inner[9, 0] == pytest.approx(-0.218)

    def test_several_settlements_in_one_candle(self) -> None:
        # A day from 00:00: 00:00 is the boundary, 08:00 and 16:00 lie inside; all at the day's open.
        days = candles(2, hours=24)
        market = build_market([days], funding={"BTCUSDT": funding(range(0, 48, 8), [1e-3] * 6)})
        assert np.allclose(market.funding_open[:, 0], [0.1, 0.124])
        assert np.allclose(market.funding_inner[:, 0], [0.2, 0.248])

    def test_marks(self) -> None:
        # A mark candle at 08:00 gives the mark 500; none begins at 16:00, so that open (116) stands for it.
        mark = candles(1, first_hour=8, hours=8, price=492.0)
        rates = funding([0, 8, 16], [0.001, 0.001, 0.001])
        market = build_market([candles()], funding={"BTCUSDT": rates}, marks={"BTCUSDT": mark})
        assert np.allclose(market.funding_open[[0, 8, 16], 0], [0.1, 0.5, 0.116])

    def test_mark_inside_a_candle(self) -> None:
        marks = candles(6, hours=8, price=200.0)
        market = build_market(
            [candles(2, hours=24)],
            funding={"BTCUSDT": funding(range(0, 48, 8), [1e-3] * 6)},
            marks={"BTCUSDT": marks},
        )
        assert np.allclose(market.funding_open[:, 0], [0.2, 0.224])
        assert np.allclose(market.funding_inner[:, 0], [0.208 + 0.216, 0.232 + 0.24])

    def test_kernel_array(self) -> None:
        market = build_market([candles(10)])
        array = market.kernel_array()
        assert array.shape == (10, 1, 6)
        assert array.flags.c_contiguous
        assert array.dtype == np.float64
        assert array[8, 0].tolist() == [108, 110, 107, 109, market.funding_open[8, 0], 0]
        assert market.kernel_array() is array
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0, 0] = 1

    def test_slice(self) -> None:
        market = build_market([candles()])
        part = market.slice("2023-01-01T08:00", "2023-01-01T12:00")
        assert len(part) == 4
        assert part.open[:, 0].tolist() == [108, 109, 110, 111]
        assert part.funding_open[0, 0] == pytest.approx(0.0108)
        assert part.candles[0].open.tolist() == [108, 109, 110, 111]
        assert part.close_time_ms[-1] == START + 12 * HOUR - 1
        series = part.funding[0]
        assert series is not None
        assert series.time_ms[-1] == START + 8 * HOUR
        assert series.time_ms[0] < START  # what was settled before stays known
        assert part.kernel_array().shape == (4, 1, 6)
        with pytest.raises(CandleError, match="none from 2024"):
            market.slice("2024-01-01")

    def test_hash(self) -> None:
        market = build_market([candles()])
        assert market.data_hash() == build_market([candles()]).data_hash()
        assert market.data_hash() != build_market([candles()], constant_funding_rate=0.0002).data_hash()
        assert market.data_hash() != build_market([candles(price=101)]).data_hash()
        assert market.data_hash() != market.slice(None, "2023-01-01T20:00").data_hash()


class TestCoverage:
    def test_one_spacing_may_be_missing_at_each_end(self) -> None:
        market = build_market([candles()], funding={"BTCUSDT": funding([8, 16], [1e-3, 1e-3])})
        assert np.flatnonzero(market.funding_open).tolist() == [8, 16]

    @pytest.mark.parametrize("hours", [[16, 24], [-8, 0], [9, 17]])
    def test_too_short(self, hours: list[int]) -> None:
        with pytest.raises(CandleError, match=r"run from 2023-01-01 00:00 UTC.*crop the candles"):
            build_market([candles()], funding={"BTCUSDT": funding(hours, [1e-3] * len(hours))})

    def test_hole(self) -> None:
        rates = funding([-8, 0, 16, 24, 32], [1e-3] * 5)
        with pytest.raises(
            CandleError, match="no funding between 2023-01-01 00:00 UTC and 2023-01-01 16:00 UTC"
        ):
            build_market([candles()], funding={"BTCUSDT": rates})
        later = candles(8, first_hour=16)
        assert len(build_market([later], funding={"BTCUSDT": rates})) == 8

    def test_empty_series(self) -> None:
        with pytest.raises(CandleError, match="it is empty"):
            build_market([candles()], funding={"BTCUSDT": funding([], [])})

    def test_shorter_intervals_later_on(self) -> None:
        rates = funding([0, 8, 12, 16, 20, 24], [1e-3] * 6)
        market = build_market([candles()], funding={"BTCUSDT": rates})
        assert np.flatnonzero(market.funding_open).tolist() == [0, 8, 12, 16, 20]


class TestSeveralSymbols:
    def two(self, **options: Any) -> Market:
        return build_market([candles(24), candles(24, symbol="ETHUSDT", first_hour=6, price=10.0)], **options)

    def test_common_times(self) -> None:
        market = self.two()
        assert len(market) == 18
        assert market.open_time_ms[0] == START + 6 * HOUR
        assert market.open[0].tolist() == [106, 16]
        assert [len(one) for one in market.candles] == [18, 18]
        assert market.kernel_array()[2, 1, 0] == 18
        # At 08:00 and 16:00, each at its own open.
        assert np.allclose(market.funding_open[2], [0.0108, 0.0018])

    def test_own_fundings(self) -> None:
        market = self.two(funding={"ETHUSDT": funding([0, 8, 16, 24], [0.01] * 4, "ETHUSDT")})
        assert np.allclose(market.funding_open[10], [0.0116, 0.26])
        assert [one.source for one in market.funding if one is not None] == ["constant", "hand"]

    def test_refusals(self) -> None:
        with pytest.raises(CandleError, match="share no time: BTCUSDT 2023-01-01 00:00 UTC to"):
            build_market([candles(4), candles(4, symbol="ETHUSDT", first_hour=10)])
        with pytest.raises(CandleError, match="BTCUSDT has 1h candles and ETHUSDT 2h candles"):
            build_market([candles(4), candles(4, symbol="ETHUSDT", hours=2)])
        with pytest.raises(ConfigError, match="BTCUSDT is there twice"):
            build_market([candles(4), candles(4)])
        with pytest.raises(ConfigError, match="at least one symbol"):
            build_market([])
        with pytest.raises(ConfigError, match="funding of XRPUSDT without its candles"):
            build_market([candles()], funding={"XRPUSDT": funding([0], [0], "XRPUSDT")})
        with pytest.raises(ConfigError, match="mark candles given for BTCUSDT are those of ETHUSDT"):
            build_market([candles()], marks={"BTCUSDT": candles(symbol="ETHUSDT")})
        with pytest.raises(ConfigError, match=r"constant_funding_rate is 1\.0"):
            build_market([candles()], constant_funding_rate=1.0)
        with pytest.raises(ConfigError, match="funding_interval_hours is -8"):
            build_market([candles()], funding_interval_hours=-8)


@needs_data
def test_real_fundings_by_an_independent_sum() -> None:
    hours = load_candles(
        DATA / "binance_um_BTCUSDT_1h_2019-09-08_2025-08-31.parquet", start="2024-01-01", end="2024-03-01"
    )
    rates = load_funding(DATA / "binance_um_BTCUSDT_funding_2019-09-10_2025-08-31.parquet")
    marks = load_candles(DATA / "binance_um_BTCUSDT_1h_mark_2019-12-23_2025-08-31.parquet")
    market = build_market([hours], funding={"BTCUSDT": rates}, marks={"BTCUSDT": marks})
    mark_at = dict(zip(marks.open_time_ms.tolist(), marks.open.tolist(), strict=True))
    rate_at = dict(zip(rates.time_ms.tolist(), rates.rate.tolist(), strict=True))
    for row, time in enumerate(hours.open_time_ms.tolist()):
        assert market.funding_open[row, 0] == rate_at.get(time, 0.0) * mark_at[time]
    assert np.count_nonzero(market.funding_open) == 60 * 3
    assert not market.funding_inner.any()


@needs_data
def test_candles_before_the_first_funding_are_refused() -> None:
    hours = load_candles(DATA / "binance_um_BTCUSDT_1h_2019-09-08_2025-08-31.parquet")
    rates = load_funding(DATA / "binance_um_BTCUSDT_funding_2019-09-10_2025-08-31.parquet")
    with pytest.raises(CandleError, match=r"from 2019-09-08 17:00 UTC.*from 2019-09-10 08:00 UTC"):
        build_market([hours], funding={"BTCUSDT": rates})
    assert len(build_market([hours.slice("2019-09-10")], funding={"BTCUSDT": rates})) > 52_000
