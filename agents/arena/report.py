"""The arena's page: the equities side by side and the leaderboard, one file that fetches nothing."""

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

MAX_POINTS = 3000
"""Most points of one line; longer ones are thinned, their last point kept."""

_COLOURS = (
    "#2457c5", "#c9791a", "#12805c", "#7b1fa2", "#c0392b", "#0f7f8f", "#8a6d1f", "#51627a", "#d1458b", "#4b8b3b",
)  # fmt: skip
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

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
<section class="card"><div id="equity"></div></section>
<section class="card"><h2>Leaderboard</h2><div class="scroll"><table>
<thead><tr><th>#</th><th>agent</th><th>played by</th>{head}</tr></thead>
<tbody>
{rows}
</tbody></table></div></section>
</main>
<script type="application/json" id="figure">{figure}</script>
<script>{plotly}</script>
<script>
const figure = JSON.parse(document.getElementById("figure").textContent);
Plotly.newPlot("equity", figure.data, figure.layout, {{responsive: true, displaylogo: false}});
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
    banners = (
        ['<p class="banner synthetic">Synthetic market: these prices were made up.</p>'] if synthetic else []
    )
    banners += [f'<p class="banner note">{escape(notice)}</p>' for notice in notices]
    page = _PAGE.format(
        policy=_POLICY,
        title=escape(title),
        subtitle=escape(subtitle),
        style=resources.files("agents.report").joinpath("report.css").read_text(encoding="utf-8"),
        banners="\n".join(banners),
        head="".join(f'<th class="number">{heading}</th>' for _, heading, _ in COLUMNS),
        rows="\n".join(_row(one) for one in standings),
        figure=json.dumps(equity_figure(curves), allow_nan=False).replace("<", "\\u003c"),
        plotly=resources.files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8"),
    )
    path.write_text(page, encoding="utf-8")


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
    layout = {
        "height": 520,
        "margin": {"l": 60, "r": 20, "t": 20, "b": 40},
        "font": {"family": _FONT, "size": 12, "color": "#1b2733"},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "hovermode": "x unified",
        "xaxis": {"type": "date", "gridcolor": "#e8ecf1"},
        "yaxis": {"title": {"text": "return, %"}, "gridcolor": "#e8ecf1", "zerolinecolor": "#8a94a3"},
        "legend": {"orientation": "h", "y": -0.12},
    }
    return {"data": data, "layout": layout}
