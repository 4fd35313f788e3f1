"""Repeated arenas: what is skill, and what was luck."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table
from rich.text import Text

from agents.arena.standings import Standing

# Quantile 0.975 of the normal distribution.
_Z = 1.959963984540054
# The same of Student's t with 1, 2, ... degrees of freedom, where the expansion below is off by 0.005 or more.
_T = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600)


def t_quantile(degrees: int) -> float:
    """Quantile 0.975 of Student's t: tabled up to 8 degrees, then the Cornish-Fisher expansion.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5, its first two terms; off by less than 0.005.
    """
    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom: at least 1")
    if degrees <= len(_T):
        return _T[degrees - 1]
    z = _Z
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % confidence interval; the bounds are None for a single value."""

    mean: float
    low: float | None
    high: float | None


def interval_of(values: Sequence[float]) -> Interval:
    """Mean of values and its 95 % interval by Student's t, which takes them as independent and about normal."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, None, None)
    half = t_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def average_ranks(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Ranks [n] of values, 1 for the largest; equal values share the mean of their places."""
    given = np.asarray(values, np.float64)
    above = (given[None, :] > given[:, None]).sum(axis=1)
    same = (given[None, :] == given[:, None]).sum(axis=1)
    ranks: npt.NDArray[np.float64] = above + (same + 1) / 2
    return ranks


def concordance(values: npt.ArrayLike) -> float | None:
    """Kendall's W of values [repeats, agents]: 1 when every repeat ranks alike, 0 when ranks say nothing.

    M. G. Kendall and B. Babington Smith, "The Problem of m Rankings", Annals of Mathematical Statistics 10(3), 1939,
    with the correction for ties. None for a single repeat or agent, or when all are equal in every repeat.
    """
    given = np.asarray(values, np.float64)
    repeats, agents = given.shape
    if repeats < 2 or agents < 2:
        return None
    ranks = np.array([average_ranks(row) for row in given])
    spread = float(np.sum((ranks.sum(axis=0) - repeats * (agents + 1) / 2) ** 2))
    ties = 0.0
    for row in given:
        _, counts = np.unique(row, return_counts=True)
        ties += float(np.sum(counts.astype(np.float64) ** 3 - counts))
    most = repeats**2 * (agents**3 - agents) - repeats * ties
    return 12.0 * spread / most if most > 0 else None


@dataclass(frozen=True, slots=True)
class Record:
    """An agent over all repeats."""

    agent: str
    played_by: str
    net_return: Interval
    total_return: Interval
    max_drawdown: Interval
    llm_cost: float | None
    mean_rank: float
    best_rank: float
    worst_rank: float
    firsts: int

    def to_dict(self) -> dict[str, Any]:
        """Flat, for CSV and JSON."""
        values: dict[str, Any] = {"agent": self.agent, "played_by": self.played_by}
        for name in ("net_return", "total_return", "max_drawdown"):
            one: Interval = getattr(self, name)
            values |= {f"{name}_mean": one.mean, f"{name}_low": one.low, f"{name}_high": one.high}
        for name in ("llm_cost", "mean_rank", "best_rank", "worst_rank", "firsts"):
            values[name] = getattr(self, name)
        return values


@dataclass(frozen=True, slots=True)
class Tournament:
    """Repeated arenas.

    Attributes:
        seeds: of the repeats.
        records: best mean rank first.
        rank_stability: Kendall's W of the returns net of LLM cost.
    """

    seeds: tuple[int, ...]
    records: tuple[Record, ...]
    rank_stability: float | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "seeds": list(self.seeds),
            "rank_stability": self.rank_stability,
            "agents": [one.to_dict() for one in self.records],
        }


def tournament_of(repeats: Mapping[int, Sequence[Standing]]) -> Tournament:
    """The tournament of leaderboards by seed; every one has the same agents."""
    boards = [{one.agent: one for one in board} for board in repeats.values()]
    names = list(boards[0])
    net = np.array([[board[name].net_return for name in names] for board in boards])
    ranks = np.array([average_ranks(row) for row in net])
    records = []
    for column, name in enumerate(names):
        mine = [board[name] for board in boards]
        costs = [one.llm_cost for one in mine]
        records.append(
            Record(
                agent=name,
                played_by=mine[0].played_by,
                net_return=interval_of([one.net_return for one in mine]),
                total_return=interval_of([one.total_return for one in mine]),
                max_drawdown=interval_of([one.max_drawdown for one in mine]),
                llm_cost=None if None in costs else float(sum(cost or 0.0 for cost in costs)),
                mean_rank=float(ranks[:, column].mean()),
                best_rank=float(ranks[:, column].min()),
                worst_rank=float(ranks[:, column].max()),
                firsts=int((ranks[:, column] == ranks.min(axis=1)).sum()),
            )
        )
    records.sort(key=lambda one: one.mean_rank)
    return Tournament(tuple(repeats), tuple(records), concordance(net))


def tournament_title(tournament: Tournament) -> str:
    """What it was, in a line."""
    stability = tournament.rank_stability
    said = "-" if stability is None else f"{stability:.2f}"
    return f"{len(tournament.seeds)} repeats, rank stability (Kendall's W) {said}"


def _bounds(interval: Interval) -> str:
    low, high = interval.low, interval.high
    return "-" if low is None or high is None else f"{low:+.2%} to {high:+.2%}"


TOURNAMENT_COLUMNS: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("mean rank", lambda one: f"{one.mean_rank:.2f}"),
    ("ranks", lambda one: f"{one.best_rank:g}-{one.worst_rank:g}"),
    ("firsts", lambda one: str(one.firsts)),
    ("return net of LLM", lambda one: f"{one.net_return.mean:+.2%}"),
    ("95 % interval", lambda one: _bounds(one.net_return)),
    ("drawdown", lambda one: f"{one.max_drawdown.mean:.2%}"),
)
"""What a tournament's table shows of an agent: heading, and its text."""


def tournament_table(tournament: Tournament) -> Table:
    """The tournament for a terminal."""
    table = Table(title=tournament_title(tournament), show_edge=False, pad_edge=False)
    table.add_column("agent", no_wrap=True)
    for heading, _ in TOURNAMENT_COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    for one in tournament.records:
        table.add_row(Text(one.agent, "bold"), *(form(one) for _, form in TOURNAMENT_COLUMNS))
    return table
