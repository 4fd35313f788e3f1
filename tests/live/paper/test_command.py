"""`python -m live.paper` as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from envs.errors import CandleError
from live.paper import __main__ as command
from live.paper.__main__ import app, replay_feed
from live.paper.account import PaperAccount
from live.paper.announce import start_message
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its REST address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "live.paper", "--port", "0", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert process.stdout is not None
    try:
        url = None
        while url is None:
            line = process.stdout.readline()
            assert line, "the process ended before it listened"
            found = re.search(r"REST (http://\S+)/fapi", line)
            url = found and found[1]
        yield process, url
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def get(url: str) -> dict[str, object]:
    with urllib.request.urlopen(url) as reply:
        answer: dict[str, object] = json.load(reply)
    return answer


def test_a_synthetic_exchange_runs_until_it_is_interrupted() -> None:
    with running("--speed", "max", "--symbol", "ETHUSDT", "--wallet", "123") as (process, url):
        state = get(f"{url}/paper/state")
        assert (state["symbols"], state["lock_step"], state["synthetic"]) == (["ETHUSDT"], True, True)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) in (0, 130, -signal.SIGINT)
        assert process.stdout is not None
        assert "Traceback" not in process.stdout.read()


def test_a_bad_setting_ends_with_code_2_and_no_traceback() -> None:
    # In this process: one of its own for each takes seconds. What a process does is in the next test.
    for arguments in (
        ["--speed", "fast"],
        ["--speed", "-1"],
        ["--speed", "inf"],
        ["--speed", "nan"],
        ["--wallet", "much"],
        ["--candles", "nowhere.parquet"],
        ["--symbol", "NOPEUSDT"],
        ["--slippage-bps", "20000"],
        ["--feed", "replay"],
        ["--feed", "synthetic", "--candles", "some.parquet"],
        ["--feed", "binance", "--speed", "max"],
        ["--feed", "binance", "--source-rest", "http://127.0.0.1:1"],
        ["--account", "key-without-secret"],
        ["--fault-seed", "1", "--fault-rate", "2"],
    ):
        result = CliRunner().invoke(app, ["--port", "0", *arguments])
        assert result.exit_code == (1 if "--source-rest" in arguments else 2), (arguments, result.output)
        assert isinstance(result.exception, SystemExit), arguments
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
        assert "--account" not in arguments or "KEY:SECRET:WALLET" in result.stderr
        assert "key-without-secret" not in result.output  # it may be a secret


def test_a_port_that_cannot_be_is_a_mistake_too() -> None:
    result = CliRunner().invoke(app, ["--port", "70000"])
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)
    assert "65535" in result.stderr


def test_an_error_ends_the_process_with_code_2_and_no_traceback() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "live.paper", "--port", "0", "--speed", "fast"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
    assert "speed is 'fast'" in result.stderr


def test_an_option_takes_several_values(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(command, "app", lambda arguments, **_: given.extend(arguments))
    command.main(["--port", "0", "--candles", "a.csv", "b.csv", "--symbol", "X", "Y", "--seed", "1"])
    assert given == [
        *("--port", "0", "--candles", "a.csv", "--candles", "b.csv"),
        *("--symbol", "X", "--symbol", "Y", "--seed", "1"),
    ]


def test_the_start_message_says_how_to_point_clients_at_it(market) -> None:
    feed = ReplayFeed(market({"BTCUSDT": [(100.0,) * 4] * 3}), 1, speed=60.0)
    with PaperServer.start(feed, [PaperAccount("bot", "hidden")]) as server:
        text = start_message(server, ["bot"], Path("state.jsonl"))
        for shown in (
            f"REST {server.rest_url}/fapi",
            f"WS-API {server.ws_url}ws-fapi/v1",
            "API keys bot",
            "state state.jsonl",
            "replay",
            "speed 60",
        ):
            assert shown in text
        assert "hidden" not in text


def test_an_exchange_with_two_accounts_follows_another(market) -> None:
    feed = ReplayFeed(market({"BTCUSDT": [(50_000.0, 50_100.0, 49_900.0, 50_000.0)] * 12}), 5)
    with (
        PaperServer.start(feed) as source,
        running(
            *("--feed", "binance", "--interval", "1h", "--source-rest", source.rest_url),
            *("--source-streams", source.ws_url, "--account", "a:sa:100", "--account", "b:sb"),
        ) as (_, url),
    ):
        state = get(f"{url}/paper/state")
        assert (state["follows"], state["symbols"], state["index"]) == (source.rest_url, ["BTCUSDT"], 5)
        source.advance(3)
        deadline = time.monotonic() + 60
        while get(f"{url}/paper/state")["index"] != 8:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_replaying_files_that_do_not_say_their_symbol(market, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    one = market({"BTCUSDT": [(100.0 + i, 101.0 + i, 99.0 + i, 100.0 + i) for i in range(48)]}).candles[0]
    rows = zip(one.open_time_ms, one.open, one.high, one.low, one.close, one.volume, strict=True)
    lines = [",".join(str(value) for value in row) for row in rows]
    path.write_text("\n".join(["open_time,open,high,low,close,volume", *lines]))
    feed = replay_feed([path], marks=[path], symbols=["ETHUSDT"])
    assert feed.market.symbols == ("ETHUSDT",)
    with pytest.raises(CandleError, match="--symbol BTCUSDT"):
        replay_feed([path], marks=[path])


def test_replaying_files(market, tmp_path: Path) -> None:
    world = market({"BTCUSDT": [(100.0 + i, 101.0 + i, 99.0 + i, 100.0 + i) for i in range(48)]})
    path = tmp_path / "BTCUSDT_1h.parquet"
    world.candles[0].to_parquet(path)
    feed = replay_feed([path], symbols=["BTCUSDT"], start="2024-01-02", speed=None)
    assert (feed.start_index, feed.start_ms) == (24, int(world.open_time_ms[24]))
    assert replay_feed([path]).start_index == 24  # half of what there is
