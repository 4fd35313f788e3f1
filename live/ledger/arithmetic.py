"""Decimal arithmetic that is exact or says so: sums and products never round, shares round once and add up.

Python's default context silently rounds every result to 28 digits. Inside `exact()` a sum or a product that would
lose a digit raises instead; what must round (a quotient) goes through `divide` and `share_out`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import (
    MAX_EMAX,
    MIN_EMIN,
    ROUND_DOWN,
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
    localcontext,
)

from envs.errors import LedgerError

ZERO = Decimal(0)
GRID = Decimal("1E-12")
"""What a share of money is rounded to. The rounding is not lost: the last share is what the others leave."""

_DIGITS = 200
_TRAPS = [InvalidOperation, DivisionByZero, Overflow]
_EXACT = Context(prec=_DIGITS, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[*_TRAPS, Inexact])
_ROUNDING = Context(prec=_DIGITS, rounding=ROUND_HALF_EVEN, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=_TRAPS)


@contextmanager
def exact() -> Iterator[None]:
    """Inside, Decimal operators are exact.

    Raises:
        LedgerError: a result would need more than 200 digits: one of the amounts is nonsense.
    """
    with localcontext(_EXACT):
        try:
            yield
        except (Inexact, InvalidOperation, Overflow) as error:
            raise LedgerError(
                f"an amount has more digits than money has ({type(error).__name__} at {_DIGITS} digits); "
                "look for a corrupted quantity or price"
            ) from error


def divide(value: Decimal, by: Decimal, grid: Decimal = GRID) -> Decimal:
    """A quotient, rounded half-even to the grid."""
    return _ROUNDING.quantize(_ROUNDING.divide(value, by), grid)


def portion(value: Decimal, part: Decimal, whole: Decimal) -> Decimal:
    """value * part / whole, rounded half-even to the grid."""
    return _ROUNDING.quantize(_ROUNDING.divide(_ROUNDING.multiply(value, part), whole), GRID)


def share_out(value: Decimal, weights: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """Split an amount by weights, on the grid; the heaviest (then the first by name) takes the rounding.

    The parts add up to `value` exactly. Weights are above zero. Only inside `exact()`.
    """
    whole = sum(weights.values(), ZERO)
    order = sorted(weights, key=lambda name: (-weights[name], name))
    parts = {name: portion(value, weights[name], whole) for name in order[1:]}
    parts[order[0]] = value - sum(parts.values(), ZERO)
    return parts


def share_quantity(quantity: Decimal, holdings: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """Split a quantity pro rata to holdings, nobody more than he holds, on the grid that they are all on.

    Parts are multiples of the largest power of ten that divides the quantity and all holdings, so that no part is finer
    than the exchange's step. Largest remainders first, ties by name. `quantity` is at most the sum of the holdings.
    Only inside `exact()`.
    """
    whole = sum(holdings.values(), ZERO)
    step = min(_step(quantity), *(_step(held) for held in holdings.values()))
    parts: dict[str, Decimal] = {}
    remainders: list[tuple[Decimal, str]] = []
    for name in sorted(holdings):
        ideal = _ROUNDING.divide(_ROUNDING.multiply(quantity, holdings[name]), whole)
        part = ideal.quantize(step, rounding=ROUND_DOWN, context=_ROUNDING)
        parts[name] = part
        remainders.append((_ROUNDING.subtract(part, ideal), name))
    left = quantity - sum(parts.values(), ZERO)
    for _, name in sorted(remainders):
        if left == 0:
            break
        if parts[name] + step <= holdings[name]:
            parts[name] += step
            left -= step
    if left != 0:
        raise LedgerError(f"quantity {quantity} cannot be split over {dict(holdings)}; this is a bug")
    return {name: part for name, part in parts.items() if part}


def _step(value: Decimal) -> Decimal:
    exponent = value.normalize(_ROUNDING).as_tuple().exponent
    assert isinstance(exponent, int)
    return Decimal((0, (1,), exponent))
