"""Thousands of accounts in one compiled call: a Gymnasium vector environment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numba
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs import kernel
from envs.buffers import Buffers
from envs.compiling import entry_point
from envs.errors import ActionError, ConfigError
from envs.features import FeatureTable
from envs.futures_env import FuturesEnv
from envs.instruments import Instrument
from envs.market import Market
from envs.observation import ObservationSpec
from envs.randomisation import DomainRandomisation
from envs.scaler import FeatureScaler
from envs.settings import EnvConfig

# Below this, waking other threads costs more than they save.
_LEAST_PARALLEL = 32
_CACHE_LINE = 64


class FuturesVectorEnv(VectorEnv[NDArray[np.float32], NDArray[Any], NDArray[Any]]):
    """`num_envs` accounts of `FuturesEnv` over one market, stepped together by one compiled call on all cores.

    Account i goes through the same bits as a `FuturesEnv` with the same arguments, seed and actions; a property
    test holds it. Spaces, rewards and the ends of episodes are described there.

    **Autoreset.** `AutoresetMode.SAME_STEP`: an account whose episode ends is reset within that step. The step's
    observation is the first of the new episode, the one before it is in `infos["final_obs"]`, and
    `infos["final_info"]` tells of the episode: `episode` (`r` sum of rewards, `l` steps, as Gymnasium's
    RecordEpisodeStatistics), `first_index`, `equity_usdt`, `max_drawdown`, `trades`, `liquidated`. Arrays in infos
    are [num_envs] with a mask of the same name after an underscore, as Gymnasium prescribes.

    **Arrays.** What `reset` and `step` return is the caller's: it is never written again while anything refers to
    it, views included. Observations that were dropped are reused, which saves the memory's first touch.

    **Randomness.** Every account has a generator of its own, seeded by `reset(seed=...)`: with a list, or
    with seed + i. At the start of an episode it draws the start, if `random_start`, then initial capital, slippage
    and fee multiplier, those that `randomisation` gives. So what account i meets does not depend on `num_envs`.

    Args:
        num_envs: accounts.
        market, features, scaler, config, instruments, start, end, random_start, episode_candles: as for `FuturesEnv`.
        randomisation: what differs from episode to episode.
        threads: that step the accounts; None takes all that numba may use, 1 does without other threads. A
            process that has stepped accounts on several threads must not be forked into one that does.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        market: Market | None = None,
        *,
        features: FeatureTable | None = None,
        scaler: FeatureScaler | None = None,
        config: EnvConfig | None = None,
        instruments: Mapping[str, Instrument] | None = None,
        start: str | int | None = None,
        end: str | int | None = None,
        random_start: bool = False,
        episode_candles: int | None = None,
        randomisation: DomainRandomisation | None = None,
        threads: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs = {num_envs}: give at least 1")
        available = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        if threads is not None and not 1 <= threads <= available:
            raise ConfigError(f"threads = {threads}: give 1 to {available}; NUMBA_NUM_THREADS sets the most")
        single = FuturesEnv(
            market,
            features=features,
            scaler=scaler,
            config=config,
            instruments=instruments,
            start=start,
            end=end,
            random_start=random_start,
            episode_candles=episode_candles,
            render_mode=render_mode,
        )
        n = len(single.symbols)
        if single.config.action.scheme == "decision":
            raise ConfigError(
                "decisions are planned one account at a time: use FuturesEnv, or another scheme"
            )
        self.num_envs = num_envs
        self.market = single.market
        self.config = single.config
        self.symbols = single.symbols
        self.instruments = single.instruments
        self.spec_observation: ObservationSpec = single.spec_observation
        self.first_index, self.last_index = single.first_index, single.last_index
        self.randomisation = DomainRandomisation() if randomisation is None else randomisation
        self.render_mode = None
        self.single_observation_space = single.observation_space
        self.single_action_space = single.action_space
        self.observation_space = batch_space(single.observation_space, num_envs)
        self.action_space = batch_space(single.action_space, num_envs)

        self._random_start = random_start
        self._episode_candles = episode_candles
        self._threads = (available if threads is None else threads) if num_envs >= _LEAST_PARALLEL else 1
        self._ranges = {
            name: value for name, value in self.randomisation.model_dump().items() if value is not None
        }
        self._drawn = {
            "initial_capital_usdt": np.full(num_envs, self.config.initial_capital_usdt),
            "slippage_bps": np.full(num_envs, self.config.slippage_bps),
            "taker_fee_multiplier": np.ones(num_envs),
        }
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._seeds = [-1] * num_envs
        self._features: NDArray[np.float32]
        self._rows, self._features, self._symbol_table = single.kernel_arrays()
        self._configs = np.repeat(single.config_array(), num_envs if self._ranges else 1)
        self._accounts = _on_cache_lines((num_envs,), kernel.ACCOUNT_DTYPE)
        self._positions = _on_cache_lines((num_envs, n), kernel.POSITION_DTYPE)
        self._orders = np.zeros((self._threads, n + 1), kernel.ORDER_DTYPE)
        self._episodes = np.zeros(num_envs, kernel.EPISODE_DTYPE)
        self._actions = np.zeros((num_envs, n), np.float64)
        self._zeros = np.zeros_like(self._actions)
        self._buffers = Buffers((num_envs, single.spec_observation.size))
        self._compiled: Callable[..., None] | None = None
        self._running = False

    # --- what a replay buffer asks -----------------------------------------------------------------------

    @property
    def features(self) -> NDArray[np.float32]:
        """Scaled features that the windows are read from: float32 [T, F]."""
        return self._features

    @property
    def window_size(self) -> int:
        """Candles in a window."""
        return self.config.window_size

    @property
    def decided_on(self) -> NDArray[np.int64]:
        """Index of the candle that each account's last action was decided on: int64 [num_envs]."""
        decided: NDArray[np.int64] = self._episodes["decided_on"].copy()
        return decided

    @property
    def candle_index(self) -> NDArray[np.int64]:
        """Index of each account's last closed candle: int64 [num_envs]."""
        candle: NDArray[np.int64] = self._episodes["candle"].copy()
        return candle

    def totals(self) -> dict[str, NDArray[Any]]:
        """By name, [num_envs]: what `FuturesEnv.totals` gives of one account."""
        return {str(name): self._accounts[name].copy() for name in kernel.ACCOUNT_DTYPE.names or ()}

    def drawn(self) -> dict[str, NDArray[np.float64]]:
        """By name, [num_envs]: the settings of `DomainRandomisation` in the running episodes."""
        return {name: values.copy() for name, values in self._drawn.items()}

    # --- Gymnasium ---------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start new episodes.

        Args:
            seed: of all accounts (account i takes seed + i), or one per account; None goes on drawing.
            options: `reset_mask`, bool [num_envs], resets these accounts only; `start_index`, one int or
                [num_envs], names the candles of the first decisions.

        Raises:
            ConfigError: seeds or options do not fit.
        """
        options = {} if options is None else options
        slots = self._asked(options.get("reset_mask"))
        self._seed(seed, slots)
        observations = self._buffers.take()
        if len(slots) < self.num_envs:
            self._observe_all(observations)
        self._begin(slots, observations, options.get("start_index"))
        self._running = True
        return observations, {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[
        NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """One step of every account: (observations, rewards, terminated, truncated, infos).

        Raises:
            ActionError: the actions are not finite numbers [num_envs, n]; no account has moved.
        """
        if not self._running:
            raise gym.error.ResetNeeded("call reset() before the first step")
        self._take(actions)
        observations = self._buffers.take()
        rewards = np.empty(self.num_envs)
        terminated = np.empty(self.num_envs, np.bool_)
        truncated = np.empty(self.num_envs, np.bool_)
        if self._compiled is None:
            self._compiled = self._compile()
        if self._threads == 1:
            self._compiled(observations, rewards, terminated, truncated)
        else:
            before = numba.get_num_threads()
            numba.set_num_threads(self._threads)
            try:
                self._compiled(observations, rewards, terminated, truncated)
            finally:
                numba.set_num_threads(before)
        ended = terminated | truncated
        infos = self._restart(ended, observations) if np.count_nonzero(ended) else {}
        return observations, rewards, terminated, truncated, infos

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The accounts' generators."""
        return tuple(self._generator(slot) for slot in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The accounts' seeds; -1 where it is not known."""
        for slot in range(self.num_envs):
            self._generator(slot)
        return tuple(self._seeds)

    # --- episodes ----------------------------------------------------------------------------------------

    def _asked(self, mask: Any) -> NDArray[np.intp]:
        if mask is None:
            return np.arange(self.num_envs)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ConfigError(
                f"reset_mask is {mask.dtype} of shape {mask.shape}; give booleans of shape ({self.num_envs},), one of "
                "them true"
            )
        if not self._running and not mask.all():
            raise ConfigError("reset_mask leaves accounts out that have never been reset")
        return np.flatnonzero(mask)

    def _seed(self, seed: int | Sequence[int | None] | None, slots: NDArray[np.intp]) -> None:
        if seed is None:
            return
        if isinstance(seed, int | np.integer):
            seeds: list[int | None] = [int(seed) + slot for slot in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ConfigError(
                f"{len(seeds)} seeds for {self.num_envs} accounts; give one each, or one number"
            )
        for slot in slots:
            one = seeds[slot]
            if one is not None:
                self._generators[slot], self._seeds[slot] = seeding.np_random(one)

    def _generator(self, slot: int) -> np.random.Generator:
        generator = self._generators[slot]
        if generator is None:
            generator, self._seeds[slot] = seeding.np_random()
            self._generators[slot] = generator
        return generator

    def _begin(
        self, slots: NDArray[np.intp], observations: NDArray[np.float32], start_index: Any = None
    ) -> None:
        """New episodes in `slots`, and their first observations."""
        episodes = self._episodes
        if start_index is not None:
            starts = np.broadcast_to(np.asarray(start_index, np.int64), (self.num_envs,))[slots]
            if ((starts < self.first_index) | (starts >= self.last_index)).any():
                raise ConfigError(
                    f"start_index {start_index} is outside [{self.first_index}, {self.last_index - 1}]"
                )
            episodes["first"][slots] = starts
        elif not self._random_start:
            episodes["first"][slots] = self.first_index
        else:
            for slot in slots:
                episodes["first"][slot] = self._generator(slot).integers(self.first_index, self.last_index)
        if self._ranges:
            self._draw(slots)
        episodes["end"][slots] = self.last_index
        if self._episode_candles is not None:
            ends = episodes["first"][slots] + self._episode_candles
            episodes["end"][slots] = np.minimum(ends, self.last_index)
        kernel.reset_accounts(
            slots,
            self._configs,
            self._symbol_table,
            self._accounts,
            self._positions,
            self._rows,
            self._features,
            episodes,
            observations,
        )

    def _draw(self, slots: NDArray[np.intp]) -> None:
        """This episode's settings, in the order in which `DomainRandomisation` has them."""
        drawn, configs = self._drawn, self._configs
        for slot in slots:
            generator = self._generator(slot)
            for name, (low, high) in self._ranges.items():
                if name == "initial_capital_usdt":
                    value = math.exp(generator.uniform(math.log(low), math.log(high)))
                    value = min(high, max(low, value))
                else:
                    value = generator.uniform(low, high)
                drawn[name][slot] = value
        configs["initial_capital"][slots] = drawn["initial_capital_usdt"][slots]
        configs["slippage_fraction"][slots] = drawn["slippage_bps"][slots] / 1e4
        configs["fee_multiplier"][slots] = drawn["taker_fee_multiplier"][slots]

    def _restart(self, ended: NDArray[np.bool_], observations: NDArray[np.float32]) -> dict[str, Any]:
        """Begin new episodes where they ended; the infos about those that ended."""
        slots = np.flatnonzero(ended)
        final = np.full(self.num_envs, None, object)
        for slot, observation in zip(slots, observations[slots], strict=True):
            final[slot] = observation
        infos = {
            "final_obs": final,
            "_final_obs": ended,
            "final_info": self._final(ended),
            "_final_info": ended,
        }
        self._begin(slots, observations)
        return infos

    def _final(self, ended: NDArray[np.bool_]) -> dict[str, Any]:
        """Of the episodes that ended; the other entries are zero."""
        episodes, accounts = self._episodes, self._accounts
        found = {
            "first_index": episodes["first"],
            "equity_usdt": accounts["equity"],
            "max_drawdown": accounts["max_drawdown"],
            "trades": accounts["trades"],
            "liquidated": accounts["liquidated"] == 1,
        }
        statistics = {"r": episodes["reward"], "l": episodes["candle"] - episodes["first"]}
        return {"episode": _masked(statistics, ended), "_episode": ended, **_masked(found, ended)}

    def _observe_all(self, observations: NDArray[np.float32]) -> None:
        for slot in range(self.num_envs):
            kernel.observe(
                self._configs[slot if self._ranges else 0],
                self._symbol_table,
                self._accounts[slot],
                self._positions[slot],
                self._rows,
                self._features,
                int(self._episodes["candle"][slot]),
                observations[slot],
            )

    # --- to the kernel -----------------------------------------------------------------------------------

    def _take(self, actions: Any) -> None:
        """Check the actions and copy them to where the kernel reads them, as float64."""
        try:
            given = np.asarray(actions)
            if given.shape != self._actions.shape:
                raise ActionError(
                    f"actions have shape {given.shape}; expected {self._actions.shape}, one row per account"
                )
            np.copyto(self._actions, given, casting="same_kind")
        except TypeError as error:
            raise ActionError(f"actions are not numbers ({error})") from error
        # Times zero is zero, but for what is not finite: one pass, without an array in between.
        if np.vdot(self._actions, self._zeros) != 0.0:
            slot = int(np.flatnonzero(~np.isfinite(self._actions).all(axis=1))[0])
            raise ActionError(
                f"action {self._actions[slot].tolist()} of account {slot} is not finite; the step is refused"
            )

    def _compile(self) -> Callable[..., None]:
        arrays = (
            self._configs,
            self._symbol_table,
            self._accounts,
            self._positions,
            self._orders,
            self._rows,
            self._features,
            self._episodes,
            self._actions,
        )
        results = (
            self._buffers.take(),
            np.empty(self.num_envs),
            np.empty(self.num_envs, np.bool_),
            np.empty(self.num_envs, np.bool_),
        )
        function = kernel.step_accounts if self._threads == 1 else kernel.step_accounts_in_parallel
        entry = entry_point(function, *arrays, *results)
        return lambda *into: entry(*arrays, *into)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: machine code cannot go along."""
        return {**self.__dict__, "_compiled": None}


def _masked(values: Mapping[str, NDArray[Any]], ended: NDArray[np.bool_]) -> dict[str, Any]:
    """Copies that are zero where no episode ended, each with its mask."""
    found: dict[str, Any] = {}
    for name, one in values.items():
        found[name] = np.where(ended, one, np.zeros((), one.dtype))
        found[f"_{name}"] = ended
    return found


def _on_cache_lines(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Zeros that begin on a cache line."""
    size = math.prod(shape) * dtype.itemsize
    room = np.zeros(size + _CACHE_LINE, np.uint8)
    first = -room.ctypes.data % _CACHE_LINE
    return room[first : first + size].view(dtype).reshape(shape)
