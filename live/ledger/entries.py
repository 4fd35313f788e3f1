"""What goes into the ledger, and the order that it is folded in, whatever order it arrives in."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from envs.account import Leg
from envs.errors import LedgerError
from live.exchange.client_ids import parse_client_order_id

MANUAL = "MANUAL"
"""The account of what no agent owns: manual trades, capital that nobody was given, the exchange's roundings."""

QUOTE = "USDT"

# Orders that the exchange makes itself begin with these.
_LIQUIDATION_PREFIX = "autoclose-"
_ADL_PREFIX = "adl_autoclose"
_EXCHANGE_PREFIXES = (_LIQUIDATION_PREFIX, _ADL_PREFIX, "settlement_autoclose")

_REASON_OF_LEG = {
    Leg.ORDER: "SIGNAL",
    Leg.STOP: "SL_HIT",
    Leg.TAKE_PROFIT: "TP_HIT",
    Leg.PROTECTIVE_STOP: "PROTECTIVE_STOP",
    Leg.EMERGENCY: "EMERGENCY",
}


def exit_reason(client_order_id: str) -> str:
    """Why a fill closed a position: by the leg of its client order id, else by the exchange's prefixes."""
    owner = parse_client_order_id(client_order_id)
    if owner is not None:
        return _REASON_OF_LEG[owner.leg]
    if client_order_id.startswith(_LIQUIDATION_PREFIX):
        return "LIQUIDATION"
    if client_order_id.startswith(_ADL_PREFIX):
        return "ADL"
    return "MANUAL"


def by_exchange(client_order_id: str) -> bool:
    """Whether the exchange itself made the order: a liquidation, an auto-deleveraging, a settlement."""
    return client_order_id.startswith(_EXCHANGE_PREFIXES)


def is_liquidation(client_order_id: str) -> bool:
    """Whether the order is one of a liquidation."""
    return client_order_id.startswith(_LIQUIDATION_PREFIX)


class IncomeKind(StrEnum):
    """What the exchange books beside trades."""

    FUNDING = "FUNDING"
    CLEARANCE = "CLEARANCE"  # a liquidation's fee, or what an insurance fund paid


@dataclass(frozen=True, slots=True)
class Income:
    """Funding, or what a liquidation cost, as the exchange booked it on the net position.

    `rate` and `mark_price` let agents with opposite positions pay each other where their net is zero and the exchange
    books nothing: record such a settlement with the amount 0.
    """

    exchange: str
    symbol: str
    time_ms: int
    amount_usdt: Decimal
    transaction_id: str
    kind: IncomeKind = IncomeKind.FUNDING
    rate: Decimal | None = None
    mark_price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a stream of the exchange's history has been read; `symbol` is empty for a stream over all."""

    exchange: str
    stream: str
    time_ms: int
    position: str = ""
    symbol: str = ""


class FillEvent(NamedTuple):
    """A fill, as the fold needs it. `agent` is None for a foreign one."""

    time_ms: int
    trade_id: str
    agent: str | None
    signed: Decimal
    price: Decimal
    commission: Decimal
    commission_asset: str
    realized_pnl: Decimal
    client_order_id: str


class IncomeEvent(NamedTuple):
    """Income, as the fold needs it."""

    time_ms: int
    transaction_id: str
    kind: str
    amount: Decimal
    rate: Decimal | None
    mark_price: Decimal | None


Event = FillEvent | IncomeEvent
Key = tuple[int, int, int, str, str]


def key_of(event: Event) -> Key:
    """Where an entry stands: by time; income before the trades of its millisecond; trades by id, as numbers.

    Ids are compared by length, then as text, which is numeric order for the exchange's ids and an order for any.
    """
    if isinstance(event, FillEvent):
        return event.time_ms, 1, len(event.trade_id), event.trade_id, ""
    return event.time_ms, 0, len(event.transaction_id), event.transaction_id, event.kind


def base_asset(symbol: str) -> str:
    """The base asset of a USDT contract.

    Raises:
        LedgerError: it is quoted in something else.
    """
    if not symbol.endswith(QUOTE) or symbol == QUOTE:
        raise LedgerError(
            f"{symbol!r} is not a contract in {QUOTE}; the ledger keeps accounts in {QUOTE} only"
        )
    return symbol.removesuffix(QUOTE)
