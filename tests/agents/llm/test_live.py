"""Live: the same prompts and rows as in the backtest, over the wire, and `live.py --agent llm:FILE`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from live_support import REPOSITORY, bare_environ, live, rig, rows_of
from llm_servers import KEY, KEY_NAME, Answer, LlmServer, Question, llm_file, opening, records, say
from sqlalchemy import select

from agents.base import AgentSetup
from agents.catalog import make_agent
from agents.llm.agent import LlmAgent
from agents.run import run
from agents.simulate import build_env
from envs.instruments import default_instruments
from envs.synthetic import synthetic_market
from envs.wrappers import RiskControl, StepLog
from live.store import Store
from live.store.journal_models import DecisionRow
from live.store.models import Fill

SYMBOLS = ("BTCUSDT", "ETHUSDT")
STEPS = 14


def trader(question: Question) -> Answer:
    """Opens both ways with close stops, turns round, closes: by the prices and the time it is shown."""
    words = question.user
    prices = [float(one) for one in re.findall(r"^Price ([\d.]+)", words, re.MULTILINE)]
    hour = int(re.findall(r"Time: .* (\d\d):", words)[0])
    pick = hour % 2
    if hour % 5 == 4 and f"{SYMBOLS[pick]} LONG" in words:
        return say({"action": "CLOSE_POSITION", "symbol": SYMBOLS[pick]})
    side = "BUY" if hour % 3 else "SELL"
    near = prices[pick] * (0.997 if side == "BUY" else 1.003)
    return say(opening(SYMBOLS[pick], side=side, quantity=round(700 / prices[pick], 3), stop_loss=near))


@pytest.fixture
def setups(server: LlmServer, tmp_path: Path) -> Iterator[Any]:
    made: list[AgentSetup] = []

    def make(**changes: Any) -> AgentSetup:
        path = llm_file(tmp_path, server.url, "openai", cache=None, **changes)
        made.append(make_agent(f"llm:{path}", symbols=SYMBOLS))
        return made[-1]

    yield make
    for setup in made:
        setup.agent.close()


def test_live_prompts_and_rows_are_those_of_the_backtest(server: LlmServer, setups: Any) -> None:
    server.script = trader
    market = synthetic_market(SYMBOLS, n=60, seed=9)
    prompts, rows = [], []
    for where in ("backtest", "live"):
        setup = setups()
        server.questions.clear()
        if where == "backtest":
            env = build_env(setup, market, start=int(market.open_time_ms[20]))
            log = StepLog(RiskControl(env, setup.limits), agent="llm-t", keep_records=True)
            run(log, setup.agent, max_steps=STEPS)
            log.close()
            rows.append(log.records)
        else:
            with rig(
                market,
                first=20,
                config=setup.env,
                limits=setup.limits,
                features=setup.features,
                agent="llm-t",
            ) as live_rig:
                run(live_rig.stack, setup.agent, max_steps=STEPS)
                live_rig.stack.finish()
                rows.append(live_rig.stack.records)
        prompts.append([question.user for question in server.questions])
    assert len(prompts[0]) == STEPS
    assert "stop_loss" in prompts[0][-1] and "filled" in prompts[0][-1]
    assert prompts[1] == prompts[0]
    assert len(rows[0]) == len(rows[1]) > 2 * STEPS
    for ours, theirs in zip(*rows, strict=True):
        # Trade ids are the exchange's own; equality of numbers is the parity tests' business.
        names = ("timestamp", "symbol", "action_type", "operation", "result", "quantity")
        assert {k: asdict(ours)[k] for k in names} == {k: asdict(theirs)[k] for k in names}


def test_live_py_trades_by_a_models_decisions(server: LlmServer, tmp_path: Path) -> None:
    price = float(default_instruments()["BTCUSDT"].min_notional_usdt)
    assert price == 50
    server.script = lambda question: (
        say(opening(quantity=0.01, leverage=2))
        if len(server.questions) == 1
        else Answer("status", status=500)
    )
    server.questions.clear()
    path = llm_file(tmp_path, server.url, budget={"decisions_per_hour": None})
    database = f"sqlite:///{tmp_path}/db.sqlite"
    done = live(
        "--agent", f"llm:{path}", "--paper", "--steps", "3", "--out", tmp_path / "out", "--db", database,
        environ=bare_environ(**{KEY_NAME: KEY}),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "out")
    assert [row["symbol"] for row in rows[:2]] == list(SYMBOLS)  # the file's own, at its own interval
    assert [row["action_type"] for row in rows if row["symbol"] == "BTCUSDT"][:2] == ["open_long", "hold"]
    assert [one["verdict"] for one in records(tmp_path)] == ["accepted", "failed", "failed"]
    # In the database too, by the account that --db made.
    with Store.open(database) as store, store.read() as connection:
        rows = connection.execute(select(DecisionRow).order_by(DecisionRow.id)).all()
        orders = set(connection.scalars(select(Fill.client_order_id)))
    assert [(one.verdict, one.action) for one in rows] == [
        ("ACCEPTED", "OPEN_POSITION"), ("FAILED", "HOLD"), ("FAILED", "HOLD"),
    ]  # fmt: skip
    assert rows[0].client_order_id in orders
    assert (rows[0].input_tokens, rows[0].cached_tokens, rows[0].calls) == (1100, 1000, 1)
    # Notices wrap with the terminal's width.
    shown = " ".join((done.stdout + done.stderr).split())
    assert "3 decisions (1 accepted, 2 failed)" in shown
    assert KEY not in done.stdout + done.stderr


def test_live_py_says_what_is_missing_before_it_starts(server: LlmServer, tmp_path: Path) -> None:
    path = llm_file(tmp_path, server.url)
    done = live(
        "--agent", f"llm:{path}", "--paper", "--out", tmp_path / "out", environ=bare_environ(**{KEY_NAME: ""})
    )
    assert done.returncode == 2
    assert KEY_NAME in done.stderr
    assert not list(tmp_path.glob("out/steps_*"))


def test_a_hung_provider_costs_its_step_no_more_than_its_limit(server: LlmServer, setups: Any) -> None:
    server.plan(Answer("hang"))
    setup = setups(provider={"timeout_s": 0.3})
    env = build_env(setup, synthetic_market(SYMBOLS, n=20, seed=1))
    began = time.monotonic()
    run(RiskControl(env, setup.limits), setup.agent, max_steps=2)
    assert 0.6 <= time.monotonic() - began < 30
    assert setup.agent.tally.verdicts == {"failed": 2}


def test_a_run_that_goes_on_counts_what_was_spent_before(
    server: LlmServer, setups: Any, tmp_path: Path
) -> None:
    budget = {"decisions_per_hour": None, "tokens_per_day": 3000}
    log = tmp_path / "decisions.log"
    verdicts = []
    # 1120 tokens each: the third decision crosses the limit.
    for resumed in (False, True, False):
        setup = setups(budget=budget)
        env = build_env(setup, synthetic_market(SYMBOLS, n=20, seed=1))
        if resumed:
            setup.agent.resume(tmp_path)
        run(RiskControl(env, setup.limits), setup.agent, max_steps=4)
        setup.agent.close()
        verdicts.append(dict(setup.agent.tally.verdicts))
        # What an earlier run of the same day has left, killed in the middle of a line.
        earlier = [{**row, "close_ms": row["close_ms"] - 3 * 3_600_000} for row in records(tmp_path)[:3]]
        other = {**earlier[0], "agent": "another"}
        log.write_text("".join(json.dumps(row) + "\n" for row in [*earlier, other]) + '{"torn')
    assert verdicts == [
        {"accepted": 3, "over_budget": 1},
        {"over_budget": 4},
        {"accepted": 3, "over_budget": 1},
    ]
    setup = setups()
    setup.agent.resume(tmp_path)
    run(RiskControl(env, setup.limits), setup.agent, max_steps=1)
    setup.agent.close()
    lines = log.read_text().splitlines()
    assert lines[4] == '{"torn' and json.loads(lines[5])["verdict"] == "accepted"


def test_budgets_are_kept_over_a_restart_where_no_decisions_are_logged(
    server: LlmServer, setups: Any, tmp_path: Path
) -> None:
    verdicts = []
    # 1120 tokens each; a decision that was not asked for costs nothing.
    for first, steps in ((0, 2), (2, 3)):
        setup = setups(budget={"tokens_per_day": 3000}, records={"log": None})
        market = synthetic_market(SYMBOLS, n=20, seed=1)
        env = build_env(setup, market, start=int(market.open_time_ms[4 + first]))
        setup.agent.resume(tmp_path / "run")
        run(RiskControl(env, setup.limits), setup.agent, max_steps=steps)
        setup.agent.close()
        verdicts.append(dict(setup.agent.tally.verdicts))
    assert verdicts == [{"accepted": 2}, {"accepted": 1, "over_budget": 2}]
    (file,) = (tmp_path / "run").iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    # Nothing of what was said: no log was asked for.
    # A line before each call, and one with its tokens.
    assert [set(line) for line in lines] == [{"agent", "close_ms", "calls", "usage"}] * 6


def test_a_hung_agent_in_a_thread_of_its_own_holds_up_no_other(server: LlmServer, tmp_path: Path) -> None:
    """As an arena runs them: each agent with its loop in a thread."""
    server.script = lambda question: (
        Answer("hang") if question.body["model"] == "slow" else say({"action": "HOLD"})
    )
    server.models = ("slow", "quick")
    tallies: dict[str, Any] = {}

    def play(model: str) -> None:
        folder = tmp_path / model
        folder.mkdir()
        path = llm_file(folder, server.url, provider={"model": model, "timeout_s": 300.0}, cache=None)
        setup = make_agent(f"llm:{path}", symbols=SYMBOLS)
        env = build_env(setup, synthetic_market(SYMBOLS, n=20, seed=1))
        run(RiskControl(env, setup.limits), setup.agent, max_steps=1 if model == "slow" else 8)
        setup.agent.close()
        assert isinstance(setup.agent, LlmAgent)
        tallies[model] = dict(setup.agent.tally.verdicts)

    import anthropic  # noqa: F401  (its import takes seconds, once)

    slow, quick = (threading.Thread(target=play, args=(model,)) for model in ("slow", "quick"))
    slow.start()
    quick.start()
    quick.join(100)
    assert slow.is_alive() and not quick.is_alive()
    server.let_go()
    slow.join(100)
    assert tallies == {"slow": {"failed": 1}, "quick": {"accepted": 8}}


def test_making_an_agent_imports_no_sdk(tmp_path: Path) -> None:
    code = f"""
import sys
from agents.catalog import make_agent
make_agent("ema-cross", symbols=("BTCUSDT",))
assert not [name for name in sys.modules if name.startswith("agents.llm")]
make_agent("llm:{llm_file(tmp_path)}", symbols=("BTCUSDT",))
found = {{"anthropic", "openai", "httpx", "httpx2"}} & set(sys.modules)
assert not found, found
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
