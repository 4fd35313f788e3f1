"""One agent's fills in one contract as its own account sees them: with its own realized PnL, and what was excess."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select

from envs.account import ZERO, Fill, Leg, PositionSide
from envs.errors import LedgerError
from live.exchange.client_ids import parse_client_order_id
from live.ledger import Ledger
from live.ledger.arithmetic import exact
from live.ledger.entries import QUOTE
from live.ledger.positions import PositionState, apply_fill
from live.ledger.queries import Where, trades
from live.store import models

RunInThread = Callable[..., Awaitable[Any]]
"""Does something with the database on the thread that writes to it; see `TradeSync.run`."""

KEPT = 2_000
"""So many fills of a contract an agent has in memory at most; older ones are read when they are asked for."""

_TRIES = 5
_WAIT_S = 0.05
_CLOSING_LEGS = frozenset({Leg.STOP, Leg.TAKE_PROFIT, Leg.PROTECTIVE_STOP, Leg.EMERGENCY})

LIQUIDATION_MARK, EXCESS_MARK, HALT_MARK = 1, 2, 3
"""Orders of the shared account itself carry a time whose milliseconds are one of these in the place of a candle's
close, which ends in 999: so anybody can tell from the fills alone why a position was closed."""


def mark_of(client_order_id: str) -> int:
    """Which of the marks an order carries; 0 for none."""
    parsed = parse_client_order_id(client_order_id)
    if parsed is None or parsed.leg is not Leg.EMERGENCY:
        return 0
    rest = parsed.candle_close_ms % 1000
    return rest if rest in (LIQUIDATION_MARK, EXCESS_MARK, HALT_MARK) else 0


class FillFold:
    """A stretch of an agent's fills, folded from a moment when its position was known.

    Attributes:
        state: the position after the newest; its sums begin with the stretch.
        excess: of orders that may only close; see `excess_after`.
        fills: with the agent's own realized PnL.
        begin: time and trade id of the last fill before the stretch; None when there is none.
    """

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self.state = PositionState()
        self.excess = ZERO
        self.fills: list[Fill] = []
        self.begin: tuple[int, str] | None = None
        self._newest: set[str] = set()

    def start_after(self, fills: Sequence[Fill], opened: Decimal) -> None:
        """Begin behind fills of one time; the last has opened a position of a signed quantity, or flipped to it."""
        fill = fills[-1]
        with exact():
            apply_fill(
                self.state, self._agent, opened, fill.price, ZERO, ZERO, fill.time_ms, fill.trade_id, ""
            )
        self.state.fills = 0
        self.excess = opened if _is_closing(fill) else ZERO
        self.begin = fill.time_ms, fill.trade_id
        self._newest = {one.trade_id for one in fills}

    def add(self, fill: Fill) -> None:
        """Fold the next fill; one that is there already changes nothing."""
        if fill.trade_id in self._newest:
            return
        newest_ms = self.newest_ms
        if newest_ms is not None and fill.time_ms > newest_ms:
            self._newest.clear()
        self._newest.add(fill.trade_id)
        state = self.state
        before, realized = state.p1, state.realized
        fee = fill.commission if fill.commission_asset == QUOTE else ZERO
        with exact():
            apply_fill(
                state,
                self._agent,
                fill.signed_quantity,
                fill.price,
                fee,
                ZERO,
                fill.time_ms,
                fill.trade_id,
                fill.client_order_id,
            )
            gain = state.realized - realized
        self.excess = excess_after(self.excess, before, fill)
        liquidated = fill.liquidation or mark_of(fill.client_order_id) == LIQUIDATION_MARK
        self.fills.append(replace(fill, realized_pnl=gain, liquidation=liquidated, agent=self._agent))

    @property
    def newest_ms(self) -> int | None:
        """Time of the newest fill, None before the first of all."""
        if self.fills:
            return self.fills[-1].time_ms
        return self.begin[0] if self.begin else None

    def forget(self, kept: int) -> None:
        """Keep the newest fills only."""
        if len(self.fills) > kept:
            last = self.fills[-kept - 1]
            self.begin = last.time_ms, last.trade_id
            del self.fills[:-kept]

    def reaches(self, time_ms: int) -> bool:
        """Whether it has all fills from a time on."""
        return self.begin is None or self.begin[0] < time_ms

    def reaches_id(self, trade_id: str) -> bool:
        """Whether it has all fills from a trade id on."""
        return self.begin is None or _id_key(self.begin[1]) < _id_key(trade_id)


class OwnFills:
    """An agent's fills, and its parts of foreign ones, in the order of the ledger.

    What is here always agrees with the ledger's own fold; an entry that came late has everything read again. In memory
    are the fills since the newest round trip began, and later ones, no more than `KEPT`.

    Args:
        ledger, account, agent, symbol: whose.
        run: does the reading.
    """

    def __init__(
        self,
        ledger: Ledger,
        account: str,
        agent: str,
        symbol: str,
        run: RunInThread,
        *,
        kept: int = KEPT,
    ) -> None:
        self._ledger = ledger
        self._account = account
        self._agent = agent
        self._symbol = symbol
        self._run = run
        self._kept = kept
        self._lock = asyncio.Lock()
        self._fold: FillFold | None = None
        self._before = PositionState()

    async def refresh(self) -> None:
        """Take over what the ledger has now.

        Raises:
            LedgerError: the database and the ledger in memory do not agree, however often both are read.
        """
        async with self._lock:
            failures = 0
            while self._fold is None or not self._agrees(self._fold, self._position()):
                if self._fold is not None:
                    wanted, fills = await self._run(self._read_on, self._fold.newest_ms)
                    for fill in fills:
                        self._fold.add(fill)
                    if self._agrees(self._fold, wanted):
                        self._fold.forget(self._kept)
                        continue
                # The first reading, or something came late: the order has changed.
                wanted, fold = await self._run(self._read_anew)
                self._fold = fold if fold.state.p1 == wanted.p1 and fold.state.cost == wanted.cost else None
                if self._fold is None:
                    failures += 1
                    if failures == _TRIES:
                        raise LedgerError(
                            f"{self._account} {self._symbol}: the fills of {self._agent} do not fold to its position "
                            "in the ledger; run: python -m live.store check"
                        )
                    await asyncio.sleep(_WAIT_S * 2**failures)
                    continue
                before, own = self._before, fold.state
                with exact():
                    before.fills = wanted.fills - own.fills
                    before.realized, before.fees = wanted.realized - own.realized, wanted.fees - own.fees

    def _position(self) -> PositionState:
        return self._ledger.position(self._account, self._agent, self._symbol)

    def _agrees(self, fold: FillFold, wanted: PositionState) -> bool:
        own, before = fold.state, self._before
        with exact():
            return (
                own.fills + before.fills == wanted.fills
                and own.p1 == wanted.p1
                and own.cost == wanted.cost
                and own.realized + before.realized == wanted.realized
                and own.fees + before.fees == wanted.fees
            )

    # On the ledger's thread, where nothing is written meanwhile

    def _read_on(self, since_ms: int | None) -> tuple[PositionState, list[Fill]]:
        return self._position(), self._trades(since_ms)

    def _read_anew(self) -> tuple[PositionState, FillFold]:
        wanted = self._position()
        return wanted, self._fold_from(None) if wanted.fills else FillFold(self._agent)

    def _trades(self, since_ms: int | None) -> list[Fill]:
        return trades(self._ledger.store, Where(self._account, self._symbol, self._agent, since_ms))

    def _fold_from(self, time_ms: int | None) -> FillFold:
        """The fills of the newest round trip that began before a time, and all later ones; without the one that
        began it."""
        fold = FillFold(self._agent)
        trip = self._trip_before(time_ms)
        if trip is None:
            fills: Sequence[Fill] = self._trades(None)
        else:
            fills = self._trades(trip.entry_ms)
            ids = [fill.trade_id for fill in fills]
            first = ids.index(trip.entry_trade_id)
            last = len(ids) if trip.exit_ms is None else ids.index(trip.exit_trade_id)
            sign = 1 if trip.side == PositionSide.LONG else -1
            with exact():
                # By a flip, only what went beyond zero.
                enlarged = [one.quantity for one in fills[first + 1 : last] if one.side.sign == sign]
                opened = sign * (trip.quantity - sum(enlarged, ZERO))
            fold.start_after(fills[: first + 1], opened)
            fills = fills[first + 1 :]
        for fill in fills:
            fold.add(fill)
        return fold

    def _trip_before(self, time_ms: int | None) -> Any:
        row = models.Transaction
        statement = (
            select(row.side, row.quantity, row.entry_ms, row.entry_trade_id, row.exit_ms, row.exit_trade_id)
            .join(models.Account, models.Account.id == row.account_id)
            .join(models.Exchange, models.Exchange.id == row.exchange_id)
            .where(
                models.Exchange.name == self._account,
                models.Account.name == self._agent,
                row.symbol == self._symbol,
            )
            .order_by(row.entry_ms.desc(), func.length(row.entry_trade_id).desc(), row.entry_trade_id.desc())
            .limit(1)
        )
        if time_ms is not None:
            statement = statement.where(row.entry_ms < time_ms)
        with self._ledger.store.read() as connection:
            return connection.execute(statement).one_or_none()

    def _time_of(self, trade_id: str) -> int | None:
        """Time of the first fill in the book from a trade id on."""
        row, key = models.Fill, _id_key(trade_id)
        length = func.length(row.trade_id)
        statement = (
            select(func.min(row.time_ms))
            .join(models.Exchange, models.Exchange.id == row.exchange_id)
            .where(
                models.Exchange.name == self._account,
                row.symbol == self._symbol,
                (length > key[0]) | ((length == key[0]) & (row.trade_id >= trade_id)),
            )
        )
        with self._ledger.store.read() as connection:
            found: int | None = connection.execute(statement).scalar_one()
        return found

    # What is asked

    @property
    def excess(self) -> Decimal:
        """Signed quantity that is to be closed, as of the last `refresh`."""
        return ZERO if self._fold is None else self._fold.excess

    async def fills_since(self, time_ms: int) -> list[Fill]:
        """The fills from a time on, by trade id."""
        fold = await self._reaching(time_ms)
        return _by_id(one for one in fold.fills if one.time_ms >= time_ms)

    async def fills_from(self, trade_id: str) -> list[Fill]:
        """The fills from a trade id on, by trade id."""
        await self.refresh()
        fold = self._fold
        assert fold is not None
        if not fold.reaches_id(trade_id):
            time_ms = await self._run(self._time_of, trade_id)
            if time_ms is None:
                return []
            fold = await self._reaching(time_ms)
        return _by_id(one for one in fold.fills if _id_key(one.trade_id) >= _id_key(trade_id))

    async def fills_of(self, order_id: str, time_ms: int) -> list[Fill]:
        """The fills of an order whose first is of a time, by trade id."""
        fold = await self._reaching(time_ms)
        return _by_id(one for one in fold.fills if one.order_id == order_id)

    async def _reaching(self, time_ms: int) -> FillFold:
        """What is in memory, or, for what is older, all that is read for once."""
        await self.refresh()
        fold = self._fold
        assert fold is not None
        if not fold.reaches(time_ms):
            fold = await self._run(self._fold_from, time_ms)
            assert fold is not None
        return fold


def excess_after(excess: Decimal, before: Decimal, fill: Fill) -> Decimal:
    """The excess after a fill of a position that was `before`.

    Excess is what orders that may only close (stops, take-profits, emergency closes) opened: where reduce-only is
    forbidden, the second of two that fill, or one that fills after its position is gone. A fill that reduces takes the
    excess away first. What a closing order does beyond zero, or on the position's own side, is excess.
    """
    signed = fill.signed_quantity
    after = before + signed
    if before * signed < 0:
        closed = min(abs(signed), abs(before))
        excess = _toward_zero(excess, closed)
        opened = signed + closed * (1 if before > 0 else -1)
    else:
        opened = signed
    if after == 0 or before * after < 0:
        excess = ZERO
    if opened and _is_closing(fill):
        excess += opened
    return excess


def _is_closing(fill: Fill) -> bool:
    parsed = parse_client_order_id(fill.client_order_id)
    return parsed is not None and parsed.leg in _CLOSING_LEGS


def _toward_zero(value: Decimal, by: Decimal) -> Decimal:
    return ZERO if abs(value) <= by else value - by * (1 if value > 0 else -1)


def _id_key(trade_id: str) -> tuple[int, str]:
    return len(trade_id), trade_id


def _by_id(fills: Any) -> list[Fill]:
    return sorted(fills, key=lambda one: _id_key(one.trade_id))
