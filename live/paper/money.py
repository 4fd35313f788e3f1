"""Decimal arithmetic of the exchange: how amounts are booked and how numbers are written.

Booked amounts carry at most 12 decimals. Binance books 8; four more keep a long run within 1e-9 of the
simulator, which does not round at all.
"""

from __future__ import annotations

from decimal import Decimal

ZERO = Decimal(0)
ONE = Decimal(1)
QUANTUM = Decimal("1e-12")


def booked(amount: Decimal) -> Decimal:
    """`amount` rounded half-even to the 12 decimals that the exchange books."""
    return amount.quantize(QUANTUM)


def exact(value: float) -> Decimal:
    """The decimal that a float was written as: `exact(16800.1) == Decimal("16800.1")`."""
    return Decimal(repr(float(value)))


def plain(value: Decimal) -> str:
    """Shortest positional notation, never scientific: `"16800.1"`, `"0"`."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def amount_text(value: Decimal) -> str:
    """An amount of USDT with 8 decimals, or 12 where 8 would lose something."""
    text = f"{value:.12f}"
    if text.endswith("0000"):
        text = text[:-4]
    return text[1:] if text.startswith("-0.") and not text.strip("-0.") else text


def price_text(value: Decimal, decimals: int) -> str:
    """A price with at least `decimals` decimals, and all that it has."""
    text = plain(value)
    have = len(text) - text.index(".") - 1 if "." in text else 0
    if have >= decimals:
        return text
    return f"{text}{'' if have else '.'}{'0' * (decimals - have)}"


def quantity_text(value: Decimal, decimals: int) -> str:
    """A quantity with exactly `decimals` decimals (quantities are on the step grid)."""
    return f"{value:.{decimals}f}"
