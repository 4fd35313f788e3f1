"""What a SAC training learns from: the market, its features, the three spans, and the scaler of the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.data import Notice
from agents.sac.config import SplitConfig, TrainConfig
from agents.training_data import market_of
from agents.training_run import Span
from envs.errors import CandleError, ConfigError
from envs.features import FeatureTable, market_features
from envs.futures_env import FuturesEnv
from envs.market import Market
from envs.scaler import FeatureScaler, fit_scaler
from envs.time_grid import format_time, parse_time_ms
from envs.vector_env import FuturesVectorEnv

TRAIN, VALIDATION, TEST = "train", "validation", "test"

# A decision needs the candle after it: a span of two candles holds one step.
_LEAST_CANDLES = 2


@dataclass(frozen=True)
class Rows:
    """Half open span of rows of the market."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class Dataset:
    """Data of one training.

    Attributes:
        market: with candles before the first span, which features and windows look back on.
        table: features of the whole market; each row depends on earlier candles only.
        scaler: fitted on the training rows alone.
        start_ms, end_ms: what the user gave, or all there is; half open.
        rows: train, validation and test, in this order, without a row in common.
    """

    market: Market
    table: FeatureTable
    scaler: FeatureScaler
    start_ms: int
    end_ms: int
    rows: dict[str, Rows]

    def span(self, name: str) -> Span:
        """The open times of a span."""
        rows = self.rows[name]
        first_ms = int(self.market.open_time_ms[rows.first])
        return Span(first_ms, first_ms + len(rows) * self.market.interval_ms)

    def environment(self, name: str, config: TrainConfig, **settings: Any) -> FuturesEnv:
        """The environment of a span, with other arguments of `FuturesEnv` as given."""
        return FuturesEnv(**self._arguments(name, config), **settings)

    def vector_environment(
        self, name: str, config: TrainConfig, num_envs: int, **settings: Any
    ) -> FuturesVectorEnv:
        """`num_envs` environments of a span, with other arguments of `FuturesVectorEnv` as given."""
        return FuturesVectorEnv(num_envs, **self._arguments(name, config), **settings)

    def _arguments(self, name: str, config: TrainConfig) -> dict[str, Any]:
        span = self.span(name)
        return {
            "market": self.market,
            "features": self.table,
            "scaler": self.scaler,
            "config": config.env,
            "start": span.start_ms,
            "end": span.end_ms,
        }


def prepare(config: TrainConfig, *, notice: Notice) -> Dataset:
    """Load or make the market, compute features, split, and fit the scaler; `notice` is told what was cropped.

    Raises:
        InputError: the data cannot be used.
    """
    market = market_of(config.data, notice)
    table = market_features(market, config.features)
    times = market.open_time_ms
    start_ms, end_ms = parse_time_ms(config.data.start), parse_time_ms(config.data.end)
    start_ms = int(times[0]) if start_ms is None else max(start_ms, int(times[0]))
    last_ms = int(times[-1]) + market.interval_ms
    end_ms = last_ms if end_ms is None else min(end_ms, last_ms)
    first = max(table.warmup + config.env.window_size - 1, int(np.searchsorted(times, start_ms)))
    rows = split_rows(market, config.split, first, int(np.searchsorted(times, end_ms)))
    train = rows[TRAIN]
    scaler = fit_scaler(table, rows=slice(train.first, train.last), kind=config.scaler)
    return Dataset(market, table, scaler, start_ms, end_ms, rows)


def split_rows(market: Market, split: SplitConfig, first: int, last: int) -> dict[str, Rows]:
    """The rows [first, last) of a market as train, validation and test.

    Raises:
        CandleError: a span would hold no step.
        ConfigError: the times are not in order, or outside the rows.
    """
    total = max(last - first, 0)
    validation_ms, test_ms = parse_time_ms(split.validation_start), parse_time_ms(split.test_start)
    if validation_ms is not None and test_ms is not None:
        validation = int(np.searchsorted(market.open_time_ms, validation_ms))
        test = int(np.searchsorted(market.open_time_ms, test_ms))
        if not first < validation < test < last:
            raise ConfigError(
                f"split: validation_start {format_time(validation_ms)} and test_start {format_time(test_ms)} must "
                f"come in this order inside {format_time(market.open_time_ms[min(first, len(market) - 1)])} to "
                f"{format_time(market.close_time_ms[last - 1])}, where features and window are complete"
            )
    else:
        test = last - int(total * split.test_fraction)
        validation = test - int(total * split.validation_fraction)
    rows = {TRAIN: Rows(first, validation), VALIDATION: Rows(validation, test), TEST: Rows(test, last)}
    for name, span in rows.items():
        if len(span) < _LEAST_CANDLES:
            raise CandleError(
                f"{total} candles are left after the warm-up and the first window, and the {name} span would "
                f"hold {max(len(span), 0)} of them; give more candles, a shorter window, or another split"
            )
    return rows
