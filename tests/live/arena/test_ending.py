"""How a live arena ends and begins again: signals, limits of the account, budgets, a provider that hangs, no keys."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from live_arena import HOLDER, RULE, SYMBOLS, arena_of, board_of, exchange, notices, play
from live_support import REPOSITORY, flat_market, rows_of
from llm_servers import HOLD, Answer, LlmServer, Question, llm_file, opening, say
from rich.console import Console

from agents.arena.config import ArenaConfig
from agents.arena.standings import Standing
from envs.errors import HaltedError
from envs.synthetic import synthetic_market
from live.arena.board import Board
from live.arena.player import Player
from live.arena.screen import Screen, line_of
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from live.store.journal import Journal


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everybody_after_the_step_and_everything_is_written(
    number: signal.Signals, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()
    request_stop = Player.request_stop

    def noted(self: Player) -> None:
        # All are to stop before the first is told: however late the next, nobody plays on.
        if asked.is_set():
            time.sleep(0.3)
        asked.set()
        request_stop(self)

    def interrupt(step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), number)
            assert asked.wait(60)

    monkeypatch.setattr(Player, "request_stop", noted)
    config = arena_of(tmp_path, {"cross": RULE, "hold": HOLDER})
    with exchange(synthetic_market(SYMBOLS, interval="1h", n=60, seed=3)) as server:
        result = play(config, tmp_path, server, before={"cross": interrupt})
        assert f"stopping after this step ({number.name})" in capfd.readouterr().err
        board = board_of(result)
        assert result.exit_code == 0
        assert {one.ending for one in result.standings} == {"stopped"}
        # The step that was under way is finished, and written: its orders and its row.
        assert board["cross"].steps == 4 and board["hold"].steps in (3, 4)
        assert {path.name for path in tmp_path.glob("leaderboard.*")} == {
            "leaderboard.csv",
            "leaderboard.json",
        }
        assert '"name": "hold"' in (tmp_path / "report.html").read_text()
        assert any(server.exchange.engine.accounts["paper"].held())
        # The next start goes on with the candle behind it.
        again = board_of(play(config, tmp_path, server, steps=2))
        assert {name: one.steps - board[name].steps for name, one in again.items()} == {"cross": 2, "hold": 2}
        for name in ("cross", "hold"):
            times = [int(row["timestamp"]) for row in rows_of(tmp_path / name) if row["action_type"] != "end"]
            assert sorted(set(times)) == list(range(times[0], times[-1] + 1, 3_600_000))


def test_what_the_screen_runs_into_ends_everybody_after_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_screen: Screen, steps: int) -> None:
        if steps:
            raise BrokenPipeError("whoever read the leaderboard is gone")

    monkeypatch.setattr(Screen, "show", broken)
    config = arena_of(tmp_path, {"cross": RULE, "hold": HOLDER})
    with exchange(synthetic_market(SYMBOLS, interval="1h", n=60, seed=3)) as server:
        with pytest.raises(BrokenPipeError):
            play(config, tmp_path, server)
        assert not [one.name for one in threading.enumerate() if one.name.startswith("arena ")]
        for name in ("cross", "hold"):
            rows = rows_of(tmp_path / name)
            assert 0 < len(rows) < 59 * len(SYMBOLS) and len(rows) % len(SYMBOLS) == 0


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_drawdown_fraction": 0.002}, "the account's drawdown"),
        ({"max_net_leverage": 0.1}, "the account's net positions"),
    ],
)
def test_a_limit_of_the_account_flattens_and_halts_everybody(
    limits: dict[str, float], words: str, tmp_path: Path
) -> None:
    agents = {"one": HOLDER, "two": HOLDER}
    free, limited = arena_of(tmp_path, agents), arena_of(tmp_path, agents, account=limits)
    with exchange(synthetic_market(SYMBOLS, interval="1h", n=60, seed=5, falling=True)) as server:
        books = server.exchange.engine.accounts["paper"]
        # No order exceeds a limit when it is sent; what was opened before the limit was set does.
        assert play(free, tmp_path, server, steps=1).exit_code == 0 and any(books.held())
        result = play(limited, tmp_path, server, steps=30)
        assert result.exit_code == 3
        assert f"the whole account was halted: {words}" in notices(tmp_path)
        assert all(one.steps < 30 for one in result.standings)
        assert not any(books.held())
        orders = len(books.orders)
        with pytest.raises(HaltedError, match=f"{words}.*--acknowledge-emergency") as caught:
            play(limited, tmp_path, server, steps=2)
        assert caught.value.exit_code == 3
        assert len(books.orders) == orders
        # Once somebody has looked at it they play on.
        again = play(free, tmp_path, server, steps=1, acknowledge_emergency=True)
        assert again.exit_code == 0 and any(books.held())


@pytest.mark.parametrize("records", [{}, {"log": None}], ids=["logged", "not logged"])
def test_budgets_and_costs_survive_a_restart(
    records: dict[str, None], server: LlmServer, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("models: {test-model: {input: 3.0, output: 15.0}}\n")
    file = llm_file(
        tmp_path, server.url, prices=str(prices), cache=None, interval="5m", records=records,
        budget={"decisions_per_hour": 3, "usd_per_day": 1.0},
    )  # fmt: skip
    config = arena_of(tmp_path, {"llm": {"agent": f"llm:{file}"}, "hold": HOLDER}, interval="5m")
    with exchange(synthetic_market(SYMBOLS, interval="5m", n=60, seed=5)) as paper:
        server.plan(say(HOLD))
        first = board_of(play(config, tmp_path, paper, steps=2))["llm"]
        assert (first.holds, len(server.questions)) == (0, 2)
        # The candles 20 to 24 are of one hour.
        second = board_of(play(config, tmp_path, paper, steps=3))["llm"]
        assert (second.holds, len(server.questions)) == (2, 3)
        assert second.steps == 5
        assert first.llm_cost is not None and second.llm_cost is not None
        assert second.llm_cost == pytest.approx(1.5 * first.llm_cost) and first.llm_cost > 0


def test_a_provider_that_hangs_holds_up_nobody_else(server: LlmServer, tmp_path: Path) -> None:
    rule_is_done = threading.Event()
    hung: list[bool] = []

    def hang(_question: Question) -> Answer:
        hung.append(rule_is_done.wait(60))
        return say(HOLD)

    server.script = hang
    file = llm_file(
        tmp_path, server.url, cache=None, interval="1m", records={"log": None}, provider={"timeout_s": 60}
    )
    config = arena_of(tmp_path, {"llm": {"agent": f"llm:{file}"}, "hold": HOLDER}, interval="1m")
    market = synthetic_market(SYMBOLS, interval="1m", n=2000, seed=5)
    paper = PaperServer.start(ReplayFeed(market, 20, speed=120.0), (PaperAccount(),))

    def count(step: int) -> None:
        if step == 3:
            rule_is_done.set()

    try:
        result = board_of(play(config, tmp_path, paper, steps=5, before={"hold": count}))
    finally:
        rule_is_done.set()
        paper.stop()
    # The model's first answer came when the rule had made three steps; it had not waited for it.
    assert hung[0]
    assert result["hold"].steps == 5 and result["llm"].ending == "truncated"


def test_the_shipped_arena_plays_without_any_key_and_says_so(tmp_path: Path) -> None:
    config = ArenaConfig.read(REPOSITORY / "configs" / "arena.yaml")
    result = play(config, tmp_path, environ={}, steps=2)
    assert result.exit_code == 0
    assert {one.agent: one.played_by for one in result.standings} == {
        "LLM-A": "ema-cross", "LLM-B": "momentum", "LLM-C": "buy-and-hold",
    }  # fmt: skip
    said = notices(tmp_path)
    for name, key in (("LLM-A", "ANTHROPIC"), ("LLM-B", "DEEPSEEK"), ("LLM-C", "OPENAI")):
        assert f"{name}: {key}_API_KEY is not set; the rule " in said


def test_a_decisions_stop_is_set_by_the_next_session(
    server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first session ends between the decision's order and its triggers."""
    server.plan(say(opening(quantity=0.01, stop_loss=45_000.04, take_profit=60_000.0)), say(HOLD))
    file = llm_file(tmp_path, server.url, cache=None, symbols=["BTCUSDT"], records={"log": None})
    config = arena_of(tmp_path, {"llm": {"agent": f"llm:{file}"}}, symbols=["BTCUSDT"])

    class Killed(BaseException):
        pass

    async def die(*_: object) -> None:
        raise Killed

    with exchange(flat_market(count=60)) as paper:
        books = paper.exchange.engine.accounts["paper"]
        with monkeypatch.context() as patched:
            patched.setattr("live.subaccount.desk.SharedDesk.place_trigger", die)
            with pytest.raises(Killed):
                play(config, tmp_path, paper, steps=1)
        assert books.position("BTCUSDT").quantity == Decimal("0.01") and not books.algo_orders
        play(config, tmp_path, paper, steps=1)
        found = {one.client_algo_id[-1]: one.trigger_price for one in books.open_algo_orders.values()}
        assert found == {"s": Decimal("45000.1"), "t": Decimal(60_000)}


