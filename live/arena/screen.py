"""The leaderboard while an arena runs: a table that is drawn again in a terminal, a line per candle elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.live import Live

from agents.arena.standings import Standing, leaderboard_table
from live.console import utc_text

REFRESH_S = 2.0
"""Least time between two looks at the ledger."""


class Screen:
    """Shows where everybody stands. Use as a context manager.

    Args:
        title: of the table.
        read: the standings now.
        now_ms: the exchange's clock.
        quiet: show nothing.
        console: where to; None takes stdout.
    """

    def __init__(
        self,
        title: str,
        read: Callable[[], Sequence[Standing]],
        now_ms: Callable[[], int],
        *,
        quiet: bool = False,
        console: Console | None = None,
    ) -> None:
        self._title = title
        self._read = read
        self._now_ms = now_ms
        self._quiet = quiet
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._logging: list[tuple[logging.StreamHandler[Any], TextIO]] = []
        self._due_s = 0.0
        self._told = 0

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._quiet:
            on_stderr = [
                one
                for one in logging.getLogger().handlers
                if isinstance(one, logging.StreamHandler) and one.stream is sys.stderr
            ]
            self._logging = [(one, sys.stderr) for one in on_stderr]
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
            # From now on stderr goes above the table; warnings would tear it otherwise.
            for one in on_stderr:
                one.setStream(sys.stderr)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            # The last table is printed for good by who ends the arena.
            self._live.update("", refresh=True)
            self._live.stop()
            for handler, stream in self._logging:
                handler.setStream(stream)

    def show(self, steps: int) -> None:
        """Have a look, unless the last one was just now.

        In a terminal also when no step was made: prices move all the time.

        Args:
            steps: of all agents in this session.
        """
        if self._quiet or time.monotonic() < self._due_s or (self._live is None and steps == self._told):
            return
        self._told = steps
        standings = self._read()
        if self._live is not None:
            table = leaderboard_table(standings, self._title, width=self._console.width)
            self._live.update(table, refresh=True)
        else:
            self._console.print(line_of(standings, self._now_ms()), markup=False)
        self._due_s = time.monotonic() + REFRESH_S


def line_of(standings: Sequence[Standing], now_ms: int) -> str:
    """The leaderboard in one line."""
    places = (
        f"{one.rank}. {one.agent} {one.equity:,.2f} ({one.net_return:+.2%}{f', {one.ending}' if one.ending else ''})"
        for one in standings
    )
    return f"{utc_text(now_ms)} {'  '.join(places)}"
