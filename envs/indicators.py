"""The built-in indicators: small frozen models that turn candles into columns of features.

Each value is a function of the candles up to its row, and of no more than `memory` of them: an indicator that
smooths recursively (EMA, Wilder) names as many as its start needs to fade to 1e-12. Averages over a window are
summed afresh for each row, so that they depend on nothing outside of it, not even by rounding.

Values are relative (fractions of the price, ratios, standard deviations), never prices.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from envs.candle_tail import Candles
from envs.compiling import compiled
from envs.errors import ConfigError
from envs.funding import FundingSeries
from envs.ta_functions import ta
from envs.time_grid import DAY_MS, WEEK_MS, grid_offset_ms

Floats = npt.NDArray[np.float64]
Period = Annotated[int, Field(strict=True, ge=1, le=10_000)]
Smoothing = Annotated[int, Field(strict=True, ge=2, le=10_000)]


def _jit(function: Any) -> Any:
    return compiled(function)


_FADED = 1e-12
"""What is left of the start of a recursive smoothing after `memory` candles, as a fraction."""


def rows_to_fade(alpha: float, remainder: float = _FADED) -> int:
    """Rows after which an exponential smoothing of weight `alpha` keeps `remainder` of where it started."""
    return math.ceil(math.log(remainder) / math.log1p(-alpha)) if alpha < 1 else 1


def _ema_fade(period: int) -> int:
    return rows_to_fade(2 / (period + 1))


def _wilder_fade(period: int, remainder: float = _FADED) -> int:
    return rows_to_fade(1 / period, remainder)


@_jit
def window_sum(values: Floats, period: int) -> Floats:
    """float64 [T - period + 1]: sums over `period` rows, each added up afresh, oldest first."""
    total = np.empty(len(values) - period + 1)
    for row in range(len(total)):
        running = 0.0
        for value in values[row : row + period]:
            running += value
        total[row] = running
    return total


@_jit
def window_mean_and_std(values: Floats, period: int) -> tuple[Floats, Floats]:
    """float64 [T] each: mean and population standard deviation of the last `period` rows; NaN before."""
    mean = np.full(len(values), np.nan)
    std = np.full(len(values), np.nan)
    for row in range(period - 1, len(values)):
        window = values[row - period + 1 : row + 1]
        running = 0.0
        for value in window:
            running += value
        average = running / period
        squares = 0.0
        for value in window:
            squares += (value - average) ** 2
        spread = np.sqrt(squares / period)
        mean[row] = average
        # A window of equal values has no spread; what is left there is the rounding of its mean.
        std[row] = 0.0 if spread <= 1e-12 * abs(average) else spread
    return mean, std


class Indicator(BaseModel):
    """One configured indicator. Subclasses state their columns, what they need, and how they are computed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        raise NotImplementedError

    @property
    def warmup(self) -> int:
        """The first row that is defined."""
        raise NotImplementedError

    @property
    def memory(self) -> int:
        """Candles from which the last row comes out as from the whole history."""
        return self.warmup + 1

    def compute(self, candles: Candles, funding: FundingSeries | None) -> tuple[Floats, ...]:
        """The columns, each float64 [T], NaN where not yet defined."""
        raise NotImplementedError


class LogReturn(Indicator):
    """ln(close / close `periods` candles ago)."""

    name: Literal["log_return"] = "log_return"
    periods: Period = 1

    @property
    def columns(self) -> tuple[str, ...]:
        return (f"log_return_{self.periods}",)

    @property
    def warmup(self) -> int:
        return self.periods

    def compute(self, candles: Candles, funding: FundingSeries | None) -> tuple[Floats, ...]:
        values = np.full(len(candles), np.nan)
        values[self.periods :] = np.log(candles.close[self.periods :] / candles.close[: -self.periods])
        return (values,)


