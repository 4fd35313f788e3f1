"""A report as tables: each contract's accounts beside the exchange's position, and the wallets."""

from __future__ import annotations

from decimal import Decimal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from envs.account import PositionSide
from envs.time_grid import format_time
from live.exchange.base import ExchangePosition
from live.ledger.arithmetic import ZERO, exact
from live.store.types import decimal_text
from live.sync.report import PositionRow, SyncReport, describe

_GUARD_NAMES = {"STOP_MARKET": "stop", "TAKE_PROFIT_MARKET": "take-profit"}


def tables(report: SyncReport) -> RenderableType:
    """Everything in a report."""
    parts: list[RenderableType] = [_positions(report)]
    if report.identity is not None:
        parts.append(_wallets(report))
    parts += [Text(describe(trip)) for trip in report.closed]
    parts += [Text(f"error: {one}", style="bold red") for one in report.errors]
    parts += [Text(f"DIFFERENCE {one}", style="bold red") for one in report.differences]
    parts.append(_verdict(report))
    return Group(*parts)


def _positions(report: SyncReport) -> Table:
    table = Table(title=f"{report.account} at {format_time(report.time_ms)}")
    for heading in ("symbol", "owner", "side"):
        table.add_column(heading)
    for heading in ("quantity", "entry", "last", "PnL USDT", "%", "leverage"):
        table.add_column(heading, justify="right")
    for heading in ("client order id", "guarded by"):
        table.add_column(heading, overflow="fold")
    table.add_column("difference", justify="right")
    by_symbol: dict[str, list[PositionRow]] = {}
    for row in report.positions:
        by_symbol.setdefault(row.symbol, []).append(row)
    for symbol in sorted({*by_symbol, *report.exchange_positions}):
        for row in by_symbol.get(symbol, []):
            table.add_row(
                symbol,
                row.owner,
                str(row.side),
                decimal_text(abs(row.quantity)),
                _number(row.entry_price),
                _number(row.price),
                _signed(row.unrealized_usdt),
                _signed(row.percent, 2),
                "-" if row.leverage is None else f"{row.leverage}x",
                Text(row.client_order_id or "-"),
                Text(
                    ", ".join(
                        f"{_GUARD_NAMES.get(kind, kind)} {decimal_text(price)}" for kind, price in row.guards
                    )
                    or "-"
                ),
                "",
            )
        _add_net(table, report, symbol, by_symbol.get(symbol, []))
    if not table.rows:
        table.add_row("-", "no positions", *[""] * 10)
    return table


def _add_net(table: Table, report: SyncReport, symbol: str, rows: list[PositionRow]) -> None:
    with exact():
        own = sum((row.quantity for row in rows), ZERO)
    if report.identity is None:
        table.add_row(symbol, "exchange", "not read", *[""] * 9, style="dim", end_section=True)
        return
    held = report.exchange_positions.get(symbol)
    theirs = held.quantity if held else ZERO
    with exact():
        difference = theirs - own
    side = PositionSide.FLAT if not theirs else PositionSide.LONG if theirs > 0 else PositionSide.SHORT
    entry, mark, profit, leverage = _exchange_cells(held)
    table.add_row(
        symbol,
        "exchange",
        str(side),
        decimal_text(abs(theirs)),
        entry,
        mark,
        profit,
        "",
        leverage,
        "",
        "",
        Text("0", style="green") if not difference else Text(f"{difference:+f}", style="bold red"),
        style="bold",
        end_section=True,
    )


def _exchange_cells(held: ExchangePosition | None) -> tuple[str, str, str, str]:
    if held is None:
        return "-", "-", "-", "-"
    with exact():
        profit = (held.mark_price - held.entry_price) * held.quantity
    return _number(held.entry_price), _number(held.mark_price), _signed(profit), f"{held.leverage}x"


def _wallets(report: SyncReport) -> Table:
    identity = report.identity
    assert identity is not None
    table = Table(title="wallets")
    table.add_column("account")
    table.add_column("USDT", justify="right")
    for name, amount in sorted(identity.wallets.items()):
        table.add_row(name, f"{amount:,.8f}")
    if identity.entry_difference:
        table.add_row("opposite positions' entry values", f"{identity.entry_difference:,.8f}")
    with exact():
        total = sum(identity.wallets.values(), ZERO) + identity.entry_difference
    table.add_section()
    table.add_row("sum", f"{total:,.8f}", style="bold")
    if identity.exchange_wallet is not None:
        table.add_row("exchange", f"{identity.exchange_wallet:,.8f}", style="bold")
    return table


def _verdict(report: SyncReport) -> Text:
    summary = report.lines()[0]
    if report.holds is None:
        return Text(f"NOT COMPARED: {summary}", style="bold yellow")
    if report.holds:
        return Text(summary, style="green")
    return Text(summary, style="bold red")


def _number(value: Decimal | None) -> str:
    if value is None:
        return "-"
    text = f"{value:.8f}".rstrip("0").rstrip(".")
    return text or "0"


def _signed(value: Decimal | None, decimals: int = 4) -> str:
    return "-" if value is None else f"{value:+,.{decimals}f}"
