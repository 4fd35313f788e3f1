"""The command line of a live run."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from agents.baselines import BASELINES
from agents.command_line import spread_lists
from envs.config import read_yaml
from envs.errors import ConfigError, PerpgymError
from envs.leaving_out import numba_without_blas
from live.asked import Asked, arena_options, live_options, take_connection
from live.console import LiveConsole
from live.flatten_command import FlattenOptions, run_flatten
from live.runner import run_live
from live.venues import PaperOptions, VenueChoice, account_venue

_CONFIRMATION = "trade real money"
_CLOSE_CONFIRMATION = "close everything"
_LIST_OPTIONS = ("--candles", "--funding", "--mark", "--symbol", "--symbols")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def live(
    train_id: Annotated[
        str | None, typer.Option(help="Training run to trade: its id, or its folder.")
    ] = None,
    agent: Annotated[
        str | None, typer.Option(help=f"Any other agent: {', '.join(BASELINES)}, actions:FILE, or llm:FILE.")
    ] = None,
    arena: Annotated[
        Path | None,
        typer.Option(help="Several agents on one account: an arena's file, as configs/arena.yaml."),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Trade on the embedded paper exchange.")] = False,
    testnet: Annotated[bool, typer.Option("--testnet", help="Trade on Binance's futures testnet.")] = False,
    live_money: Annotated[
        bool, typer.Option("--live", help="Trade with REAL MONEY; asks for a typed confirmation.")
    ] = False,
    symbol: Annotated[
        list[str] | None,
        typer.Option(
            "--symbol",
            "--symbols",
            help="Symbol to trade, or to close; repeat for several, or with commas. Default: the training run's.",
        ),
    ] = None,
    interval: Annotated[
        str | None, typer.Option(help="Candle interval. Default: the training run's.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML with the sections agent, env, features, risk, connection.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="End after so many candles.")] = None,
    db: Annotated[
        str | None,
        typer.Option(help="Keep the run's account in this database: a SQLite file, or postgresql://..."),
    ] = None,
    max_drawdown: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Drawdown that triggers the emergency protocol: 0.2 is 20 %."),
    ] = None,
    candles: Annotated[
        list[Path] | None, typer.Option(help="Paper: replay these candles (one file per symbol).")
    ] = None,
    funding: Annotated[list[Path] | None, typer.Option(help="Paper: funding rates of the replay.")] = None,
    mark: Annotated[list[Path] | None, typer.Option(help="Paper: mark-price candles of the replay.")] = None,
    start: Annotated[
        str | None,
        typer.Option(help="Paper: first candle to decide on. Default: the training run's test span."),
    ] = None,
    end: Annotated[str | None, typer.Option(help="Paper: end of the replay.")] = None,
    speed: Annotated[
        str,
        typer.Option(help="Paper: candle time per wall time (60: an hour a minute), or max for lock-step."),
    ] = "max",
    paper_url: Annotated[
        str | None,
        typer.Option(help="Paper: a running exchange (python -m live.paper) instead of a new one."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the agent and of the synthetic market.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of step logs and state. Default: the training run's production/."),
    ] = None,
    training_runs: Annotated[Path, typer.Option(help="Folder of the training runs.")] = Path("training_runs"),
    acknowledge_emergency: Annotated[
        bool, typer.Option("--acknowledge-emergency", help="Start although an emergency halted the run.")
    ] = False,
    flatten: Annotated[
        bool,
        typer.Option("--flatten", help="Run no agent: close every position, cancel every order, and end."),
    ] = False,
    flat_on_exit: Annotated[
        bool, typer.Option("--flat-on-exit", help="Close all positions when the run ends.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before trading real money.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No line per step.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what the connection does.")] = False,
) -> None:
    """Run an agent, one step per closed candle.

    Without a choice of venue: the testnet when its credentials are set, else the embedded paper exchange.
    Ctrl+C stops after the current step and leaves positions as they are. Exit codes: 0 done, 1 the
    exchange or the database failed, 2 wrong input, 3 emergency, or not flat after --flatten.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")
    console = LiveConsole(quiet=quiet)
    symbols = tuple(one.strip() for text in symbol or () for one in text.split(",") if one.strip())
    try:
        if flatten:
            given = {
                "--train-id": train_id,
                "--agent": agent,
                "--arena": arena,
                "--steps": steps,
                "--db": db,
                "--candles": candles,
                "--flat-on-exit": flat_on_exit,
            }
            _refuse_beside_flatten([name for name, value in given.items() if value])
            closing = FlattenOptions(
                account_venue(_choice(paper, testnet, live_money), PaperOptions(url=paper_url), os.environ),
                symbols,
                connection=take_connection(dict(read_yaml(config)) if config is not None else {}, config),
                confirm=lambda question: yes or _confirm(question, _CLOSE_CONFIRMATION),
            )
            raise typer.Exit(run_flatten(closing, Console(highlight=False, soft_wrap=True, emoji=False)))
        replay = PaperOptions(
            candles=tuple(candles or ()),
            funding=tuple(funding or ()),
            marks=tuple(mark or ()),
            start=start,
            end=end,
            speed=_speed(speed),
            url=paper_url,
            seed=seed,
        )
        asked = Asked(
            choice=_choice(paper, testnet, live_money),
            paper=replay,
            config=config,
            max_drawdown=max_drawdown,
            steps=steps,
            db=db,
            out=out,
            training_runs=training_runs,
            acknowledge_emergency=acknowledge_emergency,
            confirm=lambda question: yes or _confirm(question),
            quiet=quiet,
            seed=seed,
        )
        if arena is not None:
            beside = {
                "--train-id": train_id,
                "--agent": agent,
                "--symbol": symbols,
                "--interval": interval,
                "--flat-on-exit": flat_on_exit,
            }
            # Imported here: a run of one agent starts sooner without the database's libraries.
            from live.arena.runner import run_live_arena

            refused = [name for name, value in beside.items() if value]
            raise typer.Exit(run_live_arena(arena_options(arena, refused, asked), console).exit_code)
        options = live_options(
            asked,
            train_id=train_id,
            agent=agent,
            symbols=symbols,
            interval=interval,
            flat_on_exit=flat_on_exit,
        )
        result = run_live(options, console)
    except PerpgymError as error:
        _fail(error)
    raise typer.Exit(result.exit_code)


def _refuse_beside_flatten(given: list[str]) -> None:
    if given:
        raise ConfigError(f"--flatten runs no agent: leave out {', '.join(given)}")


def _fail(error: PerpgymError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    raise typer.Exit(error.exit_code)


def _choice(paper: bool, testnet: bool, live_money: bool) -> VenueChoice:
    chosen = [
        choice
        for choice, asked in (
            (VenueChoice.PAPER, paper),
            (VenueChoice.TESTNET, testnet),
            (VenueChoice.LIVE, live_money),
        )
        if asked
    ]
    if len(chosen) > 1:
        raise ConfigError("--paper, --testnet and --live exclude one another; give one")
    return chosen[0] if chosen else VenueChoice.AUTO


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"--speed {text!r}: give a number above 0, or max") from None
    if not 0 < value < math.inf:
        raise ConfigError(f"--speed {text}: give a number above 0, or max")
    return value


def _confirm(question: str, wanted: str = _CONFIRMATION) -> bool:
    print(question)
    try:
        return input(f"Type '{wanted}' to go on: ").strip() == wanted
    except EOFError:
        return False


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of `live.py`: ends the process with its exit code."""
    numba_without_blas()
    app(spread_lists(sys.argv[1:] if arguments is None else arguments, _LIST_OPTIONS), prog_name="live.py")
