"""Faults on demand: which strike when, armed one by one or drawn by a seed. `live.paper.fault_specs` has them all.

A schedule draws from a seed: whether the n-th request with the same key, path and client id fails, the n-th event
of a stream, or the n-th candle, does not depend on what else goes on. Everything is bounded: how often an armed
fault strikes, how many a schedule deals out and how many in a row, how long anything is held up.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any

from envs.errors import ConfigError
from live.paper.fault_specs import (
    ACTION_KINDS,
    REQUEST_KINDS,
    STREAM_KINDS,
    Action,
    FaultSchedule,
    RequestFault,
    StreamFault,
)

MAX_ARMED = 1_000
LOG_LENGTH = 1_000

_ORDER_PATHS = frozenset({"/fapi/v1/order", "/fapi/v1/algoOrder", "/fapi/v1/batchOrders"})
_CLIENT_ID_PARAMETERS = ("newClientOrderId", "origClientOrderId", "clientAlgoId")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as faults see it."""

    method: str
    path: str
    params: Mapping[str, str]
    api_key: str

    @property
    def client_id(self) -> str:
        """The client order id that it names, or nothing."""
        return next((self.params[name] for name in _CLIENT_ID_PARAMETERS if self.params.get(name)), "")

    @property
    def places(self) -> bool:
        """Whether it places or changes orders."""
        return self.method in ("POST", "PUT") and self.path in _ORDER_PATHS

    @property
    def reduces(self) -> bool:
        """Whether it only closes or cancels: exempt from the system's protection against overload."""
        closing = "true" in (self.params.get("reduceOnly"), self.params.get("closePosition"))
        return self.method == "DELETE" or closing

    def can_suffer(self, kind: str) -> bool:
        """Whether a fault of this kind makes sense for the request."""
        if kind.startswith("reject_") or kind == "order_limited":
            return self.places
        if kind == "partial_fill":
            return (self.method, self.path) == ("POST", "/fapi/v1/order")
        if kind == "stale_timestamp":
            return "timestamp" in self.params
        return kind != "throttled_503" or not self.reduces


@dataclass(slots=True)
class _Armed:
    fault: RequestFault | StreamFault
    number: int
    to_skip: int
    left: int

    def strikes(self) -> bool:
        """Count one that matches; whether it is struck."""
        if self.to_skip:
            self.to_skip -= 1
            return False
        self.left -= 1
        return True


