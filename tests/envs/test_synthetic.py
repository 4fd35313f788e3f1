"""Synthetic markets: labelled, repeatable, consistent, and with the signal that they promise."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from envs.candles import CandleSet, load_candles
from envs.errors import ConfigError
from envs.synthetic import synthetic_candles, synthetic_funding, synthetic_market, synthetic_signal

HOUR = 3_600_000


def log_returns(candles: CandleSet) -> np.ndarray:
    return np.log(candles.close / candles.open)


def test_labelled_and_repeatable(tmp_path: Path) -> None:
    one = synthetic_candles(n=500, seed=3)
    assert one.synthetic
    assert one.source == "synthetic(seed=3)"
    assert one.data_hash() == synthetic_candles(n=500, seed=3).data_hash()
    assert one.data_hash() != synthetic_candles(n=500, seed=4).data_hash()
    one.to_parquet(tmp_path / "a.parquet")
    again = load_candles(tmp_path / "a.parquet")
    assert again.synthetic
    assert again.market == "synthetic"


def test_the_numbers_stay_the_same_between_versions() -> None:
    one = synthetic_candles(n=3, seed=0)
    assert one.open[0] == 60_000
    assert one.close.tolist() == [59989.5, 60067.3, 60114.2]


def test_prices_are_consistent_and_on_the_grid() -> None:
    for symbol, tick in (("BTCUSDT", "0.10"), ("DOGEUSDT", "0.000010"), ("NEWUSDT", "0.001")):
        one = synthetic_candles(symbol, n=2000, seed=1)
        assert (one.open[1:] == one.close[:-1]).all()
        for name in ("open", "high", "low", "close"):
            steps = getattr(one, name) / float(tick)
            assert np.allclose(steps, np.round(steps), atol=1e-6), (symbol, name)
    coarse = synthetic_candles(n=50, tick="5", start_price=20_000)
    assert (coarse.close % 5 == 0).all()
    assert coarse.open[0] == 20_000
    assert synthetic_candles("BTCUSDT", n=5, tick=Decimal("0.5")).close[0] % 0.5 == 0


def test_volatility_is_the_one_asked_for() -> None:
    one = synthetic_candles(n=40_000, seed=5, regimes=False, jumps=False, volatility_annual=0.6)
    yearly = log_returns(one).std() * np.sqrt(365 * 24)
    # E[v^2] = 1, so the variance is that of volatility_annual; v's long memory leaves a few percent.
    assert yearly == pytest.approx(0.6, rel=0.05)
    minutes = synthetic_candles(n=40_000, seed=5, interval="1m", regimes=False, jumps=False)
    assert log_returns(minutes).std() * np.sqrt(365 * 24 * 60) == pytest.approx(0.6, rel=0.05)


def test_regimes_and_jumps_fatten_the_tails() -> None:
    def kurtosis(one: CandleSet) -> float:
        returns = log_returns(one)
        return float((((returns - returns.mean()) / returns.std()) ** 4).mean())

    calm = synthetic_candles(n=20_000, seed=2, regimes=False, jumps=False)
    wild = synthetic_candles(n=20_000, seed=2)
    assert 3 < kurtosis(calm) < 8
    assert kurtosis(wild) > kurtosis(calm) + 1


def test_high_and_low_reach_beyond_the_body_and_volume_follows_the_move() -> None:
    one = synthetic_candles(n=20_000, seed=9)
    reach = np.log(one.high / one.low).mean() / np.abs(log_returns(one)).mean()
    assert 1.3 < reach < 2.2  # 2.0 for a Brownian path that is watched all the time
    assert np.corrcoef(one.volume, np.abs(log_returns(one)))[0, 1] > 0.5


def test_drift() -> None:
    one = synthetic_candles(n=50_000, seed=1, regimes=False, jumps=False, drift_annual=3.0)
    two = synthetic_candles(n=50_000, seed=1, regimes=False, jumps=False)
    years = 50_000 / (365 * 24)
    gained = np.log(one.close[-1] / two.close[-1])
    assert gained == pytest.approx(3.0 * years, rel=1e-3)


class TestSignal:
    def test_expectation_by_hand(self) -> None:
        # s = 0.6 * sqrt(1 / 8760); a = 2 / 9; one return u = ln(close / open) / s gives m = a * u.
        one = synthetic_candles(n=1, seed=0, signal_strength=0.5)
        s = 0.6 * (1 / 8760) ** 0.5
        u = float(np.log(one.close[0] / one.open[0])) / s
        a = 2 / 9
        expected = 0.5 * s * (a * u) / (a / (2 - a)) ** 0.5
        assert synthetic_signal(one, signal_strength=0.5)[0] == pytest.approx(expected, rel=1e-12)

    def test_it_is_the_conditional_expectation(self) -> None:
        one = synthetic_candles(n=100_000, seed=3, signal_strength=0.2, regimes=False, jumps=False)
        expected = synthetic_signal(one, signal_strength=0.2)[:-1]
        actual = log_returns(one)[1:]
        slope, offset = np.polyfit(expected, actual, 1)
        error = actual.std() / (expected.std() * len(actual) ** 0.5)
        assert slope == pytest.approx(1.0, abs=3 * error)
        assert abs(offset) < 3 * actual.std() / len(actual) ** 0.5
        # About strength ** 2 of the variance can be known.
        assert np.corrcoef(expected, actual)[0, 1] ** 2 == pytest.approx(0.04, rel=0.35)

    def test_without_a_signal_nothing_can_be_known(self) -> None:
        one = synthetic_candles(n=100_000, seed=3, regimes=False, jumps=False)
        assert not synthetic_signal(one, signal_strength=0.0).any()
        momentum = synthetic_signal(one, signal_strength=0.2)[:-1]
        assert abs(np.corrcoef(momentum, log_returns(one)[1:])[0, 1]) < 3 / 100_000**0.5

    def test_it_uses_the_past_only(self) -> None:
        one = synthetic_candles(n=300, seed=3, signal_strength=0.2)
        whole = synthetic_signal(one, signal_strength=0.2)
        assert np.array_equal(synthetic_signal(one.rows(0, 100), signal_strength=0.2), whole[:100])

    def test_an_oracle_earns(self) -> None:
        one = synthetic_candles(n=5000, seed=8, signal_strength=0.3, regimes=False, jumps=False)
        position = np.sign(synthetic_signal(one, signal_strength=0.3)[:-1])
        earned = position * log_returns(one)[1:]
        assert earned.mean() / earned.std() * 8760**0.5 > 10  # its yearly Sharpe ratio before costs


class TestFalling:
    @pytest.mark.parametrize("symbol", ["BTCUSDT", "DOGEUSDT"])
    @pytest.mark.parametrize("n", [300, 10_000])
    def test_every_close_is_lower(self, symbol: str, n: int) -> None:
        one = synthetic_candles(symbol, n=n, falling=True)
        assert (one.close < one.open).all()
        assert 0.03 < one.close[-1] / one.open[0] < 0.8

    def test_pace(self) -> None:
        one = synthetic_candles(n=1000, falling=True)
        assert log_returns(one).mean() == pytest.approx(-0.001, rel=0.05)


class TestFunding:
    def test_covers_the_candles_within_limits(self) -> None:
        one = synthetic_candles(n=5000, seed=1)
        series = synthetic_funding(one, seed=1)
        assert (np.diff(series.time_ms) == 8 * HOUR).all()
        assert series.time_ms[0] < one.open_time_ms[0]
        assert series.time_ms[-1] <= one.close_time_ms[-1] < series.time_ms[-1] + 8 * HOUR
        assert np.abs(series.rate).max() <= 0.003
        assert series.data_hash() == synthetic_funding(one, seed=1).data_hash()

    def test_follows_the_drift_of_the_past(self) -> None:
        falling = synthetic_funding(synthetic_candles(n=2000, falling=True, seed=1))
        # 72 candles of -0.1 % move the rate by 0.3 % * -7.2 % = -0.0216 %.
        assert falling.rate[-50:].mean() == pytest.approx(0.0001 - 0.003 * 0.072, abs=2e-5)

    def test_uses_closes_before_the_settlement_only(self) -> None:
        one = synthetic_candles(n=400, seed=1)
        cut = 200  # 2023-01-09 08:00
        early = synthetic_funding(one.rows(0, cut), seed=1)
        whole = synthetic_funding(one, seed=1)
        assert np.array_equal(whole.rate[: len(early)], early.rate)


class TestMarket:
    def test_first_symbol_is_the_single_one(self) -> None:
        market = synthetic_market(["BTCUSDT", "ETHUSDT"], n=300, seed=2)
        assert market.candles[0].data_hash() == synthetic_candles("BTCUSDT", n=300, seed=2).data_hash()
        assert market.synthetic
        assert market.funding_open.any()

    @pytest.mark.parametrize("correlation", [0.0, 0.6, 0.9])
    def test_correlation(self, correlation: float) -> None:
        market = synthetic_market(
            ["BTCUSDT", "ETHUSDT"], n=20_000, correlation=correlation, regimes=False, jumps=False
        )
        measured = np.corrcoef(np.log(market.close / market.open).T)[0, 1]
        assert measured == pytest.approx(correlation, abs=0.03)

    def test_three_symbols(self) -> None:
        market = synthetic_market(["BTCUSDT", "ETHUSDT", "DOGEUSDT"], n=100, falling=True)
        assert (market.close < market.open).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n is 0"),
        ({"volatility_annual": 0.0}, "volatility_annual is 0.0"),
        ({"signal_strength": 2.0}, "signal_strength is 2.0"),
        ({"start_price": -1.0}, "start_price is -1.0"),
        ({"tick": 100_000}, "tick is 100000"),
        ({"start": None}, "start is None"),
        ({"interval": "7m"}, "unknown interval '7m'"),
    ],
)
def test_refusals(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        synthetic_candles(**({"n": 10} | options))  # type: ignore[arg-type]
