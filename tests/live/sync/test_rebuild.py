"""Restarts: with the database, the same state; without it, the same again as far as the exchange's history reaches."""

from __future__ import annotations

import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from databases import SLOW_ON_POSTGRESQL, delete_database
from ledger_support import fill
from sync_support import BTC, ETH, QUICK, SyncRig, sync_rig, waves

from envs.account import Side
from envs.errors import LedgerError
from live.exchange.base import ExchangePosition
from live.ledger import MANUAL, Ledger
from live.ledger.queries import Where, round_trips
from live.store import Store
from live.store.check import check
from live.sync import PositionSync, PositionSyncSettings, TradeSync
from live.sync.opening import opening_fill

D = Decimal
HOUR = 3_600_000
FUNDING = {BTC: [(180 + 240 * n, 0.0007) for n in range(-1, 40)]}


async def busy_day(rig: SyncRig) -> None:
    """Two agents and a person, opposite positions, fundings, a withdrawal, a liquidation."""
    await rig.order("A", "BUY", "0.05")
    await rig.order("B", "SELL", "0.05")
    await rig.advance(3)
    await rig.order("A", "BUY", "0.8", ETH)
    await rig.manual("BUY", "0.031")
    await rig.fault("transfer", amount_usdt="-1234.5")
    await rig.advance(5)
    await rig.order("B", "BUY", "0.07")
    await rig.manual("SELL", "0.4", ETH)
    await rig.advance(6)
    await rig.fault("liquidate")
    await rig.advance()
    await rig.order("A", "BUY", "0.011")
    await rig.order("B", "SELL", "0.3", ETH)
    await rig.advance(4)
    await rig.order("A", "SELL", "0.004")


def state(ledger: Ledger) -> dict[str, Any]:
    """Everything that follows from what was booked."""
    books = {
        book.symbol: (
            book.net_quantity,
            book.net_cost,
            book.reported,
            book.net_fees,
            book.net_income,
            book.positions,
        )
        for book in ledger.books("paper")
    }
    trips = round_trips(ledger.store, Where(exchange="paper"))
    return {"books": books, "wallets": ledger.wallets("paper"), "trips": sorted(map(unmarked, trips))}


def unmarked(trip: Any) -> str:
    marks = ("last_price", "last_price_ms", "unrealized")
    return str({name: getattr(trip, name) for name in type(trip).__dataclass_fields__ if name not in marks})


async def test_deleting_nothing_and_deleting_the_database_lead_to_the_same_state(database: str) -> None:
    async with sync_rig(database, market=waves(funding=FUNDING)) as rig:
        await busy_day(rig)
        report = await PositionSync(rig.sync).once()
        report.check()
        before = state(rig.ledger)
        assert {"A", "B", MANUAL} == set(before["wallets"])
        assert any("LIQUIDATION" in trip for trip in before["trips"])
        await rig.sync.close()
        async with sync_rig(database, server=rig.server) as again:
            assert state(again.ledger) == before
            assert again.told == []
        delete_database(database)
        async with sync_rig(database, server=rig.server, start=False) as anew:
            assert anew.ledger.books() == []
            done = await anew.sync.start()
            assert state(anew.ledger) == before
            assert len(anew.told) == len(done.fills) == len({(one.symbol, one.trade_id) for one in anew.told})
            assert "they explain the wallet and the positions, nothing older is missing" in done.reach
            assert "first reading, back to 2023-12-2" in done.reach
            (await PositionSync(anew.sync).once()).check()
        with Store(database) as store:
            assert [one for one in check(store) if one.problem] == []


async def test_what_is_older_than_the_history_is_booked_once_and_said(tmp_path: Path) -> None:
    # The history reaches back five hours only, as at an account that is older than the exchange's memory.
    short = QUICK.model_copy(update={"reach_ms": 5 * HOUR})
    async with sync_rig(tmp_path / "a.db", market=waves(), settings=short) as rig:
        await rig.order("A", "BUY", "0.05")
        await rig.manual("SELL", "0.4", ETH)
        await rig.advance(10)
        await rig.order("A", "SELL", "0.02")
        await rig.order("B", "SELL", "0.1", ETH)
        async with sync_rig(tmp_path / "b.db", server=rig.server, settings=short, start=False) as anew:
            done = await anew.sync.start()
            assert "older than that, and booked as MANUAL's" in done.reach
            assert "USDT, 0.05 BTCUSDT at 50200, -0.4 ETHUSDT at 2980" in done.reach
            assert (anew.held("A"), anew.held(MANUAL)) == (D("-0.02"), D("0.05"))
            assert (anew.held("B", ETH), anew.held(MANUAL, ETH)) == (D("-0.1"), D("-0.4"))
            identity = await anew.identity()
            assert identity.holds
            # The entry prices are the real ones, so nothing is left to round away.
            assert abs(identity.rounding) < D("1e-6")
            wallets = anew.ledger.wallets("paper")
        async with sync_rig(tmp_path / "b.db", server=rig.server, settings=short, start=False) as again:
            assert (await again.sync.start()).reach == ""
            assert again.ledger.wallets("paper") == wallets


