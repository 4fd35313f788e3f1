"""Counters behind the rate-limit headers: request weight per minute, orders per 10 s and per minute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Window:
    """A counter that starts again every `length_s` seconds of wall time."""

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


@dataclass(slots=True)
class OrderCounts:
    """Orders of one account."""

    ten_seconds: Window = field(default_factory=lambda: Window(10.0))
    minute: Window = field(default_factory=lambda: Window(60.0))


@dataclass(slots=True)
class Limits:
    """All counters of one exchange. Nothing is refused for them yet; they only show in the headers."""

    now_s: Callable[[], float]
    weight: Window = field(default_factory=lambda: Window(60.0))
    orders: dict[str, OrderCounts] = field(default_factory=dict)

    def headers(self, weight: int, orders: int, api_key: str | None) -> list[tuple[bytes, bytes]]:
        """Count one request and return the headers that tell of it."""
        now = self.now_s()
        used = self.weight.add(weight, now)
        headers = [(b"x-mbx-used-weight-1m", b"%d" % used)]
        if orders and api_key is not None:
            counts = self.orders.setdefault(api_key, OrderCounts())
            headers.append((b"x-mbx-order-count-10s", b"%d" % counts.ten_seconds.add(orders, now)))
            headers.append((b"x-mbx-order-count-1m", b"%d" % counts.minute.add(1, now)))
        return headers
