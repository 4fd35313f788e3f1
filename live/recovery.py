"""What earlier sessions of a run left on disk: torn lines are cut off, and the step logs are read back."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from envs.account import ActionType
from envs.errors import StepLogError
from envs.step_log import COLUMNS, repair_torn_line

_SESSION = re.compile(r"session_(\d{8}_\d{6})\.json")


@dataclass(frozen=True, slots=True)
class Logged:
    """What the step logs of a run hold.

    Attributes:
        last_row_close_ms: close of the last candle for which every symbol has its step row; 0 for none.
        trades: (symbol, trade id) of every fill.
        next_step: number of the next step.
        repaired: files whose torn last line was cut off.
    """

    last_row_close_ms: int
    trades: frozenset[tuple[str, str]]
    next_step: int
    repaired: tuple[Path, ...]


def write_session(folder: Path, stamp: str, values: dict[str, Any]) -> None:
    """Note what a session is about (venue, account, agent, symbols), before its first row. Atomic."""
    path = folder / f"session_{stamp}.json"
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def step_logs_of(folder: Path, account: str) -> list[Path]:
    """The step logs of the sessions on `account` (venue and address), oldest first."""
    logs = []
    for path in sorted(folder.glob("session_*.json")):
        match = _SESSION.fullmatch(path.name)
        if match is None:
            continue
        try:
            session = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StepLogError(
                f"session file {path} is damaged ({error}): without it nobody can tell which account its steps "
                "were on; restore it, or move it and its step log away"
            ) from error
        log = folder / f"steps_{match[1]}.csv"
        if session.get("account") == account and log.exists():
            logs.append(log)
    return logs


def read_logged(logs: Sequence[Path], symbols: Sequence[str]) -> Logged:
    """Repair and read step logs, oldest first.

    Raises:
        StepLogError: a log is not one of ours, or damaged before its last line; names the line.
    """
    repaired = []
    trades: set[tuple[str, str]] = set()
    rows_at: dict[int, set[str]] = defaultdict(set)
    step = -1
    for path in logs:
        if repair_torn_line(path):
            repaired.append(path)
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames is not None and tuple(reader.fieldnames) != COLUMNS:
                raise StepLogError(
                    f"{path} has other columns than this version writes; move it away to start anew"
                )
            for row in reader:
                try:
                    timestamp = int(row["timestamp"])
                    step = max(step, int(row["step"]))
                    Decimal(row["equity"])
                except (TypeError, ValueError, InvalidOperation) as error:
                    raise StepLogError(
                        f"{path} line {reader.line_num} cannot be read ({error}); move the file away"
                    ) from error
                trades.update((row["symbol"], trade) for trade in row["trade_id"].split(";") if trade)
                # Only a decision has an action: events and ends carry the timestamp of a candle not yet decided on.
                if row["action"] != "" and row["action_type"] != ActionType.END:
                    rows_at[timestamp].add(row["symbol"])
    complete = [time for time, seen in rows_at.items() if seen >= set(symbols)]
    return Logged(
        last_row_close_ms=max(complete, default=0),
        trades=frozenset(trades),
        next_step=step + 1,
        repaired=tuple(repaired),
    )
