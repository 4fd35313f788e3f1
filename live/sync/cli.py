"""`python -m live.sync`: what the ledger and the exchange say that everybody holds, side by side."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from agents.catalog import SECTIONS as RUN_SECTIONS
from agents.formatting import width_for_tables
from envs.config import read_yaml
from envs.errors import ConfigError, ExchangeError, PerpgymError
from envs.time_grid import format_time
from live.exchange.binance import BinanceExchange
from live.exchange.connection import ConnectionSettings
from live.heap import heap_set_aside
from live.ledger import Ledger
from live.store.database import database_url
from live.sync.history import BOOKINGS, CaughtUp
from live.sync.naming import ledger_account
from live.sync.pace import interval_s
from live.sync.positions import PositionSync
from live.sync.report import SyncReport
from live.sync.rows import opening_orders, position_rows, snapshot
from live.sync.settings import PositionSyncSettings, TradeSyncSettings
from live.sync.tables import tables
from live.sync.trades import TradeSync
from live.venues import AccountVenue, PaperOptions, VenueChoice, account_venue

DIFFERS = 1
_SECTIONS = ("connection", "trade_sync", "sync", *RUN_SECTIONS)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Compare the ledger with the exchange account. Without a venue: the testnet, when its credentials are set.",
)
Database = Annotated[
    str | None,
    typer.Option(
        "--db",
        help="SQLite file, or postgresql:// URL. Default: DATABASE_URL, else data/perpgym.db.",
        show_default=False,
    ),
]
PaperUrl = Annotated[str | None, typer.Option(help="A running paper exchange (python -m live.paper).")]
ApiKey = Annotated[str, typer.Option(help="Account of the paper exchange; its secret is --api-secret.")]
ApiSecret = Annotated[str, typer.Option(help="Secret of that account.", show_default=False)]
Testnet = Annotated[bool, typer.Option("--testnet", help="Binance's futures testnet.")]
Money = Annotated[bool, typer.Option("--live", help="The account with real money. Nothing is traded.")]
Account = Annotated[
    str | None,
    typer.Option(help="Name of the exchange account in the ledger. Default: that which live runs use."),
]
Config = Annotated[Path | None, typer.Option(help="YAML with the sections connection, trade_sync, sync.")]
Width = Annotated[int | None, typer.Option(min=60, help="Width of the tables. Default: the terminal's.")]


@dataclass(frozen=True)
class _Options:
    database: str
    place: AccountVenue
    account: str | None
    connection: ConnectionSettings
    trades: TradeSyncSettings
    positions: PositionSyncSettings
    console: Console

    def connector(self) -> BinanceExchange:
        return self.connection.connector(self.place.venue, self.place.credentials, ())

    async def name(self, ledger: Ledger, exchange: BinanceExchange) -> str:
        """The account's name in the ledger."""
        return self.account or ledger_account(ledger, self.place, await exchange.account_id())


def _options(
    db: str | None,
    paper_url: str | None,
    api_key: str,
    api_secret: str,
    testnet: bool,
    money: bool,
    account: str | None,
    config: Path | None,
    width: int | None,
    *,
    must_exist: bool,
) -> _Options:
    chosen = [one for one, asked in ((VenueChoice.TESTNET, testnet), (VenueChoice.LIVE, money)) if asked]
    if len(chosen) + (paper_url is not None) > 1:
        raise ConfigError("--paper-url, --testnet and --live exclude one another; give one")
    choice = chosen[0] if chosen else VenueChoice.PAPER if paper_url else VenueChoice.AUTO
    paper = PaperOptions(url=paper_url, api_key=api_key, api_secret=api_secret)
    place = account_venue(choice, paper, os.environ)
    sections = dict(read_yaml(config)) if config is not None else {}
    for name, value in sections.items():
        if name not in _SECTIONS:
            known = ", ".join(_SECTIONS)
            raise ConfigError(
                f"{config}: unknown section {name!r}. Sections: {known}; those of a run count for nothing"
            )
        if not isinstance(value or {}, dict):
            raise ConfigError(f"{config}: section {name!r} is {value!r}; expected settings as 'name: value'")
    url = database_url(db)
    if must_exist and "://" not in url and not Path(url).is_file():
        raise ConfigError(
            f"there is no database {url}; name one with --db, or read one in: python -m live.sync once"
        )
    return _Options(
        url,
        place,
        account,
        ConnectionSettings.parse(sections.get("connection") or {}, where=f"{config}: connection"),
        TradeSyncSettings.parse(sections.get("trade_sync") or {}, where=f"{config}: trade_sync"),
        PositionSyncSettings.parse(sections.get("sync") or {}, where=f"{config}: sync"),
        Console(highlight=False, width=width or width_for_tables(Console())),
    )


@app.command()
def status(
    db: Database = None,
    paper_url: PaperUrl = None,
    api_key: ApiKey = "paper",
    api_secret: ApiSecret = "paper",
    testnet: Testnet = False,
    live: Money = False,
    account: Account = None,
    config: Config = None,
    width: Width = None,
) -> None:
    """Show both sides as they are: nothing is caught up with, nothing is written. Exit code 1: they differ."""
    with _errors():
        options = _options(
            db, paper_url, api_key, api_secret, testnet, live, account, config, width, must_exist=True
        )
        raise typer.Exit(_run(_status(options)))


