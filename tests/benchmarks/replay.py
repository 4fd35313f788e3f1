"""How much memory replay takes and how fast it samples, beside Stable-Baselines3's own buffer.

Transitions of one symbol, window 30 by 15 features, from 100,000 candles, eight environments, batches of 256. Both
buffers are full of the same transitions and draw the same batches. SB3's takes 3.6 kB for each: it is measured at as
many transitions as half of the free memory holds, at most a million, and the index buffer at as many and at a million.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import psutil
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer

from agents.sac.model import torch_settings
from agents.sac.replay import IndexReplayBuffer
from tests.benchmarks._report import best_rate, emit, note

CANDLES, WINDOW, FEATURES, PORTFOLIO = 100_000, 30, 15, 5
ENVS, BATCH, TRANSITIONS = 8, 256, 1_000_000
_ROUND = 200

OBSERVATION = spaces.Box(-10.0, 10.0, (WINDOW * FEATURES + PORTFOLIO,), np.float32)
ACTION = spaces.Box(-1.0, 1.0, (1,), np.float32)


class Transitions:
    """Made-up steps of eight environments that walk through the candles, and what each buffer is given of them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.features = rng.normal(size=(CANDLES, FEATURES)).astype(np.float32)
        self._windows = np.lib.stride_tricks.sliding_window_view(self.features.reshape(-1), WINDOW * FEATURES)
        self._windows = self._windows[::FEATURES]
        self._rng = rng
        self._candle = rng.integers(WINDOW, CANDLES - 2, ENVS)

    def decided_on(self) -> NDArray[np.int64]:
        """Candles of the latest step."""
        return self._candle

    def observations(self, candle: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [ENVS, W * F + P] at these candles."""
        portfolio = self._rng.normal(size=(ENVS, PORTFOLIO)).astype(np.float32)
        return np.concatenate((self._windows[candle - WINDOW + 1], portfolio), axis=1)

    def fill(self, buffers: list[Any], steps: int) -> None:
        """Add `steps` steps to each buffer."""
        infos: list[dict[str, Any]] = [{} for _ in range(ENVS)]
        for _ in range(steps):
            self._candle = (self._candle + 1 - WINDOW) % (CANDLES - 2 - WINDOW) + WINDOW
            before, after = self.observations(self._candle), self.observations(self._candle + 1)
            actions = self._rng.uniform(-1, 1, (ENVS, 1)).astype(np.float32)
            rewards = self._rng.normal(size=ENVS).astype(np.float32)
            dones = self._rng.random(ENVS) < 0.002
            for buffer in buffers:
                buffer.add(before, after, actions, rewards, dones, infos)


def index_buffer(transitions: Transitions, size: int) -> IndexReplayBuffer:
    """Ours, empty."""
    return IndexReplayBuffer(
        size,
        OBSERVATION,
        ACTION,
        "cpu",
        ENVS,
        features=transitions.features,
        window_size=WINDOW,
        decided_on=transitions.decided_on,
    )


def samples_per_s(buffer: ReplayBuffer) -> float:
    """Transitions per second, in batches."""

    def work() -> int:
        for _ in range(_ROUND):
            buffer.sample(BATCH)
        return _ROUND * BATCH

    return best_rate(work, seconds=4.0)


def peer_bytes(size: int) -> int:
    """What SB3's buffer of this size allocates."""
    buffer = ReplayBuffer(size, OBSERVATION, ACTION, "cpu", ENVS)
    return sum(one.nbytes for one in vars(buffer).values() if isinstance(one, np.ndarray))


def main() -> None:
    """Measure and print."""
    transitions = Transitions()
    ours = index_buffer(transitions, TRANSITIONS)
    small = peer_bytes(ENVS * 1_000)
    per_transition = small / (ENVS * 1_000)
    emit(
        "replay_bytes_per_transition",
        ours.nbytes / TRANSITIONS,
        "bytes",
        peer="stable-baselines3 ReplayBuffer",
        peer_value=per_transition,
        million_transitions_mb=ours.nbytes / 1e6,
        feature_table_mb=transitions.features.nbytes / 1e6,
    )
    room = int(psutil.virtual_memory().available * 0.5 / per_transition)
    common = min(TRANSITIONS, room // ENVS * ENVS)
    note(f"filling {common:,} transitions into both buffers")
    theirs = ReplayBuffer(common, OBSERVATION, ACTION, "cpu", ENVS)
    if common < TRANSITIONS:
        ours = index_buffer(transitions, common)
    transitions.fill([ours, theirs], common // ENVS)
    _require_same(ours, theirs)
    note("sampling")
    with torch_settings(1):
        peer = samples_per_s(theirs)
        emit(
            "replay_samples_per_s",
            samples_per_s(ours),
            "samples/s",
            peer="stable-baselines3 ReplayBuffer",
            peer_value=peer,
            transitions=common,
            batch=BATCH,
        )
        del theirs
        for size in (10_000, 100_000, 1_000_000):
            buffer = index_buffer(transitions, size)
            # Which rows are where is what costs: the rest of a row may be of a few candles only.
            buffer._candle[:] = np.random.default_rng(1).integers(WINDOW, CANDLES - 2, buffer._candle.shape)
            buffer.full = True
            emit("replay_samples_per_s_by_size", samples_per_s(buffer), "samples/s", transitions=size)


def _require_same(ours: IndexReplayBuffer, theirs: ReplayBuffer) -> None:
    """A buffer that gave other batches would have measured something else."""
    batches = []
    for buffer in (ours, theirs):
        np.random.seed(0)
        batches.append(buffer.sample(BATCH))
    for mine, other in zip(batches[0][:5], batches[1][:5], strict=True):
        if not np.array_equal(mine.numpy(), other.numpy()):
            raise AssertionError("the two buffers gave different batches")


if __name__ == "__main__":
    main()
