"""Position sync on the paper exchange: what it compares, what it tells, and how often it does."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support import flat_rows, market_of
from sync_support import BTC, ETH, sync_rig, waves

from envs.account import Leg, PositionSide, Side
from envs.errors import ConfigError
from live.exchange.base import ExchangePosition, TriggerKind, TriggerOrder, client_order_id
from live.ledger import MANUAL
from live.sync import PositionRow, PositionSync, PositionSyncSettings, SyncReport
from live.sync.pace import interval_s

D = Decimal
HASTY = PositionSyncSettings(reread_s=0.01)


async def test_a_report_tells_everything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    market = market_of({BTC: flat_rows(*[50_000.0] * 4, 51_000.0, 51_000.0), ETH: flat_rows(*[3_000.0] * 6)})
    async with sync_rig(tmp_path / "a.db", market=market) as rig:
        sync = PositionSync(rig.sync, settings=HASTY)
        await rig.order("LLM-A", "BUY", "0.04")
        await rig.order("LLM-B", "SELL", "0.03")
        await rig.manual("SELL", "0.5", ETH)
        stop = client_order_id("LLM-A", BTC, 1_704_070_799_999, Leg.STOP)
        await rig.exchange.place_trigger(
            TriggerOrder(BTC, Side.SELL, TriggerKind.STOP, D(48_000), stop, D("0.04"))
        )
        await rig.until(lambda: len(rig.told) == 3)
        await rig.advance(3)
        report = await sync.once()
        report.check()
        rows = {(row.owner, row.symbol): row for row in report.positions}
        assert set(rows) == {("LLM-A", BTC), ("LLM-B", BTC), (MANUAL, ETH)}
        a, b = rows["LLM-A", BTC], rows["LLM-B", BTC]
        assert (a.side, a.quantity, a.entry_price, a.price) == (PositionSide.LONG, D("0.04"), 50_000, 51_000)
        assert (a.unrealized_usdt, a.percent) == (40, 2)
        assert (b.unrealized_usdt, b.percent) == (-30, -2)
        assert (a.leverage, a.client_order_id[:14]) == (10, "LLM-A_BTCUSDT_")
        assert a.guards == (("STOP_MARKET", D(48_000)),)
        assert rows[MANUAL, ETH].client_order_id.startswith("web_")
        assert str(report.changes) == "3 positions (+3 ~0 -0)"
        # Positions twice, prices, orders of both kinds, clock: whatever the number of positions. 5 + 5 + 2 + 80 + 1.
        # And, as several hold BTCUSDT and hours have passed, its funding rates, which have a limit of their own.
        assert (report.requests, report.weight) == (7, 93)
        trips = {(one.agent, one.symbol): one for one in open_trips(rig)}
        assert (trips["LLM-A", BTC].last_price, trips["LLM-A", BTC].unrealized) == (51_000, 40)
        await rig.order("LLM-B", "BUY", "0.03")
        await rig.until(lambda: len(rig.told) == 4)
        caplog.clear()
        report = await sync.once()
        assert {name: str(one) for name, one in report.agents.items()} == {
            "LLM-A": "1 positions (+0 ~1 -0)",
            "LLM-B": "0 positions (+0 ~0 -1)",
            MANUAL: "1 positions (+0 ~1 -0)",
        }
        assert "[LLM-A]: 1 positions (+0 ~1 -0)" in caplog.messages
        closed = "[LLM-B] closed SHORT 0.03 BTCUSDT at 51000 after 3 h 0 min: SIGNAL, -31.5150 USDT (-2.10 %)"
        assert closed in caplog.messages
        assert sync.invariant_holds is True


def open_trips(rig: Any) -> list[Any]:
    from live.ledger.queries import Where, round_trips

    return round_trips(rig.ledger.store, Where(exchange="paper"), is_open=True)


async def test_what_the_stream_lost_is_found_by_comparing(tmp_path: Path) -> None:
    async with sync_rig(tmp_path / "a.db") as rig:
        sync = PositionSync(rig.sync, settings=HASTY)
        await rig.fault("stream_lose", stream="user", event="ORDER_TRADE_UPDATE", count=10)
        await rig.manual("BUY", "0.02")
        report = await sync.once()
        report.check()
        assert report.late_fills == 1
        assert rig.held(MANUAL) == D("0.02")
        # A contract that nobody was told to trade is found as well.
    async with sync_rig(tmp_path / "b.db", symbols=(BTC,)) as rig:
        sync = PositionSync(rig.sync, settings=HASTY)
        await rig.fault("stream_lose", stream="user", event="ORDER_TRADE_UPDATE", count=10)
        await rig.manual("BUY", "0.7", ETH)
        (await sync.once()).check()
        assert (rig.held(MANUAL, ETH), rig.sync.found_symbols) == (D("0.7"), {ETH})


async def test_settlements_are_those_of_fills_that_were_on_their_way_when_the_sync_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = waves(funding={BTC: [(180 + 480 * n, 0.001) for n in range(-1, 6)]})
    async with sync_rig(tmp_path / "a.db", market=market) as rig:
        await rig.until(lambda: rig.sync.is_caught_up)
        heard: list[Any] = []
        hear = rig.sync._hear
        monkeypatch.setattr(rig.sync, "_hear", heard.append)
        await rig.order("A", "BUY", "0.02")
        await rig.order("B", "SELL", "0.02")
        await rig.advance(2)
        sync = PositionSync(rig.sync)
        compare = sync._compare

        def and_then_they_arrive(account: Any) -> Any:
            found = compare(account)
            while heard:
                hear(heard.pop(0))
            return found

        monkeypatch.setattr(rig.sync, "_hear", hear)
        monkeypatch.setattr(sync, "_compare", and_then_they_arrive)
        (await sync.once()).check()
        # At 03:00 candle 3 opens at 50300: 0.02 * 50300 * 0.001.
        assert rig.ledger.position("paper", "A", BTC).funding == D("-1.006")
        assert rig.ledger.position("paper", "B", BTC).funding == D("1.006")


async def test_orders_are_read_again_only_when_one_changed(tmp_path: Path) -> None:
    async with sync_rig(tmp_path / "a.db") as rig:
        sync = PositionSync(rig.sync, settings=HASTY)
        await rig.until(lambda: rig.sync.is_caught_up)
        assert (await sync.once()).weight == 93
        assert (await sync.once()).weight == 13
        stop = client_order_id("A", BTC, 1_704_070_799_999, Leg.STOP)
        await rig.exchange.place_trigger(
            TriggerOrder(BTC, Side.SELL, TriggerKind.STOP, D(48_000), stop, D("0.04"))
        )
        await rig.until(lambda: sync._orders_changed)
        report = await sync.once()
        assert (report.weight, len(report.open_orders)) == (93, 1)


async def test_an_exchange_that_is_away_is_an_error_in_the_report_and_no_end(tmp_path: Path) -> None:
    async with sync_rig(tmp_path / "a.db") as rig:
        seen: list[SyncReport] = []
        settings = PositionSyncSettings(near_s=0.02, every_s=0.02, calm_s=0.02, reread_s=0.01)
        sync = PositionSync(rig.sync, settings=settings, on_report=seen.append)
        await rig.order("A", "BUY", "0.04")
        await rig.until(lambda: len(rig.told) == 1)
        sync.start()
        await rig.until(lambda: bool(seen))
        await rig.fault("unavailable_503", path="/fapi/v*/ticker/price", count=6)
        await rig.until(lambda: bool(seen[-1].errors))
        bad = seen[-1]
        assert (bad.holds, len(bad.positions), bad.positions[0].price) == (None, 1, None)
        await rig.until(lambda: seen[-1].holds is True)
        await sync.close()
        count = len(seen)
        await asyncio.sleep(0.1)
        assert len(seen) == count


async def test_positions_that_closed_while_nobody_looked_are_told_at_the_next_start(tmp_path: Path) -> None:
    async with sync_rig(tmp_path / "a.db", market=waves()) as rig:
        await rig.order("A", "BUY", "0.04")
        await PositionSync(rig.sync).once()
        await rig.sync.close()
        await rig.advance()
        await rig.manual("SELL", "0.04")
        async with sync_rig(tmp_path / "a.db", server=rig.server) as again:
            sync = PositionSync(again.sync)
            (trip,) = (await sync.once()).closed
            assert (trip.agent, trip.exit_reason) == ("A", "MANUAL")
            assert (await sync.once()).closed == ()


ROW = PositionRow("A", BTC, PositionSide.LONG, D(1), D(100), D(100), D(100), D(0), 5, "", 1, "1")
HELD = ExchangePosition(BTC, D(1), D(100), D(100), 5)


@pytest.mark.parametrize(
    ("report", "seconds"),
    [
        (SyncReport("a", 1), 30),
        (SyncReport("a", 1, positions=(replace(ROW, guards=(("STOP_MARKET", D("99.1")),)),)), 2),
        (SyncReport("a", 1, positions=(replace(ROW, guards=(("TAKE_PROFIT_MARKET", D("100.9")),)),)), 2),
        (SyncReport("a", 1, positions=(replace(ROW, guards=(("STOP_MARKET", D(98)),)),)), 10),
        (SyncReport("a", 1, positions=(replace(ROW, guards=(("STOP_MARKET", D(90)),)),)), 30),
        (SyncReport("a", 1, positions=(ROW,), exchange_positions={BTC: replace(HELD, liquidation_price=D("99.5"))}), 2),
        (SyncReport("a", 1, positions=(ROW,), exchange_positions={BTC: replace(HELD, liquidation_price=D(50))}), 30),
        (SyncReport("a", 1, positions=(replace(ROW, unrealized_usdt=D(-7)),)), 10),
        (SyncReport("a", 1, errors=("away",)), 10),
    ],
)  # fmt: skip
def test_the_pace_follows_what_may_happen_next(report: SyncReport, seconds: float) -> None:
    assert interval_s(report, PositionSyncSettings()) == seconds


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigError, match="near_s 20, every_s 10 and calm_s 30 must not fall"):
        PositionSyncSettings.parse({"near_s": 20})
    with pytest.raises(ConfigError, match="did you mean 'every_s'"):
        PositionSyncSettings.parse({"evry_s": 20})
