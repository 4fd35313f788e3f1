"""The trading environment's contract: a Gymnasium env whose step has phases.

`step(action)` is `execute(plan(action))`, then `advance()`. The phases exist because a live row must be on disk
when the order is done, not a candle later, and because risk control stands between plan and execution.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.account import AccountSnapshot, Approved, Execution, Plan
from envs.instruments import Instrument
from envs.observation import ObservationSpec
from envs.settings import EnvConfig
from envs.view import MarketView, RecentCandles

Observation = NDArray[np.float32]
Action = NDArray[Any]
StepResult = tuple[Observation, float, bool, bool, dict[str, Any]]


class TradingEnv(gym.Env[Observation, Action], abc.ABC):
    """An environment that trades: the simulation and the live exchange are two of them.

    Attributes:
        symbols: in the order of the action vector.
        instruments: the exchange's rules, in the same order.
        config: the settings.
        spec_observation: the observation, entry by entry.
    """

    symbols: tuple[str, ...]
    instruments: tuple[Instrument, ...]
    config: EnvConfig
    spec_observation: ObservationSpec

    @abc.abstractmethod
    def account(self) -> AccountSnapshot:
        """The account, marked at the last closed candle."""

    @abc.abstractmethod
    def plan(self, action: Action) -> Plan:
        """Turn an action into rounded orders; nothing is sent.

        Raises:
            ActionError: the action has another shape or is not finite.
        """

    @abc.abstractmethod
    def execute(self, plan: Plan | Approved[Plan]) -> Execution:
        """Carry out a plan once per step and report what came of it."""

    @abc.abstractmethod
    def advance(self) -> StepResult:
        """Play, or wait for, the next candle; (observation, reward, terminated, truncated, info).

        `info["events"]` is a tuple of `CandleEvent`: what the exchange did by itself meanwhile.
        `info["funding_usdt"]` is the funding booked meanwhile, by symbol; `info["transfers_usdt"]` are deposits less
        withdrawals, which are in the account but are no profit. `info["failure"]` says why the exchange can no longer
        be relied on, a reason for the emergency protocol. `reset` gives events and transfers too.
        """

    @abc.abstractmethod
    def flatten(self, reason: str) -> Execution:
        """Cancel every pending order and close every position at market."""

    @property
    @abc.abstractmethod
    def interval_ms(self) -> int:
        """Length of a candle."""

    @abc.abstractmethod
    def recent_candles(self, count: int) -> RecentCandles:
        """The last `count` closed candles, or as many as are known."""

    @property
    def view(self) -> MarketView:
        """What an agent may look at besides the observation."""
        return MarketView(self)

    def stale_symbols(self) -> Sequence[str]:
        """Symbols whose last closed candle is too old to trade on. A simulation has none."""
        return ()

    def step(self, action: Action) -> StepResult:
        """One step: plan, execute, advance."""
        self.execute(self.plan(action))
        return self.advance()


class TradingWrapper(gym.Wrapper[Observation, Action, Observation, Action]):
    """A wrapper that forwards the phases; a subclass overrides the one it is about."""

    @property
    def trading(self) -> TradingEnv:
        """The wrapped environment, with its phases."""
        return cast(TradingEnv, self.env)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols in the order of the action vector."""
        return self.trading.symbols

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """The exchange's rules, in the order of the symbols."""
        return self.trading.instruments

    @property
    def config(self) -> EnvConfig:
        """Settings of the wrapped environment."""
        return self.trading.config

    @property
    def spec_observation(self) -> ObservationSpec:
        """The observation, entry by entry."""
        return self.trading.spec_observation

    def account(self) -> AccountSnapshot:
        """See `TradingEnv.account`."""
        return self.trading.account()

    def plan(self, action: Action) -> Plan:
        """See `TradingEnv.plan`."""
        return self.trading.plan(action)

    def execute(self, plan: Plan | Approved[Plan]) -> Execution:
        """See `TradingEnv.execute`."""
        return self.trading.execute(plan)

    def advance(self) -> StepResult:
        """See `TradingEnv.advance`."""
        return self.trading.advance()

    def flatten(self, reason: str) -> Execution:
        """See `TradingEnv.flatten`."""
        return self.trading.flatten(reason)

    @property
    def view(self) -> MarketView:
        """See `TradingEnv.view`."""
        return self.trading.view

    def stale_symbols(self) -> Sequence[str]:
        """See `TradingEnv.stale_symbols`."""
        return self.trading.stale_symbols()

    def step(self, action: Action) -> StepResult:
        """One step through this wrapper's own phases."""
        self.execute(self.plan(action))
        return self.advance()
