"""What becomes of odd bodies, of counts of tokens, of keys and of time, at the providers themselves."""

from __future__ import annotations

import asyncio
import json
import selectors
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from llm_servers import HOLD, KEY, KEY_NAME, MODEL, Answer, LlmServer, llm_file, say

from agents.catalog import make_agent
from agents.llm.asking import Asking, Heard
from agents.llm.cache import ReplayCache
from agents.llm.config import PromptConfig, ProviderConfig
from agents.llm.errors import ProviderError
from agents.llm.prompt import PromptBook
from agents.llm.providers import SdkProvider, make_provider
from agents.llm.request import Message, Reply, Request, Usage
from agents.run import run
from agents.simulate import build_env
from envs.errors import ConfigError, CredentialsError
from envs.synthetic import synthetic_market
from envs.wrappers import RiskControl

KINDS = ("anthropic", "openai")


def config_of(server: LlmServer, kind: str, **changes: Any) -> ProviderConfig:
    url = server.url if kind == "anthropic" else f"{server.url}/v1"
    values = {"kind": kind, "model": MODEL, "base_url": url, "api_key_env": KEY_NAME, "timeout_s": 20.0}
    return ProviderConfig(**{**values, **changes})


def question(config: ProviderConfig) -> Request:
    return Request(
        kind=config.kind,
        model=config.model,
        system="system",
        messages=(Message("user", "hello"),),
        schema={"type": "object"},
        temperature=config.temperature,
        max_output_tokens=100,
        reply=config.reply,
        extra_body=config.extra_body,
    )


def asked(config: ProviderConfig, times: int = 1, key: str = KEY) -> tuple[list[Reply], SdkProvider]:
    provider = make_provider(config, {KEY_NAME: key})
    assert isinstance(provider, SdkProvider)

    async def ask() -> list[Reply]:
        try:
            return [await provider.ask(question(config)) for _ in range(times)]
        finally:
            await provider.close()

    return asyncio.run(ask()), provider


def heard(config: ProviderConfig) -> Heard:
    """A whole conversation, with its retry and its repair."""
    provider = make_provider(config, {KEY_NAME: KEY})

    async def decide() -> Heard:
        asking = Asking(
            provider,
            ReplayCache(None),
            PromptBook.open(PromptConfig()),
            timeout_s=config.timeout_s,
            retry_delay_s=config.retry_delay_s,
            clock=time.monotonic,
        )
        try:
            return await asking.decide(question(config), ("BTCUSDT",))
        finally:
            await provider.close()

    return asyncio.run(decide())


# --- bodies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "body",
    ["null", "[1]", '{"content": [{"x": 1}, 5], "choices": [null]}', '{"choices": [], "content": 7}', '{"a":' * 50_000],
    ids=["null", "list", "odd parts", "nothing in it", "deep"],
)  # fmt: skip
def test_a_body_that_is_no_reply_is_a_failure(kind: str, body: str, server: LlmServer) -> None:
    server.plan(Answer("raw", body))
    with pytest.raises(ProviderError) as caught:
        asked(config_of(server, kind))
    assert caught.value.retryable
    assert len(str(caught.value)) <= 320


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "body", [{"param": 5}, {"param": ["temperature"]}, {"message": {"a": 1}}, "words", ["x"], None]
)
def test_an_error_of_another_form_is_a_failure(kind: str, body: Any, server: LlmServer) -> None:
    error = {"message": "no", "type": "x", **body} if isinstance(body, dict) else body
    server.plan(Answer("raw_error", json.dumps({"type": "error", "error": error}), status=400))
    with pytest.raises(ProviderError, match="HTTP 400"):
        asked(config_of(server, kind, temperature=0.5))


USAGE = {
    "anthropic": (
        "anthropic",
        {"input_tokens": 7, "output_tokens": 5, "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 200},
        Usage(7, 1000, 200, 5),
    ),
    "openai": (
        "openai",
        {"prompt_tokens": 1207, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1000}},
        Usage(207, 1000, 0, 5),
    ),
    "openai, written too": (
        "openai",
        {"prompt_tokens": 1207, "completion_tokens": 5,
         "prompt_tokens_details": {"cached_tokens": 1000, "cache_write_tokens": 200}},
        Usage(7, 1000, 200, 5),
    ),
    "deepseek": (
        "openai",
        {"prompt_tokens": 1207, "completion_tokens": 5, "prompt_cache_hit_tokens": 1000},
        Usage(207, 1000, 0, 5),
    ),
    "none at all": ("openai", {"x": 1}, Usage()),
    "no numbers": ("anthropic", {"input_tokens": "many", "output_tokens": [1]}, Usage()),
    "less than none": ("anthropic", {"input_tokens": -9, "cache_read_input_tokens": 3}, Usage(0, 3)),
    "infinite": ("openai", {"prompt_tokens": float("inf"), "completion_tokens": float("nan")}, Usage()),
}  # fmt: skip


