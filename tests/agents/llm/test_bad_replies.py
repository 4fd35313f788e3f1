"""The real SDKs against a server with every kind of bad reply: what is traded, and what is written down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from llm_servers import HOLD, KEY, Answer, LlmServer, llm_file, opening, records, say
from support import flat_rows, instrument, market_of

from agents.base import AgentSetup
from agents.catalog import make_agent
from agents.llm.agent import LlmAgent
from agents.run import run
from envs.account import Approved, Execution, Fill, Plan
from envs.features import market_features
from envs.futures_env import FuturesEnv
from envs.market import Market
from envs.risk import RiskContext, RiskLimits, judge
from envs.risk_state import fresh_state
from envs.view import VIEW
from envs.wrappers import RiskControl, StepLog

SYMBOLS = ("BTCUSDT", "ETHUSDT")
PROTOCOLS = {
    "anthropic-schema": ("anthropic", "schema"),
    "anthropic-tool": ("anthropic", "tool"),
    "openai-schema": ("openai", "schema"),
    "openai-tool": ("openai", "tool"),
    "openai-json": ("openai", "json"),
}


class Strict(FuturesEnv):
    """Judges every order that arrives once more: the risk layer must have nothing against it."""

    limits = RiskLimits()

    def execute(self, plan: Plan | Approved[Plan]) -> Execution:
        assert isinstance(plan, Approved), "an order went round the risk layer"
        account = self.account()
        for entry in plan.value.entries:
            verdict = judge(
                entry,
                RiskContext(
                    limits=self.limits,
                    state=fresh_state(account.equity_usdt, account.time_ms),
                    account=account,
                    instruments={one.symbol: one for one in self.instruments},
                    leverage={one.symbol: self.config.leverage_setting(one) for one in self.instruments},
                    quantities={symbol: p.quantity for symbol, p in account.positions.items()},
                ),
            )
            assert isinstance(verdict, Approved) and verdict.value == entry, entry
        return super().execute(plan)


@dataclass
class Outcome:
    record: dict[str, Any]
    fills: list[Fill]
    questions: int


@contextmanager
def agent_of(path: Path, **sections: Any) -> Iterator[tuple[LlmAgent, Any]]:
    setup = make_agent(f"llm:{path}", symbols=SYMBOLS, config=sections)
    assert isinstance(setup.agent, LlmAgent)
    try:
        yield setup.agent, setup
    finally:
        setup.agent.close()


def calm(candles: int) -> Market:
    return market_of({"BTCUSDT": flat_rows(*[100.0] * candles), "ETHUSDT": flat_rows(*[10.0] * candles)})


def strict_env(market: Market, setup: AgentSetup) -> Strict:
    env = Strict(
        market,
        features=market_features(market, setup.features),
        config=setup.env,
        instruments={symbol: instrument(symbol) for symbol in SYMBOLS},
        agent=setup.agent.name,
    )
    env.limits = setup.limits
    return env


def one_step(path: Path, folder: Path, server: LlmServer) -> Outcome:
    with agent_of(path) as (agent, setup):
        log = StepLog(
            RiskControl(strict_env(calm(9), setup), setup.limits), agent=agent.name, keep_records=True
        )
        run(log, agent, max_steps=1)
    (record,) = records(folder)
    return Outcome(record, log.fills, len(server.questions))


# What is answered first; then the verdict, words of the reason, how often is asked (with its repair or its retry).
BAD: dict[str, tuple[Answer, str, str, int]] = {
    "prose": (say("I would buy some bitcoin now."), "invalid", "no JSON object", 2),
    "cut JSON": (say('{"action": "OPEN_POSITION", "symbol": "BTC'), "invalid", "not valid JSON", 2),
    "cut around a whole one": (say('{"decision": ' + json.dumps(opening())), "invalid", "not valid JSON", 2),
    "two objects": (say(json.dumps(HOLD) + " or " + json.dumps(opening())), "invalid", "2 JSON objects", 2),
    "a list": (say([1, 2]), "invalid", "no JSON object", 2),
    "wrong fields": (say({"move": "buy", "size": 3}), "invalid", "action: Field required", 2),
    "extra field": (say(opening(max_leverage=125)), "invalid", "max_leverage: Extra inputs", 2),
    "text for a number": (
        say(opening(quantity="1")),
        "invalid",
        "quantity: Input should be a valid number",
        2,
    ),
    "true for a number": (
        say(opening(quantity=True)),
        "invalid",
        "quantity: Input should be a valid number",
        2,
    ),
    "unknown action": (say(opening(action="BUY_ALL")), "invalid", "action: Input should be", 2),
    "unknown symbol": (say(opening("SOLUSDT")), "invalid", "'SOLUSDT' is none of", 2),
    "no quantity": (say(opening(quantity=None)), "invalid", "OPEN_POSITION needs quantity", 2),
    "NaN": (say(json.dumps(opening()).replace('"quantity": 1', '"quantity": NaN')), "invalid", "", 2),
    "infinite": (say(json.dumps(opening()).replace('"quantity": 1', '"quantity": 1e999')), "invalid", "", 2),
    "negative quantity": (say(opening(quantity=-5)), "invalid", "greater than 0", 2),
    "zero quantity": (say(opening(quantity=0)), "invalid", "greater than 0", 2),
    "negative stop": (say(opening(stop_loss=-1)), "invalid", "greater than 0", 2),
    "sure beyond sure": (say(opening(confidence=7)), "invalid", "less than or equal to 1", 2),
    "empty": (say(""), "invalid", "empty", 2),
    "refusal": (Answer("refuse", "I will not trade."), "invalid", "refuses", 1),
    "half a character": (say("\ud800 and no JSON"), "invalid", "no JSON object", 2),
    "half a character in a decision": (say(opening(symbol="\udfff")), "invalid", "is none of", 2),
    "NUL": (say("\0"), "invalid", "no JSON object", 2),
    "a number of 400 digits": (
        say(json.dumps(opening()).replace('"quantity": 1', '"quantity": 1' + "0" * 400)),
        "invalid",
        "quantity: Input should be a valid number",
        2,
    ),
    "truncated": (Answer("truncate", json.dumps(opening())), "invalid", "cut off", 2),
    "huge leverage": (say(opening(leverage=1e300)), "rejected", "leverage: 1e+300 against a limit of 3", 1),
    "stop above a long": (say(opening(stop_loss=101)), "rejected", "below the price of 100", 1),
    "take-profit below it": (say(opening(take_profit=99)), "rejected", "above the price of 100", 1),
    "nothing to close": (
        say({"action": "CLOSE_POSITION", "symbol": "ETHUSDT"}),
        "rejected",
        "none in ETHUSDT",
        1,
    ),
    "less than a step": (say(opening(quantity=5e-324)), "rejected", "nothing is left of", 1),
    "too small": (say(opening(quantity=0.01)), "rejected", "minimum notional of 5", 1),
    "429": (Answer("status", status=429, headers={"retry-after": "0"}), "failed", "HTTP 429", 2),
    "500": (Answer("status", status=500), "failed", "HTTP 500", 2),
    "529": (Answer("status", status=529, message="Overloaded"), "failed", "HTTP 529: ", 2),
    "401": (Answer("status", status=401, message=f"bad key {KEY}"), "failed", "HTTP 401", 1),
    "400": (Answer("status", status=400, message="credit balance is too low"), "failed", "credit balance", 1),
    "html": (Answer("html"), "failed", "the reply is no", 2),
    "broken body": (Answer("broken"), "failed", "", 2),
    "odd body": (Answer("odd"), "failed", "", 2),
    "nested too deeply": (Answer("raw", "[" * 100_000), "failed", "RecursionError", 2),
    "infinite tokens": (
        Answer("raw", '{"usage": {"input_tokens": 1e999}, "choices": [], "content": 7}'),
        "failed",
        "",
        2,
    ),
    "connection dropped": (Answer("drop"), "failed", "APIConnectionError", 2),
    "connection cut in the reply": (Answer("cut", json.dumps(opening())), "failed", "APIConnectionError", 2),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_bad_reply_trades_nothing_and_is_written_down(
    protocol: str, server: LlmServer, tmp_path: Path
) -> None:
    """One run with a candle for each bad reply. A test for each would start as many SDKs and markets."""
    provider, reply = PROTOCOLS[protocol]
    current: list[Answer] = []
    server.script = lambda _question: current[-1]
    server.questions.clear()
    found: dict[str, Outcome] = {}
    with agent_of(llm_file(tmp_path, server.url, provider, provider=_provider(reply))) as (agent, setup):
        env = strict_env(calm(len(BAD) + 5), setup)
        log = StepLog(RiskControl(env, setup.limits), agent=agent.name, keep_records=True)
        observation, info = log.reset()
        agent.reset(log.spec_observation)
        for kind, (answer, *_) in BAD.items():
            current.append(answer)
            asked = len(server.questions)
            plan = log.plan(agent.act(observation, {**info, VIEW: log.view}))
            agent.on_execution(plan, log.execute(plan))
            observation, _, _, _, info = log.advance()
            found[kind] = Outcome(records(tmp_path)[-1], [], len(server.questions) - asked)
        log.close()
    assert log.fills == []
    assert len(records(tmp_path)) == len(BAD)
    assert KEY not in (tmp_path / "decisions.log").read_text(encoding="utf-8")
    wrong = {}
    for kind, (_, verdict, reason, asked) in BAD.items():
        record = found[kind].record
        as_expected = record["verdict"] == verdict and reason in record["detail"] and record["detail"]
        if not as_expected or not found[kind].questions == record["calls"] == asked:
            wrong[kind] = (record, found[kind].questions)
    assert wrong == {}


def _provider(reply: str, **changes: Any) -> dict[str, Any]:
    return {"reply": reply, **changes}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_reply_that_takes_too_long_is_given_up(protocol: str, server: LlmServer, tmp_path: Path) -> None:
    """One that hangs, and one that drips: two candles of one run, for the reason given above."""
    provider, reply = PROTOCOLS[protocol]
    server.plan(Answer("hang"), Answer("drip", json.dumps(opening())))
    path = llm_file(tmp_path, server.url, provider, provider=_provider(reply, timeout_s=0.2))
    with agent_of(path) as (agent, setup):
        log = StepLog(
            RiskControl(strict_env(calm(9), setup), setup.limits), agent=agent.name, keep_records=True
        )
        run(log, agent, max_steps=2)
    assert log.fills == []
    found = records(tmp_path)
    assert [(one["verdict"], one["check"], one["calls"]) for one in found] == [("failed", "provider", 1)] * 2
    for one in found:
        assert "0.2 s" in one["detail"] or "imed out" in one["detail"]
        # The drip would take half a minute.
        assert one["latency_ms"] < 20_000
    # Fewer where a machine takes longer to connect.
    assert len(server.questions) <= 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_good_reply_is_carried_out(protocol: str, server: LlmServer, tmp_path: Path) -> None:
    provider, reply = PROTOCOLS[protocol]
    server.plan(say(opening(quantity=3, stop_loss=95)))
    outcome = one_step(llm_file(tmp_path, server.url, provider, provider=_provider(reply)), tmp_path, server)
    assert outcome.record["verdict"] == "accepted"
    assert [(fill.symbol, fill.signed_quantity) for fill in outcome.fills] == [("BTCUSDT", Decimal(3))]
    assert outcome.record["fills"] == [["BTCUSDT", "BUY", "3", "100"]]
    assert outcome.record["usage"] == {
        "input_tokens": 100,
        "cached_tokens": 1000,
        "cache_write_tokens": 0,
        "output_tokens": 20,
    }
    (question,) = server.questions
    if provider == "anthropic":
        assert question.body["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert KEY in (
        question.headers.get("x-api-key", ""),
        question.headers["authorization"].removeprefix("Bearer "),
    )
    assert question.body["temperature"] == 0.5


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
@pytest.mark.parametrize("quantity", [20, 25, 1e6, 1e300])
def test_a_quantity_over_the_margin_is_cut_to_what_the_limits_allow(
    quantity: float, provider: str, server: LlmServer, tmp_path: Path
) -> None:
    server.plan(say(opening(quantity=quantity, leverage=3)))
    outcome = one_step(llm_file(tmp_path, server.url, provider), tmp_path, server)
    # 1000 USDT at a risk limit of 2 times equity, at 100 USDT each.
    assert [fill.quantity for fill in outcome.fills] == [Decimal(20)]
    assert outcome.record["verdict"] == ("accepted" if quantity == 20 else "reduced")
    assert outcome.record["check"] == ("" if quantity == 20 else "max_leverage")


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
@pytest.mark.parametrize(
    "words", ["Here it is:\n```json\n{}\n```\nGood luck!", "{}", "Sure. {} That is all."]
)
def test_a_decision_in_other_words_is_understood(
    words: str, provider: str, server: LlmServer, tmp_path: Path
) -> None:
    server.plan(say(words.replace("{}", json.dumps(opening()))))
    outcome = one_step(llm_file(tmp_path, server.url, provider, provider={"reply": "json"}), tmp_path, server)
    assert outcome.record["verdict"] == "accepted"
    assert outcome.questions == 1


def test_one_repair_tells_the_model_what_was_wrong(server: LlmServer, tmp_path: Path) -> None:
    server.plan(say(opening(quantity=-5)), say(opening()))
    outcome = one_step(llm_file(tmp_path, server.url), tmp_path, server)
    assert outcome.record["verdict"] == "accepted"
    assert outcome.record["repaired"] is True
    first, second = server.questions
    assert [message["role"] for message in second.body["messages"]] == ["user", "assistant", "user"]
    assert second.body["messages"][0] == first.body["messages"][0]
    assert "quantity: Input should be greater than 0" in second.user
    assert outcome.record["usage"]["output_tokens"] == 40


def test_one_retry_after_a_failure_and_not_a_second_one(server: LlmServer, tmp_path: Path) -> None:
    server.plan(Answer("status", status=503), say(opening()))
    assert one_step(llm_file(tmp_path, server.url), tmp_path, server).record["verdict"] == "accepted"
    server.plan(Answer("status", status=503), say("?"), Answer("status", status=503), say(opening()))
    (tmp_path / "b").mkdir()
    outcome = one_step(llm_file(tmp_path / "b", server.url), tmp_path / "b", server)
    assert outcome.record["verdict"] == "failed"
    assert outcome.questions == 3
