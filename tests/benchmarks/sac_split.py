"""Where the time of a SAC training goes: environments, replay, gradient steps.

The train command's own settings for BTCUSDT (configs/train/btcusdt_1h.yaml: batch, environments, gradient
steps), window 30 by 15 features, on 100,000 synthetic five-minute candles. Shares are of the wall time of the train
loop, without validations; choosing actions counts to the environments. The headline figures are those of the default
networks of 256 units; networks of 64 units, as the shipped configs have, follow: their gradient steps are short, so
that the rest weighs more.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.sac.algorithm import Timing, TradingSac
from agents.sac.config import SacConfig, TrainConfig
from agents.sac.dataset import Dataset, prepare
from agents.sac.model import build_model, torch_settings
from agents.sac.vec import FuturesVecEnv
from agents.train import load_config
from tests.benchmarks._report import emit, note

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "train" / "btcusdt_1h.yaml"
CANDLES = 100_000
SMALL = (64, 64)
DEFAULT = (256, 256)


def training(sac: SacConfig) -> TrainConfig:
    """The shipped training on a synthetic market."""
    config = load_config(CONFIG, {})
    values = config.model_dump()
    values["data"] = {"synthetic": {"interval": "5m", "candles": CANDLES, "volatility_annual": 0.6}}
    values["env"]["window_size"] = 30
    values["sac"] = sac.model_dump()
    return TrainConfig.parse(values)


def measured(model: TradingSac, seconds: float) -> Timing:
    """Train until the buffer warms up, then for about `seconds`."""
    model.set_logger(Logger(None, []))
    model.begin_leg()
    model.learn(model.learning_starts + 20 * model.n_envs, reset_num_timesteps=False)
    model.timing = Timing()
    while model.timing.total_s < seconds:
        model.learn(20 * model.n_envs, reset_num_timesteps=False)
    return model.timing


def peer_gradient_steps_per_s(sac: SacConfig, dataset: Dataset, config: TrainConfig, seconds: float) -> float:
    """Stable-Baselines3's SAC as its documentation has it: one `FuturesEnv`, its own buffer, a gradient step a step."""
    env = dataset.environment("train", config, random_start=True, episode_candles=sac.episode_candles)
    model = SAC(
        "MlpPolicy",
        DummyVecEnv([lambda: Monitor(env)]),
        learning_rate=sac.learning_rate,
        buffer_size=20_000,
        learning_starts=1_000,
        batch_size=sac.batch_size,
        gamma=sac.gamma,
        policy_kwargs={"net_arch": list(sac.net_arch)},
        seed=0,
        device="cpu",
    )
    model.set_logger(Logger(None, []))
    model.learn(1_020)
    done, began = model._n_updates, time.perf_counter()
    while time.perf_counter() - began < seconds:
        model.learn(50, reset_num_timesteps=False)
    return (model._n_updates - done) / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Where the time of a SAC training goes.")
    parser.add_argument("--seconds", type=float, default=15.0, help="of training, per measurement")
    seconds = parser.parse_args().seconds
    shipped = load_config(CONFIG, {}).sac.model_copy(update={"learning_starts": 2_000, "device": "cpu"})
    dataset = prepare(training(shipped), notice=note)
    for name, networks in (("", DEFAULT), ("_small_network", SMALL)):
        sac = shipped.model_copy(update={"net_arch": networks})
        config = training(sac)
        note(f"training networks of {networks} for about {seconds:g} s, then Stable-Baselines3's for as long")
        env = dataset.vector_environment(
            "train", config, sac.n_envs, random_start=True, episode_candles=sac.episode_candles, threads=1
        )
        with torch_settings(sac.torch_threads):
            figures = measured(build_model(sac, FuturesVecEnv(env)), seconds).figures()
            torch.use_deterministic_algorithms(False)  # as a user of theirs would have it
            peer = peer_gradient_steps_per_s(sac, dataset, config, seconds)
        setting = {
            "network": "x".join(map(str, networks)),
            "n_envs": sac.n_envs,
            "batch": sac.batch_size,
            "observation": env.spec_observation.size,
        }
        emit(f"sac_env_share{name}", figures["env_share"], "fraction", **setting)
        emit(f"sac_replay_share{name}", figures["replay_share"], "fraction", **setting)
        outside = figures["env_share"] + figures["replay_share"]
        emit(f"sac_gradient_share{name}", figures["gradient_share"], "fraction", outside=outside, **setting)
        emit(f"sac_env_steps_per_s{name}", figures["env_steps_per_s"], "steps/s", **setting)
        emit(
            f"sac_gradient_steps_per_s{name}",
            figures["gradient_steps_per_s"],
            "steps/s",
            peer="stable-baselines3 SAC on one FuturesEnv",
            peer_value=peer,
            **setting,
        )


if __name__ == "__main__":
    main()
