"""How a training shows itself on a terminal: a progress bar, a line per validation, a table at the end."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from agents.metrics import Metrics
from agents.sac.algorithm import Timing
from agents.sac.callback import Progress as TrainingProgress
from agents.sac.dataset import Dataset
from agents.sac.trainer import AGENT, Evaluation
from agents.sac.validation import Validation
from envs.time_grid import format_time

# Where there is no terminal to draw a bar on, a line now and then shows that it goes on.
_LINE_EVERY_S = 30.0


class QuietReporter:
    """Says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """Nothing to give back."""

    def notice(self, message: str) -> None:
        """See `Reporter.notice`."""

    def started(self, dataset: Dataset) -> None:
        """See `Reporter.started`."""

    def progress(self, progress: TrainingProgress) -> None:
        """See `Reporter.progress`."""

    def validated(self, validation: Validation, *, best: bool) -> None:
        """See `Reporter.validated`."""

    def evaluating(self) -> None:
        """See `Reporter.evaluating`."""


class ConsoleReporter:
    """Writes to a console (standard error, so that standard output ends with the train id)."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task: TaskID | None = None
        self._line_s = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def notice(self, message: str) -> None:
        """See `Reporter.notice`."""
        self._say(message)

    def started(self, dataset: Dataset) -> None:
        """See `Reporter.started`."""
        market = dataset.market
        label = "SYNTHETIC market, no real prices: " if market.synthetic else ""
        self._say(f"{label}{', '.join(market.symbols)} {market.candles[0].interval}, {len(market):,} candles")
        for name, rows in dataset.rows.items():
            span = dataset.span(name)
            self._say(
                f"  {name:<10} {format_time(span.start_ms)} to {format_time(span.end_ms)}, {len(rows):,} candles"
            )

    def progress(self, progress: TrainingProgress) -> None:
        """See `Reporter.progress`."""
        figures = f"{progress.steps_per_s:,.0f}/s"
        if progress.episode_return is not None:
            figures += f"  episode {progress.episode_return:+.3f}"
        if progress.losses:
            figures += (
                f"  critic {progress.losses['critic_loss']:.3g}  actor {progress.losses['actor_loss']:.3g}"
            )
        if not self._console.is_terminal:
            if time.monotonic() - self._line_s >= _LINE_EVERY_S:
                self._line_s = time.monotonic()
                self._say(f"step {progress.timesteps:>9,}  of {progress.total:,}  {figures}")
            return
        if self._task is None:
            self._task = self._bar.add_task("training", total=progress.total, figures=figures)
        self._bar.update(self._task, completed=progress.timesteps, figures=figures)

    def validated(self, validation: Validation, *, best: bool) -> None:
        """See `Reporter.validated`."""
        self._say(
            f"step {validation.timesteps:>9,}  validation: return {validation.total_return:+8.2%}  "
            f"Sharpe {_number(validation.sharpe)}  drawdown {validation.max_drawdown:6.2%}  "
            f"exposure {validation.mean_exposure:5.2f}  {validation.orders:,} orders{'  best' if best else ''}"
        )

    def evaluating(self) -> None:
        """See `Reporter.evaluating`."""
        self._say("evaluating the best policy on validation and test")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def evaluation_table(evaluation: Evaluation) -> Table:
    """The figures of every span and agent."""
    table = Table(title="Evaluation: same span, capital, fees, slippage and funding")
    table.add_column("span", no_wrap=True)
    table.add_column("agent", no_wrap=True)
    for name in ("return", "Sharpe", "Sortino", "max drawdown", "trades", "win rate", "fees", "funding"):
        table.add_column(name, justify="right", no_wrap=True)
    for span, figures in evaluation.items():
        for name, metrics in figures.items():
            label = "this policy" if name == AGENT else name
            table.add_row(span, label, *_cells(metrics))
        table.add_section()
    return table


def timing_line(timing: Timing) -> str:
    """Where the time of a training went, for people; empty where nothing was trained."""
    figures = timing.figures()
    if not figures:
        return ""
    return (
        f"{figures['env_steps_per_s']:,.0f} env steps/s, {figures['gradient_steps_per_s']:,.0f} gradient steps/s; "
        f"{figures['gradient_share']:.1%} of the time in gradient steps, {figures['replay_share']:.1%} in replay, "
        f"{figures['env_share']:.1%} in the environments (validations apart)"
    )


def _cells(metrics: Metrics) -> list[str]:
    return [
        f"{metrics.total_return:+.2%}",
        _number(metrics.sharpe).strip(),
        _number(metrics.sortino).strip(),
        f"{metrics.max_drawdown:.2%}",
        f"{metrics.trades:,}",
        "-" if metrics.win_rate is None else f"{metrics.win_rate:.0%}",
        f"{metrics.fees:,.2f}",
        f"{metrics.funding:+,.2f}",
    ]


def _number(value: float | None) -> str:
    return "    -" if value is None or not math.isfinite(value) else f"{value:+5.2f}"
