"""A live run that ends at a chosen point and is started again on the same exchange: the whole runner, in process."""

from __future__ import annotations

import io
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from live_support import Scripted, rows_of
from restart_support import (
    STOPS,
    Killed,
    account,
    by_hand,
    check,
    kill,
    live_options,
    market,
    serve,
    session,
    stops,
)
from support import market_of

from agents.run import Ending
from envs.account import Side
from envs.errors import HaltedError
from envs.observation import ObservationSpec
from envs.risk import RiskLimits
from live.candle_feed import CandleFeed
from live.console import LiveConsole
from live.live_account import LiveAccount
from live.order_desk import OrderDesk
from live.paper.runtime import PaperServer
from live.runner import run_live


@pytest.fixture
def server() -> Iterator[PaperServer]:
    with serve(market()) as running:
        yield running


# --- points to die at ---------------------------------------------------------------------------------------------


def test_killed_before_the_order(
    server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, OrderDesk, "carry_out", call=2)
        session(server, tmp_path, [0.2], [0.3], [0.3])
    session(server, tmp_path, [0.3], [0.3])
    rows = check(server, tmp_path)
    assert [row["action_type"] for row in rows] == ["open_long", "increase_long", "hold", "end"]
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]


def test_killed_after_the_order_and_before_its_stop(
    server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, LiveAccount, "after_orders", call=1)
        session(server, tmp_path, [0.2], config=STOPS)
    assert account(server).position("BTCUSDT").quantity == Decimal("0.2")
    assert stops(server) == []
    session(server, tmp_path, [0.2], [0.2], config=STOPS)
    rows = check(server, tmp_path)
    assert stops(server) == [(Decimal(49_000), Decimal("0.2"))], (
        "the stop that the first session did not place"
    )
    assert [row["action_type"] for row in rows] == ["open_long", "hold", "hold", "end"]
    assert rows[0]["action"] == "" and "recovered after a restart" in rows[0]["error"]
    assert "already executed before the restart" in rows[1]["error"]


def test_killed_after_the_order_and_back_candles_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(market()) as server:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill(patch, LiveAccount, "after_orders", call=2)
            session(server, tmp_path, [0.1], [-0.2], config=STOPS)
        server.advance(4)
        session(server, tmp_path, [-0.2], config=STOPS)
        rows = check(server, tmp_path)
        assert [row["action_type"] for row in rows] == ["open_long", "flip_to_short", "hold", "end"]
        # The old stop of the long position is gone, the new one guards the short.
        assert stops(server) == [(Decimal(51_000), Decimal("0.2"))]


def test_killed_after_the_stop_and_before_the_row(
    server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, OrderDesk, "carry_out", call=1, after=True)
        session(server, tmp_path, [0.2], config=STOPS)
    session(server, tmp_path, [0.2], [0.3], config=STOPS)
    rows = check(server, tmp_path)
    assert [row["action_type"] for row in rows] == ["open_long", "hold", "increase_long", "end"]
    assert stops(server) == [(Decimal(49_000), Decimal("0.3"))]


def test_killed_after_the_row(server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, CandleFeed, "next_candles", call=2)
        session(server, tmp_path, [0.2], [0.3])
    before = server.exchange.index
    session(server, tmp_path, [0.1])
    assert server.exchange.index == before + 2, "the decided candle is not decided on again"
    rows = check(server, tmp_path)
    assert [row["action_type"] for row in rows] == ["open_long", "increase_long", "reduce_long", "end"]


def test_killed_within_the_row(server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, CandleFeed, "next_candles", call=1)
        session(server, tmp_path, [0.2])
    (path,) = tmp_path.glob("steps_*.csv")
    path.write_bytes(path.read_bytes()[:-20])
    session(server, tmp_path, [0.2])
    rows = check(server, tmp_path)
    assert [(row["action_type"], row["trade_id"]) for row in rows] == [
        ("open_long", "1"),
        ("hold", ""),
        ("end", ""),
    ]


