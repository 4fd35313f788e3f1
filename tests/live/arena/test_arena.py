"""`live.py --arena`: models, a policy and rules on one account, with faults, a kill, emergencies and restarts."""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.request
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from live_support import bare_environ, live, rows_of, start_live
from llm_servers import HOLD, KEY, KEY_NAME, Answer, LlmServer, Question, llm_file, opening, say
from policy_run import make_run

from envs.settings import EnvConfig
from envs.synthetic import synthetic_market
from live.cli import main
from live.exchange.client_ids import parse_client_order_id
from live.ledger import Ledger
from live.ledger.identity import check_identity
from live.paper.account import PaperAccount
from live.paper.fault_specs import FaultSchedule
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from live.store.journal import Journal

SYMBOLS = ("ETHUSDT", "BNBUSDT", "XRPUSDT", "DOGEUSDT", "ADAUSDT", "AVAXUSDT")
CAPITAL = {"LLM-A": 1000, "LLM-B": 1500, "LLM-C": 1000, "sac": 2000, "cross": 1000, "hold": 500}
MODELS = ("model-a", "model-b", "model-c")
FAULTS = {
    "lost_after": 0.0003,
    "unknown_503": 0.001,
    "unavailable_503": 0.002,
    "delay_after": 0.004,
    "partial_fill": 0.02,
    "reject_margin": 0.003,
    "stream_duplicate": 0.02,
}
# A stream that loses something is waited for, for seconds of its own clock: for the long run.
STREAM_FAULTS = {"stream_lose": 0.002, "stream_delay": 0.02, "drop_sockets": 0.001}
# A reply that is lost is waited for in vain; a machine that is slow for seconds is no reason to give up.
IMPATIENT = {
    "connection": {
        "timeout_s": 2.0, "receive_window_ms": 2000, "retry_delay_s": 0.02, "longest_delay_s": 0.5, "attempts": 10,
    }
}  # fmt: skip


def trader(question: Question) -> Answer:
    """Opens, turns round and closes by what it is shown; now and then it talks nonsense or fails."""
    words = question.user
    mood = (sum(map(ord, words)) + len(question.body["model"]) + ord(question.body["model"][-1])) % 11
    if "That was not a valid decision" in words or mood == 0:
        return say(HOLD)
    if mood == 1:
        return Answer("status", status=500)
    if mood == 2:
        return say("what?")
    prices = [float(one) for one in re.findall(r"^Price ([\d.]+)", words, re.MULTILINE)]
    pick = mood % len(SYMBOLS)
    if f"{SYMBOLS[pick]} LONG" in words or f"{SYMBOLS[pick]} SHORT" in words:
        return say({"action": "CLOSE_POSITION", "symbol": SYMBOLS[pick]})
    side = "BUY" if mood % 2 else "SELL"
    quantity = float(f"{300 / prices[pick]:.3g}")
    near = prices[pick] * (0.98 if side == "BUY" else 1.02)
    return say(opening(SYMBOLS[pick], side=side, quantity=quantity, stop_loss=float(f"{near:.4g}")))


def arena_file(folder: Path, agents: dict[str, Any], **settings: Any) -> Path:
    path = folder / "arena.yaml"
    values = {"symbols": list(SYMBOLS), "interval": "1h", "agents": agents, **settings}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    (folder / "live.yaml").write_text(yaml.safe_dump(IMPATIENT))
    return path


def full_arena(folder: Path, server: LlmServer, kinds: tuple[str, ...]) -> Path:
    """Three models, a policy and two rules."""
    prices = folder / "prices.yaml"
    prices.write_text(f"models: {{{', '.join(f'{m}: {{input: 3.0, output: 15.0}}' for m in MODELS)}}}\n")
    server.models = MODELS
    agents: dict[str, Any] = {}
    for name, model, kind in zip(("LLM-A", "LLM-B", "LLM-C"), MODELS, kinds, strict=True):
        own = folder / name
        own.mkdir()
        path = llm_file(
            own, server.url, kind, provider={"model": model}, prices=str(prices), cache=None,
            symbols=list(SYMBOLS), env={"max_leverage": 2.0},
        )  # fmt: skip
        agents[name] = {"agent": f"llm:{path}"}
    run = make_run(folder, symbols=SYMBOLS, env=EnvConfig(window_size=4))
    agents["sac"] = {"agent": run.train_id}
    agents["cross"] = {"agent": "ema-cross", "parameters": {"fast": 2, "slow": 5}}
    agents["hold"] = {"agent": "buy-and-hold"}
    for name, capital in CAPITAL.items():
        agents[name]["capital_usdt"] = capital
    return arena_file(folder, agents)


