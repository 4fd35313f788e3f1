"""Pages of an arena and of a tournament: a figure and a table, each one file that fetches nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.arena.standings import COLUMNS, Standing, short_spec
from agents.arena.tournament import TOURNAMENT_COLUMNS, Tournament, tournament_title
from agents.report.html import PAGE_POLICY

MAX_POINTS = 3000
"""Most points of one line; longer ones are thinned, their last point kept."""

_COLOURS = (
    "#2457c5", "#c9791a", "#12805c", "#7b1fa2", "#c0392b", "#0f7f8f", "#8a6d1f", "#51627a", "#d1458b", "#4b8b3b",
)  # fmt: skip
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="subtitle">{subtitle}</p>
{banners}
<section class="card"><div id="figure-drawn"></div></section>
<section class="card"><h2>{heading}</h2><div class="scroll"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody></table></div>{below}</section>
</main>
<script type="application/json" id="figure">{figure}</script>
<script>{plotly}</script>
<script>
const figure = JSON.parse(document.getElementById("figure").textContent);
Plotly.newPlot("figure-drawn", figure.data, figure.layout, {{responsive: true, displaylogo: false}});
</script>
</body>
</html>
"""

Curve = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Times, UTC ms, and equities, USDT, of one agent."""


def write_arena_report(
    path: Path,
    title: str,
    subtitle: str,
    curves: Mapping[str, Curve],
    standings: Sequence[Standing],
    notices: Sequence[str] = (),
    *,
    synthetic: bool = False,
) -> None:
    """Write the page. Equities are drawn as returns in percent, since capitals may differ.

    Args:
        path: the HTML file.
        title, subtitle: what the arena was, and on what.
        curves: by agent.
        standings: the leaderboard.
        notices: shown above.
        synthetic: whether nobody ever traded these prices.
    """
    _write_page(
        path,
        title,
        subtitle,
        equity_figure(curves),
        "Leaderboard",
        _heads("#", "agent", "played by") + _heads(*(heading for _, heading, _ in COLUMNS), number=True),
        [_row(one) for one in standings],
        notices,
        synthetic=synthetic,
    )


def write_tournament_report(
    path: Path,
    title: str,
    subtitle: str,
    tournament: Tournament,
    repeats: Mapping[int, Sequence[Standing]],
    notices: Sequence[str] = (),
    *,
    synthetic: bool = False,
) -> None:
    """Write a tournament's page: every repeat's return net of LLM cost, the means, and who can be told apart.

    Args:
        path: the HTML file; each repeat's own page is beside it in `seed-N/`.
        title, subtitle: what the arena was, and on what.
        tournament: of the repeats.
        repeats: the leaderboards by seed.
        notices: shown above.
        synthetic: whether nobody ever traded these prices.
    """
    links = ", ".join(f'<a href="seed-{seed}/report.html">{seed}</a>' for seed in repeats)
    _write_page(
        path,
        title,
        subtitle,
        tournament_figure(tournament, repeats),
        tournament_title(tournament),
        _heads("agent", "played by") + _heads(*(heading for heading, _ in TOURNAMENT_COLUMNS), number=True),
        [
            f"<tr><td><b>{escape(one.agent)}</b></td><td>{escape(short_spec(one.played_by))}</td>"
            + "".join(f'<td class="number">{escape(form(one))}</td>' for _, form in TOURNAMENT_COLUMNS)
            + "</tr>"
            for one in tournament.records
        ],
        notices,
        synthetic=synthetic,
        below=f"<p>The repeats by seed: {links}</p>",
    )


def _write_page(
    path: Path,
    title: str,
    subtitle: str,
    figure: Mapping[str, Any],
    heading: str,
    head: str,
    rows: Sequence[str],
    notices: Sequence[str],
    *,
    synthetic: bool,
    below: str = "",
) -> None:
    """`head`, `rows` and `below` are HTML."""
    banners = (
        ['<p class="banner synthetic">Synthetic market: these prices were made up.</p>'] if synthetic else []
    )
    banners += [f'<p class="banner note">{escape(notice)}</p>' for notice in notices]
    page = _PAGE.format(
        policy=PAGE_POLICY,
        title=escape(title),
        subtitle=escape(subtitle),
        style=resources.files("agents.report").joinpath("report.css").read_text(encoding="utf-8"),
        banners="\n".join(banners),
        heading=escape(heading),
        head=head,
        rows="\n".join(rows),
        below=below,
        figure=json.dumps(figure, allow_nan=False).replace("<", "\\u003c"),
        plotly=resources.files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8"),
    )
    path.write_text(page, encoding="utf-8")


def _heads(*headings: str, number: bool = False) -> str:
    kind = ' class="number"' if number else ""
    return "".join(f"<th{kind}>{escape(heading)}</th>" for heading in headings)


def _row(one: Standing) -> str:
    cells = "".join(
        f'<td class="number">{escape(str(form(getattr(one, name))))}</td>' for name, _, form in COLUMNS
    )
    return (
        f"<tr><td>{one.rank}</td><td><b>{escape(one.agent)}</b></td><td>{escape(short_spec(one.played_by))}</td>"
        f"{cells}</tr>"
    )


def equity_figure(curves: Mapping[str, Curve]) -> dict[str, Any]:
    """The plotly figure: returns since the start in percent, one line per agent."""
    data = []
    for number, (name, (time_ms, equity)) in enumerate(curves.items()):
        rows = np.unique(np.linspace(0, len(equity) - 1, min(len(equity), MAX_POINTS)).astype(np.int64))
        change = 100.0 * (equity[rows] / equity[0] - 1.0)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": time_ms[rows].tolist(),
                "y": np.round(change, 4).tolist(),
                "line": {"color": _COLOURS[number % len(_COLOURS)], "width": 1.8},
            }
        )
    layout = _layout()
    layout["hovermode"] = "x unified"
    layout["xaxis"] |= {"type": "date"}
    layout["yaxis"] |= {"title": {"text": "return, %"}}
    return {"data": data, "layout": layout}


def tournament_figure(tournament: Tournament, repeats: Mapping[int, Sequence[Standing]]) -> dict[str, Any]:
    """The plotly figure: per agent a dot for each repeat's return net of LLM cost, and the mean with its interval."""
    names = [one.agent for one in tournament.records]
    dots = [(one.agent, one.net_return, seed) for seed, board in repeats.items() for one in board]
    dots.sort(key=lambda dot: names.index(dot[0]))
    means = [one.net_return for one in tournament.records]
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "a repeat",
            "x": [name for name, _, _ in dots],
            "y": [round(100.0 * value, 4) for _, value, _ in dots],
            "text": [f"seed {seed}" for _, _, seed in dots],
            "marker": {"color": _COLOURS[0], "size": 8, "opacity": 0.45},
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "mean, 95 % interval",
            "x": names,
            "y": [round(100.0 * one.mean, 4) for one in means],
            "error_y": {
                "type": "data",
                "array": [
                    0.0 if one.high is None else round(100.0 * (one.high - one.mean), 4) for one in means
                ],
                "thickness": 1.6,
                "width": 8,
            },
            "marker": {"color": _COLOURS[1], "size": 11, "symbol": "diamond"},
        },
    ]
    layout = _layout()
    layout["xaxis"] |= {"type": "category"}
    layout["yaxis"] |= {"title": {"text": "return net of LLM cost, %"}}
    return {"data": data, "layout": layout}


def _layout() -> dict[str, Any]:
    return {
        "height": 520,
        "margin": {"l": 60, "r": 20, "t": 20, "b": 40},
        "font": {"family": _FONT, "size": 12, "color": "#1b2733"},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "xaxis": {"gridcolor": "#e8ecf1"},
        "yaxis": {"gridcolor": "#e8ecf1", "zerolinecolor": "#8a94a3"},
        "legend": {"orientation": "h", "y": -0.12},
    }
