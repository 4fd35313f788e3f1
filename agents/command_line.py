"""What the commands share: lists of values after one option, and a Ctrl+C that lets a run end well."""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl+C ends the run between two steps, with its files; the second ends the process."""
    stopped = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield lambda: stopped
    finally:
        signal.signal(signal.SIGINT, before)


def spread_lists(arguments: Sequence[str], options: Collection[str]) -> list[str]:
    """`--candles A B` as `--candles A --candles B`: each of `options` takes several values."""
    spread: list[str] = []
    option: str | None = None
    for argument in arguments:
        if argument in options:
            option = argument
            spread.append(option)
        elif option is None or argument.startswith("-"):
            option = None
            spread.append(argument)
        else:
            # The option stands there already when this is its first value.
            spread += [argument] if spread[-1] == option else [option, argument]
    return spread