def played(url: str) -> int:
    with urllib.request.urlopen(f"{url}/paper/state") as reply:
        return int(json.load(reply)["index"])


def compare(folder: Path, server: PaperServer, capital: dict[str, int]) -> dict[str, dict[str, Any]]:
    """The ledger against the exchange's own books to the last unit, and the leaderboard against both."""
    told = json.loads((folder / "leaderboard.json").read_text())
    board = {row["agent"]: row for row in told["leaderboard"]}
    books, engine = server.exchange.engine.accounts["paper"], server.exchange.engine
    ledger = Ledger.open(str(folder / "arena.db"))
    try:
        (account,) = set(told["accounts"].values())
        identity = check_identity(
            ledger,
            account,
            exchange_wallet=books.wallet_usdt,
            exchange_quantities={one.symbol: one.quantity for one in books.held()},
        )
        assert identity.holds, identity
        for symbol in server.exchange.engine.prices:
            net = sum(
                (ledger.position(account, name, symbol).p1 for name in (*capital, "MANUAL")), Decimal(0)
            )
            assert net == books.position(symbol).quantity
        fees = dict.fromkeys(capital, Decimal(0))
        for rows in books.trades.values():
            for trade in rows:
                owner = parse_client_order_id(trade.order.client_order_id)
                assert owner is not None and owner.agent in capital
                fees[owner.agent] += trade.commission_usdt
        total = ledger.wallet(account, "MANUAL")
        for name in capital:
            equity = ledger.wallet(account, name)
            for symbol in server.exchange.engine.prices:
                state = ledger.position(account, name, symbol)
                equity += state.p1 * engine.prices[symbol] - state.cost
            total += equity
            assert board[name]["equity"] == pytest.approx(float(equity), rel=1e-12)
            assert board[name]["capital"] == capital[name]
            assert board[name]["total_return"] == pytest.approx(float(equity) / capital[name] - 1, abs=1e-12)
            assert board[name]["fees"] == pytest.approx(float(fees[name]), rel=1e-12)
        unrealized = sum(
            (one.quantity * (engine.prices[one.symbol] - one.entry_price) for one in books.held()), Decimal(0)
        )
        assert float(total) == pytest.approx(float(books.wallet_usdt + unrealized), rel=1e-9)
        for name in [one for one in capital if one.startswith("LLM")]:
            decisions = Journal(ledger.store).decisions(account, agent=name)
            assert board[name]["llm_cost"] == pytest.approx(float(sum(one.cost_usd for one in decisions)))
            assert len(decisions) >= board[name]["steps"] - 1
    finally:
        ledger.close()
    return board


def play(
    folder: Path,
    server: LlmServer,
    candles: int,
    kinds: tuple[str, ...],
    seed: int,
    faults: dict[str, float],
) -> None:
    server.script = trader
    market = synthetic_market(SYMBOLS, interval="1h", n=candles + 60, seed=seed, volatility_annual=1.2)
    schedule = FaultSchedule(seed=seed, probability=faults, limit=100_000, delay_ms=60)
    paper = PaperServer.start(ReplayFeed(market, 30), (PaperAccount(),), faults=schedule)
    try:
        path = full_arena(folder, server, kinds)
        out = folder / "out"
        arguments = (
            "--arena", path, "--paper", "--paper-url", paper.rest_url, "--out", out, "--config", folder / "live.yaml",
            "--training-runs", folder,
        )  # fmt: skip
        environ = bare_environ(**{KEY_NAME: KEY})
        begun, deadline = played(paper.rest_url), time.monotonic() + 60 + 5 * candles
        # Not into pipes: nobody reads while it runs, and what is full holds it up.
        with (
            (folder / "first.log").open("w") as told,
            start_live(*arguments, environ=environ, output=told) as first,
        ):
            try:
                while played(paper.rest_url) < begun + candles // 2:
                    assert first.poll() is None, (folder / "first.log").read_text()[-4000:]
                    assert time.monotonic() < deadline, "no progress"
                    time.sleep(0.05)
            finally:
                first.kill()
        reached = played(paper.rest_url)
        left = max(2, begun + candles - reached)
        done = live(*arguments, "--steps", str(left), environ=environ, timeout_s=60 + 5 * candles)
        assert done.returncode == 0, done.stderr[-4000:]
        assert KEY not in done.stdout + done.stderr
        board = compare(out, paper, CAPITAL)
        assert all(row["ending"] == "truncated" for row in board.values()), board
        for name in CAPITAL:
            rows = [row for row in rows_of(out / name) if row["operation"] == "step"] or rows_of(out / name)
            times = sorted({int(row["timestamp"]) for row in rows})
            assert len(times) >= candles - 3
            # Nobody missed a candle or decided on one twice, across the kill.
            assert times == list(range(times[0], times[-1] + 1, market.interval_ms))
        assert sum(row["trades"] for row in board.values()) > candles // 4
    finally:
        paper.stop()


