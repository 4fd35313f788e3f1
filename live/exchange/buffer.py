"""A bounded buffer between a task that reads a socket and the consumer of its events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Generic, Self, TypeVar

T = TypeVar("T")

_CANCEL_AGAIN_S = 5.0
"""Several times what a task may need for its end: the handshakes that close its connections."""


async def end_task(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end, whatever that is.

    One cancellation can be lost: where a request's time runs out in the same moment, its library makes a timeout of it.
    So the task is cancelled again, but not before an orderly end would be over.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_CANCEL_AGAIN_S)


class EventStream(Generic[T]):
    """An async iterator fed by a task of its own.

    A cancelled `anext` (a consumer's timeout) loses nothing. The task's error is raised to the consumer after the
    events before it, and again at each further call. `aclose` ends the task.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._events: deque[T] = deque()
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._error: BaseException | None = None

    def start(self, run: Coroutine[object, object, None], name: str) -> None:
        """Run the feeding task."""
        self._task = asyncio.get_running_loop().create_task(run, name=name)
        self._task.add_done_callback(self._ended)

    def is_full(self) -> bool:
        """Whether another event would be one too many."""
        return len(self._events) >= self.limit

    def push(self, event: T) -> None:
        """Append an event; the caller checks `is_full` first."""
        self._events.append(event)
        self._arrived.set()

    def clear(self) -> None:
        """Forget what was not read yet."""
        self._events.clear()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._error = task.exception()
        self._closed = True
        self._arrived.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()

    async def aclose(self) -> None:
        """End the feeding task; events not read are lost."""
        self._closed = True
        self.clear()
        self._arrived.set()
        task = self._task
        if task is not None:
            await end_task(task)
