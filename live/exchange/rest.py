"""Requests to Binance USD-M futures over python-binance, with every failure turned into one of our exceptions.

`BinanceRest` sends through `FuturesClient` (live/exchange/wire_client.py), keeps the clock and the request limit, and
repeats reads. Nothing here repeats an order; `live/exchange/orders.py` does.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp

from envs.errors import (
    AuthenticationError,
    ClockSkewError,
    CredentialsError,
    ExchangeError,
    ExchangeUnavailableError,
    OrderRejectedError,
    OutcomeUnknownError,
    RateLimitedError,
)
from live.exchange.base import RetryPolicy
from live.exchange.budget import RequestBudget, Urgency, present_urgency
from live.exchange.buffer import end_task
from live.exchange.clock import ExchangeClock
from live.exchange.error_codes import TOO_MANY_ORDERS, Outcome, rule_for
from live.exchange.parse import reading
from live.exchange.weights import cost_of
from live.exchange.wire_client import FuturesClient, RehearsalClient, WireError
from live.settings import MASK, Credentials, Venue

_LOG = logging.getLogger(__name__)

DEFAULT_RECV_WINDOW_MS = 5000
DEFAULT_TIMEOUT_S = 10.0
DEFAULT_CLOCK_EVERY_S = 900.0
_BAN_UNTIL = re.compile(r"until (\d{13})")


class BinanceRest:
    """Requests to one venue with one key. `open` before the first, `close` after the last.

    Args:
        venue, credentials: where, and as whom; without a key only market data can be asked for.
        policy: how failed requests are repeated.
        recv_window_ms, timeout_s: of each request.
        budget: the exchange's limits; connectors of one address and account may share it. None makes one.
        clock_every_s: how often the clock is measured again.
        rng: of the jitter of pauses.
        sleep: how pauses are made.
    """

    def __init__(
        self,
        venue: Venue,
        credentials: Credentials | None,
        *,
        policy: RetryPolicy,
        recv_window_ms: int = DEFAULT_RECV_WINDOW_MS,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        budget: RequestBudget | None = None,
        clock_every_s: float = DEFAULT_CLOCK_EVERY_S,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.venue = venue
        self.policy = policy
        self.rng = rng or random.Random()
        self.sleep = sleep
        self.recv_window_ms = recv_window_ms
        self.clock = ExchangeClock(simulated=venue.market_data == "simulated")
        self.budget = budget or RequestBudget(wall_s=self._exchange_s, sleep=sleep)
        self.has_key = credentials is not None
        self._credentials = credentials
        self._timeout_s = timeout_s
        self._client: FuturesClient | None = None
        self._rehearsal: RehearsalClient | None = None
        self._clock_every_s = clock_every_s
        self._clock_keeper: asyncio.Task[None] | None = None
        self._measuring = asyncio.Lock()
        self._measured_at_s = -1.0

    async def open(self) -> None:
        """Make the HTTP client and measure the clock."""
        self._client = FuturesClient(
            self.venue,
            self._credentials,
            self.budget,
            recv_window_ms=self.recv_window_ms,
            timeout_s=self._timeout_s,
        )
        try:
            await self.sync_clock()
        except BaseException:
            await self.close()
            raise
        self._clock_keeper = asyncio.get_running_loop().create_task(self._keep_clock(), name="clock")

    async def close(self) -> None:
        """Close the HTTP client; it may be opened again."""
        keeper, self._clock_keeper = self._clock_keeper, None
        if keeper is not None:
            await end_task(keeper)
        clients = self._client, self._rehearsal
        self._client = self._rehearsal = None
        for client in clients:
            if client is not None:
                await client.shut()

    def _exchange_s(self) -> float:
        """Seconds by the exchange's clock; a simulated one counts requests by a time of its own."""
        return time.time() + (0.0 if self.clock.simulated else self.clock.offset_ms / 1000)

    async def sync_clock(self) -> None:
        """Measure the clock's offset; signed requests use it from then on. Several at once share a measurement."""
        asked_at_s = time.monotonic()
        async with self._measuring:
            if self._measured_at_s >= asked_at_s:
                return
            await self.clock.measure(self.server_time_ms)
            self._measured_at_s = time.monotonic()
            if self._client is not None:
                self._client.timestamp_offset = self.clock.offset_ms

    async def _keep_clock(self) -> None:
        """Clocks drift: measure now and then, before requests are refused for it."""
        while True:
            await asyncio.sleep(self._clock_every_s)
            before_ms = self.clock.offset_ms
            try:
                await self.sync_clock()
            except ExchangeError as error:
                _LOG.warning("the exchange's clock could not be measured again: %s", error)
            else:
                _LOG.info("clock offset %.0f ms, was %.0f ms", self.clock.offset_ms, before_ms)

    async def server_time_ms(self) -> int:
        """The exchange's clock, UTC ms."""
        reply = await self.read("futures_time")
        with reading("its time"):
            server_ms = int(reply["serverTime"])
        self.clock.observe(server_ms)
        return server_ms

    async def fresh_now_ms(self) -> int:
        """The exchange's clock, asked for where it cannot be known without."""
        return await self.server_time_ms() if self.clock.simulated else self.clock.now_ms()

    async def read(self, method: str, *, bulk: bool = False, **params: Any) -> Any:
        """A request that changes nothing, or that may be repeated: tried again while it fails for a passing reason.

        Args:
            method: name of python-binance's method.
            bulk: let others go first when the request limit is nearly used up.
            params: its parameters; None is left out.

        Raises:
            ExchangeError: and its children, see `send`.
        """
        resynced = False
        attempt = 1
        while True:
            try:
                return await self.send(method, bulk=bulk, **params)
            except ClockSkewError:
                if resynced:
                    raise
                resynced = True
                await self.sync_clock()
            except (ExchangeUnavailableError, OutcomeUnknownError) as error:
                if attempt >= self.policy.attempts:
                    if isinstance(error, ExchangeUnavailableError):
                        raise
                    raise ExchangeUnavailableError(
                        str(error), code=error.code, http_status=error.http_status
                    ) from error
                _LOG.warning("attempt %d of %d: %s", attempt, self.policy.attempts, error)
                await self.sleep(self.policy.pause_s(attempt, self.rng))
                attempt += 1
            except RateLimitedError as error:
                if attempt >= self.policy.attempts or error.retry_after_s > self.patience_s():
                    raise
                _LOG.warning("%s", error)
                attempt += 1
                await self.sleep(error.retry_after_s)

    def patience_s(self) -> float:
        """The longest pause that the exchange may ask of a request made here and now."""
        policy = self.policy
        return policy.max_wait_risk_s if present_urgency() is Urgency.RISK else policy.max_wait_s

    async def send(self, method: str, *, bulk: bool = False, **params: Any) -> Any:
        """One request, once, as soon as the exchange's limits have room for it.

        Raises:
            OrderRejectedError: refused; the request had no effect.
            ExchangeUnavailableError: it failed and is known to have had no effect.
            OutcomeUnknownError: no telling whether it had an effect.
            ClockSkewError, RateLimitedError, AuthenticationError: refused for that reason, no effect.
            ExchangeError: what was asked about does not exist, or is so already; see its code.
        """
        client = self._client
        if client is None:
            raise ExchangeError("not connected to the exchange; call connect() first")
        return await self._send(client, method, bulk, params)

    async def _send(self, client: FuturesClient, method: str, bulk: bool, params: Mapping[str, Any]) -> Any:
        cost = cost_of(method, params)
        urgency = Urgency.BULK if bulk else present_urgency()
        await client.budget.admit(cost, urgency, self.patience_s())
        call = method.removeprefix("futures_")
        answered = False
        try:
            reply = await getattr(client, method)(**params)
            answered = True
            return reply
        except WireError as error:
            answered = True
            # Without its cause, whose text may not be masked; the message has all of it.
            raise self._translate(call, error) from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            # aiohttp's text about a timeout has the whole URL in it.
            why = "it took too long" if isinstance(error, TimeoutError) else _first_line(error)
            raise ExchangeUnavailableError(
                f"{call}: cannot connect to {self.venue.rest_url} ({why}); nothing was sent. "
                f"Check the network and the URL."
            ) from error
        except TimeoutError as error:
            raise OutcomeUnknownError(
                f"{call}: no reply from {self.venue.rest_url} within {self._timeout_s:g} s"
            ) from error
        except aiohttp.ClientError as error:
            raise OutcomeUnknownError(
                f"{call}: the connection to {self.venue.rest_url} broke before the reply "
                f"({type(error).__name__})"
            ) from error
        finally:
            client.budget.settle(cost, answered=answered)

    async def warm_up(self, connections: int) -> None:
        """Open so many connections by asking for the time, unless the exchange's limits are in use for other things."""
        weight = self.budget.weight
        if self.budget.used_weight + connections > weight.limit / 2:
            return
        asked = (self.send("futures_time") for _ in range(connections))
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(answer, ExchangeError):
                _LOG.info("no connection to have ready: %s", answer)
            elif isinstance(answer, BaseException):
                raise answer

    async def rehearse(self, params: Mapping[str, Any]) -> None:
        """Go through the request of an order, with a client that cannot reach the exchange."""
        if self._client is None:
            return
        if self._rehearsal is None:
            self._rehearsal = RehearsalClient(
                self.venue, recv_window_ms=self.recv_window_ms, timeout_s=self._timeout_s
            )
        await self._send(self._rehearsal, "futures_create_order", False, params)

    def require_key(self, what: str) -> None:
        """Raise a CredentialsError when there is no API key."""
        if not self.has_key:
            raise CredentialsError(f"{what} needs an API key of {self.venue.name}; give credentials")

    def _translate(self, call: str, error: WireError) -> ExchangeError:
        rule = rule_for(error.code, error.http_status, error.text)
        text = self._masked(error.text)
        about = f"{call}: {text} (code {error.code}, HTTP {error.http_status})"
        about = f"{about.rstrip('.')}. {rule.remedy}"
        details: dict[str, Any] = {"code": error.code, "http_status": error.http_status}
        match rule.outcome:
            case Outcome.REFUSED:
                return OrderRejectedError(about, **details)
            case Outcome.FAILED:
                return ExchangeUnavailableError(about, **details)
            case Outcome.UNKNOWN:
                return OutcomeUnknownError(about, **details)
            case Outcome.CLOCK:
                return ClockSkewError(about, **details)
            case Outcome.FORBIDDEN:
                return AuthenticationError(about, **details)
            case Outcome.LIMITED:
                retry_after_s = self._retry_after_s(error)
                if error.http_status == 418:
                    self.budget.ban(retry_after_s)
                else:
                    self.budget.hold(retry_after_s, orders_only=error.code == TOO_MANY_ORDERS)
                return RateLimitedError(
                    f"{about} Wait {retry_after_s:.0f} s.", retry_after_s=retry_after_s, **details
                )
            case Outcome.NOT_FOUND | Outcome.ALREADY:
                return ExchangeError(about, **details)

    def _retry_after_s(self, error: WireError) -> float:
        stated = error.headers.get("Retry-After", "")
        if stated.isdigit():
            return float(stated)
        until = _BAN_UNTIL.search(error.text)
        if until:
            return max(0.0, (int(until[1]) - self.clock.now_ms()) / 1000)
        if error.http_status == 418:
            return 120.0
        return 60.0 - time.time() % 60

    def _masked(self, text: str) -> str:
        """The exchange's text without the key or the secret, should it repeat them."""
        if self._credentials is None:
            return text
        for secret in (self._credentials.api_key, self._credentials.api_secret):
            if len(secret.reveal()) >= 8:
                text = text.replace(secret.reveal(), MASK)
        return text


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
