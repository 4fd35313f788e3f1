"""The kernel compiles once per machine, says so, and finds a place for what it compiled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from envs import kernel
from envs.compiling import entry_point

ROOT = Path(__file__).resolve().parents[2]
# One of the smallest functions: what is tested is where it goes.
PROGRAM = (
    "from envs import kernel; print(kernel.whole_steps(1.25, 10.0), kernel.maintenance_at.py_func.__name__)"
)
NOTICE = "once per machine"


def run(where: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "HOME")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=where,
        env={**inherited, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, and a folder that stands for the user's home."""
    shutil.copytree(ROOT / "envs", tmp_path / "code" / "envs", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "home").mkdir()
    return tmp_path


def test_it_compiles_once_and_says_so_on_stderr(package: Path) -> None:
    first = run(package / "code", HOME=str(package / "home"))
    assert first.stdout == "12 maintenance_at\n"
    assert first.stderr.count(NOTICE) == 1
    assert list((package / "code" / "envs" / "__pycache__").glob("kernel.*.nbi"))
    second = run(package / "code", HOME=str(package / "home"))
    assert (second.stdout, second.stderr) == (first.stdout, "")


def test_a_package_that_cannot_be_written_to_keeps_its_cache_with_the_user(package: Path) -> None:
    # Permissions do not stop an administrator; a file where the folder should be stops everyone.
    (package / "code" / "envs" / "__pycache__").write_text("in the way")
    home = {"HOME": str(package / "home"), "XDG_CACHE_HOME": str(package / "home" / "cache")}
    assert NOTICE in run(package / "code", **home).stderr
    assert list((package / "home").rglob("kernel.*.nbi"))
    assert run(package / "code", **home).stderr == ""


def test_without_any_place_for_a_cache_it_still_runs(package: Path) -> None:
    (package / "code" / "envs" / "__pycache__").write_text("in the way")
    (package / "home" / "cache").write_text("in the way")
    home = {"HOME": str(package / "home"), "XDG_CACHE_HOME": str(package / "home" / "cache")}
    for _ in range(2):
        done = run(package / "code", **home)
        assert done.stdout == "12 maintenance_at\n"
        assert done.stderr.count(NOTICE) == 1


def test_an_entry_point_is_the_function_without_the_look_up_of_types() -> None:
    entry = entry_point(kernel.whole_steps, 1.0, 10.0)
    assert entry(1.25, 10.0) == kernel.whole_steps(1.25, 10.0) == 12.0


FIRST_BACKTEST = """
from agents.baselines import baseline_setup
from agents.simulate import build_env, simulate
from envs import kernel
from envs.synthetic import synthetic_market

market = synthetic_market(n=200)
setup = baseline_setup("ema-cross", symbols=1)
simulate(setup, build_env(setup, market), keep_records=True)
used = {name for name, one in vars(kernel).items() if getattr(one, "signatures", None)}
assert "run_ahead" in used, used
others = {"step_env", "step_accounts", "step_accounts_in_parallel", "reset_accounts", "observe"}
print(sorted(used & others))
"""


def test_a_first_backtest_compiles_only_what_it_runs() -> None:
    """Stepping an environment, and thousands of them, is compiled when that is done."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_BACKTEST], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "['observe']\n"


def test_records_fill_whole_cache_lines() -> None:
    """So accounts in a row share none, and threads do not wait for each other."""
    assert kernel.ACCOUNT_DTYPE.itemsize % 64 == kernel.POSITION_DTYPE.itemsize % 64 == 0
