"""Syncs: what happens on a real account gets into the ledger, and is compared with it (`docs/sync.md`)."""

from live.sync.history import CaughtUp
from live.sync.positions import PositionSync
from live.sync.report import Changes, Difference, PositionRow, SyncReport
from live.sync.settings import PositionSyncSettings, TradeSyncSettings
from live.sync.trades import TradeSync

__all__ = [
    "CaughtUp",
    "Changes",
    "Difference",
    "PositionRow",
    "PositionSync",
    "PositionSyncSettings",
    "SyncReport",
    "TradeSync",
    "TradeSyncSettings",
]
