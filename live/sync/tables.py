"""A report as tables: each contract's accounts beside the exchange's position, and the wallets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from envs.account import PositionSide
from envs.time_grid import format_time
from live.exchange.base import ExchangePosition
from live.ledger.arithmetic import ZERO, exact
from live.store.types import decimal_text
from live.sync.report import PositionRow, SyncReport, describe

_GUARD_NAMES = {"STOP_MARKET": "stop", "TAKE_PROFIT_MARKET": "take-profit"}
_WHOSE = ("symbol", "owner")
_PARTS = (
    ("side", "quantity", "entry", "leverage", "difference"),
    ("last", "PnL USDT", "%"),
    ("client order id", "guarded by"),
)
_COLUMNS = (
    *_WHOSE,
    *(
        "side",
        "quantity",
        "entry",
        "last",
        "PnL USDT",
        "%",
        "leverage",
        "client order id",
        "guarded by",
        "difference",
    ),
)
_ANY_WIDTH = 1_000
_WORDS = {*_WHOSE, "side", "client order id", "guarded by"}


@dataclass(frozen=True, slots=True)
class _Row:
    cells: Mapping[str, RenderableType]
    style: str = ""


def tables(report: SyncReport) -> RenderableType:
    """Everything in a report."""
    parts: list[RenderableType] = [_Positions(report)]
    if report.identity is not None:
        parts.append(_wallets(report))
    parts += [Text(describe(trip)) for trip in report.closed]
    parts += [Text(f"error: {one}", style="bold red") for one in report.errors]
    parts += [Text(f"DIFFERENCE {one}", style="bold red") for one in report.differences]
    parts.append(_verdict(report))
    return Group(*parts)


class _Positions:
    """The positions of both sides: one table, or where that is too wide several, each with a part of the columns."""

    def __init__(self, report: SyncReport) -> None:
        self._title = f"{report.account} at {format_time(report.time_ms)}"
        # One list for each contract, the exchange's row last.
        self._blocks: list[list[_Row]] = []
        by_symbol: dict[str, list[PositionRow]] = {}
        for row in report.positions:
            by_symbol.setdefault(row.symbol, []).append(row)
        for symbol in sorted({*by_symbol, *report.exchange_positions}):
            rows = by_symbol.get(symbol, [])
            self._blocks.append([*(_own_row(row) for row in rows), _net_row(report, symbol, rows)])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = self._table(_COLUMNS)
        needed = Measurement.get(console, options.update(max_width=_ANY_WIDTH), whole).minimum
        if needed <= options.max_width or not self._blocks:
            yield whole
        else:
            yield from (self._table((*_WHOSE, *part)) for part in _PARTS)

    def _table(self, columns: Sequence[str]) -> Table:
        table = Table(title=self._title if "side" in columns else None)
        for heading in columns:
            # Where it is too narrow for a number, all its digits are better than its first.
            table.add_column(heading, justify="left" if heading in _WORDS else "right", overflow="fold")
        for block in self._blocks:
            for row in block:
                cells = [row.cells.get(heading, "") for heading in columns]
                table.add_row(*cells, style=row.style, end_section=row is block[-1])
        if not self._blocks:
            table.add_row("-", "no positions", *[""] * (len(columns) - 2))
        return table


def _own_row(row: PositionRow) -> _Row:
    guards = (f"{_GUARD_NAMES.get(kind, kind)} {decimal_text(price)}" for kind, price in row.guards)
    return _Row(
        {
            "symbol": row.symbol,
            "owner": Text(row.owner),
            "side": str(row.side),
            "quantity": decimal_text(abs(row.quantity)),
            "entry": _number(row.entry_price),
            "last": _number(row.price),
            "PnL USDT": _signed(row.unrealized_usdt),
            "%": _signed(row.percent, 2),
            "leverage": "-" if row.leverage is None else f"{row.leverage}x",
            "client order id": Text(row.client_order_id or "-"),
            "guarded by": ", ".join(guards) or "-",
        }
    )


def _net_row(report: SyncReport, symbol: str, rows: list[PositionRow]) -> _Row:
    whose = {"symbol": symbol, "owner": "exchange"}
    if report.identity is None:
        return _Row({**whose, "side": "not read"}, "dim")
    held = report.exchange_positions.get(symbol)
    theirs = held.quantity if held else ZERO
    with exact():
        difference = theirs - sum((row.quantity for row in rows), ZERO)
    side = PositionSide.FLAT if not theirs else PositionSide.LONG if theirs > 0 else PositionSide.SHORT
    entry, mark, profit, leverage = _exchange_cells(held)
    return _Row(
        {
            **whose,
            "side": str(side),
            "quantity": decimal_text(abs(theirs)),
            "entry": entry,
            "last": mark,
            "PnL USDT": profit,
            "leverage": leverage,
            "difference": Text(f"{difference:+f}", style="bold red")
            if difference
            else Text("0", style="green"),
        },
        "bold",
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
