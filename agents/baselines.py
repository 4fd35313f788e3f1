"""Agents that follow a rule: flat, buy-and-hold, random, EMA cross, momentum.

They read nothing but the observation, of any number of symbols. Each comes with the environment that it is meant
for (`baseline_setup`): a window of one candle, features that are not scaled, and a fraction 1/n of equity for each
of n symbols.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from agents.base import Agent, AgentSetup, KnownActions
from envs.actions import SignalScheme, TargetScheme
from envs.base import Action, Observation
from envs.config import StrictModel
from envs.errors import ConfigError, ObservationMismatchError
from envs.features import FeatureConfig
from envs.indicators import EmaDistance, HighLowRange, LogReturn
from envs.observation import ObservationSpec
from envs.settings import EnvConfig


def last_candle_columns(spec: ObservationSpec, feature: str, *, whose: str) -> NDArray[np.intp]:
    """Where the observation holds `feature` of its last candle: [n] indices, in the order of the symbols.

    Raises:
        ObservationMismatchError: the observation has no such feature.
    """
    columns = [column for column, name in enumerate(spec.features) if name == feature]
    if len(columns) != len(spec.symbols):
        raise ObservationMismatchError(
            f"{whose} needs the feature {feature!r} of each symbol; this observation has "
            f"{', '.join(dict.fromkeys(spec.features))}: add its indicator to the features",
            expected=feature,
            actual=spec.hash,
        )
    return np.array(columns, dtype=np.intp) + _last_candle(spec)


def _last_candle(spec: ObservationSpec) -> int:
    """Where the features of an observation's last candle begin."""
    return (spec.window_size - 1) * len(spec.features)


class FlatAgent:
    """Never trades."""

    def __init__(self, name: str = "flat") -> None:
        self.name = name
        self._action = np.zeros(0, np.float32)

    def reset(self, spec: ObservationSpec, *, seed: int | None = None) -> None:
        """Begin an episode on any observation."""
        self._action = np.zeros(len(spec.symbols), np.float32)

    def act(self, observation: Observation, info: dict[str, Any]) -> Action:
        """Zeros [n]."""
        return self._action.copy()

    def act_ahead(self, candles: NDArray[np.float32]) -> KnownActions:
        """Zeros [K, n]."""
        return KnownActions(np.zeros((len(candles), len(self._action))))

    def close(self) -> None:
        """Nothing is held."""


class BuyAndHoldAgent:
    """Opens a long in every symbol once, and keeps it: 1 until the position is there, 0 (hold) from then on.

    For a signal scheme, in which 0 leaves a position alone. Its short name leaves room in client order ids.
    """

    def __init__(self, name: str = "buy-hold") -> None:
        self.name = name
        self._exposure = slice(0, 0)
        self._opened = np.zeros(0, np.bool_)

    def reset(self, spec: ObservationSpec, *, seed: int | None = None) -> None:
        """Begin an episode on any observation."""
        n = len(spec.symbols)
        first = spec.window_size * len(spec.features)
        self._exposure = slice(first, first + 3 * n, 3)
        self._opened = np.zeros(n, np.bool_)

    def act(self, observation: Observation, info: dict[str, Any]) -> Action:
        """1 where no position was seen yet."""
        self._opened |= observation[self._exposure] != 0.0
        return np.where(self._opened, np.float32(0.0), np.float32(1.0))

    def act_ahead(self, candles: NDArray[np.float32]) -> KnownActions:
        """1 until a position is seen."""
        return KnownActions(np.ones((len(candles), len(self._opened))), until_held=True)

    def close(self) -> None:
        """Nothing is held."""


