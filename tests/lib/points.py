"""The points of a session, counted, and what a schedule has happen at them: see `schedules`."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from schedules import SYMBOLS, At

from envs.errors import ConfigError
from envs.risk_state import FileRiskStore
from envs.step_log import CsvAppender
from live import intent, recovery
from live.exchange.rest import BinanceRest
from live.paper.runtime import PaperServer
from live.venues import LockStep

_RESTARTED_S = 10.0
MOST_POINTS_PER_CANDLE = 600
"""A session that does so much without having a candle played goes round in circles."""


class Killed(BaseException):
    """The process ends here."""


class Hung(BaseException):
    """No progress."""


class Points:
    """Counts points, and does what the schedule says at them."""

    def __init__(self, events: tuple[At, ...], server: PaperServer) -> None:
        self.number = -1
        self.dead = False
        self.forked = False
        self.last_trade = -1
        self.since_candle = 0
        self.moved_at_s = time.monotonic()
        self.struck: list[At] = []
        self.on_point: Callable[[], None] = lambda: None
        self.on_halt: Callable[[], None] = lambda: None
        self._events = events
        self._server = server
        self._lock = threading.Lock()

    def enter(self) -> At | None:
        """The next point begins; its kill, if it has one that comes after it began."""
        if self.dead:
            raise Killed
        with self._lock:
            self.number += 1
            self.since_candle += 1
            self.moved_at_s = time.monotonic()
            number = self.number
        self.on_point()
        if self.since_candle > MOST_POINTS_PER_CANDLE:
            raise Hung(f"{self.since_candle} requests and writes without a candle")
        kill = None
        for event in self._events:
            if event.point != number:
                continue
            if event.kills:
                kill = event
            else:
                self._strike(event)
        if kill is not None and kill.kind == "kill_before":
            self.die()
        return kill

    def _strike(self, event: At) -> None:
        strike(self._server, event)
        self.struck.append(event)
        if event.trades:
            self.last_trade = self.number

    def die(self) -> None:
        """Here the process ends."""
        if self.forked:
            os.kill(os.getpid(), signal.SIGKILL)
        self.dead = True
        raise Killed


def strike(server: PaperServer, event: At) -> None:
    """Have a fault happen, or arm it."""
    if event.kind == "manual_close":
        account = server.exchange.engine.accounts["paper"]
        symbol = SYMBOLS[event.n % 2]
        held = account.position(symbol).quantity
        fault = {"kind": "manual_trade", "symbol": symbol, "quantity": str(abs(held))}
        fault["side"] = "SELL" if held > 0 else "BUY"
    else:
        fault = event.fault()
    # Refused where it makes no sense, as a liquidation of an account that holds nothing.
    with suppress(ConfigError):
        patiently(lambda: server.fault(**fault))


def patiently(control: Callable[[], Any]) -> Any:
    """Use a control route of an exchange that may be restarting."""
    deadline_s = time.monotonic() + _RESTARTED_S
    while True:
        try:
            return control()
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.01)


@contextmanager
def pointed(points: Points) -> Iterator[None]:
    """Make every request and every write of this process a point."""
    send, ask = BinanceRest.send, LockStep._ask
    append, write = CsvAppender.append, recovery.write_json
    save, note = FileRiskStore.save, FileRiskStore.note
    files: set[CsvAppender] = set()

    async def around(action: Callable[[], Any]) -> Any:
        kill = points.enter()
        try:
            return await action()
        finally:
            if points.dead:
                raise Killed
            if kill is not None:
                points.die()

    async def pointed_send(self: BinanceRest, method: str, **params: Any) -> Any:
        return await around(lambda: send(self, method, **params))

    async def pointed_ask(self: LockStep, method: str, path: str, **body: Any) -> int:
        remaining = await around(lambda: ask(self, method, path, **body))
        points.since_candle = 0
        return int(remaining)

    def pointed_append(self: CsvAppender, values: Any) -> None:
        files.add(self)
        kill = points.enter()
        if kill is not None and kill.kind == "kill_within":
            before = self.path.stat().st_size
            append(self, values)
            after = self.path.stat().st_size
            os.truncate(self.path, before + (after - before) // 2)
        else:
            append(self, values)
        if kill is not None:
            points.die()

    def pointed_save(self: FileRiskStore, state: Any) -> None:
        kill = points.enter()
        save(self, state)
        if state.halted_reason:
            points.on_halt()
        if kill is not None:
            points.die()

    def pointed_note(self: FileRiskStore, state: Any) -> None:
        kill = points.enter()
        note(self, state)
        if kill is not None and kill.kind == "kill_within":
            os.truncate(self.noted_path, self.noted_path.stat().st_size // 2)
        if kill is not None:
            points.die()

    def pointed_write(path: Path, values: dict[str, Any]) -> None:
        kill = points.enter()
        write(path, values)
        if kill is not None:
            points.die()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BinanceRest, "send", pointed_send)
        patch.setattr(LockStep, "_ask", pointed_ask)
        patch.setattr(CsvAppender, "append", pointed_append)
        patch.setattr(FileRiskStore, "save", pointed_save)
        patch.setattr(FileRiskStore, "note", pointed_note)
        patch.setattr(recovery, "write_json", pointed_write)
        patch.setattr(intent, "write_json", pointed_write)
        try:
            yield
        finally:
            for one in files:
                one.close()  # as the system does for a process that died
