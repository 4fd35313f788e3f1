"""Live arenas in the test's own process, on a paper exchange."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from agents.arena.config import ArenaConfig, Entrant, enter
from agents.arena.standings import Standing
from agents.base import Agent
from envs.base import Action, Observation
from envs.market import Market
from envs.observation import ObservationSpec
from live.arena.options import ArenaLiveOptions
from live.arena.runner import ArenaLiveResult, run_live_arena
from live.console import LiveConsole
from live.exchange.connection import ConnectionSettings
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from live.venues import PaperOptions, VenueChoice

SYMBOLS = ("BTCUSDT", "ETHUSDT")
# No fault is played here: a reply that is late is that of a slow machine.
PATIENT = ConnectionSettings(attempts=10, timeout_s=60.0, receive_window_ms=60_000)
RULE = {"agent": "ema-cross", "parameters": {"fast": 2, "slow": 4}}
HOLDER = {"agent": "buy-and-hold"}


class Watched:
    """An agent, and somebody who is told before each of its decisions."""

    def __init__(self, agent: Agent, before: Callable[[int], None]) -> None:
        self.name = agent.name
        self._agent = agent
        self._before = before
        self._count = 0

    def reset(self, spec: ObservationSpec, *, seed: int | None = None) -> None:
        self._agent.reset(spec, seed=seed)

    def act(self, observation: Observation, info: dict[str, Any]) -> Action:
        self._before(self._count)
        self._count += 1
        return self._agent.act(observation, info)

    def close(self) -> None:
        self._agent.close()


def arena_of(folder: Path, agents: Mapping[str, Any], **settings: Any) -> ArenaConfig:
    """An arena, by way of its file."""
    path = folder / "arena.yaml"
    values = {"symbols": list(SYMBOLS), "interval": "1h", "capital_usdt": 1000.0, "agents": dict(agents)}
    path.write_text(yaml.safe_dump({**values, **settings}), encoding="utf-8")
    return ArenaConfig.read(path)


@contextmanager
def exchange(market: Market, *accounts: PaperAccount) -> Iterator[PaperServer]:
    """A paper exchange in lock-step, by default with one account."""
    server = PaperServer.start(ReplayFeed(market, 20), accounts or (PaperAccount(),))
    try:
        yield server
    finally:
        server.stop()


def play(
    config: ArenaConfig,
    folder: Path,
    server: PaperServer | None = None,
    *,
    before: Mapping[str, Callable[[int], None]] | None = None,
    environ: Mapping[str, str] | None = None,
    **options: Any,
) -> ArenaLiveResult:
    """An arena in this process."""

    def watched(one: Entrant) -> Entrant:
        told = (before or {}).get(one.name)
        if told is not None:
            one.setup = replace(one.setup, agent=Watched(one.setup.agent, told))
        return one

    entrants = [watched(one) for one in enter(config, seed=0, environ=environ)]
    paper = PaperOptions() if server is None else PaperOptions(url=server.rest_url)
    given = ArenaLiveOptions(
        config=config,
        entrants=entrants,
        folder=folder,
        choice=VenueChoice.PAPER,
        paper=paper,
        environ=environ or {},
        **{"quiet": True, "connection": PATIENT, **options},
    )
    return run_live_arena(given, LiveConsole(out=io.StringIO()))


def board_of(result: ArenaLiveResult) -> dict[str, Standing]:
    """The standings by agent."""
    return {one.agent: one for one in result.standings}


def notices(folder: Path) -> str:
    """What the leaderboard says beside its figures."""
    return " | ".join(json.loads((folder / "leaderboard.json").read_text())["notices"])
