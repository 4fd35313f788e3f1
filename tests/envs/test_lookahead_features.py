"""No look-ahead: another future changes no feature of the past, not by a bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from envs.candles import CandleSet, FundingSeries
from envs.features import INDICATORS, FeatureConfig, compute_features, default_features, market_features
from envs.market import build_market
from envs.synthetic import synthetic_candles, synthetic_funding

ROWS = 700
CUTS = (120, 333, 698)

PANDAS_TA: tuple[dict[str, Any], ...] = (
    {"kind": "cci"},
    {"kind": "stoch"},
    {"kind": "supertrend", "outputs": ["SUPERT_7_3.0", "SUPERTd_7_3.0"]},
    {"kind": "dpo", "params": {"centered": False}},
    {"kind": "ichimoku", "params": {"include_chikou": False}},
    {"kind": "kama"},
    {"kind": "zscore"},
    {"kind": "vwap"},
)


def with_another_future(
    candles: CandleSet, funding: FundingSeries, cut: int
) -> tuple[CandleSet, FundingSeries]:
    """The same up to row `cut` (included); every later price, volume and rate is another."""
    rng = np.random.default_rng(cut)
    later = slice(cut + 1, None)
    factor = np.ones(len(candles))
    factor[later] = np.exp(0.3 + rng.normal(0, 0.05, len(candles) - cut - 1).cumsum())
    changed = {name: getattr(candles, name) * factor for name in ("open", "high", "low", "close")}
    changed["high"][later] *= 1.01
    changed["volume"] = candles.volume.copy()
    changed["volume"][later] = rng.random(len(candles) - cut - 1) * 1e6
    rate = funding.rate.copy()
    unsettled = funding.time_ms > candles.close_time_ms[cut]
    rate[unsettled] = 0.01 + rng.random(int(unsettled.sum())) / 100
    other = replace(candles, **changed)
    assert (other.close[later] != candles.close[later]).all()
    return other, replace(funding, rate=rate)


def assert_no_look_ahead(features: FeatureConfig) -> None:
    candles = synthetic_candles(n=ROWS, seed=21)
    funding = synthetic_funding(candles)
    before = compute_features(candles, features, funding)
    for cut in CUTS:
        other, other_funding = with_another_future(candles, funding, cut)
        after = compute_features(other, features, other_funding)
        known = slice(0, cut + 1)
        assert before.values[known].tobytes() == after.values[known].tobytes(), cut
        truncated = compute_features(candles.rows(0, cut + 1), features, funding)
        assert np.array_equal(truncated.values, before.values[known], equal_nan=True), cut


@pytest.mark.parametrize("name", [name for name in INDICATORS if name not in ("pandas_ta", "time_of_week")])
def test_built_in(name: str) -> None:
    features = FeatureConfig.model_validate({"indicators": [name]})
    assert_no_look_ahead(features)
    # The test would see a difference: the row after the cut does change.
    candles = synthetic_candles(n=ROWS, seed=21)
    funding = synthetic_funding(candles)
    cut = CUTS[1]
    other, other_funding = with_another_future(candles, funding, cut)
    before = compute_features(candles, features, funding).values
    after = compute_features(other, features, other_funding).values
    assert (before[cut + 1 : cut + 10] != after[cut + 1 : cut + 10]).any()


def test_time_of_week() -> None:
    assert_no_look_ahead(FeatureConfig.model_validate({"indicators": ["time_of_week"]}))


def test_default_features() -> None:
    assert_no_look_ahead(default_features())


@pytest.mark.parametrize("indicator", PANDAS_TA, ids=lambda indicator: indicator["kind"])
def test_pandas_ta(indicator: dict[str, Any]) -> None:
    assert_no_look_ahead(FeatureConfig.model_validate({"indicators": [{"name": "pandas_ta", **indicator}]}))


def test_market_of_two_symbols() -> None:
    sets = [synthetic_candles(symbol, n=ROWS, seed=5) for symbol in ("BTCUSDT", "ETHUSDT")]
    fundings = [synthetic_funding(one) for one in sets]
    features = default_features()

    def table(pairs: list[tuple[CandleSet, FundingSeries]]) -> Any:
        market = build_market([one for one, _ in pairs], funding={one.symbol: rates for one, rates in pairs})
        return market_features(market, features).values

    before = table(list(zip(sets, fundings, strict=True)))
    for cut in CUTS:
        after = table([with_another_future(*pair, cut) for pair in zip(sets, fundings, strict=True)])
        assert before[: cut + 1].tobytes() == after[: cut + 1].tobytes()
        assert (before[cut + 1 :] != after[cut + 1 :]).any()
