"""What a person sees of a live run: a banner, a few lines per step, statistics at the end."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from agents.metrics import Metrics
from agents.run import Ending
from envs.account import (
    AccountSnapshot,
    CandleEvent,
    EmergencyReport,
    Execution,
    OrderResult,
    OrderStatus,
    Plan,
    PositionSide,
)
from envs.risk_state import RiskState, drawdown_fraction


def utc_text(time_ms: int) -> str:
    """`2025-01-02 13:00:00Z` of the first millisecond after a candle's close."""
    return datetime.fromtimestamp((time_ms + 1) // 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def short(value: Decimal, places: int = 8) -> str:
    """A decimal rounded for reading, without trailing zeros."""
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class LiveConsole:
    """Prints a run's progress, one step at a time."""

    def __init__(self, *, quiet: bool = False, out: TextIO | None = None) -> None:
        self._console = Console(file=out or sys.stdout, highlight=False, soft_wrap=True, emoji=False)
        self._quiet = quiet

    def banner(self, title: str, lines: Sequence[str], *, real_money: bool) -> None:
        """Say where this run trades, and with what."""
        style = "bold red" if real_money else "cyan"
        panel = Panel("\n".join(lines), title=title, border_style=style, expand=False)
        self._console.print(panel, soft_wrap=False)

    def notice(self, text: str) -> None:
        """A line about the run itself."""
        self._console.print(text, markup=False)

    def step(self, number: int, plan: Plan, execution: Execution, state: RiskState) -> None:
        """One step: time, what the action became, fills, account."""
        if self._quiet:
            return
        account = execution.account
        drawdown = drawdown_fraction(account.equity_usdt, state.peak_equity_usdt)
        for result in execution.results:
            self._print(
                f"[{number}] {utc_text(plan.candle_close_ms)} {result.planned.symbol} "
                f"{short(result.planned.price)} | action {result.planned.action:+.4f} -> {_outcome(result)} | "
                f"{_position(account, result.planned.symbol)}"
            )
        self._print(
            f"    equity {account.equity_usdt:.2f} USDT, drawdown {drawdown:.2%}, wallet {account.wallet_usdt:.2f}"
        )

    def events(self, events: Sequence[CandleEvent]) -> None:
        """Fills that no step asked for."""
        for event in events:
            fill = event.fill
            note = f" ({event.note})" if event.note else ""
            self._print(
                f"    {fill.symbol} {event.action_type.value}: {fill.side} {short(fill.quantity)} @ "
                f"{short(fill.price)}, fee {short(fill.commission)}{note}"
            )

    def emergency(self, report: EmergencyReport) -> None:
        """The emergency protocol ran."""
        tries = "1 try" if report.tries == 1 else f"{report.tries} tries"
        flat = "account flat, no orders left" if report.succeeded else "THE ACCOUNT IS NOT FLAT"
        self._console.print(
            Panel(
                f"{report.reason}\n{flat} after {tries}; equity "
                f"{report.account.equity_usdt:.2f} USDT\nThe run is halted. Start again with "
                "--acknowledge-emergency once you have looked at the account.",
                title="EMERGENCY",
                border_style="bold red",
                expand=False,
            ),
            soft_wrap=False,
        )

    def summary(self, metrics: Metrics | None, ending: Ending, paths: Mapping[str, Path]) -> None:
        """Session statistics and the files written."""
        table = Table(title=f"session: {ending.value}", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        if metrics is not None:
            for name, value in metrics.to_dict().items():
                table.add_row(
                    name,
                    "-" if value is None else f"{value:,.6g}" if isinstance(value, float) else str(value),
                )
        self._console.print(table)
        for name, path in paths.items():
            self._console.print(f"{name}: {path}", markup=False)

    def _print(self, text: str) -> None:
        if not self._quiet:
            self._console.print(text, markup=False)


def _outcome(result: OrderResult) -> str:
    kind = result.planned.action_type.value
    order = result.planned.order
    if result.fills:
        quantity = sum((fill.quantity for fill in result.fills), Decimal(0))
        price = sum((fill.quote_quantity for fill in result.fills), Decimal(0)) / quantity
        fee = sum((fill.commission for fill in result.fills), Decimal(0))
        text = f"{kind} {result.fills[0].side} {short(quantity)} @ {short(price)}, fee {short(fee, 4)}"
    elif result.status is OrderStatus.NONE or order is None:
        text = kind if result.status is OrderStatus.NONE else f"{kind} {result.status}"
    else:
        text = f"{kind} {order.side} {short(order.quantity)} {result.status}"
    return f"{text} ({result.error})" if result.error else text


def _position(account: AccountSnapshot, symbol: str) -> str:
    position = account.positions[symbol]
    if position.side is PositionSide.FLAT:
        return "flat"
    return (
        f"{position.side} {short(abs(position.quantity))} @ {short(position.entry_price)}, "
        f"PnL {position.unrealized_pnl_usdt:+.2f}"
    )
