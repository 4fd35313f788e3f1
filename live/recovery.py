"""What earlier sessions of a run left on disk: torn lines are cut off, and the step logs are read back."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from envs.account import ZERO, ActionType
from envs.errors import ConfigError, StepLogError
from envs.risk_state import RiskState
from envs.step_log import COLUMNS, repair_torn_line

try:
    import fcntl
except ImportError:  # not on this platform: then nobody keeps two runs apart
    fcntl = None  # type: ignore[assignment]

_SESSION = re.compile(r"session_(\d{8}_\d{6})\.json")


@dataclass(frozen=True, slots=True)
class Logged:
    """What the step logs of a run hold.

    Attributes:
        last_row_close_ms: close of the last candle for which every symbol has its step row; 0 for none.
        fills_since_ms: fills from here on belong to the run; 0 for a run that has not begun.
        trades: (symbol, trade id) of every fill.
        next_step: number of the next step.
        repaired: files whose torn last line was cut off.
        equity_usdt, drawdown_fraction: of the last row.
        positions: signed quantity by symbol, as of its last row.
    """

    last_row_close_ms: int
    fills_since_ms: int
    trades: frozenset[tuple[str, str]]
    next_step: int
    repaired: tuple[Path, ...]
    equity_usdt: Decimal = ZERO
    drawdown_fraction: Decimal = ZERO
    positions: Mapping[str, Decimal] = field(default_factory=dict)


def write_session(folder: Path, stamp: str, values: dict[str, Any]) -> None:
    """Note what a session is about (venue, account, agent, symbols), before its first row. Atomic."""
    write_json(folder / f"session_{stamp}.json", values)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Replace a file at once: a process that is killed leaves the old one or the new one.

    Raises:
        StepLogError: it cannot be written.
    """
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(values, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StepLogError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def run_lock(folder: Path, account: str) -> Iterator[None]:
    """Keep a second run of this folder off the account: it would send every order twice.

    Raises:
        ConfigError: one is running.
    """
    path = folder / f"run_{account}.lock"
    with path.open("a+", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                raise ConfigError(
                    f"process {file.read().strip() or '(unknown)'} already runs in {folder} on this account; stop "
                    "it first, or give this run another account and folder (--out)"
                ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


class TransferMark:
    """Up to when deposits and withdrawals are counted in a run's risk state, across restarts.

    The risk state is another file, and a process may die between the two. So a new mark is written first, with the one
    before it and with the initial equity of the state that follows: that moves by what was paid in or out, and so
    tells which of the two marks the state on disk has.
    """

    def __init__(self, folder: Path, account: str) -> None:
        self.path = folder / f"transfers_{account}.json"
        self._counted_ms: int | None = None
        self._next_ms: int | None = None

    def load(self, state: RiskState) -> int | None:
        """UTC ms, or None for a run that never noted one.

        Args:
            state: as it is on disk.

        Raises:
            StepLogError: the file is damaged.
        """
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            # Runs that knew of no transfer used to note a 0, which is as good as nothing.
            self._counted_ms = int(values["counted_until_ms"]) or None
            belongs_to = values.get("initial_equity_usdt")
            if belongs_to is not None and Decimal(belongs_to) != state.initial_equity_usdt:
                before_ms = values["before_ms"]
                self._counted_ms = None if before_ms is None else int(before_ms)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, InvalidOperation) as error:
            raise StepLogError(
                f"{self.path} is damaged ({error}): it says which deposits are counted already; delete it to count "
                "none of those before now"
            ) from error
        return self._counted_ms

    def note(self, until_ms: int) -> None:
        """The next state counts transfers up to here."""
        self._next_ms = until_ms

    def save_for(self, state: RiskState) -> None:
        """Write what was noted, before the state that counts it is saved."""
        if self._next_ms is None or self._next_ms == self._counted_ms:
            return
        values = {
            "counted_until_ms": self._next_ms,
            "before_ms": self._counted_ms,
            "initial_equity_usdt": str(state.initial_equity_usdt),
        }
        write_json(self.path, values)

    def saved(self) -> None:
        """The state that counts what was noted is on disk."""
        self._counted_ms, self._next_ms = self._next_ms or self._counted_ms, None


@dataclass(frozen=True, slots=True)
class Session:
    """An earlier session.

    Attributes:
        log: its step log, there or not.
        begun_at_ms: when it began by the exchange's clock.
        account_id: the exchange's name of the account; empty where it has none.
    """

    log: Path
    begun_at_ms: int
    account_id: str = ""


def sessions_of(folder: Path, account: str) -> list[Session]:
    """The sessions on `account` (venue and address), oldest first.

    Raises:
        StepLogError: a session file is damaged.
    """
    sessions = []
    for path in sorted(folder.glob("session_*.json")):
        match = _SESSION.fullmatch(path.name)
        if match is None:
            continue
        try:
            session = json.loads(path.read_text(encoding="utf-8"))
            session_account, begun_at_ms = session["account"], int(session["begun_at_ms"])
            account_id = str(session.get("account_id", ""))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StepLogError(
                f"session file {path} is damaged ({error}): without it nobody can tell which account its steps "
                "were on; restore it, or move it and its step log away"
            ) from error
        if session_account == account:
            sessions.append(Session(folder / f"steps_{match[1]}.csv", begun_at_ms, account_id))
    return sessions


def read_logged(sessions: Sequence[Session], symbols: Sequence[str]) -> Logged:
    """Repair and read the step logs of sessions, oldest first.

    Raises:
        StepLogError: a log is not one of ours, or damaged before its last line; names the line.
    """
    repaired = []
    trades: set[tuple[str, str]] = set()
    rows_at: dict[int, set[str]] = defaultdict(set)
    step = -1
    equity = drawdown = ZERO
    positions: dict[str, Decimal] = {}
    for path in (session.log for session in sessions if session.log.exists()):
        try:
            if repair_torn_line(path):
                repaired.append(path)
            for row in _rows(path):
                step = max(step, int(row["step"]))
                equity, drawdown = Decimal(row["equity"]), Decimal(row["drawdown"])
                sign = -1 if row["position_side"] == "SHORT" else 1
                positions[row["symbol"]] = sign * Decimal(row["position_quantity"])
                trades.update((row["symbol"], trade) for trade in row["trade_id"].split(";") if trade)
                # Only a decision has an action: events and ends carry the time of a candle not yet decided on.
                if row["action"] != "" and row["action_type"] != ActionType.END:
                    rows_at[int(row["timestamp"])].add(row["symbol"])
        except OSError as error:
            raise StepLogError(f"cannot read {path}: {error.strerror}") from error
    complete = sorted(time for time, seen in rows_at.items() if seen >= set(symbols))
    return Logged(
        last_row_close_ms=complete[-1] if complete else 0,
        fills_since_ms=_unlogged_since(complete, sessions),
        trades=frozenset(trades),
        next_step=step + 1,
        repaired=tuple(repaired),
        equity_usdt=equity,
        drawdown_fraction=drawdown,
        positions=positions,
    )


def _unlogged_since(complete: Sequence[int], sessions: Sequence[Session]) -> int:
    """From when on a fill may have no row, by the closes of complete steps in order.

    What others did before a step's orders without the user stream telling is found when the account is read after
    them, and gets its row only behind those of the step: a process that died in between knew one step more than it
    had written down. A session that was killed in its first step has orders, but no row yet.
    """
    if complete:
        return complete[-2:][0]
    return min((session.begun_at_ms for session in sessions), default=0)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a step log.

    Raises:
        StepLogError: a line cannot be read, or the columns are not those of this version.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        try:
            if reader.fieldnames is not None and tuple(reader.fieldnames) != COLUMNS:
                raise StepLogError(
                    f"{path} has other columns than this version writes; move it away to start anew"
                )
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(f"it has not {len(COLUMNS)} cells")
                int(row["timestamp"]), int(row["step"]), Decimal(row["equity"]), Decimal(row["drawdown"])
                Decimal(row["position_quantity"])
                yield row
        except (ValueError, InvalidOperation, csv.Error) as error:
            raise StepLogError(
                f"{path} line {reader.line_num} cannot be read ({error}); move the file away"
            ) from error
