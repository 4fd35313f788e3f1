"""What an offline arena shows on the terminal: estimates, progress and leaderboards."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from agents.arena.config import Entrant
from agents.arena.offline import ArenaResult, OnProgress
from agents.arena.standings import leaderboard_table
from agents.backtest_console import warn_synthetic
from agents.formatting import width_for_tables
from envs.candles import interval_name
from envs.futures_env import FuturesEnv
from envs.market import Market
from envs.time_grid import format_time


def show_estimates(
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
def progress(
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


def show(
    console: Console,
    title: str,
    result: ArenaResult,
    market: Market,
    notices: Sequence[str],
    told: set[str],
) -> None:
    """Print a leaderboard and what was not `told` yet."""
    if market.synthetic:
        warn_synthetic(console)
    start_ms, end_ms = result.span_ms
    said = f"{title}: {', '.join(market.symbols)}, {interval_name(market.interval_ms)} candles, "
    console.print(Text(f"{said}{format_time(start_ms)} to {format_time(end_ms)}"))
    width = width_for_tables(console)
    wide(console).print(leaderboard_table(result.standings, width=width))
    for notice in dict.fromkeys((*notices, *result.notices)):
        if notice not in told:
            console.print(Text(f"note: {notice}", "yellow"))
    told.update(notices, result.notices)


def wide(console: Console) -> Console:
    """A table that wraps is no table."""
    return Console(highlight=False, width=width_for_tables(console))
