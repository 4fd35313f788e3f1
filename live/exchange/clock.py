"""The exchange's clock, seen from here."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable


class ExchangeClock:
    """The exchange's clock by its offset from this machine's, in ms.

    `uncertainty_ms` is half the round trip of the best sample: the true offset lies within it. A simulated
    exchange's clock stands still and jumps; of it only what the exchange last said is known.
    """

    def __init__(self, *, simulated: bool) -> None:
        self.simulated = simulated
        self.offset_ms = 0.0
        self.uncertainty_ms = 0.0
        self._last_seen_ms = 0

    def now_ms(self) -> int:
        """UTC ms by the exchange's clock."""
        return self._last_seen_ms if self.simulated else int(time.time() * 1000 + self.offset_ms)

    def certain_ms(self, now_ms: int) -> float:
        """What the exchange's clock had certainly reached when it was taken to show `now_ms`."""
        return now_ms if self.simulated else now_ms - self.uncertainty_ms

    def observe(self, server_ms: int) -> None:
        """The exchange's clock has reached this time."""
        self._last_seen_ms = max(self._last_seen_ms, server_ms)

    async def measure(self, ask: Callable[[], Awaitable[int]], *, samples: int = 3) -> None:
        """Measure the offset: the sample with the shortest round trip, as the time server protocols do.

        Args:
            ask: requests the exchange's time in ms.
            samples: how often it is asked.
        """
        best: tuple[float, float] | None = None
        for _ in range(samples):
            before_ms = time.time() * 1000
            server_ms = await ask()
            self.observe(server_ms)
            after_ms = time.time() * 1000
            half_trip = max(0.0, (after_ms - before_ms) / 2)
            if best is None or half_trip < best[0]:
                best = (half_trip, server_ms - (before_ms + after_ms) / 2)
        if best is not None:
            self.uncertainty_ms, self.offset_ms = best
