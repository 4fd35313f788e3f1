"""`live.py`'s command line: every mistake is one clear line and exit code 2; emergencies are 3; Ctrl+C is 0."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from live_support import REPOSITORY, bare_environ, live, rows_of, start_live, wait_for
from policy_run import make_run
from said import said

from agents.training_run import TrainingRun
from envs.step_log import COLUMNS
from envs.synthetic import synthetic_candles, synthetic_market
from live.bridge import LoopThread
from live.cli import main
from live.exchange.binance import BinanceExchange
from live.exchange.orders import Orders
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from live.settings import Credentials, paper_venue

Command = Callable[..., subprocess.CompletedProcess[str]]

KEYS = {
    "BINANCE_API_KEY": "live-key-0123456789",
    "BINANCE_API_SECRET": "live-secret-0123456789",
    "BINANCE_TESTNET_API_KEY": "test-key-0123456789",
    "BINANCE_TESTNET_API_SECRET": "test-secret-0123456789",
}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process, in the test's folder, without anybody's keys."""
    monkeypatch.chdir(tmp_path)
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("BINANCE_TESTNET_SECRET_KEY", raising=False)
    # It is for a process of its own: this one may yet need what it takes away.
    monkeypatch.setattr("live.cli.numba_without_blas", lambda: None)

    def run(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            for name, value in environ.items():
                patch.setenv(name, value)
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess([], code, out, err)

    return run


def falling_file(folder: Path, count: int = 400) -> Path:
    path = folder / "BTCUSDT_1h.parquet"
    synthetic_candles("BTCUSDT", n=count, seed=3, falling=True).to_parquet(path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """What the mistakes below are made with."""
    run = make_run(tmp_path / "training_runs", data={"candles": ["gone.parquet"]})
    without_policy = broken(tmp_path, "nopolicy", lambda one: one.policy_path.unlink())
    garbled = tmp_path / "garbled.csv"
    garbled.write_text("open_time,open\n1,2\n")
    typo = tmp_path / "typo.yaml"
    typo.write_text("risk: {max_drawdwn_fraction: 0.1}\n")
    section = tmp_path / "section.yaml"
    section.write_text("riks: {}\n")
    listed = tmp_path / "listed.yaml"
    listed.write_text("risk: [1]\n")
    return {
        "run": run.folder,
        "nopolicy": without_policy.folder,
        "noscaler": broken(tmp_path, "noscaler", lambda one: one.scaler_path.unlink()).folder,
        "badscaler": broken(tmp_path, "badscaler", lambda one: one.scaler_path.write_text("{")).folder,
        "badpolicy": broken(tmp_path, "badpolicy", lambda one: one.policy_path.write_bytes(b"x")).folder,
        "otherhash": broken(tmp_path, "otherhash", other_hash).folder,
        "candles": falling_file(tmp_path),
        "garbled": garbled,
        "typo": typo,
        "section": section,
        "listed": listed,
        "missing": tmp_path / "missing.parquet",
        "file": garbled,
    }


def broken(tmp_path: Path, name: str, change: Callable[[TrainingRun], object]) -> TrainingRun:
    run = make_run(tmp_path / name)
    change(run)
    return run


def other_hash(run: TrainingRun) -> None:
    text = run.metadata_path.read_text()
    run.metadata_path.write_text(re.sub(r"observation_hash: \S+", "observation_hash: 0123456789abcdef", text))


MISTAKES = {
    "testnet without keys": (
        ["--agent", "flat", "--testnet"],
        ["BINANCE_TESTNET_API_KEY", "set the environment"],
    ),
    "live without keys": (["--agent", "flat", "--live"], ["BINANCE_API_KEY", "BINANCE_API_SECRET"]),
    "neither agent nor run": (["--paper"], ["--train-id", "--agent"]),
    "agent and run": (["--paper", "--agent", "flat", "--train-id", "{run}"], ["--train-id", "not both"]),
    "unknown agent": (["--paper", "--agent", "buy-and-hol"], ["buy-and-hol", "Did you mean 'buy-and-hold'"]),
    "rule as run": (["--paper", "--train-id", "flat"], ["--agent flat"]),
    "unknown run": (
        ["--paper", "--train-id", "train_BTCUSDT_20230101_20230201_lr3e-4_bs256_ws4_20250101_000000"],
        ["Did you mean 'train_BTCUSDT"],
    ),
    "no policy": (["--paper", "--train-id", "{nopolicy}"], ["policy.onnx", "agents.train"]),
    "damaged policy": (["--paper", "--train-id", "{badpolicy}"], ["policy.onnx is damaged", "agents.train"]),
    "no scaler": (["--paper", "--train-id", "{noscaler}"], ["scaler_train.json", "agents.train"]),
    "damaged scaler": (["--paper", "--train-id", "{badscaler}"], ["scaler_train.json", "agents.train"]),
    "other observation": (["--paper", "--train-id", "{otherhash}"], ["observation", "0123456789abcdef"]),
    "other window": (
        ["--paper", "--train-id", "{run}", "--config", "{window}"],
        ["window_size", "would change the observation"],
    ),
    "unknown symbol": (["--paper", "--agent", "flat", "--symbol", "BTCUSD"], ["BTCUSD", "BTCUSDT"]),
    "symbol without candles": (
        ["--paper", "--agent", "flat", "--candles", "{candles}", "--symbol", "ETHUSDT"],
        ["ETHUSDT", "BTCUSDT"],
    ),
    "no candles": (["--paper", "--agent", "flat", "--candles", "{missing}"], ["missing.parquet"]),
    "bad candles": (["--paper", "--agent", "flat", "--candles", "{garbled}"], ["garbled.csv"]),
    "other interval": (
        ["--paper", "--agent", "flat", "--candles", "{candles}", "--interval", "5m"],
        ["the candles are of 1h", "5 min"],
    ),
    "no such interval": (["--paper", "--agent", "flat", "--interval", "7m"], ["7m"]),
    "speed of nonsense": (["--paper", "--agent", "flat", "--speed", "fast"], ["--speed 'fast'", "max"]),
    "speed of zero": (["--paper", "--agent", "flat", "--speed", "0"], ["--speed 0", "above 0"]),
    "speed of infinity": (["--paper", "--agent", "flat", "--speed", "inf"], ["--speed inf"]),
    "speed of no number": (["--paper", "--agent", "flat", "--speed", "nan"], ["--speed nan"]),
    "two venues": (["--agent", "flat", "--paper", "--live"], ["exclude one another"]),
    "candles on the testnet": (
        ["--agent", "flat", "--testnet", "--candles", "{candles}"],
        ["--candles", "paper exchange"],
    ),
    "candles and url": (
        ["--agent", "flat", "--paper-url", "http://127.0.0.1:9", "--candles", "{candles}"],
        ["not both"],
    ),
    "fundings without candles": (
        ["--agent", "flat", "--paper", "--funding", "{candles}"],
        ["--candles"],
    ),
    "misspelt setting": (
        ["--paper", "--agent", "flat", "--config", "{typo}"],
        ["max_drawdwn_", "max_drawdown_"],
    ),
    "misspelt section": (
        ["--paper", "--agent", "flat", "--config", "{section}"],
        ["riks", "Did you mean 'risk'?", "connection"],
    ),
    "section of another kind": (
        ["--paper", "--agent", "flat", "--config", "{listed}", "--max-drawdown", "0.1"],
        ["'risk'", "name: value"],
    ),
    "no such config": (["--paper", "--agent", "flat", "--config", "{missing}"], ["missing.parquet"]),
    "drawdown of nothing": (["--paper", "--agent", "flat", "--max-drawdown", "0"], ["max_drawdown_fraction"]),
    "start beyond the data": (
        ["--paper", "--agent", "flat", "--candles", "{candles}", "--start", "2031-01-01"],
        ["no candle is left", "--start"],
    ),
    "start of nonsense": (
        ["--paper", "--agent", "flat", "--candles", "{candles}", "--start", "yesterday"],
        ["yesterday"],
    ),
    "end before the data": (
        ["--paper", "--agent", "flat", "--candles", "{candles}", "--end", "2001-01-01"],
        ["2001-01-01"],
    ),
    "name too long": (
        ["--paper", "--agent", "buy-and-hold", "--symbol", "1000000MOGUSDT"],
        ["client order id", "shorten the agent's name"],
    ),
    "nothing at the url": (
        ["--paper", "--agent", "flat", "--paper-url", "http://127.0.0.1:9"],
        ["no paper exchange answers", "live.paper"],
    ),
    "url of nonsense": (["--paper", "--agent", "flat", "--paper-url", "there"], ["there", "--paper-url"]),
    "folder in the way": (["--paper", "--agent", "flat", "--out", "{file}/x"], ["cannot make the folder"]),
    "actions that are not there": (["--paper", "--agent", "actions:gone.csv"], ["gone.csv"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_line(
    name: str, command: Command, files: dict[str, Path], tmp_path: Path
) -> None:
    arguments, words = MISTAKES[name]
    window = tmp_path / "window.yaml"
    window.write_text("env: {window_size: 9}\n")
    given = {key: str(path) for key, path in {**files, "window": window}.items()}
    ended = command(*(one.format(**given) for one in arguments))
    assert ended.returncode == 2, ended
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1, ended.stderr
    for word in words:
        assert word in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout


def test_a_mistake_in_a_process_of_its_own_has_no_traceback(tmp_path: Path) -> None:
    ended = live("--agent", "flat", "--live", "--out", tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: no credentials for live") and ended.stderr.count("\n") == 1


def test_half_of_the_testnets_keys_is_not_taken_for_paper(command: Command, tmp_path: Path) -> None:
    half = {"BINANCE_TESTNET_API_KEY": "half-a-key"}
    ended = command("--agent", "flat", "--steps", "1", "--out", tmp_path, **half)
    assert ended.returncode == 2
    assert "BINANCE_TESTNET_API_KEY is set, but not BINANCE_TESTNET_API_SECRET" in ended.stderr
    assert "half-a-key" not in ended.stderr and rows_of(tmp_path) == []
    assert command("--agent", "flat", "--paper", "--steps", "1", "--out", tmp_path, **half).returncode == 0


def test_an_observation_of_another_agent_is_refused_by_the_policy(tmp_path: Path, command: Command) -> None:
    """The metadata and the policy agree, and the environment gives something else: nothing is traded."""
    run = make_run(tmp_path / "training_runs")
    text = run.metadata_path.read_text()
    assert "normalize_portfolio: true" in text
    run.metadata_path.write_text(text.replace("normalize_portfolio: true", "normalize_portfolio: false"))
    ended = command("--paper", "--train-id", run.folder, "--quiet")
    assert ended.returncode == 2
    assert "observation" in ended.stderr
    assert rows_of(run.production_path) == []


def test_keys_are_in_no_output(command: Command, tmp_path: Path) -> None:
    for verbose in ([], ["--verbose"]):
        ended = command("--paper", "--agent", "random", "--steps", "2", "--out", tmp_path, *verbose, **KEYS)
        assert ended.returncode == 0
        for value in KEYS.values():
            assert value not in ended.stdout + ended.stderr
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert not any(value.encode() in path.read_bytes() for value in KEYS.values()), path


# --- Must be shown: the emergency, end to end ------------------------------------------------------------------------


def test_an_emergency_on_falling_prices_live_and_in_the_backtest(tmp_path: Path, command: Command) -> None:
    candles = falling_file(tmp_path)
    out = tmp_path / "live"
    arguments = [
        "--agent",
        "buy-and-hold",
        "--paper",
        "--candles",
        candles,
        "--max-drawdown",
        "0.01",
        "--out",
        out,
    ]
    ended = live(*arguments)
    assert ended.returncode == 3, ended.stderr
    assert "account flat, no orders left" in ended.stdout and "--acknowledge-emergency" in ended.stdout
    rows = rows_of(out)
    assert [row["action_type"] for row in rows][-2:] == ["emergency_close", "end"]
    assert rows[-1]["position_side"] == "FLAT"
    (emergency,) = rows_of(out, "emergencies_*.csv")
    assert (emergency["flat"], emergency["pending_orders"], emergency["tries"]) == ("true", "0", "1")
    assert float(emergency["drawdown"]) >= 0.01 == float(emergency["limit"])

    again = live(*arguments)
    assert again.returncode == 3
    assert again.stderr.count("\n") == 1 and "Traceback" not in again.stderr
    assert "drawdown" in again.stderr and "--acknowledge-emergency" in again.stderr
    assert rows_of(out) == rows

    acknowledged = command(*arguments, "--acknowledge-emergency", "--steps", "1")
    assert acknowledged.returncode == 0, acknowledged.stderr
    assert "emergency acknowledged" in acknowledged.stdout

    backtest = subprocess.run(
        [
            *(sys.executable, "-m", "agents.backtest", "--agent", "buy-and-hold", "--candles", str(candles)),
            *("--max-drawdown", "0.01", "--out", str(tmp_path / "backtest")),
        ],
        cwd=REPOSITORY,
        env=bare_environ(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert backtest.returncode == 3, backtest.stderr
    simulated = rows_of(tmp_path / "backtest", "**/steps_*.csv")
    assert len(simulated) == len(rows)
    for one, other in zip(simulated, rows, strict=True):
        for column in COLUMNS:
            if one[column] != other[column]:
                near = float(other[column]) == pytest.approx(float(one[column]), rel=1e-9, abs=1e-7)
                assert near, (column, one, other)
    (same,) = rows_of(tmp_path / "backtest", "**/emergencies_*.csv")
    assert same["timestamp"] == emergency["timestamp"]


@pytest.fixture
def external(tmp_path: Path) -> Iterator[PaperServer]:
    """A paper exchange that outlives the runs: falling prices, lock-step."""
    market = synthetic_market(n=400, seed=3, falling=True)
    with PaperServer.start(ReplayFeed(market, 60), (PaperAccount(wallet_usdt=Decimal(10_000)),)) as server:
        yield server


def test_an_emergency_on_an_exchange_that_stays(
    external: PaperServer, tmp_path: Path, command: Command
) -> None:
    """The protective stop rests at the exchange meanwhile; peak and halt are there at the next start."""
    config = tmp_path / "config.yaml"
    config.write_text("risk: {protective_stop: true, max_drawdown_fraction: 0.2}\n")
    url = external.rest_url
    out = tmp_path / "out"
    arguments = [
        "--agent",
        "buy-and-hold",
        "--paper",
        "--paper-url",
        url,
        "--config",
        config,
        "--out",
        out,
        "--quiet",
    ]
    account = external.exchange.engine.accounts["paper"]

    assert command(*arguments, "--steps", "3").returncode == 0
    (stop,) = account.open_algo_orders.values()
    assert (stop.type, stop.quantity) == ("STOP_MARKET", account.position("BTCUSDT").quantity)
    state = json.loads(next(out.glob("risk_*.json")).read_text())
    peak = Decimal(state["peak_equity_usdt"])
    assert peak >= Decimal(9_990)

    ended = live(*arguments, "--max-drawdown", "0.001")
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert account.position("BTCUSDT").quantity == 0
    assert not account.open_orders and not account.open_algo_orders
    (emergency,) = rows_of(out, "emergencies_*.csv")
    assert Decimal(emergency["peak_equity"]) == peak, "the peak of the first session"
    rows = rows_of(out)
    assert [row["action_type"] for row in rows[-2:]] == ["emergency_close", "end"]

    assert command(*arguments).returncode == 3
    assert command(*arguments, "--acknowledge-emergency", "--steps", "2").returncode == 0
    assert len(rows_of(out, "emergencies_*.csv")) == 1


# --- Ctrl+C -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def paced() -> Iterator[PaperServer]:
    """A market that moves by itself: a candle of a minute every 30 seconds."""
    market = synthetic_market(interval="1m", n=400, seed=3)
    feed = ReplayFeed(market, 60, speed=2.0)
    with PaperServer.start(feed, (PaperAccount(wallet_usdt=Decimal(10_000)),)) as server:
        yield server


def interrupt(process: subprocess.Popen[str], *, number: int = signal.SIGINT) -> None:
    os.kill(process.pid, number)


def test_ctrl_c_while_a_candle_is_awaited_stops_at_once_and_leaves_the_position(
    paced: PaperServer, tmp_path: Path
) -> None:
    url = paced.rest_url
    process = start_live(
        "--agent", "buy-and-hold", "--paper", "--paper-url", url, "--interval", "1m", "--out", tmp_path
    )
    wait_for(lambda: len(rows_of(tmp_path)) >= 1)
    interrupt(process)
    out, err = process.communicate(timeout=45)
    assert process.returncode == 0, err
    assert err.splitlines() == ["stopping after this step (SIGINT); again to stop at once"]
    assert "session: stopped" in out and "final_equity" in out
    assert [row["action_type"] for row in rows_of(tmp_path)] == ["open_long", "end"]
    assert paced.exchange.engine.accounts["paper"].position("BTCUSDT").quantity > 0


def test_sigterm_with_flat_on_exit_closes_the_position_and_logs_it(
    paced: PaperServer, tmp_path: Path
) -> None:
    url = paced.rest_url
    process = start_live(
        *("--agent", "buy-and-hold", "--paper", "--paper-url", url, "--interval", "1m", "--out", tmp_path),
        "--flat-on-exit",
    )
    wait_for(lambda: len(rows_of(tmp_path)) >= 1)
    interrupt(process, number=signal.SIGTERM)
    out, err = process.communicate(timeout=45)
    assert process.returncode == 0, err
    assert "flat on exit" in out
    rows = rows_of(tmp_path)
    assert [row["action_type"] for row in rows] == ["open_long", "emergency_close", "end"]
    assert rows[1]["error"] == "flat on exit" and rows[-1]["position_side"] == "FLAT"
    account = paced.exchange.engine.accounts["paper"]
    assert account.position("BTCUSDT").quantity == 0
    logged = [row["trade_id"] for row in rows if row["trade_id"]]
    assert logged == [str(trade.trade_id) for trade in account.trades["BTCUSDT"]]


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    process = start_live("--agent", "random", "--paper", "--out", tmp_path, "--quiet")
    wait_for(lambda: len(rows_of(tmp_path)) > 3)
    interrupt(process)
    interrupt(process)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (0, 130), err  # 0: the first one was quicker
    assert "Traceback" not in err
    rows = rows_of(tmp_path)
    assert all(None not in row.values() for row in rows) and rows[-1]["action_type"] == "end"


@pytest.mark.parametrize("exhausted", [False, True])
def test_flat_on_exit_closes_before_the_end_row(tmp_path: Path, command: Command, exhausted: bool) -> None:
    candles = falling_file(tmp_path, count=60)
    steps = [] if exhausted else ["--steps", "5"]
    ended = command(
        *("--agent", "buy-and-hold", "--paper", "--candles", candles, "--out", tmp_path, "--quiet"),
        *("--flat-on-exit", *steps),
    )
    assert ended.returncode == 0, ended.stderr
    kinds = [row["action_type"] for row in rows_of(tmp_path)]
    assert kinds.count("end") == 1 and kinds[-2:] == ["emergency_close", "end"]


# --- other ways to run ------------------------------------------------------------------------------------------------


def test_a_paced_run_steps_on_closed_candles(tmp_path: Path) -> None:
    ended = live(
        *(
            "--agent",
            "random",
            "--paper",
            "--interval",
            "1m",
            "--speed",
            "120",
            "--steps",
            "4",
            "--out",
            tmp_path,
        )
    )
    assert ended.returncode == 0, ended.stderr
    assert said(ended.stderr) == ""
    times = [int(row["timestamp"]) for row in rows_of(tmp_path)]
    assert [later - earlier for earlier, later in pairwise(times)] == [60_000] * 4
    assert all((time + 1) % 60_000 == 0 for time in times)


def test_two_symbols_from_two_files(tmp_path: Path, command: Command) -> None:
    market = synthetic_market(("BTCUSDT", "ETHUSDT"), n=120, seed=1)
    paths = []
    for one in market.candles:
        paths.append(tmp_path / f"{one.symbol}.parquet")
        one.to_parquet(paths[-1])
    ended = command(
        *("--agent", "random", "--paper", "--candles", *paths, "--steps", "3"),
        *("--out", tmp_path),
    )
    assert ended.returncode == 0, ended.stderr
    assert [row["symbol"] for row in rows_of(tmp_path)] == ["BTCUSDT", "ETHUSDT"] * 4


def test_files_that_do_not_say_their_symbol_take_the_one_that_is_given(
    tmp_path: Path, command: Command
) -> None:
    market = synthetic_market(("BTCUSDT",), n=120, seed=1)
    path = tmp_path / "mine.csv"
    columns = ("open_time_ms", "open", "high", "low", "close", "volume")
    held = {name.removesuffix("_ms"): getattr(market.candles[0], name) for name in columns}
    pd.DataFrame(held).to_csv(path, index=False)
    asked = ["--agent", "flat", "--paper", "--steps", "3", "--out", tmp_path, "--candles", path]
    ended = command(*asked)
    assert ended.returncode == 2 and "--symbol BTCUSDT" in ended.stderr
    ended = command(*asked, "--mark", path, "--symbol", "ETHUSDT")
    assert ended.returncode == 0, ended.stderr
    assert [row["symbol"] for row in rows_of(tmp_path)] == ["ETHUSDT"] * 4


def test_a_training_run_trades_by_its_policy(tmp_path: Path, command: Command) -> None:
    market = synthetic_market(n=200, seed=2)
    path = tmp_path / "candles.parquet"
    market.candles[0].to_parquet(path)
    test = (int(market.open_time_ms[100]), int(market.open_time_ms[-1]))
    run = make_run(tmp_path / "training_runs", spans={"train": (0, 1), "validation": (1, 2), "test": test})
    ended = command("--train-id", run.train_id, "--candles", path, "--steps", "5")
    assert ended.returncode == 0, ended.stderr
    rows = rows_of(run.production_path)
    assert len(rows) == 6 and {row["agent"] for row in rows} == {"SAC"}
    assert int(rows[0]["timestamp"]) + 1 == test[0] + 3_600_000


def test_what_is_not_an_exchange_is_not_traded_on(command: Command, tmp_path: Path) -> None:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        ended = command("--paper", "--agent", "flat", "--paper-url", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()
    assert ended.returncode == 2
    assert "is not perpgym's paper exchange" in ended.stderr


def test_an_exchange_of_another_interval_is_refused(external: PaperServer, command: Command) -> None:
    ended = command("--paper", "--agent", "flat", "--paper-url", external.rest_url, "--interval", "5m")
    assert ended.returncode == 2
    assert "--interval 1h" in ended.stderr


def test_nothing_keeps_the_exchange_busy_after_the_end(
    external: PaperServer, command: Command, tmp_path: Path
) -> None:
    ended = command(
        "--paper", "--agent", "flat", "--paper-url", external.rest_url, "--steps", "2", "--out", tmp_path
    )
    assert ended.returncode == 0
    venue = replace(paper_venue(external.rest_url, external.ws_url.rstrip("/")))
    with LoopThread() as bridge:
        exchange = BinanceExchange(venue, Credentials("paper", "paper"), ("BTCUSDT",))
        bridge.call(exchange.connect())
        bridge.call(exchange.close())


def test_the_connections_settings_reach_a_run(
    external: PaperServer, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("risk: {max_drawdown_fraction: 0.4}\nconnection: {attempts: 2, dead_man_s: 3600}\n")
    asked: list[tuple[str, int]] = []
    original = Orders.cancel_later

    async def cancel_later(self: Orders, symbol: str, countdown_ms: int) -> None:
        asked.append((symbol, countdown_ms))
        await original(self, symbol, countdown_ms)

    monkeypatch.setattr(Orders, "cancel_later", cancel_later)
    url = ("--paper", "--paper-url", external.rest_url)
    ended = command("--agent", "flat", *url, "--steps", "1", "--config", config, "--out", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert asked == [("BTCUSDT", 3_600_000), ("BTCUSDT", 0)]
    assert external.exchange.engine.accounts["paper"].countdowns == {}
    config.write_text("connection: {dead_man_s: 3}\n")
    refused = command("--agent", "flat", *url, "--config", config)
    assert refused.returncode == 2 and "connection: dead_man_s = 3" in refused.stderr
