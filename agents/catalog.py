"""From what a user types to an agent with its environment.

A rule's name, `actions:FILE`, `llm:FILE`, or a training run.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.actions_file import ActionsFileAgent, read_actions
from agents.base import AgentSetup
from agents.baselines import BASELINES, baseline_setup
from agents.training_run import TrainingRun
from envs.actions import TargetScheme
from envs.errors import ConfigError
from envs.features import FeatureConfig
from envs.indicators import HighLowRange
from envs.risk import RiskLimits
from envs.settings import EnvConfig

ACTIONS_PREFIX = "actions:"
LLM_PREFIX = "llm:"
SECTIONS = ("agent", "env", "features", "risk")
"""Sections of a run's config that change an agent or its environment."""

# What a policy was trained to read; any other value would be another observation.
_OBSERVATION_SETTINGS = ("window_size", "normalize_portfolio")
_DISCRIMINATORS = ("scheme", "reward")


def make_agent(
    spec: str,
    *,
    symbols: Sequence[str],
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    training_runs: Path = Path("training_runs"),
) -> AgentSetup:
    """The agent that `spec` names, with the environment that it is meant for.

    Args:
        spec: one of `BASELINES`, `actions:FILE`, `llm:FILE`, or a training run: its id in `training_runs`, or its
            folder.
        symbols: what the environment trades.
        config: overrides by section (`agent`, `env`, `features`, `risk`), merged key by key into the agent's own
            settings. `agent` holds the parameters of a rule, or of a language model's file.
        seed: of agents that draw.
        training_runs: the folder of the training runs.

    Raises:
        ConfigError: nothing has that name (the message suggests the nearest), or a setting is unknown, out of range
            or not to be changed.
        TrainingRunError: the training run is incomplete or damaged.
    """
    sections = _sections(config)
    if spec.startswith(ACTIONS_PREFIX):
        return _actions_setup(Path(spec.removeprefix(ACTIONS_PREFIX)).expanduser(), symbols, sections)
    if spec.startswith(LLM_PREFIX):
        # Imported here: rules and policies do without.
        from agents.llm.setup import llm_setup

        return llm_setup(llm_file(spec), symbols=symbols, sections=sections, merge=merge_settings)
    if spec in BASELINES:
        setup = baseline_setup(spec, symbols=len(symbols), parameters=sections["agent"], seed=seed)
        return _override(setup, sections, where=spec)
    return _training_run_setup(find_training_run(spec, training_runs), sections)


def is_training_run(spec: str) -> bool:
    """Whether `spec` can only be a training run: it is no rule, no actions file and no language model."""
    return spec not in BASELINES and not spec.startswith((ACTIONS_PREFIX, LLM_PREFIX))


def is_llm(spec: str) -> bool:
    """Whether `spec` is a language model's file."""
    return spec.startswith(LLM_PREFIX)


def llm_file(spec: str) -> Path:
    """The file of `llm:FILE`."""
    return Path(spec.removeprefix(LLM_PREFIX)).expanduser()


def meant_for(spec: str) -> tuple[tuple[str, ...], str] | None:
    """The symbols and the interval that an agent names itself; None when it names none.

    Training runs tell theirs in their metadata.

    Raises:
        ConfigError: its file cannot be read.
    """
    if not is_llm(spec):
        return None
    from agents.llm.setup import llm_market

    return llm_market(llm_file(spec))


