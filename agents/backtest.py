"""`python -m agents.backtest`: runs any agent over past or synthetic candles, and reports.

The result is shown beside buy-and-hold and flat over the same candles with the same costs. Exit code 0; 2 when
what was given cannot be used; 3 when the emergency protocol ran; 130 when the user stopped it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from agents.backtest_config import BacktestConfig, RunSection, choose_span, open_market, recorded_run
from agents.backtest_files import (
    create_folder,
    stamp_of,
)
from agents.backtest_run import run_backtest
from agents.catalog import is_llm, make_agent, merge_settings
from agents.command_line import interruptible, spread_lists
from agents.simulate import build_env
from agents.training_run import DEFAULT_ROOT
from envs.errors import ConfigError, PerpgymError

RUNS = Path("runs") / "backtests"
"""Where backtests of agents without a training run go."""

LIST_OPTIONS = ("--candles", "--funding", "--mark", "--symbol", "--seeds")


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
