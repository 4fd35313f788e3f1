"""Runs of agents whose actions are known ahead: compiled, and through the phases where only they will do.

The rows, the equity and the fills are those that `agents.run.run` gives, value by value; a property test holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agents.base import ForesightedAgent
from agents.run import Ending, RunResult, take_step
from envs import kernel
from envs.account import ZERO, EmergencyReport, Execution, Plan
from envs.base import StepResult, TradingEnv, TradingWrapper
from envs.futures_env import AheadSteps, FuturesEnv
from envs.risk import RiskLimits
from envs.risk_state import RiskState, day_start_of, fresh_state
from envs.step_columns import StepColumns
from envs.step_log import Standing, StepRecord
from envs.wrappers import RiskControl, StepLog

# Steps run ahead at a time. At first and after every step through the phases few, as the next may be near; then
# more and more. Those that are written to a file are bounded by the text that waits in memory.
_FEWEST = 64
_MOST_WRITTEN = 16_384
_MOST = 1_000_000


class Listener(Protocol):
    """Is told what happens."""

    def on_execution(self, plan: Plan, execution: Execution, /) -> None:
        """A step's orders are done."""

    def on_advance(self, result: StepResult, /) -> None:
        """Its candle is closed."""

    def on_columns(self, columns: StepColumns, /) -> None:
        """Steps were run ahead."""


def ahead_limits(env: FuturesEnv, limits: RiskLimits | None) -> NDArray[np.void] | None:
    """The limits as the kernel reads them, [1] of `kernel.AHEAD_DTYPE`; None where every step needs the phases.

    Decisions are planned outside the kernel, and a protective stop moves at every close by exact numbers. Limits that
    have a memory are left to the layer too, but they only ever concern orders that enlarge a position.
    """
    if env.config.action.scheme == "decision":
        return None
    if limits is not None and limits.protective_stop and limits.max_drawdown_fraction is not None:
        return None
    record = np.zeros(1, kernel.AHEAD_DTYPE)
    for name in ("drawdown", "leverage", "position_notional", "order_notional"):
        record[name] = np.inf
    if limits is None:
        return record
    for name, value in (
        ("drawdown", limits.max_drawdown_fraction),
        ("leverage", limits.max_leverage),
        ("position_notional", limits.max_position_notional_usdt),
        ("order_notional", limits.max_order_notional_usdt),
    ):
        if value is not None:
            record[name] = value
    record["margin"] = 1
    record["enlarging"] = (
        limits.daily_loss_fraction is not None
        or limits.max_orders_per_hour is not None
        or (limits.allowed_symbols is not None and not set(env.symbols) <= set(limits.allowed_symbols))
    )
    return record


