"""The exchange's limits on requests and orders, and how requests share what is left of them.

Used is what the newest reply's headers said, and the requests that are on their way. Below `SLOW_FROM` of a limit
nothing waits. From there on ordinary requests are spread evenly over the rest of the exchange's window, and bulk
downloads wait for the next one. The last `RESERVED` of each limit is kept for what reduces risk: closing positions,
cancelling, stops. So the limit itself is never run into, and a busy program can still get out of a position.

A 429 that comes all the same (other programs share the address) stops everything for as long as it says; a 418 is a
ban, during which nothing is sent at all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn

from envs.errors import RateLimitedError
from live.exchange.weights import Cost

_LOG = logging.getLogger(__name__)

SLOW_FROM = 0.8
RESERVED = 0.1
# Windows are the exchange's; a little is added so that the next one has surely begun there too.
_AFTER_WINDOW_S = 0.2
_TOLD_FROM_S = 1.0


class Urgency(IntEnum):
    """Whose turn it is when a limit is nearly used up."""

    BULK = 0
    ORDINARY = 1
    RISK = 2


_URGENCY: ContextVar[Urgency] = ContextVar("urgency", default=Urgency.ORDINARY)


@contextmanager
def reducing_risk() -> Iterator[None]:
    """Requests made inside, also by tasks begun inside, may use the reserved share of the limits."""
    token = _URGENCY.set(Urgency.RISK)
    try:
        yield
    finally:
        _URGENCY.reset(token)


@dataclass(slots=True)
class Meter:
    """What requests cost that were admitted while it ran."""

    requests: int = 0
    weight: int = 0


_METER: ContextVar[Meter | None] = ContextVar("meter", default=None)


@contextmanager
def metered() -> Iterator[Meter]:
    """Count the requests made inside, also by tasks begun inside, and nobody else's."""
    meter = Meter()
    token = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(token)


def present_urgency() -> Urgency:
    """The urgency of a request made here and now."""
    return _URGENCY.get()


