"""`python -m agents.backtest --arena FILE`: what the command does once its options are read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from agents.arena.config import ArenaConfig, Entrant, enter
from agents.arena.console import progress, show, show_estimates, wide
from agents.arena.offline import ArenaResult, build_arena, check_fit, run_arena
from agents.arena.report import write_arena_report, write_tournament_report
from agents.arena.standings import write_csv, write_leaderboard
from agents.arena.tournament import Tournament, tournament_of, tournament_table
from agents.backtest_config import BacktestConfig, open_market
from agents.backtest_files import create_folder, iso_time, stamp_of, versions, write_config, write_json
from agents.command_line import interruptible
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
    return _Command(options).run()


class _Command:
    """One call of the command: the arena's agents on one market, once per seed."""

    def __init__(self, options: ArenaOptions) -> None:
        self._options = options
        self._config = ArenaConfig.read(options.arena)
        self._settings = _market_settings(options.settings, self._config)
        self._seeds = options.all_seeds()
        self._repeated = len(self._seeds) > 1
        self._console = Console(soft_wrap=True, highlight=False)
        self._notices: list[str] = []
        self._told: set[str] = set()
        self._market = self._open_market(self._settings)
        _check_market(self._market, self._config)
        self._span = parse_time_ms(self._settings.run.start), parse_time_ms(self._settings.run.end)

    def run(self) -> int:
        """See `run_command`."""
        options = self._options
        first = self._enter(self._seeds[0])
        envs = self._build(first, self._market)
        self._notices += [one.note for one in first if one.note]
        if any(one.is_llm for one in first) and (options.dry_run or not (options.quiet or options.as_json)):
            show_estimates(first, envs, len(self._seeds), options.window)
        if options.dry_run:
            for notice in self._notices:
                self._console.print(Text(f"note: {notice}", "yellow"))
            return 0
        check_fit(first, envs, self._seeds[0])
        stamp = stamp_of(datetime.now(UTC))
        folder = create_folder(ARENAS / f"{self._config.name}_{stamp}", options.out)
        if (folder / "leaderboard.json").exists() or (folder / "tournament.json").exists():
            raise ConfigError(f"{folder} holds an arena already; give another folder with --out")
        write_config(folder / "config.yaml", self._recorded())
        results: dict[int, ArenaResult] = {}
        with interruptible() as should_stop:
            for number, seed in enumerate(self._seeds):
                if number and should_stop():
                    break
                entrants = self._enter(seed) if number else first
                results[seed] = self._play(number, entrants, envs, folder, stamp, should_stop)
        tournament = self._finish_tournament(results, folder) if self._repeated else None
        if not options.quiet:
            self._console.print(Text(f"files: {folder}"))
        if options.as_json:
            sys.stdout.write(json.dumps(_summary(results, tournament, folder), allow_nan=False) + "\n")
        cut_short = len(results) < len(self._seeds) or any(one.stopped for one in results.values())
        return 130 if cut_short else 0

    def _open_market(self, settings: BacktestConfig) -> Market:
        return open_market(settings, "flat", self._options.training_runs, self._notices.append)

    def _build(
        self, entrants: Sequence[Entrant], market: Market, span: tuple[int | None, int | None] | None = None
    ) -> dict[str, FuturesEnv]:
        start, end = span or self._span
        return build_arena(entrants, market, start=start, end=end)

    def _enter(self, seed: int) -> list[Entrant]:
        options = self._options
        llm: dict[str, Any] = {}
        if options.offline:
            llm["offline"] = True
        if options.blind:
            llm["blind"] = {"enabled": True}
        overrides: dict[str, Mapping[str, Any]] = {}
        if options.max_drawdown is not None:
            overrides["risk"] = {"max_drawdown_fraction": options.max_drawdown}
        return enter(
            self._config,
            seed=seed,
            training_runs=options.training_runs,
            llm=llm,
            ask=not (options.dry_run or options.offline),
            overrides=overrides,
            cache_apart=f"seed-{seed}" if self._repeated else "",
        )

    def _play(
        self,
        number: int,
        entrants: Sequence[Entrant],
        envs: Mapping[str, FuturesEnv],
        folder: Path,
        stamp: str,
        should_stop: Callable[[], bool],
    ) -> ArenaResult:
        """Play one repeat and write it; `envs` are the first one's."""
        options, seed = self._options, self._seeds[number]
        market = self._market
        if number and market.synthetic:
            market = self._open_market(_seeded(self._settings, seed))
        known = envs if market is self._market else self._build(entrants, market)
        if options.window is not None:
            envs = self._build(entrants, market, draw_window(known, options.window, seed))
        else:
            envs = self._build(entrants, market) if number and known is envs else known
        title = self._config.name
        if self._repeated:
            folder = folder / f"seed-{seed}"
            folder.mkdir(exist_ok=True)
            title += f", seed {seed} ({number + 1}/{len(self._seeds)})"
        with progress(title, entrants, envs, shown=not (options.quiet or options.as_json)) as tell:
            result = run_arena(
                entrants,
                envs,
                seed=seed,
                folder=folder,
                stamp=stamp,
                should_stop=should_stop,
                on_progress=tell,
            )
        self._write(folder, result, market, seed)
        if not options.quiet:
            show(self._console, title, result, market, self._notices, self._told)
        return result

    def _finish_tournament(self, results: Mapping[int, ArenaResult], folder: Path) -> Tournament | None:
        """Compare the repeats that were not cut short, and write that; None where there are none."""
        whole = {seed: result.standings for seed, result in results.items() if not result.stopped}
        if not whole:
            return None
        config, window = self._config, self._options.window
        tournament = tournament_of(whole)
        write_json(folder / "tournament.json", {"arena": config.name, **tournament.to_dict()})
        write_csv(folder / "tournament.csv", [one.to_dict() for one in tournament.records])
        if self._options.report:
            write_tournament_report(
                folder / "report.html",
                f"Tournament {config.name}",
                f"{', '.join(config.symbols)}, {config.interval} candles"
                + (f", {window} of them in each repeat" if window is not None else ""),
                tournament,
                whole,
                list(dict.fromkeys(self._notices)),
                synthetic=self._market.synthetic,
            )
        if not self._options.quiet:
            wide(self._console).print(tournament_table(tournament))
        return tournament

    def _write(self, folder: Path, result: ArenaResult, market: Market, seed: int) -> None:
        start_ms, end_ms = result.span_ms
        about = {
            "arena": self._config.name,
            "symbols": list(market.symbols),
            "interval": interval_name(market.interval_ms),
            "start": iso_time(start_ms),
            "end": iso_time(end_ms),
            "seed": seed,
            "synthetic": market.synthetic,
            "data_hash": market.data_hash(),
            "notices": list(dict.fromkeys((*self._notices, *result.notices))),
        }
        write_leaderboard(folder, result.standings, about)
        if not self._options.report:
            return
        write_arena_report(
            folder / "report.html",
            f"Arena {self._config.name}",
            f"{', '.join(market.symbols)}, {interval_name(market.interval_ms)} candles, {format_time(start_ms)} to "
            f"{format_time(end_ms)}",
            # In the arena's order: an agent has the same colour on every page.
            {name: (one.time_ms, one.equity) for name, one in result.simulations.items()},
            result.standings,
            about["notices"],  # type: ignore[arg-type]
            synthetic=market.synthetic,
        )

    def _recorded(self) -> dict[str, Any]:
        return {
            "arena": self._config.model_dump(mode="json"),
            "run": self._settings.run.model_dump(mode="json", exclude={"agent"}),
            "market": self._settings.market.model_dump(mode="json"),
            "record": {
                "file": str(self._options.arena.resolve()),
                "seeds": list(self._seeds),
                "window": self._options.window,
                "data_hash": self._market.data_hash(),
                "versions": versions(),
            },
        }


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


def _summary(
    results: Mapping[int, ArenaResult], tournament: Tournament | None, folder: Path
) -> dict[str, Any]:
    boards = {str(seed): [asdict(one) for one in result.standings] for seed, result in results.items()}
    found: dict[str, Any] = {"folder": str(folder), "leaderboards": boards}
    if tournament is not None:
        found["tournament"] = tournament.to_dict()
    return found
