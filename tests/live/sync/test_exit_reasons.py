"""Every reason for which a position can end, produced on the paper exchange: found by a sync and recorded right."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal

import pytest
from databases import SLOW_ON_POSTGRESQL
from support import market_of
from sync_support import BTC, SyncRig, sync_rig

from envs.account import Leg, PositionSide, Side
from envs.market import Market
from live.exchange.base import TriggerKind, TriggerOrder, client_order_id
from live.ledger.queries import RoundTrip
from live.sync import PositionSync

D = Decimal
HOUR = 3_600_000


def market() -> Market:
    """Opens at 50000, touches 49000 and 51500 within candle 3, and ends at 50500."""
    quiet = (50_000.0,) * 4
    wild = (50_000.0, 51_500.0, 49_000.0, 50_500.0)
    return market_of([quiet, quiet, quiet, wild, (50_500.0,) * 4, (50_500.0,) * 4])


async def trigger(rig: SyncRig, kind: TriggerKind, price: str, leg: Leg) -> None:
    identity = client_order_id("LLM-A", BTC, 1_704_070_799_999, leg)
    await rig.exchange.place_trigger(TriggerOrder(BTC, Side.SELL, kind, D(price), identity, D("0.02")))
    await rig.advance(2)


async def signal(rig: SyncRig) -> None:
    await rig.advance(3)
    await rig.order("LLM-A", "SELL", "0.02")


async def emergency(rig: SyncRig) -> None:
    await rig.order("LLM-A", "SELL", "0.02", leg=Leg.EMERGENCY)


async def stop(rig: SyncRig) -> None:
    await trigger(rig, TriggerKind.STOP, "49500", Leg.STOP)


async def protective_stop(rig: SyncRig) -> None:
    await trigger(rig, TriggerKind.STOP, "49200", Leg.PROTECTIVE_STOP)


async def take_profit(rig: SyncRig) -> None:
    await trigger(rig, TriggerKind.TAKE_PROFIT, "51000", Leg.TAKE_PROFIT)


async def manual(rig: SyncRig) -> None:
    await rig.manual("SELL", "0.02")


async def liquidation(rig: SyncRig) -> None:
    await rig.advance()
    await rig.fault("liquidate")


async def deleveraging(rig: SyncRig) -> None:
    await rig.fault("deleverage", symbol=BTC, price="50700")


# Way out, reason, exit price, commission of the exit, liquidation fee: 0.05 % of 0.02 * price; 1.25 % of 1000.
WAYS: list[tuple[Callable[[SyncRig], Awaitable[None]], str, str, str, str]] = [
    (signal, "SIGNAL", "50500", "0.505", "0"),
    (emergency, "EMERGENCY", "50000", "0.5", "0"),
    (stop, "SL_HIT", "49500", "0.495", "0"),
    (protective_stop, "PROTECTIVE_STOP", "49200", "0.492", "0"),
    (take_profit, "TP_HIT", "51000", "0.51", "0"),
    (manual, "MANUAL", "50000", "0.5", "0"),
    (liquidation, "LIQUIDATION", "50000", "0", "-12.5"),
    (deleveraging, "ADL", "50700", "0", "0"),
]


@SLOW_ON_POSTGRESQL
@pytest.mark.parametrize(("way", "reason", "price", "fee", "clearance"), WAYS, ids=[one[1] for one in WAYS])
async def test_a_position_ends(
    database: str,
    way: Callable[[SyncRig], Awaitable[None]],
    reason: str,
    price: str,
    fee: str,
    clearance: str,
) -> None:
    async with sync_rig(database, market=market(), symbols=(BTC,)) as rig:
        sync = PositionSync(rig.sync)
        assert (await sync.once()).changes.total == 0
        await rig.order("LLM-A", "BUY", "0.02")
        opened = await sync.once()
        assert str(opened.agents["LLM-A"]) == "1 positions (+1 ~0 -0)"
        await way(rig)
        # The order of arrival of fees and fills is the exchange's business.
        trips: list[RoundTrip] = []
        async with asyncio.timeout(10):
            while not trips:
                report = await sync.once()
                report.check()
                trips += report.closed
        assert str(report.agents["LLM-A"]) == "0 positions (+0 ~0 -1)"
        (trip,) = trips
        gain = (D(price) - 50_000) * D("0.02")
        assert (trip.agent, trip.symbol, trip.side) == ("LLM-A", BTC, PositionSide.LONG)
        assert trip.exit_reason == reason
        assert (trip.entry_price, trip.exit_price, trip.quantity) == (50_000, D(price), D("0.02"))
        assert (trip.realized, trip.fees, trip.clearance) == (gain, D("0.5") + D(fee), D(clearance))
        assert trip.net_pnl == gain - D("0.5") - D(fee) + D(clearance)
        assert trip.is_winner == (trip.net_pnl > 0)
        assert trip.pnl_percent == trip.net_pnl / 10  # of an entry value of 1000 USDT
        assert trip.duration_ms is not None and trip.duration_ms >= 0
        assert any(reason in line and "[LLM-A] closed LONG 0.02 BTCUSDT" in line for line in report.lines())
        assert report.holds
        # It is told once.
        assert (await sync.once()).closed == ()
