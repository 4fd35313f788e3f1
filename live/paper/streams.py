"""Stream subscriptions: who hears what. Names, categories, listen keys, envelopes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from live.paper import events
from live.paper.account import Account

LISTEN_KEY_LIFE_S = 3600.0


class Subscriber(Protocol):
    """A connected socket."""

    def push(self, text: str) -> None:
        """Queue one message, in order."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How one socket gets one stream: raw or enveloped, all events or only some."""

    enveloped: bool
    events: frozenset[str] | None = None


@dataclass(slots=True)
class ListenKey:
    """A user data stream. `expires_s` is on the clock that the hub was given."""

    key: str
    account: Account
    expires_s: float


@dataclass(slots=True)
class Hub:
    """All subscriptions. `clock_s` is a monotonic clock in seconds, for the life of listen keys."""

    clock_s: Callable[[], float]
    _streams: dict[str, dict[Subscriber, Delivery]] = field(default_factory=dict)
    _keys: dict[str, ListenKey] = field(default_factory=dict)

    # --- subscriptions --------------------------------------------------------------------------------

    def subscribe(self, subscriber: Subscriber, stream: str, delivery: Delivery) -> None:
        """Let a socket hear a stream. Unknown names are accepted and stay silent, as on Binance."""
        self._streams.setdefault(stream, {})[subscriber] = delivery

    def unsubscribe(self, subscriber: Subscriber, stream: str) -> None:
        """Take one stream away from a socket."""
        listeners = self._streams.get(stream)
        if listeners is not None:
            listeners.pop(subscriber, None)
            if not listeners:
                del self._streams[stream]

    def drop(self, subscriber: Subscriber) -> None:
        """Forget a socket that has gone."""
        for stream in [name for name, listeners in self._streams.items() if subscriber in listeners]:
            self.unsubscribe(subscriber, stream)

    def names(self) -> list[str]:
        """Streams that somebody hears."""
        return list(self._streams)

    def wants(self, stream: str) -> bool:
        """Whether somebody hears a stream."""
        return stream in self._streams

    # --- sending --------------------------------------------------------------------------------------

    def send(self, stream: str, event: events.Event) -> None:
        """Send an event to everyone who hears `stream`."""
        listeners = self._streams.get(stream)
        if not listeners:
            return
        raw = json.dumps(event, separators=(",", ":"))
        enveloped = f'{{"stream":"{stream}","data":{raw}}}'
        kind = event["e"]
        for subscriber, delivery in list(listeners.items()):
            if delivery.events is None or kind in delivery.events:
                subscriber.push(enveloped if delivery.enveloped else raw)

    def send_to_accounts(self, outbox: Iterable[tuple[Account, events.Event]]) -> None:
        """Send user data events to their owners' streams."""
        for account, event in outbox:
            found = self._keys.get(account.api_key)
            if found is not None:
                self.send(found.key, event)

    # --- listen keys ----------------------------------------------------------------------------------

    def open_listen_key(self, account: Account) -> str:
        """The account's listen key, made or prolonged."""
        found = self._keys.get(account.api_key)
        if found is None:
            found = ListenKey(secrets.token_hex(32), account, 0.0)
            self._keys[account.api_key] = found
        found.expires_s = self.clock_s() + LISTEN_KEY_LIFE_S
        return found.key

    def keep_listen_key(self, account: Account) -> str | None:
        """Prolong the account's listen key; None when it has none."""
        return self.open_listen_key(account) if account.api_key in self._keys else None

    def close_listen_key(self, account: Account) -> None:
        """End the account's user data stream."""
        self._keys.pop(account.api_key, None)

    def expire_listen_keys(self, time_ms: int) -> None:
        """End streams that were not kept alive, with a `listenKeyExpired` event at feed time `time_ms`."""
        now = self.clock_s()
        for found in [key for key in self._keys.values() if key.expires_s <= now]:
            self.send(found.key, events.listen_key_expired(found.key, time_ms))
            del self._keys[found.account.api_key]


def category_of(stream: str) -> str:
    """Which of /public, /market, /private serves a stream name."""
    if "@" not in stream and not stream.startswith("!"):
        return "private"
    kind = stream.partition("@")[2] or stream
    return "public" if kind.startswith(("bookTicker", "depth", "rpiDepth", "!bookTicker")) else "market"


@dataclass(slots=True)
class StreamSession:
    """One socket's view of the hub: which category it may hear, and how it talks.

    `category` None serves everything (the old un-routed paths).
    """

    hub: Hub
    subscriber: Subscriber
    category: str | None
    enveloped: bool
    _names: dict[str, None] = field(default_factory=dict)

    def add(self, stream: str, only: frozenset[str] | None = None) -> None:
        """Subscribe, silently ignoring streams of another category."""
        if not stream or (self.category is not None and category_of(stream) != self.category):
            return
        self._names[stream] = None
        self.hub.subscribe(self.subscriber, stream, Delivery(self.enveloped, only))

    def remove(self, stream: str) -> None:
        """Unsubscribe."""
        self._names.pop(stream, None)
        self.hub.unsubscribe(self.subscriber, stream)

    def handle(self, text: str) -> str:
        """Answer one control message (SUBSCRIBE, UNSUBSCRIBE, LIST_SUBSCRIPTIONS)."""
        try:
            message: Any = json.loads(text)
        except json.JSONDecodeError as problem:
            return json.dumps({"error": {"code": 3, "msg": f"Invalid JSON: {problem}"}})
        if not isinstance(message, dict):
            return json.dumps({"error": {"code": 3, "msg": "Invalid request: an object is expected"}})
        identity = message.get("id")
        method = message.get("method")
        params = message.get("params") or []
        if not isinstance(params, list) or not all(isinstance(name, str) for name in params):
            return _failure(identity, "Invalid request: params must be a list of strings")
        if method == "SUBSCRIBE":
            for name in params:
                self.add(name)
            result: Any = None
        elif method == "UNSUBSCRIBE":
            for name in params:
                self.remove(name)
            result = None
        elif method == "LIST_SUBSCRIPTIONS":
            result = list(self._names)
        else:
            return _failure(identity, f"Invalid request: unknown method {method!r}")
        return json.dumps({"result": result, "id": identity})


def _failure(identity: Any, text: str) -> str:
    return json.dumps({"error": {"code": 2, "msg": text}, "id": identity})
