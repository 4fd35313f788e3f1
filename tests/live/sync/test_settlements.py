"""Settlements of contracts that several accounts hold: read once, and asked for no more often than need be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
from ledger_support import T0, fill

from envs.time_grid import HOUR_MS, MINUTE_MS
from live.exchange.base import FundingRate
from live.ledger import Ledger
from live.sync import TradeSyncSettings
from live.sync.history import CaughtUp, HistoryReader
from live.sync.writer import LedgerWriter

HOUR = (T0 // HOUR_MS + 1) * HOUR_MS
BTC = "BTCUSDT"


class Listing:
    """The exchange's funding rates: each is listed some time after its settlement. Counts what it is asked."""

    def __init__(self, *rates: tuple[int, int]) -> None:
        self.rates = rates
        self.asked: list[int] = []
        self.down = False

    async def funding_rates(self, symbol: str, start_ms: int, end_ms: int) -> list[FundingRate]:
        self.asked.append(end_ms)
        if self.down:
            raise TimeoutError
        return [
            FundingRate(symbol, time_ms, 0.001, 50_000.0)
            for time_ms, listed_ms in self.rates
            if start_ms <= time_ms and listed_ms <= end_ms
        ]


@asynccontextmanager
async def reader(ledger: Ledger, listing: Listing) -> AsyncIterator[HistoryReader]:
    writer = LedgerWriter(ledger, lambda _: None)
    try:
        yield HistoryReader(cast(Any, listing), writer, "paper", TradeSyncSettings())
    finally:
        await writer.close()


def opposite(path: Path) -> Ledger:
    ledger = Ledger.open(str(path / "a.db"))
    ledger.record_many(
        [fill(1, "BUY", "0.02", "50000", agent="A"), fill(2, "SELL", "0.02", "50000", agent="B")]
    )
    return ledger


async def test_one_that_is_listed_late_is_found_and_never_asked_for_again(tmp_path: Path) -> None:
    ledger, listing = opposite(tmp_path), Listing((HOUR, HOUR + 31_000))
    found = CaughtUp()
    async with reader(ledger, listing) as history:
        for second in range(3, 3600, 10):
            await history.read_settlements(BTC, HOUR + 1000 * second, found)
    # 3 s after the hour, then at the first sync that is as late again as the one before.
    assert [(at - HOUR) // 1000 for at in listing.asked] == [3, 13, 33]
    assert found.income == 1
    assert ledger.position("paper", "A", BTC).funding == Decimal("-1")
    async with reader(ledger, listing) as history:  # after a restart
        await history.read_settlements(BTC, HOUR + HOUR_MS - 1, found)
        assert len(listing.asked) == 3
    ledger.close()


async def test_hours_without_a_settlement_cost_few_questions(tmp_path: Path) -> None:
    ledger, listing = opposite(tmp_path), Listing((HOUR + 2 * HOUR_MS, HOUR + 2 * HOUR_MS + 100))
    found, asked = CaughtUp(), []
    async with reader(ledger, listing) as history:
        for hour in range(3):
            before = len(listing.asked)
            for second in (*range(1, 320, 2), 900, 1800, 3599):
                await history.read_settlements(BTC, HOUR + hour * HOUR_MS + 1000 * second, found)
            asked.append(len(listing.asked) - before)
    # At 1, 7, 15, 31, 63, 127, 255 and, the last time, at 301 s; the settlement is listed at once.
    assert asked == [8, 8, 1]
    assert found.income == 1
    cursor = ledger.cursor("paper", "settlements", BTC)
    assert cursor is not None and cursor.time_ms == HOUR + 2 * HOUR_MS + 1
    ledger.close()


async def test_a_question_without_an_answer_is_asked_again_at_once(tmp_path: Path) -> None:
    ledger, listing = opposite(tmp_path), Listing((HOUR, HOUR))
    found = CaughtUp()
    async with reader(ledger, listing) as history:
        listing.down = True
        try:
            await history.read_settlements(BTC, HOUR + 1000, found)
        except TimeoutError:
            listing.down = False
        await history.read_settlements(BTC, HOUR + 1001, found)
    assert (len(listing.asked), found.income) == (2, 1)
    ledger.close()


async def test_one_without_any_mark_price_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Unmarked(Listing):
        async def funding_rates(self, symbol: str, start_ms: int, end_ms: int) -> list[FundingRate]:
            listed = await super().funding_rates(symbol, start_ms, end_ms)
            return [replace(one, mark_price=None) for one in listed]

        async def mark_candles(self, *_: object, **__: object) -> list[Any]:
            return []

    ledger, found = opposite(tmp_path), CaughtUp()
    async with reader(ledger, Unmarked((HOUR, HOUR))) as history:
        await history.read_settlements(BTC, HOUR + 6 * MINUTE_MS, found)
    assert found.income == 0 and ledger.position("paper", "A", BTC).funding == 0
    assert "neither mark price nor mark candle for the settlement at 2023-11-14 23:00" in caplog.text
    ledger.close()
