"""What models and servers refuse, and what is found out at the start."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from llm_servers import HOLD, KEY, KEY_NAME, MODEL, Answer, LlmServer, llm_file, opening, say

from agents.base import AgentSetup
from agents.catalog import make_agent
from agents.llm.agent import LlmAgent
from agents.llm.providers import SdkProvider
from agents.simulate import build_env, simulate
from envs.errors import ConfigError, CredentialsError
from envs.futures_env import FuturesEnv
from envs.synthetic import synthetic_market

SYMBOLS = ("BTCUSDT", "ETHUSDT")


def setup_of(path: Path) -> tuple[LlmAgent, AgentSetup, FuturesEnv]:
    setup = make_agent(f"llm:{path}", symbols=SYMBOLS)
    assert isinstance(setup.agent, LlmAgent)
    return setup.agent, setup, build_env(setup, synthetic_market(SYMBOLS, n=16, seed=2))


def played(path: Path, steps: int = 3) -> LlmAgent:
    agent, setup, env = setup_of(path)
    setup = AgentSetup(agent, setup.env, setup.features, limits=setup.limits, max_steps=steps)
    try:
        simulate(setup, env)
    finally:
        provider = agent._provider
        agent.close()
        agent._provider = provider  # for a look at what it remembers
    return agent


def provider_of(agent: LlmAgent) -> SdkProvider:
    assert isinstance(agent._provider, SdkProvider)
    return agent._provider


@pytest.mark.parametrize("kind", ["anthropic", "openai"])
def test_a_refused_temperature_is_left_out_once_and_for_all(
    kind: str, server: LlmServer, tmp_path: Path
) -> None:
    server.refused = {"temperature": "`temperature` is deprecated for this model."}
    agent = played(llm_file(tmp_path, server.url, kind))
    assert agent.tally.verdicts == {"accepted": 3}
    assert provider_of(agent).refused == {"temperature"}
    assert len(server.questions) == 3  # refused ones do not come so far
    assert all("temperature" not in question.body for question in server.questions)
    assert agent.tally.calls == 3


def test_a_refused_form_of_reply_is_followed_by_the_next(server: LlmServer, tmp_path: Path) -> None:
    server.refused = {"response_format": "This response_format type is unavailable now"}
    agent = played(llm_file(tmp_path, server.url, "openai"))
    assert agent.tally.verdicts == {"accepted": 3}
    assert provider_of(agent).mode == "tool"
    assert [question.body["tool_choice"]["function"]["name"] for question in server.questions] == [
        "decide"
    ] * 3
    server.refused |= {"tools": "tools are not supported by this model"}
    server.questions.clear()
    (tmp_path / "b").mkdir()
    agent = played(llm_file(tmp_path / "b", server.url, "openai"))
    assert provider_of(agent).mode == "text"
    assert agent.tally.verdicts == {"accepted": 3}


def test_a_claude_without_structured_output_is_given_the_tool(server: LlmServer, tmp_path: Path) -> None:
    server.refused = {"output_config": "output_config.format: structured outputs are not supported"}
    server.plan(say(opening(leverage=1, quantity=0.001, symbol="BTCUSDT")))
    agent = played(llm_file(tmp_path, server.url), steps=1)
    assert provider_of(agent).mode == "tool"
    assert server.questions[0].body["tools"][0]["strict"] is True


def test_a_form_that_was_asked_for_by_name_has_no_stand_in(server: LlmServer, tmp_path: Path) -> None:
    server.refused = {"response_format": "This response_format type is unavailable now"}
    agent = played(llm_file(tmp_path, server.url, "openai", provider={"reply": "schema"}), steps=1)
    assert agent.tally.verdicts == {"failed": 1}


def test_the_longest_reply_goes_by_the_name_that_the_server_knows(server: LlmServer, tmp_path: Path) -> None:
    server.refused = {
        "max_tokens": "Unsupported parameter: use 'max_completion_tokens' instead of 'max_tokens'."
    }
    agent = played(llm_file(tmp_path, server.url, "openai"))
    assert agent.tally.verdicts == {"accepted": 3}
    assert [question.body["max_completion_tokens"] for question in server.questions] == [1024] * 3


def test_a_refused_switch_of_ones_own_is_left_out(server: LlmServer, tmp_path: Path) -> None:
    server.refused = {"thinking": "unknown field `thinking`"}
    body = {"thinking": {"type": "disabled"}, "seed": 3}
    agent = played(llm_file(tmp_path, server.url, "openai", provider={"extra_body": body}))
    assert agent.tally.verdicts == {"accepted": 3}
    assert [question.body["seed"] for question in server.questions] == [3] * 3


@pytest.mark.parametrize("kind", ["anthropic", "openai"])
def test_an_unknown_model_is_an_error_at_the_start(kind: str, server: LlmServer, tmp_path: Path) -> None:
    server.models = ("test-model-2", "other")
    agent, _, env = setup_of(llm_file(tmp_path, server.url, kind))
    with pytest.raises(ConfigError, match=f"has no model '{MODEL}'") as caught:
        agent.reset(env.spec_observation)
    if kind == "openai":
        assert "test-model-2" in str(caught.value)
    assert server.questions == []


def test_a_server_that_tells_of_no_models_is_taken_at_its_word(server: LlmServer, tmp_path: Path) -> None:
    server.models = None
    assert played(llm_file(tmp_path, server.url, "openai")).tally.verdicts == {"accepted": 3}
    server.models = ("another",)
    path = llm_file(tmp_path, server.url, provider={"check_model": False})
    assert played(path).tally.verdicts == {"accepted": 3}


@pytest.mark.parametrize("kind", ["anthropic", "openai"])
def test_a_refused_key_is_an_error_at_the_start_that_does_not_show_it(
    kind: str, server: LlmServer, tmp_path: Path
) -> None:
    server.key_status = 401
    agent, _, env = setup_of(llm_file(tmp_path, server.url, kind))
    with pytest.raises(CredentialsError, match=KEY_NAME) as caught:
        agent.reset(env.spec_observation)
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value.__cause__)


def test_a_missing_key_names_its_variable(
    server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_NAME)
    agent, _, env = setup_of(llm_file(tmp_path, server.url))
    with pytest.raises(CredentialsError, match=f"set the environment variable {KEY_NAME}"):
        agent.reset(env.spec_observation)
    assert server.checks == []


@pytest.mark.parametrize("kind", ["anthropic", "openai"])
def test_a_missing_sdk_names_the_pip_command(
    kind: str, server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    agent, _, env = setup_of(llm_file(tmp_path, server.url, kind))
    with pytest.raises(ConfigError, match=r"pip install 'perpgym\[llm\]'"):
        agent.reset(env.spec_observation)


def test_a_provider_that_is_down_at_the_start_may_come_back(server: LlmServer, tmp_path: Path) -> None:
    server.key_status = 503
    agent = played(llm_file(tmp_path, server.url))
    assert agent.tally.verdicts == {"accepted": 3}
    assert "could not be asked about its model" in " ".join(agent.notices())


def test_a_local_server_needs_no_key(server: LlmServer, tmp_path: Path) -> None:
    path = llm_file(tmp_path, server.url, "openai", provider={"api_key_env": None})
    assert played(path).tally.verdicts == {"accepted": 3}
    assert server.questions[0].headers["authorization"] == "Bearer none"


def test_the_model_is_checked_once(server: LlmServer, tmp_path: Path) -> None:
    agent, _, env = setup_of(llm_file(tmp_path, server.url))
    agent.reset(env.spec_observation)
    agent.reset(env.spec_observation)
    assert server.checks == [MODEL]
    agent.close()
    agent.close()


def test_the_system_prompt_is_the_same_in_every_question(server: LlmServer, tmp_path: Path) -> None:
    asked = iter(range(100))

    def answer(_question: Any) -> Answer:
        k = next(asked)
        return say(HOLD) if k % 2 else say(opening(quantity=0.01, leverage=1, reasoning=f"number {k}"))

    server.script = answer
    played(llm_file(tmp_path, server.url), steps=8)
    assert len(server.questions) == 8
    assert len({question.system for question in server.questions}) == 1
    assert len({question.user for question in server.questions}) == 8
