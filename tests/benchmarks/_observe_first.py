"""live.py until its policy is asked for the first action: what live_start runs, in a process of its own.

`python -m tests.benchmarks._observe_first LIVE_PY ARGUMENTS...` prints the clock and the resident memory at that moment
as JSON, and ends. All that comes before is live.py's own doing.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import sys
import time
from pathlib import Path
from typing import Any, NoReturn


def _resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    # Where there is no /proc the largest so far has to do; macOS counts bytes, others kilobytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _tell(*_: Any) -> NoReturn:
    at = time.time()
    report = {"at": at, "resident_bytes": _resident_bytes(), "cpu_s": time.process_time()}
    sys.stdout.write("\n" + json.dumps(report) + "\n")
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    """Run live.py with the policy's first act replaced."""
    from agents.sac.policy import SacAgent

    SacAgent.act = _tell  # type: ignore[method-assign]
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
