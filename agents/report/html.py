"""The report's page: one file with its numbers, its style, its script and plotly's, and nothing fetched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from agents.backtest_console import FIGURES, figure
from agents.report.figures import returns_figure, run_figure
from agents.report.series import payload
from agents.simulate import describe_span
from envs.candles import interval_name

if TYPE_CHECKING:
    from agents.backtest_run import BacktestResult

PAGE_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""Content-Security-Policy of a page: the browser itself then refuses to fetch anything."""

_SOURCE_CHARACTERS = 90

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
{body}
</main>
<script type="application/json" id="series">{series}</script>
<script type="application/json" id="figures">{figures}</script>
<script>{plotly}</script>
<script>{script}</script>
</body>
</html>
"""

_CHARTS = """\
<section class="card">
<div class="bar">
<select id="symbol" aria-label="symbol"></select>
<span id="ranges"></span>
<span class="grow"></span>
<span id="fills"></span>
<span>drag to zoom, shift-drag to pan, double-click for all</span>
</div>
<div id="run"></div>
</section>
"""

_TRIPS = """\
<section class="card">
<h2>Round trips</h2>
<div class="bar">
<button id="earlier">previous</button><button id="later">next</button>
<span id="rows"></span>
</div>
<div class="scroll"><table id="trips"><thead><tr></tr></thead><tbody></tbody></table></div>
</section>
"""


def write_report(path: Path, result: BacktestResult, config: Mapping[str, Any]) -> None:
    """Write the report of a backtest.

    Args:
        path: the HTML file.
        result: the backtest.
        config: what config.yaml says, shown as it is.
    """
    path.write_text(render(result, config), encoding="utf-8")


def render(result: BacktestResult, config: Mapping[str, Any]) -> str:
    """The page as text."""
    done = result.simulation
    series = payload(done, result.benchmarks, result.market)
    grid = series["grid"]
    end_ms = grid["start"] + grid["step"] * grid["count"]
    figures = {"run": run_figure(done.agent, grid["start"], end_ms), "returns": returns_figure(done.agent)}
    body = "\n".join(
        (
            _header(result),
            _tiles(result),
            _CHARTS,
            '<div class="two">',
            _returns(),
            _figures(result),
            "</div>",
            _TRIPS,
            _settings(result, config),
            _footer(config),
        )
    )
    return _PAGE.format(
        policy=PAGE_POLICY,
        title=escape(_title(result)),
        style=_asset("report.css"),
        body=body,
        series=_embed(series),
        figures=_embed(figures),
        plotly=resources.files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8"),
        script=_asset("report.js"),
    )


def _asset(name: str) -> str:
    return resources.files("agents.report").joinpath(name).read_text(encoding="utf-8")


def _embed(values: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _title(result: BacktestResult) -> str:
    # A training run's id is long: it stands below.
    name = result.spec if result.setup.train_id is None else result.simulation.agent
    return f"{name} on {', '.join(result.simulation.symbols)}"


def _header(result: BacktestResult) -> str:
    done, synthetic = result.simulation, result.market.synthetic
    moved = ", ".join(f"{symbol} {change:+.2%}" for symbol, change in result.price_changes().items())
    badge = "synthetic" if synthetic else "real"
    label = "SYNTHETIC MARKET" if synthetic else "HISTORICAL DATA"
    run = "" if result.setup.train_id is None else f"training run {escape(result.setup.train_id)}<br>"
    parts = [
        f'<h1>{escape(_title(result))}<span class="badge {badge}">{label}</span></h1>',
        f'<p class="subtitle">{run}{interval_name(done.interval_ms)} candles, {describe_span(done)}, '
        f"{done.metrics.steps:,} steps; price {escape(moved)}</p>",
    ]
    if synthetic:
        parts.append(
            '<p class="banner synthetic">These prices were made up. The figures say nothing about a real market.</p>'
        )
    report = done.emergency
    if report is not None:
        state = (
            "the account was flat afterwards" if report.succeeded else "THE ACCOUNT WAS NOT FLAT AFTERWARDS"
        )
        parts.append(f'<p class="banner emergency">Emergency protocol: {escape(report.reason)}; {state}.</p>')
    parts += [f'<p class="banner note">{escape(notice)}</p>' for notice in result.notices]
    return "<header>\n" + "\n".join(parts) + "\n</header>"


def _tone(value: float | None) -> str:
    if value is None or value == 0:
        return ""
    return " gain" if value > 0 else " loss"


def _tiles(result: BacktestResult) -> str:
    mine, other = result.simulation.metrics, result.benchmarks["buy-and-hold"].metrics
    shown = (
        ("total_return", mine.total_return, True),
        ("final_equity", None, True),
        ("sharpe", mine.sharpe, True),
        ("max_drawdown", None, True),
        ("trades", None, False),
        ("win_rate", None, False),
        ("fees", None, False),
        ("funding", mine.funding, False),
    )
    forms = {name: (label, form) for name, label, form in FIGURES}
    tiles = []
    for name, tone, compared in shown:
        label, form = forms[name]
        beside = f'<div class="beside">buy-and-hold {figure(other, name, form)}</div>' if compared else ""
        tiles.append(
            f'<div class="tile"><div class="label">{label}</div>'
            f'<div class="value{_tone(tone)}">{figure(mine, name, form)}</div>{beside}</div>'
        )
    return '<section class="tiles">\n' + "\n".join(tiles) + "\n</section>"


def _returns() -> str:
    return '<section class="card"><h2>Returns per candle</h2><div id="returns"></div></section>'


def _figures(result: BacktestResult) -> str:
    columns = [result.simulation.metrics, *(one.metrics for one in result.benchmarks.values())]
    names = [result.simulation.agent, *result.benchmarks]
    head = "".join(f'<th class="number">{escape(name)}</th>' for name in names)
    rows = "\n".join(
        f"<tr><td>{label}</td>"
        + "".join(f'<td class="number">{figure(one, name, form)}</td>' for one in columns)
        + "</tr>"
        for name, label, form in FIGURES
    )
    return (
        '<section class="card"><h2>Figures</h2><table class="figures"><thead><tr><th></th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></section>"
    )


def _shorten(text: str) -> str:
    """A source may list every file that it was joined from."""
    return text if len(text) <= _SOURCE_CHARACTERS else f"{text[:_SOURCE_CHARACTERS]}…"


def _settings(result: BacktestResult, config: Mapping[str, Any]) -> str:
    env, market = result.setup.env, result.market
    fees = (
        f"{env.taker_fee_fraction:.4%} taker fee"
        if env.taker_fee_fraction is not None
        else "the exchange's taker fee"
    )
    funding = "; ".join(
        f"{candles.symbol}: {'none' if series is None else _shorten(series.source)}"
        for candles, series in zip(market.candles, market.funding, strict=True)
    )
    rows = (
        ("Capital", f"{env.initial_capital_usdt:,.2f} USDT"),
        ("Leverage", f"up to {env.max_leverage:g} times equity"),
        ("Costs", f"{fees}, {env.slippage_bps:g} bps slippage"),
        ("Funding", funding),
        ("Orders", "decided at a candle's close, filled at the next open"),
        ("Actions", env.action.scheme),
        ("Candles from", "; ".join(_shorten(candles.source) for candles in market.candles)),
        ("Ended", result.simulation.ending.value),
    )
    table = "\n".join(f"<tr><th>{label}</th><td>{escape(value)}</td></tr>" for label, value in rows)
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=110)
    return (
        f'<section class="card"><h2>Settings</h2><table class="settings"><tbody>{table}</tbody></table>'
        f"<details><summary>every setting, as config.yaml has it</summary><pre>{escape(text)}</pre></details></section>"
    )


def _footer(config: Mapping[str, Any]) -> str:
    record = config.get("record", {})
    made = f"Made {record['made_at']} by perpgym {record['versions']['perpgym']}. " if record else ""
    return (
        f"<footer>{escape(made)}A backtest is no promise: it knows fees, funding and a fixed slippage, "
        "but neither queues nor thin books nor outages.</footer>"
    )
