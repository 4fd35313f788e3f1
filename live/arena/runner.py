"""`live.py --arena FILE`: puts a live arena together, shows its leaderboard, and leaves everything in order."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import dataclass

from rich.console import Console

from agents.arena.report import write_arena_report
from agents.arena.standings import Standing, leaderboard_table, write_leaderboard
from agents.base import KeepsRecords
from agents.formatting import width_for_tables
from envs.errors import HaltedError, PerpgymError
from envs.time_grid import interval_to_ms
from live.arena.accounts import ArenaAccounts
from live.arena.options import ArenaLiveOptions
from live.arena.pace import Pace
from live.arena.player import Player
from live.arena.screen import Screen
from live.bridge import LoopThread
from live.console import LiveConsole
from live.folders import make_folder
from live.heap import heap_set_aside
from live.ledger import Ledger
from live.recovery import run_lock
from live.run_memory import RunMemory
from live.session import check_agent, stop_signals
from live.venues import VenueSession, open_venue


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
        options.paper_options(),
        options.account_setup(),
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
        self._accounts = ArenaAccounts(options, session, bridge)
        self._stopping = threading.Event()

    def run(self) -> ArenaLiveResult:
        options, session = self._options, self._session
        if session.venue.real_money:
            self._accounts.confirm()
        try:
            ledger = Ledger.open(options.db or str(options.folder / "arena.db"))
            try:
                return self._run_on(ledger)
            finally:
                ledger.close()
        finally:
            if session.lock_step is not None:
                self._bridge.call(session.lock_step.close())

    def _run_on(self, ledger: Ledger) -> ArenaLiveResult:
        accounts, options, session = self._accounts, self._options, self._session
        accounts.open(ledger)
        try:
            memories = self._memories()
            if not memories:
                raise HaltedError(
                    "every agent of the arena is halted: look at the account, then start again with "
                    "--acknowledge-emergency",
                    reason="; ".join(self._sitting_out.values()),
                )
            if session.lock_step is not None:
                self._pace = Pace(
                    session.lock_step.request_candle, accounts.settled, memories, self._stopping
                )
            accounts.begin(self._pace, self._stopping, self._interval_ms)
            self._players = [
                Player(one, memories[one.name], accounts.stage_of(one.name))
                for one in options.entrants
                if one.name in memories
            ]
            self._banner()
            with stop_signals(self.stop):
                self._play()
            return self._finish()
        finally:
            accounts.close()

    def _memories(self) -> dict[str, RunMemory]:
        """The memory of each agent that may play; one that was halted sits out."""
        options, found = self._options, {}
        for one in options.entrants:
            folder = options.folder / one.name
            folder.mkdir(parents=True, exist_ok=True)
            memory = RunMemory(
                folder,
                self._accounts.key_of(one.name),
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
        sharing = options.entrants_on(None)
        capital = sum(one.capital_usdt for one in sharing)
        lines = [
            self._session.description,
            f"{', '.join(options.config.symbols)}, {options.config.interval} candles",
            f"{', '.join(one.name for one in sharing)}: {capital:,.2f} USDT on one account"
            if sharing
            else "",
            *(
                f"{one.name}: on the sub-account {real}"
                for one in options.entrants
                if (real := options.config.agents[one.name].real_account) is not None
            ),
        ]
        self._console.banner(
            "perpgym arena", [*filter(None, lines)], real_money=self._session.venue.real_money
        )
        for one in options.entrants:
            if one.note:
                self._console.notice(f"note: {one.note}")

    def _play(self) -> None:
        """Let all play, and show where they stand."""
        for player in self._players:
            player.start()
        try:
            self._show_until_all_ended()
        except BaseException:
            # Nobody trades on an account that is being closed.
            self.stop()
            for player in self._players:
                player.join()
            raise

    def _show_until_all_ended(self) -> None:
        with Screen(
            self._options.config.name,
            self._standings,
            self._accounts.shared[0].exchange.now_ms,
            quiet=self._options.quiet,
        ) as screen:
            while any(player.playing for player in self._players):
                for player in self._players:
                    player.join(0.05)
                if len(self._accounts.halted) == len(self._accounts.shared) or self._is_broken():
                    self.stop()
                for player in self._players:
                    if player.halted:
                        player.request_stop()
                screen.show(sum(player.steps for player in self._players))

    def _is_broken(self) -> bool:
        """Whether a loop ended by what is no error of an exchange or of a setting."""
        return any(one.error is not None and not isinstance(one.error, PerpgymError) for one in self._players)

    def stop(self) -> None:
        """End all loops after their current step."""
        # For all at once: who ends first would have the next candle played for those who have not heard of it yet.
        self._stopping.set()
        for player in self._players:
            player.request_stop()
        if self._pace is not None:
            pace = self._pace
            self._bridge.loop.call_soon_threadsafe(lambda: self._bridge.loop.create_task(pace.wake()))

    def _standings(self, *, anew: bool = False) -> tuple[Standing, ...]:
        endings = dict.fromkeys(self._sitting_out, "halted") | {one.name: one.ending for one in self._players}
        return self._accounts.standings(endings, anew=anew)

    def _finish(self) -> ArenaLiveResult:
        unread = ""
        try:
            self._bridge.call(self._accounts.verify())
        except PerpgymError as error:
            unread = f"the leaderboard is of what the ledger had: the exchange could not be read at the end: {error}"
        standings = self._standings(anew=True)
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
        halted = self._accounts.halted
        notices += [f"the whole account was halted: {one.desk.halted} ({one.account})" for one in halted]
        for one in options.entrants:
            if isinstance(one.setup.agent, KeepsRecords) and one.name not in self._sitting_out:
                notices += one.setup.agent.notices()
        about = {
            "arena": options.config.name,
            "accounts": {
                one.name: self._accounts.stage_of(one.name).shared.account for one in options.entrants
            },
            "symbols": list(options.config.symbols),
            "interval": options.config.interval,
            "synthetic": self._session.synthetic,
            "notices": notices,
        }
        write_leaderboard(options.folder, standings, about)
        write_arena_report(
            options.folder / "report.html",
            f"Arena {options.config.name}",
            f"{', '.join(options.config.symbols)}, {options.config.interval} candles, {self._session.description}",
            self._accounts.curves(),
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
        if halted or any(one.emergency is not None for one in self._players):
            return ArenaLiveResult(standings, 3)
        return ArenaLiveResult(standings, errors[0].exit_code if errors else 0)
