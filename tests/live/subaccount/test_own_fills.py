"""An agent's own fills: however few of them are kept in memory, they are what a fold over all of them gives."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from ledger_support import T0, fill, random_fills

from envs.account import Fill
from envs.errors import LedgerError
from live.ledger import Ledger
from live.ledger.queries import Where, trades
from live.subaccount.own_fills import FillFold, OwnFills

AGENT, SYMBOL = "sac", "BTCUSDT"


async def run(work: Any, *arguments: Any) -> Any:
    return work(*arguments)


def history(seed: int, count: int = 40) -> list[Fill]:
    """Fills of two agents and of nobody, by orders of every leg, several in a millisecond now and then."""
    dice = random.Random(seed)
    found = []
    for one in random_fills(count, seed, symbols=(SYMBOL,)):
        leg = dice.choice("oooostpx")
        named = one.client_order_id[:-1] + leg if one.agent else one.client_order_id
        # Few sizes, so that positions end flat as well as by flips.
        size = Decimal(dice.choice((1, 1, 2))) / 100
        found.append(replace(one, client_order_id=named, quantity=size, commission=Decimal("0.01")))
    return found


def whole(ledger: Ledger) -> FillFold:
    """The fold over all."""
    fold = FillFold(AGENT)
    for one in trades(ledger.store, Where("paper", SYMBOL, AGENT)):
        fold.add(one)
    return fold


async def compare(own: OwnFills, ledger: Ledger) -> None:
    expected = whole(ledger)
    await own.refresh()
    assert own.excess == expected.excess
    # The oldest, so that everything is read again, and the newest, which is in memory.
    for one in (*expected.fills[:2], *expected.fills[-2:]):
        assert await own.fills_since(one.time_ms) == [f for f in expected.fills if f.time_ms >= one.time_ms]
        assert await own.fills_of(one.order_id, one.time_ms) == [one]
        found = await own.fills_from(one.trade_id)
        assert found == [f for f in expected.fills if int(f.trade_id) >= int(one.trade_id)]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_kept_and_what_is_read_again_are_what_a_fold_over_all_gives(
    tmp_path: Path, seed: int
) -> None:
    async def play() -> None:
        kept = [OwnFills(ledger, "paper", AGENT, SYMBOL, run, kept=few) for few in (1, 3, 1000)]
        for number, one in enumerate(fills):
            ledger.record(one)
            if number % 7 == 0:
                for own in kept:
                    await compare(own, ledger)
                    assert own._fold is not None
                    assert own._kept == 1000 or len(own._fold.fills) <= 7 + own._kept
                await compare(OwnFills(ledger, "paper", AGENT, SYMBOL, run), ledger)  # after a restart

    fills = history(seed)
    ledger = Ledger.open(str(tmp_path / "a.db"))
    try:
        asyncio.run(play())
    finally:
        ledger.close()


def test_fills_that_arrive_late_are_in_their_place(tmp_path: Path) -> None:
    async def play() -> None:
        own = OwnFills(ledger, "paper", AGENT, SYMBOL, run, kept=3)
        for part in (fills[::3], fills[2::3], fills[1::3]):
            ledger.record_many(part)
            await compare(own, ledger)

    fills = history(9)
    ledger = Ledger.open(str(tmp_path / "a.db"))
    try:
        asyncio.run(play())
    finally:
        ledger.close()


def test_a_restart_in_a_long_history_reads_the_open_round_trip_only(tmp_path: Path) -> None:
    """A stop that goes beyond zero leaves an excess, also where all before it is not read."""

    async def play() -> None:
        own = OwnFills(ledger, "paper", AGENT, SYMBOL, run)
        await own.refresh()
        assert own.excess == Decimal("-0.3")
        assert own._fold is not None
        assert [one.trade_id for one in own._fold.fills] == ["203"]
        (last,) = await own.fills_since(T0 + 203_000)
        assert last.realized_pnl == Decimal("0.1") * (101 - 90)
        assert len(await own.fills_from("1")) == 203

    stop = f"{AGENT}_{SYMBOL}_{T0}s"
    fills = [fill(n, "BUY" if n % 2 else "SELL", "1", "100", agent=AGENT) for n in range(1, 201)]
    fills += [
        fill(201, "BUY", "1", "100", agent=AGENT),
        fill(202, "SELL", "1.4", "101", agent=AGENT, client_order_id=stop),
        fill(203, "BUY", "0.1", "90", agent=AGENT),
    ]
    ledger = Ledger.open(str(tmp_path / "a.db"))
    try:
        ledger.record_many(fills)
        asyncio.run(play())
    finally:
        ledger.close()


def test_a_fold_that_never_agrees_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("live.subaccount.own_fills._WAIT_S", 0.0)
    ledger = Ledger.open(str(tmp_path / "a.db"))
    try:
        ledger.record_many([fill(n, "BUY", "1", "100", agent=AGENT) for n in (1, 2)])
        own = OwnFills(ledger, "paper", AGENT, SYMBOL, run)
        wrong = ledger.position("paper", AGENT, SYMBOL)
        wrong.p1 = Decimal(5)
        monkeypatch.setattr(own, "_position", lambda: wrong)
        with pytest.raises(LedgerError, match=r"live\.store check"):
            asyncio.run(own.refresh())
    finally:
        ledger.close()
