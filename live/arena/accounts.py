"""The exchange accounts of a live arena: the one that is shared, and real sub-accounts beside it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agents.arena.report import Curve
from agents.arena.standings import Standing, ranked
from envs.risk_state import FileRiskStore
from live.arena.board import Board
from live.arena.options import ArenaLiveOptions, shared_settings
from live.arena.pace import Pace
from live.arena.player import Stage
from live.bridge import LoopThread
from live.exchange.binance import BinanceExchange
from live.ledger import Ledger
from live.session import account_name, confirm_real_money
from live.settings import Credentials
from live.store.journal import Journal
from live.subaccount import AgentPorts, SharedAccount, sub_account_credentials
from live.venues import VenueSession


@dataclass(frozen=True)
class _Table:
    """An account, for those who play on it, and where they stand."""

    stage: Stage
    board: Board


class ArenaAccounts:
    """Everybody's account. Open it, begin, and close it; to be called from outside the accounts' event loop.

    Args:
        options: the arena.
        session: where it trades.
        bridge: the loop that the accounts live in.
    """

    def __init__(self, options: ArenaLiveOptions, session: VenueSession, bridge: LoopThread) -> None:
        self._options = options
        self._session = session
        self._bridge = bridge
        self._settings = shared_settings(options.config)
        self._ports: AgentPorts | None = None
        self._ledger: Ledger | None = None
        self._tables: dict[str | None, _Table] = {}

    def _real_account(self, agent: str) -> str | None:
        return self._settings.agents[agent].real_account

    def _credentials(self, real: str | None) -> Credentials:
        """An account's keys; the embedded exchange's sub-accounts are made for this session."""
        if real is None:
            return self._session.credentials
        if self._session.fresh:
            return Credentials(real, self._options.paper.api_secret)
        return sub_account_credentials(real, self._options.environ)

    def _key(self, real: str | None) -> str:
        return self._session.account_key if real is None else f"{self._session.account_key}_{real}"

    def key_of(self, agent: str) -> str:
        """What tells an agent's account apart in the names of state files."""
        return self._key(self._real_account(agent))

    def confirm(self) -> None:
        """Ask about every account by itself.

        Raises:
            ConfigError: an answer was no.
            ExchangeError: a key may withdraw, or an account cannot be read.
        """
        for real in (None, *self._settings.real_accounts):
            here = self._options.entrants_on(real)
            if not here:
                continue
            if real is None:
                agents = ", ".join(f"{one.name} {one.capital_usdt:g} USDT" for one in here)
                about = f" on the account; {agents}."
            else:
                about = f" on the sub-account {real}, which {here[0].name} has for itself."
            session = replace(self._session, credentials=self._credentials(real))
            confirm_real_money(session, self._bridge, about, self._options.confirm)

    def open(self, ledger: Ledger) -> None:
        """Connect and start every account. Raises as `AgentPorts.open`; then none stays open."""
        options, session = self._options, self._session

        def connect(real: str | None) -> BinanceExchange:
            return options.connection.connector(
                session.venue, self._credentials(real), options.config.symbols
            )

        def name(real: str | None, account_id: str) -> str:
            found = account_name(session, account_id)
            return found if real is None else f"{found}.{real}"

        def store(real: str | None) -> FileRiskStore | None:
            path = options.folder / f"account_{self._key(real)}.json"
            return None if session.fresh else FileRiskStore(path)

        self._ledger = ledger
        self._ports = AgentPorts(self._settings, connect, ledger, name=name, store=store)
        self._bridge.call(self._ports.open(acknowledge_emergency=options.acknowledge_emergency))

    def begin(self, pace: Pace | None, stopping: threading.Event, interval_ms: int) -> None:
        """Make everything ready for the players; `pace` is theirs, and `stopping` ends all of them."""
        assert self._ports is not None
        assert self._ledger is not None
        options, session, journal = self._options, self._session, Journal(self._ledger.store)
        about = {"venue": session.venue.name, "synthetic": session.synthetic, "arena": options.config.name}
        for real, shared in self._ports.accounts.items():
            stage = Stage(
                shared,
                journal,
                self._bridge,
                pace,
                options.config.symbols,
                interval_ms,
                self._ports.account_ids[real],
                session.fresh,
                options.steps,
                options.seed,
                about,
                stopping,
            )
            board = Board(shared, journal, options.entrants_on(real), interval_ms)
            self._tables[real] = _Table(stage, board)

    def close(self) -> None:
        """Close what is open."""
        if self._ports is not None:
            self._bridge.call(self._ports.close())

    def stage_of(self, agent: str) -> Stage:
        """What an agent plays on."""
        return self._tables[self._real_account(agent)].stage

    @property
    def shared(self) -> list[SharedAccount]:
        """All accounts."""
        return [one.stage.shared for one in self._tables.values()]

    @property
    def halted(self) -> list[SharedAccount]:
        """Those that were halted as a whole."""
        return [one for one in self.shared if one.desk.halted]

    async def settled(self) -> None:
        """Wait until nothing is left to tidy up on any account."""
        await asyncio.gather(*(one.settled() for one in self.shared))

    async def verify(self) -> None:
        """Make sure that the ledger has what the exchange has of every account."""
        for one in self.shared:
            await one.verify()
        await self.settled()

    def standings(self, endings: Mapping[str, str], *, anew: bool) -> tuple[Standing, ...]:
        """Where everybody stands, best first; as `Board.read`."""
        found: dict[str, Standing] = {}
        for table in self._tables.values():
            found |= {one.agent: one for one in table.stage.write(table.board.read, endings, anew=anew)}
        return ranked(found[one.name] for one in self._options.entrants)

    def curves(self) -> dict[str, Curve]:
        """The agents' equity, in the arena's order: an agent has the same colour on every page."""
        found = {
            name: curve for table in self._tables.values() for name, curve in table.board.curves().items()
        }
        return {one.name: found[one.name] for one in self._options.entrants if one.name in found}
