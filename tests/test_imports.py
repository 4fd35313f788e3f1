"""One direction: envs knows no network and no clock, agents import envs, live imports both, nothing imports live."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("envs", "agents", "live")
MAY_IMPORT = {"envs": {"envs"}, "agents": {"envs", "agents"}, "live": {"envs", "agents", "live"}}

NETWORK = {
    "aiohttp", "anthropic", "asyncio", "binance", "ccxt", "fastapi", "ftplib", "http", "httpx", "openai", "requests",
    "smtplib", "socket", "socketserver", "sqlalchemy", "ssl", "starlette", "urllib", "urllib3", "uvicorn", "websockets",
}  # fmt: skip
CLOCK_MODULES = {"time", "sched"}
CLOCK_CALLS = {"now", "utcnow", "today", "time", "time_ns", "monotonic", "perf_counter"}
UNSEEDED = {
    "rand",
    "randn",
    "random",
    "randint",
    "normal",
    "uniform",
    "choice",
    "shuffle",
    "permutation",
    "seed",
}
HEAVY = {"torch", "stable_baselines3", "sklearn", "tensorboard", "onnx", "onnxscript"}


def sources(package: str) -> list[Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"no sources in {package}/"
    return files


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Absolute module names that a file imports, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"line {node.lineno}: relative imports hide the direction; name the package"
            )
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("__import__", "importlib.import_module", "import_module"):
                (argument, *_) = node.args
                yield node.lineno, argument.value if isinstance(argument, ast.Constant) else "?"


def parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def offences(package: str, is_bad: object) -> list[str]:
    assert callable(is_bad)
    return [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources(package)
        for line, name in imports(parsed(path))
        if is_bad(name.split(".")[0])
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    forbidden = set(PACKAGES) - MAY_IMPORT[package]
    assert offences(package, lambda name: name in forbidden) == []


def test_nothing_but_live_py_imports_live() -> None:
    assert {name for _, name in imports(parsed(ROOT / "live.py"))} <= {"live.cli", "__future__"}
    assert offences("envs", lambda name: name == "live") == []
    assert offences("agents", lambda name: name == "live") == []


def test_envs_knows_no_network() -> None:
    assert offences("envs", lambda name: name in NETWORK) == []


def test_envs_reads_no_clock_and_draws_from_no_global_generator() -> None:
    found = offences("envs", lambda name: name in CLOCK_MODULES or name == "random")
    for path in sources("envs"):
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            name = ast.unparse(node.func)
            owner, _, method = name.rpartition(".")
            clock = method in CLOCK_CALLS and owner.split(".")[-1] in (
                "datetime",
                "date",
                "time",
                "Timestamp",
            )
            global_draw = owner in ("np.random", "numpy.random", "random") and method in UNSEEDED
            unseeded = method == "default_rng" and not node.args and not node.keywords
            if clock or global_draw or unseeded:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert found == []


def test_running_without_training_libraries_is_possible() -> None:
    """Outside agents/train and agents/sac, training libraries are imported inside the functions that need them."""
    found = []
    for package in PACKAGES:
        for path in sources(package):
            relative = path.relative_to(ROOT)
            if relative.parts[:2] == ("agents", "sac") or relative.as_posix() == "agents/train.py":
                continue
            top = ast.Module(
                [n for n in ast.iter_child_nodes(parsed(path)) if isinstance(n, ast.Import | ast.ImportFrom)],
                [],
            )
            found += [
                f"{relative}:{line}: {name}" for line, name in imports(top) if name.split(".")[0] in HEAVY
            ]
    assert found == []


def test_no_other_top_level_package() -> None:
    known = {"envs", "agents", "live", "tests", "configs", "docs", "training_runs"}
    there = {p.parent.name for p in ROOT.glob("*/*.py")} - {".venv"}
    assert there <= known


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a.b\n", ["a.b"]),
        ("from a.b import c\n", ["a.b"]),
        ("def f():\n    import a\n", ["a"]),
        ("import importlib\nimportlib.import_module('live.x')\n", ["importlib", "live.x"]),
    ],
)
def test_the_test_sees_every_kind_of_import(source: str, expected: list[str]) -> None:
    assert [name for _, name in imports(ast.parse(source))] == expected


def test_importing_the_environment_brings_no_network_library() -> None:
    """In a fresh interpreter, what envs imports imports none either, as far as it is ours to choose."""
    import subprocess

    code = (
        "import sys, envs.futures_env, envs.wrappers; "
        "print([m for m in ('torch', 'sklearn', 'stable_baselines3', 'binance', 'aiohttp', 'websockets', 'fastapi', "
        "'agents', 'live') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
