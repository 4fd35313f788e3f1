"""Reading on behalf of several: what many want at once is done once, and fails with one error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from envs.errors import ExchangeError
from live.sync import TradeSync


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


async def catch_up(sync: TradeSync, symbols: tuple[str, ...] | None) -> None:
    """Bring the ledger up to now; see `TradeSync.catch_up`.

    Raises:
        ExchangeError: the history cannot be read.
        LedgerError, StoreError: an entry contradicts the ledger, or the database refused.
    """
    problem: BaseException | None = None
    try:
        await sync.catch_up(symbols)
    except BaseExceptionGroup as group:
        problem = _first(group)
    if problem is not None:
        raise problem


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """The most telling of several errors: one that is no failure of the exchange comes first."""
    leaves: list[BaseException] = []
    for one in group.exceptions:
        leaves.append(_first(one) if isinstance(one, BaseExceptionGroup) else one)
    return min(leaves, key=lambda one: isinstance(one, ExchangeError))
