"""The leaderboard of a live arena, folded from the ledger and its journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np

from agents.arena.config import Entrant
from agents.arena.report import Curve
from agents.arena.standings import Standing, net_return
from agents.metrics import candle_returns, max_drawdown, sharpe_ratio
from envs.account import Fill
from live.ledger.queries import Statistics, Where, statistics
from live.store.journal import Journal
from live.subaccount import SharedAccount


@dataclass(slots=True)
class _Page:
    """What has been read of one agent, and up to when."""

    times_ms: list[int] = field(default_factory=list)
    curve: list[float] = field(default_factory=list)
    decided_ms: int = -1
    cost_usd: Decimal = Decimal(0)
    has_tokens: bool = False
    holds: int = 0
    done: Statistics | None = None

    @property
    def equity_ms(self) -> int:
        """Up to when the equity is read."""
        return self.times_ms[-1] if self.times_ms else -1


class Board:
    """Folds where the agents of an account stand from the ledger and its journal; a refresh reads what has come since.

    Args:
        shared: the account.
        journal: of its database.
        entrants: who plays on it.
        interval_ms: of a candle.
    """

    def __init__(
        self, shared: SharedAccount, journal: Journal, entrants: Sequence[Entrant], interval_ms: int
    ) -> None:
        self._shared = shared
        self._journal = journal
        self._entrants = tuple(entrants)
        self._interval_ms = interval_ms
        self._pages = {one.name: _Page() for one in self._entrants}
        # Whose fills are not counted yet. The loop adds, the reader takes away before it reads: none is lost.
        self._traded = set(self._pages)
        shared.sync.add_listener(on_fill=self._note_fill)

    def _note_fill(self, fill: Fill) -> None:
        owner = self._shared.view.owner(fill)
        # A foreign fill is shared out among all who hold.
        self._traded.update([owner] if owner else self._pages)

    def read(self, endings: Mapping[str, str], *, anew: bool = False) -> tuple[Standing, ...]:
        """Where everybody stands now, not ranked. To be called on the thread that writes the ledger (`TradeSync.run`).

        Args:
            endings: how an agent's run ended, by name.
            anew: read everything again.
        """
        if anew:
            self._pages = {one.name: _Page() for one in self._entrants}
        return tuple(self._standing(one, endings.get(one.name, "")) for one in self._entrants)

    def curves(self) -> dict[str, Curve]:
        """The equity of each agent at the closes that were read, from its capital on."""
        found = {}
        for one in self._entrants:
            page = self._pages[one.name]
            capital = float(self._shared.ledger.capital(self._shared.account, one.name)) or one.capital_usdt
            before_ms = [page.times_ms[0] - self._interval_ms] if page.times_ms else []
            times_ms = np.array(before_ms + page.times_ms, dtype=np.int64)
            found[one.name] = times_ms, np.array([capital, *page.curve])[-len(times_ms) :]
        return {name: curve for name, curve in found.items() if len(curve[0])}

    def _standing(self, entrant: Entrant, ending: str) -> Standing:
        shared, name = self._shared, entrant.name
        page = self._pages[name]
        done = self._turn(page, name)
        capital = float(shared.ledger.capital(shared.account, name)) or entrant.capital_usdt
        equity = float(shared.view.margins(name).equity_usdt)
        curve = np.array([capital, *page.curve, equity])
        cost: float | None = float(page.cost_usd)
        if entrant.is_llm and not cost and page.has_tokens:
            cost = None  # a model without a price
        return Standing(
            rank=0,
            agent=name,
            played_by=entrant.played_by,
            capital=capital,
            equity=equity,
            total_return=equity / capital - 1.0,
            net_return=net_return(capital, equity, cost),
            sharpe=sharpe_ratio(candle_returns(curve), self._interval_ms),
            max_drawdown=max_drawdown(curve),
            trades=done.round_trips,
            win_rate=None if done.win_rate_fraction is None else float(done.win_rate_fraction),
            fees=float(done.fees_usdt),
            llm_cost=cost,
            steps=len(page.curve),
            ending=ending,
            holds=page.holds,
        )

    def _turn(self, page: _Page, name: str) -> Statistics:
        """Read what the page lacks. An agent makes one row of each kind per candle, in the order of the candles."""
        account, journal = self._shared.account, self._journal
        for row in journal.equity_of(account, name, since_ms=page.equity_ms + 1):
            page.curve.append(float(row.equity_usdt))
            page.times_ms.append(row.time_ms)
        for cost in journal.costs(account, name, since_ms=page.decided_ms + 1):
            page.cost_usd += cost.cost_usd
            page.has_tokens = page.has_tokens or cost.output_tokens > 0
            page.holds += cost.verdict not in ("ACCEPTED", "REDUCED")
            page.decided_ms = cost.time_ms
        if page.done is None or name in self._traded:
            self._traded.discard(name)
            page.done = statistics(self._shared.ledger.store, Where(account, agent=name))
        return page.done
