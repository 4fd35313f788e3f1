"""What happens between the steps of a training: progress, validation, checkpoints, and stopping."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from stable_baselines3.common.callbacks import BaseCallback

from agents.sac.algorithm import Timing, TradingSac
from agents.sac.config import EvaluationConfig
from agents.sac.dataset import Dataset
from agents.sac.export import actor_to_onnx
from agents.sac.model import save_model
from agents.sac.policy import OnnxPolicy
from agents.sac.replay import IndexReplayBuffer
from agents.sac.validation import Validation, validate
from agents.training_run import TrainingRun
from envs.futures_env import FuturesEnv

_PROGRESS_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is.

    Attributes:
        timesteps, total: candles traded, and to trade.
        steps_per_s: since the progress before.
        episode_return: sum of the rewards of the latest episode; None before the first has ended.
        losses: of the latest gradient steps.
    """

    timesteps: int
    total: int
    steps_per_s: float
    episode_return: float | None
    losses: dict[str, float]


class Reporter(Protocol):
    """Tells the user how a training goes."""

    def notice(self, message: str) -> None:
        """One line."""

    def started(self, dataset: Dataset) -> None:
        """The data are there, and the training begins."""

    def progress(self, progress: Progress) -> None:
        """A few times per second."""

    def validated(self, validation: Validation, *, best: bool) -> None:
        """After each validation."""

    def evaluating(self) -> None:
        """The training is over, and the best policy is evaluated."""


@dataclass
class TrainingState:
    """How far a training is, and what it found: training_state.json.

    Attributes:
        timesteps, updates: candles traded and gradient steps done.
        best: the validation that model.zip and policy.onnx are of.
        validations: all of them.
        timing: where the time went, all sessions together.
    """

    timesteps: int = 0
    updates: int = 0
    best: dict[str, Any] | None = None
    validations: list[dict[str, Any]] = field(default_factory=list)
    timing: Timing = field(default_factory=Timing)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "timesteps": self.timesteps,
            "updates": self.updates,
            "best": self.best,
            "validations": self.validations,
            "timing": asdict(self.timing),
        }


class TrainingCallback(BaseCallback):
    """Tells how a training goes, stops it when asked, validates, and keeps the best and the latest model.

    After each validation the run folder can be used: model.zip and policy.onnx are the best so far, checkpoint.zip and
    replay.npz are the latest.

    Args:
        run: where to write.
        env: the environment of the validation span.
        state: of the training so far; changed in place.
        settings: by what to validate.
        total: timesteps to reach.
        reporter: told about it.
        should_stop: asked at every step.
    """

    model: TradingSac

    def __init__(
        self,
        run: TrainingRun,
        env: FuturesEnv,
        state: TrainingState,
        *,
        settings: EvaluationConfig,
        total: int,
        reporter: Reporter,
        should_stop: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._run = run
        self._env = env
        self._state = state
        self._settings = settings
        self._total = total
        self._reporter = reporter
        self._should_stop = should_stop
        self._told_s = time.monotonic()
        self._told_steps = state.timesteps

    def _on_step(self) -> bool:
        if self._should_stop():
            return False
        self._tell()
        return True

    def _on_training_end(self) -> None:
        self._tell(last=True)

    def validate(self) -> None:
        """Validate the present policy, keep it if it is the best, and write a checkpoint."""
        data = actor_to_onnx(self.model, self._env.spec_observation.hash)
        policy = OnnxPolicy(data, source="the policy being trained")
        validation = validate(
            policy, self._env, score=self._settings.score, timesteps=self.model.num_timesteps
        )
        state = self._state
        best = state.best is None or validation.score > state.best["score"]
        if best:
            save_model(self.model, self._run.model_path)
            self._run.write_policy(data)
            state.best = validation.to_dict()
        state.validations.append(validation.to_dict())
        self.checkpoint()
        for name, value in validation.to_dict().items():
            if value is not None and name != "timesteps":
                self.logger.record(f"validation/{name}", value)
        self.logger.dump(self.model.num_timesteps)
        self._reporter.validated(validation, best=best)

    def checkpoint(self) -> None:
        """Write the latest model and its replay buffer, then how far they are.

        A kill in between leaves the state of the checkpoint before, which the buffer is then not of.
        """
        save_model(self.model, self._run.checkpoint_path)
        if isinstance(self.model.replay_buffer, IndexReplayBuffer):
            self.model.replay_buffer.save(self._run.replay_path, timesteps=self.model.num_timesteps)
        self._state.timesteps = self.model.num_timesteps
        self._state.updates = self.model._n_updates
        self._run.write_state(self._state.to_dict())

    def _tell(self, *, last: bool = False) -> None:
        now_s = time.monotonic()
        elapsed_s = now_s - self._told_s
        if elapsed_s < _PROGRESS_EVERY_S and not last:
            return
        episodes = self.model.ep_info_buffer
        self._reporter.progress(
            Progress(
                timesteps=self.num_timesteps,
                total=self._total,
                steps_per_s=(self.num_timesteps - self._told_steps) / max(elapsed_s, 1e-9),
                episode_return=float(episodes[-1]["r"]) if episodes else None,
                losses=self.model.losses,
            )
        )
        self._told_s, self._told_steps = now_s, self.num_timesteps
