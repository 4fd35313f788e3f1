"""Agents whose provider answers by a function of this process, and whose decisions are kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_servers import llm_file, opening
from support import flat_rows, market_of

from agents.base import AgentSetup
from agents.catalog import merge_settings
from agents.llm.records import DecisionRecord
from agents.llm.request import Reply, Request, Usage
from agents.llm.setup import llm_setup
from envs.market import Market

SYMBOLS = ("BTCUSDT", "ETHUSDT")
_made: list[AgentSetup] = []
Script = Callable[[int, Request], Any]


@dataclass
class Scripted:
    """A provider of this process: answers by a function, and keeps what it was asked."""

    script: Script
    asked: list[Request] = field(default_factory=list)

    async def ask(self, request: Request) -> Reply:
        self.asked.append(request)
        said = self.script(len(self.asked) - 1, request)
        return Reply(said if isinstance(said, str) else json.dumps(said), usage=Usage(100, 0, 0, 10))

    async def check(self) -> None:
        pass

    async def close(self) -> None:
        pass


@dataclass
class Kept:
    """A sink, as a database would be one."""

    records: list[DecisionRecord] = field(default_factory=list)

    def record(self, record: DecisionRecord) -> None:
        self.records.append(record)

    def close(self) -> None:
        pass


def made(
    folder: Path, script: Script, symbols: Sequence[str] = SYMBOLS, **changes: Any
) -> tuple[AgentSetup, Scripted, Kept]:
    """An agent of the usual file with these changes, its provider, and a sink of its decisions."""
    provider, sink = Scripted(script), Kept()
    sections: dict[str, Any] = {name: {} for name in ("agent", "env", "features", "risk")}
    path = llm_file(folder, **{"cache": None, "records": {"log": None}, **changes})
    setup = llm_setup(
        path, symbols=symbols, sections=sections, merge=merge_settings, provider=provider, sinks=(sink,)
    )
    _made.append(setup)
    return setup, provider, sink


def close_all() -> None:
    """Close every agent that was made; between tests."""
    while _made:
        _made.pop().agent.close()


def user(request: Request) -> str:
    """The scene that was shown."""
    return request.messages[0].text


def trader(k: int, request: Request) -> Any:
    """Opens, turns round and closes, by what it is shown."""
    names = re.findall(r"^## (\S+)", user(request), re.MULTILINE)
    prices = [float(one) for one in re.findall(r"^Price ([\d.]+)", user(request), re.MULTILINE)]
    pick = sorted(range(len(names)), key=lambda i: indicator(request, i))[0]
    if k % 5 == 4:
        return {"action": "CLOSE_POSITION", "symbol": names[pick]}
    side = "BUY" if k % 2 else "SELL"
    stop = prices[pick] * (0.97 if side == "BUY" else 1.03)
    return opening(names[pick], side=side, quantity=800 / prices[pick], stop_loss=stop, leverage=2)


def indicator(request: Request, i: int) -> float:
    """The RSI of the i-th instrument shown."""
    return float(re.findall(r"rsi_3 ([-\d.e]+)", user(request))[i])


def calm_market(*closes: float) -> Market:
    """BTCUSDT at these closes without a wick, ETHUSDT at 10."""
    return market_of({"BTCUSDT": [(c, c, c, c) for c in closes], "ETHUSDT": flat_rows(*[10.0] * len(closes))})
