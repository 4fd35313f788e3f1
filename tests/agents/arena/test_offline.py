"""`python -m agents.backtest --arena FILE`: side by side, concurrent, repeated, estimated, and its mistakes."""

from __future__ import annotations

import csv
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from llm_servers import HOLD, KEY, KEY_NAME, Answer, LlmServer, Question, llm_file, opening, say
from policy_run import make_run

from agents.arena.config import ArenaConfig, enter
from agents.backtest import main
from agents.catalog import make_agent
from agents.simulate import build_env, simulate
from envs.settings import EnvConfig
from envs.synthetic import synthetic_market

SYMBOLS = ("BTCUSDT", "ETHUSDT")
PRICES = "models: {test-model: {input: 3.0, output: 15.0, cached_input: 0.3}}\n"


def arena_file(folder: Path, agents: dict[str, Any], **settings: Any) -> Path:
    path = folder / "arena.yaml"
    values = {
        "symbols": list(SYMBOLS),
        "interval": "1h",
        "capital_usdt": 1000.0,
        "agents": agents,
        **settings,
    }
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def market_file(folder: Path, candles: int = 60) -> Path:
    path = folder / "market.yaml"
    path.write_text(yaml.safe_dump({"market": {"synthetic": {"candles": candles}}}), encoding="utf-8")
    return path


