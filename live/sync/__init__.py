"""Syncs: what happens on a real account gets into the ledger, and is compared with it (`docs/sync.md`)."""

from live.sync.history import CaughtUp
from live.sync.settings import TradeSyncSettings
from live.sync.trades import TradeSync

__all__ = ["CaughtUp", "TradeSync", "TradeSyncSettings"]
