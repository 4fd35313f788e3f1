"""Plays a schedule: the whole live runner against a real paper exchange over loopback, with faults and kills."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from live_support import FEATURES, Scripted
from points import Hung, Killed, Points, patiently, pointed, strike
from schedules import DEAFENING, SYMBOLS, Schedule, Session
from stories import (
    LoggedDrawdown,
    check_end,
    check_fills,
    check_nothing_twice,
    has_whole_step,
    leg_of,
    wallet_at,
    whole_rows,
)

from agents.base import AgentSetup
from agents.run import Ending
from envs.account import ZERO, Leg
from envs.errors import HaltedError, PerpgymError
from envs.risk_state import FileRiskStore
from live.console import LiveConsole
from live.env import LiveEnv
from live.exchange.base import RetryPolicy
from live.exchange.binance import BinanceExchange
from live.exchange.connection import ConnectionSettings
from live.exchange.rest import BinanceRest
from live.exchange.sockets import StreamSettings
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from live.runner import LiveOptions, LiveResult, run_live
from live.venues import PaperOptions, VenueChoice

HOUR_MS = 3_600_000
STALL_S = 30.0
"""Without a point for so long a session hangs: fifty times the longest wait that it is set to."""
TIME_SCALE = 20.0
"""Seconds that the exchange asks to wait are shorter by this much, on both sides."""


@dataclass
class Story:
    """What happened while a schedule was played, to look at and to see that schedules reach what they should."""

    endings: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    sigkills: int = 0
    steps: int = 0
    faults: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    """By kind, what went wrong at the exchange; at a restart of it, that it was asked for."""


def quick_exchange(venue: Any, credentials: Any, symbols: Any, timeout_s: float) -> BinanceExchange:
    """A connector with little patience; its receive window is longer than the longest delay of a schedule."""
    return BinanceExchange(
        venue,
        credentials,
        symbols,
        retry=RetryPolicy(attempts=3, delay_s=0.005, max_wait_s=0.3, resolve_s=0.3),
        streams=StreamSettings(
            silence_s=0.15,
            longest_silence_s=0.3,
            late_s=0.05,
            fill_again_s=(0.02, 0.05),
            give_up_s=2.0,
            first_retry_s=0.01,
            longest_retry_s=0.05,
        ),
        recv_window_ms=170,
        timeout_s=timeout_s,
        back_end_delay_s=0.03,
    )


def _with_patience(timeout_s: float) -> Callable[..., BinanceExchange]:
    def connector(
        _settings: ConnectionSettings, venue: Any, credentials: Any, symbols: Any
    ) -> BinanceExchange:
        return quick_exchange(venue, credentials, symbols, timeout_s)

    return connector


class Player:
    """One schedule being played in a folder."""

    def __init__(self, schedule: Schedule, folder: Path) -> None:
        self.schedule = schedule
        self.folder = folder
        self.story = Story()
        self.market = schedule.prices()
        self._optional: set[tuple[str, str]] = set()  # trades of others before the run's first decision
        self._begun = False
        self._steps_in_session = 0
        self._peak = ZERO
        self._points: Points | None = None
        self._last_plan = -1
        self._logged = LoggedDrawdown(schedule.drawdown)
        self._sent_at_halt: set[tuple[int, str]] | None = None

    # --- playing ------------------------------------------------------------------------------------------

    def play(self) -> Story:
        """Play all sessions, then a last one without faults, and compare what log and exchange tell."""
        config = self.schedule.config()
        with pytest.MonkeyPatch.context() as patch:
            fast = SimpleNamespace(time=lambda: time.monotonic() * TIME_SCALE)
            patch.setattr("live.paper.runtime.time", fast)
            accounts = (PaperAccount(wallet_usdt=Decimal(str(config.initial_capital_usdt))),)
            self.server = PaperServer.start(ReplayFeed(self.market, 2), accounts)
        with self.server, pytest.MonkeyPatch.context() as patch:
            patch.setattr(ConnectionSettings, "connector", _with_patience(0.15))
            patch.setattr("live.session.LiveEnv", self._watched_env())
            wait_s = BinanceRest._retry_after_s
            patch.setattr(BinanceRest, "_retry_after_s", lambda rest, error: wait_s(rest, error) / TIME_SCALE)
            for number, session in enumerate(self.schedule.sessions):
                self._away(session, number)
                self._session(session, forked=self.schedule.forked and any(e.kills for e in session.events))
            self._settle()
            patch.setattr(ConnectionSettings, "connector", _with_patience(20.0))
            self._session(Session(((0.25, 0.25), (0.25, 0.25))), forked=False)
            assert ":" not in self.story.endings[-1], "a session without faults could not begin"
            self._check_story()
            log = patiently(self.server.faults)["log"]
            self.story.struck.update(strike["kind"] for strike in log)
        return self.story

    def _settle(self) -> None:
        """No process runs: a restart of the exchange that it asked for passes, and nothing goes wrong any more."""
        if self._points is not None and any(event.kind == "restart" for event in self._points.struck):
            time.sleep(0.2)  # it begins after 50 ms and takes 80 at most
        patiently(self.server.clear_faults)

    def _away(self, session: Session, number: int) -> None:
        before = session.before
        self._settle()
        if number == 0:
            return
        if before.candles:
            patiently(lambda: self.server.advance(before.candles))
        for event in before.trades:
            strike(self.server, event)
        if before.torn_bytes and self.story.endings[-1] == "killed":
            logs = sorted(self.folder.glob("steps_*.csv"))
            if logs:
                data = logs[-1].read_bytes()
                last_line = len(data) - (data.rstrip(b"\n").rfind(b"\n") + 1)
                logs[-1].write_bytes(
                    data[: len(data) - min(before.torn_bytes, last_line - 1)] if data else data
                )

    def _session(self, session: Session, *, forked: bool) -> None:
        if self._halted_on_disk():
            self._peak = ZERO
            self._logged.acknowledge()
            untouched = Points((), self.server)
            with pointed(untouched), pytest.raises(HaltedError):
                self._run(session, acknowledge=False)
            assert untouched.number < 0, "a halted run asked the exchange or wrote something"
        if self._begun and not has_whole_step(self.folder, SYMBOLS):
            self._note_beginning()  # all that it knows of its beginning is a time, of a clock that may be ahead
        self._steps_in_session = 0
        self._last_plan = -1
        self._sent_at_halt = None
        points = self._points = Points(session.events, self.server)
        points.on_halt = self._at_halt
        if forked:
            self._session_forked(session, points)
        else:
            self._session_here(session, points)
        self._logged.check(self.folder, halted=self._halted_on_disk())

    def _session_here(self, session: Session, points: Points) -> None:
        ending = "?"
        result: LiveResult | None = None
        with self._watchdog(points), pointed(points):
            try:
                result = self._run(session, acknowledge=True)
                ending = result.result.ending.value
            except Killed:
                ending = "killed"
                self.story.kills += 1
            except PerpgymError as error:
                ending = f"{type(error).__name__}: {error}"
        self.story.endings.append(ending)
        self.story.faults += len(points.struck)
        self._check_halt()
        if result is not None:
            self._check_ending(result, points)

    def _session_forked(self, session: Session, points: Points) -> None:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = 9
            try:
                os.close(reading)
                self._let_go_of_the_exchange()
                points.forked = True
                points.on_point = lambda: _tell(writing)
                with pointed(points):
                    code = self._run(session, acknowledge=True).exit_code
            except PerpgymError:
                code = 2
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(code)
        os.close(writing)
        try:
            while True:
                ready, _, _ = select.select([reading], [], [], STALL_S)
                if not ready:
                    raise Hung(f"the forked session made no progress for {STALL_S:g} s")
                if not os.read(reading, 4096):
                    break
        finally:
            os.close(reading)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            points.struck += [event for event in session.events if not event.kills]  # perhaps
        if not self._begun and any(self.folder.glob("session_*.json")):
            self._note_beginning()  # the child knows when that was
        if os.WIFSIGNALED(status):
            self.story.endings.append("killed")
            self.story.sigkills += 1
        else:
            code = os.WEXITSTATUS(status)
            assert code in (0, 2, 3), f"the forked session ended with {code}"
            self.story.endings.append(f"exit {code}")

    def _let_go_of_the_exchange(self) -> None:
        """A copy of its listening socket would keep it from listening there again after a restart."""
        for server in self.server._server.servers:
            for listener in server.sockets:
                os.close(listener.fileno())

    def _run(self, session: Session, *, acknowledge: bool) -> LiveResult:
        agent = Scripted(*session.actions)
        setup = AgentSetup(agent, self.schedule.config(), FEATURES, limits=self.schedule.limits())
        options = LiveOptions(
            setup=setup,
            symbols=SYMBOLS,
            interval_ms=HOUR_MS,
            folder=self.folder,
            choice=VenueChoice.PAPER,
            paper=PaperOptions(url=self.server.rest_url),
            steps=len(session.actions),
            flat_on_exit=session.flat_on_exit,
            acknowledge_emergency=acknowledge,
        )
        return run_live(options, LiveConsole(quiet=True, out=io.StringIO()))

    @contextmanager
    def _watchdog(self, points: Points) -> Iterator[None]:
        """Raise `Hung` in this thread when no point was passed for too long."""
        over = threading.Event()
        main = threading.get_ident()
        stacks = ""

        def watch() -> None:
            nonlocal stacks
            while not over.wait(0.5):
                if time.monotonic() - points.moved_at_s > STALL_S:
                    frames = sys._current_frames()
                    stacks = "\n".join("".join(traceback.format_stack(frame)) for frame in frames.values())
                    signal.pthread_kill(main, signal.SIGUSR1)
                    return

        def hung(_number: int, _frame: Any) -> None:
            raise Hung(f"no request and no write for {STALL_S:g} s:\n{stacks}")

        before = signal.signal(signal.SIGUSR1, hung)
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            signal.signal(signal.SIGUSR1, before)

    # --- looking on ---------------------------------------------------------------------------------------

    @property
    def account(self) -> Any:
        """The account as the exchange keeps it."""
        return self.server.exchange.engine.accounts["paper"]

    def _watched_env(self) -> type[LiveEnv]:
        player = self

        class WatchedEnv(LiveEnv):
            def plan(self, action: Any) -> Any:
                if player._points is not None and not player._points.forked:
                    player._at_plan(self)
                return super().plan(action)

        return WatchedEnv

    def _note_beginning(self) -> None:
        """What others traded before the run's own first fills is not its own: a log may have it or not."""
        self._begun = True
        for symbol, trades in self.account.trades.items():
            theirs = takewhile(lambda trade: leg_of(trade.order.client_order_id) is None, trades)
            self._optional |= {(symbol, str(trade.trade_id)) for trade in theirs}

    def _at_halt(self) -> None:
        """The halt is stored: from here on nothing but closing orders may be sent."""
        if self._sent_at_halt is None:
            self._sent_at_halt = self._sent()

    def _at_plan(self, env: LiveEnv) -> None:
        """The account was read, the agent has decided: what it was shown must be the exchange's."""
        points = self._points
        assert points is not None
        if not self._begun:
            self._note_beginning()
        self.story.steps += 1
        undisturbed = points.last_trade <= self._last_plan
        if undisturbed:
            self._check_account(env)
            if self._steps_in_session:
                self._check_guards()
        self._check_drawdown(env, undisturbed)
        self._last_plan = points.number
        self._steps_in_session += 1

    def _check_account(self, env: LiveEnv) -> None:
        shown = env.account()
        for symbol in SYMBOLS:
            held = self.account.position(symbol)
            assert shown.positions[symbol].quantity == held.quantity, f"{symbol}: shown {shown}, held {held}"
        wallet = wallet_at(self.account, env.time_ms)
        if shown.wallet_usdt != wallet and self._is_deaf():
            # Nobody told it of a funding inside the candle, which only this market has: it asks at whole hours.
            wallet = wallet_at(self.account, env.time_ms - HOUR_MS)
        assert shown.wallet_usdt == wallet, f"shown {shown.wallet_usdt}, held {wallet}"

    def _is_deaf(self) -> bool:
        assert self._points is not None
        return any(event.kind in DEAFENING for event in self._points.struck)

    def _check_guards(self) -> None:
        """Each position has one stop of its size, and nothing else of ours rests."""
        for symbol in SYMBOLS:
            held = self.account.position(symbol).quantity
            resting = [order for order in self.account.open_algo_orders.values() if order.symbol == symbol]
            ours = Counter(leg_of(order.client_algo_id) for order in resting)
            assert max(ours.values(), default=0) <= 1, f"{symbol}: stacked {resting}"
            if held == 0:
                assert not resting, f"{symbol} is flat, but {resting} rest"
                continue
            assert all(order.quantity == abs(held) for order in resting), f"{symbol} holds {held}: {resting}"
            assert all(order.side.sign * held < 0 for order in resting), f"{symbol} holds {held}: {resting}"
            if self.schedule.stops:
                assert ours[Leg.STOP] == 1, f"{symbol} holds {held} without its stop: {resting}"

    def _check_drawdown(self, env: LiveEnv, undisturbed: bool) -> None:
        limit = self.schedule.drawdown
        equity = env.account().equity_usdt
        self._peak = max(self._peak, equity)
        if limit is not None and undisturbed:
            drawdown = 1 - equity / self._peak
            assert drawdown < Decimal(str(limit)), f"the agent was asked at a drawdown of {drawdown:.4%}"

    # --- checking -----------------------------------------------------------------------------------------

    def _halted_on_disk(self) -> bool:
        return any(
            state is not None and bool(state.halted_reason)
            for path in self.folder.glob("risk_*.json")
            for state in (FileRiskStore(path).load(),)
        )

    def _sent(self) -> set[tuple[int, str]]:
        """Number and client id of each order that the exchange has had, of both kinds."""
        orders, triggers = list(self.account.orders.values()), list(self.account.algo_orders.values())
        sent = {(one.order_id, one.client_order_id) for one in orders}
        return sent | {(one.algo_id, one.client_algo_id) for one in triggers}

    def _check_halt(self) -> None:
        later = set() if self._sent_at_halt is None else self._sent() - self._sent_at_halt
        wrong = [name for _, name in later if leg_of(name) not in (None, Leg.EMERGENCY)]
        assert not wrong, f"sent after the halt: {wrong}"

    def _check_ending(self, result: LiveResult, points: Points) -> None:
        emergency = result.result.emergency
        halted = self._halted_on_disk()
        assert (result.exit_code == 3) == (emergency is not None) == halted
        assert (result.result.ending is Ending.EMERGENCY) == halted
        if emergency is None:
            return
        assert "emergencies" in result.paths, "an emergency without its row"
        assert emergency.succeeded, f"{emergency.reason}: {emergency.failures}"
        if points.last_trade <= self._last_plan:
            for symbol in SYMBOLS:
                assert self.account.position(symbol).quantity == 0, f"{symbol} after {emergency.reason}"
            assert not self.account.open_orders and not self.account.open_algo_orders

    def _check_story(self) -> None:
        """Log and exchange tell the same story to the end."""
        rows = whole_rows(self.folder)
        self.story.kinds.update(row["action_type"] for row in rows)
        for symbol in SYMBOLS:
            check_fills(self.account, rows, symbol, self._optional)
            check_end(self.account, rows, symbol)
        check_nothing_twice(self.account, rows, SYMBOLS)


def _tell(writing: int) -> None:
    os.write(writing, b".")


def play(schedule: Schedule, folder: Path) -> Story:
    """Play a schedule.

    Raises:
        AssertionError, Hung: with the schedule in its notes, as a line for a test.
    """
    folder.mkdir(parents=True, exist_ok=True)
    player = Player(schedule, folder)
    try:
        return player.play()
    except BaseException as error:
        error.add_note(f"\nsessions ended: {player.story.endings}\nto play it again:\n    {schedule!r},\n")
        raise
