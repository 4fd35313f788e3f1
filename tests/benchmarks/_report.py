"""How a benchmark says what it measured: one JSON object per line on stdout, the headline figure first."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any


def emit(
    name: str,
    value: float,
    unit: str,
    *,
    peer: str | None = None,
    peer_value: float | None = None,
    **extra: Any,
) -> None:
    """Print one figure.

    Args:
        name: of the figure, the same in every run.
        value, unit: what was measured; the unit says which way is better: per second more, seconds less.
        peer, peer_value: what was measured beside it in the same run, in the same unit; `ratio` is value / peer_value.
            A peer that could not be measured has no value, and `extra` says why.
        extra: what else belongs to the figure, such as the size that it was measured at.
    """
    line: dict[str, Any] = {"name": name, "value": _rounded(value), "unit": unit}
    if peer is not None:
        line["peer"] = peer
        if peer_value is not None:
            line["peer_value"] = _rounded(peer_value)
            line["ratio"] = _rounded(value / peer_value) if peer_value else None
    line.update({key: _rounded(one) for key, one in extra.items()})
    sys.stdout.write(json.dumps(line, allow_nan=False) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Say on stderr what is being measured, so that stdout stays JSON."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def best_rate(work: Callable[[], int], *, seconds: float = 2.0, least: int = 3) -> float:
    """Units of work per second: the best of several rounds, as others on the machine only ever slow a round down.

    Args:
        work: does one round and returns how many units it was; the first round warms up and does not count.
        seconds: time to spend on rounds that count.
        least: rounds to do, however long they take.
    """
    work()
    best, rounds, until = 0.0, 0, time.perf_counter() + seconds
    while rounds < least or time.perf_counter() < until:
        began = time.perf_counter()
        units = work()
        best = max(best, units / (time.perf_counter() - began))
        rounds += 1
    return best


def _rounded(value: Any) -> Any:
    """Measured numbers with four significant digits: more would be noise. Counts stay as they are."""
    if not isinstance(value, float) or value == 0 or not math.isfinite(value):
        return value
    digits = 3 - math.floor(math.log10(abs(value)))
    rounded = round(float(value), digits)
    return int(rounded) if digits <= 0 else rounded
