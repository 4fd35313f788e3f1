"""Every order of an account is in the database: from the stream, from fills, and from the list of open orders."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from sync_support import BTC, SyncRig, connector, sync_rig, waves

from envs.account import Leg, Order, Side
from live.exchange.base import OpenOrder, OrderEvent, TriggerKind, TriggerOrder, client_order_id
from live.store.journal import Journal, OrderRecord
from live.sync import PositionSync
from live.sync.orders import GONE

D = Decimal


def orders(rig: SyncRig, agent: str | None = None) -> dict[str, OrderRecord]:
    """By client order id."""
    found = Journal(rig.ledger.store).orders_of(rig.sync.account, agent)
    assert len({(one.symbol, one.order_id) for one in found}) == len(found)
    return {one.client_order_id if one.agent else "web": one for one in found}


async def until(rig: SyncRig, true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            rig.sync.check()
            await asyncio.sleep(0.05)


def stop(number: int, price: str) -> TriggerOrder:
    identity = client_order_id("LLM-A", BTC, 1_704_067_200_000 + number, Leg.STOP)
    return TriggerOrder(BTC, Side.SELL, TriggerKind.STOP, D(price), identity, D("0.02"))


async def test_orders_of_the_stream(tmp_path: Path) -> None:
    async with sync_rig(tmp_path / "a.db", market=waves(), symbols=(BTC,)) as rig:
        await rig.order("LLM-A", "BUY", "0.02")
        await rig.manual("BUY", "0.01")
        await rig.exchange.place_trigger(stop(1, "40000"))
        await rig.exchange.place_trigger(stop(2, "41000"))
        await rig.exchange.cancel_trigger(BTC, stop(1, "40000").client_order_id)
        await until(rig, lambda: [one.status for one in orders(rig).values()].count("FILLED") == 2)
        await until(rig, lambda: orders(rig)[stop(1, "0").client_order_id].status == "CANCELED")
        found = orders(rig)
        assert len(found) == 4
        market, web = found[client_order_id("LLM-A", BTC, 1_704_067_200_001, Leg.ORDER)], found["web"]
        told = (market.agent, market.side, market.type, market.quantity, market.executed_quantity)
        assert told == ("LLM-A", "BUY", "MARKET", D("0.02"), D("0.02"))
        assert market.order_id in {one.order_id for one in rig.told}
        assert (web.agent, web.type, web.status, web.quantity) == ("", "MARKET", "FILLED", D("0.01"))
        resting = found[stop(2, "0").client_order_id]
        assert resting.order_id.startswith("algo:")
        told = (resting.type, resting.side, resting.price, resting.reduce_only, resting.status)
        assert told == ("STOP_MARKET", "SELL", 41_000, True, "NEW")
        assert set(orders(rig, "LLM-A")) == set(found) - {"web"}


async def test_orders_of_before_and_of_a_time_when_nobody_listened(tmp_path: Path) -> None:
    """A killed process leaves fills without their orders, and orders whose end nobody heard."""
    async with (
        sync_rig(tmp_path / "first.db", market=waves(), symbols=(BTC,)) as first,
        connector(first.server, (BTC,)) as other,
    ):
        identity = client_order_id("LLM-A", BTC, 1_704_067_200_000, Leg.ORDER)
        await other.place(Order(BTC, Side.BUY, D("0.02"), client_order_id=identity))
        for number, price in ((1, "40000"), (2, "41000")):
            await other.place_trigger(stop(number, price))
        async with sync_rig(tmp_path / "second.db", server=first.server, symbols=(BTC,)) as rig:
            # Read from the history: no event told of it. The stops are on the list of open orders.
            await PositionSync(rig.sync).once()
            await until(rig, lambda: len(orders(rig)) == 3)
            bought = orders(rig)[identity]
            assert (bought.type, bought.status, bought.executed_quantity) == ("", "FILLED", D("0.02"))
            assert orders(rig)[stop(2, "0").client_order_id].status == "NEW"
        await other.cancel_trigger(BTC, stop(1, "0").client_order_id)
        again = client_order_id("LLM-A", BTC, 1_704_067_200_005, Leg.ORDER)
        await other.place(Order(BTC, Side.SELL, D("0.01"), client_order_id=again))
        await first.advance()
        async with sync_rig(tmp_path / "second.db", server=first.server, symbols=(BTC,)) as rig:
            await PositionSync(rig.sync).once()
            await until(rig, lambda: orders(rig)[stop(1, "0").client_order_id].status == GONE)
            await until(rig, lambda: again in orders(rig))
            assert orders(rig)[stop(2, "0").client_order_id].status == "NEW"
            assert orders(rig)[identity] == bought


async def test_a_fill_whose_order_was_not_written_before_a_kill(tmp_path: Path) -> None:
    async with sync_rig(tmp_path / "a.db", market=waves(), symbols=(BTC,)) as rig:
        await rig.order("LLM-A", "BUY", "0.02")
        await until(rig, lambda: len(orders(rig)) == 1)
        # As the ledger is left by a kill between a fill and its order.
        (known,) = rig.told
        late = replace(
            known, trade_id="999", order_id="777", time_ms=known.time_ms + 1, client_order_id="w", agent=""
        )
        rig.ledger.record(late)
        assert len(orders(rig)) == 1
        await rig.sync.orders.start()
        assert {one.order_id for one in orders(rig).values()} == {known.order_id, "777"}
        # What the stream described is not replaced by what the fills show.
        assert [one.type for one in orders(rig, "LLM-A").values()] == ["MARKET"]


async def test_a_fill_that_is_known_before_its_event(tmp_path: Path) -> None:
    """The reply to an order tells of its fills before the stream does, and a run may end in between."""
    async with sync_rig(tmp_path / "a.db", market=waves(), symbols=(BTC,)) as rig:
        await rig.order("LLM-A", "BUY", "0.03")
        await until(rig, lambda: [one.status for one in orders(rig).values()] == ["FILLED"])
        (whole,) = rig.told
        identity = client_order_id("LLM-A", BTC, 1_704_067_200_777, Leg.ORDER)
        log = rig.sync.orders
        part = replace(
            whole, trade_id="901", order_id="901", client_order_id=identity, quantity=D("0.01"), agent="LLM-A"
        )
        described = OpenOrder(
            BTC,
            identity,
            "901",
            Side.BUY,
            "LIMIT",
            D("0.03"),
            D(0),
            D(50_000),
            reduce_only=False,
            is_trigger=False,
        )
        log.on_event(OrderEvent(BTC, identity, "901", "NEW", D(0), whole.time_ms - 1, order=described))
        await rig.sync.record(part)
        await log.write()
        found = orders(rig)[identity]
        told = (found.type, found.quantity, found.executed_quantity, found.status)
        assert told == ("LIMIT", D("0.03"), D("0.01"), "PARTIALLY_FILLED")
        await rig.sync.record(replace(part, trade_id="902", quantity=D("0.02"), time_ms=part.time_ms + 1))
        await log.write()
        found = orders(rig)[identity]
        told = (found.type, found.quantity, found.executed_quantity, found.status)
        assert told == ("LIMIT", D("0.03"), D("0.03"), "FILLED")
        # What is older than that changes nothing any more.
        log.on_event(OrderEvent(BTC, identity, "901", "NEW", D(0), whole.time_ms - 1, order=described))
        await log.write()
        assert orders(rig)[identity] == found


async def test_a_writing_that_was_cancelled_before_it_began_is_made_up_for_at_the_close(
    tmp_path: Path,
) -> None:
    async with sync_rig(tmp_path / "a.db", market=waves(), symbols=(BTC,)) as rig:
        free = threading.Event()
        waiting = asyncio.create_task(rig.sync.run(free.wait, 20))
        log = rig.sync.orders
        name = "LLM-A_BTCUSDT_1704067200999o"
        resting = OpenOrder(
            symbol=BTC, order_id="7", client_order_id=name, side=Side.BUY, type="LIMIT", quantity=D("0.02"),
            price=D(40_000), executed_quantity=D(0), reduce_only=False, is_trigger=False,
        )  # fmt: skip
        log.on_event(OrderEvent(BTC, name, "7", "NEW", D(0), 1_704_067_200_999, order=resting))
        writing = asyncio.create_task(log.write())
        await asyncio.sleep(0)
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
        free.set()
        await waiting
        await rig.sync.close()
        assert [one.order_id for one in Journal(rig.ledger.store).orders_of(rig.sync.account)] == ["7"]
