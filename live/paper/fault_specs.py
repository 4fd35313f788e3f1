"""What can go wrong, and how it is described. Three moments:

- a request (`RequestFault`): its reply is lost before or after the exchange acted, is late, or is an error;
- an event on a stream (`StreamFault`): it is lost, doubled, late, or its socket breaks;
- now (`Action`): sockets break, the exchange restarts, the clock is off, somebody else trades on the account.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from envs.config import StrictModel
from envs.errors import ConfigError

RequestKind = Literal[
    "lost_before",
    "lost_after",
    "delay_before",
    "delay_after",
    "unknown_503",
    "unavailable_503",
    "internal_503",
    "throttled_503",
    "bus_error",
    "backend_timeout",
    "stale_timestamp",
    "rate_limited",
    "order_limited",
    "banned",
    "html_502",
    "html_403",
    "error_200",
    "reject_filter",
    "reject_margin",
    "reject_reduce_only",
    "refuse",
    "partial_fill",
]
StreamKind = Literal[
    "stream_lose",
    "stream_duplicate",
    "stream_reorder",
    "stream_delay",
    "stream_drop",
    "stream_silence",
    "stream_half_open",
]
ActionKind = Literal[
    "drop_sockets",
    "close_sockets",
    "silence_sockets",
    "half_open_sockets",
    "shutdown_sockets",
    "expire_listen_keys",
    "restart",
    "clock_skew",
    "manual_trade",
    "liquidate",
    "deleverage",
    "transfer",
]
REQUEST_KINDS: tuple[str, ...] = get_args(RequestKind)
STREAM_KINDS: tuple[str, ...] = get_args(StreamKind)
ACTION_KINDS: tuple[str, ...] = get_args(ActionKind)

# A schedule must not make what only a person can ask for sensibly.
_NOT_DRAWN = frozenset({"refuse", "clock_skew", "manual_trade", "liquidate", "deleverage", "transfer"})
DelayMs = Annotated[int, Field(ge=0, le=600_000)]
Count = Annotated[int, Field(ge=1, le=10_000)]


class RequestFault(StrictModel):
    """What goes wrong with a request, over REST or the WS-API.

    Attributes:
        kind: see `docs/paper-exchange.md` for all.
        method, path, client_id, api_key: which requests, as shell patterns; a WS-API request counts as the REST
            request that does the same.
        skip: how many of them are spared first.
        count: how many of them it strikes.
        delay_ms: how long `lost_*` stay silent before the connection is cut, and `delay_*` hold up.
        executed: for the kinds whose outcome a client cannot know, whether the exchange acted.
        retry_after_s: for `rate_limited`, `order_limited` and `banned`; a ban lasts so long.
        code, message, http_status: the refusal of `refuse`.
        share, pieces: `partial_fill` fills this share of what would fill, in so many trades.
    """

    kind: RequestKind
    method: str = "*"
    path: str = "*"
    client_id: str = "*"
    api_key: str = "*"
    skip: int = Field(0, ge=0)
    count: Count = 1
    delay_ms: DelayMs = 0
    executed: bool = True
    retry_after_s: int = Field(1, ge=1, le=259_200)
    code: int = -1000
    message: str = "An unknown error occurred while processing the request."
    http_status: int = Field(400, ge=200, le=599)
    share: Decimal = Field(Decimal("0.5"), gt=0, le=1)
    pieces: int = Field(1, ge=1, le=20)


class StreamFault(StrictModel):
    """What goes wrong with an event on its way to those who hear a stream.

    Attributes:
        stream: the stream's name as a shell pattern; user data streams are called `user`.
        event: the event type, as ORDER_TRADE_UPDATE or kline, as a shell pattern.
        api_key: whose user data stream.
        skip, count: as of a request fault.
        delay_ms: how long `stream_delay` holds up the socket, `stream_silence` lasts (0: for good), and
            `stream_reorder` waits for the next event to overtake (0: half a second).
    """

    kind: StreamKind
    stream: str = "*"
    event: str = "*"
    api_key: str = "*"
    skip: int = Field(0, ge=0)
    count: Count = 1
    delay_ms: DelayMs = 0


class Action(StrictModel):
    """Something that is done at once.

    Attributes:
        category: which sockets: `public`, `market`, `private`, `ws-api`, `any` for the un-routed ones; `*` all.
        delay_ms: of `shutdown_sockets` how long before the sockets close, of `silence_sockets` how long (0: for
            good), of `restart` how long connections are refused.
        offset_ms: by how much the exchange's clock is off, for `clock_skew`; 0 puts it right.
        api_key: the account, for `expire_listen_keys` a pattern.
        symbol, side, quantity, price: the order of `manual_trade`; without a price at market. `deleverage` closes so
            much of a position, 0 for all of it, at the price, by default the mark price.
        amount_usdt: of a `transfer`: deposited, or withdrawn when below zero.
    """

    kind: ActionKind
    category: str = "*"
    delay_ms: DelayMs = 0
    offset_ms: int = Field(0, ge=-86_400_000, le=86_400_000)
    api_key: str = "*"
    symbol: str = ""
    side: Literal["BUY", "SELL"] = "BUY"
    quantity: Decimal = Field(Decimal(0), ge=0)
    price: Decimal | None = Field(None, gt=0)
    amount_usdt: Decimal = Decimal(0)


class FaultSchedule(StrictModel):
    """Faults drawn by a seed.

    Attributes:
        probability: by kind; of a request or an event, or of each candle for the kinds that are done at once.
        paths: which requests, as a shell pattern.
        limit: how many faults in all.
        in_a_row: how many at most strike the same request or stream one after another.
        delay_ms: the longest that anything is held up, or connections are refused in a restart.
        retry_after_s: of 429 and 418.
    """

    seed: int
    probability: dict[str, Annotated[float, Field(ge=0, le=1)]]
    paths: str = "*"
    limit: int = Field(200, ge=1, le=1_000_000)
    in_a_row: int = Field(2, ge=1, le=100)
    delay_ms: DelayMs = 100
    retry_after_s: int = Field(1, ge=1, le=3_600)

    @model_validator(mode="after")
    def _kinds_are_known(self) -> FaultSchedule:
        for kind in self.probability:
            if kind in _NOT_DRAWN or kind not in (*REQUEST_KINDS, *STREAM_KINDS, *ACTION_KINDS):
                raise ValueError(unknown_kind(kind, "drawn by a schedule"))
        for kinds in (REQUEST_KINDS, STREAM_KINDS, ACTION_KINDS):
            total = sum(self.probability.get(kind, 0.0) for kind in kinds)
            if total > 1.0 + 1e-9:
                raise ValueError(
                    f"the probabilities of {', '.join(k for k in kinds if k in self.probability)} add up to "
                    f"{total:g}; at most one of them strikes at a time, so at most 1"
                )
        return self

    @classmethod
    def everything(cls, seed: int, rate: float) -> FaultSchedule:
        """Every kind that can be drawn, so that of requests, events and candles about `rate` go wrong."""
        probability = {}
        for kinds in (REQUEST_KINDS, STREAM_KINDS, ACTION_KINDS):
            drawn = [kind for kind in kinds if kind not in _NOT_DRAWN]
            probability.update(dict.fromkeys(drawn, rate / len(drawn)))
        return cls(seed=seed, probability=probability)


Fault = RequestFault | StreamFault | Action


def parse_fault(values: Mapping[str, Any]) -> Fault:
    """A fault from JSON, by its `kind`.

    Raises:
        ConfigError: an unknown kind or setting, or a value out of range.
    """
    kind = values.get("kind")
    if kind in REQUEST_KINDS:
        return RequestFault.parse(values, where=f"fault {kind}")
    if kind in STREAM_KINDS:
        return StreamFault.parse(values, where=f"fault {kind}")
    if kind in ACTION_KINDS:
        return Action.parse(values, where=f"fault {kind}")
    raise ConfigError(unknown_kind(kind, "known"))


def unknown_kind(kind: object, what: str) -> str:
    """The message about a kind that is not there, with the nearest that is."""
    known = (*REQUEST_KINDS, *STREAM_KINDS, *ACTION_KINDS)
    near = difflib.get_close_matches(str(kind), [one for one in known if one != kind], n=1)
    hint = f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
    return f"no fault {kind!r} is {what}{hint}"
