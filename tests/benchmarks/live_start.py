"""`python -m tests.benchmarks.live_start`: live.py with a SAC run on the paper exchange, from process start to first
observation, and the memory that it holds then.

The run is trained for a few steps by `agents.train`, once per machine, into the temporary folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from tests.benchmarks._report import emit, note

ROOT = Path(__file__).resolve().parents[2]
_ROUNDS = 5


def training_run(root: Path) -> str:
    """The id of a small training run in `root`; made when there is none."""
    for folder in sorted(root.glob("train_*")):
        if (folder / "policy.onnx").is_file() and (folder / "evaluation.json").is_file():
            return folder.name
    note("live_start: training a small policy, once")
    settings = yaml.safe_load((ROOT / "configs" / "train" / "demo.yaml").read_text(encoding="utf-8"))
    settings["sac"] |= {"timesteps": 300}
    root.mkdir(parents=True, exist_ok=True)
    config = root / "train.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "agents.train", "--config", str(config), "--out", str(root)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()[-1].strip()


def start(root: Path, train_id: str, out: Path) -> tuple[float, float, float]:
    """Seconds to the first observation, those of the processor, and bytes resident then."""
    began = time.time()
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.benchmarks._observe_first", "live.py", "--train-id", train_id, "--paper",
            "--training-runs", str(root), "--out", str(out), "--steps", "3", "--quiet",
        ],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"at"')]
    if not lines:
        raise SystemExit(f"live.py came to no observation:\n{done.stdout}\n{done.stderr}")
    report = json.loads(lines[0])
    return report["at"] - began, report["cpu_s"], report["resident_bytes"]


def main() -> None:
    """Measure and print."""
    root = Path(tempfile.gettempdir()) / "perpgym-benchmarks"
    train_id = training_run(root)
    rounds = []
    for number in range(_ROUNDS + 1):
        note(f"live_start: {number} of {_ROUNDS}")
        with tempfile.TemporaryDirectory() as out:
            rounds.append(start(root, train_id, Path(out)))
    # The first fills the caches of files and of compiled code.
    seconds, cpu_seconds, resident = (min(values) for values in zip(*rounds[1:], strict=True))
    emit("live_start_s", seconds, "s", cpu_s=cpu_seconds, first_s=rounds[0][0], rounds=_ROUNDS)
    emit("live_rss_mb", resident / 1e6, "MB")


if __name__ == "__main__":
    main()
