"""docs/paper-exchange.md does what it says: its snippets run, its options and faults exist."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import typer

from live.paper.__main__ import app
from live.paper.account import PaperAccount
from live.paper.fault_specs import ACTION_KINDS, REQUEST_KINDS, STREAM_KINDS
from live.paper.feeds import synthetic_feed
from live.paper.runtime import PaperServer

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "paper-exchange.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def server() -> Iterator[PaperServer]:
    feed = synthetic_feed(["BTCUSDT"], interval="1h", candles=20, history=50, seed=1)
    with PaperServer.start(feed, [PaperAccount("paper", "paper", Decimal(10_000))]) as running:
        yield running


def test_every_snippet_is_known() -> None:
    topics = [
        "PaperClient",
        "ccxt.binanceusdm",
        "ConfigurationRestAPI",
        "PaperServer.start",
        "/paper/advance",
    ]
    assert len(SNIPPETS) == len(topics)
    assert all(topic in snippet for topic, snippet in zip(topics, SNIPPETS, strict=True))


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs(server: PaperServer, number: int) -> None:
    code = SNIPPETS[number].replace("127.0.0.1:8899", f"127.0.0.1:{server.port}")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr


def test_every_option_exists() -> None:
    command = typer.main.get_command(app)
    known = {name for parameter in command.params for name in parameter.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) - {"--help"}
    assert len(named) > 12
    assert named <= known


def test_every_fault_is_in_the_table() -> None:
    table = PAGE[PAGE.index("## Faults") : PAGE.index("## Limits")]
    listed = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert listed == {*REQUEST_KINDS, *STREAM_KINDS, *ACTION_KINDS}
