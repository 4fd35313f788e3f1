"""How much of an order fills at once. Off by default: everything does.

With a limit set, an account can trade so much of a symbol until the next price event (the next candle in
lock-step, the next price of a paced feed). Accounts do not take liquidity from each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from live.paper.money import ZERO


@dataclass(slots=True)
class Liquidity:
    """Base quantity per symbol that one account can still trade; a symbol without a limit: all."""

    limits: dict[str, Decimal] = field(default_factory=dict)
    _used: dict[tuple[int, str], Decimal] = field(default_factory=dict)

    def renew(self, limits: Mapping[str, Decimal]) -> None:
        """Begin a price event: these limits hold, and nothing of them is used."""
        if self.limits or limits:
            self.limits = dict(limits)
            self._used.clear()

    def available(self, account_id: int, symbol: str, wanted: Decimal) -> Decimal:
        """How much of `wanted` an account can trade now."""
        limit = self.limits.get(symbol)
        if limit is None:
            return wanted
        return min(wanted, max(ZERO, limit - self._used.get((account_id, symbol), ZERO)))

    def use(self, account_id: int, symbol: str, quantity: Decimal) -> None:
        """Take a filled quantity from what is left."""
        if symbol in self.limits:
            key = (account_id, symbol)
            self._used[key] = self._used.get(key, ZERO) + quantity

    def dump(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "limits": {symbol: str(limit) for symbol, limit in self.limits.items()},
            "used": [[account_id, symbol, str(used)] for (account_id, symbol), used in self._used.items()],
        }

    def load(self, values: dict[str, Any]) -> None:
        """Put in what `dump` wrote."""
        self.limits = {symbol: Decimal(text) for symbol, text in values["limits"].items()}
        self._used = {(account_id, symbol): Decimal(text) for account_id, symbol, text in values["used"]}
