"""Settings of the syncs of one account."""

from __future__ import annotations

from pydantic import Field, model_validator

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


class PositionSyncSettings(StrictModel):
    """How often positions are compared, and how long differences may last.

    Attributes:
        every_s: between two syncs.
        near_s: while a position is near a stop, a take-profit or its liquidation.
        calm_s: while every position is far from all of them, or there is none.
        near_fraction: of the price: closer than this is near.
        calm_fraction: of the price: farther than this is calm.
        orders_s: open orders are read again after so long, and when the stream tells of one.
        equity_s: between two equity snapshots of an account, by the exchange's clock.
        rereads: how often a difference is looked at again before it counts as one: positions and fills are not read at
            one moment.
        reread_s: pause before each of them.
        deep_ms: how far back bookings are read once more before the wallet's difference counts as one.
    """

    every_s: float = Field(10.0, gt=0)
    near_s: float = Field(2.0, gt=0)
    calm_s: float = Field(30.0, gt=0)
    near_fraction: float = Field(0.01, ge=0, le=1)
    calm_fraction: float = Field(0.05, ge=0, le=1)
    orders_s: float = Field(60.0, gt=0)
    equity_s: float = Field(60.0, ge=0)
    rereads: int = Field(3, ge=1, le=20)
    reread_s: float = Field(0.25, ge=0)
    deep_ms: int = Field(DAY_MS, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> PositionSyncSettings:
        if not self.near_s <= self.every_s <= self.calm_s:
            raise ValueError(
                f"near_s {self.near_s:g}, every_s {self.every_s:g} and calm_s {self.calm_s:g} must not fall"
            )
        return self
