"""One agent's fills in one contract as its own account sees them: with its own realized PnL, and what was excess."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from envs.account import ZERO, Fill, Leg
from envs.errors import LedgerError
from live.exchange.client_ids import parse_client_order_id
from live.ledger import Ledger
from live.ledger.arithmetic import exact
from live.ledger.entries import QUOTE
from live.ledger.positions import PositionState, apply_fill
from live.ledger.queries import Where, trades

_TRIES = 5
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


@dataclass(frozen=True, slots=True)
class _Step:
    """A fill as its account sees it, and the position after it."""

    fill: Fill
    excess: Decimal


class OwnFills:
    """Folds an agent's fills, and its parts of foreign ones, in the order of the ledger.

    What is here always agrees with the ledger's own fold; an entry that came late has everything read again.

    Excess is what orders that may only close (stops, take-profits, emergency closes) opened: where reduce-only is
    forbidden, the second of two that fill, or one that fills after its position is gone. Signed; 0 once it is closed.
    """

    def __init__(self, ledger: Ledger, account: str, agent: str, symbol: str) -> None:
        self._ledger = ledger
        self._account = account
        self._agent = agent
        self._symbol = symbol
        self._reset()

    def _reset(self) -> None:
        self._state = PositionState()
        self._steps: list[_Step] = []
        self._known: set[str] = set()
        self._excess = ZERO

    def refresh(self) -> None:
        """Take over what the ledger has now.

        Raises:
            LedgerError: the database and the ledger in memory do not agree, however often both are read.
        """
        for attempt in range(_TRIES):
            wanted = self._ledger.position(self._account, self._agent, self._symbol)
            if self._agrees(wanted):
                return
            if attempt == 1:  # something came late: the order has changed
                self._reset()
            self._read()
            if self._agrees(wanted):
                return
            if attempt:
                self._reset()
        raise LedgerError(
            f"{self._account} {self._symbol}: the fills of {self._agent} do not fold to its position in the ledger; "
            "run: python -m live.store check"
        )

    def _agrees(self, wanted: PositionState) -> bool:
        own = self._state
        return (own.fills, own.p1, own.cost, own.realized, own.fees) == (
            wanted.fills,
            wanted.p1,
            wanted.cost,
            wanted.realized,
            wanted.fees,
        )

    def _read(self) -> None:
        since_ms = self._steps[-1].fill.time_ms if self._steps else None
        where = Where(self._account, self._symbol, self._agent, since_ms)
        for fill in trades(self._ledger.store, where):
            if fill.trade_id not in self._known:
                self._fold(fill)

    def _fold(self, fill: Fill) -> None:
        state, signed = self._state, fill.signed_quantity
        before, realized = state.p1, state.realized
        fee = fill.commission if fill.commission_asset == QUOTE else ZERO
        with exact():
            apply_fill(
                state,
                self._agent,
                signed,
                fill.price,
                fee,
                ZERO,
                fill.time_ms,
                fill.trade_id,
                fill.client_order_id,
            )
            gain = state.realized - realized
        self._excess = excess_after(self._excess, before, fill)
        self._known.add(fill.trade_id)
        liquidated = fill.liquidation or mark_of(fill.client_order_id) == LIQUIDATION_MARK
        own = replace(fill, realized_pnl=gain, liquidation=liquidated, agent=self._agent)
        self._steps.append(_Step(own, self._excess))

    @property
    def excess(self) -> Decimal:
        """Signed quantity that is to be closed, as of the last `refresh`."""
        return self._excess

    @property
    def quantity(self) -> Decimal:
        """Signed position, as of the last `refresh`."""
        return self._state.p1

    def liquidated_ms(self) -> int:
        """Time of the newest fill of a virtual liquidation; 0 without any."""
        for step in reversed(self._steps):
            if mark_of(step.fill.client_order_id) == LIQUIDATION_MARK:
                return step.fill.time_ms
        return 0

    def fills(
        self, *, since_ms: int | None = None, from_id: str | None = None, order_id: str | None = None
    ) -> list[Fill]:
        """The fills by trade id; see `Exchange.fills`."""
        found = [step.fill for step in self._steps]
        if order_id is not None:
            found = [one for one in found if one.order_id == order_id]
        elif from_id is not None:
            first = len(from_id), from_id
            found = [one for one in found if (len(one.trade_id), one.trade_id) >= first]
        elif since_ms is not None:
            found = [one for one in found if one.time_ms >= since_ms]
        return sorted(found, key=lambda one: (len(one.trade_id), one.trade_id))


def excess_after(excess: Decimal, before: Decimal, fill: Fill) -> Decimal:
    """The excess after a fill of a position that was `before`.

    A fill that reduces takes the excess away first. What a closing order does beyond zero, or on the position's own
    side, is excess.
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
