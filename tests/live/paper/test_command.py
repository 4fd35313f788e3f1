"""`python -m live.paper` as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from live.paper.__main__ import replay_feed

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
    for arguments in (
        ["--speed", "fast"],
        ["--speed", "-1"],
        ["--wallet", "much"],
        ["--candles", "nowhere.parquet"],
        ["--symbol", "NOPEUSDT"],
        ["--slippage-bps", "20000"],
    ):
        result = subprocess.run(
            [sys.executable, "-m", "live.paper", "--port", "0", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (result.returncode, "Traceback" in result.stderr) == (2, False), (arguments, result.stderr)
        assert "error:" in result.stderr


def test_replaying_files(market, tmp_path: Path) -> None:
    world = market({"BTCUSDT": [(100.0 + i, 101.0 + i, 99.0 + i, 100.0 + i) for i in range(48)]})
    path = tmp_path / "BTCUSDT_1h.parquet"
    world.candles[0].to_parquet(path)
    feed = replay_feed([path], symbols=["BTCUSDT"], start="2024-01-02", speed=None)
    assert (feed.start_index, feed.start_ms) == (24, int(world.open_time_ms[24]))
    assert replay_feed([path]).start_index == 24  # half of what there is
