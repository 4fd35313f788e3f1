"""The agent's contract, and what an agent asks of its environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from envs.account import Execution, Plan
from envs.base import Action, Observation
from envs.features import FeatureConfig
from envs.observation import ObservationSpec
from envs.risk import RiskLimits
from envs.scaler import FeatureScaler
from envs.settings import EnvConfig


@runtime_checkable
class Agent(Protocol):
    """Decides once per closed candle.

    Attributes:
        name: short, `[A-Za-z0-9.-]+`; it names the agent in the step log and in client order ids.
    """

    name: str

    def reset(self, spec: ObservationSpec, *, seed: int | None = None) -> None:
        """Begin an episode on an environment with this observation.

        Raises:
            ObservationMismatchError: the agent cannot read this observation.
        """

    def act(self, observation: Observation, info: dict[str, Any]) -> Action:
        """The action for this observation, in the environment's action space.

        `info["view"]` is the `envs.view.MarketView`: prices, account and rules, for agents that read more than the
        observation.
        """

    def close(self) -> None:
        """Give back what the agent holds."""


@runtime_checkable
class HearsExecution(Protocol):
    """An agent that wants to know what became of its action."""

    def on_execution(self, plan: Plan, execution: Execution) -> None:
        """Told after every execution, before the next candle: what was planned, and what came of it."""


@runtime_checkable
class KeepsRecords(Protocol):
    """An agent that keeps records of its own beside the step log."""

    def write_to(self, folder: Path) -> None:
        """Told once where this run's files go, before the run."""

    def resume(self, folder: Path) -> None:
        """Told before a run that goes on on an account that earlier runs may have traded on, all in this folder."""

    def notices(self) -> Sequence[str]:
        """What a report should say about the agent's part, one line each; asked after the run."""


@runtime_checkable
class Rehearses(Protocol):
    """An agent that can go through a decision without making one."""

    def rehearse(self, observation: Observation) -> None:
        """What `act` does with such an observation, without any effect. May be called in another thread than `act`,
        but never at the same time.
        """


class KnownActions(NamedTuple):
    """Actions of steps to come.

    Attributes:
        actions: float64 [K, n].
        until_held: an action counts until a position in its symbol is observed, and is 0 from then on.
    """

    actions: NDArray[np.float64]
    until_held: bool = False


@runtime_checkable
class ForesightedAgent(Agent, Protocol):
    """An agent whose actions follow from the candles alone: a simulation knows them ahead, and runs compiled."""

    def act_ahead(self, candles: NDArray[np.float32]) -> KnownActions:
        """What `act` would give for the next K observations, in order; each is asked for once.

        Args:
            candles: [K, F], the features of the last candle of each observation.
        """


@dataclass(frozen=True)
class AgentSetup:
    """An agent and the environment that it is meant for: enough to build a backtest's or a live env.

    Attributes:
        agent: the agent.
        env: settings of its environment.
        features: the indicators of its observation.
        scaler: of the training run; None leaves features unscaled.
        limits: the risk limits that apply unless the user gives others.
        train_id: the training run it comes from, if any.
        max_steps: steps after which the agent has nothing left to say; None when it always has.
    """

    agent: Agent
    env: EnvConfig
    features: FeatureConfig
    scaler: FeatureScaler | None = None
    limits: RiskLimits = field(default_factory=RiskLimits)
    train_id: str | None = None
    max_steps: int | None = None
