"""Stream subscriptions: who hears what. Names, categories, listen keys, envelopes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Protocol

from live.paper import events
from live.paper.account import Account
from live.paper.fault_specs import StreamFault

LISTEN_KEY_LIFE_S = 3600.0
MAX_STREAMS = 1024
USER_STREAM = "user"

FaultOf = Callable[[str, str, str], StreamFault | None]
"""(stream, event type, API key) -> what goes wrong with the event."""


class TooManyStreamsError(Exception):
    """A connection asked to hear more than 1024 streams."""


class Subscriber(Protocol):
    """A connected socket."""

    def push(self, text: str) -> None:
        """Queue one event, in order."""

    def push_overtaken(self, text: str, wait_s: float) -> None:
        """Queue one event behind the next."""

    def hold_up(self, for_s: float) -> None:
        """Be late from now on."""

    def silence(self, for_s: float) -> None:
        """Send no events for a while; 0 is for good."""

    def drop(self) -> None:
        """Break off."""

    def half_open(self) -> None:
        """Be dead without showing it."""


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
    """All subscriptions. `clock_s` is a monotonic clock in seconds, for the life of listen keys.

    `fault_of` says what goes wrong with an event on its way.
    """

    clock_s: Callable[[], float]
    fault_of: FaultOf | None = None
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

    def send(self, stream: str, event: events.Event | Sequence[events.Event], *, owner: str = "") -> None:
        """Send an event, or a list of them, to everyone who hears `stream`; `owner` is a user stream's API key."""
        listeners = self._streams.get(stream)
        if not listeners:
            return
        raw = json.dumps(event, separators=(",", ":"))
        enveloped = f'{{"stream":"{stream}","data":{raw}}}'
        kind: str = event["e"] if isinstance(event, dict) else event[0]["e"]
        fault = None
        if self.fault_of is not None:
            fault = self.fault_of(USER_STREAM if owner else stream, kind, owner)
        for subscriber, delivery in list(listeners.items()):
            if delivery.events is None or kind in delivery.events:
                text = enveloped if delivery.enveloped else raw
                if fault is None:
                    subscriber.push(text)
                else:
                    _deliver_badly(subscriber, text, fault)

    def send_to_accounts(self, outbox: Iterable[tuple[Account, events.Event]]) -> None:
        """Send user data events to their owners' streams."""
        for account, event in outbox:
            found = self._keys.get(account.api_key)
            if found is not None:
                self.send(found.key, event, owner=account.api_key)

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

    def expire_listen_keys(self, time_ms: int, *, api_keys: str | None = None) -> None:
        """End streams that were not kept alive, with a `listenKeyExpired` event at feed time `time_ms`.

        With `api_keys`, a shell pattern, those of these accounts instead, whatever their age.
        """
        now = self.clock_s()
        for found in list(self._keys.values()):
            api_key = found.account.api_key
            due = found.expires_s <= now if api_keys is None else fnmatchcase(api_key, api_keys)
            if due:
                self.send(found.key, events.listen_key_expired(found.key, time_ms), owner=api_key)
                del self._keys[api_key]


def _deliver_badly(subscriber: Subscriber, text: str, fault: StreamFault) -> None:
    delay_s = fault.delay_ms / 1000
    match fault.kind:
        case "stream_lose":
            pass
        case "stream_duplicate":
            subscriber.push(text)
            subscriber.push(text)
        case "stream_reorder":
            subscriber.push_overtaken(text, delay_s)
        case "stream_delay":
            subscriber.hold_up(delay_s)
            subscriber.push(text)
        case "stream_drop":
            subscriber.drop()
        case "stream_silence":
            subscriber.silence(delay_s)
        case "stream_half_open":
            subscriber.half_open()


def category_of(stream: str) -> str:
    """Which of /public, /market, /private serves a stream name."""
    if "@" not in stream and not stream.startswith("!"):
        return "private"
    kind = stream.partition("@")[2] or stream
    return (
        "public" if kind.startswith(("bookTicker", "depth", "rpiDepth", "trade", "!bookTicker")) else "market"
    )


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
        """Subscribe, silently ignoring streams of another category.

        Raises:
            TooManyStreamsError: the connection hears 1024 already.
        """
        if not stream or (self.category is not None and category_of(stream) != self.category):
            return
        if len(self._names) >= MAX_STREAMS and stream not in self._names:
            raise TooManyStreamsError
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
            try:
                for name in params:
                    self.add(name)
            except TooManyStreamsError:
                return _failure(identity, f"Invalid request: at most {MAX_STREAMS} streams per connection")
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
