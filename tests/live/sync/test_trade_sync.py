"""Trade sync on the paper exchange: fills, funding and transfers arrive once, whatever is lost on the way."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from sync_support import BTC, ETH, sync_rig, waves

from live.ledger import MANUAL


async def test_what_is_traded_arrives_by_the_stream(tmp_path: Path) -> None:
    async with sync_rig(tmp_path / "a.db") as rig:
        await rig.order("A", "BUY", "0.02")
        await rig.order("B", "SELL", "0.03")
        await rig.manual("BUY", "0.5", ETH)
        await rig.until(lambda: len(rig.told) == 3)
        assert rig.held("A") == Decimal("0.02")
        assert rig.held("B") == Decimal("-0.03")
        assert rig.held(MANUAL, ETH) == Decimal("0.5")
        await rig.until(lambda: rig.sync.is_caught_up)
        identity = await rig.identity()
        assert identity.holds, identity
        assert identity.booked_wallet < 10_000  # commissions


async def test_what_happened_while_nobody_listened_is_read_at_the_start(tmp_path: Path) -> None:
    async with sync_rig(tmp_path / "a.db") as rig:
        await rig.order("A", "BUY", "0.02")
        await rig.until(lambda: len(rig.told) == 1)
        await rig.sync.close()
        await rig.order("A", "SELL", "0.01")
        await rig.manual("SELL", "0.02")
        await rig.fault("transfer", amount_usdt="250")
        await rig.advance(2)
        async with sync_rig(tmp_path / "a.db", server=rig.server) as again:
            assert [one.client_order_id[:3] for one in again.told] == ["A_B", "web"]
            assert again.held("A") == 0
            assert again.held(MANUAL) == Decimal("-0.01")
            assert again.ledger.capital("paper", MANUAL) == 10_250
            assert (await again.identity()).holds


async def test_funding_is_booked_when_the_stream_tells_of_it(tmp_path: Path) -> None:
    market = waves(funding={BTC: [(180 + 480 * n, 0.001) for n in range(-1, 6)]})
    async with sync_rig(tmp_path / "a.db", market=market) as rig:
        await rig.order("A", "BUY", "0.02")
        await rig.order("B", "BUY", "0.06")
        await rig.advance(2)
        await rig.until(lambda: rig.ledger.position("paper", "A", BTC).funding != 0)
        a, b = (rig.ledger.position("paper", name, BTC).funding for name in "AB")
        assert b == 3 * a < 0
        assert (await rig.identity()).holds


async def test_opposite_positions_pay_each_other_though_the_exchange_books_nothing(tmp_path: Path) -> None:
    market = waves(funding={BTC: [(180 + 480 * n, 0.001) for n in range(-1, 6)]})
    async with sync_rig(tmp_path / "a.db", market=market) as rig:
        await rig.order("A", "BUY", "0.02")
        await rig.order("B", "SELL", "0.02")
        await rig.until(lambda: len(rig.told) == 2)
        await rig.advance(2)
        done = await rig.sync.catch_up()
        assert done.income == 1
        # At 03:00 candle 3 opens at 50300: 0.02 * 50300 * 0.001.
        assert rig.ledger.position("paper", "A", BTC).funding == Decimal("-1.006")
        assert rig.ledger.position("paper", "B", BTC).funding == Decimal("1.006")
        assert (await rig.identity()).holds
        assert (await rig.sync.catch_up()).is_empty


async def test_a_stream_that_loses_doubles_and_breaks_changes_nothing(tmp_path: Path) -> None:
    async with sync_rig(tmp_path / "a.db") as rig:
        for number, fault in enumerate(
            ("stream_lose", "stream_duplicate", "stream_reorder", "stream_drop", "stream_delay")
        ):
            await rig.fault(fault, stream="user", delay_ms=20)
            await rig.order(("A", "B")[number % 2], ("BUY", "SELL")[number % 2], "0.02")
            await rig.manual("BUY", "0.001")
        for kind in ("close_sockets", "expire_listen_keys"):
            await rig.fault(kind)
            await rig.order("A", "BUY", "0.01")
        # A broken stream is opened anew, and what it may have missed is read without anybody's asking.
        await rig.until(lambda: rig.sync.is_caught_up and len(rig.told) >= 11)
        await rig.sync.catch_up()
        told = [(one.symbol, one.trade_id) for one in rig.told]
        assert len(told) == len(set(told)) == 12
        assert (rig.held("A"), rig.held("B")) == (Decimal("0.08"), Decimal("-0.04"))
        # The person bought while B was short and the net long: each purchase enlarged the net.
        assert rig.held(MANUAL) == Decimal("0.005")
        assert (await rig.identity()).holds


async def test_a_broken_stream_is_caught_up_with_though_nothing_else_happens(tmp_path: Path) -> None:
    async with sync_rig(tmp_path / "a.db") as rig:
        await rig.until(lambda: rig.sync.is_caught_up)
        await rig.fault("stream_lose", stream="user", count=10)
        await rig.manual("BUY", "0.001")
        await rig.fault("transfer", amount_usdt="5")
        await rig.fault("drop_sockets", category="private")
        await rig.until(lambda: len(rig.told) == 1)
        await rig.until(lambda: rig.ledger.capital("paper", MANUAL) == 10_005)
        assert (await rig.identity()).holds