@pytest.mark.slow
def test_a_refresh_reads_what_is_new_and_says_what_a_whole_reading_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, equity_of = Board.read, Journal.equity_of
    rows: list[int] = []
    refreshes: list[int] = []

    def counted(self: Journal, *arguments: Any, **named: Any) -> Any:
        found = equity_of(self, *arguments, **named)
        rows.append(len(found))
        return found

    def compared(self: Board, endings: Mapping[str, str], *, anew: bool = False) -> Any:
        found = read(self, endings)
        refreshes.append(sum(rows))
        if anew:
            assert found == read(self, endings, anew=True)
        return found

    monkeypatch.setattr(Journal, "equity_of", counted)
    monkeypatch.setattr(Board, "read", compared)
    monkeypatch.setattr("live.arena.screen.REFRESH_S", 0.0)
    config = arena_of(tmp_path, {"cross": RULE, "hold": HOLDER})
    with exchange(synthetic_market(SYMBOLS, interval="1h", n=60, seed=3)) as server:
        result = play(config, tmp_path, server, steps=8, quiet=False)
    assert {one.steps for one in result.standings} == {8}
    # Over all refreshes each of the sixteen rows was read once; the last reading reads them again.
    assert refreshes[-1] == 16 and sum(rows) == 32
    assert sum(one.trades for one in result.standings) > 0


