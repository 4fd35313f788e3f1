"""From `llm:FILE` to an agent with its environment."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.base import AgentSetup
from agents.llm.agent import LlmAgent
from agents.llm.blind import shows_levels
from agents.llm.config import LlmConfig
from agents.llm.providers import make_provider
from agents.llm.records import DecisionSink
from agents.llm.request import Provider
from envs.errors import ConfigError
from envs.features import FeatureConfig
from envs.risk import RiskLimits
from envs.settings import EnvConfig
from envs.time_grid import interval_to_ms

Merge = Any  # a function of two mappings: agents.catalog.merge_settings

ENV_DEFAULTS: Mapping[str, Any] = {
    "window_size": 1,
    "initial_capital_usdt": 100.0,
    "max_leverage": 3.0,
    "action": {"scheme": "decision"},
}
FEATURE_DEFAULTS: Mapping[str, Any] = {
    "indicators": [
        {"name": "log_return", "periods": 1},
        {"name": "log_return", "periods": 12},
        {"name": "rsi", "period": 14},
        {"name": "macd"},
        {"name": "ema_distance", "period": 20},
        {"name": "ema_distance", "period": 50},
        {"name": "adx", "period": 14},
        {"name": "atr", "period": 14},
        {"name": "bollinger_percent_b"},
        {"name": "volume_zscore"},
        {"name": "funding_rate"},
    ]
}


def llm_setup(
    path: Path,
    *,
    symbols: Sequence[str],
    sections: Mapping[str, Mapping[str, Any]],
    merge: Merge,
    provider: Provider | None = None,
    sinks: Sequence[DecisionSink] = (),
) -> AgentSetup:
    """The agent of a file, with the environment that it is meant for.

    Args:
        path: a file as those in configs/agents/.
        symbols: what the environment trades.
        sections: overrides of `agent` (the file's own keys), `env`, `features` and `risk`.
        merge: how overrides are laid over settings.
        provider: to ask instead of the file's.
        sinks: told every decision.

    Raises:
        ConfigError: a setting is wrong.
    """
    base = LlmConfig.read(path)
    own = {
        name: value for name, value in sections["agent"].items() if name not in ("env", "features", "risk")
    }
    if len(own) < len(sections["agent"]):
        raise ConfigError("agent: env, features and risk are sections of their own, beside agent")
    config = LlmConfig.parse(merge(base.model_dump(), own), where=f"{path} and the section agent")
    env = EnvConfig.parse(merge(merge(ENV_DEFAULTS, config.env), sections["env"]), where=f"{path}: env")
    if env.action.scheme != "decision":
        raise ConfigError(
            f"{path}: env.action.scheme is {env.action.scheme!r}; a language model needs the scheme 'decision'"
        )
    features = FeatureConfig.model_validate(
        merge(merge(FEATURE_DEFAULTS, config.features), sections["features"])
    )
    limits = RiskLimits.parse(merge(config.risk, sections["risk"]), where=f"{path}: risk")
    # A live run keeps so many candles, and a prompt must not depend on where it is written.
    kept = features.memory + env.window_size
    if config.prompt.candles > kept:
        raise ConfigError(
            f"prompt.candles = {config.prompt.candles}, but a live run with these features keeps {kept} candles: show "
            "fewer, or raise env.window_size"
        )
    if config.blind.enabled and (shown := shows_levels(features)) is not None:
        raise ConfigError(
            f"blind mode, but the indicator {shown} tells the level of prices or volumes: leave it out of features, or "
            "use one that is a ratio"
        )
    agent = LlmAgent(
        config,
        env=env,
        limits=limits,
        make_provider=(lambda: make_provider(config.provider)) if provider is None else (lambda: provider),
        clock=time.monotonic,
        sinks=sinks,
    )
    return AgentSetup(agent=agent, env=env, features=features, limits=limits)


def llm_market(path: Path) -> tuple[tuple[str, ...], str]:
    """The symbols and the interval that a file's agent is meant for.

    Raises:
        ConfigError: a setting is wrong.
    """
    config = LlmConfig.read(path)
    interval_to_ms(config.interval)
    return config.symbols, config.interval