class RandomAgent:
    """Uniform targets in [-1, 1], the same ones for the same seed.

    Args:
        seed: used when `reset` is not given one.
    """

    def __init__(self, name: str = "random", *, seed: int = 0) -> None:
        self.name = name
        self._seed = seed
        self._n = 0
        self._rng = np.random.default_rng(seed)

    def reset(self, spec: ObservationSpec, *, seed: int | None = None) -> None:
        """Begin an episode on any observation; the same seed draws the same actions."""
        self._n = len(spec.symbols)
        self._rng = np.random.default_rng(self._seed if seed is None else seed)

    def act(self, observation: Observation, info: dict[str, Any]) -> Action:
        """The next draw, [n]."""
        return self._rng.uniform(-1.0, 1.0, self._n).astype(np.float32)

    def act_ahead(self, candles: NDArray[np.float32]) -> KnownActions:
        """The next K draws."""
        drawn = self._rng.uniform(-1.0, 1.0, (len(candles), self._n)).astype(np.float32)
        return KnownActions(drawn.astype(np.float64))

    def close(self) -> None:
        """Nothing is held."""


class EmaCrossAgent:
    """Long while the fast EMA of the close is above the slow one, short while it is below.

    Reads close / EMA - 1 of both periods, which falls as the EMA rises: the fast EMA is above the slow one where its
    distance is the smaller.
    """

    def __init__(self, name: str = "ema-cross", *, fast: int = 20, slow: int = 50) -> None:
        self.name = name
        self.fast = EmaDistance(period=fast).columns[0]
        self.slow = EmaDistance(period=slow).columns[0]
        self._fast = self._slow = np.zeros(0, np.intp)
        self._first = 0

    def reset(self, spec: ObservationSpec, *, seed: int | None = None) -> None:
        """Find both distances in the observation.

        Raises:
            ObservationMismatchError: one of them is not there.
        """
        self._fast = last_candle_columns(spec, self.fast, whose=self.name)
        self._slow = last_candle_columns(spec, self.slow, whose=self.name)
        self._first = _last_candle(spec)

    def act(self, observation: Observation, info: dict[str, Any]) -> Action:
        """1 long, -1 short, 0 where the EMAs are equal: [n]."""
        action: Action = np.sign(observation[self._slow] - observation[self._fast])
        return action

    def act_ahead(self, candles: NDArray[np.float32]) -> KnownActions:
        """The same of each candle."""
        change = candles[:, self._slow - self._first] - candles[:, self._fast - self._first]
        return KnownActions(np.sign(change).astype(np.float64))

    def close(self) -> None:
        """Nothing is held."""


class MomentumAgent:
    """Long after a rise over the last candles, short after a fall.

    Args:
        periods: candles that the log return is taken over.
        threshold: log returns smaller than this, rising or falling, change nothing.
    """

    def __init__(self, name: str = "momentum", *, periods: int = 24, threshold: float = 0.0) -> None:
        self.name = name
        self.feature = LogReturn(periods=periods).columns[0]
        self._threshold = threshold
        self._columns = np.zeros(0, np.intp)
        self._first = 0

    def reset(self, spec: ObservationSpec, *, seed: int | None = None) -> None:
        """Find the log return in the observation.

        Raises:
            ObservationMismatchError: it is not there.
        """
        self._columns = last_candle_columns(spec, self.feature, whose=self.name)
        self._first = _last_candle(spec)

    def act(self, observation: Observation, info: dict[str, Any]) -> Action:
        """1 long, -1 short, 0 within the threshold: [n]."""
        return self._actions(observation[self._columns])

    def act_ahead(self, candles: NDArray[np.float32]) -> KnownActions:
        """The same of each candle."""
        return KnownActions(self._actions(candles[:, self._columns - self._first]).astype(np.float64))

    def _actions(self, change: NDArray[np.float32]) -> Action:
        return np.where(np.abs(change) < self._threshold, np.float32(0.0), np.sign(change))

    def close(self) -> None:
        """Nothing is held."""


# --- settings ---------------------------------------------------------------------------------------------


class NoParameters(StrictModel):
    """Of agents that have nothing to set."""


