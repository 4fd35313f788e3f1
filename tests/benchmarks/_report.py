"""How a benchmark says what it measured: one JSON object per line on stdout, the headline figure first."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple


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


class Rate(NamedTuple):
    """Units of work per second on the clock, and per second that the processor spent on it."""

    wall: float
    cpu: float


def best_rates(work: Callable[[], int], *, seconds: float = 2.0, least: int = 3) -> Rate:
    """Units of work per second: the best of several rounds, as others on the machine only ever slow a round down.

    On a busy machine, `cpu` of work on one thread comes near to what `wall` is on an idle one.

    Args:
        work: does one round and returns how many units it was; the first round warms up and does not count.
        seconds: time to spend on rounds that count.
        least: rounds to do, however long they take.
    """
    work()
    wall = cpu = 0.0
    rounds, until = 0, time.perf_counter() + seconds
    while rounds < least or time.perf_counter() < until:
        began, began_cpu = time.perf_counter(), time.process_time()
        units = work()
        cpu = max(cpu, units / max(time.process_time() - began_cpu, 1e-9))
        wall = max(wall, units / (time.perf_counter() - began))
        rounds += 1
    return Rate(wall, cpu)


def best_rate(work: Callable[[], int], *, seconds: float = 2.0, least: int = 3) -> float:
    """`best_rates` on the clock."""
    return best_rates(work, seconds=seconds, least=least).wall


def _rounded(value: Any) -> Any:
    """Measured numbers with four significant digits: more would be noise. Counts stay as they are."""
    if not isinstance(value, float) or value == 0 or not math.isfinite(value):
        return value
    digits = 3 - math.floor(math.log10(abs(value)))
    rounded = round(float(value), digits)
    return int(rounded) if digits <= 0 else rounded
