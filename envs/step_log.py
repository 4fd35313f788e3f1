"""The step log: one CSV row per step and symbol, appended as soon as the orders are done.

docs/step-log.md describes every column; `COLUMNS` is their order on disk.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from envs.errors import StepLogError

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One row of the step log; the fields are the columns. Money in USDT, quantities in base units.

    `action` is None in rows that no decision made: stops, liquidations, emergency closes, the end.
    """

    schema: int
    timestamp: int
    step: int
    agent: str
    symbol: str
    action: float | None
    price: Decimal
    balance: Decimal
    equity: Decimal
    drawdown: Decimal
    max_drawdown: Decimal
    pnl_total: Decimal
    position_open: bool
    position_side: str
    position_entry_price: Decimal
    position_quantity: Decimal
    unrealized_pnl: Decimal
    action_type: str
    operation: str
    result: str
    error: str
    trade_id: str
    quantity: Decimal
    fill_price: Decimal | None
    commission: Decimal
    funding: Decimal
    reward: float


COLUMNS = tuple(field.name for field in fields(StepRecord))


@dataclass(frozen=True, slots=True)
class Standing:
    """The running figures of a step log between two steps. Money in USDT.

    Attributes:
        step: number of the next decision.
        initial_usdt: what pnl_total counts from.
        peak_usdt, max_drawdown_fraction: so far.
        reward, funding: by symbol, what the symbol's next row takes.
    """

    step: int
    initial_usdt: Decimal
    peak_usdt: Decimal
    max_drawdown_fraction: Decimal
    reward: Mapping[str, float]
    funding: Mapping[str, Decimal]


EMERGENCY_COLUMNS = (
    "schema",
    "timestamp",
    "step",
    "agent",
    "reason",
    "drawdown",
    "limit",
    "peak_equity",
    "equity_before",
    "equity_after",
    "balance",
    "positions_closed",
    "tries",
    "flat",
    "pending_orders",
)


def format_value(value: Any) -> str:
    """One cell: Decimals without exponent, floats so that they read back equal, booleans true/false.

    Text is put on one line: a row that is one line can be repaired when a kill has torn it.
    """
    if value is None:
        return ""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        text = format(abs(value) if value == 0 else value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, float):
        return repr(float(value))  # numpy's floats are floats whose repr names their type
    return " ".join(str(value).splitlines())


class CsvAppender:
    """Appends rows to a CSV file; each row is one write, so that a kill tears at most the last line."""

    def __init__(self, path: Path, columns: Iterable[str]) -> None:
        self.path = path
        header = tuple(columns)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # O_APPEND: a row is written whole at the end, whoever else holds the file.
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            if os.fstat(self._descriptor).st_size == 0:
                self.append(header)
        except OSError as error:
            raise StepLogError(f"cannot write {path}: {error.strerror}") from error

    def append(self, values: Iterable[Any]) -> None:
        """Write one row.

        Raises:
            StepLogError: the row could not be written whole, for instance on a full disk.
        """
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerow([format_value(value) for value in values])
        self.append_lines(buffer.getvalue().encode())

    def append_lines(self, data: bytes) -> None:
        """Write rows that are text already, whole lines.

        Raises:
            StepLogError: they could not be written whole.
        """
        try:
            written = os.write(self._descriptor, data)
        except OSError as error:
            raise StepLogError(f"cannot write {self.path}: {error.strerror}") from error
        if written != len(data):
            raise StepLogError(f"cannot write {self.path}: only {written} of {len(data)} bytes were taken")

    def close(self) -> None:
        """Flush to disk and close; harmless when called twice."""
        if self._descriptor >= 0:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


def repair_torn_line(path: Path) -> str:
    """Cut off a last line that a kill left unfinished. Returns what was cut, empty when the file was whole."""
    with path.open("rb+") as file:
        data = file.read()
        end = data.rfind(b"\n") + 1
        if end == len(data):
            return ""
        file.truncate(end)
    return data[end:].decode(errors="replace")
