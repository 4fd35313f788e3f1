"""Puts a live run together, runs the loop, and leaves everything in order."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agents.base import AgentSetup, KeepsRecords
from agents.metrics import Metrics, compute_metrics
from agents.run import Ending, RunResult, run
from envs.account import ZERO, Execution, Plan
from envs.base import StepResult
from envs.candles import interval_name
from envs.errors import EmergencyError, ExchangeError, RateLimitedError
from envs.wrappers import RiskControl, StepLog
from live.bridge import LoopThread
from live.console import LiveConsole, utc_text
from live.exchange.base import Exchange
from live.exchange.binance import BinanceExchange
from live.folders import make_folder
from live.heap import heap_set_aside
from live.options import SessionOptions
from live.recovery import run_lock
from live.rehearsal import ClosesIn
from live.run_memory import RunMemory
from live.session import (
    account_name,
    check_agent,
    close_exchange,
    confirm_real_money,
    open_stack,
    stop_signals,
)
from live.venues import VenueSession, open_venue

if TYPE_CHECKING:
    from live.run_ledger import RunLedger


@dataclass(frozen=True, kw_only=True)
class LiveOptions(SessionOptions):
    """A live run of one agent; without `db`, no account is kept but the exchange's.

    Attributes:
        setup: the agent and its environment.
        symbols, interval_ms: what it trades, and how often.
        flat_on_exit: close the positions when the run is stopped or its steps are done.
    """

    setup: AgentSetup
    symbols: tuple[str, ...]
    interval_ms: int
    flat_on_exit: bool = False


@dataclass(frozen=True)
class LiveResult:
    """How a live run ended."""

    result: RunResult
    metrics: Metrics | None
    paths: Mapping[str, Path]
    exit_code: int


class _LiveLog(StepLog):
    """A step log whose end rows wait for `close`: closing positions on exit comes before them."""

    _closing = False

    def finish(self) -> None:
        """See `StepLog.finish`; only while closing."""
        if self._closing:
            super().finish()

    def close(self) -> None:
        """See `StepLog.close`."""
        self._closing = True
        super().close()


def run_live(options: LiveOptions, console: LiveConsole) -> LiveResult:
    """Run an agent on an exchange until it is done, stopped or halted.

    Raises:
        PerpgymError: with the exit code that the command should end with.
    """
    setup = options.setup
    check_agent(setup, options.symbols, options.interval_ms, options.seed)
    make_folder(options.folder)
    session = open_venue(
        options.choice, options.paper, setup, options.symbols, options.interval_ms, options.environ
    )
    try:
        memory = RunMemory(
            options.folder,
            session.account_key,
            fresh=session.fresh,
            acknowledge=options.acknowledge_emergency,
            notice=console.notice,
            # With a database the ledger is compared with the exchange, and the position is that of the ledger.
            positions_add_up=options.db is None,
        )
        memory.check_halt()
        # A new account of its own is nobody else's.
        alone = nullcontext() if session.fresh else run_lock(options.folder, session.account_key)
        with alone, heap_set_aside(), LoopThread() as bridge:
            return _Session(options, session, memory, bridge, console).run()
    finally:
        session.close()


class _Session:
    """One session of a run: from connecting to the last line."""

    def __init__(
        self,
        options: LiveOptions,
        session: VenueSession,
        memory: RunMemory,
        bridge: LoopThread,
        console: LiveConsole,
    ) -> None:
        self._options = options
        self._session = session
        self._memory = memory
        self._bridge = bridge
        self._console = console
        self._stop = False
        self._step = 0
        self._equity: list[float] = []
        self._transfers_usdt = ZERO
        self._funding_usdt = ZERO  # of the rows that are not kept
        self._ledger: RunLedger | None = None

    def run(self) -> LiveResult:
        options, session = self._options, self._session
        if session.venue.real_money:
            setup = options.setup
            about = (
                f", {', '.join(options.symbols)}, agent {setup.agent.name}, "
                f"max leverage {setup.env.max_leverage:g}."
            )
            confirm_real_money(session, self._bridge, about, options.confirm)
        exchange = options.connection.connector(session.venue, session.credentials, options.symbols)
        self._bridge.call(exchange.connect())
        try:
            return self._run_connected(exchange)
        finally:
            self._bridge.call(close_exchange(exchange, session))

    def _run_connected(self, exchange: BinanceExchange) -> LiveResult:
        options = self._options
        account_id = self._bridge.call(exchange.account_id())
        if options.db is None:
            return self._run_on(exchange, account_id)
        # Imported here: a run without a database starts sooner without its libraries.
        from live.run_ledger import RunLedger

        with RunLedger(
            options.db,
            account_name(self._session, account_id),
            options.setup.agent.name,
            options.symbols,
            exchange,
            self._bridge,
        ) as ledger:
            self._ledger = ledger
            return self._run_on(ledger.port, account_id)

    def _run_on(self, exchange: Exchange, account_id: str) -> LiveResult:
        options, setup, session = self._options, self._options.setup, self._session
        stack = open_stack(
            exchange,
            self._bridge,
            setup,
            self._memory,
            symbols=options.symbols,
            interval_ms=options.interval_ms,
            account_id=account_id,
            about={"venue": session.venue.name, "synthetic": session.synthetic},
            request_candle=session.lock_step.request_candle if session.lock_step else None,
            closes_in_s=self._closes_in_s(exchange),
            log_type=_LiveLog,
        )
        log, self._step = stack.log, stack.first_step
        self._show_banner(setup)
        if isinstance(setup.agent, KeepsRecords):
            if not self._session.fresh:
                setup.agent.resume(self._memory.folder)
            if self._ledger is not None:
                self._ledger.keep_decisions(setup.agent)

        def stop() -> None:
            self._stop = True
            stack.env.request_stop()

        with stop_signals(stop):
            try:
                result = self._loop(log, stack.risk)
                if options.flat_on_exit and result.emergency is None:
                    self._flatten(log)
            finally:
                log.close()
                setup.agent.close()
        return self._finish(result, log, stack.paths)

    def _closes_in_s(self, exchange: Exchange) -> ClosesIn | None:
        """The exchange's clock; None where the market does not go by a clock that is known."""
        if self._session.venue.market_data == "simulated":
            return None
        return lambda time_ms: (time_ms - exchange.now_ms()) / 1000

    def _flatten(self, log: StepLog) -> None:
        """Close all positions, as often as it takes within the emergency protocol's tries.

        Raises:
            EmergencyError: the account is not flat.
        """
        limits, delay_s = self._options.setup.limits, self._options.setup.limits.emergency_delay_s
        problem, ban_s = "positions are left", 0.0
        for attempt in range(limits.emergency_tries):
            if attempt:
                time.sleep(max(delay_s, ban_s))
                delay_s *= 2
            try:
                execution = log.flatten("flat on exit")
            except ExchangeError as error:
                problem = str(error)
                ban_s = error.bearable_s if isinstance(error, RateLimitedError) else 0.0
                continue
            ban_s = 0.0
            account = execution.account
            if account.is_flat and account.pending_orders == 0:
                self._console.notice(f"flat on exit: equity {account.equity_usdt:.2f} USDT")
                return
            problem = "; ".join(r.error for r in execution.results if r.error) or execution.failure or problem
        raise EmergencyError(
            f"THE ACCOUNT IS NOT FLAT after {limits.emergency_tries} tries to close it on exit: {problem}. Close "
            "positions and orders at the exchange"
        )

    def _loop(self, log: StepLog, risk: RiskControl) -> RunResult:
        def on_execution(plan: Plan, execution: Execution) -> None:
            self._console.step(self._step, plan, execution, risk.state)
            if self._ledger is not None:
                self._ledger.step(execution, log.records[-1], risk.state)
            # The file has the rows: a run of months would fill the memory.
            self._funding_usdt += sum(record.funding for record in log.records[:-1])
            del log.records[:-1]
            self._console.events(execution.events)
            self._step += 1

        def on_advance(result: StepResult) -> None:
            self._transfers_usdt += result[4].get("transfers_usdt", ZERO)
            self._equity.append(self._equity_now(log))
            self._console.events(result[4].get("events", ()))

        steps = self._options.steps
        most = self._options.setup.max_steps
        result = run(
            log,
            self._options.setup.agent,
            max_steps=most if steps is None else steps if most is None else min(steps, most),
            seed=self._options.seed,
            should_stop=lambda: self._stop or log.account().equity_usdt <= 0,
            on_execution=on_execution,
            on_advance=on_advance,
        )
        if result.ending in (Ending.TRUNCATED, Ending.STOPPED):
            if self._stop:
                return replace(result, ending=Ending.STOPPED)
            if result.ending is Ending.STOPPED:
                self._console.notice("the account holds no money to trade with: pay some in and start again")
                return replace(result, ending=Ending.TERMINATED)
        return result

    def _equity_now(self, log: StepLog) -> float:
        """Equity without what was paid in and out meanwhile: a deposit is no return."""
        return float(log.account().equity_usdt - self._transfers_usdt)

    def _show_banner(self, setup: AgentSetup) -> None:
        options = self._options
        limit = setup.limits.max_drawdown_fraction
        lines = [
            self._session.description,
            f"agent {setup.agent.name}" + (f" ({setup.train_id})" if setup.train_id else ""),
            f"{', '.join(options.symbols)}, {interval_name(options.interval_ms)} candles, "
            f"max leverage {setup.env.max_leverage:g}, "
            + (f"max drawdown {limit:.2%}" if limit is not None else "NO drawdown limit"),
        ]
        self._console.banner("perpgym live", lines, real_money=self._session.venue.real_money)

    def _finish(self, result: RunResult, log: StepLog, paths: dict[str, Path]) -> LiveResult:
        if result.emergency is not None:
            self._console.emergency(result.emergency)
            if self._ledger is not None:
                self._ledger.emergency(result.emergency)
        paths = {name: path for name, path in paths.items() if path.exists()}
        metrics = None
        if self._equity:
            # As in a backtest: from the equity at the reset, over each close, to what is left at the end.
            equity = [float(log.start_equity_usdt), *self._equity[:-1], self._equity_now(log)]
            funding = float(self._funding_usdt + sum(record.funding for record in log.records))
            metrics = compute_metrics(equity, self._options.interval_ms, log.fills, funding_usdt=funding)
        self._console.summary(metrics, result.ending, paths)
        agent = self._options.setup.agent
        for notice in agent.notices() if isinstance(agent, KeepsRecords) else ():
            self._console.notice(notice)
        if log.records:
            self._console.notice(f"last candle {utc_text(log.records[-1].timestamp)}")
        exit_code = 3 if result.emergency is not None else 0
        return LiveResult(result, metrics, paths, exit_code)
