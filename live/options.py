"""What a live run of one agent and a live arena are both told."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from live.exchange.connection import ConnectionSettings
from live.venues import PaperOptions, VenueChoice


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """A live session.

    Attributes:
        folder: where step logs, emergencies and state go.
        choice, paper: where it trades.
        connection: patience with the exchange, and what it does when this process dies.
        steps: end after so many; None goes on.
        db: database that the account is kept in.
        acknowledge_emergency: clear halts before starting.
        confirm: asked before the first order with real money; a no ends the session.
        quiet: show nothing while it runs.
        seed: of the agents.
        environ: where credentials are looked for.
    """

    folder: Path
    choice: VenueChoice = VenueChoice.AUTO
    paper: PaperOptions = field(default_factory=PaperOptions)
    connection: ConnectionSettings = field(default_factory=ConnectionSettings)
    steps: int | None = None
    db: str | None = None
    acknowledge_emergency: bool = False
    confirm: Callable[[str], bool] = lambda _question: False
    quiet: bool = False
    seed: int | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