@pytest.mark.parametrize("case", USAGE)
def test_tokens_are_counted_as_each_protocol_says(case: str, server: LlmServer) -> None:
    kind, usage, expected = USAGE[case]
    server.plan(Answer("say", json.dumps(HOLD), usage=usage))
    (reply,), _ = asked(config_of(server, kind))
    assert reply.usage == expected
    assert json.loads(reply.text) == HOLD


# --- refused parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reply", ["tool", "auto"])
def test_a_refused_switch_of_the_tool_is_left_out_once_and_for_all(
    kind: str, reply: str, server: LlmServer
) -> None:
    server.refused = {
        "response_format": "response_format is not supported",
        "output_config": "output_config: unknown",
        "tool_choice": "Thinking mode does not support this tool_choice",
    }
    replies, provider = asked(config_of(server, kind, reply=reply), times=2)
    assert len(replies) == 2
    assert provider.mode == "tool"
    assert provider.refused == {"tool_choice"}
    assert all("tools" in one.body and "tool_choice" not in one.body for one in server.questions)


# --- models -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_the_first_question_finds_missing_is_an_error_and_no_hold(
    kind: str, server: LlmServer
) -> None:
    """Where the server does not tell of its models, or could not be asked at the start."""
    missing = Answer("status", status=404, message=f"model {MODEL} not found")
    server.plan(missing)
    with pytest.raises(ConfigError, match=f"has no model '{MODEL}'"):
        asked(config_of(server, kind))
    server.plan(say(HOLD), missing)
    with pytest.raises(ProviderError, match="HTTP 404"):
        asked(config_of(server, kind), times=2)


def test_it_ends_the_run(server: LlmServer, tmp_path: Path) -> None:
    server.models = None
    server.plan(Answer("status", status=404, message="no such model"))
    setup = make_agent(f"llm:{llm_file(tmp_path, server.url, 'openai')}", symbols=("BTCUSDT",))
    env = build_env(setup, synthetic_market(("BTCUSDT",), n=16, seed=2))
    with pytest.raises(ConfigError, match="unknown or retired"):
        run(RiskControl(env, setup.limits), setup.agent)
    setup.agent.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_of_a_model_that_drips_ends_in_time(kind: str, server: LlmServer) -> None:
    server.slow_models = True
    provider = make_provider(config_of(server, kind, timeout_s=0.3), {KEY_NAME: KEY})

    async def check() -> None:
        try:
            await provider.check()
        finally:
            await provider.close()

    with pytest.raises(ProviderError, match=r"within 0\.3 s|imed out"):
        asyncio.run(check())


# --- time -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_told_to_wait_longer_than_there_is_does_not_ask_again(kind: str, server: LlmServer) -> None:
    server.plan(Answer("status", status=429, headers={"retry-after": "50"}), say(HOLD))
    found = heard(config_of(server, kind, timeout_s=45.0))
    assert "HTTP 429" in found.failure
    assert len(server.questions) == found.calls == 1


