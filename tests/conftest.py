"""Shared by all tests: tests/lib on the import path, hypothesis in a form that suits shared cores, and who runs what.

Many tests wait for timers, sockets and other processes, so there is one worker more than there are cores. Left where
they are, the longest tests would be begun when the others are nearly done: each worker begins with some of them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# --import-mode=importlib leaves the import path alone, so the helpers' folder is put there once, here. Not tests/
# itself: its folders envs, agents and live would hide the packages that they test.
sys.path.insert(0, str(Path(__file__).parent / "lib"))

# Compiling the kernel on first use makes a single example take seconds: no deadline.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("quick", max_examples=25, derandomize=True, **_COMMON)
settings.register_profile("thorough", max_examples=500, **_COMMON)
settings.load_profile("quick")

_LONGEST_S = {
    "test_thousands_of_candles_with_stops_and_two_symbols": 20,
    "test_25_schedules": 25,
    "test_three_agents_add_up_to_the_exchange": 20,
    "test_random_actions_over_real_candles": 12,
    "test_a_killed_run_continues_without_a_doubled_order": 12,
    "test_the_step_log_and_the_database_agree": 10,
    "test_ctrl_c_leaves_a_usable_run_and_exits_130": 9,
    "test_an_emergency_on_falling_prices_live_and_in_the_backtest": 9,
    "test_a_hung_provider_costs_its_agent_a_hold_and_nobody_else_time": 8,
    "test_rules_on_one_account_an_emergency_alone_and_another_start": 8,
    "test_a_day": 5,
    "test_every_account_is_a_single_environment": 6,
    "test_llm_policy_and_rules_side_by_side": 6,
    "test_a_process_killed_at_any_moment_loses_nothing_and_doubles_nothing": 6,
    "test_a_reading_that_is_killed_at_any_write_goes_on_from_there": 6,
    "test_an_exchange_that_is_gone_ends_in_bounded_tries_and_a_halt": 5,
}
"""About how long they take, by their names; wrong or missing figures cost time, nothing else."""


def pytest_xdist_auto_num_workers() -> int | None:
    """What `-n auto` means; PYTEST_XDIST_AUTO_NUM_WORKERS overrides it."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    # Beyond some workers a run is as long as its longest test.
    return min(_cores() + 1, 12)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest tests at the beginnings of the workers' shares, as `--dist worksteal` cuts them."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    long = [item for item in items if _seconds(item)]
    if workers < 2 or len(items) < 100 * workers:
        return
    first: list[list[pytest.Item]] = [[] for _ in range(workers)]
    busy_s = [0] * workers
    for item in sorted(long, key=_seconds, reverse=True):
        least = busy_s.index(min(busy_s))
        first[least].append(item)
        busy_s[least] += _seconds(item)
    begun = set(long)
    others = [item for item in items if item not in begun]
    shares: list[pytest.Item] = []
    for number, own in enumerate(first):
        size = (len(items) - len(shares)) // (workers - number)
        shares += [*own, *others[: size - len(own)]]
        del others[: size - len(own)]
    assert len(shares) == len(items)
    items[:] = shares


def _seconds(item: pytest.Item) -> int:
    return _LONGEST_S.get(item.name.partition("[")[0], 0)
