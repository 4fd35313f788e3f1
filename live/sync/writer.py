"""The one thread that writes to the ledger, so that the event loop never waits for a database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from envs.account import Fill
from live.ledger import Cursor, Income, Ledger, Recorded, Transfer

_LOG = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

# A reader of the ledger on the event loop waits for the transaction under way, so these stay short.
_AT_ONCE = 500


class LedgerWriter:
    """Asynchronous access to a ledger. What is asked for is done in the order of asking, one at a time.

    `on_fills` is told of new fills once they are committed, on the event loop, also when whoever recorded them has
    been cancelled meanwhile.
    """

    def __init__(self, ledger: Ledger, on_fills: Callable[[Sequence[Fill]], None]) -> None:
        self.ledger = ledger
        self._on_fills = on_fills
        self._recording: set[asyncio.Task[Recorded]] = set()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do something with the ledger's database, off the event loop.

        Once begun it is done, also when the caller is cancelled.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: work(*args, **kwargs))

    async def fills(self, fills: Sequence[Fill], cursor: Cursor | None = None) -> Recorded:
        """Record fills; the cursor moves with the last of them.

        Raises:
            LedgerError, StoreError: those before the failing transaction are recorded.
        """
        task = asyncio.get_running_loop().create_task(self._record(fills, cursor), name="record")
        self._recording.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Recorded]) -> None:
        self._recording.discard(task)
        # Whoever waits is told by the shield; nobody does any more when he was cancelled.
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.debug("recording failed: %s", error)

    async def _record(self, fills: Sequence[Fill], cursor: Cursor | None) -> Recorded:
        new: list[Fill] = []
        recognised: list[Fill] = []
        for first in range(0, max(1, len(fills)), _AT_ONCE):
            batch = fills[first : first + _AT_ONCE]
            last = first + _AT_ONCE >= len(fills)
            cursors = [cursor] if cursor is not None and last else []
            done = await self.run(self.ledger.record_batch, batch, cursors=cursors)
            self._on_fills(done.fills)
            new += done.fills
            recognised += done.recognised
        return Recorded(tuple(new), (), tuple(recognised))

    async def bookings(
        self, income: Sequence[Income], transfers: Sequence[Transfer], cursor: Cursor | None = None
    ) -> tuple[int, int]:
        """Record income and transfers; how many of each were new. The cursor moves with the second."""

        def both() -> tuple[int, int]:
            new = len(self.ledger.record_income(income)) if income else 0
            cursors = [cursor] if cursor is not None else []
            return new, self.ledger.record_transfers(transfers, cursors=cursors)

        return await self.run(both)

    async def close(self) -> None:
        """Finish what was begun."""
        await asyncio.gather(*self._recording, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)
