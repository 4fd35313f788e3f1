"""The dead man's switch: resting orders that the exchange cancels when nobody renews a countdown.

It is about ordinary orders only. Stops and take-profits are algo orders, which the exchange leaves alone when the
countdown ends, as they must be: a position whose program died still has its stop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from envs.errors import ExchangeError
from live.exchange.buffer import end_task

_LOG = logging.getLogger(__name__)

RENEWALS = 3
"""A countdown is renewed this often within its length, so that one lost request does not end it."""


class DeadMan:
    """Renews the countdown of each symbol while it runs. A process that dies renews nothing.

    Args:
        cancel_later: (symbol, countdown in ms) asks the exchange; 0 takes it back.
        symbols: whose resting orders are cancelled.
        countdown_s: after the last renewal.
    """

    def __init__(
        self,
        cancel_later: Callable[[str, int], Awaitable[None]],
        symbols: Sequence[str],
        countdown_s: float,
    ) -> None:
        self._cancel_later = cancel_later
        self._symbols = tuple(symbols)
        self._countdown_s = countdown_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin the countdowns, and renew them from now on.

        Raises:
            ExchangeError: one could not be begun.
        """
        await self._ask(round(self._countdown_s * 1000))
        self._task = asyncio.get_running_loop().create_task(self._renew(), name="dead man's switch")

    async def stop(self) -> None:
        """Take the countdowns back: orders of a program that ends in order stay. Failing that they run out."""
        task, self._task = self._task, None
        if task is None:
            return
        await end_task(task)
        try:
            await self._ask(0)
        except ExchangeError as error:
            _LOG.warning(
                "the countdown could not be taken back, resting orders are cancelled in at most %g s: %s",
                self._countdown_s,
                error,
            )

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._countdown_s / RENEWALS)
            try:
                await self._ask(round(self._countdown_s * 1000))
            except ExchangeError as error:
                _LOG.warning("the countdown of resting orders could not be renewed: %s", error)

    async def _ask(self, countdown_ms: int) -> None:
        await asyncio.gather(*(self._cancel_later(symbol, countdown_ms) for symbol in self._symbols))
