"""What an agent does, what goes wrong and when the process dies, in random order: see `schedules` in tests/lib.

After each schedule: no order was sent twice; every fill of the exchange is in exactly one row of the step log; the
account is the exchange's to the last digit, at every decision and at the end; the drawdown rule was obeyed; no
session hung. A schedule that fails prints itself as a line to put into `FOUND`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from player import play
from schedules import FAULTS, At, Away, Schedule, Session, schedules

FOUND: tuple[Schedule, ...] = (
    # The run's beginning was dated by a clock ahead of that of the trades, after its first fill.
    Schedule(
        sessions=(Session(actions=((0.0, 0.25),), events=(At(0, "clock_skew"), At(51, "kill_after"))),),
    ),
    # A clock behind the market's left the run a candle behind, deciding on positions that were closed already.
    Schedule(
        sessions=(
            Session(actions=((0.0, 0.0), (0.25, 0.25), (-0.5, 1.0), (1.0, 1.0)), before=Away(candles=1)),
            Session(
                actions=(
                    (-1.0, -0.5),
                    (-0.5, -0.25),
                    (-1.0, 0.25),
                    (-0.25, 0.5),
                    (-0.25, -0.5),
                    (0.25, 0.25),
                    (1.0, 1.0),
                ),
                events=(At(1, "reject_reduce_only"), At(7, "html_502"), At(24, "html_502", 3)),
            ),
            Session(
                actions=(
                    (-0.25, 0.5),
                    (1.0, 1.0),
                    (-0.5, 0.0),
                    (-1.0, 1.0),
                    (1.0, 1.0),
                    (-0.25, 0.5),
                    (0.0, -0.25),
                ),
                events=(At(8, "clock_skew"), At(103, "restart", 2), At(144, "internal_503")),
                before=Away(candles=1, torn_bytes=60),
            ),
        ),
        market=873,
        wild=True,
        stops=True,
        forked=True,
    ),
    # An account that a liquidation had emptied ended the next start in a traceback.
    Schedule(
        sessions=(
            Session(actions=((0.5, -1.0),)),
            Session(actions=((-1.0, 0.5), (1.0, 0.5), (0.25, 0.25)), before=Away(candles=5)),
            Session(actions=((-0.5, 0.0), (-1.0, 1.0), (0.25, -1.0), (-0.5, 0.5), (0.25, -0.5), (-1.0, 1.0))),
        ),
        market=7,
        wild=True,
    ),
    # Killed between the rows of two symbols: the candle is decided on again, but no order is sent again.
    Schedule(
        sessions=(
            Session(actions=((0.0, 1.0), (-0.5, -0.25)), events=(At(19, "kill_before"),)),
            Session(
                actions=((0.5, 1.0), (-1.0, -0.25), (0.0, 0.5), (0.0, 1.0), (1.0, 0.0)),
                events=(At(42, "manual_trade", 3), At(42, "manual_trade", 2), At(95, "kill_after")),
                before=Away(candles=2, torn_bytes=7),
            ),
        ),
        market=816,
    ),
)
"""Schedules that failed once."""


def play_many(number: int, count: int, folder: Path, *phases: Phase) -> Counter[str]:
    """Play `count` schedules drawn by a seed; the first that fails is raised, with `Phase.shrink` a small one."""
    seen: Counter[str] = Counter()
    played = [0]

    @seed(number)
    @settings(
        max_examples=count,
        derandomize=False,
        database=None,
        deadline=None,
        phases=[Phase.generate, *phases],
        suppress_health_check=list(HealthCheck),
    )
    @given(schedules())
    def run(schedule: Schedule) -> None:
        played[0] += 1
        story = play(schedule, folder / str(played[0]))
        seen.update(story.kinds)
        seen.update({"steps": story.steps, "kills": story.kills, "SIGKILLs": story.sigkills})
        seen.update(schedules=1, faults=story.faults)

    run()
    return seen


@pytest.mark.parametrize("number", range(4))
def test_25_schedules(number: int, tmp_path: Path) -> None:
    seen = play_many(number, 25, tmp_path)
    assert seen["schedules"] >= 25 and seen["kills"] > 3 and seen["faults"] > 25, seen


@pytest.mark.slow
@pytest.mark.parametrize("number", range(100, 120))
def test_100_schedules(number: int, tmp_path: Path) -> None:
    seen = play_many(number, 100, tmp_path, Phase.shrink)
    # Real kills are rarer: some hundreds of schedules have none.
    wanted = {"emergency_close", "liquidation", "stop_loss", "take_profit", "flip_to_long"}
    assert wanted <= {kind for kind, count in seen.items() if count}, seen


@pytest.mark.parametrize("schedule", FOUND, ids=range(len(FOUND)))
def test_what_failed_once(schedule: Schedule, tmp_path: Path) -> None:
    play(schedule, tmp_path)


def test_every_kind_of_fault_can_be_drawn() -> None:
    assert {At(0, kind, n).fault()["kind"] for kind in FAULTS if kind != "manual_close" for n in range(4)}


def test_a_schedule_prints_as_a_line_that_makes_it_again() -> None:
    schedule = Schedule(
        (
            Session(
                ((0.5, -1.0),), (At(3, "kill_after"), At(9, "restart", 2)), Away(2, (At(0, "liquidate"),))
            ),
        ),
        market=7,
        drawdown=0.04,
    )
    assert "forked" not in repr(schedule)
    assert eval(repr(schedule)) == schedule
