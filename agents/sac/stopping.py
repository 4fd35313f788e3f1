"""Ctrl+C during a training: the first asks it to finish, the second ends the process."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether the user asked to stop.

    Attributes:
        signal_number: of the signal that asked; None while nobody did.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __call__(self) -> bool:
        return self.signal_number is not None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal stopped; 0 when none did."""
        return 0 if self.signal_number is None else 128 + self.signal_number

    @contextmanager
    def listening(self, told: Callable[[str], None]) -> Iterator[None]:
        """Take SIGINT and SIGTERM as requests. The second one raises KeyboardInterrupt."""

        def on_signal(number: int, _frame: FrameType | None) -> None:
            if self.signal_number is not None:
                raise KeyboardInterrupt
            self.signal_number = number
            told("stopping: what is best so far is kept (again to stop at once)")

        before = {one: signal.signal(one, on_signal) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
