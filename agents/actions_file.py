"""`actions:FILE`: replays actions from a CSV file, so that anyone can check the simulator by hand.

    step,BTCUSDT,ETHUSDT
    0,0.5,0
    3,-0.25,0.1
    9,0,0

The column `step` counts decisions from 0; one column per symbol holds its action. A row holds until the next one,
before the first row every action is 0, and the run ends with the last step of the file.
"""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import KnownActions
from envs.base import Action, Observation
from envs.errors import ConfigError, ObservationMismatchError
from envs.observation import ObservationSpec

STEP_COLUMN = "step"

_LARGEST_STEP = 10_000_000


@dataclass(frozen=True, eq=False)
class ActionTable:
    """Actions by step, as a file gives them. Arrays are read-only.

    Attributes:
        source: the file.
        symbols: [n].
        steps: int64 [K], increasing.
        actions: float64 [K, n].
    """

    source: str
    symbols: tuple[str, ...]
    steps: NDArray[np.int64]
    actions: NDArray[np.float64]

    @property
    def last_step(self) -> int:
        """The last step that the file speaks of."""
        return int(self.steps[-1])

    def dense(self) -> NDArray[np.float64]:
        """float64 [last_step + 1, n]: the action of every step."""
        row = np.searchsorted(self.steps, np.arange(self.last_step + 1), side="right")
        padded = np.concatenate((np.zeros((1, len(self.symbols))), self.actions))
        return np.ascontiguousarray(padded[row])


def read_actions(path: Path, symbols: Sequence[str], *, bound: float | None = 1.0) -> ActionTable:
    """Read an actions file for `symbols`, in their order.

    Args:
        path: the CSV file.
        symbols: of the environment; the file must have a column for each, and no other.
        bound: largest absolute action; None for no bound, as with quantities.

    Raises:
        ConfigError: the file cannot be read, or breaks a rule; names line and column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"actions file {path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"actions file {path}: not a text file in UTF-8 ({error.reason})") from error
    reader = csv.reader(text.splitlines(), skipinitialspace=True)
    header: list[str] | None = None
    steps: list[int] = []
    rows: list[list[float]] = []
    order: list[int] = []
    for cells in _lines(reader, path):
        if not any(cells):
            continue
        where = f"actions file {path}, line {reader.line_num}"
        if header is None:
            header = cells
            order = _columns(header, symbols, where)
            continue
        if len(cells) != len(header):
            raise ConfigError(f"{where}: {len(cells)} cells, but the header has {len(header)} columns")
        step = _step(cells[header.index(STEP_COLUMN)], where)
        if steps and step <= steps[-1]:
            what = "is there twice" if step == steps[-1] else f"comes after step {steps[-1]}"
            raise ConfigError(f"{where}, column 'step': step {step} {what}; give increasing steps")
        steps.append(step)
        rows.append(
            [
                _number(cells[i], f"{where}, column {symbol!r}", bound)
                for i, symbol in zip(order, symbols, strict=True)
            ]
        )
    if header is None:
        raise ConfigError(
            f"actions file {path}: it is empty; give a header 'step,{','.join(symbols)}' and rows"
        )
    if not steps:
        raise ConfigError(f"actions file {path}: there is no row below the header; give at least one step")
    return ActionTable(
        str(path),
        tuple(symbols),
        np.array(steps, np.int64),
        np.array(rows, np.float64).reshape(len(steps), -1),
    )


def _lines(reader: Any, path: Path) -> Iterator[list[str]]:
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ConfigError(f"actions file {path}, line {reader.line_num}: not CSV ({error})") from error
        yield [cell.strip() for cell in cells]


def _columns(header: Sequence[str], symbols: Sequence[str], where: str) -> list[int]:
    """Index of each symbol's column."""
    known = (STEP_COLUMN, *symbols)
    for name in header:
        if name not in known:
            near = difflib.get_close_matches(name.upper(), symbols, n=1) or (
                [STEP_COLUMN] if name.lower() == STEP_COLUMN else []
            )
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"{where}: unknown column {name!r}.{hint} This run's columns are {', '.join(known)}"
            )
        if header.count(name) > 1:
            raise ConfigError(f"{where}: column {name!r} is there twice; give it once")
    for name in known:
        if name not in header:
            raise ConfigError(f"{where}: column {name!r} is missing; give the columns {', '.join(known)}")
    return [header.index(symbol) for symbol in symbols]


def _step(cell: str, where: str) -> int:
    try:
        step = int(cell)
    except ValueError:
        raise ConfigError(f"{where}, column 'step': {cell!r} is not a whole number") from None
    if not 0 <= step <= _LARGEST_STEP:
        raise ConfigError(f"{where}, column 'step': {step} is outside 0 to {_LARGEST_STEP}")
    return step


def _number(cell: str, where: str, bound: float | None) -> float:
    try:
        value = float(cell)
    except ValueError:
        what = "the cell is empty" if not cell else f"{cell!r} is not a number"
        raise ConfigError(f"{where}: {what}; give an action, 0 for flat") from None
    if not math.isfinite(value):
        raise ConfigError(f"{where}: {cell} is not finite; give an action, 0 for flat")
    if bound is not None and abs(value) > bound:
        raise ConfigError(
            f"{where}: {cell} is outside -{bound:g} to {bound:g}; for quantities in base units set "
            f"env.action.scheme to quantity"
        )
    return value


class ActionsFileAgent:
    """Gives the actions of an `ActionTable`, step by step.

    Its actions are float64, so that what the file says is what is traded. `info["step"]`, where an environment
    gives it (a live run that goes on after a restart), says which step it is; else the agent counts from 0.
    After the last step it repeats the last action; `AgentSetup.max_steps` ends the run before that.
    """

    def __init__(self, table: ActionTable, name: str = "actions") -> None:
        self.name = name
        self.table = table
        self._dense = table.dense()
        self._step = 0

    def reset(self, spec: ObservationSpec, *, seed: int | None = None) -> None:
        """Begin at step 0.

        Raises:
            ObservationMismatchError: the environment trades other symbols than the file.
        """
        if spec.symbols != self.table.symbols:
            raise ObservationMismatchError(
                f"the actions in {self.table.source} are for {', '.join(self.table.symbols)}, the environment "
                f"trades {', '.join(spec.symbols)}",
                expected=", ".join(self.table.symbols),
                actual=", ".join(spec.symbols),
            )
        self._step = 0

    def act(self, observation: Observation, info: dict[str, Any]) -> Action:
        """The action of this step, float64 [n]."""
        step = int(info.get("step", self._step))
        self._step = step + 1
        action: NDArray[np.float64] = self._dense[min(step, len(self._dense) - 1)].copy()
        return action

    def act_ahead(self, candles: NDArray[np.float32]) -> KnownActions:
        """The actions of the next steps."""
        steps = np.arange(self._step, self._step + len(candles))
        self._step += len(candles)
        return KnownActions(self._dense[np.minimum(steps, len(self._dense) - 1)])

    def close(self) -> None:
        """Nothing is held."""
