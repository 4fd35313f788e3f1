"""Seeded synthetic markets for demos and tests. They are always labelled synthetic.

The log return of candle t, of close over open, is

    r[t] = drift_annual * dt + d[regime] * s + signal[t] + s * v[t] * k[regime] * e[t] + jump[t]

with dt the interval in years, s = volatility_annual * sqrt(dt), e[t] standard normal, and
- regimes: a Markov chain over range, bull, bear (200 candles each on average) and crash (12), which shifts the
  drift by d and multiplies the volatility by k;
- v[t]: stochastic volatility, ln v an AR(1) with coefficient 0.98 and standard deviation 0.35, E[v^2] = 1;
- jumps: in one candle of 500, normal with standard deviation 4 s;
- signal[t]: momentum that a trader could know. With u = log return / s,
      m[t] = m[t-1] + a * (u[t] - m[t-1]),   a = 2 / (8 + 1),   m = 0 before the first candle's close
      signal[t+1] = signal_strength * s * clip(m[t] / sqrt(a / (2 - a)), -2, 2)
  so that it is `signal_strength` standard deviations of a candle where the momentum is one of its own.

Each candle opens at the close before it. High and low are those of a Brownian bridge from open to close.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from envs.candles import CandleSet, TimeLike
from envs.errors import ConfigError
from envs.funding import FundingSeries
from envs.instruments import default_instruments
from envs.market import Market, build_market
from envs.time_grid import DAY_MS, HOUR_MS, interval_to_ms, parse_time_ms

Floats = npt.NDArray[np.float64]

START_PRICES_USDT = MappingProxyType(
    {
        "BTCUSDT": 60_000.0,
        "ETHUSDT": 3_000.0,
        "BNBUSDT": 500.0,
        "XRPUSDT": 0.6,
        "DOGEUSDT": 0.15,
        "ADAUSDT": 0.5,
        "AVAXUSDT": 30.0,
    }
)

_YEAR_MS = 365 * DAY_MS
_MOMENTUM_WEIGHT = 2 / (8 + 1)
_MOMENTUM_STD = math.sqrt(_MOMENTUM_WEIGHT / (2 - _MOMENTUM_WEIGHT))
_MOMENTUM_CLIP = 2.0
_VOLATILITY_AR = 0.98
_VOLATILITY_STD = 0.35
_JUMP_CHANCE = 0.002
_JUMP_SIZE = 4.0
_PATH_STEPS = 12
_VOLUME_USDT_PER_HOUR = 50e6
_LOWEST_TICKS = 10

# Range, bull, bear, crash: shift of the drift and factor of the volatility, in units of a candle's volatility.
_REGIME_DRIFT = np.array([0.0, 0.05, -0.05, -0.6])
_REGIME_VOLATILITY = np.array([0.8, 0.9, 1.1, 2.5])
_REGIME_LEAVE_CHANCE = np.array([1 / 200, 1 / 200, 1 / 200, 1 / 12])
_REGIME_NEXT = np.array(
    [
        [0.00, 0.50, 0.44, 0.06],
        [0.55, 0.00, 0.35, 0.10],
        [0.45, 0.50, 0.00, 0.05],
        [0.40, 0.40, 0.20, 0.00],
    ]
)


@dataclass(frozen=True)
class _Settings:
    interval_ms: int
    n: int
    seed: int
    start: TimeLike
    volatility_annual: float
    regimes: bool
    jumps: bool
    drift_annual: float
    signal_strength: float
    falling: bool

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"synthetic: n is {self.n}; give at least one candle")
        if not 0 < self.volatility_annual <= 10:
            raise ConfigError(
                f"synthetic: volatility_annual is {self.volatility_annual}; give a fraction above 0, as 0.6"
            )
        if not 0 <= self.signal_strength <= 1:
            raise ConfigError(f"synthetic: signal_strength is {self.signal_strength}; give 0 to 1")

    @property
    def candle_volatility(self) -> float:
        return _candle_volatility(self.volatility_annual, self.interval_ms)


@dataclass(frozen=True)
class _Shocks:
    """What moves a symbol besides its signal: float64 [n] each, in log returns."""

    change: Floats
    volatility: Floats
    normal: Floats


def synthetic_candles(
    symbol: str = "BTCUSDT",
    *,
    interval: str = "1h",
    n: int = 10_000,
    seed: int = 0,
    start: TimeLike = "2023-01-01",
    start_price: float | None = None,
    tick: float | str | Decimal | None = None,
    volatility_annual: float = 0.6,
    regimes: bool = True,
    jumps: bool = True,
    drift_annual: float = 0.0,
    signal_strength: float = 0.0,
    falling: bool = False,
) -> CandleSet:
    """Candles of the process in the module's docstring; the same arguments give the same candles.

    Args:
        symbol: chooses the default start price and tick, and is part of the seed.
        start: open time of the first candle, on the interval's grid.
        start_price: open of the first candle, in USDT.
        tick: prices are multiples of it; the instrument's by default, else six significant digits.
        volatility_annual: standard deviation of a year's log return, without regimes and jumps.
        drift_annual: drift of the log price in a year.
        signal_strength: 0 to 1; see `synthetic_signal`.
        falling: a steady fall instead of all of this: every close is below the last, by 0.1 % on average (less
            where that many candles would take it to nothing), until ten ticks are left.

    Raises:
        ConfigError: an argument out of range.
    """
    settings = _Settings(
        interval_ms=interval_to_ms(interval),
        n=n,
        seed=seed,
        start=start,
        volatility_annual=volatility_annual,
        regimes=regimes,
        jumps=jumps,
        drift_annual=drift_annual,
        signal_strength=signal_strength,
        falling=falling,
    )
    price = _start_price(symbol, start_price)
    return _candles(symbol, settings, _shocks(symbol, settings), price, _tick(symbol, tick, price))


def synthetic_signal(
    candles: CandleSet, *, signal_strength: float, volatility_annual: float = 0.6, drift_annual: float = 0.0
) -> Floats:
    """float64 [T]: what is known at close t of the log return from close t to close t+1.

    With the arguments that the candles were made with, and without regimes, it is exactly the conditional
    expectation (up to the rounding to the tick); regimes add drifts that nobody is told. A trader who goes long
    where it is positive and short where it is negative is the best that costs allow.
    """
    volatility = _candle_volatility(volatility_annual, candles.interval_ms)
    returns = np.log(candles.close / np.concatenate(([candles.open[0]], candles.close[:-1])))
    expected = np.empty(len(candles))
    momentum = 0.0
    for t, value in enumerate(returns.tolist()):
        momentum += _MOMENTUM_WEIGHT * (value / volatility - momentum)
        expected[t] = _signal(momentum, signal_strength, volatility)
    return expected + drift_annual * candles.interval_ms / _YEAR_MS


def synthetic_funding(candles: CandleSet, seed: int = 0) -> FundingSeries:
    """Rates every 8 hours from midnight UTC: 0.01 % plus 0.3 % of the last three days' log return, and noise.

    A rate uses closes before its settlement only, and lies within +-0.3 %. Three settlements precede the candles.
    """
    step_ms = 8 * HOUR_MS
    first = int(candles.open_time_ms[0]) // step_ms - 3
    times = np.arange(first, int(candles.close_time_ms[-1]) // step_ms + 1, dtype=np.int64) * step_ms
    closed = np.searchsorted(candles.close_time_ms, times)
    before = np.searchsorted(candles.close_time_ms, times - 3 * DAY_MS)
    log_prices = np.log(np.concatenate(([candles.open[0]], candles.close)))
    rng = np.random.default_rng([seed, zlib.crc32(candles.symbol.encode()), 1])
    rates = 0.0001 + 0.003 * (log_prices[closed] - log_prices[before]) + rng.normal(0.0, 3e-5, len(times))
    limited: Floats = np.clip(rates, -0.003, 0.003).round(8)
    return FundingSeries(candles.symbol, times, limited, f"synthetic(seed={seed})")


def synthetic_market(
    symbols: Sequence[str] = ("BTCUSDT",),
    *,
    interval: str = "1h",
    n: int = 10_000,
    seed: int = 0,
    start: TimeLike = "2023-01-01",
    volatility_annual: float = 0.6,
    regimes: bool = True,
    jumps: bool = True,
    drift_annual: float = 0.0,
    signal_strength: float = 0.0,
    correlation: float = 0.6,
    falling: bool = False,
) -> Market:
    """A market of synthetic candles and fundings.

    The first symbol's candles are those of `synthetic_candles`. The others share its regimes, volatility and the
    times of its jumps, and their normal shocks have the given correlation with its own.

    Raises:
        ConfigError: an argument out of range.
    """
    if not -1 <= correlation <= 1:
        raise ConfigError(f"synthetic: correlation is {correlation}; give -1 to 1")
    settings = _Settings(
        interval_ms=interval_to_ms(interval),
        n=n,
        seed=seed,
        start=start,
        volatility_annual=volatility_annual,
        regimes=regimes,
        jumps=jumps,
        drift_annual=drift_annual,
        signal_strength=signal_strength,
        falling=falling,
    )
    candles = []
    leader: _Shocks | None = None
    for symbol in symbols:
        shocks = (
            _shocks(symbol, settings) if leader is None else _follow(symbol, settings, leader, correlation)
        )
        leader = shocks if leader is None else leader
        price = _start_price(symbol, None)
        candles.append(_candles(symbol, settings, shocks, price, _tick(symbol, None, price)))
    return build_market(candles, funding={one.symbol: synthetic_funding(one, seed) for one in candles})


def _candle_volatility(volatility_annual: float, interval_ms: int) -> float:
    return volatility_annual * math.sqrt(interval_ms / _YEAR_MS)


def _signal(momentum: float, strength: float, volatility: float) -> float:
    return strength * volatility * min(max(momentum / _MOMENTUM_STD, -_MOMENTUM_CLIP), _MOMENTUM_CLIP)


def _start_price(symbol: str, given: float | None) -> float:
    price = START_PRICES_USDT.get(symbol, 100.0) if given is None else float(given)
    if not (math.isfinite(price) and price > 0):
        raise ConfigError(f"synthetic: start_price is {given}; give a price above 0")
    return price


def _tick(symbol: str, given: float | str | Decimal | None, price: float) -> Decimal:
    if given is None:
        instruments = default_instruments()
        if symbol in instruments and instruments[symbol].tick_size * 1000 <= price:
            return instruments[symbol].tick_size
        return Decimal(1).scaleb(math.floor(math.log10(price)) - 5)
    tick = Decimal(str(given))
    if not 0 < tick * 1000 <= Decimal(price):
        raise ConfigError(f"synthetic: tick is {given}; give one above 0 and below a thousandth of {price}")
    return tick


def _rng(symbol: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(symbol.encode()), 0])


def _shocks(symbol: str, settings: _Settings) -> _Shocks:
    """The shocks of a symbol of its own."""
    rng = _rng(symbol, settings.seed)
    n, base = settings.n, settings.candle_volatility
    normal = rng.normal(size=n)
    if settings.falling:
        fall = min(0.001, 2.0 / n)
        change = -fall * (1 + 0.2 * np.clip(normal, -2, 2))
        return _Shocks(change, np.full(n, 0.2 * fall), normal)
    noise = _VOLATILITY_STD * math.sqrt(1 - _VOLATILITY_AR**2) * rng.normal(size=n)
    noise[0] = _VOLATILITY_STD * rng.normal()
    volatility = base * np.exp(_autoregression(noise) - _VOLATILITY_STD**2)
    change = np.full(n, settings.drift_annual * settings.interval_ms / _YEAR_MS)
    regime_draws, jump_draws, jump_sizes = rng.random((n, 2)), rng.random(n), rng.normal(size=n)
    if settings.regimes:
        regime = _regime_chain(regime_draws)
        volatility = volatility * _REGIME_VOLATILITY[regime]
        change += base * _REGIME_DRIFT[regime]
    change += volatility * normal
    if settings.jumps:
        change += np.where(jump_draws < _JUMP_CHANCE, _JUMP_SIZE * base * jump_sizes, 0.0)
    return _Shocks(change, volatility, normal)


def _follow(symbol: str, settings: _Settings, leader: _Shocks, correlation: float) -> _Shocks:
    """The leader's shocks, with normal parts that correlate with its own."""
    own = _rng(symbol, settings.seed).normal(size=settings.n)
    normal = correlation * leader.normal + math.sqrt(1 - correlation**2) * own
    if settings.falling:
        return leader
    return _Shocks(leader.change + leader.volatility * (normal - leader.normal), leader.volatility, normal)


