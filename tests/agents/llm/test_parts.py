"""Budget, prices, cache, log, and the files that ship."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from agents.catalog import make_agent
from agents.llm.budget import Budget, Price, PriceTable
from agents.llm.cache import Cached, ReplayCache
from agents.llm.config import BudgetConfig, LlmConfig
from agents.llm.prompt import PromptBook
from agents.llm.records import DecisionLog, DecisionRecord, Ruling, Verdict, keeps_prompt
from agents.llm.request import Message, Reply, Request, Usage
from envs.errors import ConfigError
from live.exchange.client_ids import check_agent_name

REPOSITORY = Path(__file__).resolve().parents[3]
AGENTS = sorted((REPOSITORY / "configs" / "agents").glob("llm-*.yaml"))
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
PRICE = Price(input=3.0, output=15.0, cached_input=0.3, cache_write=3.75)


def request(text: str = "hello", **changes: Any) -> Request:
    base = Request("openai", "m", "system", (Message("user", text),), {"type": "object"}, 0.5, 100, "auto")
    return replace(base, **changes)


# --- budget -----------------------------------------------------------------------------------------------


def test_what_a_call_costs() -> None:
    usage = Usage(
        input_tokens=1_000_000, cached_tokens=2_000_000, cache_write_tokens=400_000, output_tokens=100_000
    )
    assert PRICE.cost_usd(usage) == pytest.approx(3.0 + 0.6 + 1.5 + 1.5)
    assert Price(input=1.0, output=2.0).cost_usd(usage) == pytest.approx(1.0 + 2.0 + 0.4 + 0.2)
    assert usage.total == 3_500_000


def test_decisions_per_hour_are_those_of_the_last_hour_of_candle_time() -> None:
    budget = Budget(BudgetConfig(decisions_per_hour=2), None, "m")
    for minute, free in ((0, True), (5, True), (10, False), (59, False), (60, True), (61, False), (65, True)):
        time_ms = minute * 60_000
        assert (budget.over(time_ms) == "") is free, minute
        if free:
            budget.begin(time_ms)
    assert budget.over(65 * 60_000) == "decisions_per_hour: 2 of 2"


def test_tokens_and_usd_are_counted_by_utc_day() -> None:
    budget = Budget(BudgetConfig(decisions_per_hour=None, tokens_per_day=1000, usd_per_day=0.01), PRICE, "m")
    budget.spend(DAY_MS - 2, Usage(input_tokens=999))
    assert budget.over(DAY_MS - 1) == ""
    budget.spend(DAY_MS - 1, Usage(input_tokens=1))
    assert budget.over(DAY_MS - 1) == "tokens_per_day: 1000 of 1000"
    assert budget.over(DAY_MS) == ""
    budget.spend(DAY_MS, Usage(output_tokens=700))
    assert budget.over(DAY_MS) == "usd_per_day: 0.0105 of 0.01"


def test_a_usd_budget_needs_a_price() -> None:
    with pytest.raises(ConfigError, match="no model 'm'; add"):
        Budget(BudgetConfig(usd_per_day=1.0), None, "m")
    with pytest.raises(ConfigError, match=r"'gpt-6-soul' \(did you mean 'gpt-6-sol'\?\)"):
        Budget(BudgetConfig(usd_per_day=1.0), None, "gpt-6-soul", PriceTable.read().models)


def test_a_dated_model_has_the_price_of_its_name() -> None:
    table = PriceTable.read()
    assert table.price_of("gpt-4o-2024-11-20") == table.price_of("gpt-4o")
    assert table.price_of("gpt-4o-mini-2024-07-18") == table.price_of("gpt-4o-mini")
    assert table.price_of("gpt-4o-audio") is None


# --- cache ------------------------------------------------------------------------------------------------


def test_a_reply_comes_back_as_it_was(tmp_path: Path) -> None:
    cache = ReplayCache(tmp_path)
    reply = Reply("words \u00e4 \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "truncated",
                  Usage(1, 2, 3, 4))  # fmt: skip
    assert cache.get(request().key) is None
    cache.put(request(), Cached(None, "HTTP 500", 3))
    assert cache.get(request().key) == Cached(None, "HTTP 500", 3)
    cache.put(request(), Cached(reply, latency_ms=7))
    assert ReplayCache(tmp_path).get(request().key) == Cached(reply, latency_ms=7)
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".json"]


def test_all_that_can_change_an_answer_is_in_the_key() -> None:
    keys = {
        request().key,
        request("other").key,
        request(model="n").key,
        request(kind="anthropic").key,
        request(system="s").key,
        request(temperature=None).key,
        request(max_output_tokens=101).key,
        request(reply="tool").key,
        request(schema={"type": "string"}).key,
        request(extra_body={"seed": 1}).key,
        request(messages=(Message("user", "hello"), Message("assistant", "x"))).key,
    }
    assert len(keys) == 11
    assert request().key == request().key


def test_two_agents_that_ask_the_same_at_once_both_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, fsync, others = ReplayCache(tmp_path), os.fsync, []

    def meanwhile(file: int) -> None:
        fsync(file)
        if not others:
            others.append(threading.Thread(target=cache.put, args=(request(), Cached(Reply("second")))))
            others[0].start()
            others[0].join()

    monkeypatch.setattr(os, "fsync", meanwhile)
    cache.put(request(), Cached(Reply("first")))
    assert cache.get(request().key) == Cached(Reply("first"))
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".json"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": "x"}', "null"])
def test_a_damaged_reply_is_named_and_never_guessed(damage: str, tmp_path: Path) -> None:
    cache = ReplayCache(tmp_path)
    cache.put(request(), Cached(Reply("x")))
    path = cache.path(request().key)
    assert path is not None
    path.write_text(damage)
    with pytest.raises(ConfigError, match=f"{request().key}.json cannot be read"):
        cache.get(request().key)


def test_a_reply_under_another_name_is_not_taken(tmp_path: Path) -> None:
    cache = ReplayCache(tmp_path)
    cache.put(request(), Cached(Reply("x")))
    path, other = cache.path(request().key), cache.path(request("other").key)
    assert path is not None and other is not None
    other.parent.mkdir(exist_ok=True)
    path.rename(other)
    with pytest.raises(ConfigError, match="another question"):
        cache.get(request("other").key)


# --- records ----------------------------------------------------------------------------------------------


def test_the_log_is_appended_to_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "llm.log"
    record = DecisionRecord("a", "m", "v1", 59_999, Verdict.ACCEPTED, reply='two\nlines "q"')
    for log in (DecisionLog(path), DecisionLog(path)):
        log.record(record)
        log.close()
        log.record(record)  # opens again
        log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 4
    assert lines[0]["reply"] == 'two\nlines "q"'
    assert lines[0]["time"] == "1970-01-01 00:01 UTC"


def test_prompts_of_rejected_decisions_are_sampled_by_the_seed() -> None:
    keys = [request(str(k)).key for k in range(2000)]
    rejected = Ruling(Verdict.REJECTED, "x")
    kept = [key for key in keys if keeps_prompt(rejected, key, 0.1, 0)]
    assert 140 < len(kept) < 260
    assert kept == [key for key in keys if keeps_prompt(rejected, key, 0.1, 0)]
    assert kept != [key for key in keys if keeps_prompt(rejected, key, 0.1, 1)]
    assert not any(keeps_prompt(rejected, key, 0.0, 0) for key in keys)
    assert all(keeps_prompt(rejected, key, 1.0, 0) for key in keys)
    assert all(keeps_prompt(Ruling(Verdict.REDUCED), key, 0.0, 0) for key in keys)


# --- what ships -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", AGENTS, ids=lambda path: path.stem)
def test_a_shipped_agent_can_be_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    config = LlmConfig.read(path)
    setup = make_agent(f"llm:{path}", symbols=config.symbols)
    check_agent_name(setup.agent.name, config.symbols)
    assert setup.env.initial_capital_usdt == 100.0
    assert setup.env.max_leverage == setup.limits.max_leverage
    assert config.interval == "5m" and len(config.symbols) == 6
    assert PriceTable.read().price_of(config.provider.model) is not None
    PromptBook.open(config.prompt)


def test_the_three_are_those_that_were_asked_for() -> None:
    found = {path.stem: LlmConfig.read(path) for path in AGENTS}
    assert {name: (one.prompt.personality, one.provider.temperature) for name, one in found.items()} == {
        "llm-a": ("conservative", 0.5),
        "llm-b": ("balanced", 0.7),
        "llm-c": ("aggressive", 0.9),
    }
    assert [one.provider.kind for one in found.values()] == ["anthropic", "openai", "openai"]


@pytest.mark.parametrize("path", AGENTS, ids=lambda path: path.stem)
def test_every_key_is_there_and_commented(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    values = yaml.safe_load(text)

    def keys(model: type[BaseModel], given: dict[str, Any], where: str) -> None:
        assert set(given) == set(model.model_fields), where
        for name, one in model.model_fields.items():
            if isinstance(one.annotation, type) and issubclass(one.annotation, BaseModel):
                keys(one.annotation, given[name], name)

    keys(LlmConfig, values, path.name)
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("name:") or (
            line.startswith("  ") and ":" in line and not line.strip().startswith(("#", "-"))
        ):
            above = lines[number - 1].strip()
            # A comment above, or a neighbour of the same comment.
            assert above, f"{path.name}:{number + 1} has no comment"


def test_the_models_are_those_that_the_sdks_list_as_current() -> None:
    """By the SDKs' sources, without importing them for it: names that are known and not on their way out."""
    found = {path.stem: LlmConfig.read(path).provider for path in AGENTS}
    from anthropic.resources.messages.messages import DEPRECATED_MODELS
    from anthropic.types.model import Model

    known = {name for part in get_args(Model) for name in get_args(part)}
    assert found["llm-a"].model in known - set(DEPRECATED_MODELS)

    from openai.types.shared.chat_model import ChatModel

    spec = importlib.util.find_spec("openai.types.shared.chat_model")
    assert spec is not None and spec.origin is not None
    deprecated = Path(spec.origin).read_text().split("Deprecated values:")[-1]
    assert found["llm-c"].model in get_args(ChatModel)
    assert f'"{found["llm-c"].model}"' not in deprecated
    assert found["llm-b"].base_url == "https://api.deepseek.com"
