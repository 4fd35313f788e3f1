"""Features: a config of indicators, and the table of numbers that they make of candles.

    config = FeatureConfig.model_validate({"indicators": [{"name": "rsi", "period": 7}, {"name": "atr"}]})
    table = compute_features(candles, config)

Row t is a function of the candles up to t and the fundings settled by its close, never of a later one. The
backtest computes the whole table at once, the live loop the last `config.memory` candles at every close; both
give the same row.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from envs.candle_tail import CandleTail
from envs.candles import CandleSet
from envs.errors import CandleError, ConfigError
from envs.funding import FundingSeries
from envs.indicators import (
    Adx,
    Atr,
    BollingerPercentB,
    EmaDistance,
    FundingRate,
    HighLowRange,
    Indicator,
    LogReturn,
    Macd,
    Rsi,
    TimeOfWeek,
    VolumeZscore,
)
from envs.market import Market
from envs.pandas_ta_indicator import PandasTa
from envs.time_grid import format_time

Floats = npt.NDArray[np.float64]

IndicatorConfig = Annotated[
    LogReturn
    | Rsi
    | Macd
    | EmaDistance
    | Adx
    | Atr
    | BollingerPercentB
    | VolumeZscore
    | HighLowRange
    | FundingRate
    | TimeOfWeek
    | PandasTa,
    Field(discriminator="name"),
]

_MODELS: tuple[type[Indicator], ...] = (
    LogReturn,
    Rsi,
    Macd,
    EmaDistance,
    Adx,
    Atr,
    BollingerPercentB,
    VolumeZscore,
    HighLowRange,
    FundingRate,
    TimeOfWeek,
    PandasTa,
)
INDICATORS = MappingProxyType({str(model.model_fields["name"].default): model for model in _MODELS})
"""The indicators by the name that a config gives them."""


class FeatureConfig(BaseModel):
    """Which features an observation has. Frozen; an unknown name or parameter is a ConfigError.

    Attributes:
        indicators: in the order of their columns.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    indicators: tuple[IndicatorConfig, ...]

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            _refuse_unknown(data, ("indicators",), "features")
        return data

    @field_validator("indicators", mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
            raise ConfigError(
                f"features: indicators is {value!r}; give a list, as [{{name: rsi, period: 14}}]"
            )
        if len(value) == 0:
            raise ConfigError(
                f"features: there are no indicators; give at least one of {', '.join(INDICATORS)}"
            )
        return tuple(parse_indicator(item) for item in value)

    @model_validator(mode="after")
    def _distinct(self) -> FeatureConfig:
        columns = self.columns
        for column in columns:
            if columns.count(column) > 1:
                raise ConfigError(f"features: {column} is there twice; remove one of the indicators")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns for one symbol."""
        return tuple(column for indicator in self.indicators for column in indicator.columns)

    @property
    def warmup(self) -> int:
        """The first row that can be used, given fundings from before the first candle."""
        return max(indicator.warmup for indicator in self.indicators)

    @property
    def memory(self) -> int:
        """Trailing candles from which the last row comes out as from the whole history."""
        return max(max(indicator.memory, indicator.warmup + 1) for indicator in self.indicators)

    @property
    def settlements(self) -> int:
        """Settled funding rates that a row needs; 0 when no indicator uses them."""
        return max(
            (one.settlements for one in self.indicators if isinstance(one, FundingRate)),
            default=0,
        )


def parse_indicator(value: Any) -> Indicator:
    """One indicator from a mapping with its name and parameters, or from its bare name.

    Raises:
        ConfigError: unknown name or parameter (with the nearest known one), or a value out of range.
    """
    if isinstance(value, Indicator):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ConfigError(f"features: {value!r} is no indicator; give a name, as {{name: rsi, period: 14}}")
    name = value["name"]
    if name not in INDICATORS:
        near = difflib.get_close_matches(name, INDICATORS, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"features: unknown indicator {name!r}.{hint} Known: {', '.join(INDICATORS)}. Any other of "
            f"pandas-ta goes by {{name: pandas_ta, kind: {name}, params: {{}}}}"
        )
    model = INDICATORS[name]
    _refuse_unknown(value, tuple(model.model_fields), f"features: {name}")
    try:
        return model.model_validate(dict(value))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"features: {name}: {field} is {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"
        ) from error


def _refuse_unknown(data: Mapping[str, Any], known: Sequence[str], label: str) -> None:
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{label}: unknown key {key!r}.{hint} Known keys: {', '.join(known)}")


def default_features() -> FeatureConfig:
    """The features of the shipped configs: 16 columns of trend, momentum, range, volume, funding and time."""
    return FeatureConfig(
        indicators=(
            LogReturn(periods=1),
            LogReturn(periods=24),
            Rsi(period=14),
            Macd(fast=12, slow=26, signal=9),
            EmaDistance(period=50),
            Adx(period=14),
            Atr(period=14),
            BollingerPercentB(period=20, std=2.0),
            VolumeZscore(period=20),
            HighLowRange(),
            FundingRate(),
            TimeOfWeek(),
        )
    )


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features by candle.

    Attributes:
        names: [F].
        values: float64 [T, F], read-only; NaN in the first `warmup` rows where not yet defined.
        warmup: the first row that can be used.
    """

    names: tuple[str, ...]
    values: Floats
    warmup: int


def feature_names(config: FeatureConfig, symbols: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns of `market_features`: `SYMBOL:name` when there are several symbols."""
    if len(symbols) == 1:
        return config.columns
    own = [one for one in config.indicators if not isinstance(one, TimeOfWeek)]
    shared = [one for one in config.indicators if isinstance(one, TimeOfWeek)]
    names = [f"{symbol}:{column}" for symbol in symbols for one in own for column in one.columns]
    return (*names, *(column for one in shared for column in one.columns))


def compute_features(
    candles: CandleSet, config: FeatureConfig, funding: FundingSeries | None = None
) -> FeatureTable:
    """The features of one symbol.

    Args:
        candles: at least `config.warmup + 1` of them.
        config: which features.
        funding: settled rates, for `funding_rate`; those later than a candle's close do not matter to it.

    Raises:
        CandleError: too few candles, or a value that is not finite after the warm-up; names feature and row.
        ConfigError: `funding_rate` without fundings.
    """
    columns = _columns(candles, config.indicators, funding)
    return _table(config.columns, columns, config, candles)


def market_features(market: Market, config: FeatureConfig) -> FeatureTable:
    """The features of all symbols side by side, with the columns of `feature_names`.

    A symbol without funding has a funding rate of 0.
    """
    fundings = [
        _no_funding(candles) if funding is None else funding
        for candles, funding in zip(market.candles, market.funding, strict=True)
    ]
    if len(market.symbols) == 1:
        return compute_features(market.candles[0], config, fundings[0])
    own = [one for one in config.indicators if not isinstance(one, TimeOfWeek)]
    shared = [one for one in config.indicators if isinstance(one, TimeOfWeek)]
    columns: list[Floats] = []
    for candles, funding in zip(market.candles, fundings, strict=True):
        columns += _columns(candles, own, funding)
    columns += _columns(market.candles[0], shared, None)
    return _table(feature_names(config, market.symbols), columns, config, market.candles[0])


class LatestFeatures:
    """The last row of `market_features`, computed without those before it.

    Each indicator sees twice as many candles as it needs for the last row to come out as from the whole history,
    where `config.memory` has that many.

    Args:
        config: which features.
        symbols: in the order of the columns.
    """

    def __init__(self, config: FeatureConfig, symbols: Sequence[str]) -> None:
        self.names = feature_names(config, symbols)
        memory = config.memory
        counted = [(one, min(2 * max(one.memory, one.warmup + 1), memory)) for one in config.indicators]
        several = len(symbols) > 1
        self._own = [pair for pair in counted if not (several and isinstance(pair[0], TimeOfWeek))]
        self._shared = [pair for pair in counted if several and isinstance(pair[0], TimeOfWeek)]

    def row(self, tails: Sequence[CandleTail], fundings: Sequence[FundingSeries | None]) -> Floats:
        """The features at the last candle, float64 [F].

        Args:
            tails: per symbol; how much of them is shown changes.
            fundings: settled rates per symbol, None for a rate of 0.

        Raises:
            CandleError: a value is not finite; names the feature.
        """
        parts = [self.of_symbol(tail, funding) for tail, funding in zip(tails, fundings, strict=True)]
        return self.joined(parts, tails)

    def joined(self, parts: Sequence[Sequence[float]], tails: Sequence[CandleTail]) -> Floats:
        """The row whose symbols' parts are known: see `row`."""
        values = [value for part in parts for value in part]
        for indicator, count in self._shared:
            tails[0].show(count)
            values += [column[-1] for column in indicator.compute(tails[0], None)]
        row = np.array(values)
        if not np.isfinite(row).all():
            index = int(np.argmin(np.isfinite(row)))
            raise CandleError(
                f"feature {self.names[index]} is {row[index]} at {format_time(tails[0].open_time_ms[-1])}; it must "
                f"be a number: look at the candles there, or take the feature out"
            )
        return row

    def of_symbol(self, tail: CandleTail, funding: FundingSeries | None) -> list[float]:
        """One symbol's part of the row, unchecked."""
        values: list[float] = []
        for indicator, count in self._own:
            if funding is None and isinstance(indicator, FundingRate):
                values += [0.0] * len(indicator.columns)
                continue
            tail.show(count)
            values += [column[-1] for column in indicator.compute(tail, funding)]
        return values


def _no_funding(candles: CandleSet) -> FundingSeries:
    # Before the first candle, as many zeros as a mean may ask for.
    start_ms = int(candles.open_time_ms[0])
    times = np.arange(start_ms - 1000, start_ms, dtype=np.int64)
    return FundingSeries(candles.symbol, times, np.zeros(len(times)), "none")


def _columns(
    candles: CandleSet, indicators: Sequence[Indicator], funding: FundingSeries | None
) -> list[Floats]:
    deepest = max(indicators, key=lambda one: one.warmup, default=None)
    if deepest is not None and len(candles) <= deepest.warmup:
        raise CandleError(
            f"{candles.symbol}: {len(candles)} candles, but {deepest.columns[0]} needs {deepest.warmup + 1}; "
            f"give more candles, or a shorter period"
        )
    return [column for one in indicators for column in one.compute(candles, funding)]


def _table(
    names: tuple[str, ...], columns: Sequence[Floats], config: FeatureConfig, candles: CandleSet
) -> FeatureTable:
    values = np.empty((len(candles), len(names)))
    for index, column in enumerate(columns):
        values[:, index] = column
    warmup = config.warmup
    finite = np.isfinite(values)
    if config.settlements:
        # How long fundings take to begin is in the data, not in the config.
        for index, name in enumerate(names):
            if name.rpartition(":")[2].startswith("funding_rate"):
                known = finite[:, index]
                warmup = max(warmup, int(np.argmax(known)) if known.any() else len(candles))
        if warmup >= len(candles):
            raise CandleError(
                f"{candles.symbol}: fewer than {config.settlements} funding rates are settled by the last close, "
                f"{format_time(candles.close_time_ms[-1])}; give earlier fundings"
            )
    if not finite[warmup:].all():
        row, index = (int(value) for value in np.argwhere(~finite[warmup:])[0])
        row += warmup
        raise CandleError(
            f"feature {names[index]} is {values[row, index]} in row {row} "
            f"({format_time(candles.open_time_ms[row])}); it must be a number after the warm-up of {warmup} "
            f"rows: look at the candles there, or take the feature out",
            row=row,
        )
    values.flags.writeable = False
    return FeatureTable(names, values, warmup)
