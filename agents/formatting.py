"""Figures as people read them; `-` where a figure is not defined."""

from __future__ import annotations


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
