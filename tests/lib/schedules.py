"""Schedules: what an agent does, what goes wrong and when the process dies, as data that can be played and pasted.

A session of `live.runner.run_live` shows itself to the world by requests and by writes to files, and by nothing
else. Each of them is a *point*, numbered from 0 in every session; a schedule says what happens at which point: a
fault of the exchange is armed, somebody else trades, or the process is killed before it, after it, or, where it is a
row of the step log, in the middle of it. Between two points a kill makes no difference, so that this covers all
moments to die at.

A killed session is abandoned in process (`Killed` is raised at its point, and from then on no request and no write
goes through, as of a dead process), or, in schedules with `forked`, it is a process of its own that sends itself
SIGKILL at that point.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st
from support import market_of

from envs.market import Market
from envs.risk import RiskLimits
from envs.settings import EnvConfig

SYMBOLS = ("BTCUSDT", "ETHUSDT")
CANDLES = 60
_PRICES = {"BTCUSDT": 40_000.0, "ETHUSDT": 2_500.0}
_FUNDING_EVERY_MINUTES = 240
_FUNDING_RATE = 0.0004

REPLY_LOST = ("lost_before", "lost_after", "unknown_503", "backend_timeout")
REPLY_LATE = ("delay_before", "delay_after")
ERRORS = (
    "unavailable_503",
    "internal_503",
    "throttled_503",
    "bus_error",
    "html_502",
    "html_403",
    "error_200",
)
LIMITED = ("rate_limited", "order_limited", "banned")
REJECTED = ("reject_filter", "reject_margin", "reject_reduce_only", "partial_fill", "stale_timestamp")
STREAMS = (
    "stream_lose",
    "stream_duplicate",
    "stream_reorder",
    "stream_delay",
    "stream_drop",
    "stream_silence",
    "stream_half_open",
)
SOCKETS = (
    "drop_sockets",
    "close_sockets",
    "silence_sockets",
    "half_open_sockets",
    "shutdown_sockets",
    "expire_listen_keys",
    "restart",
    "clock_skew",
)
OTHERS = ("manual_trade", "manual_close", "liquidate", "deleverage")
DEAFENING = frozenset({*STREAMS, "silence_sockets", "half_open_sockets"})
"""After these a client may not hear what the exchange tells, and need not notice."""
KILLS = ("kill_before", "kill_after", "kill_within")
FAULTS = (*REPLY_LOST, *REPLY_LATE, *ERRORS, *LIMITED, *REJECTED, *STREAMS, *SOCKETS, *OTHERS)
_ABOUT_ORDERS = frozenset({"order_limited", *REJECTED} - {"stale_timestamp"})


class _Pasteable:
    """A repr without what is as by default, to be pasted into a test."""

    def __repr__(self) -> str:
        shown = [
            f"{one.name}={getattr(self, one.name)!r}"
            for one in fields(self)  # type: ignore[arg-type]
            if getattr(self, one.name) != one.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, repr=False)
class At(_Pasteable):
    """At a point, something happens: a kind of FAULTS or KILLS; `n` chooses among its variants."""

    point: int
    kind: str
    n: int = 0

    @property
    def kills(self) -> bool:
        """Whether the process ends here."""
        return self.kind in KILLS

    @property
    def trades(self) -> bool:
        """Whether somebody else touches the account."""
        return self.kind in OTHERS

    def fault(self) -> dict[str, Any]:
        """The fault as the paper exchange's control route takes it."""
        if self.kind == "manual_trade":
            symbol, side = SYMBOLS[self.n % 2], ("BUY", "SELL")[self.n // 2 % 2]
            return {
                "kind": "manual_trade",
                "symbol": symbol,
                "side": side,
                "quantity": ("0.02", "0.4")[self.n % 2],
            }
        settings: dict[str, Any] = {"kind": self.kind}
        if self.kind in (
            "unknown_503",
            "backend_timeout",
            "bus_error",
            "internal_503",
            "html_502",
            "error_200",
        ):
            settings["executed"] = bool(self.n % 2)
        if self.kind in REPLY_LATE:
            settings["delay_ms"] = 40 * (
                1 + self.n % 4
            )  # the last is longer than the client waits for a reply
        if self.kind in ("stream_delay", "stream_reorder", "shutdown_sockets", "restart"):
            settings["delay_ms"] = 20 * (1 + self.n % 4)
        if self.kind in ("stream_silence", "silence_sockets"):
            settings["delay_ms"] = (0, 40, 120, 250)[self.n % 4]  # 0 for good
        if self.kind == "deleverage":
            settings["symbol"] = SYMBOLS[self.n % 2]
        if self.kind == "clock_skew":
            # Only ahead: a clock behind would say of the candle that just closed that it has not, though the exchange,
            # whose market stands still in lock-step, will never say otherwise.
            settings["offset_ms"] = (1500, 3000, 30_000, 60_000)[self.n % 4]
        if self.kind == "partial_fill":
            settings |= {"share": str((1 + self.n % 4) / 4), "pieces": 1 + self.n % 3}
        if self.kind in _ABOUT_ORDERS or (self.kind in REPLY_LOST and self.n // 2 % 2):
            settings |= {"method": "POST", "path": "/fapi/v1/*rder"}
        return settings


@dataclass(frozen=True, repr=False)
class Away(_Pasteable):
    """What happens before a session, while no process runs."""

    candles: int = 0
    trades: tuple[At, ...] = ()
    torn_bytes: int = 0


@dataclass(frozen=True, repr=False)
class Session(_Pasteable):
    """One session: an action per step (fractions of the largest exposure, by symbol), and what happens at points."""

    actions: tuple[tuple[float, float], ...]
    events: tuple[At, ...] = ()
    before: Away = Away()
    flat_on_exit: bool = False


@dataclass(frozen=True, repr=False)
class Schedule(_Pasteable):
    """Sessions on one exchange and one folder, one after another.

    `market` seeds the prices; `wild` makes them jump far enough for liquidations.
    """

    sessions: tuple[Session, ...]
    market: int = 0
    wild: bool = False
    stops: bool = False
    drawdown: float | None = None
    protective_stop: bool = False
    forked: bool = False

    def prices(self) -> Market:
        """Candles of a random walk, with jumps, and funding every four hours."""
        rng = random.Random(f"market {self.market}")
        rows = {}
        for symbol in SYMBOLS:
            price = _PRICES[symbol]
            table = []
            for _ in range(CANDLES):
                jump = rng.choice((0.0, 0.0, 0.0, 0.05, -0.05)) * (3 if self.wild else 1)
                close = round(price * (1 + rng.gauss(0, 0.008) + jump), 1)
                opening = round(price * (1 + rng.gauss(0, 0.001)), 1)
                high = round(max(opening, close) * (1 + abs(rng.gauss(0, 0.006))), 1)
                low = round(min(opening, close) * (1 - abs(rng.gauss(0, 0.006))), 1)
                table.append((opening, high, low, close))
                price = close
            rows[symbol] = table
        times = range(0, CANDLES * 60 + 1, _FUNDING_EVERY_MINUTES)
        # One settlement of two falls on a candle's open, the other inside a candle.
        funding = {s: [(t + 17 * (t // 240 % 2), _FUNDING_RATE) for t in times] for s in SYMBOLS}
        return market_of(rows, funding=funding)

    def config(self) -> EnvConfig:
        """Targets as actions, traded at every candle."""
        action: dict[str, Any] = {"scheme": "target", "rebalance_band": 0.0}
        if self.stops:
            action |= {"stop_loss_fraction": 0.02, "take_profit_fraction": 0.03}
        return EnvConfig.parse(
            {
                "window_size": 1,
                "max_leverage": 12.0 if self.wild else 4.0,
                "slippage_bps": 0.0,
                "action": action,
            }
        )

    def limits(self) -> RiskLimits:
        """Patient enough for any fault that a schedule can make."""
        return RiskLimits(
            max_drawdown_fraction=self.drawdown,
            protective_stop=self.protective_stop and self.drawdown is not None,
            emergency_tries=12,
            emergency_delay_s=0.01,
        )


_TARGETS = (0.0, 0.25, -0.25, 0.5, -0.5, 1.0, -1.0)
# A session begins with some 50 points and has at least 12 in each step.
_POINTS_BEGINNING, _POINTS_PER_STEP = 50, 12


@dataclass(frozen=True)
class Size:
    """How much there is at most in a schedule: sessions, and steps and chance events in each."""

    sessions: int = 3
    steps: int = 7
    events: int = 4


SMALL = Size(2, 4, 2)
"""For a schedule in half the time."""


def _sessions(size: Size, *kinds: str) -> st.SearchStrategy[Session]:
    """Sessions in which, beside much else, each of these happens, if they live long enough."""

    @st.composite
    def session(draw: st.DrawFn) -> Session:
        target = st.sampled_from(_TARGETS)
        actions = draw(st.lists(st.tuples(target, target), min_size=2 if kinds else 1, max_size=size.steps))
        points = st.integers(0, _POINTS_BEGINNING + _POINTS_PER_STEP * len(actions))

        def at(kind: st.SearchStrategy[str]) -> st.SearchStrategy[At]:
            return st.builds(At, point=points, kind=kind, n=st.integers(0, 3))

        events = [draw(at(st.just(kind))) for kind in kinds]
        events += draw(st.lists(at(st.sampled_from(FAULTS)), max_size=size.events))
        if not any(event.kills for event in events):
            events += draw(st.lists(at(st.sampled_from(KILLS)), max_size=1))
        away = draw(_away())
        flat = draw(st.sampled_from((False, False, False, True)))
        return Session(tuple(actions), tuple(sorted(events, key=lambda one: one.point)), away, flat)

    return session()


def _away() -> st.SearchStrategy[Away]:
    trade = st.builds(At, point=st.just(0), kind=st.sampled_from(OTHERS), n=st.integers(0, 3))
    return st.builds(
        Away,
        candles=st.sampled_from((0, 0, 1, 2, 5)),
        trades=st.lists(trade, max_size=2).map(tuple),
        torn_bytes=st.sampled_from((0, 0, 0, 7, 60)),
    )


@st.composite
def schedules(draw: st.DrawFn, kind: str, size: Size) -> Schedule:
    """Schedules of some sessions, in one of which a kind of FAULTS or KILLS surely happens if it comes to it.

    Left to chance alone a hundred schedules leave out many kinds.
    """
    others = draw(st.lists(_sessions(size), max_size=size.sessions - 1))
    # Twice, since what comes before may change what the first one meets.
    special = draw(_sessions(size, kind) if kind in KILLS else _sessions(size, kind, kind))
    sessions = [*others, special] if draw(st.booleans()) else [special, *others]
    # Hypothesis always tries the smallest first, which would be the same one each time.
    assume(draw(st.integers(0, 2**32)) > 0)
    return Schedule(
        sessions=tuple(sessions),
        market=draw(st.integers(0, 999)),
        wild=draw(st.sampled_from((False, False, True))),
        stops=draw(st.booleans()),
        drawdown=draw(st.sampled_from((None, 0.04, 0.15))),
        protective_stop=draw(st.booleans()),
        forked=draw(st.sampled_from((False, False, False, True))),
    )
