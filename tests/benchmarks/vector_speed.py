"""`python -m tests.benchmarks.vector_speed`: account steps per second of the vector environment, windows written.

`memcpy_fraction` sets the bytes of observations written per second against what a copy of as many bytes, out of cache
and by as many threads, does per second in the same run: it says how much of the time could at best be memory's.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np

from envs.vector_env import FuturesVectorEnv
from tests.benchmarks import _setting
from tests.benchmarks._report import best_rates, emit, note

_NAME = "vector_env_steps_per_s"
_COPY_BYTES = 256 << 20
_HEADLINE = 1024


def make_env(num_envs: int, threads: int | None = None) -> FuturesVectorEnv:
    """Accounts that begin anywhere, as in training."""
    return FuturesVectorEnv(
        num_envs,
        _setting.market(),
        features=_setting.table(),
        scaler=_setting.scaler(),
        config=_setting.CONFIG,
        random_start=True,
        episode_candles=_setting.EPISODE,
        threads=threads,
    )


def steps_of(env: FuturesVectorEnv) -> Callable[[], int]:
    """A round: some steps of all accounts with random actions; ended episodes begin anew within their step."""
    rng = np.random.default_rng(0)
    drawn = [rng.uniform(-1, 1, (env.num_envs, 1)).astype(np.float32) for _ in range(8)]
    count = max(8, 40_000 // env.num_envs)
    env.reset(seed=0)

    def round_() -> int:
        for k in range(count):
            env.step(drawn[k & 7])
        return count * env.num_envs

    return round_


def copied_bytes_per_s(threads: int) -> float:
    """Bytes that a plain copy writes per second, with arrays that no cache holds, shared by `threads`."""
    source = np.ones(_COPY_BYTES, np.uint8)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))

    def copy(pair: tuple[Any, Any]) -> None:
        np.copyto(pair[1], pair[0])

    with ThreadPoolExecutor(threads) as pool:

        def round_() -> int:
            list(pool.map(copy, parts))
            return _COPY_BYTES

        return best_rates(round_, seconds=1.0).wall


def main() -> None:
    """Measure and print."""
    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    note("vector_speed: the machine's copy")
    copied = {threads: copied_bytes_per_s(threads) for threads in {1, most}}
    for num_envs in (_HEADLINE, 1, 64, 4096):
        note(f"vector_speed: {num_envs} accounts")
        env = make_env(num_envs)
        rate = best_rates(steps_of(env), seconds=2.0)
        size = env.spec_observation.size * 4
        threads = most if num_envs >= 32 else 1
        emit(
            _NAME,
            rate.wall,
            "steps/s",
            num_envs=num_envs,
            memcpy_fraction=rate.wall * size / copied[threads],
            copy_bytes_per_s=copied[threads],
            observation_bytes=size,
            threads=threads,
            ns_per_account=1e9 / rate.wall,
            per_cpu_s=rate.cpu,
        )
    # Costs linear in accounts: on one thread, so that none waits for another.
    for num_envs in (64, 256, 1024, 4096):
        rate = best_rates(steps_of(make_env(num_envs, threads=1)), seconds=1.0)
        emit(
            f"{_NAME}_on_one_thread",
            rate.wall,
            "steps/s",
            num_envs=num_envs,
            ns_per_account=1e9 / rate.wall,
            per_cpu_s=rate.cpu,
        )


if __name__ == "__main__":
    main()
