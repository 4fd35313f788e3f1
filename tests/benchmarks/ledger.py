"""The ledger at a million fills: recording, folding, starting, and the size of the database, on both databases.

    python -m tests.benchmarks.ledger [--fills 1000000] [--only sqlite|postgresql]

Three agents and a person trade six symbols on one account; one in twenty fills is foreign.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from sqlalchemy import text

from envs.account import Fill, Side
from live.ledger import Cursor, Ledger
from live.ledger.book import Book, Derived
from live.ledger.booking import read_events
from live.store import Store
from live.store.names import Names
from tests.benchmarks._report import emit, note

SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "XRPUSDT", "DOGEUSDT", "ADAUSDT")
AGENTS = ("LLM-A", "LLM-B", "sac")
BATCH = 10_000
SINGLES = 500
START_MS = 1_700_000_000_000


def market(count: int) -> Iterator[list[Fill]]:
    """Batches of fills in order of time. Positions swing around flat, so that round trips end all the time."""
    dice = random.Random(7)
    held: dict[tuple[str, str], int] = {}
    now_ms = START_MS
    batch = []
    for number in range(count):
        now_ms += dice.randrange(2000)
        symbol, agent = dice.choice(SYMBOLS), dice.choice(AGENTS)
        foreign = dice.random() < 0.05
        position = held.get((agent, symbol), 0)
        size = dice.randrange(1, 50)
        if position and dice.random() < 0.3:
            size, side = abs(position), Side.SELL if position > 0 else Side.BUY
        else:
            side = dice.choice((Side.BUY, Side.SELL))
        if not foreign:
            held[agent, symbol] = position + (size if side is Side.BUY else -size)
        quantity = Decimal(size) / 1000
        price = Decimal(dice.randrange(1_000_000, 1_100_000)) / 10
        batch.append(
            Fill(
                symbol=symbol,
                trade_id=str(1_000_000 + number),
                order_id=str(5_000_000 + number),
                client_order_id=f"web_{number}" if foreign else f"{agent}_{symbol}_{now_ms}o",
                side=side,
                quantity=quantity,
                price=price,
                commission=(quantity * price * Decimal("0.0005")).quantize(Decimal("1E-8")),
                realized_pnl=Decimal(0),
                time_ms=now_ms,
                agent="" if foreign else agent,
                exchange="paper",
            )
        )
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def measure(kind: str, url: str, count: int) -> None:
    """All figures on one database."""
    with Store.open(url) as store:
        ledger = Ledger(store)
        spent_s, last = 0.0, None
        for number, batch in enumerate(market(count)):
            last = batch[-1]
            cursor = Cursor("paper", "fills", last.time_ms, last.trade_id, last.symbol)
            began = time.perf_counter()
            ledger.record_many(batch, cursors=[cursor])
            spent_s += time.perf_counter() - began
            if number % 10 == 9:
                note(f"{kind}: {(number + 1) * BATCH:,} fills, {(number + 1) * BATCH / spent_s:,.0f}/s")
        assert last is not None
        emit("fills_recorded_per_s", count / spent_s, "fills/s", database=kind, fills=count, batch=BATCH)

        began = time.perf_counter()
        for number in range(SINGLES):
            ledger.record(replace(last, trade_id=f"9{number:09}", time_ms=last.time_ms + 1 + number))
        one_s = (time.perf_counter() - began) / SINGLES
        emit("one_fill_recorded_ms", one_s * 1000, "ms", database=kind, fills=count)

        note(f"{kind}: folding")
        began = time.perf_counter()
        names = Names()
        with store.read() as connection:
            names.load(connection)
            for symbol in SYMBOLS:
                Book("paper", symbol).fold(read_events(connection, names, "paper", symbol), Derived())
        emit("fold_s", time.perf_counter() - began, "s", database=kind, fills=count)

        began = time.perf_counter()
        again = Ledger(store)
        emit("start_s", time.perf_counter() - began, "s", database=kind, fills=count)
        assert again.wallets("paper") == ledger.wallets("paper")
        emit("database_mb", size_mb(store, url), "MB", database=kind, fills=count)


def size_mb(store: Store, url: str) -> float:
    """On disk, indexes included."""
    if store.is_sqlite:
        with store.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return Path(url).stat().st_size / 1e6
    with store.read() as connection:
        return (
            float(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()) / 1e6
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fills", type=int, default=1_000_000)
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    options = parser.parse_args()
    if options.only != "postgresql":
        with tempfile.TemporaryDirectory() as folder:
            measure("sqlite", str(Path(folder) / "ledger.db"), options.fills)
    if options.only != "sqlite":
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
        from databases import empty_postgresql

        measure("postgresql", empty_postgresql(), options.fills)


if __name__ == "__main__":
    main()
