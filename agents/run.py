"""The loop. Backtest, paper, testnet and live differ in the environment that it is handed, never here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from agents.base import Agent, HearsExecution
from envs.account import EmergencyReport, Execution, Plan
from envs.base import Action, StepResult, TradingEnv, TradingWrapper
from envs.view import VIEW


class Ending(StrEnum):
    """Why a run ended."""

    TRUNCATED = "truncated"  # no candle left, or the asked number of steps is done
    TERMINATED = "terminated"  # liquidated, or the environment's own drawdown limit
    EMERGENCY = "emergency"  # the emergency protocol ran
    STOPPED = "stopped"  # the user asked


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended, after how many steps."""

    steps: int
    ending: Ending
    emergency: EmergencyReport | None = None


OnExecution = Callable[[Plan, Execution], None]
OnAdvance = Callable[[StepResult], None]


def run(
    env: TradingWrapper | TradingEnv,
    agent: Agent,
    *,
    max_steps: int | None = None,
    seed: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_execution: OnExecution | None = None,
    on_advance: OnAdvance | None = None,
) -> RunResult:
    """Reset, then act and step until the end.

    `should_stop` is asked between steps. `on_execution` sees every plan and what became of it, before the next
    candle is awaited; `on_advance` sees every step's result.
    """
    observation, info = env.reset(seed=seed)
    agent.reset(env.spec_observation, seed=seed)
    report: EmergencyReport | None = info.get("emergency")
    if report is not None:
        return RunResult(0, Ending.EMERGENCY, report)
    steps = 0
    view = env.view
    while max_steps is None or steps < max_steps:
        if should_stop():
            return RunResult(steps, Ending.STOPPED)
        action = agent.act(observation, {**info, VIEW: view})
        result, ending, report = take_step(
            env, agent, action, on_execution=on_execution, on_advance=on_advance
        )
        steps += 1
        if ending is not None:
            return RunResult(steps, ending, report)
        observation, info = result[0], result[4]
    return RunResult(steps, Ending.TRUNCATED)


def take_step(
    env: TradingWrapper | TradingEnv,
    agent: Agent,
    action: Action,
    *,
    on_execution: OnExecution | None = None,
    on_advance: OnAdvance | None = None,
) -> tuple[StepResult, Ending | None, EmergencyReport | None]:
    """One round of the loop: what the step gave, why the run ends with it (None when it goes on), an emergency."""
    plan = env.plan(action)
    execution = env.execute(plan)
    if isinstance(agent, HearsExecution):
        agent.on_execution(plan, execution)
    if on_execution is not None:
        on_execution(plan, execution)
    result = env.advance()
    if on_advance is not None:
        on_advance(result)
    _, _, terminated, truncated, info = result
    report: EmergencyReport | None = execution.emergency or info.get("emergency")
    if report is not None:
        return result, Ending.EMERGENCY, report
    if terminated:
        return result, Ending.TERMINATED, None
    return result, Ending.TRUNCATED if truncated else None, None