def find_training_run(spec: str, training_runs: Path) -> TrainingRun:
    """The training run of this id in `training_runs`, or in this folder.

    Raises:
        ConfigError: there is none; the message suggests the nearest rule or run.
        TrainingRunError: its folder is there, but not what describes it.
    """
    for folder in (training_runs / spec, Path(spec).expanduser()):
        if (
            spec
            and folder.is_dir()
            and (folder.name.startswith("train_") or TrainingRun(folder).metadata_path.is_file())
        ):
            return TrainingRun.open(folder.resolve().name, root=folder.resolve().parent)
    ids = TrainingRun.list_ids(training_runs)
    near = difflib.get_close_matches(spec, (*BASELINES, *ids), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    runs = f"newest in {training_runs}: {', '.join(ids[:3])}" if ids else f"there is none in {training_runs}"
    raise ConfigError(
        f"unknown agent {spec!r}.{hint} Give a rule ({', '.join(BASELINES)}), actions:FILE, llm:FILE, or the id of "
        f"a training run ({runs})"
    )


def merge_settings(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `override`; mappings are merged key by key.

    A mapping that chooses another kind (another action scheme, another reward) replaces the whole mapping, since
    the settings of one kind mean nothing to the other.
    """
    for key in _DISCRIMINATORS:
        kind = override.get(key)
        if isinstance(kind, str) and kind != base.get(key):
            return dict(override)
    merged = dict(base)
    for key, value in override.items():
        known = merged.get(key)
        nested = isinstance(value, Mapping) and isinstance(known, Mapping)
        merged[key] = merge_settings(known, value) if nested else value  # type: ignore[arg-type]
    return merged


def _sections(config: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    sections: dict[str, Mapping[str, Any]] = {name: {} for name in SECTIONS}
    for name, values in (config or {}).items():
        if name not in SECTIONS:
            near = difflib.get_close_matches(str(name), SECTIONS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"unknown section {name!r}.{hint} Sections: {', '.join(SECTIONS)}")
        if values is None:
            continue
        if not isinstance(values, Mapping):
            raise ConfigError(f"section {name!r} is {values!r}; expected settings as 'name: value'")
        sections[name] = values
    return sections


def _override(setup: AgentSetup, sections: Mapping[str, Mapping[str, Any]], *, where: str) -> AgentSetup:
    """The setup with the settings of the sections, validated."""
    env, limits, features = setup.env, setup.limits, setup.features
    if sections["env"]:
        merged = merge_settings(env.model_dump(), sections["env"])
        env = EnvConfig.parse(merged, where=f"{where}: env")
    if sections["risk"]:
        limits = RiskLimits.parse(
            merge_settings(limits.model_dump(), sections["risk"]), where=f"{where}: risk"
        )
    if sections["features"]:
        features = FeatureConfig.model_validate(merge_settings(features.model_dump(), sections["features"]))
    return replace(setup, env=env, limits=limits, features=features)


def _actions_setup(
    path: Path, symbols: Sequence[str], sections: Mapping[str, Mapping[str, Any]]
) -> AgentSetup:
    if sections["agent"]:
        raise ConfigError(f"agent: actions:{path} has no parameters; remove {', '.join(sections['agent'])}")
    defaults = EnvConfig(window_size=1, action=TargetScheme())
    merged = merge_settings(defaults.model_dump(), sections["env"])
    env = EnvConfig.parse(merged, where="actions: env")
    if env.action.scheme == "decision":
        raise ConfigError("actions: a file has one number per symbol; the scheme 'decision' needs llm:FILE")
    table = read_actions(path, symbols, bound=None if env.action.scheme == "quantity" else 1.0)
    setup = AgentSetup(
        agent=ActionsFileAgent(table),
        env=env,
        # An observation has at least one feature; this one needs no warm-up, so that step 0 is the first candle.
        features=FeatureConfig(indicators=(HighLowRange(),)),
        max_steps=table.last_step + 1,
    )
    return _override(setup, {**sections, "env": {}}, where="actions")


def _training_run_setup(run: TrainingRun, sections: Mapping[str, Mapping[str, Any]]) -> AgentSetup:
    # Imported here: rules do without the ONNX runtime.
    from agents.sac.policy import load_sac_setup

    setup = load_sac_setup(run)
    if sections["agent"]:
        raise ConfigError(
            f"agent: {run.train_id} is a trained policy without parameters; remove {', '.join(sections['agent'])}"
        )
    for name in _OBSERVATION_SETTINGS:
        trained = getattr(setup.env, name)
        if name in sections["env"] and sections["env"][name] != trained:
            raise ConfigError(
                f"env.{name} = {sections['env'][name]!r} would change the observation that {run.train_id} was trained "
                f"on ({name} = {trained!r}): leave it out, or train again with it"
            )
    if sections["features"]:
        given = FeatureConfig.model_validate(
            merge_settings(setup.features.model_dump(), sections["features"])
        )
        if given != setup.features:
            raise ConfigError(
                f"features would change the observation that {run.train_id} was trained on: leave the section out, or "
                f"train again with it"
            )
    return _override(setup, {**sections, "features": {}}, where=run.train_id)
