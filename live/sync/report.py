"""What a position sync found: the positions, what changed, and whether ledger and exchange agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from envs.account import PositionSide
from envs.errors import LedgerError
from live.exchange.base import ExchangePosition, OpenOrder
from live.ledger.arithmetic import ZERO, divide, exact
from live.ledger.identity import Identity
from live.ledger.queries import RoundTrip
from live.store.types import decimal_text

PERCENT_GRID = Decimal("1E-8")


@dataclass(frozen=True, slots=True)
class PositionRow:
    """An open position of an account.

    Attributes:
        owner: agent, or MANUAL.
        quantity: signed.
        price: last price, None where the exchange gave none.
        leverage: the exchange's setting for the symbol, None where there is no net position to tell it.
        client_order_id: of the fill that opened it.
        opened_ms, opened_by: time and trade id of that fill.
        guards: trigger prices of the stops and take-profits that its owner has resting, by their order's type.
    """

    owner: str
    symbol: str
    side: PositionSide
    quantity: Decimal
    entry_price: Decimal
    entry_value: Decimal
    price: Decimal | None
    unrealized_usdt: Decimal | None
    leverage: int | None
    client_order_id: str
    opened_ms: int
    opened_by: str
    guards: tuple[tuple[str, Decimal], ...] = ()

    @property
    def percent(self) -> Decimal | None:
        """Unrealized PnL in percent of the entry value, without leverage."""
        if self.unrealized_usdt is None:
            return None
        with exact():
            return divide(self.unrealized_usdt * 100, abs(self.entry_value), PERCENT_GRID)


@dataclass(frozen=True, slots=True)
class Difference:
    """Ledger and exchange differ. `what` is a symbol, or `wallet`."""

    what: str
    ledger: Decimal
    exchange: Decimal

    @property
    def missing(self) -> Decimal:
        """What the exchange has and the ledger cannot explain."""
        with exact():
            return self.exchange - self.ledger

    def __str__(self) -> str:
        ledger, exchange, missing = map(decimal_text, (self.ledger, self.exchange, self.missing))
        return f"{self.what}: the ledger has {ledger}, the exchange {exchange}, {missing} of it unexplained"


@dataclass(frozen=True, slots=True)
class Changes:
    """An agent's positions, and what changed since the sync before."""

    total: int = 0
    added: int = 0
    updated: int = 0
    closed: int = 0

    def __str__(self) -> str:
        return f"{self.total} positions (+{self.added} ~{self.updated} -{self.closed})"


@dataclass(frozen=True, slots=True)
class SyncReport:
    """One sync of one exchange account.

    Attributes:
        account: its name in the ledger.
        time_ms: by the exchange's clock.
        positions: all that are open, by owner and symbol.
        agents: by name; also those whose last position closed.
        closed: round trips that ended since the sync before, with price, time, reason, PnL, fees and duration.
        exchange_positions, open_orders: as the exchange tells; the orders may be older than the positions.
        identity: all sums, None when the exchange could not be read.
        differences: that were still there after everything was read again; empty when ledger and exchange agree.
        errors: what could not be read; the report is then about the ledger alone.
        late_fills: fills that the stream had not told of and the comparison brought in.
        duration_ms, requests, weight: what it took.
    """

    account: str
    time_ms: int
    positions: tuple[PositionRow, ...] = ()
    agents: Mapping[str, Changes] = field(default_factory=dict)
    closed: tuple[RoundTrip, ...] = ()
    exchange_positions: Mapping[str, ExchangePosition] = field(default_factory=dict)
    open_orders: tuple[OpenOrder, ...] = ()
    identity: Identity | None = None
    differences: tuple[Difference, ...] = ()
    errors: tuple[str, ...] = ()
    late_fills: int = 0
    duration_ms: float = 0.0
    requests: int = 0
    weight: int = 0

    @property
    def changes(self) -> Changes:
        """Over all agents."""
        rows = self.agents.values()
        return Changes(*(sum(getattr(one, name) for one in rows) for name in Changes.__dataclass_fields__))

    @property
    def holds(self) -> bool | None:
        """Whether the sums of the accounts equal the exchange's figures to the last unit; None when it is not known."""
        return None if self.identity is None else not self.differences

    @property
    def unrealized_usdt(self) -> Decimal:
        """Over all positions that have a price."""
        with exact():
            return sum((one.unrealized_usdt or ZERO for one in self.positions), ZERO)

    def check(self) -> None:
        """Raise a LedgerError with the numbers, unless ledger and exchange are known to agree."""
        if self.differences:
            raise LedgerError(
                f"{self.account}: ledger and exchange differ after everything was read again: "
                + "; ".join(map(str, self.differences))
                + "; look at `python -m live.sync status`, and rebuild the database if entries are missing in it"
            )
        if self.identity is None:
            raise LedgerError(f"{self.account}: could not be compared: {'; '.join(self.errors)}")

    def lines(self) -> list[str]:
        """For the log: a summary, a line per agent, a line per position that closed, and what is wrong."""
        changes = self.changes
        verdict = {True: "agrees", False: "DIFFERS", None: "not compared"}[self.holds]
        found = [
            f"{self.account}: {changes}, {len(self.errors)} errors, {verdict}, {self.duration_ms:.0f} ms, "
            f"weight {self.weight}"
        ]
        found += [f"[{name}]: {one}" for name, one in sorted(self.agents.items())]
        found += [describe(trip) for trip in self.closed]
        found += [f"difference: {one}" for one in self.differences]
        found += [f"error: {one}" for one in self.errors]
        return found


def describe(trip: RoundTrip) -> str:
    """A round trip that ended, for people."""
    seconds = (trip.duration_ms or 0) // 1000
    hours, minutes = divmod(seconds // 60, 60)
    lasted = f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds} s"
    return (
        f"[{trip.agent}] closed {trip.side} {decimal_text(trip.quantity)} {trip.symbol} "
        f"at {decimal_text(trip.exit_price or ZERO)} after {lasted}: "
        f"{trip.exit_reason}, {trip.net_pnl:+.4f} USDT ({trip.pnl_percent:+.2f} %)"
    )
