"""What the benchmarks of the simulation run on: the setting that the table in the README beside this file names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from envs.features import FeatureConfig, FeatureTable, default_features, market_features
from envs.instruments import Instrument, default_instruments
from envs.market import Market
from envs.scaler import FeatureScaler, fit_scaler
from envs.settings import EnvConfig
from envs.synthetic import synthetic_market

CANDLES = 100_000
INTERVAL = "5m"
WINDOW = 30
FEATURES = 15
EPISODE = 1_000
"""Candles in an episode: random actions that pay fees for much longer leave nothing to trade with."""

CONFIG = EnvConfig(window_size=WINDOW, max_leverage=3.0)
"""Taker fees, slippage, funding, brackets and liquidation are on unless they are switched off."""


def symbols(count: int) -> tuple[str, ...]:
    """Names of `count` contracts; beyond those that are bundled, made-up ones."""
    known = tuple(default_instruments())
    return (known + tuple(f"COIN{i}USDT" for i in range(count)))[:count]


def instruments(names: Sequence[str]) -> dict[str, Instrument]:
    """Rules of `names`; a made-up contract has those of AVAXUSDT."""
    known = default_instruments()
    return {name: known.get(name) or replace(known["AVAXUSDT"], symbol=name) for name in names}


@cache
def market(count: int = 1, candles: int = CANDLES) -> Market:
    """A synthetic market of `count` contracts with fundings."""
    return synthetic_market(symbols(count), interval=INTERVAL, n=candles, seed=1)


def features() -> FeatureConfig:
    """15 features of each contract: the default ones without two."""
    kept = [
        one
        for one in default_features().indicators
        if one.columns not in (("log_return_24",), ("high_low_range",))
    ]
    return FeatureConfig(indicators=tuple(kept))


@cache
def table(count: int = 1, candles: int = CANDLES) -> FeatureTable:
    """The features of `market`."""
    return market_features(market(count, candles), features())


@cache
def scaler(count: int = 1, candles: int = CANDLES) -> FeatureScaler:
    """Fitted on all of it; a benchmark learns nothing."""
    found = table(count, candles)
    return fit_scaler(found, rows=slice(found.warmup, None))
