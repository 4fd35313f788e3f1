"""Language models' decisions in the database, beside their log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from agents.llm.records import DecisionRecord, Verdict
from envs.account import Leg
from live.exchange.client_ids import client_order_id
from live.store.journal import Decision

# Of the table's columns, in PostgreSQL.
_MODEL_CHARS = 128


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
        carried_out = record.verdict in (Verdict.ACCEPTED, Verdict.REDUCED)
        symbol = str(decision.get("symbol") or "")
        usage = record.usage
        self._write(
            Decision(
                exchange=self._account,
                agent=record.agent,
                time_ms=record.close_ms,
                action=str(decision.get("action") or "HOLD") if carried_out else "HOLD",
                verdict=record.verdict.value.upper(),
                provider=self._provider,
                model=record.model[:_MODEL_CHARS],
                prompt_hash=record.prompt_hash,
                symbol=symbol,
                decision=record.decision,
                reason=_reason(record.check, record.detail),
                template=record.template[-_MODEL_CHARS:],
                prompt=None if record.prompt is None else "\n\n".join(record.prompt.values()),
                reply=record.reply,
                input_tokens=usage.input_tokens + usage.cached_tokens + usage.cache_write_tokens,
                cached_tokens=usage.cached_tokens,
                output_tokens=usage.output_tokens,
                cost_usd=Decimal(repr(record.usd or 0.0)),
                latency_ms=record.latency_ms,
                calls=record.calls,
                client_order_id=(
                    client_order_id(record.agent, symbol, record.close_ms, Leg.ORDER) if record.fills else ""
                ),
            )
        )

    def close(self) -> None:
        """The database is closed by who opened it."""


def _reason(check: str, detail: str) -> str:
    """Check and detail in one, the check once."""
    return detail if detail.startswith(check) else ": ".join(part for part in (check, detail) if part)