class Rsi(Indicator):
    """Wilder's relative strength index / 100, in 0..1; 0 where the price never moved."""

    name: Literal["rsi"] = "rsi"
    period: Smoothing = 14

    @property
    def columns(self) -> tuple[str, ...]:
        return (f"rsi_{self.period}",)

    @property
    def warmup(self) -> int:
        return self.period

    @property
    def memory(self) -> int:
        return self.period + 1 + _wilder_fade(self.period)

    def compute(self, candles: Candles, funding: FundingSeries | None) -> tuple[Floats, ...]:
        talib = ta()
        return (talib.RSI(candles.close, self.period) / 100,)


class Macd(Indicator):
    """EMA(fast) - EMA(slow), its EMA(signal), and their difference, as fractions of the close."""

    name: Literal["macd"] = "macd"
    fast: Smoothing = 12
    slow: Smoothing = 26
    signal: Period = 9

    @model_validator(mode="after")
    def _fast_before_slow(self) -> Macd:
        if self.fast >= self.slow:
            raise ConfigError(f"macd: fast is {self.fast} and slow {self.slow}; fast must be the smaller")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        stem = f"macd_{self.fast}_{self.slow}_{self.signal}"
        return (f"{stem}_line", f"{stem}_signal", f"{stem}_hist")

    @property
    def warmup(self) -> int:
        return self.slow + self.signal - 2

    @property
    def memory(self) -> int:
        # The signal smooths a line that is itself still forgetting its start.
        return self.slow + self.signal + _ema_fade(self.slow) + _ema_fade(self.signal)

    def compute(self, candles: Candles, funding: FundingSeries | None) -> tuple[Floats, ...]:
        talib = ta()
        lines = talib.MACD(candles.close, self.fast, self.slow, self.signal)
        return tuple(line / candles.close for line in lines)


class EmaDistance(Indicator):
    """close / EMA(period) - 1."""

    name: Literal["ema_distance"] = "ema_distance"
    period: Smoothing = 50

    @property
    def columns(self) -> tuple[str, ...]:
        return (f"ema_distance_{self.period}",)

    @property
    def warmup(self) -> int:
        return self.period - 1

    @property
    def memory(self) -> int:
        return self.period + _ema_fade(self.period)

    def compute(self, candles: Candles, funding: FundingSeries | None) -> tuple[Floats, ...]:
        talib = ta()
        return (candles.close / talib.EMA(candles.close, self.period) - 1,)


class Adx(Indicator):
    """Wilder's average directional index / 100, in 0..1: the strength of a trend, whichever its direction."""

    name: Literal["adx"] = "adx"
    period: Smoothing = 14

    @property
    def columns(self) -> tuple[str, ...]:
        return (f"adx_{self.period}",)

    @property
    def warmup(self) -> int:
        return 2 * self.period - 1

    @property
    def memory(self) -> int:
        # Smoothed twice: what is left falls as rows * (1 - 1/period) ** rows.
        return 2 * self.period + _wilder_fade(self.period, _FADED / 1000)

    def compute(self, candles: Candles, funding: FundingSeries | None) -> tuple[Floats, ...]:
        talib = ta()
        return (talib.ADX(candles.high, candles.low, candles.close, self.period) / 100,)


class Atr(Indicator):
    """Wilder's average true range as a fraction of the close."""

    name: Literal["atr"] = "atr"
    period: Smoothing = 14

    @property
    def columns(self) -> tuple[str, ...]:
        return (f"atr_{self.period}",)

    @property
    def warmup(self) -> int:
        return self.period

    @property
    def memory(self) -> int:
        return self.period + 1 + _wilder_fade(self.period)

    def compute(self, candles: Candles, funding: FundingSeries | None) -> tuple[Floats, ...]:
        talib = ta()
        return (talib.ATR(candles.high, candles.low, candles.close, self.period) / candles.close,)


