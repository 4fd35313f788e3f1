"""What was spent of an agent's budgets, so that a restart knows it, wherever the process was killed.

A decision log tells of a decision when its outcome is known; its replies are paid for before. So each question is noted
before it is sent, and each reply when it comes, without a word of either.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from agents.llm.records import AppendedLines
from agents.llm.request import Usage
from envs.errors import ConfigError

SPENDING_NAME = "llm_spending.log"


class SpendingLog(AppendedLines):
    """Notes what one agent is about to pay for and has paid for: JSON lines of agent, close of the candle, tokens."""

    def __init__(self, path: Path, agent: str) -> None:
        super().__init__(path)
        self._agent = agent

    def note(self, close_ms: int, usage: Usage) -> None:
        """A question is about to be sent (no tokens), which counts as a decision whatever comes of it; or a reply came.

        Raises:
            ConfigError: the file cannot be written.
        """
        # "calls" is what a decision log has, too: one way to read both.
        row = {"agent": self._agent, "close_ms": close_ms, "calls": 1, "usage": asdict(usage)}
        self._append(json.dumps(row))

    def earlier(self, decisions: Path | None) -> list[tuple[int, Usage]]:
        """What was spent: (close of the candle, tokens) of each decision, oldest first.

        Args:
            decisions: a decision log, for decisions that nothing was noted of.

        Raises:
            ConfigError: a log cannot be read.
        """
        logged = {} if decisions is None else read_spending(decisions, self._agent)
        return sorted((logged | read_spending(self.path, self._agent)).items(), key=lambda one: one[0])


def read_spending(path: Path, agent: str) -> dict[int, Usage]:
    """What an agent was answered for money, by a log: tokens by close of the candle.

    A torn last line, of a process that was killed, is passed over.

    Raises:
        ConfigError: the log cannot be read.
    """
    found: dict[int, Usage] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    row = json.loads(line)
                    if row["agent"] == agent and row["calls"] > 0:
                        close_ms = int(row["close_ms"])
                        found[close_ms] = found.get(close_ms, Usage()) + Usage(**row["usage"])
                except (ValueError, KeyError, TypeError):
                    continue
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the decision log {path} cannot be read ({error}): it tells what is left of the budgets; move it away to "
            "begin anew"
        ) from error
    return found
