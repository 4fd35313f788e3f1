"""What an agent remembers of its decisions: the last few, with what came of each."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal

from agents.llm.decision import Decision
from agents.llm.records import Ruling
from agents.llm.scene import Past
from envs.account import CandleEvent, Fill
from envs.planning import to_decimal


class Memory:
    """The last `size` decisions, oldest first."""

    def __init__(self, size: int) -> None:
        self._past: deque[Past] = deque(maxlen=size)

    @property
    def past(self) -> tuple[Past, ...]:
        """What is remembered."""
        return tuple(self._past)

    def decided(self, close_ms: int, decision: Decision, ruling: Ruling, fills: Iterable[Fill]) -> None:
        """Remember a decision. Of its outcome only words of ours are kept, none of an exchange or a check."""
        outcome = ruling.verdict.value + (f": {ruling.check}" if ruling.check else "")
        self._past.append(
            Past(
                close_ms=close_ms,
                action=decision.action,
                outcome=outcome,
                symbol=decision.symbol,
                side=decision.side,
                quantity=_decimal(decision.quantity),
                stop_price=_decimal(decision.stop_loss),
                take_profit_price=_decimal(decision.take_profit),
                strategy=decision.strategy,
                reasoning=decision.reasoning,
                fills=tuple(("filled", fill.signed_quantity, fill.price) for fill in fills),
            )
        )

    def not_understood(self, close_ms: int, problem: str) -> None:
        """Remember a reply that was no decision."""
        self._past.append(Past(close_ms, "none", "invalid: the reply was no decision", complaint=problem))

    def happened(self, events: Iterable[CandleEvent]) -> None:
        """Tell triggers and liquidations to the newest decision about their symbol."""
        for event in events:
            fill = event.fill
            traded = (event.action_type.value, fill.signed_quantity, fill.price)
            for place in reversed(range(len(self._past))):
                one = self._past[place]
                if one.symbol == fill.symbol and one.action != "HOLD":
                    self._past[place] = replace(one, fills=(*one.fills, traded))
                    break
            else:
                self._past.append(
                    Past(fill.time_ms, "none", "the exchange acted", symbol=fill.symbol, fills=(traded,))
                )


def _decimal(value: float | None) -> Decimal | None:
    return None if value is None or not math.isfinite(value) else to_decimal(value)
