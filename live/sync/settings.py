"""Settings of the syncs of one account."""

from __future__ import annotations

from pydantic import Field

from envs.config import StrictModel
from envs.time_grid import DAY_MS


class TradeSyncSettings(StrictModel):
    """How the exchange's history is read.

    Attributes:
        settle_ms: entries younger than this are read again the next time: an exchange may list them late, and out of
            order.
        reach_ms: how far back a first reading goes; Binance keeps trades and income for three months.
        at_once: symbols that are read at the same time.
        retry_s: pauses between attempts to catch up; the last is repeated.
        booked_s: pauses before income that the stream has told of is looked for again.
        stream_s: how long a start waits for the user stream before it goes on without it.
    """

    settle_ms: int = Field(60_000, ge=0)
    reach_ms: int = Field(90 * DAY_MS, gt=0)
    at_once: int = Field(4, ge=1, le=50)
    retry_s: tuple[float, ...] = Field((0.5, 1.0, 2.0, 5.0, 15.0), min_length=1)
    booked_s: tuple[float, ...] = (0.2, 1.0, 3.0, 10.0)
    stream_s: float = Field(10.0, ge=0)
