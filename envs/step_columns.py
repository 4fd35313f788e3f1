"""The step log of steps that were run ahead: arrays that the kernel wrote, and rows when somebody looks.

The rows are those that `StepLog(RiskControl(FuturesEnv))` writes, value by value; a property test holds them together.
Only what a simulation does by itself is here; liquidations, refusals and emergencies are left to the wrappers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from envs import kernel
from envs.account import ActionType, Fill, Leg, Side, classify
from envs.futures_env import AheadSteps, FuturesEnv
from envs.planning import quantity_decimal, to_decimal
from envs.step_log import COLUMNS, Standing, StepRecord
from envs.step_rows import EVENTS, RowWalk, csv_blocks

if TYPE_CHECKING:
    import pandas as pd

# Columns of a frame that are no numbers.
_TEXT = ("agent", "symbol", "position_side", "action_type", "operation", "result", "error", "trade_id")
_WHOLE = ("schema", "timestamp", "step", "position_open")


class StepColumns(Sequence[StepRecord]):
    """What `FuturesEnv.run_ahead` did, as a sequence of the step log's records.

    Args:
        env: what did it.
        agent: the name in the log.
        ahead: what it did.
        start: gives the log's running figures before it; asked when rows are.
        ended: whether the run ended here, with `end` rows.
    """

    def __init__(
        self,
        env: FuturesEnv,
        agent: str,
        ahead: AheadSteps,
        start: Callable[[], Standing],
        *,
        ended: bool,
    ) -> None:
        self.agent = agent
        self.symbols = env.symbols
        self.instruments = env.instruments
        self.ahead = ahead
        self.ended = ended
        self._env_agent = env.agent
        self._start = start
        self._standing: Standing | None = None
        self.day_start_equity_usdt: Decimal | None = None
        """Equity at the last close that began a UTC day, once `standing` is known; None where none did."""
        span = slice(ahead.first, ahead.first + len(ahead.steps) + 1)
        self.close: NDArray[np.float64] = env.market.close[span]
        self.time_ms: NDArray[np.int64] = env.market.close_time_ms[span]

    def __len__(self) -> int:
        rows = self.ahead.bars.size + np.count_nonzero(self.ahead.bars["event"])
        return int(rows) + (len(self.symbols) if self.ended else 0)

    @overload
    def __getitem__(self, index: int) -> StepRecord: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[StepRecord]: ...

    def __getitem__(self, index: int | slice) -> StepRecord | Sequence[StepRecord]:
        return self._records[index]

    def __iter__(self) -> Iterator[StepRecord]:
        return iter(self._records)

    @cached_property
    def _records(self) -> tuple[StepRecord, ...]:
        walk = RowWalk(self, self._start())
        records = tuple(StepRecord(*row) for row in walk.rows())
        self._arrived(walk)
        return records

    def _arrived(self, walk: RowWalk) -> None:
        self._standing, self.day_start_equity_usdt = walk.standing(), walk.day_start_equity

    def standing(self) -> Standing:
        """The log's running figures after these rows."""
        if self._standing is None:
            walk = RowWalk(self, self._start())
            for _ in walk.rows():
                pass
            self._arrived(walk)
        assert self._standing is not None
        return self._standing

    def csv(self) -> Iterator[bytes]:
        """The rows as they stand in the step log's file, some thousand at a time."""
        walk = RowWalk(self, self._start())
        yield from csv_blocks(walk.rows())
        self._arrived(walk)

    def fills(self) -> Iterator[tuple[ActionType, Fill]]:
        """Every fill in the order of the log, and what it did to the position."""
        bars = self.ahead.bars
        filled, event = bars["outcome"] == kernel.OUTCOME_FILLED, bars["event"] != kernel.EVENT_NONE
        for step in np.flatnonzero((filled | event).any(axis=1)).tolist():
            for i in np.flatnonzero(filled[step]).tolist():
                bar, instrument = bars[step, i], self.instruments[i]
                change = quantity_decimal(bar["order_quantity"], instrument)
                after = quantity_decimal(bar["quantity"], instrument)
                money = (bar["fill_price"], bar["fee"], bar["pnl"])
                fill = self._fill(i, step, change, money, Leg.ORDER, int(bar["fills"]))
                yield classify(after - change, after), fill
            for i in np.flatnonzero(event[step]).tolist():
                bar = bars[step, i]
                kind, leg = EVENTS[int(bar["event"])]
                change = quantity_decimal(bar["event_quantity"], self.instruments[i])
                money = (bar["event_price"], bar["event_fee"], bar["event_pnl"])
                yield kind, self._fill(i, step + 1, change, money, leg, int(bar["end_fills"]))

    def _fill(
        self, i: int, mark: int, change: Decimal, money: tuple[float, float, float], leg: Leg, number: int
    ) -> Fill:
        symbol, time_ms = self.symbols[i], int(self.time_ms[mark])
        price, fee, pnl = money
        return Fill(
            symbol=symbol,
            trade_id=str(number),
            order_id=str(number),
            client_order_id=f"{self._env_agent}_{symbol}_{time_ms}{leg}",
            side=Side.BUY if change > 0 else Side.SELL,
            quantity=abs(change),
            price=to_decimal(price),
            commission=to_decimal(fee),
            realized_pnl=to_decimal(pnl),
            # An order fills when the next candle opens.
            time_ms=time_ms + 1 if leg is Leg.ORDER else time_ms,
            leg=leg,
            agent=self._env_agent,
            exchange="simulation",
        )


class StepRows(Sequence[StepRecord]):
    """The rows of a run whose parts were made in different ways: run ahead, or through the wrappers."""

    def __init__(self, parts: Iterable[Sequence[StepRecord]] = ()) -> None:
        self.parts = tuple(parts)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @overload
    def __getitem__(self, index: int) -> StepRecord: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[StepRecord]: ...

    def __getitem__(self, index: int | slice) -> StepRecord | Sequence[StepRecord]:
        return self._records[index]

    def __iter__(self) -> Iterator[StepRecord]:
        for part in self.parts:
            yield from part

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._records == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def _records(self) -> tuple[StepRecord, ...]:
        return tuple(iter(self))

    def frame(self) -> pd.DataFrame:
        """The rows as a table with the columns of the file; money and quantities as floats, what is missing as NaN."""
        # Imported here: a run does without.
        import pandas as pd

        columns = zip(*(tuple(getattr(row, name) for name in COLUMNS) for row in self), strict=True)
        values = dict(zip(COLUMNS, columns, strict=True)) if len(self) else dict.fromkeys(COLUMNS, ())
        return pd.DataFrame(
            {
                name: list(column) if name in (*_TEXT, *_WHOLE) else np.array(column, np.float64)
                for name, column in values.items()
            }
        )
