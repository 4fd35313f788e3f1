"""What the risk layer remembers of an account (peak, day, halt), and where it survives a restart."""

from __future__ import annotations

import errno
import json
import os
import zlib
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from envs.account import ZERO
from envs.errors import ConfigError, PerpgymError
from envs.time_grid import DAY_MS, HOUR_MS

_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class RiskState:
    """What the risk layer must remember across restarts. Money in USDT, times in UTC ms."""

    initial_equity_usdt: Decimal
    peak_equity_usdt: Decimal
    day_start_ms: int
    day_start_equity_usdt: Decimal
    max_drawdown_fraction: Decimal = ZERO
    order_times_ms: tuple[int, ...] = ()
    halted_reason: str = ""
    last_candle_close_ms: int = 0

    def marked(self, equity_usdt: Decimal, time_ms: int) -> RiskState:
        """The state after seeing `equity_usdt` at the close `time_ms`."""
        peak = max(self.peak_equity_usdt, equity_usdt)
        drawdown = drawdown_fraction(equity_usdt, peak)
        day_start = day_start_of(time_ms)
        new_day = day_start > self.day_start_ms
        return replace(
            self,
            peak_equity_usdt=peak,
            max_drawdown_fraction=max(self.max_drawdown_fraction, drawdown),
            day_start_ms=day_start if new_day else self.day_start_ms,
            day_start_equity_usdt=equity_usdt if new_day else self.day_start_equity_usdt,
            order_times_ms=tuple(t for t in self.order_times_ms if time_ms - t < HOUR_MS),
            last_candle_close_ms=time_ms,
        )


def day_start_of(close_ms: int) -> int:
    """Midnight of the UTC day that begins with, or goes on at, the instant after a candle's close.

    The last close before midnight thus opens the new day, and the day's first candle counts for it.
    """
    instant = close_ms + 1
    return instant - instant % DAY_MS


def drawdown_fraction(equity_usdt: Decimal, peak_usdt: Decimal) -> Decimal:
    """1 - equity / peak; 0 at a new peak, above 1 for a debt."""
    return ZERO if peak_usdt <= 0 else 1 - equity_usdt / peak_usdt


def transfer_scale(amount_usdt: Decimal, equity_usdt: Decimal) -> Decimal:
    """Factor for a peak when `amount_usdt` was paid in (or out, below zero) and `equity_usdt` came of it.

    The drawdown is a fraction of the money that is there, so that moving money leaves it as it is.
    """
    before = equity_usdt - amount_usdt
    return equity_usdt / before if before > 0 and equity_usdt > 0 else Decimal(1)


def fresh_state(equity_usdt: Decimal, time_ms: int) -> RiskState:
    """The state of an account seen for the first time."""
    return RiskState(
        initial_equity_usdt=equity_usdt,
        peak_equity_usdt=equity_usdt,
        day_start_ms=day_start_of(time_ms),
        day_start_equity_usdt=equity_usdt,
        last_candle_close_ms=time_ms,
    )


class RiskStore(Protocol):
    """Where the risk state survives a restart."""

    def load(self) -> RiskState | None:
        """The stored state, or None when there is none yet."""

    def save(self, state: RiskState) -> None:
        """Store `state` atomically."""

    def note(self, state: RiskState) -> None:
        """Store `state`, which orders wait for: without waiting for the disk. `save` follows after the orders."""


class FileRiskStore:
    """The risk state as a JSON file, replaced atomically.

    What is noted stands in a file beside it, with a checksum. It survives a kill, but perhaps no power cut; it counts
    when it is whole and about a later candle than what was saved.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.noted_path = path.with_suffix(".noted")
        self._has_noted = False

    def load(self) -> RiskState | None:
        """See `RiskStore.load`.

        Raises:
            ConfigError: the file is damaged. It is never guessed at: it holds the peak and the halt.
        """
        try:
            saved = _state_of(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            # Whoever deletes the state means its note, too: it must not come back over the next one.
            self.noted_path.unlink(missing_ok=True)
            return None
        except _UNREADABLE as error:
            raise ConfigError(
                f"risk state {self.path} cannot be read ({error}): it holds the peak equity and whether the run is "
                "halted; restore it, or delete it to start from the account's equity of today"
            ) from error
        noted = self._noted()
        return (
            noted if noted is not None and noted.last_candle_close_ms > saved.last_candle_close_ms else saved
        )

    def _noted(self) -> RiskState | None:
        """What was noted; None where that is nothing, or not whole."""
        try:
            text, _, checksum = self.noted_path.read_text(encoding="utf-8").rstrip().rpartition("\n")
            return _state_of(text) if checksum == _checksum_of(text) else None
        except _UNREADABLE:
            return None

    def save(self, state: RiskState) -> None:
        """See `RiskStore.save`.

        Raises:
            PerpgymError: it cannot be written. A run must not go on without its memory of peak and halt.
        """
        temporary = self.path.with_suffix(".tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                file.write(_text_of(state, indent=1))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            if state.halted_reason:
                _sync_folder(self.path.parent)
            if not self._has_noted:
                # Of an earlier session. A simulated market may begin again before its time.
                self.noted_path.unlink(missing_ok=True)
        except OSError as error:
            raise self._cannot_be_written(error) from error

    def note(self, state: RiskState) -> None:
        """See `RiskStore.note`.

        Raises:
            PerpgymError: it cannot be written.
        """
        self._has_noted = True
        try:
            file = os.open(self.noted_path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                # Over what is there, without giving its blocks back first: that takes ten times as long.
                text = _text_of(state)
                data = f"{text}\n{_checksum_of(text)}".encode()
                data = data.ljust(-(-len(data) // _BLOCK) * _BLOCK)
                if os.write(file, data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if os.fstat(file).st_size > len(data):
                    os.ftruncate(file, len(data))
            finally:
                os.close(file)
        except OSError as error:
            raise self._cannot_be_written(error) from error

    def _cannot_be_written(self, error: OSError) -> PerpgymError:
        return PerpgymError(
            f"risk state {self.path} cannot be written ({error.strerror}): it holds the peak equity and the halt; "
            "make room or give the run another folder"
        )


_UNREADABLE = (OSError, ValueError, KeyError, TypeError, ArithmeticError)


def _sync_folder(folder: Path) -> None:
    """Have the disk know the names of a folder's files, too: a halt survives a power cut from now on."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum_of(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _text_of(state: RiskState, *, indent: int | None = None) -> str:
    # Without indentation the encoder written in C is used.
    values: dict[str, Any] = {
        name: str(value) if isinstance(value, Decimal) else value
        for name in RiskState.__dataclass_fields__
        for value in (getattr(state, name),)
    }
    return json.dumps(values, indent=indent)


def _state_of(text: str) -> RiskState:
    """The state in a file's text; one of `_UNREADABLE` when there is none."""
    values = json.loads(text)
    state = RiskState(
        initial_equity_usdt=Decimal(values["initial_equity_usdt"]),
        peak_equity_usdt=Decimal(values["peak_equity_usdt"]),
        day_start_ms=int(values["day_start_ms"]),
        day_start_equity_usdt=Decimal(values["day_start_equity_usdt"]),
        max_drawdown_fraction=Decimal(values["max_drawdown_fraction"]),
        order_times_ms=tuple(int(t) for t in values["order_times_ms"]),
        halted_reason=str(values["halted_reason"]),
        last_candle_close_ms=int(values["last_candle_close_ms"]),
    )
    for name in RiskState.__dataclass_fields__:
        value = getattr(state, name)
        if isinstance(value, Decimal) and not value.is_finite():
            raise ValueError(f"{name} is {value}")
    return state
