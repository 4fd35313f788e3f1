"""Whatever order fills arrive in, from the stream, by REST, twice, late: the ledger is the same."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ledger_support import T0, random_fills
from sync_support import BTC, ETH

from envs.account import Fill
from envs.errors import LedgerError
from live.exchange.base import (
    Booking,
    BookingKind,
    ExchangeAccount,
    FillEvent,
    Resync,
    UserEvent,
)
from live.ledger import MANUAL, Cursor, Ledger
from live.store import Store
from live.sync import TradeSync, TradeSyncSettings
from live.sync.opening import OPENING

D = Decimal
COUNT = 24
FILLS = random_fills(COUNT, seed=5)
BOOKINGS = [
    Booking(BookingKind.TRANSFER, "TRANSFER", "", D(1000), T0 - 1, "1"),
    Booking(BookingKind.FUNDING, "FUNDING_FEE", BTC, D("-0.31"), FILLS[9].time_ms, "2"),
    Booking(BookingKind.LIQUIDATION, "INSURANCE_CLEAR", ETH, D("-0.7"), FILLS[15].time_ms, "3"),
    Booking(BookingKind.OTHER, "REFERRAL_KICKBACK", "", D("0.05"), FILLS[20].time_ms, "4"),
]


class ScriptedStream:
    """Events that are pushed, at a moment of the test's choice."""

    connected = True

    def __init__(self) -> None:
        self.events: asyncio.Queue[UserEvent | None] = asyncio.Queue()
        self.events.put_nowait(Resync("connected"))

    def __aiter__(self) -> AsyncIterator[UserEvent]:
        return self

    async def __anext__(self) -> UserEvent:
        event = await self.events.get()
        if event is None:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        self.events.put_nowait(None)


class ScriptedExchange:
    """An account whose history holds the first `listed` fills. Pages are small, so that cursors move often."""

    name = "paper"

    def __init__(self, page: int = 3) -> None:
        self.listed: list[Fill] = []
        self.stream = ScriptedStream()
        self.page = page

    async def server_time_ms(self) -> int:
        return max([T0, *(fill.time_ms for fill in self.listed)])

    async def account(self) -> ExchangeAccount:
        wallet = sum((one.amount_usdt for one in BOOKINGS), D(0))
        wallet += sum((fill.realized_pnl - fill.commission for fill in self.listed), D(0))
        return ExchangeAccount(await self.server_time_ms(), wallet, wallet, D(0), D(0), {})

    def stream_user_events(self) -> ScriptedStream:
        return self.stream

    async def fill_pages(
        self, symbol: str, *, since_ms: int | None = None, from_id: str | None = None
    ) -> AsyncIterator[list[Fill]]:
        known = sorted(
            (one for one in self.listed if one.symbol == symbol), key=lambda one: int(one.trade_id)
        )
        rows = [
            one
            for one in known
            if (since_ms is None or one.time_ms >= since_ms)
            and (from_id is None or int(one.trade_id) >= int(from_id))
        ]
        for first in range(0, len(rows), self.page):
            await asyncio.sleep(0)
            yield rows[first : first + self.page]

    async def booking_pages(self, *, since_ms: int) -> AsyncIterator[list[Booking]]:
        rows = [one for one in BOOKINGS if one.time_ms >= since_ms]
        for first in range(0, len(rows), 2):
            await asyncio.sleep(0)
            yield rows[first : first + 2]

    async def funding_rates(self, symbol: str, start_ms: int, end_ms: int) -> list[Any]:
        return []


