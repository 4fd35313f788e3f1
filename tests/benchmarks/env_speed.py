"""`python -m tests.benchmarks.env_speed`: steps per second of one environment, beside two peers.

Random actions on five-minute candles, window of 30, 15 features, fees, funding, leverage 3, brackets and liquidation;
the peers have none of the last four. Every step makes its observation.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from envs.futures_env import FuturesEnv
from tests.benchmarks import _setting
from tests.benchmarks._report import Rate, best_rates, emit, note

_NAME = "single_env_steps_per_s"
_ROUND = 20_000


def make_env(symbols: int = 1, candles: int = _setting.CANDLES) -> FuturesEnv:
    """The environment of the headline figure, or one of more symbols or of other length."""
    place = _setting.market(symbols, candles)
    return FuturesEnv(
        place,
        features=_setting.table(symbols, candles),
        scaler=_setting.scaler(symbols, candles),
        config=_setting.CONFIG,
        instruments=_setting.instruments(place.symbols),
        random_start=True,
        episode_candles=_setting.EPISODE,
    )


def steps_of(env: Any, actions: list[Any]) -> Callable[[], int]:
    """A round: a step with each action; episodes that end begin anew, which counts as time."""

    def round_() -> int:
        env.reset()
        step, reset = env.step, env.reset
        for action in actions:
            result = step(action)
            if result[2] or result[3]:
                reset()
        return len(actions)

    env.reset(seed=0)
    return round_


def measure(symbols: int = 1, candles: int = _setting.CANDLES) -> tuple[Rate, FuturesEnv]:
    """Steps per second, and the environment."""
    note(f"env_speed: {symbols} symbol(s), {candles:,} candles")
    env = make_env(symbols, candles)
    actions = np.random.default_rng(0).uniform(-1, 1, (_ROUND, symbols)).astype(np.float32)
    return best_rates(steps_of(env, list(actions)), seconds=1.5), env


def frame() -> pd.DataFrame:
    """The candles and features of the headline figure as the peers take them."""
    place, features = _setting.market(), _setting.table()
    data = {
        "open": place.open[:, 0],
        "high": place.high[:, 0],
        "low": place.low[:, 0],
        "close": place.close[:, 0],
        "volume": place.volume[:, 0],
    }
    scaled = _setting.scaler().transform(features.values)
    data |= {f"feature_{name}": scaled[:, i] for i, name in enumerate(features.names)}
    return pd.DataFrame(data, index=pd.to_datetime(place.open_time_ms, unit="ms")).iloc[features.warmup :]


def any_trading() -> Rate:
    """gym-anytrading's StocksEnv with the same features, which its subclasses are meant to bring."""
    from gym_anytrading.envs import StocksEnv

    class WithFeatures(StocksEnv):  # type: ignore[misc]
        def _process_data(self) -> tuple[Any, Any]:
            columns = [name for name in self.df.columns if name.startswith("feature_")]
            prices = self.df["close"].to_numpy(np.float32)
            return prices, np.ascontiguousarray(self.df[columns].to_numpy(np.float32))

    data = frame()
    env = WithFeatures(data, _setting.WINDOW, (_setting.WINDOW, len(data)))
    return best_rates(steps_of(env, np.random.default_rng(0).integers(0, 2, _ROUND).tolist()), seconds=1.5)


def trading_env() -> Rate:
    """Gym-Trading-Env's TradingEnv with the same features, positions short, flat and long, and fees."""
    from gym_trading_env.environments import TradingEnv

    env = TradingEnv(
        df=frame(),
        positions=[-1, 0, 1],
        windows=_setting.WINDOW,
        trading_fees=0.0005,
        max_episode_duration=1_000,
        verbose=0,
    )
    actions = np.random.default_rng(0).integers(0, 3, _ROUND // 10).tolist()
    return best_rates(steps_of(env, actions), seconds=1.5)


_PEERS: dict[str, Callable[[], Rate]] = {"gym-anytrading": any_trading, "gym-trading-env": trading_env}


def measure_peer(name: str) -> tuple[Rate | None, str]:
    """Its steps per second, else why there are none."""
    note(f"env_speed: {name}")
    try:
        # One of them turns every warning of the process into an error when it is imported.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            return _PEERS[name](), ""
    except Exception as error:  # noqa: BLE001  whatever a peer trips over is what there is to say of it
        return None, f"{type(error).__name__}: {error}"


def main() -> None:
    """Measure and print."""
    rate, _ = measure()
    sizes: dict[str, Any] = {
        "candles": _setting.CANDLES,
        "window": _setting.WINDOW,
        "features": _setting.FEATURES,
        "per_cpu_s": rate.cpu,
    }
    for name in _PEERS:
        peer, failure = measure_peer(name)
        if peer is None:
            emit(_NAME, rate.wall, "steps/s", peer=name, peer_failure=failure, **sizes)
        else:
            emit(
                _NAME, rate.wall, "steps/s", peer=name, peer_value=peer.wall, peer_per_cpu_s=peer.cpu, **sizes
            )
    for symbols in (1, 6, 20):
        rate, env = measure(symbols)
        size = env.spec_observation.size * 4
        emit(
            f"{_NAME}_by_symbols",
            rate.wall,
            "steps/s",
            symbols=symbols,
            observation_bytes=size,
            per_cpu_s=rate.cpu,
        )
    for candles in (10_000, 100_000, 1_000_000):
        rate, _ = measure(1, candles)
        emit(f"{_NAME}_by_candles", rate.wall, "steps/s", candles=candles, per_cpu_s=rate.cpu)


if __name__ == "__main__":
    main()