class BollingerPercentB(Indicator):
    """Where the close lies between the Bollinger bands: 0 lower, 1 upper; 0.5 where they coincide."""

    name: Literal["bollinger_percent_b"] = "bollinger_percent_b"
    period: Smoothing = 20
    std: Annotated[float, Field(gt=0, le=10)] = 2.0

    @property
    def columns(self) -> tuple[str, ...]:
        return (f"bollinger_percent_b_{self.period}_{self.std:g}",)

    @property
    def warmup(self) -> int:
        return self.period - 1

    def compute(self, candles: Candles, funding: FundingSeries | None) -> tuple[Floats, ...]:
        mean, std = window_mean_and_std(candles.close, self.period)
        width = 2 * self.std * std
        # (close - lower) / (upper - lower), with lower = mean - width / 2
        offset = np.divide(candles.close - mean, width, out=np.zeros_like(mean), where=width != 0)
        return (np.where(np.isnan(mean), np.nan, 0.5 + offset),)


class VolumeZscore(Indicator):
    """(volume - mean) / standard deviation over the last `period` candles; 0 where the volume is constant."""

    name: Literal["volume_zscore"] = "volume_zscore"
    period: Smoothing = 20

    @property
    def columns(self) -> tuple[str, ...]:
        return (f"volume_zscore_{self.period}",)

    @property
    def warmup(self) -> int:
        return self.period - 1

    def compute(self, candles: Candles, funding: FundingSeries | None) -> tuple[Floats, ...]:
        mean, std = window_mean_and_std(candles.volume, self.period)
        score = np.divide(candles.volume - mean, std, out=np.zeros_like(mean), where=std != 0)
        return (np.where(np.isnan(mean), np.nan, score),)


class HighLowRange(Indicator):
    """(high - low) / close."""

    name: Literal["high_low_range"] = "high_low_range"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("high_low_range",)

    @property
    def warmup(self) -> int:
        return 0

    def compute(self, candles: Candles, funding: FundingSeries | None) -> tuple[Floats, ...]:
        return ((candles.high - candles.low) / candles.close,)


class FundingRate(Indicator):
    """The last funding rate settled by the close, as a fraction; with `mean`, also the mean of the last ones.

    Rows before the first settlement (with `mean`, before as many) are not defined.
    """

    name: Literal["funding_rate"] = "funding_rate"
    mean: Annotated[int, Field(strict=True, ge=2, le=1000)] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return ("funding_rate",) if self.mean is None else ("funding_rate", f"funding_rate_mean_{self.mean}")

    @property
    def warmup(self) -> int:
        return 0

    @property
    def settlements(self) -> int:
        """Settled rates that a row needs."""
        return self.mean or 1

    def compute(self, candles: Candles, funding: FundingSeries | None) -> tuple[Floats, ...]:
        if funding is None:
            raise ConfigError(
                f"the feature funding_rate needs the funding rates of {candles.symbol}; "
                f"give a funding series, or take funding_rate out of the indicators"
            )
        rates = [funding.rate]
        if self.mean is not None:
            mean = np.full(len(funding), np.nan)
            if len(funding) >= self.mean:
                mean[self.mean - 1 :] = window_sum(funding.rate, self.mean) / self.mean
            rates.append(mean)
        known = np.searchsorted(funding.time_ms, candles.close_time_ms, side="right")
        return tuple(np.concatenate(([np.nan], rate))[known] for rate in rates)


class TimeOfWeek(Indicator):
    """Sine and cosine of the time of day and of the time of the week (from Monday), at the close, UTC."""

    name: Literal["time_of_week"] = "time_of_week"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("time_of_day_sin", "time_of_day_cos", "time_of_week_sin", "time_of_week_cos")

    @property
    def warmup(self) -> int:
        return 0

    def compute(self, candles: Candles, funding: FundingSeries | None) -> tuple[Floats, ...]:
        close_ms = candles.open_time_ms + candles.interval_ms
        columns: list[Any] = []
        for length_ms in (DAY_MS, WEEK_MS):
            angle = ((close_ms - grid_offset_ms(length_ms)) % length_ms) * (2 * math.pi / length_ms)
            columns += [np.sin(angle), np.cos(angle)]
        return tuple(columns)