def state(ledger: Ledger) -> dict[str, Any]:
    return {
        "books": [
            (b.symbol, b.net_quantity, b.net_cost, b.net_income, b.positions) for b in ledger.books("paper")
        ],
        "wallets": ledger.wallets("paper"),
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything read by REST at once."""

    async def read(path: Path) -> dict[str, Any]:
        exchange = ScriptedExchange(page=1000)
        exchange.listed = list(FILLS)
        ledger = Ledger.open(str(path))
        async with sync_of(exchange, ledger):
            found = state(ledger)
        ledger.close()
        return found

    return asyncio.run(read(tmp_path_factory.mktemp("expected") / "a.db"))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without entries, to be copied: making one takes longer."""
    path = tmp_path_factory.mktemp("empty") / "empty.db"
    Store.open(str(path)).close()
    return path


def sync_of(exchange: ScriptedExchange, ledger: Ledger, settle_ms: int = 2000, **options: Any) -> TradeSync:
    # As after a first reading: what is older than the history belongs to another test.
    ledger.record_batch(cursors=[Cursor("paper", OPENING, 1)])
    settings = TradeSyncSettings(settle_ms=settle_ms, retry_s=(0.01,), booked_s=(), reach_ms=10**12)
    return TradeSync(exchange, ledger, symbols=(BTC, ETH), settings=settings, **options)  # type: ignore[arg-type]


STEP = st.one_of(
    st.tuples(st.just("stream"), st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=6)),
    st.tuples(st.just("report"), st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=4)),
    st.tuples(st.just("list"), st.lists(st.integers(1, 8), min_size=1, max_size=1)),
    st.tuples(st.just("catch up"), st.just([])),
    st.tuples(st.just("hole"), st.just([])),
    st.tuples(st.just("restart"), st.just([])),
)


@settings(max_examples=12, deadline=None)
@given(steps=st.lists(STEP, max_size=12), page=st.integers(1, 5), settle_ms=st.sampled_from((0, 2000)))
@example(steps=[("list", [count]) for count in range(1, 7)] + [("catch up", [])], page=2, settle_ms=0)
@example(steps=[step for _ in FILLS for step in (("list", [1]), ("catch up", []))], page=2, settle_ms=0)
def test_any_interleaving_gives_the_same_ledger(
    expected: dict[str, Any], empty: Path, steps: list[tuple[str, list[int]]], page: int, settle_ms: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = shutil.copy(empty, Path(folder) / "a.db")
        asyncio.run(play(expected, database, steps, page, settle_ms))


async def play(
    expected: dict[str, Any],
    database: Path,
    steps: Sequence[tuple[str, list[int]]],
    page: int,
    settle_ms: int,
) -> None:
    exchange = ScriptedExchange(page)
    told: list[Fill] = []
    ledger = Ledger.open(str(database))
    sync = sync_of(exchange, ledger, settle_ms, on_fill=told.append)
    await sync.start()
    for kind, numbers in steps:
        if kind == "stream":
            for number in numbers:
                exchange.stream.events.put_nowait(FillEvent(FILLS[number], "FILLED", D(1)))
        elif kind == "report":
            await sync.record(*(FILLS[number] for number in numbers))
        elif kind == "list":
            exchange.listed = FILLS[: len(exchange.listed) + numbers[0]]
        elif kind == "catch up":
            await sync.catch_up()
        elif kind == "hole":
            exchange.stream.events.put_nowait(Resync("reconnected"))
            await asyncio.sleep(0.001)
        else:
            await sync.close()
            exchange.stream = ScriptedStream()
            sync = sync_of(exchange, ledger, settle_ms, on_fill=told.append)
            await sync.start()
    exchange.listed = list(FILLS)
    await sync.catch_up()
    await sync.close()
    assert state(ledger) == expected
    # Each was told of once, whichever way it came first.
    assert sorted(one.trade_id for one in told) == sorted(one.trade_id for one in FILLS)
    ledger.reload()
    assert state(ledger) == expected
    ledger.close()


async def test_a_contradiction_ends_the_sync_and_is_raised(tmp_path: Path) -> None:
    exchange = ScriptedExchange()
    exchange.listed = FILLS[:3]
    ledger = Ledger.open(str(tmp_path / "a.db"))
    sync = sync_of(exchange, ledger)
    await sync.start()
    other = replace(FILLS[0], price=D(1))
    exchange.stream.events.put_nowait(FillEvent(other, "FILLED", D(1)))
    for _ in range(1000):
        await asyncio.sleep(0.005)
        if sync.error is not None:
            break
    with pytest.raises(LedgerError, match="is known with price"):
        sync.check()
    with pytest.raises(LedgerError, match="is known with price"):
        await sync.catch_up()
    assert not sync.is_caught_up
    await sync.close()
    assert ledger.capital("paper", MANUAL) == D("1000.05")
    ledger.close()