@dataclass(slots=True)
class Gauge:
    """How much of one limit is used in the exchange's present window."""

    limit: int
    length_s: float
    in_flight: int = 0
    _said: int = 0
    _window: int = -1

    def note(self, used: int, now_s: float) -> None:
        """The exchange said so. Replies overtake one another, so within a window less than before counts for
        nothing, unless it is so much less that a new window must have begun there.
        """
        window = int(now_s // self.length_s)
        if window != self._window or used > self._said or 2 * used < self._said:
            self._window, self._said = window, used

    def lose(self, amount: int, now_s: float) -> None:
        """A request got no reply: the exchange may have counted it."""
        self.note(self.said(now_s) + amount, now_s)

    def said(self, now_s: float) -> int:
        """What the exchange has counted, as far as is known."""
        return self._said if int(now_s // self.length_s) == self._window else 0

    def used(self, now_s: float) -> int:
        """Counted, and on its way."""
        return self.said(now_s) + self.in_flight

    def wait_s(self, amount: int, urgency: Urgency, now_s: float) -> tuple[float, bool]:
        """How long a request of this cost waits, in seconds, and whether that is for the next window."""
        used = self.used(now_s)
        if amount == 0 or used + amount <= SLOW_FROM * self.limit:
            return 0.0, False
        window_s = self.length_s - now_s % self.length_s
        ceiling = self.limit if urgency is Urgency.RISK else (1 - RESERVED) * self.limit
        # One that is larger than the whole limit goes when nothing else does.
        if urgency is Urgency.BULK or (used and used + amount > ceiling):
            return window_s + _AFTER_WINDOW_S, True
        if urgency is Urgency.RISK:
            return 0.0, False
        return window_s * min(1.0, amount / max(amount, ceiling - used)), False


class RequestBudget:
    """What may still be sent. One per address and account; connectors that share both may share it.

    Args:
        wall_s: UTC seconds by the exchange's clock; its windows are cut by it.
        monotonic_s, sleep: time for bans and waits.
    """

    def __init__(
        self,
        *,
        wall_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.weight = Gauge(2400, 60.0)
        self.orders_10s = Gauge(300, 10.0)
        self.orders_1m = Gauge(1200, 60.0)
        self._wall_s = wall_s
        self._monotonic_s = monotonic_s
        self._sleep = sleep
        self._queue = asyncio.Lock()
        self._banned_until_s = 0.0
        self._held_until_s = 0.0
        self._orders_held_until_s = 0.0

    @property
    def used_weight(self) -> int:
        """Request weight that the exchange has counted in the present minute."""
        return self.weight.said(self._wall_s())

    def learn_limits(self, rules: object) -> None:
        """Take the limits from the `rateLimits` of exchangeInfo; what cannot be read stays as it was."""
        for rule in rules if isinstance(rules, list) else ():
            key = rule.get("rateLimitType"), rule.get("interval"), int(rule.get("intervalNum", 1))
            gauge = {
                ("REQUEST_WEIGHT", "MINUTE", 1): self.weight,
                ("ORDERS", "SECOND", 10): self.orders_10s,
                ("ORDERS", "MINUTE", 1): self.orders_1m,
            }.get(key)
            if gauge is not None and int(rule["limit"]) > 0:
                gauge.limit = int(rule["limit"])

    def note(self, headers: Mapping[str, str]) -> None:
        """Read what is used from a reply's headers, where it is there."""
        now_s = self._wall_s()
        for name, gauge in (
            ("X-MBX-USED-WEIGHT-1M", self.weight),
            ("X-MBX-ORDER-COUNT-10S", self.orders_10s),
            ("X-MBX-ORDER-COUNT-1M", self.orders_1m),
        ):
            text = headers.get(name, "")
            if text.isdigit():
                gauge.note(int(text), now_s)

    def ban(self, seconds: float) -> None:
        """Send nothing for so long (418)."""
        self._banned_until_s = max(self._banned_until_s, self._monotonic_s() + seconds)

    def hold(self, seconds: float, *, orders_only: bool = False) -> None:
        """Let everything, or all orders, wait for so long (429)."""
        until_s = self._monotonic_s() + seconds
        if orders_only:
            self._orders_held_until_s = max(self._orders_held_until_s, until_s)
        else:
            self._held_until_s = max(self._held_until_s, until_s)

    def forgive(self) -> None:
        """Forget bans and pauses; for who knows that they are over."""
        self._banned_until_s = self._held_until_s = self._orders_held_until_s = 0.0

    async def admit(self, cost: Cost, urgency: Urgency, patience_s: float) -> None:
        """Wait until a request may be sent, and count it as sent; `settle` it when it has ended.

        Orders, and anything after a 429, wait for at most `patience_s`; what reads or cancels waits out a window.

        Raises:
            RateLimitedError: banned, or it would have to wait longer. Nothing was sent.
        """
        if urgency is Urgency.RISK or (not self._queue.locked() and not self._must_wait(cost, urgency)):
            await self._wait(cost, urgency, patience_s)
        else:
            # One at a time, in the order of asking, so that together they keep to the pace.
            async with self._queue:
                await self._wait(cost, urgency, patience_s)

    def _must_wait(self, cost: Cost, urgency: Urgency) -> bool:
        return self._held_s(cost) > 0 or any(wait_s > 0 for wait_s, _ in self._waits(cost, urgency))

    async def _wait(self, cost: Cost, urgency: Urgency, patience_s: float) -> None:
        paced = False
        while True:
            if (banned_s := self._banned_until_s - self._monotonic_s()) > 0:
                self._refuse("banned this address", banned_s)
            if (held_s := self._held_s(cost)) > 0:
                if held_s > patience_s:
                    self._refuse("asked for a pause", held_s)
                await self._sleep(held_s)
                continue
            # The pace is kept once; the next window is waited for as often as it takes.
            waits = [wait_s for wait_s, for_window in self._waits(cost, urgency) if for_window or not paced]
            pause_s = max(waits, default=0.0)
            if pause_s <= 0:
                break
            if cost.orders and pause_s > patience_s:
                self._refuse("takes no more orders at the moment: the limit on orders is used up", pause_s)
            if pause_s >= _TOLD_FROM_S:
                _LOG.info("request limit nearly used up: waiting for %.1f s", pause_s)
            paced = True
            await self._sleep(pause_s)
        meter = _METER.get()
        if meter is not None:
            meter.requests += 1
            meter.weight += cost.weight
        self.weight.in_flight += cost.weight
        self.orders_10s.in_flight += cost.orders
        self.orders_1m.in_flight += min(1, cost.orders)

    def settle(self, cost: Cost, *, answered: bool) -> None:
        """A request that was admitted has ended; its reply's headers, if there was one, are noted already."""
        now_s = self._wall_s()
        for gauge, amount in (
            (self.weight, cost.weight),
            (self.orders_10s, cost.orders),
            (self.orders_1m, min(1, cost.orders)),
        ):
            gauge.in_flight -= amount
            if amount and not answered:
                gauge.lose(amount, now_s)

    def _held_s(self, cost: Cost) -> float:
        until_s = max(self._held_until_s, self._orders_held_until_s if cost.orders else 0.0)
        return until_s - self._monotonic_s()

    def _waits(self, cost: Cost, urgency: Urgency) -> list[tuple[float, bool]]:
        now_s = self._wall_s()
        return [
            self.weight.wait_s(cost.weight, urgency, now_s),
            self.orders_10s.wait_s(cost.orders, urgency, now_s),
            self.orders_1m.wait_s(min(1, cost.orders), urgency, now_s),
        ]

    def _refuse(self, why: str, seconds: float) -> NoReturn:
        raise RateLimitedError(
            f"the exchange {why}; nothing was sent. Wait {seconds:.0f} s.", retry_after_s=seconds
        )