async def test_money_that_vanishes_later_is_a_difference_and_not_an_opening_balance(tmp_path: Path) -> None:
    hasty = PositionSyncSettings(reread_s=0.01)
    async with sync_rig(tmp_path / "a.db") as rig:
        await rig.order("A", "BUY", "0.05")
        await rig.until(lambda: len(rig.told) == 1)
        rig.server.exchange.engine.accounts["paper"].wallet_usdt -= D("12.5")
        sync = PositionSync(rig.sync, settings=hasty)
        report = await sync.once()
        (difference,) = report.differences
        assert (difference.what, difference.missing) == ("wallet", D("-12.5"))
        assert (report.holds, sync.invariant_holds, sync.disagreements) == (False, False, 1)
        with pytest.raises(
            LedgerError, match=r"wallet: the ledger has 9998\.7\d*, the exchange 9986\.2\d*, -12\.5 of"
        ):
            report.check()
        await rig.sync.close()
        async with sync_rig(tmp_path / "a.db", server=rig.server) as again:
            assert [
                one.missing for one in (await PositionSync(again.sync, settings=hasty).once()).differences
            ] == [D("-12.5")]


@pytest.mark.parametrize(
    ("fills", "position", "price"),
    [
        # 2 at 100, of which 1 is sold at 130: the exchange reported +30.
        ([("SELL", "1", "130", "30")], None, "100"),
        # 2 at 100 and 2 at 120 make 4 at 110, of which 1 is sold at 115.
        ([("BUY", "2", "120", "0"), ("SELL", "1", "115", "5")], None, "100"),
        # Nothing was sold; the exchange has 4 at 110.
        ([("BUY", "2", "120", "0")], "110", "100"),
        # Nobody knows: the first price.
        ([("BUY", "2", "120", "0")], None, "120"),
    ],
)
def test_the_price_of_what_was_there_before(
    fills: list[tuple[str, str, str, str]], position: str | None, price: str
) -> None:
    later = [
        fill(number, side, quantity, at, realized_pnl=realized)
        for number, (side, quantity, at, realized) in enumerate(fills, 1)
    ]
    now = None if position is None else ExchangePosition(BTC, D(4), D(position), D(120), 5)
    opened = opening_fill("paper", BTC, D(2), now, later, 10**15)
    assert (opened.side, opened.quantity, opened.price) == (Side.BUY, 2, D(price))
    assert (opened.agent, opened.time_ms) == (MANUAL, later[0].time_ms - 1)


class Killed(BaseException):
    """The process ends here."""


def die_at(patch: pytest.MonkeyPatch, number: int, *, after: bool) -> None:
    """End the process at the numbered write, before or after it."""
    left = [number]

    def dying(original: Any) -> Any:
        def work(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0 and not after:
                raise Killed
            done = original(*arguments, **options)
            if left[0] < 0:
                raise Killed
            return done

        return work

    for name in ("record_batch", "record_transfers"):
        patch.setattr(Ledger, name, dying(getattr(Ledger, name)))


@SLOW_ON_POSTGRESQL
async def test_a_reading_that_is_killed_at_any_write_goes_on_from_there(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.open(str(tmp_path / "empty.db")).close()
    async with sync_rig(tmp_path / "a.db", market=waves(funding=FUNDING)) as rig:
        await busy_day(rig)
        (await PositionSync(rig.sync).once()).check()
        before = state(rig.ledger)

        async def session() -> None:
            ledger = Ledger.open(database)
            try:
                async with TradeSync(rig.exchange, ledger, symbols=(BTC,), settings=QUICK) as sync:
                    (await PositionSync(sync).once()).check()
                    assert state(ledger) == before
            finally:
                ledger.close()

        for number in range(12):
            delete_database(database)
            if "://" not in database:  # quicker than to make the tables
                shutil.copy(tmp_path / "empty.db", database)
            with monkeypatch.context() as patch:
                die_at(patch, number // 2, after=bool(number % 2))
                with pytest.raises(Killed):
                    await session()
            await session()
