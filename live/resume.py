"""Where an earlier session of a run ended, as the environment needs to know it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from envs.account import ZERO, Fill
from envs.errors import ConfigError
from live.intent import Intent
from live.live_account import Beginning, LiveAccount

_FILLS_LATE_S = (0.5, 1.0)
"""Pauses before an account is read again whose positions no fill explains: fills may be listed after they count."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resume:
    """Where an earlier session of the same run ended.

    Attributes:
        last_row_close_ms: close of the last candle whose step rows are all on disk; 0 for a new run.
        fills_since_ms: fills from here on belong to the run and its log; 0 for a new run.
        logged_trades: (symbol, trade id) of every fill in the step logs.
        transfers_until_ms: deposits and withdrawals up to here are part of the peak; None for a new run.
        peak_equity_usdt, max_drawdown_fraction: of the run so far; None for a new run.
        positions: signed quantity by symbol, as the log's last rows have it.
        intents: by symbol, the stops and take-profits that the last decisions named.
        refuses_differences: a position that the log and the fills since do not explain ends the start; else it is
            taken over, with a warning.
    """

    last_row_close_ms: int = 0
    fills_since_ms: int = 0
    logged_trades: frozenset[tuple[str, str]] = field(default_factory=frozenset)
    transfers_until_ms: int | None = None
    peak_equity_usdt: Decimal | None = None
    max_drawdown_fraction: Decimal = ZERO
    positions: Mapping[str, Decimal] = field(default_factory=dict)
    intents: Mapping[str, Intent] = field(default_factory=dict)
    refuses_differences: bool = False

    def differences(self, held: Mapping[str, Decimal], fills: Sequence[Fill]) -> list[str]:
        """Positions that neither the log nor the log and the fills since explain, in words.

        Args:
            held: signed quantity by symbol.
            fills: those since the last steps in the log, in their order, with a row or without.
        """
        found = []
        for symbol, logged in self.positions.items():
            mine = [fill for fill in fills if fill.symbol == symbol]
            new = [fill for fill in mine if (symbol, fill.trade_id) not in self.logged_trades]
            # A row may show a position whose last fills have no row yet, or, where the account could not be read, one
            # from before its own.
            explained = {logged + _sum(of[first:]) for of in (new, mine) for first in range(len(of) + 1)}
            if held.get(symbol, logged) not in explained:
                found.append(
                    f"{symbol}: the step log ends with {_plain(logged)}, fills since make "
                    f"{_plain(logged + _sum(new))}, the exchange holds {_plain(held[symbol])}"
                )
        return found


def _sum(fills: Sequence[Fill]) -> Decimal:
    return sum((fill.signed_quantity for fill in fills), ZERO)


def _plain(quantity: Decimal) -> str:
    return f"{quantity.normalize():f}"


async def begin_account(
    account: LiveAccount, symbols: Sequence[str], resume: Resume, boundary_ms: int
) -> Beginning:
    """Read an account for the first time, and compare it with what the log and the fills since make of it.

    Args:
        account: not read yet.
        symbols: that it trades.
        resume: where the run stands.
        boundary_ms: open time of the candle that is forming.

    Raises:
        ConfigError: no fill explains a position; names the difference and the remedy.
    """
    for pause_s in (*_FILLS_LATE_S, None):
        beginning = await account.begin(
            boundary_ms,
            logged=resume.logged_trades,
            since_ms=resume.fills_since_ms,
            transfers_since_ms=resume.transfers_until_ms,
        )
        differences = resume.differences({s: account.position(s)[0] for s in symbols}, beginning.around)
        if not differences or pause_s is None:
            break
        await asyncio.sleep(pause_s)
    if differences and resume.refuses_differences:
        raise ConfigError(
            f"{'; '.join(differences)}: no fill explains the difference, and nothing was traded. If it is another "
            "exchange, or one that was started anew, give another folder with --out; else look at the account, "
            "then start with --acknowledge-emergency to go on from what the exchange holds"
        )
    for difference in differences:
        _log.warning("%s; going on from what the exchange holds", difference)
    return beginning
