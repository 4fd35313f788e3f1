"""Who is asking: API key, timestamp and HMAC-SHA256 signature over the raw bytes."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote_plus

from live.paper.account import Account
from live.paper.errors import ApiError, refusal

DEFAULT_RECV_WINDOW_MS = 5000
MAX_RECV_WINDOW_MS = 60_000
AHEAD_MS = 1000


@dataclass(frozen=True, slots=True)
class TimeRules:
    """Against what a request's timestamp is judged.

    With `real_time` the rule is Binance's, against `now_ms`. A replay's clock is not the client's: there a
    timestamp passes by Binance's rule against the wall clock, or when it lies in the replayed span.
    """

    now_ms: int
    start_ms: int
    wall_ms: int
    wall_elapsed_ms: int
    real_time: bool

    def accepts(self, timestamp_ms: int, recv_window_ms: int) -> bool:
        """Whether a request stamped `timestamp_ms` is still, or already, valid."""
        if self.real_time:
            return _fresh(timestamp_ms, recv_window_ms, self.now_ms)
        if _fresh(timestamp_ms, recv_window_ms, self.wall_ms):
            return True
        latest = max(self.now_ms, self.start_ms + self.wall_elapsed_ms) + AHEAD_MS
        return self.start_ms - recv_window_ms <= timestamp_ms <= latest

    def skewed(self, offset_ms: int, since_ms: int, elapsed_ms: int) -> TimeRules:
        """The rules of a clock that is off by `offset_ms` since feed time `since_ms`, `elapsed_ms` ago.

        A replay forgets the span before, so that only a client that asked for the time since then is in it.
        """
        return TimeRules(
            now_ms=self.now_ms + offset_ms,
            start_ms=since_ms + offset_ms,
            wall_ms=self.wall_ms + offset_ms,
            wall_elapsed_ms=elapsed_ms,
            real_time=self.real_time,
        )


def _fresh(timestamp_ms: int, recv_window_ms: int, now_ms: int) -> bool:
    return timestamp_ms < now_ms + AHEAD_MS and now_ms - timestamp_ms <= recv_window_ms


def sign(secret: bytes, payload: bytes) -> str:
    """Hex HMAC-SHA256, as Binance's clients compute it."""
    return hmac.new(secret, payload, hashlib.sha256).hexdigest()


def find_account(accounts: Mapping[str, Account], api_key: str | None) -> Account:
    """The account of an X-MBX-APIKEY header: -2014 without one, -2015 for an unknown one."""
    if not api_key:
        raise refusal(-2014)
    account = accounts.get(api_key)
    if account is None:
        raise refusal(-2015)
    return account


def check_signature(
    account: Account, query: bytes, body: bytes, params: Mapping[str, str], rules: TimeRules
) -> None:
    """Timestamp and signature of a signed request: -1102, -1131, -1021, -1022.

    The signature covers the raw query and the raw body, concatenated, without the signature itself.
    """
    signature = _check_time(params, rules)
    payload = _without_signature(query) + _without_signature(body)
    if not _matches(account, payload, signature):
        raise refusal(-1022)


def check_params_signature(account: Account, params: Mapping[str, str], rules: TimeRules) -> None:
    """The same for a WS-API request, whose signature covers its parameters, sorted by name.

    Clients write values into the signed text as they are or percent-encoded, and some write booleans as Python
    does; all of that passes.
    """
    signature = _check_time(params, rules)
    signed = sorted((name, value) for name, value in params.items() if name != "signature")
    pythonic = [(name, {"true": "True", "false": "False"}.get(value, value)) for name, value in signed]
    for pairs in (signed, pythonic):
        for encode in (str, quote_plus):
            payload = "&".join(f"{name}={encode(value)}" for name, value in pairs).encode()
            if _matches(account, payload, signature):
                return
    raise refusal(-1022)


def _check_time(params: Mapping[str, str], rules: TimeRules) -> str:
    """Timestamp and receive window: -1102, -1131, -1021. Returns the signature."""
    timestamp = _integer(params, "timestamp")
    if timestamp is None:
        raise refusal(-1102, "timestamp")
    window = _integer(params, "recvWindow")
    window = DEFAULT_RECV_WINDOW_MS if window is None else window
    if window > MAX_RECV_WINDOW_MS:
        raise refusal(-1131)
    signature = params.get("signature")
    if not signature:
        raise refusal(-1102, "signature")
    if not rules.accepts(timestamp, window):
        if timestamp >= rules.now_ms + AHEAD_MS and rules.real_time:
            raise ApiError(-1021, "Timestamp for this request was 1000ms ahead of the server's time.")
        raise refusal(-1021)
    return signature


def _matches(account: Account, payload: bytes, signature: str) -> bool:
    return hmac.compare_digest(sign(account.secret, payload).encode(), signature.lower().encode())


def _without_signature(raw: bytes) -> bytes:
    return b"&".join(part for part in raw.split(b"&") if not part.startswith(b"signature="))


def _integer(params: Mapping[str, str], name: str) -> int | None:
    text = params.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise refusal(-1102, name)
    return int(text)