@pytest.mark.slow
def test_an_arena_is_killed_and_goes_on_and_everything_adds_up(server: LlmServer, tmp_path: Path) -> None:
    play(tmp_path, server, 12, ("openai",) * 3, 5, FAULTS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [6, 7])
def test_an_arena_adds_up_over_500_candles(server: LlmServer, tmp_path: Path, seed: int) -> None:
    play(tmp_path, server, 500, ("anthropic", "openai", "openai"), seed, FAULTS | STREAM_FAULTS)


def test_rules_on_one_account_an_emergency_alone_and_another_start(tmp_path: Path) -> None:
    symbols = ("BTCUSDT", "ETHUSDT")
    capital = {"cross": 1000, "hold": 1000}
    path = arena_file(
        tmp_path,
        {
            "cross": {"agent": "ema-cross", "parameters": {"fast": 2, "slow": 4}},
            "hold": {"agent": "buy-and-hold", "risk": {"max_drawdown_fraction": 0.0005}},
        },
        symbols=list(symbols),
        capital_usdt=1000.0,
    )
    market = synthetic_market(symbols, interval="1h", n=60, seed=5, falling=True)
    paper = PaperServer.start(ReplayFeed(market, 20), (PaperAccount(),))
    out = tmp_path / "out"
    arguments = ("--arena", path, "--paper", "--paper-url", paper.rest_url, "--out", out)
    try:
        done = live(*arguments, "--steps", "8", timeout_s=120)
        assert done.returncode == 3, done.stderr
        board = compare(out, paper, capital)
        assert board["hold"]["ending"] == "emergency" and board["cross"]["ending"] == "truncated"
        assert board["hold"]["steps"] < board["cross"]["steps"] == 8
        held = paper.exchange.engine.accounts["paper"].held()
        assert any(held)  # of the agent that goes on
        assert list((out / "hold").glob("emergencies_*.csv"))
        assert not list((out / "cross").glob("emergencies_*.csv"))
        # The halted agent sits out, the other goes on where it was.
        done = live(*arguments, "--steps", "4", timeout_s=120)
        assert done.returncode == 0, done.stderr
        assert "hold sits out" in " ".join(done.stdout.split())
        board = compare(out, paper, capital)
        assert board["hold"]["ending"] == "halted" and board["cross"]["steps"] == 12
        times = sorted({int(row["timestamp"]) for row in rows_of(out / "cross")})
        # Twelve steps, none twice and none left out; what the last candle did has a row of its own.
        assert times[:12] == list(range(times[0], times[0] + 12 * market.interval_ms, market.interval_ms))
        assert len(times) <= 13
    finally:
        paper.stop()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--agent", "flat"), "leave out --agent"),
        (("--flat-on-exit",), "leave out --flat-on-exit"),
        (("--live",), "BINANCE_API_KEY"),
    ],
)
def test_what_an_arena_refuses(
    arguments: tuple[str, ...],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = arena_file(tmp_path, {"x": {"agent": "flat"}})
    for name in ("BINANCE_API_KEY", "BINANCE_API_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        sys, "argv", ["live.py", "--arena", str(path), "--out", str(tmp_path / "out"), *arguments]
    )
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert words in " ".join(capsys.readouterr().err.split())
