"""Where an earlier session of a run ended, as the environment needs to know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from envs.account import ZERO, Fill
from live.intent import Intent


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
    """

    last_row_close_ms: int = 0
    fills_since_ms: int = 0
    logged_trades: frozenset[tuple[str, str]] = field(default_factory=frozenset)
    transfers_until_ms: int | None = None
    peak_equity_usdt: Decimal | None = None
    max_drawdown_fraction: Decimal = ZERO
    positions: Mapping[str, Decimal] = field(default_factory=dict)
    intents: Mapping[str, Intent] = field(default_factory=dict)

    def differences(self, held: Mapping[str, Decimal], fills: Sequence[Fill]) -> list[str]:
        """Positions that neither the log nor the log and the fills since explain, in words."""
        found = []
        for symbol, logged in self.positions.items():
            mine = [fill.signed_quantity for fill in fills if fill.symbol == symbol]
            # A row may show a position whose last fills have no row yet.
            explained = {logged + sum(mine[first:], ZERO) for first in range(len(mine) + 1)}
            if held.get(symbol, logged) not in explained:
                found.append(
                    f"{symbol}: the step log ends with {logged}, fills since make {logged + sum(mine, ZERO)}, the "
                    f"exchange holds {held[symbol]}"
                )
        return found