@pytest.mark.parametrize(("width", "columns"), [(70, "agent equity net of LLM"), (200, "agent played by")])
def test_the_leaderboard_fits_the_terminal(width: int, columns: str) -> None:
    standings = [Standing(1, "LLM-A", "llm:a", 1000.0, 1010.5, 0.0105, 0.01, 1.2, 0.02, 3, 0.5, 1.0, 0.5, 7)]
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, legacy_windows=False, color_system=None)
    with Screen("arena", lambda: standings, lambda: 0, console=console) as screen:
        screen.show(1)
    text = out.getvalue()
    assert columns in " ".join(text.replace("┃", " ").split())
    assert "…" not in text and "1,010.50" in text
    assert ("played by" in text) == (width == 200)


def test_a_warning_goes_above_the_table_and_not_through_it() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, legacy_windows=False, color_system=None)
    handler = logging.StreamHandler(sys.stderr)
    before = handler.stream
    logging.getLogger().addHandler(handler)
    try:
        with Screen("arena", list, lambda: 0, console=console):
            logging.getLogger("live.exchange.rest").warning("attempt 1 of 3")
            assert "attempt 1 of 3" in out.getvalue()
        assert handler.stream is before
    finally:
        logging.getLogger().removeHandler(handler)


def test_where_stdout_is_no_terminal_each_look_is_a_line_and_quiet_is_quiet() -> None:
    standings = [
        Standing(1, "LLM-A", "llm:a", 1000.0, 1010.5, 0.0105, 0.01, 1.2, 0.02, 3, 0.5, 1.0, 0.5, 7, "halted")
    ]
    assert line_of(standings, 1_700_000_000_000) == "2023-11-14 22:13:20Z 1. LLM-A 1,010.50 (+1.00%, halted)"
    out = io.StringIO()
    for quiet in (True, False):
        with Screen("arena", lambda: standings, lambda: 0, quiet=quiet, console=Console(file=out)) as screen:
            screen.show(1)
            screen.show(1)  # nobody has made a step
        assert out.getvalue().count("LLM-A") == (not quiet)
