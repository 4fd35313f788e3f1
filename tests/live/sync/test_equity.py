"""Position syncs write what every account was worth."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from support import market_of
from sync_support import BTC, sync_rig

from live.ledger import MANUAL
from live.store.journal import Equity, Journal
from live.sync import PositionSync, PositionSyncSettings
from live.sync.equity import EquityLog

D = Decimal


async def test_equity_over_time(tmp_path: Path) -> None:
    market = market_of([(price,) * 4 for price in (5e4, 5e4, 5e4, 5.1e4, 4.9e4, 4.9e4)])
    async with sync_rig(tmp_path / "a.db", market=market, symbols=(BTC,)) as rig:
        account, journal = rig.sync.account, Journal(rig.ledger.store)
        sync = PositionSync(rig.sync, settings=PositionSyncSettings(equity_s=60))
        rig.ledger.assign_capital(account, "LLM-A", D(1000), time_ms=rig.exchange.now_ms(), assignment="a")
        await rig.order("LLM-A", "BUY", "0.02")  # 0.5 USDT commission
        for _ in range(3):
            (await sync.once()).check()
            (await sync.once()).check()  # at the same moment: nothing more is written
            await rig.advance()
        rows = journal.equity_of(account, "LLM-A", kind="SYNC")
        shown = [(one.wallet_usdt, one.unrealized_usdt, one.equity_usdt, one.peak_usdt) for one in rows]
        assert shown == [
            (D("999.5"), 0, D("999.5"), D("999.5")),
            (D("999.5"), 20, D("1019.5"), D("1019.5")),
            (D("999.5"), -20, D("979.5"), D("1019.5")),
        ]
        assert rows[-1].drawdown_fraction == round(40 / D("1019.5"), 12)
        assert rows[-1].initial_margin_usdt is None
        assert len(journal.equity_of(account, MANUAL, kind="SYNC")) == 3
        # Not among the steps of a run, which a leaderboard reads; another process goes on from the same peak.
        assert journal.equity_of(account, "LLM-A") == []
        again = EquityLog(rig.ledger, account, 0)
        assert again.write(rows[-1].time_ms + 1, {BTC: D(49_000)}) == 2
        assert journal.equity_of(account, "LLM-A", kind=None)[-1].peak_usdt == D("1019.5")
        # Without a price nobody knows what a position is worth.
        assert again.write(rows[-1].time_ms + 2, {}) == 0


@pytest.mark.parametrize("kind", ["STEP", "SYNC"])
async def test_a_peak_goes_on_from_either_kind(tmp_path: Path, kind: str) -> None:
    async with sync_rig(tmp_path / "a.db", symbols=(BTC,)) as rig:
        account, journal = rig.sync.account, Journal(rig.ledger.store)
        values = map(D, ("10000", "0", "10000", "12500", "0.2"))
        journal.equity([Equity(account, MANUAL, 1, *values, kind=kind)])
        assert EquityLog(rig.ledger, account, 0).write(2, {}) == 1
        newest = journal.newest_equity(account, MANUAL)
        assert newest is not None
        assert (newest.peak_usdt, newest.drawdown_fraction) == (12_500, D("0.2"))
