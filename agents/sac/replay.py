"""A replay buffer that stores which candle an observation was of, instead of the observation.

An observation is a window of scaled features, which every environment reads from one table, and a portfolio vector
of 3 n + 2 entries. A transition goes from candle t to candle t + 1, at an episode's end too. So it is enough to keep t
and both portfolio vectors: 60 bytes for one symbol, where two windows of 30 candles and 15 features take 3,600. The
windows are copied out of the table when a batch is sampled, and are the observations bit for bit.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from agents.training_run import write_atomically
from envs.compiling import compiled
from envs.errors import ConfigError, TrainingRunError


class CandleEnvs(Protocol):
    """What a vector environment must tell so that its observations can be stored by candle.

    Attributes:
        features: scaled features that the windows are read from, float32 [T, F], the same for all environments.
        window_size: W, candles in a window.
        decided_on: candle that the last step's actions were decided on, int [num_envs]: the candle that the
            observation before the step is of. The observation after it, the terminal one too, is of the next.
    """

    @property
    def features(self) -> NDArray[np.float32]: ...

    @property
    def window_size(self) -> int: ...

    @property
    def decided_on(self) -> NDArray[Any]: ...


class IndexReplayBuffer(ReplayBuffer):
    """Stable-Baselines3's replay buffer with windows gathered from the feature table when it samples.

    With the same transitions and the same random state, `sample` gives the same batches bit for bit. On a GPU the
    feature table lives on the device, and only candle indices and portfolios are sent there.

    Args:
        buffer_size: transitions of all environments together.
        observation_space: Box of W * F + P entries; the last P are the portfolio.
        action_space: Box.
        device: where batches are used.
        n_envs: environments.
        handle_timeout_termination: as Stable-Baselines3's: a truncated episode goes on as far as values go.
        features, window_size: see `CandleEnvs`.
        decided_on: asked in every `add` for the candle that each observation is of; see `CandleEnvs`.

    Raises:
        ConfigError: an observation cannot be a window and a portfolio.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        *,
        handle_timeout_termination: bool = True,
        features: NDArray[np.float32],
        window_size: int,
        decided_on: Callable[[], NDArray[Any]],
    ) -> None:
        # Not ReplayBuffer's own, which would allocate the windows.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        candles, columns = features.shape
        self._window_entries = window_size * columns
        (size,) = observation_space.shape or (0,)
        self._portfolio_entries = size - self._window_entries
        if self._portfolio_entries < 1 or candles <= window_size:
            raise ConfigError(
                f"an observation of {size} entries cannot hold a window of {window_size} candles by {columns} "
                f"features and a portfolio, from a table of {candles} candles"
            )
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self._candles, self._columns, self._window_size = candles, columns, window_size
        self._table = np.ascontiguousarray(features, dtype=np.float32).reshape(-1)
        self._decided_on = decided_on
        # A transition's entries lie beside each other: drawn at random, each is one cache miss instead of six.
        portfolio, actions = 2 * self._portfolio_entries, self.action_dim
        self._rows = np.zeros((self.buffer_size, n_envs, portfolio + actions + 4), np.float32)
        self._candle = self._rows.view(np.int32)[..., 0]
        self._portfolio = self._rows[..., 1 : 1 + portfolio].reshape(self.buffer_size, n_envs, 2, -1)
        self.actions = self._rows[..., 1 + portfolio : -3]
        self.rewards, self.dones, self.timeouts = (self._rows[..., column] for column in (-3, -2, -1))
        self._checked = False
        self._on_device: _DeviceWindows | None = None
        if self.device.type != "cpu":
            self._on_device = _DeviceWindows(self._table, columns, self._window_entries, self.device)

    @property
    def nbytes(self) -> int:
        """Bytes that the transitions take; the feature table, which the environments share, is not among them."""
        return self._rows.nbytes

    # --- adding ------------------------------------------------------------------------------------------

    def add(
        self,
        obs: NDArray[np.float32],
        next_obs: NDArray[np.float32],
        action: NDArray[np.float32],
        reward: NDArray[np.float32],
        done: NDArray[np.bool_],
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one step of every environment. At an episode's end `next_obs` is the terminal observation.

        Raises:
            ConfigError: the first observation is not of the candle that the environments say.
        """
        row, window = self.pos, self._window_entries
        candle = self._decided_on()
        if not self._checked:
            self._check(candle, obs, next_obs)
            self._checked = True
        self._candle[row] = candle
        self._portfolio[row, :, 0] = obs[:, window:]
        self._portfolio[row, :, 1] = next_obs[:, window:]
        self.actions[row] = action.reshape(self.n_envs, self.action_dim)
        self.rewards[row] = reward
        self.dones[row] = done
        if self.handle_timeout_termination:
            self.timeouts[row] = False
            for i in np.flatnonzero(done):
                self.timeouts[row, i] = infos[i].get("TimeLimit.truncated", False)
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full = True
            self.pos = 0

    def _check(self, candle: NDArray[Any], obs: NDArray[np.float32], next_obs: NDArray[np.float32]) -> None:
        """Refuse environments whose windows are not those of the table, before anything is learned from it."""
        for i, t in enumerate(candle.tolist()):
            for values, last in ((obs[i], t), (next_obs[i], t + 1)):
                end = (last + 1) * self._columns
                window = self._table[max(end - self._window_entries, 0) : end]
                if not np.array_equal(window, values[: self._window_entries]):
                    raise ConfigError(
                        f"the observation of environment {i} is not the window that ends with candle {last} of "
                        "the feature table: the replay buffer and the environments must share one scaled table"
                    )

    # --- sampling ----------------------------------------------------------------------------------------

    def _get_samples(self, batch_inds: NDArray[Any], env: VecNormalize | None = None) -> ReplayBufferSamples:
        if env is not None:
            raise ConfigError("observations are scaled already: IndexReplayBuffer takes no VecNormalize")
        # Drawn as Stable-Baselines3 draws it, for the same batches.
        chosen = batch_inds * self.n_envs + np.random.randint(0, high=self.n_envs, size=len(batch_inds))
        rows = self._rows.reshape(-1, self._rows.shape[2])
        if self._on_device is not None:
            return self._on_device.batch(rows[chosen], self._portfolio_entries)
        count, size = len(chosen), self._window_entries + self._portfolio_entries
        # Fresh memory for every batch: the one before may still be in use.
        observations, following = torch.empty((count, size)), torch.empty((count, size))
        actions = torch.empty((count, self.action_dim))
        dones, rewards = torch.empty((count, 1)), torch.empty((count, 1))
        _gather(
            self._table,
            self._columns,
            self._window_entries,
            chosen,
            rows,
            rows.view(np.int32),
            observations.numpy(),
            following.numpy(),
            actions.numpy(),
            dones.numpy(),
            rewards.numpy(),
        )
        return ReplayBufferSamples(observations, actions, following, dones, rewards)

    # --- keeping -----------------------------------------------------------------------------------------

    def save(self, path: Path, *, timesteps: int) -> None:
        """Write what it holds to an .npz file, whole or not at all, as of `timesteps` candles traded."""
        buffer = io.BytesIO()
        rows = self._rows[: self.size()]
        np.savez(buffer, timesteps=np.int64(timesteps), pos=np.int64(self.pos), rows=rows)
        write_atomically(path, buffer)

    def load(self, path: Path, *, timesteps: int) -> bool:
        """Take the transitions that `save` wrote; nothing in the file is executed.

        A buffer of another size takes the newest of them, oldest first.

        Returns:
            False where the file is of another moment than `timesteps`; then nothing was taken.

        Raises:
            TrainingRunError: the file is damaged, or its transitions are not of these environments.
        """
        try:
            # Opened here: numpy leaves a damaged file open.
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                kept = {name: np.asarray(file[name]) for name in file.files}
            if int(kept["timesteps"]) != timesteps:
                return False
            first = self._first_row(kept)
        except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
            told = str(error).strip().split("\n", 1)[0]
            raise TrainingRunError(
                f"{path} is damaged or of another training ({told}); delete it, and --resume refills the replay "
                "buffer by the policy"
            ) from error
        rows = kept["rows"]
        held = min(len(rows), self.buffer_size)
        self._rows[:held] = np.roll(rows, -first, axis=0)[len(rows) - held :]
        self.full = held == self.buffer_size
        same_rows = first == 0 and len(rows) == self.buffer_size
        self.pos = (int(kept["pos"]) if same_rows else held) % self.buffer_size
        return True

    def _first_row(self, kept: dict[str, NDArray[Any]]) -> int:
        """How far to roll the rows that they fit here; refuses what sampling would read beyond its memory with."""
        pos, rows = int(kept["pos"]), kept["rows"]
        length = len(rows)
        if not 0 <= pos <= length:
            raise ValueError(f"it holds {length} steps and goes on at {pos}")
        if rows.dtype != np.float32 or rows.shape[1:] != self._rows.shape[1:]:
            raise ValueError(f"its transitions are {rows.dtype} {rows.shape[1:]}, not {self._rows.shape[1:]}")
        candle = rows.view(np.int32)[..., 0]
        if length and not self._window_size - 1 <= candle.min() <= candle.max() < self._candles - 1:
            raise ValueError(f"candles {candle.min()} to {candle.max()} of {self._candles}")
        # A buffer of the same size keeps every row in its place, and so gives the same batches.
        return 0 if length == self.buffer_size or pos == length else pos


class _DeviceWindows:
    """The feature table on a GPU, and batches gathered there."""

    def __init__(
        self, table: NDArray[np.float32], columns: int, window_entries: int, device: torch.device
    ) -> None:
        self._device = device
        on_device = torch.from_numpy(table).to(device)
        # Row r is the window of candles r ... r + W - 1: the rows overlap in the one table, and nothing is copied.
        rows = (len(table) - window_entries) // columns + 1
        self._windows = on_device.as_strided((rows, window_entries), (columns, 1))
        self._first = window_entries // columns - 1

    def batch(self, rows: NDArray[np.float32], size: int) -> ReplayBufferSamples:
        """The transitions in these rows of the buffer, with portfolios of `size` entries."""
        sent = self._sent(rows)
        row = sent[:, 0].view(torch.int32).long() - self._first
        portfolio, actions = sent[:, 1 : 1 + 2 * size], sent[:, 1 + 2 * size : -3]
        return ReplayBufferSamples(
            torch.cat((self._windows.index_select(0, row), portfolio[:, :size]), dim=1),
            actions.contiguous(),
            torch.cat((self._windows.index_select(0, row + 1), portfolio[:, size:]), dim=1),
            sent[:, -2:-1] * (1 - sent[:, -1:]),
            sent[:, -3:-2].contiguous(),
        )

    def _sent(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)


def _copy_out(
    table: Any,
    columns: int,
    window_entries: int,
    chosen: Any,
    rows: Any,
    integers: Any,
    out_observations: Any,
    out_following: Any,
    out_actions: Any,
    out_dones: Any,
    out_rewards: Any,
) -> None:
    width = out_observations.shape[1]
    size = width - window_entries
    first_action = 1 + 2 * size
    flat_observations, flat_following = out_observations.reshape(-1), out_following.reshape(-1)
    # Unsigned, so that numba does not look for negative indices: the copy is then twice as fast.
    entries = np.uint64(window_entries)
    for i in range(len(chosen)):
        row = rows[chosen[i]]
        # A window's rows lie behind one another in the table, and the next one begins a row later.
        first = np.uint64((integers[chosen[i], 0] + 1) * columns - window_entries)
        second = first + np.uint64(columns)
        to = np.uint64(i * width)
        for j in range(entries):
            flat_observations[to + j] = table[first + j]
        for j in range(entries):
            flat_following[to + j] = table[second + j]
        for j in range(size):
            out_observations[i, window_entries + j] = row[1 + j]
            out_following[i, window_entries + j] = row[1 + size + j]
        for j in range(out_actions.shape[1]):
            out_actions[i, j] = row[first_action + j]
        out_rewards[i, 0] = row[-3]
        out_dones[i, 0] = row[-2] * (np.float32(1.0) - row[-1])


_gather = compiled(_copy_out, nogil=True)
