"""Equity over time: what every account of an exchange account was worth when ledger and exchange agreed."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from live.ledger import Ledger
from live.ledger.arithmetic import ZERO, divide, exact
from live.store.journal import Equity, Journal

SYNC = "SYNC"


class EquityLog:
    """Writes a row per account into `equity`, at most every so often. On the thread that writes the ledger.

    Args:
        account: the exchange account's name in the ledger.
        every_ms: at least, between two rows of an account.
    """

    def __init__(self, ledger: Ledger, account: str, every_ms: int) -> None:
        self._ledger = ledger
        self._account = account
        self._every_ms = every_ms
        self._journal = Journal(ledger.store)
        self._peaks: dict[str, Decimal] = {}
        self._written_ms: int | None = None

    def write(self, time_ms: int, prices: Mapping[str, Decimal]) -> int:
        """Write rows where it is time; how many. Without the price of something that is held there are none."""
        if self._written_ms is not None and 0 <= time_ms - self._written_ms < self._every_ms:
            return 0
        held = self._ledger.held
        unrealized: dict[str, Decimal] = {}
        with exact():
            for (owner, symbol), state in held.positions(self._account).items():
                if symbol not in prices:
                    return 0
                unrealized[owner] = unrealized.get(owner, ZERO) + state.unrealized(prices[symbol])
            rows = [
                self._row(owner, time_ms, wallet, unrealized.get(owner, ZERO))
                for owner, wallet in held.wallets(self._account).items()
                if wallet or owner in unrealized
            ]
        self._journal.equity(rows)
        self._written_ms = time_ms
        return len(rows)

    def _row(self, owner: str, time_ms: int, wallet: Decimal, unrealized: Decimal) -> Equity:
        equity = wallet + unrealized
        if owner not in self._peaks:
            newest = self._journal.newest_equity(self._account, owner)
            self._peaks[owner] = newest.peak_usdt if newest else equity
        peak = self._peaks[owner] = max(self._peaks[owner], equity)
        drawdown = divide(peak - equity, peak) if peak > 0 else ZERO
        return Equity(
            self._account, owner, time_ms, wallet, unrealized, equity, peak, drawdown, None, None, SYNC
        )
