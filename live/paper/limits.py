"""Rate limits: request weight per minute and address, orders per 10 s and minute and account; 429, then 418.

An address that goes on after 429 is banned for two minutes, then four, doubling up to three days. The weights are
those of Binance's documentation; each route carries its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from envs.config import StrictModel
from live.paper.calls import Params, Pool, Route
from live.paper.errors import ApiError

MINUTE_S = 60.0
TEN_SECONDS_S = 10.0
FIVE_MINUTES_S = 300.0

Headers = list[tuple[bytes, bytes]]

_TOO_MANY = (
    "Too many requests; current limit of IP({ip}) is {limit} requests per {span}. "
    "Please use the websocket for live updates to avoid polling the API."
)
_BANNED = (
    "Way too many requests; IP({ip}) banned until {until}. "
    "Please use the websocket for live updates to avoid bans."
)
_TOO_MANY_ORDERS = "Too many new orders; current limit is {limit} orders per {span}."


class LimitSettings(StrictModel):
    """How much is allowed. The defaults are Binance's.

    Attributes:
        enforced: False only counts, for the headers.
        weight_per_minute: request weight of one address.
        orders_per_10s, orders_per_minute: orders of one account.
        funding_per_5min, data_per_5min: requests of one address for funding rates, and for `/futures/data`, which
            have pools of their own.
        patience: refusals with 429 after which an address is banned.
        first_ban_s, longest_ban_s: length of the first ban; each further one is twice as long, up to the longest.
    """

    enforced: bool = True
    weight_per_minute: int = Field(2400, ge=1)
    orders_per_10s: int = Field(300, ge=1)
    orders_per_minute: int = Field(1200, ge=1)
    funding_per_5min: int = Field(500, ge=1)
    data_per_5min: int = Field(1000, ge=1)
    patience: int = Field(50, ge=1)
    first_ban_s: float = Field(120.0, gt=0)
    longest_ban_s: float = Field(3 * 86_400.0, gt=0)


class LimitError(ApiError):
    """A request refused for its rate: 429 or 418, with the seconds to wait."""

    def __init__(self, code: int, msg: str, http_status: int, retry_after_s: float) -> None:
        super().__init__(code, msg, http_status)
        self.retry_after_s = max(1, math.ceil(retry_after_s))


@dataclass(slots=True)
class Window:
    """A counter that starts again every `length_s` seconds."""

    length_s: float
    number: int = -1
    count: int = 0

    def add(self, amount: int, now_s: float) -> int:
        """Count `amount` and return the total of the present window."""
        number = int(now_s // self.length_s)
        if number != self.number:
            self.number, self.count = number, 0
        self.count += amount
        return self.count

    def left_s(self, now_s: float) -> float:
        """Seconds until the present window ends."""
        return self.length_s - now_s % self.length_s


@dataclass(slots=True)
class OrderCounts:
    """Orders of one account."""

    ten_seconds: Window = field(default_factory=lambda: Window(TEN_SECONDS_S))
    minute: Window = field(default_factory=lambda: Window(MINUTE_S))


@dataclass(slots=True)
class Address:
    """One client address: what it used, and how often it was refused and banned."""

    weight: Window = field(default_factory=lambda: Window(MINUTE_S))
    funding: Window = field(default_factory=lambda: Window(FIVE_MINUTES_S))
    data: Window = field(default_factory=lambda: Window(FIVE_MINUTES_S))
    refusals: int = 0
    last_refusal_s: float = 0.0
    bans: int = 0
    banned_until_s: float = 0.0


class MarketClock:
    """Seconds by which limits are counted: the wall clock's, or in lock-step the market's.

    A client that steps fast must not look like a busy one, so there a step of an hour is an hour. While the
    market stands, time goes on with the wall clock, so that waiting helps, however long it stood before.
    """

    def __init__(self, feed_ms: Callable[[], int], monotonic_s: Callable[[], float]) -> None:
        self._feed_ms = feed_ms
        self._monotonic_s = monotonic_s
        self._seen_ms = feed_ms()
        self._seen_s = monotonic_s()
        self._now_s = self._seen_ms / 1000

    def __call__(self) -> float:
        """Seconds, never going back."""
        feed_ms, wall_s = self._feed_ms(), self._monotonic_s()
        self._now_s += max((feed_ms - self._seen_ms) / 1000, wall_s - self._seen_s, 0.0)
        self._seen_ms, self._seen_s = feed_ms, wall_s
        return self._now_s


class Limits:
    """All counters of one exchange. `now_s` is the clock they run by, `now_ms` the exchange's own time."""

    def __init__(
        self, settings: LimitSettings, *, now_s: Callable[[], float], now_ms: Callable[[], int]
    ) -> None:
        self.settings = settings
        self._now_s = now_s
        self._now_ms = now_ms
        self._addresses: dict[str, Address] = {}
        self._orders: dict[str, OrderCounts] = {}

    def admit(self, ip: str, route: Route, params: Params) -> Headers:
        """Count a request against its address and return the headers that tell of it.

        Raises:
            LimitError: 418 while the address is banned, 429 over the limit.
        """
        now_s = self._now_s()
        address = self._addresses.setdefault(ip, Address())
        if self.settings.enforced and now_s < address.banned_until_s:
            raise self._banned(ip, address, now_s)
        if route.pool is not Pool.WEIGHT:
            funding = route.pool is Pool.FUNDING
            pool = address.funding if funding else address.data
            most = self.settings.funding_per_5min if funding else self.settings.data_per_5min
            if pool.add(1, now_s) > most:
                text = _TOO_MANY.format(ip=ip, limit=most, span="5 minutes")
                self._refuse(ip, address, now_s, -1003, text, pool.left_s(now_s))
            return []
        used = address.weight.add(route.weight_of(params), now_s)
        if used > self.settings.weight_per_minute:
            limit = _TOO_MANY.format(ip=ip, limit=self.settings.weight_per_minute, span="minute")
            self._refuse(ip, address, now_s, -1003, limit, address.weight.left_s(now_s))
        return [(b"x-mbx-used-weight-1m", b"%d" % used)]

    def admit_orders(self, ip: str, route: Route, api_key: str) -> Headers:
        """Count a request's orders against its account and return the headers that tell of them.

        Raises:
            LimitError: 429 over the limit.
        """
        if not route.orders:
            return []
        now_s = self._now_s()
        counts = self._orders.setdefault(api_key, OrderCounts())
        short, long = counts.ten_seconds.add(route.orders, now_s), counts.minute.add(1, now_s)
        address = self._addresses.setdefault(ip, Address())
        for used, limit, span, window in (
            (short, self.settings.orders_per_10s, "TEN_SECONDS", counts.ten_seconds),
            (long, self.settings.orders_per_minute, "MINUTE", counts.minute),
        ):
            if used > limit:
                text = _TOO_MANY_ORDERS.format(limit=limit, span=span)
                self._refuse(ip, address, now_s, -1015, text, window.left_s(now_s))
        return [(b"x-mbx-order-count-10s", b"%d" % short), (b"x-mbx-order-count-1m", b"%d" % long)]

    def ban(self, ip: str, seconds: float) -> LimitError:
        """Ban an address, as if it had ignored 429; returns the reply to the request at hand."""
        now_s = self._now_s()
        address = self._addresses.setdefault(ip, Address())
        address.banned_until_s = max(address.banned_until_s, now_s + seconds)
        return self._banned(ip, address, now_s)

    def forgive(self) -> None:
        """Lift every ban and forget all counts."""
        self._addresses.clear()
        self._orders.clear()

    def usage(self, ip: str, route: Route, api_key: str | None) -> list[dict[str, Any]]:
        """The `rateLimits` of a WS-API reply: what is used of each limit that the request counts against."""
        address = self._addresses.get(ip, Address())
        rows = [_limit("REQUEST_WEIGHT", "MINUTE", 1, self.settings.weight_per_minute, address.weight.count)]
        if route.orders and api_key is not None:
            counts = self._orders.get(api_key, OrderCounts())
            rows = [
                _limit("ORDERS", "SECOND", 10, self.settings.orders_per_10s, counts.ten_seconds.count),
                _limit("ORDERS", "MINUTE", 1, self.settings.orders_per_minute, counts.minute.count),
            ]
        return rows

    def _refuse(
        self, ip: str, address: Address, now_s: float, code: int, text: str, retry_after_s: float
    ) -> None:
        settings = self.settings
        if not settings.enforced:
            return
        # Whoever kept quiet for a while starts with full patience again.
        if now_s - address.last_refusal_s > FIVE_MINUTES_S:
            address.refusals = 0
        address.last_refusal_s = now_s
        address.refusals += 1
        if address.refusals > settings.patience:
            length_s = min(settings.first_ban_s * 2.0 ** min(address.bans, 30), settings.longest_ban_s)
            address.bans += 1
            address.refusals = 0
            address.banned_until_s = now_s + length_s
            raise self._banned(ip, address, now_s)
        raise LimitError(code, text, 429, retry_after_s)

    def _banned(self, ip: str, address: Address, now_s: float) -> LimitError:
        left_s = address.banned_until_s - now_s
        until_ms = self._now_ms() + int(left_s * 1000)
        return LimitError(-1003, _BANNED.format(ip=ip, until=until_ms), 418, left_s)


def declared(settings: LimitSettings) -> list[dict[str, Any]]:
    """The `rateLimits` of exchangeInfo."""
    return [
        _limit("REQUEST_WEIGHT", "MINUTE", 1, settings.weight_per_minute),
        *declared_orders(settings),
    ]


def declared_orders(settings: LimitSettings) -> list[dict[str, Any]]:
    """The limits on orders, as `rateLimit/order` lists them."""
    return [
        _limit("ORDERS", "MINUTE", 1, settings.orders_per_minute),
        _limit("ORDERS", "SECOND", 10, settings.orders_per_10s),
    ]


def _limit(kind: str, interval: str, number: int, limit: int, count: int | None = None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "rateLimitType": kind,
        "interval": interval,
        "intervalNum": number,
        "limit": limit,
    }
    return row if count is None else {**row, "count": count}
