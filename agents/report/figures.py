"""The figures of a report as plotly specifications, without their numbers.

Each trace says in `meta` what it shows; report.js fills it with the part of the series that is in view. They are
plain dictionaries: importing plotly's Python side would take longer than many a backtest.
"""

from __future__ import annotations

from typing import Any

from agents.report.series import MARKS

Figure = dict[str, Any]

INK = "#1b2733"
MUTED = "#5f6b7a"
GRID = "#e8ecf1"
AGENT = "#2457c5"
BUY_AND_HOLD = "#c9791a"
FLAT = "#8a94a3"
LONG = "#12805c"
SHORT = "#c0392b"
POSITION = "#51627a"

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

# Kind of mark: plotly symbol, colour, size.
_MARK_STYLE = {
    "long entry": ("triangle-up", LONG, 10),
    "short entry": ("triangle-down", SHORT, 10),
    "resize": ("circle", "#7d8a99", 5),
    "exit": ("diamond-open", POSITION, 8),
    "stop": ("x", "#d35400", 9),
    "take-profit": ("star", "#b7950b", 11),
    "liquidation": ("x", "#7b1fa2", 13),
    "emergency": ("square-x-open", "#000000", 12),
}

# Share of the height of each panel, bottom and top, from the price at the top down.
_PANELS = {"price": (0.56, 1.0), "equity": (0.31, 0.51), "drawdown": (0.165, 0.265), "position": (0.0, 0.12)}
_HEIGHT_PX = 1080


def _line(meta: str, name: str, axis: str, colour: str, **more: Any) -> Figure:
    line = {"color": colour, "width": 1.6, **more.pop("line", {})}
    return {
        "type": "scatter",
        "mode": "lines",
        "meta": meta,
        "name": name,
        "xaxis": "x",
        "yaxis": axis,
        "line": line,
        "x": [],
        "y": [],
        **more,
    }


def _base_layout(height_px: int) -> Figure:
    return {
        "height": height_px,
        "margin": {"l": 74, "r": 22, "t": 34, "b": 30},
        "font": {"family": _FONT, "size": 12, "color": INK},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "hoverlabel": {"font": {"family": _FONT, "size": 12}, "bordercolor": GRID},
        "dragmode": "zoom",
    }


def _title(text: str, top: float) -> Figure:
    return {
        "text": f"<b>{text}</b>",
        "x": 0,
        "y": top,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "yshift": 6,
        "showarrow": False,
        "font": {"size": 13, "color": INK},
    }


def _legend(top: float) -> Figure:
    return {
        "orientation": "h",
        "x": 1,
        "xanchor": "right",
        "y": top,
        "yanchor": "bottom",
        "bgcolor": "rgba(255,255,255,0)",
        "font": {"size": 11.5, "color": MUTED},
        "itemwidth": 30,
    }


def _value_axis(panel: str, **more: Any) -> Figure:
    return {
        "domain": list(_PANELS[panel]),
        "anchor": "x",
        "gridcolor": GRID,
        "zeroline": False,
        "tickfont": {"color": MUTED},
        "fixedrange": True,
        "nticks": 6,
        **more,
    }


