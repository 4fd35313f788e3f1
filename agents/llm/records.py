"""What is written down about every decision, and where."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from agents.llm.request import Usage
from envs.account import Execution, OrderResult, OrderStatus, Plan
from envs.decisions import CUT_LEVERAGE
from envs.errors import ConfigError
from envs.time_grid import format_time

RECORD_SCHEMA = 1


class Verdict(StrEnum):
    """What became of a decision. All but the first two end in HOLD."""

    ACCEPTED = "accepted"
    REDUCED = "reduced"  # carried out, smaller: a limit
    REJECTED = "rejected"  # a check, the risk layer or the exchange refused it
    INVALID = "invalid"  # the reply was no decision
    FAILED = "failed"  # no reply, or an order that failed
    OVER_BUDGET = "over_budget"  # not asked


@dataclass(frozen=True, slots=True)
class Ruling:
    """A verdict and what is behind it: the check or limit as a name, and a sentence."""

    verdict: Verdict
    check: str = ""
    detail: str = ""


@dataclass(frozen=True)
class DecisionRecord:
    """One decision, from the question to what came of it. Written once, never changed.

    Attributes:
        agent, model, template: who decided, by which words.
        close_ms: close of the candle that was decided on.
        verdict, check, detail: what became of it, and why.
        decision: as it was understood, in real symbols and prices; None when it was not.
        reply: the model's last words.
        request_key, prompt_hash: of the last question.
        prompt: the question in full, where it is kept.
        calls: answers that were paid for now.  replayed: answers from the replay cache.
        usage, usd: of the whole decision, replayed or not; usd is None where the price is unknown.
        latency_ms: time until the decision; for a replayed one that of the first time.
        repaired: the first reply was no decision.  blind: whether blind mode was on.
        fills: symbol, side, quantity and price of what it traded.
    """

    agent: str
    model: str
    template: str
    close_ms: int
    verdict: Verdict
    check: str = ""
    detail: str = ""
    decision: Mapping[str, Any] | None = None
    reply: str = ""
    request_key: str = ""
    prompt_hash: str = ""
    prompt: Mapping[str, str] | None = None
    calls: int = 0
    replayed: int = 0
    usage: Usage = field(default_factory=Usage)
    usd: float | None = None
    latency_ms: int = 0
    repaired: bool = False
    blind: bool = False
    fills: tuple[tuple[str, str, str, str], ...] = ()

    def ruled(self, ruling: Ruling) -> DecisionRecord:
        """The record with its verdict."""
        return replace(self, verdict=ruling.verdict, check=ruling.check, detail=ruling.detail)

    def to_json(self) -> str:
        """One line."""
        values = {"schema": RECORD_SCHEMA, "time": format_time(self.close_ms + 1), **asdict(self)}
        return json.dumps(values, ensure_ascii=True, allow_nan=False)


@dataclass(frozen=True, slots=True)
class Tally:
    """What an agent has done since its reset. `usd` and `usage` count replayed answers too."""

    verdicts: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    replayed: int = 0
    usage: Usage = field(default_factory=Usage)
    usd: float = 0.0

    def counting(self, record: DecisionRecord) -> Tally:
        """The tally with one more decision."""
        return Tally(
            self.verdicts + Counter((record.verdict.value,)),
            self.calls + record.calls,
            self.replayed + record.replayed,
            self.usage + record.usage,
            self.usd + (record.usd or 0.0),
        )


class DecisionSink(Protocol):
    """Where decisions are stored. The log is one, a database another."""

    def record(self, record: DecisionRecord) -> None:
        """Store a decision; it is not given again."""

    def close(self) -> None:
        """Give back what is held."""


class AppendedLines:
    """A file that lines are appended to. Several may share it: a line is one write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def _append(self, text: str) -> None:
        """Append a line.

        Raises:
            ConfigError: the file cannot be written.
        """
        line = f"{text}\n".encode()
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
                size = os.fstat(self._file).st_size
                if size and os.pread(self._file, 1, size - 1) != b"\n":
                    line = b"\n" + line  # a process was killed in the middle of its last line
            os.write(self._file, line)
        except OSError as error:
            raise ConfigError(
                f"the decision log {self.path} cannot be written ({error.strerror}); make room, or set records.log"
            ) from error

    def close(self) -> None:
        """Close the file; the next record opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class DecisionLog(AppendedLines):
    """Appends one JSON line per decision. Agents may share a file."""

    def record(self, record: DecisionRecord) -> None:
        """See `DecisionSink.record`.

        Raises:
            ConfigError: the file cannot be written.
        """
        self._append(record.to_json())


def shortest(value: Decimal) -> str:
    """A number without exponent and without zeros that say nothing."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def keeps_prompt(ruling: Ruling, request_key: str, share: float, seed: int) -> bool:
    """Whether a decision's prompt is kept in full: always where it counted, else for a seeded share of questions."""
    if ruling.verdict in (Verdict.ACCEPTED, Verdict.REDUCED):
        return True
    drawn = int.from_bytes(hashlib.sha256(f"{seed}:{request_key}".encode()).digest()[:8], "big")
    return drawn < share * 2**64