@app.command()
def once(
    db: Database = None,
    paper_url: PaperUrl = None,
    api_key: ApiKey = "paper",
    api_secret: ApiSecret = "paper",
    testnet: Testnet = False,
    live: Money = False,
    account: Account = None,
    config: Config = None,
    width: Width = None,
) -> None:
    """Read what the ledger has missed, compare, and show the outcome. Exit code 1: they differ."""
    with _errors():
        options = _options(
            db, paper_url, api_key, api_secret, testnet, live, account, config, width, must_exist=False
        )
        raise typer.Exit(_run(_once(options)))


@app.command()
def watch(
    db: Database = None,
    paper_url: PaperUrl = None,
    api_key: ApiKey = "paper",
    api_secret: ApiSecret = "paper",
    testnet: Testnet = False,
    live: Money = False,
    account: Account = None,
    config: Config = None,
    width: Width = None,
    syncs: Annotated[int | None, typer.Option(min=1, help="End after so many syncs.")] = None,
) -> None:
    """Keep the ledger in step with the account and show it, until Ctrl+C. Exit code 1: they differed at the end."""
    with _errors():
        options = _options(
            db, paper_url, api_key, api_secret, testnet, live, account, config, width, must_exist=False
        )
        last: deque[SyncReport] = deque(maxlen=1)
        try:
            code = _run(_watch(options, syncs, last))
        except KeyboardInterrupt:
            code = _verdict(last[0]) if last else 0
        raise typer.Exit(code)


@contextmanager
def _errors() -> Iterator[None]:
    """End with an error's message and exit code."""
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    try:
        yield
    except PerpgymError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _run(work: Coroutine[Any, Any, int]) -> int:
    with heap_set_aside():
        return asyncio.run(work)


async def _status(options: _Options) -> int:
    ledger = Ledger.open(options.database)
    try:
        exchange = options.connector()
        try:
            async with exchange:
                name = await options.name(ledger, exchange)
                report = await snapshot(exchange, ledger, name)
        except ExchangeError as error:
            name = options.account or ledger_account(ledger, options.place, None)
            report = _of_ledger(ledger, name, str(error))
        options.console.print(f"{options.place.description}; database {ledger.store.name}", markup=False)
        options.console.print(tables(report))
        _say_how_far(options, ledger, name)
        if report.differences:
            options.console.print(
                "The ledger may be behind: python -m live.sync once reads what it has missed.", markup=False
            )
        return _verdict(report)
    finally:
        ledger.close()


async def _once(options: _Options) -> int:
    ledger = Ledger.open(options.database)
    try:
        async with options.connector() as exchange:
            name = await options.name(ledger, exchange)
            sync = TradeSync(exchange, ledger, symbols=(), account=name, settings=options.trades)
            try:
                with options.console.status("reading the exchange's history"):
                    done = await sync.start()
                positions = PositionSync(sync, settings=options.positions)
                report = await positions.once()
            finally:
                await sync.close()
        options.console.print(f"{options.place.description}; database {ledger.store.name}", markup=False)
        _say_what_was_read(options, done)
        options.console.print(tables(report))
        _say_how_far(options, ledger, name)
        return _verdict(report)
    finally:
        ledger.close()


async def _watch(options: _Options, syncs: int | None, last: deque[SyncReport]) -> int:
    """Watch until there were so many syncs, or for ever; the newest report is in `last`."""
    ledger = Ledger.open(options.database)
    try:
        async with options.connector() as exchange:
            name = await options.name(ledger, exchange)
            sync = TradeSync(exchange, ledger, symbols=(), account=name, settings=options.trades)
            try:
                with options.console.status("reading the exchange's history"):
                    done = await sync.start()
                _say_what_was_read(options, done)
                positions = PositionSync(sync, settings=options.positions)
                with Live(console=options.console, auto_refresh=False) as shown:
                    while True:
                        report = await positions.once()
                        last.append(report)
                        shown.update(tables(report), refresh=True)
                        if positions.syncs == syncs:
                            return _verdict(report)
                        await asyncio.sleep(interval_s(report, options.positions))
            finally:
                await sync.close()
    finally:
        ledger.close()


def _of_ledger(ledger: Ledger, account: str, problem: str) -> SyncReport:
    rows = position_rows(
        ledger, account, prices={}, held={}, orders=(), opened_by=opening_orders(ledger, account)
    )
    return SyncReport(account, 0, positions=tuple(rows), errors=(problem,))


def _say_what_was_read(options: _Options, done: CaughtUp) -> None:
    new = f"new in the ledger: {len(done.fills)} fills, {done.income} fundings and fees, {done.transfers} transfers"
    options.console.print(new, markup=False)
    if done.reach:
        options.console.print(done.reach, markup=False)


def _say_how_far(options: _Options, ledger: Ledger, name: str) -> None:
    cursor = ledger.cursor(name, BOOKINGS)
    read = "never" if cursor is None else f"until {format_time(cursor.time_ms)}"
    options.console.print(f"the exchange's history was read {read}", markup=False)


def _verdict(report: SyncReport) -> int:
    return 0 if report.holds else DIFFERS
