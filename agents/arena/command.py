"""`python -m agents.backtest --arena FILE`: what the command does once its options are read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from agents.arena.config import ArenaConfig, Entrant, enter
from agents.arena.offline import ArenaResult, OnProgress, build_arena, check_fit, run_arena
from agents.arena.report import write_arena_report, write_tournament_report
from agents.arena.standings import leaderboard_table, width_for_tables, write_csv, write_leaderboard
from agents.arena.tournament import Tournament, tournament_of, tournament_table
from agents.backtest_config import BacktestConfig, open_market
from agents.backtest_files import create_folder, iso_time, stamp_of, versions, write_config, write_json
from agents.command_line import interruptible
from agents.run import Ending
from envs.candles import interval_name
from envs.errors import ConfigError
from envs.futures_env import FuturesEnv
from envs.market import Market
from envs.time_grid import format_time, parse_time_ms

ARENAS = Path("runs") / "arenas"
"""Where offline arenas go."""


@dataclass(frozen=True)
class ArenaOptions:
    """An offline arena, as the command line asks for it.

    Attributes:
        arena: its file.
        settings: the sections run (without agent and symbols) and market of a backtest's config.
        out: folder; None makes a new one.
        training_runs: the folder of the training runs.
        max_drawdown: laid over every agent's limits.
        repeats: how often.
        seeds: of the repeats; None counts up from the run's seed.
        window: candles of each repeat, at a place that its seed draws; None plays the whole span each time.
        dry_run: print the summed cost estimate, and ask nobody.
        offline, blind: for the language models.
        report, quiet, as_json: what is written and shown.
    """

    arena: Path
    settings: BacktestConfig = field(default_factory=BacktestConfig)
    out: Path | None = None
    training_runs: Path = Path("training_runs")
    max_drawdown: float | None = None
    repeats: int | None = None
    seeds: tuple[int, ...] | None = None
    window: int | None = None
    dry_run: bool = False
    offline: bool = False
    blind: bool = False
    report: bool = True
    quiet: bool = False
    as_json: bool = False

    def all_seeds(self) -> tuple[int, ...]:
        """The seed of each repeat.

        Raises:
            ConfigError: seeds and repeats contradict one another.
        """
        if self.seeds is None:
            first = self.settings.run.seed
            return tuple(range(first, first + (self.repeats or 1)))
        if self.repeats is not None and self.repeats != len(self.seeds):
            raise ConfigError(
                f"--repeats {self.repeats} with {len(self.seeds)} seeds: give as many seeds, or leave --repeats out"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"--seeds {' '.join(map(str, self.seeds))}: a seed is there twice")
        return self.seeds


def run_command(options: ArenaOptions) -> int:
    """Run an arena, or a tournament of them; the exit code.

    Raises:
        InputError: what was given cannot be used.
    """
    config = ArenaConfig.read(options.arena)
    settings = _market_settings(options.settings, config)
    seeds = options.all_seeds()
    console = Console(soft_wrap=True, highlight=False)
    notices: list[str] = []
    market = open_market(settings, "flat", options.training_runs, notices.append)
    _check_market(market, config)
    first = _enter(options, config, seeds[0], repeated=len(seeds) > 1)
    span = parse_time_ms(settings.run.start), parse_time_ms(settings.run.end)
    envs = build_arena(first, market, start=span[0], end=span[1])
    notices += [one.note for one in first if one.note]
    if any(one.is_llm for one in first) and (options.dry_run or not (options.quiet or options.as_json)):
        _show_estimates(first, envs, len(seeds), options.window)
    if options.dry_run:
        for notice in notices:
            console.print(Text(f"note: {notice}", "yellow"))
        return 0
    check_fit(first, envs, seeds[0])
    stamp = stamp_of(datetime.now(UTC))
    folder = create_folder(ARENAS / f"{config.name}_{stamp}", options.out)
    if (folder / "leaderboard.json").exists() or (folder / "tournament.json").exists():
        raise ConfigError(f"{folder} holds an arena already; give another folder with --out")
    write_config(folder / "config.yaml", _recorded(options, config, settings, market, seeds))
    results: dict[int, ArenaResult] = {}
    told: set[str] = set()
    with interruptible() as should_stop:
        for number, seed in enumerate(seeds):
            own_market = market
            if number:
                if should_stop():
                    break
                if market.synthetic:
                    own_market = open_market(
                        _seeded(settings, seed), "flat", options.training_runs, notices.append
                    )
            entrants = first if number == 0 else _enter(options, config, seed, repeated=True)
            if number or options.window is not None:
                start, end = span
                if options.window is not None:
                    base = (
                        envs
                        if own_market is market
                        else build_arena(entrants, own_market, start=start, end=end)
                    )
                    start, end = draw_window(base, options.window, seed)
                own_envs = build_arena(entrants, own_market, start=start, end=end)
            else:
                own_envs = envs
            own_folder = folder if len(seeds) == 1 else folder / f"seed-{seed}"
            own_folder.mkdir(exist_ok=True)
            title = (
                f"{config.name}, seed {seed} ({number + 1}/{len(seeds)})" if len(seeds) > 1 else config.name
            )
            with _progress(title, entrants, own_envs, shown=not (options.quiet or options.as_json)) as tell:
                result = run_arena(
                    entrants, own_envs, seed=seed, folder=own_folder, stamp=stamp, should_stop=should_stop,
                    on_progress=tell,
                )  # fmt: skip
            results[seed] = result
            _write(own_folder, config, result, own_market, seed, notices, report=options.report)
            if not options.quiet:
                _show(console, title, result, own_market, notices, told)
    tournament = None
    stopped = any(
        one.ending is Ending.STOPPED for result in results.values() for one in result.simulations.values()
    )
    if len(seeds) > 1:
        # A repeat that was cut short is no repeat of the others.
        whole = {
            seed: result.standings
            for seed, result in results.items()
            if not any(one.ending is Ending.STOPPED for one in result.simulations.values())
        }
        if whole:
            tournament = tournament_of(whole)
            write_json(folder / "tournament.json", {"arena": config.name, **tournament.to_dict()})
            write_csv(folder / "tournament.csv", [one.to_dict() for one in tournament.records])
            if options.report:
                write_tournament_report(
                    folder / "report.html",
                    f"Tournament {config.name}",
                    f"{', '.join(config.symbols)}, {config.interval} candles"
                    + (f", {options.window} of them in each repeat" if options.window is not None else ""),
                    tournament,
                    whole,
                    list(dict.fromkeys(notices)),
                    synthetic=market.synthetic,
                )
            if not options.quiet:
                _wide(console).print(tournament_table(tournament))
    if not options.quiet:
        console.print(Text(f"files: {folder}"))
    if options.as_json:
        sys.stdout.write(json.dumps(_summary(results, tournament, folder), allow_nan=False) + "\n")
    return 130 if stopped or len(results) < len(seeds) else 0


def _market_settings(settings: BacktestConfig, config: ArenaConfig) -> BacktestConfig:
    """A backtest's settings on the arena's market.

    Raises:
        ConfigError: they speak of an agent.
    """
    given = [name for name in ("agent", "env", "features", "risk") if getattr(settings, name)]
    if settings.run.agent is not None or given:
        raise ConfigError(
            f"an arena names its agents and their settings itself: leave out --agent and the sections "
            f"{', '.join(given) or 'agent'}"
        )
    run = settings.run.model_copy(update={"symbols": settings.run.symbols or config.symbols})
    if tuple(run.symbols or ()) != config.symbols:
        raise ConfigError("an arena names its symbols itself: leave out --symbol")
    synthetic = settings.market.synthetic
    if "interval" not in synthetic.model_fields_set:
        synthetic = synthetic.model_copy(update={"interval": config.interval})
    market = settings.market.model_copy(update={"synthetic": synthetic})
    return settings.model_copy(update={"run": run, "market": market})


def _seeded(settings: BacktestConfig, seed: int) -> BacktestConfig:
    return settings.model_copy(update={"run": settings.run.model_copy(update={"seed": seed})})


def _check_market(market: Market, config: ArenaConfig) -> None:
    if interval_name(market.interval_ms) != config.interval:
        raise ConfigError(
            f"the candles are of {interval_name(market.interval_ms)}, the arena's interval is {config.interval}: give "
            "candles of that interval, or change it"
        )


def _enter(options: ArenaOptions, config: ArenaConfig, seed: int, *, repeated: bool) -> list[Entrant]:
    llm: dict[str, Any] = {}
    if options.offline:
        llm["offline"] = True
    if options.blind:
        llm["blind"] = {"enabled": True}
    overrides: dict[str, Mapping[str, Any]] = {}
    if options.max_drawdown is not None:
        overrides["risk"] = {"max_drawdown_fraction": options.max_drawdown}
    return enter(
        config,
        seed=seed,
        training_runs=options.training_runs,
        llm=llm,
        ask=not (options.dry_run or options.offline),
        overrides=overrides,
        cache_apart=f"seed-{seed}" if repeated else "",
    )


def draw_window(envs: Mapping[str, FuturesEnv], candles: int, seed: int) -> tuple[int, int]:
    """Half open span, UTC ms, of so many candles somewhere in the common span; the seed draws where.

    Raises:
        ConfigError: the span is shorter.
    """
    env = next(iter(envs.values()))
    first, last = env.first_index, env.last_index
    room = last - first - candles
    if room < 0:
        raise ConfigError(f"--window {candles}: the span has {last - first} candles to decide on; give fewer")
    start = first + int(np.random.default_rng(seed).integers(0, room + 1))
    times = env.market.open_time_ms
    return int(times[start]), int(times[start + candles]) + env.market.interval_ms


def _show_estimates(
    entrants: Sequence[Entrant], envs: Mapping[str, FuturesEnv], repeats: int, window: int | None
) -> None:
    """Print what each model will cost at most, and the sum."""
    from agents.llm.agent import LlmAgent
    from agents.llm.estimate import describe, guess

    low = high = 0.0
    unknown = []
    for one in entrants:
        if not one.is_llm:
            continue
        agent = one.setup.agent
        assert isinstance(agent, LlmAgent)
        env = envs[one.name]
        estimate = guess(agent, env, steps=window)
        for line in describe(agent.config, estimate, env.market.interval_ms):
            sys.stdout.write(f"{line}\n")
        if agent.config.offline:
            continue
        if estimate.usd_cached is None or estimate.usd_full is None:
            unknown.append(one.name)
            continue
        low, high = low + repeats * estimate.usd_cached, high + repeats * estimate.usd_full
    times = f" for {repeats} repeats" if repeats > 1 else ""
    without = f", without {', '.join(unknown)}, whose price is unknown" if unknown else ""
    sys.stdout.write(f"all models together{times}: {low:,.2f} to {high:,.2f} USD{without}\n")
    sys.stdout.flush()


@contextmanager
def _progress(
    title: str, entrants: Sequence[Entrant], envs: Mapping[str, FuturesEnv], *, shown: bool
) -> Iterator[OnProgress | None]:
    """A bar per agent; nothing where stdout is no terminal."""
    console = Console()
    if not shown or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        console.print(Text(title, "bold"))
        tasks = {one.name: bar.add_task(one.name, total=None) for one in entrants}

        def tell(name: str, done: int, planned: int) -> None:
            # An agent without a model makes many steps between two redraws: the bar draws by itself.
            if done % 16 == 0 or done == planned or done < 16:
                bar.update(tasks[name], completed=done, total=planned)

        yield tell


def _write(
    folder: Path,
    config: ArenaConfig,
    result: ArenaResult,
    market: Market,
    seed: int,
    notices: Sequence[str],
    *,
    report: bool,
) -> None:
    start_ms, end_ms = span_of(result)
    about = {
        "arena": config.name,
        "symbols": list(market.symbols),
        "interval": interval_name(market.interval_ms),
        "start": iso_time(start_ms),
        "end": iso_time(end_ms),
        "seed": seed,
        "synthetic": market.synthetic,
        "data_hash": market.data_hash(),
        "notices": list(dict.fromkeys((*notices, *result.notices))),
    }
    write_leaderboard(folder, result.standings, about)
    if not report:
        return
    write_arena_report(
        folder / "report.html",
        f"Arena {config.name}",
        f"{', '.join(market.symbols)}, {interval_name(market.interval_ms)} candles, {format_time(start_ms)} to "
        f"{format_time(end_ms)}",
        # In the arena's order: an agent has the same colour on every page.
        {name: (one.time_ms, one.equity) for name, one in result.simulations.items()},
        result.standings,
        about["notices"],  # type: ignore[arg-type]
        synthetic=market.synthetic,
    )


def span_of(result: ArenaResult) -> tuple[int, int]:
    """What the longest of the runs covered, UTC ms."""
    spans = [one.span_ms for one in result.simulations.values()]
    return min(start for start, _ in spans), max(end for _, end in spans)


def _show(
    console: Console,
    title: str,
    result: ArenaResult,
    market: Market,
    notices: Sequence[str],
    told: set[str],
) -> None:
    """Print a leaderboard and what was not `told` yet."""
    if market.synthetic:
        console.print(
            Text(" SYNTHETIC MARKET: these prices were made up; the figures say nothing about a real one. ",
                 "black on yellow")
        )  # fmt: skip
    start_ms, end_ms = span_of(result)
    said = f"{title}: {', '.join(market.symbols)}, {interval_name(market.interval_ms)} candles, "
    console.print(Text(f"{said}{format_time(start_ms)} to {format_time(end_ms)}"))
    width = width_for_tables(console)
    _wide(console).print(leaderboard_table(result.standings, width=width))
    for notice in dict.fromkeys((*notices, *result.notices)):
        if notice not in told:
            console.print(Text(f"note: {notice}", "yellow"))
    told.update(notices, result.notices)


def _wide(console: Console) -> Console:
    """A table that wraps is no table."""
    return Console(highlight=False, width=width_for_tables(console))


def _recorded(
    options: ArenaOptions, config: ArenaConfig, settings: BacktestConfig, market: Market, seeds: Sequence[int]
) -> dict[str, Any]:
    return {
        "arena": config.model_dump(mode="json"),
        "run": settings.run.model_dump(mode="json", exclude={"agent"}),
        "market": settings.market.model_dump(mode="json"),
        "record": {
            "file": str(options.arena.resolve()),
            "seeds": list(seeds),
            "window": options.window,
            "data_hash": market.data_hash(),
            "versions": versions(),
        },
    }


def _summary(
    results: Mapping[int, ArenaResult], tournament: Tournament | None, folder: Path
) -> dict[str, Any]:
    boards = {str(seed): [asdict(one) for one in result.standings] for seed, result in results.items()}
    found: dict[str, Any] = {"folder": str(folder), "leaderboards": boards}
    if tournament is not None:
        found["tournament"] = tournament.to_dict()
    return found
