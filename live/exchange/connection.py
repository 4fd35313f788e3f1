"""How a run talks to its exchange: the section `connection` of a run's config file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from envs.config import StrictModel
from live.exchange.binance import BinanceExchange
from live.exchange.records import RetryPolicy
from live.settings import Credentials, Venue

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ConnectionSettings(StrictModel):
    """Patience with the exchange, and what it does when this process dies.

    Attributes:
        attempts: how often a request that is known to have failed is sent in all.
        retry_delay_s: pause after the first failure; doubled with each further one, with jitter.
        longest_delay_s: and no longer than this.
        timeout_s: for the reply to a request; an order without one is asked about.
        receive_window_ms: how long after its timestamp the exchange may still accept a request. It bounds how soon an
            order that got no reply can be known not to exist.
        clock_every_s: how often the exchange's clock is measured again.
        dead_man_s: the exchange cancels the resting ordinary orders of the traded symbols when this process has not
            been heard of for so long; None leaves them. Stops and take-profits stay in any case. It also cancels
            orders that somebody else rests on the same account and symbols.
    """

    attempts: int = Field(3, ge=1, le=20)
    retry_delay_s: Seconds = 1.0
    longest_delay_s: Seconds = 8.0
    timeout_s: Seconds = 10.0
    receive_window_ms: int = Field(5000, ge=100, le=60_000)
    clock_every_s: Seconds = 900.0
    dead_man_s: float | None = Field(None, ge=10.0, le=86_400.0)

    def connector(
        self, venue: Venue, credentials: Credentials | None, symbols: Sequence[str]
    ) -> BinanceExchange:
        """A connector with these settings, not yet connected."""
        return BinanceExchange(
            venue,
            credentials,
            symbols,
            retry=RetryPolicy(
                attempts=self.attempts, delay_s=self.retry_delay_s, longest_delay_s=self.longest_delay_s
            ),
            recv_window_ms=self.receive_window_ms,
            timeout_s=self.timeout_s,
            clock_every_s=self.clock_every_s,
            dead_man_s=self.dead_man_s,
        )
