"""What a run of months must not pile up: rows that are in its file need no memory."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from live_arena import HOLDER, arena_of, exchange, play
from live_support import rows_of

import live.arena.player
import live.runner
import live.session
from envs.synthetic import synthetic_market
from live.cli import main
from live.session import Stack

SYMBOLS = ("BTCUSDT", "ETHUSDT")
STEPS = 10


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[Stack]:
    found: list[Stack] = []
    opened = live.session.open_stack

    def kept(*arguments: Any, **named: Any) -> Stack:
        found.append(opened(*arguments, **named))
        return found[-1]

    for module in (live.arena.player, live.runner):
        monkeypatch.setattr(module, "open_stack", kept)
    return found


def test_an_arena_keeps_no_row_that_is_written(stacks: list[Stack], tmp_path: Path) -> None:
    kept: list[int] = []
    with exchange(synthetic_market(SYMBOLS, interval="1h", n=60, seed=3)) as server:
        config = arena_of(tmp_path, {"hold": HOLDER})
        hear = {"hold": lambda _step: kept.append(len(stacks[0].log.records) + len(stacks[0].log.fills))}
        assert play(config, tmp_path, server, steps=STEPS, before=hear).exit_code == 0
    rows = rows_of(tmp_path / "hold")
    assert len(rows) == len(SYMBOLS) * (STEPS + 1)
    # Nothing happens between the closes; the rows of the step before are gone.
    assert kept == [0] * STEPS


def test_a_run_keeps_its_last_row_and_tells_all_its_funding(
    stacks: list[Stack], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    compute = live.runner.compute_metrics

    def heard(*arguments: Any, funding_usdt: float, **named: Any) -> Any:
        told.append(funding_usdt)
        return compute(*arguments, funding_usdt=funding_usdt, **named)

    monkeypatch.setattr(live.runner, "compute_metrics", heard)
    # It is for a process of its own.
    monkeypatch.setattr("live.cli.numba_without_blas", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main(["--agent", "buy-and-hold", "--paper", "--symbol", "BTCUSDT", "--interval", "1h", "--steps", "20",
              "--out", str(tmp_path), "--quiet"])  # fmt: skip
    assert not ended.value.code
    rows = rows_of(tmp_path)
    assert len(rows) == 21
    assert told == [pytest.approx(float(sum(Decimal(row["funding"]) for row in rows)))]
    assert told[0] != 0
    # The last step's, and the end's.
    assert len(stacks[0].log.records) == 2
