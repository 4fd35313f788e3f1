"""The paper exchange as a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def paper_process(*arguments: str) -> Iterator[str]:
    """Run `python -m live.paper` in lock-step with these arguments, and give its REST address."""
    command = [sys.executable, "-m", "live.paper", "--port", "0", "--speed", "max", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = ""
        while not url:
            line = process.stdout.readline()
            assert line, "the paper exchange did not start"
            match = re.search(r"REST (http://[^/]+)", line)
            url = match[1] if match else ""
        for _ in range(1200):
            try:
                state(url)
                break
            except OSError:
                time.sleep(0.05)  # the line is printed before the port listens
        yield url
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


def state(url: str) -> dict[str, int]:
    """Where the exchange is: `index` counts its candles."""
    with urllib.request.urlopen(f"{url}/paper/state") as reply:
        answer: dict[str, int] = json.load(reply)
    return answer
