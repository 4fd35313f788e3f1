"""What an agent does, what goes wrong and when the process dies, in random order: see `schedules` in tests/lib.

After each schedule: no order was sent twice; every fill of the exchange is in exactly one row of the step log; the
account is the exchange's to the last digit, at every decision and at the end; the drawdown rule was obeyed; no
session hung. A schedule that fails prints itself as a line to put into `FOUND`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from player import play
from schedules import FAULTS, KILLS, SMALL, At, Away, Schedule, Session, Size, schedules

from live.paper.fault_specs import parse_fault

KINDS = (*FAULTS, *KILLS)
NOTED_AS = {"manual_close": "manual_trade"}
"""What the exchange calls a kind in its log of faults, where that is not its name here."""

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
    # A liquidation that the silent user stream kept quiet about, and a kill right after the next step's rows.
    Schedule(
        sessions=(
            Session(
                actions=((0.5, 0.5),),
                events=(
                    At(point=28, kind="close_sockets", n=1),
                    At(point=38, kind="html_502", n=3),
                    At(point=41, kind="stream_drop"),
                    At(point=44, kind="liquidate"),
                ),
                before=Away(
                    candles=2, trades=(At(point=0, kind="manual_trade"), At(point=0, kind="deleverage", n=3))
                ),
            ),
            Session(
                actions=((0.25, 0.25),),
                events=(
                    At(point=2, kind="stream_drop"),
                    At(point=13, kind="rate_limited"),
                    At(point=13, kind="manual_trade", n=1),
                    At(point=57, kind="stream_lose", n=2),
                ),
                before=Away(candles=5, torn_bytes=7),
            ),
            Session(
                actions=(
                    (-1.0, 0.25),
                    (1.0, -1.0),
                    (0.5, 0.0),
                    (0.0, 0.0),
                    (0.0, 0.5),
                    (-0.25, 0.25),
                    (-1.0, -1.0),
                ),
                events=(
                    At(point=18, kind="stream_half_open"),
                    At(point=60, kind="liquidate", n=2),
                    At(point=84, kind="liquidate", n=2),
                    At(point=98, kind="clock_skew", n=1),
                    At(point=100, kind="kill_after", n=3),
                    At(point=128, kind="liquidate"),
                ),
                before=Away(candles=2, torn_bytes=60),
                flat_on_exit=True,
            ),
        ),
        market=131,
        drawdown=0.15,
        protective_stop=True,
    ),
    # Somebody else opened a position where the agent held none: it had no stop until the agent traded there.
    Schedule(
        sessions=(
            Session(
                actions=((-0.25, 0.25), (-0.5, -1.0), (0.25, 0.5), (1.0, -0.25)),
                events=(
                    At(point=6, kind="manual_trade"),
                    At(point=31, kind="kill_before", n=2),
                    At(point=33, kind="reject_reduce_only", n=1),
                    At(point=45, kind="throttled_503"),
                    At(point=65, kind="reject_reduce_only", n=3),
                    At(point=65, kind="stream_silence", n=3),
                    At(point=78, kind="throttled_503"),
                ),
                before=Away(candles=1),
            ),
            Session(
                actions=(
                    (-0.5, -1.0),
                    (0.0, -1.0),
                    (-0.25, -0.5),
                    (-0.5, 0.5),
                    (1.0, -0.25),
                    (0.25, 0.25),
                    (-1.0, -0.25),
                ),
                events=(
                    At(point=26, kind="throttled_503", n=3),
                    At(point=49, kind="stale_timestamp", n=2),
                    At(point=104, kind="manual_trade", n=2),
                    At(point=111, kind="expire_listen_keys"),
                ),
                before=Away(
                    trades=(At(point=0, kind="manual_close", n=2), At(point=0, kind="manual_trade", n=2)),
                    torn_bytes=7,
                ),
            ),
        ),
        market=194,
        stops=True,
        drawdown=0.15,
        protective_stop=True,
    ),
    # A restart reduced a position that had lost its stop, and set the protective one only.
    Schedule(
        sessions=(
            Session(
                actions=((-0.5, 0.25), (0.5, 0.5), (-0.25, 0.25)),
                events=(
                    At(point=15, kind="bus_error"),
                    At(point=54, kind="kill_before", n=3),
                    At(point=74, kind="reject_margin", n=3),
                ),
                before=Away(trades=(At(point=0, kind="deleverage"),), torn_bytes=60),
            ),
            Session(
                actions=(
                    (-0.25, 0.25),
                    (0.0, 0.5),
                    (-0.25, 0.5),
                    (-0.25, -0.5),
                    (1.0, -0.25),
                    (0.5, -1.0),
                    (0.5, 1.0),
                ),
                events=(At(point=28, kind="stream_lose", n=3), At(point=104, kind="stream_drop", n=3)),
                before=Away(candles=5, torn_bytes=7),
            ),
            Session(
                actions=((1.0, 1.0), (0.0, -1.0), (0.5, 0.0), (0.0, -0.25), (0.0, 0.25)),
                events=(
                    At(point=20, kind="drop_sockets", n=1),
                    At(point=22, kind="stream_delay", n=2),
                    At(point=23, kind="error_200", n=1),
                    At(point=60, kind="backend_timeout"),
                    At(point=70, kind="reject_reduce_only"),
                    At(point=100, kind="error_200", n=2),
                ),
                before=Away(
                    trades=(At(point=0, kind="manual_close", n=3), At(point=0, kind="manual_trade")),
                    torn_bytes=60,
                ),
                flat_on_exit=True,
            ),
        ),
        market=998,
        stops=True,
        drawdown=0.15,
        protective_stop=True,
    ),
)
"""Schedules that failed once."""


def play_many(
    number: int, count: int, kinds: Sequence[str], size: Size, folder: Path, *phases: Phase
) -> Counter[str]:
    """Play `count` schedules, as many about each of these kinds of faults and kills, drawn by a seed.

    The first that fails is raised, with `Phase.shrink` a small one.
    """
    seen: Counter[str] = Counter()

    def play_about(kind: str, share: int) -> None:
        @seed(number * 1000 + KINDS.index(kind))
        @settings(
            max_examples=share,
            derandomize=False,
            database=None,
            deadline=None,
            phases=[Phase.generate, *phases],
            suppress_health_check=list(HealthCheck),
        )
        @given(schedules(kind, size))
        def run(schedule: Schedule) -> None:
            seen["played"] += 1
            story = play(schedule, folder / str(seen["played"]))
            seen.update(story.kinds)
            seen.update(story.struck)
            seen.update({"schedules": 1, "kills": story.kills, "SIGKILLs": story.sigkills})

        run()

    for index, kind in enumerate(kinds):
        share = count * (index + 1) // len(kinds) - count * index // len(kinds)
        if share:
            play_about(kind, share)
    return seen


@pytest.mark.parametrize("number", range(4))
def test_25_schedules(number: int, tmp_path: Path) -> None:
    kinds = KINDS[number::4]
    seen = play_many(number, 25, kinds, SMALL, tmp_path)
    assert seen["schedules"] == 25, seen
    check_that_they_struck(kinds, seen)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(100, 120))
def test_100_schedules(number: int, tmp_path: Path) -> None:
    seen = play_many(number, 100, KINDS, Size(), tmp_path, Phase.shrink)
    assert seen["schedules"] == 100, seen
    check_that_they_struck(KINDS, seen)
    # Of the rarest, liquidations, there are some sixteen.
    wanted = {"emergency_close", "liquidation", "stop_loss", "take_profit", "flip_to_long"}
    assert wanted <= {kind for kind, times in seen.items() if times}, seen


def check_that_they_struck(kinds: Sequence[str], seen: Counter[str]) -> None:
    """Faults do strike and processes do die. Which ones is a matter of luck: a session may end before its fault.

    That every kind strikes when it is asked for is shown in tests/live/paper/test_wire_faults.py.
    """
    faults = [kind for kind in kinds if kind not in KILLS]
    missing = [kind for kind in faults if not seen[NOTED_AS.get(kind, kind)]]
    assert 2 * len(missing) <= len(faults), missing
    assert seen["kills"] + seen["SIGKILLs"], seen


@pytest.mark.parametrize("schedule", FOUND, ids=range(len(FOUND)))
def test_what_failed_once(schedule: Schedule, tmp_path: Path) -> None:
    play(schedule, tmp_path)


@pytest.mark.parametrize("n", range(4))
def test_the_exchange_takes_every_kind_of_fault(n: int) -> None:
    kinds = [kind for kind in FAULTS if kind != "manual_close"]
    assert [parse_fault(At(0, kind, n).fault()).kind for kind in kinds] == kinds


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