def test_three_starts_at_one_candle_leave_one_stop(
    server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill(patch, OrderDesk, "carry_out", call=1, after=True)
            session(server, tmp_path, [0.2], config=STOPS)
        by_hand(server, Side.BUY, "0.1")  # so that the next start has to replace the stop
        assert len(stops(server)) == 1, f"start {number}"
    session(server, tmp_path, [0.6], config=STOPS)
    assert stops(server) == [(Decimal(49_000), Decimal("0.6"))]
    check(server, tmp_path)


# --- what survives ------------------------------------------------------------------------------------------------


def test_peak_and_initial_equity_survive(tmp_path: Path) -> None:
    rows = [(50_000.0,) * 4] * 4 + [(55_000.0,) * 4] * 3 + [(53_000.0,) * 4] * 20
    with serve(market_of(rows)) as server:
        session(server, tmp_path, [0.2], [0.2], [0.2], [0.2])
        session(server, tmp_path, [0.2], [0.2], [0.2], [0.2])
        logged = rows_of(tmp_path)
        # Bought at 50000 for a fee of 5: the peak was 10995 at 55000, and 53000 is 400 below it.
        last = logged[-1]
        assert Decimal(last["equity"]) == Decimal(10_595)
        assert float(last["drawdown"]) == pytest.approx(400 / 10_995)
        assert Decimal(last["pnl_total"]) == Decimal(595)


def test_an_emergency_halts_until_it_is_acknowledged(tmp_path: Path) -> None:
    rows = [(50_000.0,) * 4] * 3 + [(45_000.0,) * 4] * 20
    limits = RiskLimits(max_drawdown_fraction=0.05)
    with serve(market_of(rows)) as server:
        result = session(server, tmp_path, [0.2], [0.2], [0.2], limits=limits)
        assert (result.result.ending, result.exit_code) == (Ending.EMERGENCY, 3)
        with pytest.raises(HaltedError, match="--acknowledge-emergency"):
            session(server, tmp_path, [0.2], limits=limits)
        assert len(rows_of(tmp_path, "emergencies_*.csv")) == 1
        result = session(server, tmp_path, [0.1], [0.1], limits=limits, acknowledge_emergency=True)
        assert result.exit_code == 0
        check(server, tmp_path)


def test_an_acknowledged_emergency_leaves_the_profit_and_loss_of_the_run(tmp_path: Path) -> None:
    rows = [(50_000.0,) * 4] * 3 + [(45_000.0,) * 4] * 20
    limits = RiskLimits(max_drawdown_fraction=0.05)
    with serve(market_of(rows)) as server:
        session(server, tmp_path, [0.2], [0.2], [0.2], limits=limits)
        loss = Decimal(rows_of(tmp_path)[-1]["pnl_total"])
        session(server, tmp_path, [0.0], limits=limits, acknowledge_emergency=True)
        last = rows_of(tmp_path)[-1]
        assert Decimal(last["pnl_total"]) == loss < -900
        assert float(last["drawdown"]) == 0.0
        # The halt is gone for good, and the peak is what the account was at the acknowledgement.
        assert session(server, tmp_path, [0.0], limits=limits).exit_code == 0


def test_the_peak_of_a_killed_session_halts_the_next_one_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(50_000.0,) * 4] * 4 + [(40_000.0,) * 4] * 20
    limits = RiskLimits(max_drawdown_fraction=0.1)
    with serve(market_of(rows)) as server:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill(patch, CandleFeed, "next_candles", call=2)
            session(server, tmp_path, [0.2], [0.2], limits=limits)
        server.advance(3)
        result = session(server, tmp_path, [0.2], limits=limits)
        assert (result.result.ending, result.result.steps) == (Ending.EMERGENCY, 0)
        assert account(server).position("BTCUSDT").quantity == 0
        kinds = [row["action_type"] for row in check(server, tmp_path)]
        assert kinds == ["open_long", "hold", "emergency_close", "end"]


def test_candles_held_goes_on_after_a_restart(server: PaperServer, tmp_path: Path) -> None:
    session(server, tmp_path, [0.2], [0.2], [0.2])
    seen = []

    class Watching(Scripted):
        def reset(self, spec: ObservationSpec, *, seed: int | None = None) -> None:
            super().reset(spec)
            names = [entry.name for entry in spec.entries()]
            self.place = next(i for i, name in enumerate(names) if name.endswith("candles_in_position"))

        def act(self, observation: Any, info: dict[str, Any]) -> Any:
            seen.append(float(observation[self.place]))
            return super().act(observation, info)

    options = live_options(server, tmp_path, Watching([0.2], [0.2]), steps=2)
    run_live(options, LiveConsole(quiet=True, out=io.StringIO()))
    # Bought at the first of three opens; the unit is the window, one candle.
    assert seen == [3.0, 4.0]


def test_a_session_within_the_second_of_the_last_or_before_it_sorts_behind_it(
    server: PaperServer, tmp_path: Path
) -> None:
    for _ in range(3):
        session(server, tmp_path, [0.1])
    (tmp_path / "session_20990101_000000.json").write_bytes(
        next(tmp_path.glob("session_*.json")).read_bytes()
    )
    session(server, tmp_path, [0.1])
    names = sorted(path.name for path in tmp_path.glob("session_*.json"))
    assert names[-1] == "session_20990101_000001.json" and len(names) == 5
    steps = [int(row["step"]) for row in rows_of(tmp_path)]
    assert steps == sorted(steps) and len(check(server, tmp_path)) == 8
