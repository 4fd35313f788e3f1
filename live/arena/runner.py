"""`live.py --arena FILE`: puts a live arena together, shows its leaderboard, and leaves everything in order."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from decimal import Decimal

from rich.console import Console

from agents.arena.config import ArenaConfig, Entrant
from agents.arena.report import write_arena_report
from agents.arena.standings import Standing, leaderboard_table, width_for_tables, write_leaderboard
from agents.base import AgentSetup, KeepsRecords
from envs.account import ZERO
from envs.errors import HaltedError, PerpgymError
from envs.planning import to_decimal
from envs.risk import FileRiskStore
from envs.time_grid import interval_to_ms
from live.arena.board import Board
from live.arena.pace import Pace
from live.arena.player import Player, Stage
from live.arena.screen import Screen
from live.bridge import LoopThread
from live.console import LiveConsole
from live.exchange.binance import BinanceExchange
from live.heap import heap_set_aside
from live.ledger import Ledger
from live.options import SessionOptions
from live.recovery import run_lock
from live.run_memory import RunMemory
from live.session import (
    account_name,
    check_agent,
    close_exchange,
    confirm_real_money,
    make_folder,
    stop_signals,
)
from live.store.journal import Journal
from live.subaccount import SharedAccount, SharedAccountSettings
from live.sync import TradeSync
from live.venues import VenueSession, open_venue


@dataclass(frozen=True, kw_only=True)
class ArenaLiveOptions(SessionOptions):
    """A live arena; each agent has a folder in its folder, and without `db` the ledger is kept there too.

    Attributes:
        config: the arena.
        entrants: its agents.
    """

    config: ArenaConfig
    entrants: Sequence[Entrant]


@dataclass(frozen=True)
class ArenaLiveResult:
    """How a live arena ended."""

    standings: tuple[Standing, ...]
    exit_code: int


def run_live_arena(options: ArenaLiveOptions, console: LiveConsole) -> ArenaLiveResult:
    """Run an arena on one exchange account until all are done, or it is stopped.

    Raises:
        PerpgymError: nobody could start, or nobody could go on; with the exit code that the command should end with.
    """
    config = options.config
    interval_ms = interval_to_ms(config.interval)
    for one in options.entrants:
        check_agent(one.setup, config.symbols, interval_ms, options.seed)
    make_folder(options.folder)
    session = open_venue(
        options.choice,
        options.paper,
        account_setup(options.entrants),
        config.symbols,
        interval_ms,
        options.environ,
    )
    try:
        alone = nullcontext() if session.fresh else run_lock(options.folder, session.account_key)
        with alone, heap_set_aside(), LoopThread() as bridge:
            return _Arena(options, session, bridge, console, interval_ms).run()
    finally:
        session.close()


def account_setup(entrants: Sequence[Entrant]) -> AgentSetup:
    """What the paper exchange is started for: everybody's capital together, and the longest warm-up."""
    total = sum((to_decimal(one.capital_usdt) for one in entrants), ZERO)
    longest = max((one.setup for one in entrants), key=lambda one: one.features.warmup + one.env.window_size)
    env = longest.env.model_copy(update={"initial_capital_usdt": float(total)})
    return replace(longest, env=env)


