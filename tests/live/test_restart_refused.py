"""A live run's files that are damaged, lost or another's: each is named, and nothing is traded on them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from live_support import Scripted, rows_of
from restart_support import check, live_options, market, serve, session
from support import START_MS

from agents.run import Ending
from envs.errors import ConfigError, MarketDataError, StepLogError
from envs.step_log import COLUMNS, CsvAppender
from live.console import LiveConsole
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from live.recovery import Session, read_logged, run_lock
from live.runner import run_live
from live.venues import PaperOptions


@pytest.fixture
def server() -> Iterator[PaperServer]:
    with serve(market()) as running:
        yield running


# --- what is damaged ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"\x00\xff\xfe garbage\n", "line"),
        (b"1,17,not-a-step\n", "line 5"),
        (b"1,x,y,z,,,,,,,,,,,,,,,,,,,,,,,\n", "line 5"),
    ],
)
def test_a_damaged_log_is_named_with_its_line(
    server: PaperServer, tmp_path: Path, damage: bytes, message: str
) -> None:
    session(server, tmp_path, [0.2], [0.2])
    (path,) = tmp_path.glob("steps_*.csv")
    with path.open("ab") as file:
        file.write(damage)
    with pytest.raises(StepLogError, match=message) as problem:
        session(server, tmp_path, [0.2])
    assert path.name in str(problem.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{torn"])
def test_a_damaged_session_file_is_named(server: PaperServer, tmp_path: Path, text: str) -> None:
    session(server, tmp_path, [0.2])
    (path,) = tmp_path.glob("session_*.json")
    path.write_text(text)
    with pytest.raises(StepLogError, match="is damaged"):
        session(server, tmp_path, [0.2])


def test_a_log_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "steps_20250101_000000.csv"
    path.write_text("time,price\n1,2\n")
    with pytest.raises(StepLogError, match="other columns"):
        read_logged([Session(path, 0)], ("BTCUSDT",))


def test_a_log_of_nothing_but_a_torn_header_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "steps_20250101_000000.csv"
    path.write_text(",".join(COLUMNS)[:40])
    logged = read_logged([Session(path, 7)], ("BTCUSDT",))
    assert (logged.next_step, logged.last_row_close_ms, logged.repaired) == (0, 0, (path,))
    assert logged.fills_since_ms == 7


def test_a_candle_of_which_one_symbol_is_missing_is_not_complete(tmp_path: Path) -> None:
    path = tmp_path / "steps_20250101_000000.csv"
    writer = CsvAppender(path, COLUMNS)
    for step, symbols in enumerate((("BTCUSDT", "ETHUSDT"), ("BTCUSDT",))):
        for symbol in symbols:
            values = dict.fromkeys(COLUMNS, "0") | {"symbol": symbol, "step": step, "action_type": "hold"}
            values |= {"timestamp": START_MS + step, "trade_id": "", "action": "0.5"}
            writer.append([values[name] for name in COLUMNS])
    writer.close()
    logged = read_logged([Session(path, 0)], ("BTCUSDT", "ETHUSDT"))
    assert (logged.last_row_close_ms, logged.next_step) == (START_MS, 2)


def test_a_torn_risk_state_is_refused(server: PaperServer, tmp_path: Path) -> None:
    session(server, tmp_path, [0.2], [0.2])
    (path,) = tmp_path.glob("risk_*.json")
    path.write_text(path.read_text()[:40])
    with pytest.raises(ConfigError, match="cannot be read"):
        session(server, tmp_path, [0.2], acknowledge_emergency=True)


# --- what is lost, or another's -----------------------------------------------------------------------------------


def test_a_lost_risk_state_is_refused_with_what_is_known(server: PaperServer, tmp_path: Path) -> None:
    session(server, tmp_path, [0.2], [0.2])
    (path,) = tmp_path.glob("risk_*.json")
    path.unlink()
    with pytest.raises(
        ConfigError, match=r"is missing, but the step log has 3 steps.*equity of 9995\.00 USDT"
    ):
        session(server, tmp_path, [0.2])
    session(server, tmp_path, [0.2], acknowledge_emergency=True)
    session(server, tmp_path, [0.2])
    check(server, tmp_path)


def test_an_exchange_that_was_started_anew_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    with serve(market()) as server:
        session(server, tmp_path, [0.2], [0.2], [0.2], [0.2])
        port = server.port
    feed = ReplayFeed(market(), 2)
    accounts = (PaperAccount(wallet_usdt=Decimal(10_000)),)
    with (
        PaperServer.start(feed, accounts, port=port) as anew,
        pytest.raises(ConfigError, match="started anew; give another folder with --out"),
    ):
        session(anew, tmp_path, [0.2])


def test_an_exchange_without_a_candle_left_is_said_to_be_so(tmp_path: Path) -> None:
    with serve(market(count=5)) as server:
        result = session(server, tmp_path, [0.2], steps=10)
        assert result.result.ending is Ending.TRUNCATED
        rows = len(rows_of(tmp_path))
        session(server, tmp_path, [0.2], steps=10)  # the last candle is still to be decided on
        assert [r["action_type"] for r in rows_of(tmp_path)[rows:]] == ["open_long", "end"]
        with pytest.raises(MarketDataError, match="no candle left"):
            session(server, tmp_path, [0.2], steps=10)


def test_a_second_run_on_the_account_is_refused(server: PaperServer, tmp_path: Path) -> None:
    session(server, tmp_path, [0.2])
    state = json.loads(next(tmp_path.glob("session_*.json")).read_text())
    with (
        run_lock(tmp_path, state["account"]),
        pytest.raises(ConfigError, match=r"process \d+ already runs"),
    ):
        session(server, tmp_path, [0.2])
    session(server, tmp_path, [0.2])


def test_the_key_of_another_account_is_refused(tmp_path: Path) -> None:
    wallets = [PaperAccount(key, key, wallet_usdt=Decimal(10_000)) for key in ("paper", "other")]
    with PaperServer.start(ReplayFeed(market(), 2), wallets) as server:
        session(server, tmp_path, [0.2], [0.2])
        other = PaperOptions(url=server.rest_url, api_key="other", api_secret="other")
        options = live_options(server, tmp_path, Scripted([0.2]), steps=1, paper=other)
        with pytest.raises(ConfigError, match=r"this API key is of the account Paper\d+: use a key of"):
            run_live(options, LiveConsole(quiet=True, out=io.StringIO()))
        assert not server.exchange.engine.accounts["other"].orders


def test_logs_of_another_account_are_ignored(tmp_path: Path) -> None:
    with serve(market()) as one, serve(market()) as other:
        session(one, tmp_path, [0.2], [0.2])
        session(other, tmp_path, [0.1], [0.1])
        rows = rows_of(tmp_path)
        assert [row["step"] for row in rows] == ["0", "1", "2", "0", "1", "2"]
        assert not any("recovered" in row["error"] for row in rows)
