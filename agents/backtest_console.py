"""What a backtest shows on the terminal: progress, the table of figures, and where the files are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from agents.formatting import count, money, percent, ratio, share
from agents.metrics import Metrics
from agents.simulate import OnStep, describe_span
from envs.candles import interval_name

if TYPE_CHECKING:
    from agents.backtest_run import BacktestResult

# Redrawing at every step would cost more than the step.
STEPS_PER_UPDATE = 256


FIGURES: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
    ("final_equity", "Final equity, USDT", money),
    ("total_return", "Total return", percent),
    ("sharpe", "Sharpe ratio, yearly", ratio),
    ("sortino", "Sortino ratio, yearly", ratio),
    ("max_drawdown", "Largest drawdown", share),
    ("trades", "Round trips", count),
    ("win_rate", "Win rate after fees", share),
    ("fees", "Fees paid, USDT", money),
    ("funding", "Funding received, USDT", money),
    ("liquidations", "Liquidations", count),
    ("steps", "Steps", count),
)
"""The metrics in the order that they are shown in: attribute, label, format."""


def figure(metrics: Metrics, name: str, form: Callable[[float | None], str]) -> str:
    """One metric as text; `-` where it is not defined."""
    return form(getattr(metrics, name))


@contextmanager
def progress(*, shown: bool, every: int = STEPS_PER_UPDATE) -> Iterator[OnStep | None]:
    """A progress bar on the terminal, redrawn `every` so many steps.

    Nothing where `shown` is off or stdout is no terminal.
    """
    console = Console()
    if not shown or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("backtest"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("backtest", total=None)

        shown_at = 0

        def on_step(done: int, planned: int) -> None:
            nonlocal shown_at
            if done - shown_at >= every:
                shown_at = done
                bar.update(task, completed=done, total=planned)

        yield on_step


def warn_synthetic(console: Console) -> None:
    """Say that the market is none."""
    told = " SYNTHETIC MARKET: these prices were made up; the figures say nothing about a real one. "
    console.print(Text(told, "black on yellow"))


def show(result: BacktestResult) -> None:
    """Print the table of figures, the notices and the files."""
    # Paths must stay whole where the output is copied from or piped on.
    console = Console(soft_wrap=True, highlight=False)
    done = result.simulation
    if result.market.synthetic:
        warn_synthetic(console)
    if done.emergency is not None:
        console.print(Text(f" EMERGENCY: {done.emergency.reason} ", "bold white on red"))
        if not done.emergency.succeeded:
            console.print(Text(" THE ACCOUNT IS NOT FLAT ", "bold white on red"))
    console.print(
        Text(
            f"{result.spec} on {', '.join(done.symbols)}, {interval_name(done.interval_ms)} candles, "
            f"{describe_span(done)}"
        )
    )
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("")
    table.add_column(Text(done.agent, "bold"), justify="right")
    for name in result.benchmarks:
        table.add_column(name, justify="right")
    for name, label, form in FIGURES:
        others = [figure(one.metrics, name, form) for one in result.benchmarks.values()]
        table.add_row(label, Text(figure(done.metrics, name, form), "bold"), *others)
    console.print(table)
    moved = ", ".join(f"{symbol} {change:+.2%}" for symbol, change in result.price_changes().items())
    console.print(Text(f"price: {moved} over the candles of the benchmarks"))
    for notice in result.notices:
        console.print(Text(f"note: {notice}", "yellow"))
    ended = f"ended: {done.ending.value}, {done.metrics.steps:,} steps in {result.elapsed_s:.1f} s"
    if result.elapsed_s > 0:
        ended += f" ({done.metrics.steps / result.elapsed_s:,.0f} candles/s)"
    console.print(Text(ended))
    if result.paths is not None:
        for name, path in result.paths.to_dict().items():
            if path is not None and name != "folder":
                console.print(Text(f"{name + ':':<12} {path}"))