class _Arena:
    """One session of an arena."""

    def __init__(
        self,
        options: ArenaLiveOptions,
        session: VenueSession,
        bridge: LoopThread,
        console: LiveConsole,
        interval_ms: int,
    ) -> None:
        self._options = options
        self._session = session
        self._bridge = bridge
        self._console = console
        self._interval_ms = interval_ms
        self._players: list[Player] = []
        self._sitting_out: dict[str, str] = {}
        self._pace: Pace | None = None
        self._board: Board | None = None

    def run(self) -> ArenaLiveResult:
        options, session = self._options, self._session
        if session.venue.real_money:
            agents = ", ".join(f"{one.name} {one.capital_usdt:g} USDT" for one in options.entrants)
            confirm_real_money(session, self._bridge, f" on the account; {agents}.", options.confirm)
        exchange = options.connection.connector(session.venue, session.credentials, options.config.symbols)
        self._bridge.call(exchange.connect())
        try:
            ledger = Ledger.open(options.db or str(options.folder / "arena.db"))
            try:
                return self._run_on(exchange, ledger)
            finally:
                ledger.close()
        finally:
            self._bridge.call(close_exchange(exchange, session))

    def _run_on(self, exchange: BinanceExchange, ledger: Ledger) -> ArenaLiveResult:
        options, session, symbols = self._options, self._session, self._options.config.symbols
        account_id = self._bridge.call(exchange.account_id())
        name = account_name(session, account_id)
        sync = TradeSync(exchange, ledger, symbols=symbols, account=name)
        store = (
            None if session.fresh else FileRiskStore(options.folder / f"account_{session.account_key}.json")
        )
        shared = SharedAccount(exchange, ledger, sync, shared_settings(options.config), store=store)
        self._bridge.call(shared.start(acknowledge_emergency=options.acknowledge_emergency))
        try:
            memories = self._memories()
            playing = [one for one in options.entrants if one.name in memories]
            if not playing:
                raise HaltedError(
                    "every agent of the arena is halted: look at the account, then start again with "
                    "--acknowledge-emergency",
                    reason="; ".join(self._sitting_out.values()),
                )
            if session.lock_step is not None:
                self._pace = Pace(session.lock_step.request_candle, shared.settled, memories)
            stage = Stage(
                shared,
                Journal(ledger.store),
                self._bridge,
                self._pace,
                symbols,
                self._interval_ms,
                account_id,
                session.fresh,
                options.steps,
                options.seed,
                {"venue": session.venue.name, "synthetic": session.synthetic, "arena": options.config.name},
            )
            self._board = Board(shared, stage.journal, options.entrants, self._interval_ms)
            self._players = [Player(one, memories[one.name], stage) for one in playing]
            self._banner()
            with stop_signals(self.stop):
                self._play(stage)
            return self._finish(stage)
        finally:
            self._bridge.call(shared.close())

    def _memories(self) -> dict[str, RunMemory]:
        """The memory of each agent that may play; one that was halted sits out."""
        options, found = self._options, {}
        for one in options.entrants:
            folder = options.folder / one.name
            folder.mkdir(parents=True, exist_ok=True)
            memory = RunMemory(
                folder,
                self._session.account_key,
                fresh=self._session.fresh,
                acknowledge=options.acknowledge_emergency,
                notice=lambda text, name=one.name: self._console.notice(f"{name}: {text}"),  # type: ignore[misc]
            )
            try:
                memory.check_halt()
            except HaltedError as error:
                self._sitting_out[one.name] = f"{one.name} sits out: {error}"
                self._console.notice(self._sitting_out[one.name])
            else:
                found[one.name] = memory
        return found

    def _banner(self) -> None:
        options = self._options
        capital = sum(one.capital_usdt for one in options.entrants)
        lines = [
            self._session.description,
            f"{len(self._players)} agents with {capital:,.2f} USDT together, {', '.join(options.config.symbols)}, "
            f"{options.config.interval} candles",
        ]
        self._console.banner("perpgym arena", lines, real_money=self._session.venue.real_money)
        for one in options.entrants:
            if one.note:
                self._console.notice(f"note: {one.note}")

    def _play(self, stage: Stage) -> None:
        """Let all play, and show where they stand."""
        for player in self._players:
            player.start()
        with Screen(
            self._options.config.name,
            lambda: self._standings(stage),
            stage.shared.exchange.now_ms,
            quiet=self._options.quiet,
        ) as screen:
            while any(player.playing for player in self._players):
                for player in self._players:
                    player.join(0.05)
                if stage.shared.desk.halted or self._is_broken():
                    self.stop()
                screen.show(sum(player.steps for player in self._players))

    def _is_broken(self) -> bool:
        """Whether a loop ended by what is no error of an exchange or of a setting."""
        return any(one.error is not None and not isinstance(one.error, PerpgymError) for one in self._players)

    def stop(self) -> None:
        """End all loops after their current step."""
        for player in self._players:
            player.request_stop()
        if self._pace is not None:
            pace = self._pace
            self._bridge.loop.call_soon_threadsafe(lambda: self._bridge.loop.create_task(pace.stop()))

    def _standings(self, stage: Stage, *, anew: bool = False) -> tuple[Standing, ...]:
        assert self._board is not None
        endings = dict.fromkeys(self._sitting_out, "halted") | {one.name: one.ending for one in self._players}
        found: tuple[Standing, ...] = stage.write(self._board.read, endings, anew=anew)
        return found

    def _finish(self, stage: Stage) -> ArenaLiveResult:
        unread = ""
        try:
            self._bridge.call(stage.shared.verify())
            self._bridge.call(stage.shared.settled())
        except PerpgymError as error:
            unread = f"the leaderboard is of what the ledger had: the exchange could not be read at the end: {error}"
        standings = self._standings(stage, anew=True)
        options = self._options
        notices = [one.note for one in options.entrants if one.note] + list(self._sitting_out.values())
        for player in self._players:
            if player.emergency is not None:
                flat = "it is flat" if player.emergency.succeeded else "IT IS NOT FLAT"
                notices.append(f"{player.name}: emergency: {player.emergency.reason}; {flat}")
            if player.error is not None:
                notices.append(f"{player.name} could not go on: {player.error}")
        if unread:
            notices.append(unread)
        if stage.shared.desk.halted:
            notices.append(f"the whole account was halted: {stage.shared.desk.halted}")
        for one in options.entrants:
            if isinstance(one.setup.agent, KeepsRecords) and one.name not in self._sitting_out:
                notices += one.setup.agent.notices()
        about = {
            "arena": options.config.name,
            "account": stage.shared.account,
            "symbols": list(options.config.symbols),
            "interval": options.config.interval,
            "synthetic": self._session.synthetic,
            "notices": notices,
        }
        write_leaderboard(options.folder, standings, about)
        assert self._board is not None
        write_arena_report(
            options.folder / "report.html",
            f"Arena {options.config.name}",
            f"{', '.join(options.config.symbols)}, {options.config.interval} candles, {self._session.description}",
            self._board.curves(),
            standings,
            notices,
            synthetic=self._session.synthetic,
        )
        width = width_for_tables(Console())
        table = leaderboard_table(standings, options.config.name, width=width)
        Console(highlight=False, width=width).print(table)
        for notice in notices:
            self._console.notice(f"note: {notice}")
        self._console.notice(f"files: {options.folder}")
        for player in self._players:
            if player.error is not None and not isinstance(player.error, PerpgymError):
                raise player.error
        errors = [one.error for one in self._players if isinstance(one.error, PerpgymError)]
        if stage.shared.desk.halted or any(one.emergency is not None for one in self._players):
            return ArenaLiveResult(standings, 3)
        return ArenaLiveResult(standings, errors[0].exit_code if errors else 0)


def shared_settings(config: ArenaConfig) -> SharedAccountSettings:
    """The parts of the account, as the arena assigns them."""
    limits = config.account

    def exact(value: float | None) -> Decimal | None:
        return None if value is None else to_decimal(value)

    return SharedAccountSettings.parse(
        {
            "symbols": config.symbols,
            "agents": {
                name: {"capital_usdt": to_decimal(config.capital_of(name)), "symbols": one.symbols}
                for name, one in config.agents.items()
            },
            "limits": {
                "max_drawdown_fraction": exact(limits.max_drawdown_fraction),
                "max_net_leverage": exact(limits.max_net_leverage),
            },
        },
        where="arena",
    )
