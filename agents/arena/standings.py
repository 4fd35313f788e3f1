"""The leaderboard: one line per agent, ranked by what it returned net of what its model cost."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from agents.formatting import money, percent, share


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an agent stands. Money in USDT; None where a figure is not defined.

    Attributes:
        rank: from 1.
        agent, played_by: its name, and what decides.
        capital, equity: what it was given, and what it has.
        total_return: equity / capital - 1.
        net_return: the same after the model's cost, taken as USDT for USD.
        sharpe, max_drawdown: of its equity at the closes.
        trades, win_rate: closed round trips.
        fees: commissions and liquidation fees.
        llm_cost: USD, replayed answers included; None where a price is unknown.
        steps: candles.
        ending: how its run ended; empty while it runs.
        holds: decisions of a model that came to nothing (invalid, failed, rejected, over budget).
    """

    rank: int
    agent: str
    played_by: str
    capital: float
    equity: float
    total_return: float
    net_return: float
    sharpe: float | None
    max_drawdown: float
    trades: int
    win_rate: float | None
    fees: float
    llm_cost: float | None
    steps: int
    ending: str = ""
    holds: int = 0


def net_return(capital: float, equity: float, llm_cost: float | None) -> float:
    """(equity - cost) / capital - 1; a cost that is unknown counts as none."""
    return (equity - (llm_cost or 0.0)) / capital - 1.0


def ranked(standings: Iterable[Standing]) -> tuple[Standing, ...]:
    """Best first by `net_return`; equal ones share the rank of the first of them, in the order given."""
    order = sorted(standings, key=lambda one: -one.net_return)
    found: list[Standing] = []
    for place, one in enumerate(order, 1):
        tied = bool(found) and found[-1].net_return == one.net_return
        found.append(replace(one, rank=found[-1].rank if tied else place))
    return tuple(found)


def _cost(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.4f}" if value else "-"


COLUMNS: tuple[tuple[str, str, Any], ...] = (
    ("equity", "equity", money),
    ("total_return", "return", percent),
    ("net_return", "net of LLM", percent),
    ("sharpe", "Sharpe", money),
    ("max_drawdown", "drawdown", share),
    ("trades", "trades", str),
    ("win_rate", "wins", share),
    ("fees", "fees", money),
    ("llm_cost", "LLM USD", _cost),
    ("holds", "failed", str),
    ("ending", "ended", str),
)
"""What a leaderboard shows of a standing: attribute, heading, format."""


PLAYED_BY = "played_by"
_LEAST_TELLING = (
    PLAYED_BY,
    "fees",
    "sharpe",
    "win_rate",
    "trades",
    "holds",
    "total_return",
    "llm_cost",
    "ending",
)


def leaderboard_table(standings: Sequence[Standing], title: str = "", *, width: int | None = None) -> Table:
    """The leaderboard for a terminal.

    Args:
        standings: best first.
        title: above it.
        width: characters that there are; columns that do not fit are left out, the least telling first.
    """
    shown = [PLAYED_BY, *(name for name, _, _ in COLUMNS)]
    table = _table(standings, title, shown)
    measuring = Console(width=10_000)
    for name in _LEAST_TELLING:
        if width is None or Measurement.get(measuring, measuring.options, table).maximum <= width:
            break
        shown.remove(name)
        table = _table(standings, title, shown)
        table.caption = "the rest is in leaderboard.csv"
    return table


def _table(standings: Sequence[Standing], title: str, shown: Sequence[str]) -> Table:
    table = Table(title=title or None, show_edge=False, pad_edge=False)
    table.add_column("#", justify="right")
    table.add_column("agent", no_wrap=True)
    if PLAYED_BY in shown:
        table.add_column("played by", overflow="ellipsis", max_width=24)
    columns = [column for column in COLUMNS if column[0] in shown]
    for _, heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for one in standings:
        style = "" if one.total_return == 0 else "green" if one.total_return > 0 else "red"
        cells = [
            Text(form(getattr(one, name)), style if name == "net_return" else "") for name, _, form in columns
        ]
        played_by = [Text(short_spec(one.played_by))] if PLAYED_BY in shown else []
        table.add_row(str(one.rank), Text(one.agent, "bold"), *played_by, *cells)
    return table


def short_spec(spec: str) -> str:
    """A spec as a leaderboard shows it: of a file its name."""
    kind, colon, path = spec.partition(":")
    return f"{kind}:{Path(path).stem}" if colon else Path(spec).name


def write_leaderboard(folder: Path, standings: Sequence[Standing], about: Mapping[str, Any]) -> None:
    """Write leaderboard.csv, and leaderboard.json with what the arena was about."""
    rows = [asdict(one) for one in standings]
    write_csv(folder / "leaderboard.csv", rows)
    text = json.dumps({**about, "leaderboard": rows}, indent=2, allow_nan=False)
    (folder / "leaderboard.json").write_text(text + "\n", encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of one form as CSV; None is an empty field."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