class Jumping(selectors.SelectSelector):
    """Waits for nothing: the loop's time goes on by what it would have waited."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        self.now += 0.0 if found else timeout or 0.0
        return found


@dataclass
class Timed:
    """A provider that takes its time: seconds, and what it then says; None never answers."""

    script: list[tuple[float, Reply | ProviderError | None]]
    began: list[float] = field(default_factory=list)

    async def ask(self, request: Request) -> Reply:
        self.began.append(asyncio.get_running_loop().time())
        takes_s, said = self.script.pop(0)
        await (asyncio.sleep(takes_s) if said is not None else asyncio.Event().wait())
        if isinstance(said, Exception):
            raise said
        assert said is not None
        return said

    async def check(self) -> None:
        pass

    async def close(self) -> None:
        pass


DOWN = ProviderError("down", retryable=True)
BUSY = ProviderError("busy", retryable=True, retry_after_s=45.0)
NO = ProviderError("no", retryable=False)
CHAT = Reply("let us see")
GOOD = Reply(json.dumps(HOLD))


@pytest.mark.parametrize(
    ("script", "began", "ended", "failure"),
    [
        ([(20, DOWN), (20, CHAT), (0, None)], [0, 25, 45], 60, "no answer within 60 s, also after a retry"),
        ([(0, None)], [0], 60, "no answer within 60 s"),
        ([(20, CHAT), (39, GOOD)], [0, 20], 59, ""),
        ([(20, CHAT), (41, GOOD)], [0, 20], 60, "no answer within 60 s"),
        ([(14, BUSY), (0, GOOD)], [0, 59], 59, ""),
        ([(16, BUSY), (0, GOOD)], [0], 16, "busy"),
        ([(1, NO), (0, GOOD)], [0], 1, "no"),
        ([(1, DOWN), (1, DOWN), (0, GOOD)], [0, 6], 7, "down, also after a retry"),
        ([(1, CHAT), (1, DOWN), (1, DOWN), (0, GOOD)], [0, 1, 7], 8, "down, also after a retry"),
        ([(1, DOWN), (1, CHAT), (1, DOWN), (0, GOOD)], [0, 6, 7], 8, "down, also after a retry"),
    ],
)
def test_one_limit_one_retry_and_one_repair_for_a_decision(
    script: list[tuple[float, Any]], began: list[float], ended: float, failure: str
) -> None:
    """On a clock that jumps: 60 s for all that is asked, a wait of 5 s before the retry."""
    provider, clock = Timed(list(script)), Jumping()
    loop = asyncio.SelectorEventLoop(clock)
    loop.time = lambda: clock.now  # type: ignore[method-assign]
    asking = Asking(
        provider,
        ReplayCache(None),
        PromptBook.open(PromptConfig()),
        timeout_s=60.0,
        retry_delay_s=5.0,
        clock=loop.time,
    )
    config = ProviderConfig(kind="openai", model=MODEL)
    try:
        found = loop.run_until_complete(asking.decide(question(config), ("BTCUSDT",)))
    finally:
        loop.close()
    assert provider.began == pytest.approx(began, abs=0.1)
    assert clock.now == pytest.approx(ended, abs=0.1)
    assert found.failure == failure
    assert (found.decision is None) == bool(failure)
    assert found.calls == len(began)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sdk_asks_once(kind: str, server: LlmServer) -> None:
    """Its own retries would make two of the one."""
    server.plan(Answer("status", status=500))
    with pytest.raises(ProviderError):
        asked(config_of(server, kind))
    assert len(server.questions) == 1


# --- keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "words",
    [
        "Incorrect API key provided: sk-test-**********cdef.",
        "Your api key: ****cdef is invalid",
        "key sk-te...cdef",
        f"headers: {{'authorization': 'Bearer {KEY}', 'x-api-key': '{KEY}'}}",
        f"{KEY[:14]} is expired",
    ],
)
def test_no_part_of_a_key_is_in_an_error(kind: str, words: str, server: LlmServer) -> None:
    server.plan(Answer("status", status=403, message=words))
    with pytest.raises(ProviderError) as caught:
        asked(config_of(server, kind))
    shown = f"{caught.value!r} {caught.value.__cause__!r}"
    assert "cdef" not in shown and "123" not in shown and "sk-t" not in shown
    assert "***" in shown


@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_that_holds_the_key_is_kept_without_it(kind: str, server: LlmServer) -> None:
    server.plan(say(f"your key is {KEY}, is it not?"))
    (reply,), provider = asked(config_of(server, kind, reply="json"))
    assert reply.text == "your key is ***, is it not?"
    assert KEY not in repr(provider)


def test_a_short_key_is_no_secret_and_leaves_words_alone(server: LlmServer) -> None:
    server.plan(say({"action": "HOLD", "reasoning": "a model"}))
    (reply,), _ = asked(config_of(server, "openai"), key="a")
    assert json.loads(reply.text)["reasoning"] == "a model"


@pytest.mark.parametrize("key", ["sk-1234 5678", "sk-1234\n5678", "sk-\u201c12345678\u201d"])
def test_a_key_that_can_be_none_is_an_error_at_the_start(key: str, server: LlmServer) -> None:
    with pytest.raises(CredentialsError, match=KEY_NAME) as caught:
        make_provider(config_of(server, "openai"), {KEY_NAME: key})
    assert "1234" not in str(caught.value)


def test_identifiers_of_openai_are_not_sent_to_others(
    server: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-mine")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another")
    asked(config_of(server, "openai"))
    (one,) = server.questions
    assert "mine" not in json.dumps(one.headers) and "another" not in json.dumps(one.headers)
    assert one.headers["authorization"] == f"Bearer {KEY}"
