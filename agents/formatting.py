"""Figures as people read them; `-` where a figure is not defined."""

from __future__ import annotations

from rich.console import Console

_WIDE = 150


def money(value: float | None) -> str:
    """Two decimals, thousands apart."""
    return "-" if value is None else f"{value:,.2f}"


def percent(value: float | None) -> str:
    """A change as signed percent: 0.05 is +5.00%."""
    return "-" if value is None else f"{value:+.2%}"


def share(value: float | None) -> str:
    """A part of the whole as percent: 0.05 is 5.00%."""
    return "-" if value is None else f"{value:.2%}"


def ratio(value: float | None) -> str:
    """Two decimals."""
    return "-" if value is None else f"{value:.2f}"


def count(value: float | None) -> str:
    """Whole, thousands apart."""
    return "-" if value is None else f"{value:,.0f}"


def width_for_tables(console: Console) -> int:
    """How wide a table may be: what a terminal has; where nobody's terminal is written to, enough."""
    return console.width if console.is_terminal else max(console.width, _WIDE)
