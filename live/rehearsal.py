"""The next step, gone through shortly before its candle closes and thrown away.

Between two candles nothing happens for minutes. Processors go to sleep, caches forget the code and the numbers of a
step, and the exchange's connections are closed; the first step after that takes twice as long, and its order waits for
a new connection. So just before the close the connections are opened again, and the step is gone through on the candles
that are there, up to the signed request, which is not sent. Nothing of it remains.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from agents.base import Agent, Rehearses
from envs.account import AccountSnapshot, Plan
from envs.base import Observation

_log = logging.getLogger(__name__)

CONNECT_S = 2.0
"""Connections are opened so long before the close: enough for the handshakes, too short for them to be closed again."""
FROM_S = 0.06
PAUSE_S = 0.002
"""From so long before the close on a step is rehearsed, with such pauses, and longer ones where it takes longer."""
_TURNS = 3
"""So many turns of the loop a candle takes from its socket to whoever waits for it; each part waits for as many."""
_BUSY_S = 0.0001
"""When control comes back from a turn later than this somebody else is at work, perhaps on the candle."""
UNTIL_S = 1.0
"""A candle that is later than this is waited for without."""
_LONGEST_SLEEP_S = 10.0  # the clock may be measured again meanwhile

ClosesIn = Callable[[int], float]
"""Seconds until the exchange's clock reaches a time in UTC ms; below zero when it has passed."""


Rehearse = Callable[[Observation, Plan, AccountSnapshot], None]
"""What others do in a step, called in its thread: shown a plan that will not be executed, they change nothing."""


def deciding(agent: Agent) -> Rehearse:
    """The agent's part, where it can go through a decision without making one."""

    def rehearse(observation: Observation, plan: Plan, account: AccountSnapshot) -> None:
        del plan, account
        if isinstance(agent, Rehearses):
            agent.rehearse(observation)

    return rehearse


class Rehearsal:
    """Rehearses while a candle is waited for. Whoever waits cancels it when the candle is there.

    Args:
        closes_in_s: the clock.
        connect: opens the connections that the step's orders will need.
        parts: goes through a step, with a pause at each yield in which a candle may come; it must change nothing.
    """

    def __init__(
        self,
        closes_in_s: ClosesIn,
        connect: Callable[[], Awaitable[None]],
        parts: Callable[[], AsyncGenerator[None]],
    ) -> None:
        self._closes_in_s = closes_in_s
        self._connect = connect
        self._parts = parts

    async def until(self, close_ms: int) -> None:
        """Rehearse for the candle that closes then. A rehearsal that fails ends; the step itself is not touched."""
        if self._closes_in_s(close_ms) < 0:
            return  # it is late: after an outage candles come in a burst
        try:
            await self._sleep_until(close_ms, CONNECT_S)
            await self._connect()
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                return  # a request whose time ran out in the same moment has swallowed it
            await self._sleep_until(close_ms, FROM_S)
            clock = asyncio.get_running_loop().time
            while self._closes_in_s(close_ms) > -UNTIL_S:
                began_s = clock()
                async with aclosing(self._parts()) as parts:
                    async for _ in parts:
                        if await _somebody_is_at_work():
                            break
                await asyncio.sleep(max(PAUSE_S, clock() - began_s))
        except Exception:  # noqa: BLE001  (whatever it is, the step meets it too, and has ways to deal with it)
            _log.warning("the step could not be rehearsed; it will be slower", exc_info=True)

    async def _sleep_until(self, close_ms: int, before_s: float) -> None:
        while (left_s := self._closes_in_s(close_ms) - before_s) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left_s, _LONGEST_SLEEP_S))


async def _somebody_is_at_work() -> bool:
    """Let a candle pass that has reached its socket; whether anybody used the time."""
    clock = asyncio.get_running_loop().time
    for _ in range(_TURNS):
        paused_at_s = clock()
        await asyncio.sleep(0)
        if clock() - paused_at_s > _BUSY_S:
            return True
    return False
