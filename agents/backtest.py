"""`python -m agents.backtest`: runs any agent over past or synthetic candles, and reports.

The result is shown beside buy-and-hold and flat over the same candles with the same costs. Exit code 0; 2 when
what was given cannot be used; 3 when the emergency protocol ran; 130 when the user stopped it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from agents.backtest_config import BacktestConfig, RunSection, choose_span, open_market, recorded_run
from agents.backtest_files import (
    BacktestPaths,
    create_folder,
    iso_time,
    stamp_of,
    versions,
    write_config,
    write_json,
)
from agents.base import AgentSetup, KeepsRecords
from agents.catalog import is_llm, make_agent, merge_settings
from agents.command_line import interruptible, spread_lists
from agents.run import Ending
from agents.simulate import OnStep, Simulation, build_env, simulate, simulate_benchmarks
from agents.training_run import DEFAULT_ROOT
from envs.candles import interval_name
from envs.errors import ConfigError, PerpgymError
from envs.futures_env import FuturesEnv
from envs.market import Market
from envs.time_grid import format_time

RUNS = Path("runs") / "backtests"
"""Where backtests of agents without a training run go."""

LIST_OPTIONS = ("--candles", "--funding", "--mark", "--symbol", "--seeds")


@dataclass(frozen=True, eq=False)
class BacktestResult:
    """A finished backtest.

    Attributes:
        spec: the agent as it was asked for.
        setup: the agent with its environment.
        market: what it traded in.
        simulation: what it did.
        benchmarks: buy-and-hold and flat over the same candles.
        notices: what the user may not expect, one line each.
        paths: the files, when any were written.
        elapsed_s: time that the agent's own run took.
    """

    spec: str
    setup: AgentSetup
    market: Market
    simulation: Simulation
    benchmarks: Mapping[str, Simulation]
    notices: tuple[str, ...] = ()
    paths: BacktestPaths | None = None
    elapsed_s: float = 0.0

    @property
    def exit_code(self) -> int:
        """What the command returns to the shell."""
        match self.simulation.ending:
            case Ending.EMERGENCY:
                return 3
            case Ending.STOPPED:
                return 130
        return 0

    def price_changes(self) -> dict[str, float]:
        """By symbol, last close / first close - 1 over the candles that the benchmarks ran over."""
        flat = self.benchmarks["flat"]
        first, last = (int(row) for row in self.market.close_time_ms.searchsorted(flat.time_ms[[0, -1]]))
        change = self.market.close[last] / self.market.close[first] - 1.0
        return dict(zip(self.market.symbols, change.tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """The metrics, whose they are and what they stand beside; for JSON."""
        done = self.simulation
        report = done.emergency
        return {
            "agent": self.spec,
            "train_id": self.setup.train_id,
            "symbols": list(done.symbols),
            "interval": interval_name(done.interval_ms),
            "start": iso_time(done.span_ms[0]),
            "end": iso_time(done.span_ms[1]),
            "synthetic": self.market.synthetic,
            **done.metrics.to_dict(),
            "ending": done.ending.value,
            "emergency": None if report is None else report.reason,
            "price_change": self.price_changes(),
            "benchmarks": {name: one.metrics.to_dict() for name, one in self.benchmarks.items()},
            "notices": list(self.notices),
            "paths": None if self.paths is None else self.paths.to_dict(),
        }


def run_backtest(
    spec: str,
    setup: AgentSetup,
    env: FuturesEnv,
    *,
    seed: int | None = 0,
    folder: Path | None = None,
    config: Mapping[str, Any] | None = None,
    report: bool = True,
    notices: Sequence[str] = (),
    should_stop: Callable[[], bool] = lambda: False,
    on_step: OnStep | None = None,
) -> BacktestResult:
    """Run an agent and the benchmarks, and write the files.

    Args:
        spec: the agent as it was asked for, for the record.
        setup: from `make_agent`.
        env: from `build_env`.
        seed: of the agent.
        folder: where to write; None writes nothing and keeps the rows of the step log in `simulation.records`.
        config: what config.yaml says beside the settings: the sections run, market and agent.
        report: whether to write report.html.
        notices: what the result should say about its input.
        should_stop: asked between steps.
        on_step: told after each step.

    Raises:
        ObservationMismatchError: the agent cannot read this environment's observation.
    """
    stamp = stamp_of(datetime.now(UTC))
    steps = emergencies = None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        steps, emergencies = folder / f"steps_{stamp}.csv", folder / f"emergencies_{stamp}.csv"
        if isinstance(setup.agent, KeepsRecords):
            setup.agent.write_to(folder)
    began_s = time.perf_counter()
    done = simulate(
        setup,
        env,
        seed=seed,
        steps_path=steps,
        emergencies_path=emergencies,
        keep_records=folder is None,
        should_stop=should_stop,
        on_step=on_step,
    )
    elapsed_s = time.perf_counter() - began_s
    stopped = done.ending is Ending.STOPPED
    benchmarks = simulate_benchmarks(env, done.metrics.steps if stopped else setup.max_steps)
    own = setup.agent.notices() if isinstance(setup.agent, KeepsRecords) else ()
    said = (*notices, *own, *_notices(done, benchmarks))
    result = BacktestResult(spec, setup, env.market, done, benchmarks, said, None, elapsed_s)
    if folder is None or steps is None:
        return result
    result = replace(
        result,
        paths=BacktestPaths(
            folder=folder,
            steps=steps,
            emergencies=emergencies if done.emergency is not None else None,
            metrics=folder / "metrics.json",
            report=folder / "report.html" if report else None,
            config=folder / "config.yaml",
        ),
    )
    _write(result, config or {}, env.spec_observation.hash)
    return result


def _notices(done: Simulation, benchmarks: Mapping[str, Simulation]) -> list[str]:
    notices = []
    planned = max(len(one.time_ms) for one in benchmarks.values()) - 1
    if done.metrics.steps < planned:
        notices.append(
            f"{done.agent} ended after {done.metrics.steps} of {planned} steps; buy-and-hold and flat ran all of them"
        )
    held = benchmarks["buy-and-hold"]
    if held.metrics.liquidations:
        notices.append(
            f"buy-and-hold was liquidated at {format_time(held.span_ms[1])}: it never rebalances, and funding of "
            f"{held.metrics.funding:,.2f} USDT went through its wallet"
        )
    if not held.trades:
        notices.append(
            "buy-and-hold could not open a position: the capital is below the exchange's minimum order"
        )
    return notices


def _write(result: BacktestResult, config: Mapping[str, Any], observation_hash: str) -> None:
    paths, setup = result.paths, result.setup
    assert paths is not None
    values = {
        **config,
        "env": setup.env.model_dump(mode="json"),
        "features": setup.features.model_dump(mode="json"),
        "risk": setup.limits.model_dump(mode="json"),
        "record": {
            "made_at": iso_time(int(time.time() * 1000)),
            "train_id": setup.train_id,
            "synthetic": result.market.synthetic,
            "data_hash": result.market.data_hash(),
            "observation_hash": observation_hash,
            "versions": versions(),
        },
    }
    write_config(paths.config, values)
    write_json(paths.metrics, result.to_dict())
    if paths.report is not None:
        # Imported here: a backtest without a report has no need of it.
        from agents.report import write_report

        write_report(paths.report, result, values)


# --- command line -----------------------------------------------------------------------------------------

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def backtest(
    agent: Annotated[
        str | None,
        typer.Option(
            help="flat, buy-and-hold, random, ema-cross, momentum, actions:FILE, llm:FILE, or a train id."
        ),
    ] = None,
    candles: Annotated[
        list[str] | None,
        typer.Option(
            help="Candle files, one per symbol; none: those of the training run, or a synthetic market."
        ),
    ] = None,
    funding: Annotated[list[str] | None, typer.Option(help="Files of settled funding rates.")] = None,
    mark: Annotated[list[str] | None, typer.Option(help="Files of mark-price candles.")] = None,
    symbol: Annotated[list[str] | None, typer.Option(help="Symbols, in the order of the actions.")] = None,
    start: Annotated[str | None, typer.Option(help="First candle to trade, UTC, e.g. 2024-01-01.")] = None,
    end: Annotated[str | None, typer.Option(help="First candle not to trade.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML; see configs/backtest.yaml.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the files.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Metrics as JSON on the last line.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Of random agents and synthetic markets.")] = None,
    max_drawdown: Annotated[
        float | None,
        typer.Option(help="Drawdown at which the emergency protocol ends the run: 0.05 is 5 %."),
    ] = None,
    acknowledge_emergency: Annotated[
        bool, typer.Option(help="As for live.py; a backtest never starts halted, so it changes nothing.")
    ] = False,
    training_runs: Annotated[Path, typer.Option(help="Folder of the training runs.")] = DEFAULT_ROOT,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="llm:FILE: print the cost estimate and a sample prompt; ask nobody."),
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="llm:FILE: answer from the replay cache only.")
    ] = False,
    blind: Annotated[
        bool, typer.Option("--blind", help="llm:FILE: rename symbols, rebase prices, shift dates.")
    ] = False,
    arena: Annotated[
        Path | None, typer.Option(help="Several agents side by side: an arena's file, as configs/arena.yaml.")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="--arena: play so often, with other seeds.")
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option(min=0, help="--arena: the seeds of the repeats.")] = None,
    window: Annotated[
        int | None,
        typer.Option(min=2, help="--arena: candles of each repeat, at a place drawn by its seed; none: all."),
    ] = None,
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
    quiet: Annotated[bool, typer.Option(help="Print no table and no progress.")] = False,
) -> None:
    """Run an agent over past candles; write its steps, its metrics and a report. --arena runs several side by side."""
    settings = BacktestConfig.read(config)
    given: dict[str, Any] = {
        "agent": agent,
        "candles": candles,
        "funding": funding,
        "mark": mark,
        "symbols": symbol,
        "start": start,
        "end": end,
        "seed": seed,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    run = RunSection.parse({**settings.run.model_dump(), **asked}, where="command line")
    settings = settings.model_copy(update={"run": run})
    if arena is not None:
        # Imported here: a backtest of one agent does without.
        from agents.arena.command import ArenaOptions, run_command

        raise typer.Exit(
            run_command(
                ArenaOptions(
                    arena,
                    settings,
                    out,
                    training_runs,
                    max_drawdown,
                    repeats,
                    tuple(seeds) if seeds else None,
                    window,
                    dry_run=dry_run,
                    offline=offline,
                    blind=blind,
                    report=report,
                    quiet=quiet,
                    as_json=as_json,
                )
            )
        )
    if repeats is not None or seeds or window is not None:
        raise ConfigError("--repeats, --seeds and --window are for --arena FILE")
    if dry_run or offline or blind:
        settings = _llm_options(settings, offline=offline, blind=blind)
    raise typer.Exit(
        _command(
            settings,
            out,
            training_runs,
            max_drawdown,
            report=report,
            quiet=quiet,
            as_json=as_json,
            dry_run=dry_run,
        )
    )


def _llm_options(settings: BacktestConfig, *, offline: bool, blind: bool) -> BacktestConfig:
    """The settings with what `--offline` and `--blind` ask of a language model."""
    if settings.run.agent is None or not is_llm(settings.run.agent):
        raise ConfigError("--dry-run, --offline and --blind are for language models: give --agent llm:FILE")
    asked: dict[str, Any] = {
        **({"offline": True} if offline else {}),
        **({"blind": {"enabled": True}} if blind else {}),
    }
    return settings.model_copy(update={"agent": merge_settings(settings.agent or {}, asked)})


def _command(
    settings: BacktestConfig,
    out: Path | None,
    training_runs: Path,
    max_drawdown: float | None,
    *,
    report: bool,
    quiet: bool,
    as_json: bool,
    dry_run: bool = False,
) -> int:
    from agents.backtest_console import STEPS_PER_UPDATE, progress, show

    if settings.run.agent is None:
        raise ConfigError("no agent was given; give one, as --agent ema-cross")
    spec = settings.run.agent
    notices: list[str] = []
    market = open_market(settings, spec, training_runs, notices.append)
    overrides = settings.overrides()
    if max_drawdown is not None:
        overrides["risk"] = {**overrides.get("risk", {}), "max_drawdown_fraction": max_drawdown}
    setup = make_agent(
        spec, symbols=market.symbols, config=overrides, seed=settings.run.seed, training_runs=training_runs
    )
    span = choose_span(settings, market, spec, training_runs, notices.append)
    known_hash = (settings.record or {}).get("data_hash")
    if known_hash is not None and known_hash != market.data_hash():
        notices.append("the candles or fundings are not those that the config was recorded with")
    env = build_env(setup, market, start=span.start_ms, end=span.end_ms)
    if is_llm(spec):
        from agents.llm.estimate import show_estimate

        show_estimate(setup, env, prompt=dry_run, quiet=quiet or as_json)
        if dry_run:
            return 0
    # Asked before the folder is made, so that an agent that does not fit leaves nothing behind.
    setup.agent.reset(env.spec_observation, seed=settings.run.seed)
    stamp = stamp_of(datetime.now(UTC))
    if setup.train_id is None:
        default = RUNS / f"{setup.agent.name}_{stamp}"
    else:
        default = training_runs / setup.train_id / "backtests" / stamp
    folder = create_folder(default, out)
    recorded = {
        "run": recorded_run(settings, market, span),
        # A training run without candles brings its own market, unless this section names another.
        "market": settings.market.model_dump(mode="json", exclude_unset=setup.train_id is not None),
        **({"agent": settings.agent} if settings.agent else {}),
    }
    every = 1 if is_llm(spec) else STEPS_PER_UPDATE
    with (
        closing(setup.agent),
        interruptible() as should_stop,
        progress(shown=not (quiet or as_json), every=every) as on_step,
    ):
        result = run_backtest(
            spec,
            setup,
            env,
            seed=settings.run.seed,
            folder=folder,
            config=recorded,
            report=report,
            notices=notices,
            should_stop=should_stop,
            on_step=on_step,
        )
    if not quiet:
        show(result)
    if as_json:
        sys.stdout.write(json.dumps(result.to_dict(), allow_nan=False) + "\n")
    return result.exit_code


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: ends the process with its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        app(spread_lists(given, LIST_OPTIONS), prog_name="python -m agents.backtest")
    except PerpgymError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