def _autoregression(noise: Floats) -> Floats:
    state, states = 0.0, np.empty(len(noise))
    for t, value in enumerate(noise.tolist()):
        state = _VOLATILITY_AR * state + value
        states[t] = state
    return states


def _regime_chain(draws: Floats) -> npt.NDArray[np.int64]:
    """int64 [n]: indices into the regime tables, from uniform draws [n, 2]."""
    leave = _REGIME_LEAVE_CHANCE.tolist()
    following = np.cumsum(_REGIME_NEXT, axis=1).tolist()
    chain = np.empty(len(draws), dtype=np.int64)
    state = 0
    for t, (leaving, choice) in enumerate(draws.tolist()):
        if leaving < leave[state]:
            state = next(index for index, bound in enumerate(following[state]) if choice <= bound + 1e-12)
        chain[t] = state
    return chain


def _candles(
    symbol: str, settings: _Settings, shocks: _Shocks, start_price: float, tick: Decimal
) -> CandleSet:
    n, base = settings.n, settings.candle_volatility
    step = float(tick)
    exponent = tick.as_tuple().exponent
    decimals = max(0, -exponent) if isinstance(exponent, int) else 0
    strength = 0.0 if settings.falling else settings.signal_strength
    lowest = _LOWEST_TICKS * step

    price = round(round(start_price / step) * step, decimals)
    prices = [price]
    momentum = 0.0
    for change in shocks.change.tolist():
        moved = price * math.exp(change + _signal(momentum, strength, base))
        if settings.falling:
            moved = min(moved, price - step)
        following = round(round(max(moved, lowest) / step) * step, decimals)
        momentum += _MOMENTUM_WEIGHT * (math.log(following / price) / base - momentum)
        price = following
        prices.append(price)
    open, close = np.array(prices[:-1]), np.array(prices[1:])

    rng = np.random.default_rng([settings.seed, zlib.crc32(symbol.encode()), 2])
    walk = np.cumsum(rng.normal(size=(n, _PATH_STEPS)), axis=1) / math.sqrt(_PATH_STEPS)
    share = np.arange(1, _PATH_STEPS + 1) / _PATH_STEPS
    bridge = (walk - walk[:, -1:] * share) * shocks.volatility[:, None]
    path = np.log(open)[:, None] + np.log(close / open)[:, None] * share + bridge
    # Rounding may carry an extreme across open or close, or below the lowest price.
    high = np.maximum(_on_grid(np.exp(path.max(axis=1)), step, decimals), np.maximum(open, close))
    low = np.minimum(_on_grid(np.exp(path.min(axis=1)), step, decimals), np.minimum(open, close))
    low = np.maximum(low, step)

    usual = _VOLUME_USDT_PER_HOUR * settings.interval_ms / HOUR_MS / start_price
    surprise = np.abs(np.log(close / open)) / base
    volume = usual * np.exp(0.3 * rng.normal(size=n)) * (0.4 + shocks.volatility / base) * (0.4 + surprise)
    start_ms = parse_time_ms(settings.start)
    if start_ms is None:
        raise ConfigError("synthetic: start is None; give the time of the first candle, as 2023-01-01")
    return CandleSet(
        symbol=symbol,
        interval_ms=settings.interval_ms,
        open_time_ms=start_ms + np.arange(n, dtype=np.int64) * settings.interval_ms,
        open=open,
        high=high,
        low=low,
        close=close,
        volume=np.round(volume, 3),
        source=f"synthetic(seed={settings.seed})",
        synthetic=True,
        market="synthetic",
    )


def _on_grid(prices: Floats, step: float, decimals: int) -> Floats:
    return np.round(np.round(prices / step) * step, decimals)
