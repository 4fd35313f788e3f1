"""What a run that was killed spent of the budgets is known to the next, wherever it was killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llm_scripted import SYMBOLS, Script, made
from llm_servers import HOLD, opening

from agents.llm.agent import LlmAgent
from agents.llm.records import DecisionRecord, Verdict
from agents.llm.request import Request
from agents.llm.spending import SPENDING_NAME
from agents.simulate import build_env
from envs.synthetic import synthetic_market
from envs.view import VIEW

# Of one of the scripted replies.
TOKENS = 110
OPEN = opening(quantity=0.01)


class Killed(BaseException):
    """The process is gone."""


def decide(folder: Path, script: Script, candle: int, *, die: bool = False, **changes: Any) -> DecisionRecord:
    """Start anew in this folder and decide on one candle; `die` before anything of the outcome is known."""
    setup, _, sink = made(folder, script, **changes)
    market = synthetic_market(SYMBOLS, n=20, seed=1)
    env = build_env(setup, market, start=int(market.open_time_ms[4 + candle]))
    observation, info = env.reset()
    agent = setup.agent
    assert isinstance(agent, LlmAgent)
    agent.reset(env.spec_observation)
    agent.resume(folder)
    plan = env.plan(agent.act(observation, {**info, VIEW: env.view}))
    if die:
        raise Killed
    agent.on_execution(plan, env.execute(plan))
    return sink.records[-1]


def spent_before(folder: Path, candle: int, **changes: Any) -> str:
    """What a new start knows, in the words of a budget that is used up."""
    record = decide(folder, lambda _k, _r: HOLD, candle, budget={"tokens_per_day": 1}, **changes)
    assert record.verdict is Verdict.OVER_BUDGET and record.calls == 0
    return record.detail


@pytest.mark.parametrize("log", [None, "decisions.log"])
def test_a_decision_is_paid_for_though_its_outcome_was_never_written(log: str | None, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"records": {"log": None if log is None else str(tmp_path / log)}}
    with pytest.raises(Killed):
        decide(tmp_path, lambda _k, _r: OPEN, 0, die=True, **changes)
    decide(tmp_path, lambda _k, _r: OPEN, 1, **changes)
    assert spent_before(tmp_path, 2, **changes) == f"tokens_per_day: {2 * TOKENS} of 1"


def test_a_reply_is_paid_for_though_the_repair_was_never_answered(tmp_path: Path) -> None:
    def script(k: int, _request: Request) -> Any:
        if k == 1:
            raise Killed
        return "what?"

    with pytest.raises(Killed):
        decide(tmp_path, script, 0)
    assert spent_before(tmp_path, 1) == f"tokens_per_day: {TOKENS} of 1"


def test_a_question_that_was_never_answered_is_a_decision_of_its_hour(tmp_path: Path) -> None:
    def script(_k: int, _request: Request) -> Any:
        raise Killed

    with pytest.raises(Killed):
        decide(tmp_path, script, 0)
    rows = [json.loads(line) for line in (tmp_path / SPENDING_NAME).read_text().splitlines()]
    assert [(row["calls"], sum(row["usage"].values())) for row in rows] == [(1, 0)]
    # In the same hour once more, as a process does that starts again at once and keeps no replies.
    record = decide(tmp_path, lambda _k, _r: HOLD, 0, budget={"decisions_per_hour": 1})
    assert record.detail == "decisions_per_hour: 1 of 1"


@pytest.mark.parametrize(("cached", "times"), [(True, 1), (False, 2)])
def test_a_candle_that_is_decided_on_again_costs_what_was_paid(
    cached: bool, times: int, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"cache": str(tmp_path / "cache") if cached else None}
    limit = {"tokens_per_day": TOKENS + 1}
    with pytest.raises(Killed):
        decide(tmp_path, lambda _k, _r: OPEN, 0, die=True, **changes)
    again = decide(tmp_path, lambda _k, _r: OPEN, 0, budget=limit, **changes)
    assert again.calls == (0 if cached else 1)
    assert spent_before(tmp_path, 1, **changes) == f"tokens_per_day: {times * TOKENS} of 1"