class AheadRun:
    """One run.

    Args:
        env: the simulation.
        stack: `env` itself, or with its wrappers around it.
        risk, log: the wrappers in the stack.
        keep: keep the rows.
        limits: from `ahead_limits`.
        listener: is told what happens.
    """

    def __init__(
        self,
        env: FuturesEnv,
        stack: TradingEnv | TradingWrapper,
        *,
        risk: RiskControl | None,
        log: StepLog | None,
        keep: bool,
        limits: NDArray[np.void],
        listener: Listener,
    ) -> None:
        self._env, self._stack, self._risk, self._log = env, stack, risk, log
        self._keep = keep
        self._limits = limits
        self._listener = listener
        self._parts: list[Sequence[StepRecord]] = []
        self._taken = 0  # rows of the log that are in the parts
        self._behind: list[StepColumns] = []  # steps that the wrappers have not heard of
        self._ended = False  # the last rows are those of the end
        self._start: Callable[[], Standing]

    def run(
        self,
        agent: ForesightedAgent,
        *,
        max_steps: int | None,
        seed: int | None,
        should_stop: Callable[[], bool],
    ) -> RunResult:
        """What `agents.run.run` does; `should_stop` is asked less often."""
        env = self._env
        _, info = self._stack.reset(seed=seed)
        agent.reset(env.spec_observation, seed=seed)
        report: EmergencyReport | None = info.get("emergency")
        if report is not None:
            return RunResult(0, Ending.EMERGENCY, report)
        self._start = self._snapshot()
        features = env.kernel_arrays()[1]
        planned = env.steps_left if max_steps is None else min(env.steps_left, max_steps)
        most = _MOST if self._log is None or self._keep else _MOST_WRITTEN
        steps, size = 0, _FEWEST
        actions = np.zeros((0, len(env.symbols)))
        seen: NDArray[np.bool_] | None = None
        while steps < planned:
            if should_stop():
                return RunResult(steps, Ending.STOPPED)
            if not len(actions):
                candles = features[env.candle_index : env.candle_index + min(most, planned - steps)]
                actions, until_held = agent.act_ahead(candles)
                if until_held and seen is None:
                    seen = np.zeros(len(env.symbols), np.bool_)
            chunk = actions[:size]
            ahead = env.run_ahead(chunk, self._limits, seen=seen)
            done = len(ahead.steps)
            steps, actions = steps + done, actions[done:]
            if done:
                self._adopt(ahead, ended=steps == planned)
            if done == len(chunk):
                size = min(4 * size, most)
                continue
            size = _FEWEST
            action = actions[0]
            if seen is not None:
                seen |= self._exposures() != 0.0
                action = np.where(seen, 0.0, action)
            self._catch_up()
            _, ending, report = take_step(
                self._stack,
                agent,
                action,
                on_execution=self._listener.on_execution,
                on_advance=self._listener.on_advance,
            )
            self._start = self._snapshot()
            steps, actions = steps + 1, actions[1:]
            if ending is not None:
                return RunResult(steps, ending, report)
        return RunResult(steps, Ending.TRUNCATED)

    def finish(self) -> Sequence[Sequence[StepRecord]]:
        """Write what is left of the log; its rows in parts, if they are kept."""
        if self._log is not None and not self._ended:
            self._catch_up()
            self._log.finish()
        elif self._log is not None:
            # The last columns hold the end rows.
            self._log.resume(self._log.standing, ended=True)
        self._take_rows()
        return self._parts

    def _exposures(self) -> NDArray[np.float32]:
        """The observation's exposures [n]."""
        env = self._env
        first = env.config.window_size * len(env.spec_observation.features)
        return env.observation()[first : first + 3 * len(env.symbols) : 3]

    def _adopt(self, ahead: AheadSteps, *, ended: bool) -> None:
        """Take steps that were run ahead into the log."""
        log = self._log
        columns = StepColumns(
            self._env, "" if log is None else log.agent, ahead, self._start, ended=ended and log is not None
        )
        self._ended = columns.ended
        self._listener.on_columns(columns)
        if log is None and self._risk is None:
            return
        self._behind.append(columns)
        self._start = columns.standing
        if log is None:
            return
        if self._keep:
            self._take_rows()
            self._parts.append(columns)
        if log.writes:
            log.append_lines(columns.csv())
            # The figures are known now; what leads to them need not be kept.
            self._catch_up()
            self._start = self._snapshot()

    def _take_rows(self) -> None:
        """Move what the log has written by itself into the parts."""
        if self._log is not None and self._keep and len(self._log.records) > self._taken:
            self._parts.append(tuple(self._log.records[self._taken :]))
            self._taken = len(self._log.records)

    def _catch_up(self) -> None:
        """Tell the wrappers what happened without them."""
        for columns in self._behind:
            standing = columns.standing()
            if self._log is not None:
                self._log.resume(standing, ended=columns.ended)
            if self._risk is not None:
                self._risk.resume(_state_after(self._risk.state, columns, standing))
        self._behind.clear()

    def _snapshot(self) -> Callable[[], Standing]:
        standing = self._standing()
        return lambda: standing

    def _standing(self) -> Standing:
        """The running figures by the wrappers, which have heard of every step."""
        if self._log is not None:
            return self._log.standing
        zeros = dict.fromkeys(self._env.symbols, ZERO)
        equity = self._env.account().equity_usdt
        state = self._risk.state if self._risk is not None else fresh_state(equity, self._env.time_ms)
        return Standing(
            step=0,
            initial_usdt=state.initial_equity_usdt,
            peak_usdt=state.peak_equity_usdt,
            max_drawdown_fraction=state.max_drawdown_fraction,
            reward=dict.fromkeys(zeros, 0.0),
            funding=zeros,
        )


def _state_after(state: RiskState, columns: StepColumns, standing: Standing) -> RiskState:
    """What the risk layer would remember after these steps."""
    last_ms = int(columns.time_ms[-1])
    day_equity = columns.day_start_equity_usdt
    return replace(
        state,
        peak_equity_usdt=standing.peak_usdt,
        max_drawdown_fraction=standing.max_drawdown_fraction,
        day_start_ms=state.day_start_ms if day_equity is None else day_start_of(last_ms),
        day_start_equity_usdt=state.day_start_equity_usdt if day_equity is None else day_equity,
        last_candle_close_ms=last_ms,
    )
