"""From the options of the command line to those of a live run, or of a live arena."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.catalog import (
    ACTIONS_PREFIX,
    SECTIONS,
    find_training_run,
    is_llm,
    is_training_run,
    llm_file,
    make_agent,
    meant_for,
)
from agents.training_data import synthetic_training_market
from agents.training_run import RunMetadata
from envs.candles import interval_to_ms, load_candles
from envs.config import read_yaml
from envs.errors import ConfigError
from live.exchange.connection import ConnectionSettings
from live.options import SessionOptions
from live.runner import LiveOptions
from live.venues import PaperOptions, VenueChoice

if TYPE_CHECKING:
    from live.arena.options import ArenaLiveOptions


@dataclass(frozen=True)
class Asked:
    """What the command line says of any session; names as there.

    Attributes:
        out: None for the folder that belongs to what is run.
        seed: of the agents; the synthetic market's is `paper`'s.
    """

    choice: VenueChoice
    paper: PaperOptions
    config: Path | None
    max_drawdown: float | None
    steps: int | None
    db: str | None
    out: Path | None
    training_runs: Path
    acknowledge_emergency: bool
    confirm: Callable[[str], bool]
    quiet: bool
    seed: int

    def read_config(self) -> tuple[dict[str, Any], ConnectionSettings]:
        """The config file's sections, and its section `connection` by itself.

        Raises:
            ConfigError: it cannot be read.
        """
        sections = dict(read_yaml(self.config)) if self.config is not None else {}
        return sections, take_connection(sections, self.config)

    def session(self, folder: Path, paper: PaperOptions, connection: ConnectionSettings) -> dict[str, Any]:
        """The values of `SessionOptions`."""
        return vars(
            SessionOptions(
                folder=self.out or folder,
                choice=self.choice,
                paper=paper,
                connection=connection,
                steps=self.steps,
                db=self.db,
                acknowledge_emergency=self.acknowledge_emergency,
                confirm=self.confirm,
                quiet=self.quiet,
                seed=self.seed,
            )
        )


def take_connection(sections: dict[str, Any], path: Path | None) -> ConnectionSettings:
    """Take the section `connection` out of a config file's.

    Raises:
        ConfigError: it cannot be used.
    """
    values = sections.pop("connection", None) or {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: section 'connection' is {values!r}; expected settings as 'name: value'")
    return ConnectionSettings.parse(values, where=f"{path}: connection")


def arena_options(path: Path, refused: list[str], asked: Asked) -> ArenaLiveOptions:
    """A live arena's options.

    Args:
        path: the arena's file.
        refused: options that were given and that an arena's file says itself.
        asked: the others.

    Raises:
        ConfigError: something cannot be used.
    """
    # Imported here: a run of one agent starts sooner without the database's libraries.
    from agents.arena.config import ArenaConfig, enter
    from live.arena.options import ArenaLiveOptions

    if refused:
        raise ConfigError(f"an arena names its agents and its market itself: leave out {', '.join(refused)}")
    sections, connection = asked.read_config()
    if sections:
        raise ConfigError(
            f"{asked.config}: with --arena only the section connection counts, not {', '.join(sections)}"
        )
    config = ArenaConfig.read(path)
    overrides = {} if asked.max_drawdown is None else {"risk": {"max_drawdown_fraction": asked.max_drawdown}}
    return ArenaLiveOptions(
        config=config,
        entrants=enter(config, seed=asked.seed, training_runs=asked.training_runs, overrides=overrides),
        **asked.session(Path("runs") / "live" / config.name, asked.paper, connection),
    )


def live_options(
    asked: Asked,
    *,
    train_id: str | None,
    agent: str | None,
    symbols: tuple[str, ...],
    interval: str | None,
    flat_on_exit: bool,
) -> LiveOptions:
    """A live run's options: what the command line leaves out comes from the training run, or from the candles.

    Raises:
        ConfigError: something cannot be used.
    """
    if (train_id is None) == (agent is None):
        raise ConfigError("give --train-id ID, or --agent NAME, and not both")
    spec = train_id if train_id is not None else str(agent)
    if train_id is not None and not is_training_run(train_id):
        raise ConfigError(f"{train_id!r} is not a training run; give it as --agent {train_id}")
    if (asked.paper.funding or asked.paper.marks) and not asked.paper.candles:
        raise ConfigError("--funding and --mark belong to --candles; give those too")
    paper = asked.paper
    sections, connection = asked.read_config()
    _check_sections(sections, asked.config)
    if asked.max_drawdown is not None:
        given = sections.get("risk") or {}
        if not isinstance(given, Mapping):
            raise ConfigError(
                f"{asked.config}: section 'risk' is {given!r}; expected settings as 'name: value'"
            )
        sections["risk"] = {**given, "max_drawdown_fraction": asked.max_drawdown}
    interval_ms = interval_to_ms(interval) if interval is not None else None
    if train_id is not None or is_training_run(spec):
        run = find_training_run(spec, asked.training_runs)
        metadata = run.metadata()
        paper = _paper_of_run(paper, metadata, given=bool(symbols or interval_ms))
        symbols = symbols or metadata.symbols
        interval_ms = interval_ms or interval_to_ms(metadata.interval)
        folder = run.folder / "production"
    else:
        name = "actions" if spec.startswith(ACTIONS_PREFIX) else llm_file(spec).stem if is_llm(spec) else spec
        folder = Path("runs") / "live" / name
        if paper.candles and (not symbols or interval_ms is None):
            # A file that does not say its symbol can only be the one that was asked for.
            single = symbols[0] if len(symbols) == len(paper.candles) == 1 else None
            loaded = [load_candles(path, symbol=single) for path in paper.candles]
            symbols = symbols or tuple(one.symbol for one in loaded)
            interval_ms = interval_ms or loaded[0].interval_ms
        named_symbols, named_interval = meant_for(spec) or (("BTCUSDT",), "1h")
        symbols = symbols or named_symbols
        interval_ms = interval_ms or interval_to_ms(named_interval)
    setup = make_agent(
        spec, symbols=symbols, config=sections, seed=asked.seed, training_runs=asked.training_runs
    )
    return LiveOptions(
        setup=setup,
        symbols=symbols,
        interval_ms=interval_ms,
        flat_on_exit=flat_on_exit,
        **asked.session(folder, paper, connection),
    )


def _check_sections(sections: Mapping[str, Any], path: Path | None) -> None:
    known = (*SECTIONS, "connection")
    for name in sections:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{path}: unknown section {name!r}.{hint} Sections: {', '.join(known)}")


def _paper_of_run(paper: PaperOptions, metadata: RunMetadata, *, given: bool) -> PaperOptions:
    """Replay what the policy has not seen: the test span, of the run's own market if that was synthetic."""
    if not paper.candles and not given:
        paper = replace(paper, market=synthetic_training_market(metadata))
    if paper.start is None and (paper.candles or paper.market is not None):
        paper = replace(paper, start=metadata.spans["test"].start_ms)
    return paper
