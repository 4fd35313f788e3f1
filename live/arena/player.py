"""One agent of a live arena: its environment, risk control, step log and loop, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.arena.config import Entrant
from agents.base import KeepsRecords
from agents.run import Ending, run
from envs.account import EmergencyReport, Execution, Plan
from envs.errors import PerpgymError
from live.arena.pace import Pace
from live.bridge import LoopThread
from live.decision_sink import StoreSink
from live.env import LiveEnv
from live.run_ledger import emergency_row, equity_row
from live.run_memory import RunMemory
from live.session import open_stack
from live.store.journal import Journal
from live.subaccount import SharedAccount

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """What the agents of a session share that are on one account.

    Attributes:
        shared: the account.
        journal: of its database.
        bridge: the loop that the account lives in.
        pace: in lock-step; None where the market moves by itself.
        symbols, interval_ms: what is played.
        account_id: the exchange's own name of the account.
        fresh: the account is new with this session.
        steps: end after so many; None goes on.
        seed: of the agents.
        about: what each session file says.
        stopping: set when all are to end after their current step.
    """

    shared: SharedAccount
    journal: Journal
    bridge: LoopThread
    pace: Pace | None
    symbols: tuple[str, ...]
    interval_ms: int
    account_id: str
    fresh: bool
    steps: int | None
    seed: int | None
    about: dict[str, Any]
    stopping: threading.Event

    def write(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Do something with the database on the thread that writes to it."""
        return self.bridge.call(self.shared.sync.run(work, *arguments, **named))


class Player:
    """Plays one agent until it is done, stopped, halted, or can go on no more.

    Attributes:
        name: the agent's.
        steps: done in this session.
        ending: why it ended; empty while it plays.
        emergency: the protocol's report, if it ran.
        error: what ended it.
    """

    def __init__(self, entrant: Entrant, memory: RunMemory, stage: Stage) -> None:
        self.name = entrant.name
        self.steps = 0
        self.ending = ""
        self.emergency: EmergencyReport | None = None
        self.error: BaseException | None = None
        self._entrant = entrant
        self._memory = memory
        self._stage = stage
        self._env: LiveEnv | None = None
        self._stop = threading.Event()
        self._reported: EmergencyReport | None = None
        self._thread = threading.Thread(target=self._run, name=f"arena {self.name}", daemon=True)

    def start(self) -> None:
        """Begin to play."""
        self._thread.start()

    @property
    def playing(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    @property
    def halted(self) -> bool:
        """Whether its account was halted as a whole."""
        return bool(self._stage.shared.desk.halted)

    @property
    def _stopping(self) -> bool:
        return self._stop.is_set() or self._stage.stopping.is_set()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for its end; None: however long it takes."""
        self._thread.join(timeout_s)

    def request_stop(self) -> None:
        """End after the current step."""
        self._stop.set()
        if self._env is not None:
            self._env.request_stop()

    def _run(self) -> None:
        try:
            self._play()
        except PerpgymError as error:
            self.error = error
            self.ending = "failed"
            _LOG.error("%s: %s", self.name, error)
        except BaseException as error:  # noqa: BLE001  (raised again by the thread that waits for all)
            self.error = error
            self.ending = "failed"
        finally:
            if self._stage.pace is not None:
                self._stage.bridge.call(self._stage.pace.leave(self.name))

    def _play(self) -> None:
        stage, setup = self._stage, self._entrant.setup
        stack = open_stack(
            stage.shared.agent(self.name),
            stage.bridge,
            setup,
            self._memory,
            symbols=stage.symbols,
            interval_ms=stage.interval_ms,
            account_id=stage.account_id,
            about={"played_by": self._entrant.played_by, **stage.about},
            request_candle=None if stage.pace is None else stage.pace.of(self.name),
        )
        self._env, log, risk = stack.env, stack.log, stack.risk
        self._keep_decisions()

        def on_execution(_plan: Plan, execution: Execution) -> None:
            row = equity_row(stage.shared.account, self.name, execution, log.records[-1], risk.state)
            stage.write(stage.journal.equity, [row])
            # The file has them: a run of months would fill the memory.
            log.records.clear()
            log.fills.clear()
            self._report(execution.emergency)
            self.steps += 1

        steps, most = stage.steps, setup.max_steps
        if self._stopping:
            stack.env.request_stop()
        try:
            result = run(
                log,
                setup.agent,
                max_steps=most if steps is None else steps if most is None else min(steps, most),
                seed=stage.seed,
                should_stop=lambda: self._stopping or log.account().equity_usdt <= 0,
                on_execution=on_execution,
            )
        finally:
            log.close()
            setup.agent.close()
        self._report(result.emergency)
        self.emergency = result.emergency
        ending = result.ending
        if self._stopping and ending is Ending.TRUNCATED:
            ending = Ending.STOPPED
        elif not self._stopping and ending is Ending.STOPPED:
            ending = Ending.TERMINATED  # nothing is left to trade with
        self.ending = ending.value

    def _keep_decisions(self) -> None:
        agent = self._entrant.setup.agent
        if not isinstance(agent, KeepsRecords):
            return
        agent.write_to(Path(self._memory.folder))
        if not self._stage.fresh:
            agent.resume(Path(self._memory.folder))
        if self._entrant.is_llm:
            from agents.llm.agent import LlmAgent

            assert isinstance(agent, LlmAgent)
            stage = self._stage

            def write(decision: Any) -> None:
                stage.write(stage.journal.decide, decision)

            agent.tell(StoreSink(write, stage.shared.account, agent.config.provider.kind))

    def _report(self, report: EmergencyReport | None) -> None:
        """Write down a run of the emergency protocol, once."""
        if report is not None and report is not self._reported:
            self._reported = report
            row = emergency_row(self._stage.shared.account, self.name, report)
            self._stage.write(self._stage.journal.emergency, row)