def backtest(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def model(folder: Path, server: LlmServer, **changes: Any) -> str:
    """A language model's spec, its file in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    prices = folder / "prices.yaml"
    prices.write_text(PRICES)
    return f"llm:{llm_file(folder, server.url, **{'prices': str(prices), **changes})}"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def board(folder: Path) -> dict[str, dict[str, Any]]:
    rows = json.loads((folder / "leaderboard.json").read_text())["leaderboard"]
    return {row["agent"]: row for row in rows}


def test_llm_policy_and_rules_side_by_side(server: LlmServer, tmp_path: Path) -> None:
    server.script = lambda question: say(opening(quantity=0.01) if len(server.questions) == 1 else HOLD)
    server.questions.clear()
    run = make_run(tmp_path, symbols=SYMBOLS, env=EnvConfig(window_size=4))
    path = arena_file(
        tmp_path,
        {
            "LLM-A": {"agent": model(tmp_path / "a", server)},
            "sac": {"agent": run.train_id, "capital_usdt": 500.0},
            "cross": {"agent": "ema-cross", "parameters": {"fast": 3, "slow": 9}},
            "flat": {"agent": "flat"},
        },
    )
    out = tmp_path / "out"
    common = ("--arena", path, "--config", market_file(tmp_path), "--training-runs", tmp_path, "--quiet")
    assert backtest(*common, "--out", out) == 0
    found = board(out)
    assert set(found) == {"LLM-A", "sac", "cross", "flat"}
    assert found["flat"]["equity"] == 1000.0 and found["sac"]["capital"] == 500.0
    # All of them decided on the same candles: those after the longest warm-up, of ema-cross or of the policy's window.
    assert len({row["steps"] for row in found.values()}) == 1
    steps = {name: table(next((out / name).glob("steps_*.csv"))) for name in found}
    firsts = {name: (rows[0]["timestamp"], rows[0]["agent"]) for name, rows in steps.items()}
    assert len({time for time, _ in firsts.values()}) == 1
    assert all(agent == name for name, (_, agent) in firsts.items())
    # The model's cost is its tokens at the table's prices, and comes off its return.
    decisions = [json.loads(line) for line in (out / "LLM-A" / "llm_decisions.log").read_text().splitlines()]
    cost = sum(one["usd"] for one in decisions)
    assert found["LLM-A"]["llm_cost"] == pytest.approx(cost) and cost > 0
    assert len(decisions) == found["LLM-A"]["steps"] == len(server.questions)
    equity = found["LLM-A"]["equity"]
    assert found["LLM-A"]["net_return"] == pytest.approx((equity - cost) / 1000.0 - 1.0)
    assert [row["rank"] for row in sorted(found.values(), key=lambda one: -one["net_return"])] == [1, 2, 3, 4]
    # Each is what it would have been alone.
    market = synthetic_market(SYMBOLS, n=60, seed=0, volatility_annual=0.6)
    config = {"agent": {"fast": 3, "slow": 9}, "env": {"initial_capital_usdt": 1000.0}}
    alone = make_agent("ema-cross", symbols=SYMBOLS, config=config)
    first_ms = int(firsts["cross"][0]) + 1 - market.interval_ms
    done = simulate(alone, build_env(alone, market, start=first_ms))
    assert found["cross"]["equity"] == done.metrics.final_equity
    assert found["cross"]["trades"] == done.metrics.trades > 0
    assert "Plotly.newPlot" in (out / "report.html").read_text(encoding="utf-8")
    assert KEY not in (out / "config.yaml").read_text()
    rows = table(out / "leaderboard.csv")
    assert [row["agent"] for row in rows] == [row["agent"] for row in json.loads(
        (out / "leaderboard.json").read_text())["leaderboard"]]  # fmt: skip


def test_a_hung_provider_costs_its_agent_a_hold_and_nobody_else_time(
    server: LlmServer, tmp_path: Path
) -> None:
    import anthropic  # noqa: F401  (its import takes seconds, once)

    finished: dict[str, float] = {}
    lock = threading.Lock()

    def script(question: Question) -> Answer:
        name = question.body["model"]
        with lock:
            finished[name] = time.monotonic()
        return Answer("hang") if name == "slow" else say(HOLD)

    server.script = script
    server.models = ("slow", "quick")
    slow = model(
        tmp_path / "s", server, provider={"model": "slow", "timeout_s": 0.5}, cache=None, prices=None
    )
    quick = model(tmp_path / "q", server, provider={"model": "quick"}, cache=None, prices=None)
    path = arena_file(tmp_path, {"slow": {"agent": slow}, "quick": {"agent": quick}})
    assert backtest("--arena", path, "--config", market_file(tmp_path, 20), "--out", tmp_path / "out", "--quiet",
                    "--no-report") == 0  # fmt: skip
    found = board(tmp_path / "out")
    assert found["slow"]["holds"] == found["slow"]["steps"] > 10
    assert found["quick"]["holds"] == 0 and found["quick"]["steps"] == found["slow"]["steps"]
    assert found["quick"]["llm_cost"] is None  # nobody knows the price
    assert finished["quick"] < finished["slow"] - 2.0


def test_an_emergency_closes_its_agent_alone(tmp_path: Path) -> None:
    path = arena_file(
        tmp_path,
        {
            "held": {"agent": "buy-and-hold", "risk": {"max_drawdown_fraction": 0.01}},
            "kept": {"agent": "buy-and-hold"},
        },
    )
    out = tmp_path / "out"
    assert (
        backtest(
            "--arena", path, "--config", market_file(tmp_path, 200), "--out", out, "--quiet", "--no-report"
        )
        == 0
    )
    found = board(out)
    assert found["held"]["ending"] == "emergency" and found["kept"]["ending"] == "truncated"
    assert found["kept"]["steps"] > found["held"]["steps"]
    assert list((out / "held").glob("emergencies_*.csv")) and not list(
        (out / "kept").glob("emergencies_*.csv")
    )
    notices = json.loads((out / "leaderboard.json").read_text())["notices"]
    assert any(notice.startswith("held: the emergency protocol closed") for notice in notices)


def test_without_keys_rules_play_and_it_is_said(
    server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(KEY_NAME)
    spec = model(tmp_path / "a", server)
    agents = {"LLM-A": {"agent": spec, "stand_in": "momentum"}, "other": {"agent": "flat"}}
    common = ("--config", market_file(tmp_path), "--no-report")
    assert backtest("--arena", arena_file(tmp_path, agents), *common, "--out", tmp_path / "out") == 0
    assert server.questions == [] and server.checks == []
    assert board(tmp_path / "out")["LLM-A"]["played_by"] == "momentum"
    said = " ".join(capsys.readouterr().out.split())
    assert f"LLM-A: {KEY_NAME} is not set; the rule momentum plays in place of" in said
    agents["LLM-A"]["stand_in"] = None
    assert backtest("--arena", arena_file(tmp_path, agents), *common, "--out", tmp_path / "no") == 2
    assert f"arena agent LLM-A: the environment variable {KEY_NAME} is not set" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_repeats_ask_anew_and_give_means_and_intervals(server: LlmServer, tmp_path: Path) -> None:
    server.script = lambda _question: say(HOLD)
    server.questions.clear()
    spec = model(tmp_path / "a", server)
    agents = {"LLM-A": {"agent": spec}, "rnd": {"agent": "random"}, "flat": {"agent": "flat"}}
    path = arena_file(tmp_path, agents)
    common = ("--arena", path, "--config", market_file(tmp_path, 40), "--no-report", "--quiet")
    out = tmp_path / "out"
    assert backtest(*common, "--seeds", "3", "5", "8", "--window", "10", "--out", out) == 0
    assert len(server.questions) == 30
    told = json.loads((out / "tournament.json").read_text())
    assert told["seeds"] == [3, 5, 8]
    mine = {one["agent"]: one for one in told["agents"]}
    boards = [board(out / f"seed-{seed}") for seed in (3, 5, 8)]
    returns = [one["rnd"]["net_return"] for one in boards]
    assert len(set(returns)) == 3
    mean = sum(returns) / 3
    spread = (sum((one - mean) ** 2 for one in returns) / 2) ** 0.5
    assert mine["rnd"]["net_return_mean"] == pytest.approx(mean)
    # Student's t with 2 degrees of freedom: 4.303.
    assert mine["rnd"]["net_return_high"] == pytest.approx(mean + 4.303 * spread / 3**0.5, rel=1e-3)
    assert mine["flat"]["net_return_low"] == mine["flat"]["net_return_high"] == 0.0
    assert sum(one["firsts"] for one in told["agents"]) == 3
    assert all(one["LLM-A"]["steps"] == 10 for one in boards)
    starts = {
        json.loads((out / f"seed-{seed}" / "leaderboard.json").read_text())["start"] for seed in (3, 5, 8)
    }
    assert len(starts) > 1
    # Again, from what was answered; and nothing more is asked.
    assert (
        backtest(*common, "--seeds", "3", "5", "8", "--window", "10", "--out", tmp_path / "b", "--offline")
        == 0
    )
    assert len(server.questions) == 30
    assert (tmp_path / "b" / "tournament.csv").read_bytes() == (out / "tournament.csv").read_bytes()


def test_a_dry_run_sums_the_estimates_and_asks_nobody(
    server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(KEY_NAME)
    agents = {name: {"agent": model(tmp_path / name, server)} for name in ("LLM-A", "LLM-B")}
    path = arena_file(tmp_path, agents)
    common = ("--arena", path, "--config", market_file(tmp_path, 104), "--dry-run", "--out", tmp_path / "out")
    sums = []
    for more in ((), ("--repeats", "3")):
        assert backtest(*common, *more) == 0
        said = capsys.readouterr().out
        assert said.count("asks test-model about 100 times") == 2
        sums.append(float(said.split("all models together")[1].split(": ")[1].split(" to ")[0]))
    assert "for 3 repeats" in said
    assert sums[1] == pytest.approx(3 * sums[0], abs=0.03) and sums[0] > 0.1
    assert server.questions == [] and server.checks == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"agents": {}}, "agents"),
        ({"agents": {"x": {"agnt": "flat"}}}, "did you mean 'agent'"),
        ({"agents": {"x": {"agent": "flatt"}}}, "arena agent x: unknown agent 'flatt'. Did you mean 'flat'"),
        ({"agents": {"a b": {"agent": "flat"}}}, "'a b'"),
        ({"agents": {"x": {"agent": "flat", "stand_in": "sac"}}}, "rules are"),
        (
            {"agents": {"x": {"agent": "flat", "risk": {"max_drawdwn_fraction": 0.1}}}},
            "max_drawdown_fraction",
        ),
        ({"interval": "7q"}, "7q"),
        ({"symbols": ["BTCUSDT", "BTCUSDT"]}, "there twice"),
        ({"capital_usdt": -1}, "capital_usdt"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_setting(
    values: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = arena_file(tmp_path, values.pop("agents", {"x": {"agent": "flat"}}), **values)
    assert backtest("--arena", path, "--quiet", "--out", tmp_path / "out") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert words in said, said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--agent", "flat"), "leave out --agent"),
        (("--symbol", "XRPUSDT"), "leave out --symbol"),
        (("--repeats", "2", "--seeds", "1"), "as many seeds"),
        (("--seeds", "1", "1"), "there twice"),
        (("--window", "900"), "--window 900"),
    ],
)
def test_options_that_contradict_the_arena(
    arguments: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = arena_file(tmp_path, {"x": {"agent": "flat"}})
    given = ("--arena", path, "--config", market_file(tmp_path), "--out", tmp_path / "out", "--quiet")
    assert backtest(*given, *arguments) == 2
    assert words in capsys.readouterr().err


def test_arena_options_need_an_arena(capsys: pytest.CaptureFixture[str]) -> None:
    assert backtest("--agent", "flat", "--repeats", "2") == 2
    assert "for --arena FILE" in capsys.readouterr().err


def test_the_shipped_arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Path(__file__).resolve().parents[3]
    monkeypatch.chdir(repository)
    config = ArenaConfig.read(repository / "configs" / "arena.yaml")
    assert config.symbols == ("ETHUSDT", "BNBUSDT", "XRPUSDT", "DOGEUSDT", "ADAUSDT", "AVAXUSDT")
    entrants = enter(config, environ={})
    assert [one.name for one in entrants] == ["LLM-A", "LLM-B", "LLM-C"]
    assert all(one.note and one.capital_usdt == 100.0 and not one.is_llm for one in entrants)
    keys = dict.fromkeys(("ANTHROPIC_API_KEY", "DEEPSEEK_API_KEY", "OPENAI_API_KEY"), "k")
    models = enter(config, environ=keys)
    assert all(one.is_llm and one.capital_usdt == 100.0 for one in models)
    limits = [one.setup.limits.max_drawdown_fraction for one in models]
    assert None not in limits  # the models' own limits stay