class EmaCrossParameters(StrictModel):
    """fast, slow: periods of the two EMAs, in candles."""

    fast: int = Field(20, ge=2, le=10_000)
    slow: int = Field(50, ge=2, le=10_000)

    @model_validator(mode="after")
    def _fast_before_slow(self) -> EmaCrossParameters:
        if self.fast >= self.slow:
            raise ValueError(f"fast is {self.fast} and slow {self.slow}; fast must be the smaller")
        return self


class MomentumParameters(StrictModel):
    """periods: candles of the log return. threshold: log returns smaller than this change nothing."""

    periods: int = Field(24, ge=1, le=10_000)
    threshold: float = Field(0.0, ge=0.0)


def _whole_equity(symbols: int) -> EnvConfig:
    return EnvConfig(window_size=1, action=SignalScheme(signal_fraction=1.0 / symbols))


# An observation has at least one feature; this one needs no warm-up.
_ANY_FEATURE = FeatureConfig(indicators=(HighLowRange(),))


def _flat(values: Mapping[str, Any], symbols: int, seed: int | None) -> AgentSetup:
    NoParameters.parse(values, where="agent: flat")
    return AgentSetup(FlatAgent(), _whole_equity(symbols), _ANY_FEATURE)


def _buy_and_hold(values: Mapping[str, Any], symbols: int, seed: int | None) -> AgentSetup:
    NoParameters.parse(values, where="agent: buy-and-hold")
    return AgentSetup(BuyAndHoldAgent(), _whole_equity(symbols), _ANY_FEATURE)


def _random(values: Mapping[str, Any], symbols: int, seed: int | None) -> AgentSetup:
    NoParameters.parse(values, where="agent: random")
    agent: Agent = RandomAgent(seed=0 if seed is None else seed)
    return AgentSetup(agent, EnvConfig(window_size=1, action=TargetScheme()), _ANY_FEATURE)


def _ema_cross(values: Mapping[str, Any], symbols: int, seed: int | None) -> AgentSetup:
    given = EmaCrossParameters.parse(values, where="agent: ema-cross")
    features = FeatureConfig(indicators=(EmaDistance(period=given.fast), EmaDistance(period=given.slow)))
    return AgentSetup(EmaCrossAgent(fast=given.fast, slow=given.slow), _whole_equity(symbols), features)


def _momentum(values: Mapping[str, Any], symbols: int, seed: int | None) -> AgentSetup:
    given = MomentumParameters.parse(values, where="agent: momentum")
    features = FeatureConfig(indicators=(LogReturn(periods=given.periods),))
    agent = MomentumAgent(periods=given.periods, threshold=given.threshold)
    return AgentSetup(agent, _whole_equity(symbols), features)


_BUILDERS: Mapping[str, Callable[[Mapping[str, Any], int, int | None], AgentSetup]] = MappingProxyType(
    {
        "flat": _flat,
        "buy-and-hold": _buy_and_hold,
        "random": _random,
        "ema-cross": _ema_cross,
        "momentum": _momentum,
    }
)

BASELINES = tuple(_BUILDERS)
"""Names of the rules."""


def baseline_setup(
    name: str, *, symbols: int, parameters: Mapping[str, Any] | None = None, seed: int | None = None
) -> AgentSetup:
    """A rule with the environment that it is meant for.

    Args:
        name: one of `BASELINES`.
        symbols: how many the environment trades.
        parameters: of the rule, such as `{"fast": 20, "slow": 50}`.
        seed: of the random agent.

    Raises:
        ConfigError: an unknown name or parameter, or a parameter out of range.
    """
    if name not in _BUILDERS:
        near = difflib.get_close_matches(name, BASELINES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown rule {name!r}.{hint} Known: {', '.join(BASELINES)}")
    if symbols < 1:
        raise ConfigError(f"{name}: {symbols} symbols; give at least one")
    return _BUILDERS[name](parameters or {}, symbols, seed)
