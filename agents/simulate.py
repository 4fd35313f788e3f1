"""One agent over one simulated market: its equity, its fills and what they came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.ahead import AheadRun, ahead_limits
from agents.base import Agent, AgentSetup, ForesightedAgent
from agents.baselines import baseline_setup
from agents.metrics import Metrics, compute_metrics
from agents.run import Ending, RunResult, run
from envs.account import AccountSnapshot, ActionType, EmergencyReport, Execution, Fill, Plan
from envs.base import StepResult, TradingEnv, TradingWrapper
from envs.features import FeatureTable, market_features
from envs.futures_env import FuturesEnv
from envs.market import Market
from envs.settings import EnvConfig
from envs.step_columns import StepColumns, StepRows
from envs.step_log import StepRecord
from envs.time_grid import format_time
from envs.wrappers import RiskControl, StepLog

BENCHMARKS = ("buy-and-hold", "flat")
"""The rules that every result is shown beside."""

OnStep = Callable[[int, int], None]
"""Told after steps: how many are done, how many are planned."""


@dataclass(frozen=True, slots=True)
class Trade:
    """A fill and what it did to the position."""

    action_type: ActionType
    fill: Fill


@dataclass(frozen=True, eq=False)
class Simulation:
    """What an agent did. Arrays are read-only.

    Attributes:
        agent: its name.
        symbols: [n].
        interval_ms: length of a candle.
        time_ms: int64 [T + 1], UTC: the closes that the account was marked at; the first is that of the first decision.
        equity: float64 [T + 1], USDT, at these closes; after an emergency the last is what was left.
        trades: every fill, in order.
        metrics: the figures.
        ending, emergency: how it ended.
        account: at the end.
        records: rows of the step log, if they were kept; as arrays where that is how they were made, until they are
            looked at.
    """

    agent: str
    symbols: tuple[str, ...]
    interval_ms: int
    time_ms: NDArray[np.int64]
    equity: NDArray[np.float64]
    trades: tuple[Trade, ...]
    metrics: Metrics
    ending: Ending
    emergency: EmergencyReport | None
    account: AccountSnapshot
    records: StepRows = field(default_factory=StepRows)

    @property
    def span_ms(self) -> tuple[int, int]:
        """From the open of the first candle decided on to the end of the last, UTC ms: what `start` and `end` take."""
        return int(self.time_ms[0]) + 1 - self.interval_ms, int(self.time_ms[-1]) + 1

    def quantities(self) -> NDArray[np.float64]:
        """float64 [T + 1, n]: signed positions in base units at the closes of `time_ms`, by the fills."""
        held = np.zeros((len(self.time_ms), len(self.symbols)))
        column = {symbol: i for i, symbol in enumerate(self.symbols)}
        for trade in self.trades:
            first = int(np.searchsorted(self.time_ms, trade.fill.time_ms))
            # What an emergency closed at the end belongs to the last row, as its cost does.
            first = min(first, len(self.time_ms) - 1)
            held[first, column[trade.fill.symbol]] += float(trade.fill.signed_quantity)
        return np.cumsum(held, axis=0)


class _Recorder:
    """Listens to the loop."""

    def __init__(self, env: FuturesEnv, planned: int, on_step: OnStep | None) -> None:
        self._env = env
        self._planned = planned
        self._on_step = on_step
        self.time_ms: list[int] = []
        self.equity: list[float] = []
        self.trades: list[Trade] = []

    def on_columns(self, columns: StepColumns) -> None:
        if not self.equity:
            self.time_ms.append(int(columns.time_ms[0]))
            self.equity.append(self._env.config.initial_capital_usdt)
        self.time_ms += columns.time_ms[1:].tolist()
        self.equity += columns.ahead.steps["end_equity"].tolist()
        self.trades += [Trade(kind, fill) for kind, fill in columns.fills()]
        self._tell()

    def mark(self) -> None:
        self.time_ms.append(self._env.time_ms)
        self.equity.append(self._env.totals()["equity"])

    def on_execution(self, _plan: Plan, execution: Execution) -> None:
        if not self.equity:
            # The loop has reset the environment by now, and no candle has passed.
            self.time_ms.append(self._env.time_ms)
            self.equity.append(self._env.config.initial_capital_usdt)
        self._take(execution)
        self._take_emergency(execution.emergency)

    def on_advance(self, result: StepResult) -> None:
        info = result[4]
        self.trades += [Trade(event.action_type, event.fill) for event in info["events"]]
        self._take_emergency(info.get("emergency"))
        self.mark()
        self._tell()

    def _tell(self) -> None:
        if self._on_step is not None:
            self._on_step(len(self.equity) - 1, self._planned)

    def _take(self, execution: Execution) -> None:
        for result in execution.results:
            for fill in result.fills:
                self.trades.append(Trade(result.planned.action_type, fill))

    def _take_emergency(self, report: EmergencyReport | None) -> None:
        for execution in report.executions if report is not None else ():
            self._take(execution)


def planned_steps(env: FuturesEnv, max_steps: int | None) -> int:
    """Steps that a run on `env` takes if nothing ends it early."""
    steps = env.last_index - env.first_index
    return steps if max_steps is None else min(steps, max_steps)


def build_env(
    setup: AgentSetup,
    market: Market,
    *,
    start: str | int | None = None,
    end: str | int | None = None,
    features: FeatureTable | None = None,
) -> FuturesEnv:
    """The simulated environment that an agent is meant for.

    Raises:
        InputError: the span is too short, or the market does not suit the agent.
    """
    table = market_features(market, setup.features) if features is None else features
    return FuturesEnv(
        market,
        features=table,
        scaler=setup.scaler,
        config=setup.env,
        start=start,
        end=end,
        agent=setup.agent.name,
    )


def simulate(
    setup: AgentSetup,
    env: FuturesEnv,
    *,
    seed: int | None = None,
    steps_path: Path | None = None,
    emergencies_path: Path | None = None,
    keep_records: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: OnStep | None = None,
) -> Simulation:
    """Run an agent over `env` through risk control and step log, as live does.

    The risk state lives in memory: a simulation can be repeated, so a halt in one says nothing about the next.

    Args:
        setup: the agent with its limits.
        env: from `build_env`.
        seed: of the agent and the environment.
        steps_path, emergencies_path: the CSV files to write; None writes none.
        keep_records: keep the rows of the step log in memory.
        should_stop: asked between steps.
        on_step: told after steps.
    """
    risk = RiskControl(env, setup.limits)
    if steps_path is None and not keep_records:
        return _run(env, risk, setup.agent, setup.max_steps, seed, should_stop, on_step, risk)
    log = StepLog(
        risk,
        agent=setup.agent.name,
        path=steps_path,
        emergencies_path=emergencies_path,
        keep_records=keep_records,
    )
    try:
        return _run(
            env, log, setup.agent, setup.max_steps, seed, should_stop, on_step, risk, log, keep=keep_records
        )
    finally:
        log.close()


def simulate_benchmarks(env: FuturesEnv, max_steps: int | None) -> Mapping[str, Simulation]:
    """Buy-and-hold and flat over the candles of `env`: same capital, fees, slippage and funding, no risk limits.

    They run the whole span, also where the agent on `env` was stopped early.
    """
    market, config = env.market, env.config
    first_ms = int(market.open_time_ms[env.first_index])
    end_ms = int(market.open_time_ms[env.last_index]) + market.interval_ms
    found = {}
    for name in BENCHMARKS:
        setup = baseline_setup(name, symbols=len(market.symbols))
        costs = {
            "initial_capital_usdt": config.initial_capital_usdt,
            "slippage_bps": config.slippage_bps,
            "taker_fee_fraction": config.taker_fee_fraction,
        }
        settings = EnvConfig.parse({**setup.env.model_dump(), **costs}, where=name)
        table = market_features(market, setup.features)
        own = FuturesEnv(
            market,
            features=table,
            config=settings,
            instruments={instrument.symbol: instrument for instrument in env.instruments},
            start=first_ms,
            end=end_ms,
            agent=name,
        )
        found[name] = _run(own, own, setup.agent, max_steps, None, lambda: False, None)
    return found


def _run(
    env: FuturesEnv,
    stack: TradingEnv | TradingWrapper,
    agent: Agent,
    max_steps: int | None,
    seed: int | None,
    should_stop: Callable[[], bool],
    on_step: OnStep | None,
    risk: RiskControl | None = None,
    log: StepLog | None = None,
    *,
    keep: bool = False,
) -> Simulation:
    recorder = _Recorder(env, planned_steps(env, max_steps), on_step)
    limits = ahead_limits(env, risk.limits if risk is not None else None)
    outcome: RunResult
    rows: Sequence[Sequence[StepRecord]] = ()
    if limits is not None and isinstance(agent, ForesightedAgent):
        ahead = AheadRun(env, stack, risk=risk, log=log, keep=keep, limits=limits, listener=recorder)
        outcome = ahead.run(agent, max_steps=max_steps, seed=seed, should_stop=should_stop)
        rows = ahead.finish()
    else:
        outcome = run(
            stack,
            agent,
            max_steps=max_steps,
            seed=seed,
            should_stop=should_stop,
            on_execution=recorder.on_execution,
            on_advance=recorder.on_advance,
        )
        if log is not None:
            log.finish()
            rows = (tuple(log.records),)
    if not recorder.equity:
        recorder.mark()
    equity = np.array(recorder.equity)
    time_ms = np.array(recorder.time_ms, np.int64)
    equity.flags.writeable = time_ms.flags.writeable = False
    fills = [trade.fill for trade in recorder.trades]
    return Simulation(
        agent=agent.name,
        symbols=env.symbols,
        interval_ms=env.market.interval_ms,
        time_ms=time_ms,
        equity=equity,
        trades=tuple(recorder.trades),
        metrics=compute_metrics(equity, env.market.interval_ms, fills, funding_usdt=env.totals()["funding"]),
        ending=outcome.ending,
        emergency=outcome.emergency,
        account=env.account(),
        records=StepRows(rows),
    )


def describe_span(simulation: Simulation) -> str:
    """`2023-01-01 00:00 UTC to 2023-02-01 00:00 UTC`: see `Simulation.span_ms`."""
    start_ms, end_ms = simulation.span_ms
    return f"{format_time(start_ms)} to {format_time(end_ms)}"
