"""In lock-step a candle is played when every agent waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable

from live.candle_feed import RequestCandle


class Pace:
    """Joins the agents' requests for a candle into one. Everything happens in one event loop.

    Args:
        request: has the market play a candle.
        settled: awaited before each: what the last one caused is tidied up.
        agents: who must wait before a candle is played.
        stopping: once it is set, from any thread, no further candle is played.
    """

    def __init__(
        self,
        request: RequestCandle,
        settled: Callable[[], Awaitable[None]],
        agents: Iterable[str],
        stopping: threading.Event,
    ) -> None:
        self._request = request
        self._settled = settled
        self._playing = set(agents)
        self._waiting: dict[str, asyncio.Future[bool | None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._stopping = stopping

    def of(self, agent: str) -> RequestCandle:
        """The hook of an agent's candle feed."""

        async def request() -> bool | None:
            if self._stopping.is_set():
                return None
            future: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
            self._waiting[agent] = future
            self._go()
            try:
                return await future
            finally:
                if self._waiting.get(agent) is future:
                    del self._waiting[agent]

        return request

    async def leave(self, agent: str) -> None:
        """An agent plays no more: nobody waits for it."""
        self._playing.discard(agent)
        self._go()

    async def wake(self) -> None:
        """Now that all are to stop, whoever waits is told that there is no further candle."""
        self._release(None)

    def _go(self) -> None:
        if (
            self._stopping.is_set()
            or self._task is not None
            or not self._playing
            or self._playing - self._waiting.keys()
        ):
            return
        self._task = asyncio.get_running_loop().create_task(self._play(), name="a candle for the arena")

    async def _play(self) -> None:
        try:
            await self._settled()
            more = await self._request()
        except Exception as error:  # noqa: BLE001  (each agent raises it in its own thread)
            self._task = None
            waiting, self._waiting = self._waiting, {}
            for future in waiting.values():
                if not future.done():
                    future.set_exception(error)
            return
        self._task = None
        self._release(more)

    def _release(self, more: bool | None) -> None:
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_result(more)
