"""`python -m agents.backtest --agent llm:FILE`: twice the same, resumed, estimated, and its mistakes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from llm_servers import HOLD, KEY, KEY_NAME, Answer, LlmServer, Question, llm_file, opening, say

from agents.backtest import main
from agents.llm.asking import Asking
from agents.llm.cache import Cached, ReplayCache
from agents.llm.config import PromptConfig
from agents.llm.prompt import PromptBook
from agents.llm.request import Message, Reply, Request
from envs.step_log import COLUMNS


def config_file(folder: Path, candles: int = 40, **sections: Any) -> Path:
    path = folder / "backtest.yaml"
    values = {"market": {"synthetic": {"candles": candles}}, **sections}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def backtest(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def moody(question: Question) -> Answer:
    """Trades, talks nonsense and fails, by what it is asked."""
    prices = [
        float(line.split()[1].rstrip(",")) for line in question.user.splitlines() if line.startswith("Price")
    ]
    if "That was not a valid decision" in question.user:
        return say(HOLD)
    # Something of the question that is different each time.
    mood = sum(map(ord, question.user)) % 7
    return [
        say(HOLD),
        say(opening("BTCUSDT", quantity=round(900 / prices[0], 3), stop_loss=round(prices[0] * 0.98, 1))),
        say(opening("ETHUSDT", side="SELL", quantity=round(600 / prices[1], 3), take_profit=1.0)),
        say("what?"),
        Answer("status", status=500),
        say({"action": "CLOSE_POSITION", "symbol": "BTCUSDT"}),
        say(opening("BTCUSDT", quantity=1e9, leverage=3)),
    ][mood]


def rows(folder: Path) -> bytes:
    (path,) = folder.glob("steps_*.csv")
    return path.read_bytes()


def decisions(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "llm_decisions.log").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("kind", ["anthropic", "openai"])
def test_the_same_backtest_offline_gives_the_same_bytes_without_a_call(
    kind: str, server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = moody
    server.questions.clear()
    agent = f"llm:{llm_file(tmp_path, server.url, kind)}"
    config = config_file(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    common = ("--agent", agent, "--config", config, "--no-report", "--quiet")
    assert backtest(*common, "--out", first) == 0
    asked = len(server.questions)
    assert asked > 30
    verdicts = {one["verdict"] for one in decisions(first)}
    assert {"accepted", "reduced", "failed"} <= verdicts

    monkeypatch.delenv(KEY_NAME)  # not even a key is needed
    assert backtest(*common, "--out", second, "--offline") == 0
    assert len(server.questions) == asked
    assert rows(second) == rows(first)
    assert len(rows(first).splitlines()) > 60
    assert rows(first).startswith(",".join(COLUMNS).encode())
    again = decisions(second)
    assert sum(one["calls"] for one in again) == 0
    for one, other in zip(decisions(first), again, strict=True):
        changing = ("calls", "replayed", "latency_ms")
        assert {k: v for k, v in one.items() if k not in changing} == {
            k: v for k, v in other.items() if k not in changing
        }
    notices = json.loads((second / "metrics.json").read_text())["notices"]
    assert any("blind mode off" in notice for notice in notices)
    assert any(", 0 calls, " in notice for notice in notices)
    assert KEY not in "".join(path.read_text() for path in first.iterdir())


def test_a_backtest_that_stopped_goes_on_where_it_was(server: LlmServer, tmp_path: Path) -> None:
    server.script = lambda question: say(HOLD) if len(server.questions) < 15 else Answer("status", status=500)
    server.questions.clear()
    agent = f"llm:{llm_file(tmp_path, server.url)}"
    config = config_file(tmp_path)
    common = ("--agent", agent, "--config", config, "--no-report", "--quiet")
    assert backtest(*common, "--out", tmp_path / "a") == 0
    held = [one["verdict"] for one in decisions(tmp_path / "a")]
    assert held.count("accepted") == 14
    server.plan(say(HOLD))
    assert backtest(*common, "--out", tmp_path / "b") == 0
    # What failed is asked again, what was answered is not.
    assert len(server.questions) == len(held) - 14
    assert {one["verdict"] for one in decisions(tmp_path / "b")} == {"accepted"}


def test_offline_a_new_question_is_an_error_that_says_what_to_do(
    server: LlmServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = f"llm:{llm_file(tmp_path, server.url)}"
    code = backtest(
        "--agent", agent, "--config", config_file(tmp_path), "--out", tmp_path / "o", "--offline", "--quiet"
    )
    assert code == 2
    said = capsys.readouterr().err
    assert "run once without --offline" in said
    assert server.questions == []


def test_a_dry_run_shows_the_cost_and_a_prompt_and_asks_nobody(
    server: LlmServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_NAME)
    monkeypatch.chdir(tmp_path)
    prices = tmp_path / "prices.yaml"
    prices.write_text("models: {test-model: {input: 3.0, output: 15.0, cached_input: 0.3}}\n")
    path = llm_file(tmp_path, server.url, prices=str(prices), budget={"decisions_per_hour": 2})
    assert backtest("--agent", f"llm:{path}", "--config", config_file(tmp_path, 104), "--dry-run") == 0
    said = capsys.readouterr().out
    # 104 candles, 3 of them to warm up, one a last that nothing is decided on.
    assert "asks test-model about 100 times" in said
    assert "estimated cost" in said and "USD" in said
    assert "--- system ---" in said and "## BTCUSDT" in said
    assert server.questions == [] and server.checks == []
    assert not (tmp_path / "runs").exists()


def test_the_flags_are_for_language_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert backtest("--agent", "flat", "--offline") == 2
    assert "give --agent llm:FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x\n", "setting 'provider' is missing"),
        ("name: x\nprovider: {kind: anthropic, model: m, temprature: 1}\n", "did you mean 'temperature'"),
        ("name: 'a b'\nprovider: {kind: anthropic, model: m}\n", "name = 'a b'"),
        ("name: x\nprovider: {kind: openai, model: m}\ninterval: 7q\n", "7q"),
        ("name: x\nprovider: {kind: openai, model: m}\nprompt: {template: v9}\n", "neither shipped (v1)"),
        ("name: x\nprovider: {kind: openai, model: m}\nprompt: {personality: bold}\n", "aggressive, balanced"),
        ("name: x\nprovider: {kind: openai, model: m}\nbudget: {usd_per_day: 1}\n", "add its price"),
        ("name: x\nprovider: {kind: openai, model: m}\nenv: {action: {scheme: target}}\n", "the scheme 'decision'"),
        ("name: x\nprovider: {kind: openai, model: m}\nprompt: {candles: 500}\nfeatures: {indicators: [atr]}\n",
         "show fewer"),
        ("name: x\nprovider: {kind: openai, model: m}\ncache: null\noffline: true\n", "offline needs a replay cache"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_an_error_that_names_the_setting(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    assert backtest("--agent", f"llm:{path}", "--quiet", "--out", tmp_path / "o") == 2
    said = capsys.readouterr().err
    assert words in " ".join(said.split()), said
    assert not (tmp_path / "o").exists()


def test_the_written_config_repeats_the_run(server: LlmServer, tmp_path: Path) -> None:
    server.script = moody
    agent = f"llm:{llm_file(tmp_path, server.url)}"
    common = ("--no-report", "--quiet")
    assert backtest(
        "--agent", agent, "--config", config_file(tmp_path, 20), "--out", tmp_path / "a", "--blind", *common
    ) == 0  # fmt: skip
    asked = len(server.questions)
    written = tmp_path / "a" / "config.yaml"
    assert yaml.safe_load(written.read_text())["agent"] == {"blind": {"enabled": True}}
    assert backtest("--config", written, "--offline", "--out", tmp_path / "b", *common) == 0
    assert rows(tmp_path / "b") == rows(tmp_path / "a")
    assert len(server.questions) == asked
    notices = json.loads((tmp_path / "b" / "metrics.json").read_text())["notices"]
    assert any("blind mode on (seed 0)" in notice for notice in notices)


def test_two_who_ask_the_same_at_once_get_what_a_repeat_gives_them(tmp_path: Path) -> None:
    """Whose reply comes second takes the first one's, which the cache has: a repeat has nothing else to go by."""
    question = Request("openai", "m", "system", (Message("user", "?"),), {}, None, 100, "auto")
    cache = ReplayCache(tmp_path)

    class Slow:
        async def ask(self, request: Request) -> Reply:
            cache.put(request, Cached(Reply(json.dumps({**HOLD, "reasoning": "first"}))))
            return Reply(json.dumps({**HOLD, "reasoning": "second"}))

        async def check(self) -> None: ...

        async def close(self) -> None: ...

    book = PromptBook.open(PromptConfig())
    heard = []
    for provider in (Slow(), None):
        asking = Asking(provider, cache, book, timeout_s=60.0, retry_delay_s=0.0, clock=lambda: 0.0)
        heard.append(asyncio.run(asking.decide(question, ("BTCUSDT",))))
    assert [one.decision.reasoning for one in heard if one.decision] == ["first", "first"]
    assert [(one.calls, one.replayed) for one in heard] == [(1, 0), (0, 1)]