@dataclass(slots=True)
class FaultBook:
    """The armed faults, the schedule, and what has struck so far."""

    schedule: FaultSchedule | None = None
    log: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=LOG_LENGTH))
    _armed: list[_Armed] = field(default_factory=list)
    _numbers: int = 0
    _dealt: int = 0
    _seen: Counter[str] = field(default_factory=Counter)
    _row: Counter[str] = field(default_factory=Counter)
    _struck: Counter[str] = field(default_factory=Counter)

    @property
    def idle(self) -> bool:
        """Whether nothing can go wrong."""
        return self.schedule is None and not self._armed

    def arm(self, fault: RequestFault | StreamFault) -> int:
        """Let a fault strike what comes next. Returns its number."""
        if len(self._armed) >= MAX_ARMED:
            raise ConfigError(f"{MAX_ARMED} faults are armed already; clear them with DELETE /paper/faults")
        self._numbers += 1
        self._armed.append(_Armed(fault, self._numbers, fault.skip, fault.count))
        return self._numbers

    def draw_by(self, schedule: FaultSchedule | None) -> None:
        """Take a schedule, from its beginning."""
        self.schedule = schedule
        self._dealt = 0
        self._seen.clear()
        self._row.clear()

    def clear(self) -> None:
        """Disarm everything and end the schedule; the log stays."""
        self._armed.clear()
        self.draw_by(None)

    def as_json(self) -> dict[str, Any]:
        """What is armed, the schedule, how often each kind has struck, and the newest strikes."""
        return {
            "armed": [
                {
                    "number": one.number,
                    "left": one.left,
                    **one.fault.model_dump(mode="json", exclude_unset=True),
                }
                for one in self._armed
            ],
            "schedule": None if self.schedule is None else self.schedule.model_dump(mode="json"),
            "dealt": self._dealt,
            "struck": dict(sorted(self._struck.items())),
            "log": list(self.log),
        }

    def note(self, kind: str, what: str) -> None:
        """Count a strike, and keep it in the log."""
        self._struck[kind] += 1
        self.log.append({"kind": kind, "what": what})

    def for_request(self, asked: Asked) -> RequestFault | None:
        """What goes wrong with a request, if anything. Counts it."""
        if self.idle:
            return None
        what = f"{asked.method} {asked.path} {asked.client_id}".rstrip()
        for one in self._armed:
            fault = one.fault
            if (
                isinstance(fault, RequestFault)
                and asked.can_suffer(fault.kind)
                and fnmatchcase(asked.method, fault.method)
                and fnmatchcase(asked.path, fault.path)
                and fnmatchcase(asked.client_id, fault.client_id)
                and fnmatchcase(asked.api_key, fault.api_key)
                and self._strike(one, what)
            ):
                return fault
        schedule = self.schedule
        if schedule is None or not fnmatchcase(asked.path, schedule.paths):
            return None
        drawn = self._draw(schedule, f"request {asked.api_key} {what}", REQUEST_KINDS, asked)
        if drawn is None:
            return None
        kind, rng = drawn
        self.note(kind, what)
        values = {
            "kind": kind,
            "delay_ms": rng.randint(0, schedule.delay_ms),
            "executed": rng.random() < 0.5,
            "retry_after_s": schedule.retry_after_s,
            "share": Decimal(rng.randint(1, 9)) / 10,
            "pieces": rng.randint(1, 3),
        }
        return RequestFault.model_validate(values)

    def for_event(self, stream: str, event: str, api_key: str = "") -> StreamFault | None:
        """What goes wrong with an event, if anything. Counts it."""
        if self.idle:
            return None
        what = f"{stream} {event}"
        for one in self._armed:
            fault = one.fault
            if (
                isinstance(fault, StreamFault)
                and fnmatchcase(stream, fault.stream)
                and fnmatchcase(event, fault.event)
                and fnmatchcase(api_key, fault.api_key)
                and self._strike(one, what)
            ):
                return fault
        schedule = self.schedule
        if schedule is None:
            return None
        drawn = self._draw(schedule, f"event {api_key} {stream}", STREAM_KINDS, None)
        if drawn is None:
            return None
        kind, rng = drawn
        self.note(kind, what)
        delay_ms = rng.randint(1, max(1, schedule.delay_ms))
        return StreamFault.model_validate({"kind": kind, "delay_ms": delay_ms})

    def for_candle(self) -> Action | None:
        """What is done to the exchange at this candle, by the schedule."""
        schedule = self.schedule
        if schedule is None:
            return None
        drawn = self._draw(schedule, "candle", ACTION_KINDS, None)
        if drawn is None:
            return None
        kind, rng = drawn
        self.note(kind, "candle")
        return Action.model_validate({"kind": kind, "delay_ms": rng.randint(1, max(1, schedule.delay_ms))})

    def _strike(self, one: _Armed, what: str) -> bool:
        struck = one.strikes()
        if one.left <= 0:
            self._armed.remove(one)
        if struck:
            self.note(one.fault.kind, what)
        return struck

    def _draw(
        self, schedule: FaultSchedule, key: str, kinds: tuple[str, ...], asked: Asked | None
    ) -> tuple[str, random.Random] | None:
        self._seen[key] += 1
        if self._dealt >= schedule.limit:
            return None
        rng = random.Random(f"{schedule.seed}|{key}|{self._seen[key]}")
        point = rng.random()
        for kind in kinds:
            point -= schedule.probability.get(kind, 0.0)
            if point < 0:
                break
        else:
            self._row[key] = 0
            return None
        if self._row[key] >= schedule.in_a_row or (asked is not None and not asked.can_suffer(kind)):
            self._row[key] = 0
            return None
        self._row[key] += 1
        self._dealt += 1
        return kind, rng
