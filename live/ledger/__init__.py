"""The ledger: fills, funding and capital go in once; positions, wallets and round trips come out (`docs/ledger.md`)."""

from live.ledger.capital import Transfer
from live.ledger.entries import MANUAL, Cursor, Income, IncomeKind, exit_reason
from live.ledger.ledger import Ledger, Recorded
from live.ledger.positions import PositionState

__all__ = [
    "MANUAL",
    "Cursor",
    "Income",
    "IncomeKind",
    "Ledger",
    "PositionState",
    "Recorded",
    "Transfer",
    "exit_reason",
]
