"""Who competes, on what, with how much: configs/arena.yaml."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from agents.base import AgentSetup
from agents.baselines import BASELINES
from agents.catalog import is_llm, is_training_run, llm_file, make_agent, merge_settings
from envs.config import StrictModel, read_yaml
from envs.errors import ConfigError
from envs.time_grid import interval_to_ms

if TYPE_CHECKING:
    from agents.llm.config import LlmConfig

_NAME = re.compile(r"[A-Za-z0-9.-]+")


class Competitor(StrictModel):
    """One agent of an arena.

    agent: a rule's name, `actions:FILE`, `llm:FILE`, or a training run.
    capital_usdt: what it begins with; None takes the arena's.
    symbols: what it may trade; None for all. It observes all of them in any case.
    real_account: in a live arena, name of a real sub-account that it has for itself; what is paid in there is its
        capital. `capital_usdt` then counts on history and on the embedded paper exchange only.
    stand_in: the rule that plays where a language model's key is missing; None makes that an error.
    parameters: of a rule; for a language model the keys of its file.
    env, features, risk: laid over the agent's own settings and the arena's.
    """

    agent: str = Field(min_length=1)
    capital_usdt: float | None = Field(None, gt=0.0)
    symbols: tuple[str, ...] | None = None
    real_account: str | None = Field(None, pattern=r"^[A-Za-z0-9]+$")
    stand_in: str | None = "ema-cross"
    parameters: dict[str, Any] = Field(default_factory=dict)
    env: dict[str, Any] = Field(default_factory=dict)
    features: dict[str, Any] = Field(default_factory=dict)
    risk: dict[str, Any] = Field(default_factory=dict)

    @field_validator("stand_in")
    @classmethod
    def _a_rule(cls, value: str | None) -> str | None:
        if value is not None and value not in BASELINES:
            raise ValueError(f"no rule has that name; rules are {', '.join(BASELINES)}")
        return value


class AccountSection(StrictModel):
    """Limits of the exchange account that all of them share, in a live arena.

    max_drawdown_fraction: of the account's equity from its peak: reached, everything is closed and halted.
    max_net_leverage: net notional over the account's equity; an order beyond it is refused.
    """

    max_drawdown_fraction: float | None = Field(None, gt=0.0, le=1.0)
    max_net_leverage: float | None = Field(None, gt=0.0)


class ArenaConfig(StrictModel):
    """An arena.

    name: of its folder.
    symbols, interval: the market, the same for all.
    capital_usdt: of each agent that names none.
    env, risk: laid over every agent's own settings.
    account: limits of the shared account.
    agents: by name; the name is in step logs, in client order ids and in the ledger.
    """

    name: str = Field("arena", pattern=r"^[A-Za-z0-9.-]+$")
    symbols: tuple[str, ...] = Field(min_length=1)
    interval: str = "5m"
    capital_usdt: float = Field(100.0, gt=0.0)
    env: dict[str, Any] = Field(default_factory=dict)
    risk: dict[str, Any] = Field(default_factory=dict)
    account: AccountSection = Field(default_factory=AccountSection)
    agents: dict[str, Competitor] = Field(min_length=1)

    @field_validator("interval")
    @classmethod
    def _known_interval(cls, value: str) -> str:
        interval_to_ms(value)
        return value

    @field_validator("symbols")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({one for one in value if value.count(one) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is there twice")
        return value

    @field_validator("agents")
    @classmethod
    def _named(cls, value: dict[str, Competitor]) -> dict[str, Competitor]:
        for name in value:
            if not _NAME.fullmatch(name):
                raise ValueError(f"the agent's name {name!r} may hold letters, digits, '.' and '-' only")
        return value

    @classmethod
    def read(cls, path: Path) -> ArenaConfig:
        """An arena's file.

        Raises:
            ConfigError: it is missing, not YAML, or a setting is unknown or wrong.
        """
        return cls.parse(read_yaml(path), where=str(path))

    def capital_of(self, name: str) -> float:
        """What an agent begins with."""
        own = self.agents[name].capital_usdt
        return self.capital_usdt if own is None else own


class Entrant:
    """A competitor with its agent.

    Attributes:
        name: as in the arena.
        spec: as it was asked for.
        played_by: what decides: `spec`, or the rule that stands in.
        setup: the agent with its environment, under the arena's name.
        note: why a rule stands in; empty when none does.
    """

    def __init__(self, name: str, spec: str, played_by: str, setup: AgentSetup, note: str = "") -> None:
        self.name = name
        self.spec = spec
        self.played_by = played_by
        self.setup = setup
        self.note = note

    @property
    def is_llm(self) -> bool:
        """Whether a language model decides."""
        return is_llm(self.played_by)

    @property
    def capital_usdt(self) -> float:
        """What it begins with."""
        return self.setup.env.initial_capital_usdt


def enter(
    config: ArenaConfig,
    *,
    seed: int | None = None,
    training_runs: Path = Path("training_runs"),
    llm: Mapping[str, Any] | None = None,
    ask: bool = True,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    cache_apart: str = "",
) -> list[Entrant]:
    """Make the agents of an arena, in its order.

    Args:
        config: the arena.
        seed: of agents that draw.
        training_runs: the folder of the training runs.
        llm: laid over every language model's file, e.g. `{"offline": True}`.
        ask: whether models will be asked; where not, nobody needs a key.
        environ: where keys are looked for; None is the process's own.
        overrides: laid over every agent's sections, last.
        cache_apart: a folder of this name in each model's replay cache takes its place, so that it is asked anew.

    Raises:
        ConfigError: a setting is wrong, with the agent's name.
    """
    known = os.environ if environ is None else environ
    entrants = []
    for name, competitor in config.agents.items():
        try:
            laid = dict(llm or {})
            if cache_apart and is_llm(competitor.agent):
                laid |= _apart(competitor, cache_apart)
            entrants.append(
                _enter(
                    config,
                    name,
                    competitor,
                    seed,
                    training_runs,
                    laid,
                    known if ask else None,
                    overrides or {},
                )
            )
        except ConfigError as error:
            raise ConfigError(f"arena agent {name}: {error}") from error
    return entrants


def _enter(
    config: ArenaConfig,
    name: str,
    competitor: Competitor,
    seed: int | None,
    training_runs: Path,
    llm: dict[str, Any],
    environ: Mapping[str, str] | None,
    overrides: Mapping[str, Mapping[str, Any]],
) -> Entrant:
    spec, played_by, note = competitor.agent, competitor.agent, ""
    parameters, own = competitor.parameters, {"env": competitor.env, "features": competitor.features}
    if is_llm(spec):
        missing = _missing_key(spec, merge_settings(parameters, llm), environ)
        if missing and competitor.stand_in is None:
            raise ConfigError(f"the environment variable {missing} is not set, and no stand_in is named")
        if missing:
            assert competitor.stand_in is not None
            played_by = competitor.stand_in
            note = f"{name}: {missing} is not set; the rule {played_by} plays in place of {spec}"
            # What was meant for a language model's environment says nothing to a rule.
            parameters, own = {}, {}
        else:
            parameters = {**merge_settings(parameters, llm), "name": name}
    elif is_training_run(spec) and parameters:
        raise ConfigError("a training run has no parameters")
    capital = {"initial_capital_usdt": config.capital_of(name)}
    sections: dict[str, dict[str, Any]] = {
        "agent": dict(parameters),
        "env": merge_settings(merge_settings(config.env, own.get("env", {})), capital),
        "features": dict(own.get("features", {})),
        "risk": merge_settings(config.risk, competitor.risk),
    }
    if competitor.symbols is not None:
        sections["risk"]["allowed_symbols"] = list(competitor.symbols)
    for section, values in overrides.items():
        sections[section] = merge_settings(sections.get(section, {}), values)
    setup = make_agent(
        played_by, symbols=config.symbols, config=sections, seed=seed, training_runs=training_runs
    )
    setup.agent.name = name
    return Entrant(name, spec, played_by, setup, note)


def _model(spec: str, parameters: Mapping[str, Any]) -> LlmConfig:
    from agents.llm.config import LlmConfig

    path = llm_file(spec)
    return LlmConfig.parse(merge_settings(LlmConfig.read(path).model_dump(), parameters), where=str(path))


def _apart(competitor: Competitor, folder: str) -> dict[str, Any]:
    cache = _model(competitor.agent, competitor.parameters).cache
    return {} if cache is None else {"cache": str(Path(cache) / folder)}


def _missing_key(spec: str, parameters: Mapping[str, Any], environ: Mapping[str, str] | None) -> str:
    """The variable of the key that a model needs and that is not there; empty when it can be asked."""
    if environ is None:
        return ""
    model = _model(spec, parameters)
    variable = model.provider.api_key_env
    if model.offline or variable is None or environ.get(variable, "").strip():
        return ""
    return variable