def rule(
    plan: Plan, execution: Execution, symbol: str, target: float, step_size: Decimal
) -> tuple[Ruling, OrderResult]:
    """What the risk layer and the exchange made of a decision for `symbol` that asked for the position `target`."""
    place = [entry.symbol for entry in plan.entries].index(symbol)
    asked, result = plan.entries[place], execution.results[place]
    done = result.planned
    if "its stop failed" in result.error:
        # A trigger that the exchange does not take: the position that it should guard is closed again.
        return Ruling(Verdict.FAILED, "trigger", result.error), result
    match result.status:
        case OrderStatus.REFUSED:
            check = result.refusal.check if result.refusal is not None else "risk"
            return Ruling(Verdict.REJECTED, check, result.error), result
        case OrderStatus.SKIPPED:
            return Ruling(Verdict.REJECTED, "min_notional", result.error), result
        case OrderStatus.REJECTED:
            return Ruling(Verdict.REJECTED, "exchange", result.error), result
        case OrderStatus.FAILED | OrderStatus.UNKNOWN:
            return Ruling(Verdict.FAILED, "exchange", result.error), result
        case OrderStatus.NONE:
            # No order was needed, or none was left of it.
            wanted = asked.target_quantity if asked.order is not None else Decimal(repr(float(target)))
            if result.error:
                check = "liquidated" if result.error == "liquidated" else _limit_of(result.error, "exchange")
                return Ruling(Verdict.REJECTED, check, result.error), result
            missing = abs(wanted - done.target_quantity)
            if missing < step_size and (done.target_quantity != 0 or wanted == 0):
                return Ruling(Verdict.ACCEPTED, "", "the position is as it should be"), result
            detail = f"nothing is left of {shortest(wanted)} within the limits and the quantity step"
            return Ruling(Verdict.REJECTED, "nothing_left", detail), result
    if "liquidated" in result.error:
        return Ruling(Verdict.REJECTED, "liquidated", result.error), result
    if result.status is OrderStatus.PARTIAL:
        return Ruling(Verdict.REDUCED, "exchange", result.error), result
    if done.note:
        return Ruling(Verdict.REDUCED, _limit_of(done.note), done.note), result
    return Ruling(Verdict.ACCEPTED), result


def _limit_of(note: str, otherwise: str = "limits") -> str:
    """The name of the limit in a note of the planner or of the risk layer."""
    if "reduced by " in note:
        return note.split("reduced by ", 1)[1].split()[0].rstrip(":")
    for words, name in (
        ("max_leverage", "max_leverage"),
        (CUT_LEVERAGE, "leverage"),
        ("largest position", "leverage_bracket"),
        ("maximum market order", "max_quantity"),
        ("already executed before the restart", "restart"),
    ):
        if words in note:
            return name
    return otherwise
