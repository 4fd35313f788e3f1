"""SAC as Stable-Baselines3 has it, with replay by candle index, a measured train loop, and training in legs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import RolloutReturn
from stable_baselines3.common.utils import polyak_update
from torch.nn import functional

from agents.sac.replay import IndexReplayBuffer
from agents.sac.vec import FuturesVecEnv
from envs.errors import PerpgymError


class DivergedError(PerpgymError):
    """The losses are no longer finite."""


@dataclass
class Timing:
    """Where the wall time of a training went, in seconds, validations left out.

    Attributes:
        env_s: choosing actions, stepping the environments, and storing the transitions.
        replay_s: sampling batches.
        gradient_s: the gradient steps themselves.
        env_steps, gradient_steps: how many.
    """

    env_s: float = 0.0
    replay_s: float = 0.0
    gradient_s: float = 0.0
    env_steps: int = 0
    gradient_steps: int = 0

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.env_s + self.replay_s + self.gradient_s

    def figures(self) -> dict[str, float | int]:
        """Speeds and shares of the wall time, for evaluation.json; empty where nothing was trained."""
        total = self.total_s
        if total <= 0.0:
            return {}
        return {
            "wall_s": round(total, 3),
            "env_steps": self.env_steps,
            "gradient_steps": self.gradient_steps,
            "env_steps_per_s": round(self.env_steps / total, 1),
            "gradient_steps_per_s": round(self.gradient_steps / total, 1),
            "env_share": round(self.env_s / total, 4),
            "replay_share": round(self.replay_s / total, 4),
            "gradient_share": round(self.gradient_s / total, 4),
        }


class TradingSac(SAC):
    """SAC that stores candle indices, says where its time went, and stops when it diverges.

    Attributes:
        losses: of the latest gradient steps.
        timing: of this session.
        refilling: explore by the policy instead of at random before `learning_starts`.
        planned_timesteps: of the whole training, which a learning-rate schedule is over; None takes those that
            `learn` is asked for.
    """

    losses: dict[str, float]
    timing: Timing
    refilling: bool = False
    planned_timesteps: int | None = None

    def _setup_model(self) -> None:
        self.losses, self.timing = {}, Timing()
        env = self.env
        if self.replay_buffer is None and self.replay_buffer_class is None and isinstance(env, FuturesVecEnv):
            # Here, and not by `replay_buffer_kwargs`: those are written into model.zip.
            self.replay_buffer = IndexReplayBuffer(
                self.buffer_size,
                self.observation_space,
                self.action_space,
                device=self.device,
                n_envs=self.n_envs,
                features=env.features,
                window_size=env.window_size,
                decided_on=lambda: env.decided_on,
            )
        super()._setup_model()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "losses", "timing", "refilling", "planned_timesteps"]

    def begin_leg(self) -> None:
        """Begin new episodes and new random draws, both a function of the seed and of `num_timesteps` alone.

        A training is cut into legs where it writes a checkpoint. What follows a checkpoint then depends on nothing
        that is not in it, and a resumed training goes on as if it had never stopped.
        """
        assert self.env is not None and self.seed is not None
        sequence = np.random.SeedSequence([self.seed, self.num_timesteps])
        self.set_random_seed(int(sequence.generate_state(1)[0]))
        self._last_obs = self.env.reset()  # type: ignore[assignment]

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, self.planned_timesteps or total_timesteps)

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> RolloutReturn:
        """See `OffPolicyAlgorithm.collect_rollouts`."""
        start, steps = time.perf_counter(), self.num_timesteps
        rollout = super().collect_rollouts(*args, **kwargs)
        self.timing.env_s += time.perf_counter() - start
        self.timing.env_steps += self.num_timesteps - steps
        return rollout

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """The gradient steps of `SAC.train`, to the same weights bit for bit, in less time.

        The critics' own gradients are not computed in the actor's step, where nobody uses them, and losses are read
        once per call instead of four times per step, for each of which a GPU would have to be waited for.

        Raises:
            DivergedError: a loss is not finite.
        """
        start = time.perf_counter()
        self.policy.set_training_mode(True)
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)
        with self._naming_divergence():
            losses, replay_s = self._gradient_steps(gradient_steps, batch_size)
        self._n_updates += gradient_steps
        means = losses.double().mean(dim=0).tolist()
        self.timing.replay_s += replay_s
        self.timing.gradient_s += time.perf_counter() - start - replay_s
        self.timing.gradient_steps += gradient_steps
        self.losses = dict(zip(("actor_loss", "critic_loss", "ent_coef"), means, strict=True))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, value in self.losses.items():
            self.logger.record(f"train/{name}", value)
        if not all(math.isfinite(value) for value in self.losses.values()):
            raise self._diverged()

    def _gradient_steps(self, gradient_steps: int, batch_size: int) -> tuple[torch.Tensor, float]:
        """Losses of actor and critic and the entropy coefficient, [gradient_steps, 3]; seconds spent sampling."""
        replay_s = 0.0
        told: list[torch.Tensor] = []
        # Listed once: walking through the modules takes longer than what is done with their parameters.
        critic, critic_target = list(self.critic.parameters()), list(self.critic_target.parameters())
        assert self.replay_buffer is not None
        for step in range(gradient_steps):
            sampling = time.perf_counter()
            batch = self.replay_buffer.sample(batch_size)
            replay_s += time.perf_counter() - sampling

            actions, log_prob = self.actor.action_log_prob(batch.observations)
            log_prob = log_prob.reshape(-1, 1)
            ent_coef = self._entropy_step(log_prob)

            with torch.no_grad():
                next_actions, next_log_prob = self.actor.action_log_prob(batch.next_observations)
                next_values = torch.cat(self.critic_target(batch.next_observations, next_actions), dim=1)
                next_values, _ = torch.min(next_values, dim=1, keepdim=True)
                next_values = next_values - ent_coef * next_log_prob.reshape(-1, 1)
                targets = batch.rewards + (1 - batch.dones) * self.gamma * next_values
            values = self.critic(batch.observations, batch.actions)
            critic_loss = 0.5 * torch.stack([functional.mse_loss(value, targets) for value in values]).sum()
            self.critic.optimizer.zero_grad()
            critic_loss.backward()  # type: ignore[no-untyped-call]
            self.critic.optimizer.step()

            _require_gradients(critic, wanted=False)
            values = torch.cat(self.critic(batch.observations, actions), dim=1)
            least, _ = torch.min(values, dim=1, keepdim=True)
            actor_loss = (ent_coef * log_prob - least).mean()
            self.actor.optimizer.zero_grad()
            actor_loss.backward()  # type: ignore[no-untyped-call]
            self.actor.optimizer.step()
            _require_gradients(critic, wanted=True)

            if step % self.target_update_interval == 0:
                polyak_update(critic, critic_target, self.tau)
            told.append(torch.stack((actor_loss.detach(), critic_loss.detach(), ent_coef.reshape(()))))
        return torch.stack(told), replay_s

    def _entropy_step(self, log_prob: torch.Tensor) -> torch.Tensor:
        """The entropy coefficient, learned one step further where it is learned."""
        if self.ent_coef_optimizer is None or self.log_ent_coef is None:
            return self.ent_coef_tensor
        coefficient = torch.exp(self.log_ent_coef.detach())
        assert isinstance(self.target_entropy, float)
        loss = -(self.log_ent_coef * (log_prob + self.target_entropy).detach()).mean()
        self.ent_coef_optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.ent_coef_optimizer.step()
        return coefficient

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        with self._naming_divergence():
            return super()._sample_action(0 if self.refilling else learning_starts, action_noise, n_envs)

    @contextmanager
    def _naming_divergence(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            # What torch says of a normal distribution whose mean is not a number.
            if all(bool(torch.isfinite(weights).all()) for weights in self.actor.parameters()):
                raise
            raise self._diverged() from error

    def _diverged(self) -> DivergedError:
        return DivergedError(
            f"the training diverged at step {self.num_timesteps} ({self.losses}): lower sac.learning_rate or "
            "sac.reward_scale"
        )


def _require_gradients(parameters: list[torch.nn.Parameter], *, wanted: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad = wanted
