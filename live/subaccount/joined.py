"""Reading on behalf of several: what many want at once is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Joined:
    """Callers who come while the work runs share its next run: what they see then is no older than their call."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """Have the work done from now on; its error is raised to every caller."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._run(self._running))
        await asyncio.shield(self._next)

    async def _run(self, previous: asyncio.Task[None] | None) -> None:
        if previous is not None and not previous.done():
            await asyncio.wait({previous})
        self._running, self._next = self._next, None
        await self._work()