def run_figure(agent: str, start_ms: int, end_ms: int) -> Figure:
    """Price with the trades, equity, drawdown and position over one time axis."""
    # A candle's two colours stay quiet, so that the marks stand out.
    candles: Figure = {
        "type": "candlestick",
        "meta": "candles",
        "name": "price",
        "showlegend": False,
        "xaxis": "x",
        "yaxis": "y",
        "increasing": {"line": {"color": "#7aa897", "width": 1}, "fillcolor": "#bfd8cd"},
        "decreasing": {"line": {"color": "#c49a94", "width": 1}, "fillcolor": "#e6cbc7"},
        "hoverlabel": {"split": False},
        **{key: [] for key in ("x", "open", "high", "low", "close")},
    }
    marks = []
    for kind in MARKS:
        symbol, colour, size = _MARK_STYLE[kind]
        marks.append(
            {
                "type": "scatter",
                "mode": "markers",
                "meta": f"mark:{kind}",
                "name": kind,
                "xaxis": "x",
                "yaxis": "y",
                "x": [],
                "y": [],
                "text": [],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {
                    "symbol": symbol,
                    "size": size,
                    "color": colour,
                    "line": {"color": colour if symbol.endswith("open") else "#ffffff", "width": 1.2},
                },
            }
        )
    lines = [
        _line(
            "equity:flat",
            "flat",
            "y2",
            FLAT,
            line={"dash": "dot", "width": 1.3},
            legend="legend2",
            hoverinfo="skip",
        ),
        _line("equity:buy-and-hold", "buy-and-hold", "y2", BUY_AND_HOLD, legend="legend2"),
        _line("equity:agent", agent, "y2", AGENT, legend="legend2", line={"width": 2}),
        _line(
            "drawdown:buy-and-hold", "buy-and-hold", "y3", BUY_AND_HOLD, showlegend=False, line={"width": 1.1}
        ),
        _line(
            "drawdown:agent",
            agent,
            "y3",
            AGENT,
            showlegend=False,
            fill="tozeroy",
            fillcolor="rgba(36,87,197,0.14)",
            line={"width": 1.3},
        ),
        _line(
            "exposure",
            "position",
            "y4",
            POSITION,
            showlegend=False,
            fill="tozeroy",
            fillcolor="rgba(81,98,122,0.13)",
            line={"width": 0.9, "shape": "hv"},
        ),
    ]
    layout = _base_layout(_HEIGHT_PX)
    layout |= {
        "hovermode": "x",
        "bargap": 0,
        "xaxis": {
            "type": "date",
            "anchor": "y4",
            "domain": [0, 1],
            "range": [start_ms, end_ms],
            "gridcolor": GRID,
            "tickfont": {"color": MUTED},
            "rangeslider": {"visible": False},
            "showspikes": True,
            "spikemode": "across",
            "spikesnap": "cursor",
            "spikethickness": 1,
            "spikedash": "solid",
            "spikecolor": "#b6c0cc",
            "hoverformat": "%Y-%m-%d %H:%M UTC",
        },
        "yaxis": _value_axis("price", tickformat=",~f", nticks=9),
        "yaxis2": _value_axis("equity", tickformat=",~f"),
        "yaxis3": _value_axis("drawdown", ticksuffix=" %", rangemode="tozero", nticks=4),
        "yaxis4": _value_axis("position", ticksuffix="x", zeroline=True, zerolinecolor="#9aa6b4", nticks=4),
        # Marks shrink where they are many; those of the legend stay.
        "legend": _legend(_PANELS["price"][1]) | {"itemsizing": "constant"},
        "legend2": _legend(_PANELS["equity"][1]),
        "annotations": [
            _title("Price and trades", _PANELS["price"][1]),
            _title("Equity, USDT", _PANELS["equity"][1]),
            _title("Drawdown", _PANELS["drawdown"][1]),
            _title("Position, multiple of equity", _PANELS["position"][1]),
        ],
    }
    return {"data": [candles, *lines, *marks], "layout": layout}


def returns_figure(agent: str) -> Figure:
    """Distribution of the returns per candle, the agent's beside buy-and-hold's."""

    def bars(meta: str, name: str, colour: str, opacity: float) -> Figure:
        return {
            "type": "bar",
            "meta": f"returns:{meta}",
            "name": name,
            "x": [],
            "y": [],
            "opacity": opacity,
            "marker": {"color": colour, "line": {"width": 0}},
            "hovertemplate": "%{x:.3f} %: %{y:.3~r} % of candles<extra>" + name + "</extra>",
        }

    layout = _base_layout(360)
    layout |= {
        "barmode": "overlay",
        "bargap": 0.06,
        "dragmode": False,
        "xaxis": {
            "title": {"text": "return per candle, %", "font": {"color": MUTED, "size": 12}},
            "gridcolor": GRID,
            "tickfont": {"color": MUTED},
            "zeroline": True,
            "zerolinecolor": "#9aa6b4",
        },
        "yaxis": {
            "title": {
                "text": "share of candles, log scale",
                "font": {"color": MUTED, "size": 12},
                "standoff": 14,
            },
            "automargin": True,
            "type": "log",
            "dtick": 1,
            "gridcolor": GRID,
            "tickfont": {"color": MUTED},
            "exponentformat": "none",
            "ticksuffix": " %",
        },
        "legend": _legend(1.0),
    }
    # Drawn back to front: what the agent did lies over the benchmark.
    data = [bars("buy-and-hold", "buy-and-hold", BUY_AND_HOLD, 0.55), bars("agent", agent, AGENT, 0.6)]
    return {"data": data, "layout": layout}
