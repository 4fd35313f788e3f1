"""The leaderboard of a live arena, folded from the ledger and its journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from agents.arena.config import Entrant
from agents.arena.standings import Standing, net_return, ranked
from agents.llm.records import DecisionRecord
from agents.metrics import candle_returns, max_drawdown, sharpe_ratio
from live.ledger.queries import Where, statistics
from live.store.journal import Decision, Journal
from live.subaccount import SharedAccount


class StoreSink:
    """Writes a language model's decisions into the database.

    Args:
        write: stores a decision.
        account: the exchange account's name there.
        provider: whom the model is asked of.
    """

    def __init__(self, write: Callable[[Decision], object], account: str, provider: str) -> None:
        self._write = write
        self._account = account
        self._provider = provider

    def record(self, record: DecisionRecord) -> None:
        """See `DecisionSink.record`."""
        decision: Mapping[str, Any] = record.decision or {}
        prompt = None if record.prompt is None else "\n\n".join(record.prompt.values())
        self._write(
            Decision(
                exchange=self._account,
                agent=record.agent,
                time_ms=record.close_ms,
                action=str(decision.get("action") or "HOLD"),
                verdict=record.verdict.value.upper(),
                provider=self._provider,
                model=record.model,
                prompt_hash=record.prompt_hash,
                symbol=str(decision.get("symbol") or ""),
                decision=record.decision,
                reason=": ".join(part for part in (record.check, record.detail) if part),
                template=record.template,
                prompt=prompt,
                reply=record.reply,
                input_tokens=record.usage.input_tokens,
                cached_tokens=record.usage.cached_tokens,
                output_tokens=record.usage.output_tokens,
                cost_usd=Decimal(repr(record.usd or 0.0)),
                latency_ms=record.latency_ms,
                calls=record.calls,
            )
        )

    def close(self) -> None:
        """The database is closed by who opened it."""


def leaderboard(
    shared: SharedAccount,
    journal: Journal,
    entrants: Sequence[Entrant],
    interval_ms: int,
    endings: Mapping[str, str],
) -> tuple[Standing, ...]:
    """Where everybody stands now. To be called on the thread that writes the ledger (`TradeSync.run`)."""
    return ranked(_standing(shared, journal, one, interval_ms, endings.get(one.name, "")) for one in entrants)


def _standing(
    shared: SharedAccount, journal: Journal, entrant: Entrant, interval_ms: int, ending: str
) -> Standing:
    account, name = shared.account, entrant.name
    capital = float(shared.ledger.capital(account, name)) or entrant.capital_usdt
    equity = float(shared.view.margins(name).equity_usdt)
    done = statistics(shared.ledger.store, Where(account, agent=name))
    over_time = [float(row.equity_usdt) for row in journal.equity_of(account, name)]
    curve = np.array([capital, *over_time, equity])
    decisions = journal.decisions(account, agent=name)
    cost: float | None = float(sum((one.cost_usd for one in decisions), Decimal(0)))
    if entrant.is_llm and not cost and any(one.output_tokens for one in decisions):
        cost = None  # a model without a price
    return Standing(
        rank=0,
        agent=name,
        played_by=entrant.played_by,
        capital=capital,
        equity=equity,
        total_return=equity / capital - 1.0,
        net_return=net_return(capital, equity, cost),
        sharpe=sharpe_ratio(candle_returns(curve), interval_ms),
        max_drawdown=max_drawdown(curve),
        trades=done.round_trips,
        win_rate=None if done.win_rate_fraction is None else float(done.win_rate_fraction),
        fees=float(done.fees_usdt),
        llm_cost=cost,
        steps=len(over_time),
        ending=ending,
        holds=sum(one.verdict not in ("ACCEPTED", "REDUCED") for one in decisions),
    )
