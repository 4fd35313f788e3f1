"""What a run remembers from session to session, and whether that fits the account that it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from envs.account import ZERO
from envs.errors import ConfigError, HaltedError
from envs.risk_state import FileRiskStore, RiskState, RiskStore
from live.intent import Intent, IntentFile
from live.recovery import Logged, Session, TransferMark, read_logged, sessions_of, write_session
from live.resume import Resume

_STAMP = "%Y%m%d_%H%M%S"


class _FreshStore:
    """The risk store of an account that is new with each session: a halt is kept, an old peak means nothing."""

    def __init__(self, store: FileRiskStore) -> None:
        self._store = store

    def load(self) -> RiskState | None:
        return None

    def save(self, state: RiskState) -> None:
        self._store.save(state)

    def note(self, state: RiskState) -> None:
        """An account that ends with the session needs none."""


class _CountingStore:
    """The risk store of a run that goes on: what a state counts of deposits and withdrawals is noted with it."""

    def __init__(self, store: FileRiskStore, transfers: TransferMark) -> None:
        self._store = store
        self._transfers = transfers

    def load(self) -> RiskState | None:
        return self._store.load()

    def save(self, state: RiskState) -> None:
        self._transfers.save_for(state)
        self._store.save(state)
        self._transfers.saved()

    def note(self, state: RiskState) -> None:
        """A state that counts a new transfer is saved, never only noted."""
        self._store.note(state)


@dataclass(frozen=True, slots=True)
class Remembered:
    """Where the run stands.

    Attributes:
        logged: what its step logs hold.
        state: peak equity and the like; None for a new run.
        resume: the same for the environment.
    """

    logged: Logged
    state: RiskState | None
    resume: Resume


class RunMemory:
    """The files of a run in its folder.

    Args:
        folder: of the run.
        account_key: venue and address, part of the files' names.
        fresh: the account is new with this session, so that nothing earlier is about it.
        acknowledge: the user has looked at what an emergency left.
        notice: tells the user something.
        positions_add_up: the account is the exchange's own, which nothing but fills may change: a position that they
            do not explain is refused, unless the user has looked.
    """

    def __init__(
        self,
        folder: Path,
        account_key: str,
        *,
        fresh: bool,
        acknowledge: bool,
        notice: Callable[[str], None],
        positions_add_up: bool = False,
    ) -> None:
        self.folder = folder
        self._key = account_key
        self._fresh = fresh
        self._acknowledge = acknowledge
        self._notice = notice
        self._positions_add_up = positions_add_up
        self._file = FileRiskStore(folder / f"risk_{account_key}.json")
        self._transfers = None if fresh else TransferMark(folder, account_key)
        self._intents = None if fresh else IntentFile(folder, account_key)

    @property
    def store(self) -> RiskStore:
        """The risk state, for the risk layer."""
        if self._transfers is None:
            return _FreshStore(self._file)
        return _CountingStore(self._file, self._transfers)

    def note_transfers(self, until_ms: int) -> None:
        """The next risk state counts deposits and withdrawals up to here."""
        if self._transfers is not None:
            self._transfers.note(until_ms)

    def save_intents(self, intents: Mapping[str, Intent]) -> None:
        """Note which stops and take-profits the last decisions named."""
        if self._intents is not None:
            self._intents.save(intents)

    def check_halt(self) -> None:
        """Raise a HaltedError when an emergency has not been acknowledged. Needs no exchange."""
        state = self._file.load()
        if state is not None and state.halted_reason and not self._acknowledge:
            raise HaltedError(
                f"this run was halted: {state.halted_reason}. Look at the account, then start again with "
                "--acknowledge-emergency",
                reason=state.halted_reason,
            )

    def recall(self, account_id: str, symbols: tuple[str, ...]) -> Remembered:
        """Read what earlier sessions left, and put away a halt that was acknowledged.

        Args:
            account_id: the exchange's own name of the account; empty where it has none.
            symbols: that the run trades.

        Raises:
            ConfigError: the run was on another account, or its risk state is missing.
            StepLogError: a file is damaged.
        """
        sessions = [] if self._fresh else sessions_of(self.folder, self._key)
        self._check_account(sessions, account_id)
        logged = read_logged(sessions, symbols)
        for path in logged.repaired:
            self._notice(f"cut off the unfinished last line of {path.name}")
        self._put_halt_away()
        state = self.store.load()
        if state is None and logged.last_row_close_ms:
            self._check_state_may_be_missing(logged)
        resume = Resume(
            last_row_close_ms=logged.last_row_close_ms,
            fills_since_ms=logged.fills_since_ms,
            logged_trades=logged.trades,
            positions=logged.positions,
            transfers_until_ms=None
            if state is None or self._transfers is None
            else self._transfers.load(state),
            peak_equity_usdt=None if state is None else state.peak_equity_usdt,
            max_drawdown_fraction=ZERO if state is None else state.max_drawdown_fraction,
            intents={} if self._intents is None else self._intents.load(),
            refuses_differences=self._positions_add_up and not self._acknowledge,
        )
        return Remembered(logged, state, resume)

    def _check_account(self, sessions: list[Session], account_id: str) -> None:
        for session in reversed(sessions):
            if session.account_id and account_id and session.account_id != account_id:
                raise ConfigError(
                    f"{session.log.name} is about the account {session.account_id}, but this API key is of the "
                    f"account {account_id}: use a key of the former, or give another folder with --out"
                )

    def _check_state_may_be_missing(self, logged: Logged) -> None:
        path = self._file.path
        if not self._acknowledge:
            raise ConfigError(
                f"{path} is missing, but the step log has {logged.next_step} steps, the last at an equity of "
                f"{logged.equity_usdt:.2f} USDT and a drawdown of {logged.drawdown_fraction:.4%}: the file says what "
                "the drawdown counts from and whether the run is halted. Restore it, or start with "
                "--acknowledge-emergency to count from the account as it is now"
            )
        self._notice(f"{path.name} is missing: the drawdown counts from the account as it is now")

    def _put_halt_away(self) -> None:
        """Forget a halt that the user has looked at; `check_halt` has seen to it that there is no other.

        The drawdown then counts from the account as it is at the reset; else the old peak would halt the run at
        once again. The file stays, so that a missing one is never the trace of an acknowledgement.
        """
        state = self._file.load()
        if state is not None and state.halted_reason:
            self._notice(f"emergency acknowledged: {state.halted_reason}")
            kept = replace(state, halted_reason="", peak_equity_usdt=ZERO, max_drawdown_fraction=ZERO)
            self._file.save(replace(kept, day_start_ms=0, day_start_equity_usdt=ZERO))

    def begin_session(self, about: dict[str, Any]) -> dict[str, Path]:
        """Note that a session begins and what it is about; the paths of its `steps` and `emergencies`."""
        stamp = self._free_stamp()
        write_session(self.folder, stamp, {"account": self._key, **about})
        return {name: self.folder / f"{name}_{stamp}.csv" for name in ("steps", "emergencies")}

    def _free_stamp(self) -> str:
        """The time to the second, as a name that no other session has, and that sorts behind theirs.

        A session that starts within the second of the last one, or after the clock was set back, is named one later.
        """
        now = datetime.now(UTC).strftime(_STAMP)
        names = (path.stem.removeprefix("session_") for path in self.folder.glob("session_*.json"))
        newest = max(names, default="")
        if newest < now:
            return now
        try:
            taken = datetime.strptime(newest, _STAMP).replace(tzinfo=UTC)
        except ValueError as error:
            raise ConfigError(
                f"session_{newest}.json in {self.folder} is not named by a time; move it away"
            ) from error
        return (taken + timedelta(seconds=1)).strftime(_STAMP)
