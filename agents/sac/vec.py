"""`FuturesVectorEnv` as a Stable-Baselines3 `VecEnv`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from envs.errors import ConfigError
from envs.vector_env import FuturesVectorEnv

_START = "start_index"


class FuturesVecEnv(VecEnv):
    """Accounts of a `FuturesVectorEnv`, as Stable-Baselines3 expects environments.

    Observations are passed on as they are, without a copy. Where an episode ended, `infos` has what SB3's own
    environments and its Monitor put there: `terminal_observation`, `TimeLimit.truncated`, and `episode` with the sum
    of rewards `r`, the length `l` and the time since the start `t`, in seconds.

    Args:
        env: what is stepped. Its seeds come from `seed`, or from the algorithm's `seed` argument.
        reward_scale: factor on the rewards that `step` returns; `r` of an episode stays that of the environment.
    """

    def __init__(self, env: FuturesVectorEnv, *, reward_scale: float = 1.0) -> None:
        self.env = env
        self.reward_scale = reward_scale
        self._actions: NDArray[Any] | None = None
        self._began_s = time.monotonic()
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    # --- what a replay buffer by candle index asks -------------------------------------------------------

    @property
    def features(self) -> NDArray[np.float32]:
        """See `FuturesVectorEnv.features`."""
        return self.env.features

    @property
    def window_size(self) -> int:
        """See `FuturesVectorEnv.window_size`."""
        return self.env.window_size

    @property
    def decided_on(self) -> NDArray[np.int64]:
        """See `FuturesVectorEnv.decided_on`."""
        return self.env.decided_on

    # --- VecEnv ------------------------------------------------------------------------------------------

    def reset(self) -> NDArray[np.float32]:
        """Start new episodes, with the seeds and options given since the last reset.

        Raises:
            ConfigError: some environments were given a `start_index`, and others not.
        """
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        observations, _ = self.env.reset(seed=seeds, options=self._asked())
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observations

    def _asked(self) -> dict[str, Any]:
        given = [options[_START] for options in self._options if _START in options]
        unknown = sorted({name for options in self._options for name in options} - {_START})
        if unknown or len(given) not in (0, self.num_envs):
            raise ConfigError(
                f"options {unknown or [_START]} for some environments: give {_START} to all of them, or to none"
            )
        return {_START: given} if given else {}

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the actions [num_envs, n] for `step_wait`."""
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step every account: (observations, rewards as float32, dones, infos)."""
        actions, self._actions = self._actions, None
        if actions is None:
            raise gym.error.NoAsyncCallError("step_wait() without step_async(): call step()", "step")
        observations, rewards, terminated, truncated, ended = self.env.step(actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        dones = terminated | truncated
        if ended:
            self._tell(infos, np.flatnonzero(dones), truncated, ended)
        return observations, (rewards * self.reward_scale).astype(np.float32), dones, infos

    def _tell(
        self,
        infos: list[dict[str, Any]],
        slots: NDArray[np.intp],
        truncated: NDArray[np.bool_],
        ended: dict[str, Any],
    ) -> None:
        statistics = ended["final_info"]["episode"]
        elapsed_s = round(time.monotonic() - self._began_s, 6)
        for slot in slots.tolist():
            infos[slot] = {
                "terminal_observation": ended["final_obs"][slot],
                "TimeLimit.truncated": bool(truncated[slot]),
                "episode": {
                    "r": float(statistics["r"][slot]),
                    "l": int(statistics["l"][slot]),
                    "t": elapsed_s,
                },
            }

    def close(self) -> None:
        """Close the accounts."""
        self.env.close()

    # --- attributes: the accounts are one object, and share them -----------------------------------------

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute of the vector environment, once per index."""
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of all accounts.

        Raises:
            ConfigError: only some of them are meant.
        """
        self._require_all(indices, f"{attr_name} of")
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the vector environment, once for all accounts; its result, once per account.

        Raises:
            ConfigError: only some of them are meant.
        """
        self._require_all(indices, f"{method_name}() for")
        return [getattr(self.env, method_name)(*method_args, **method_kwargs)] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Never: there are no single environments that could be."""
        return [False for _ in self._get_indices(indices)]

    def _require_all(self, indices: VecEnvIndices, what: str) -> None:
        chosen: Sequence[int] = sorted(set(self._get_indices(indices)))
        if list(chosen) != list(range(self.num_envs)):
            raise ConfigError(
                f"{what} accounts {list(chosen)} alone: all accounts share it; leave out indices"
            )
