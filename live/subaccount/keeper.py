"""Watches over the agents of a shared account: virtual liquidation, and the limits of the account as a whole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from decimal import Decimal

from envs.account import ZERO
from envs.errors import ExchangeError, OrderRejectedError
from envs.risk_state import RiskState, RiskStore, drawdown_fraction, fresh_state, transfer_scale
from live.ledger.queries import Where, trades
from live.store.journal import Emergency, Journal
from live.subaccount.desk import REDUCE_ONLY_REJECT, SharedDesk
from live.subaccount.own_fills import HALT_MARK, LIQUIDATION_MARK, RunInThread, mark_of
from live.subaccount.view import AccountView

_LOG = logging.getLogger(__name__)


class Keeper:
    """Closes what must not stay open, by real orders.

    Args:
        view, desk: of the account.
        journal: where liquidations and halts are written down.
        store: keeps the account's peak equity and a halt across restarts; None forgets them.
        now_ms: the exchange's clock.
        run: does what reads or writes the database.
        confirm: makes sure that the ledger has what the exchange has.
    """

    def __init__(
        self,
        view: AccountView,
        desk: SharedDesk,
        journal: Journal,
        store: RiskStore | None,
        now_ms: Callable[[], int],
        run: RunInThread,
        confirm: Callable[[], Awaitable[object]],
    ) -> None:
        self._run = run
        self._confirm = confirm
        self._view = view
        self._desk = desk
        self._journal = journal
        self._store = store
        self._now_ms = now_ms
        self._state: RiskState | None = None
        self._recorded_halt = False
        self._unfinished: dict[str, str] = {}

    # The account as a whole

    async def start(self, *, acknowledge: bool) -> None:
        """Take over peak and halt from before; a halt stays unless it is acknowledged."""
        stored = self._store.load() if self._store is not None else None
        equity, capital = self._view.equity_usdt(), self._view.capital_usdt()
        if stored is None:
            stored = replace(fresh_state(equity, self._now_ms()), initial_equity_usdt=capital)
        elif stored.halted_reason and acknowledge:
            stored = replace(stored, halted_reason="", peak_equity_usdt=equity)
            await self._run(self._journal.acknowledge, self._view.account, self._now_ms())
        self._state = stored
        self._desk.halted = stored.halted_reason
        await self._save()
        await self._run(self._find_unfinished)

    @property
    def state(self) -> RiskState:
        """Peak and halt of the account as a whole."""
        assert self._state is not None, "start() first"
        return self._state

    async def _save(self) -> None:
        if self._store is not None:
            await asyncio.to_thread(self._store.save, self.state)

    async def check_account(self) -> str:
        """Mark the account at the newest prices; why it must halt, empty when it need not."""
        before, limits = self.state, self._view.settings.limits
        equity, capital = self._view.equity_usdt(), self._view.capital_usdt()
        state = before
        if capital != state.initial_equity_usdt:
            # What was paid in or out is neither profit nor loss.
            scale = transfer_scale(capital - state.initial_equity_usdt, equity)
            state = replace(
                state, initial_equity_usdt=capital, peak_equity_usdt=state.peak_equity_usdt * scale
            )
        state = replace(state, peak_equity_usdt=max(state.peak_equity_usdt, equity))
        drawdown = drawdown_fraction(equity, state.peak_equity_usdt)
        reason = state.halted_reason
        most, leverage = limits.max_drawdown_fraction, limits.max_net_leverage
        if not reason and most is not None and drawdown >= most:
            reason = (
                f"the account's drawdown {drawdown:.4%} reached its limit of {most:.4%} (equity {equity:.2f} USDT, "
                f"peak {state.peak_equity_usdt:.2f})"
            )
        notional = self._view.net_notional_usdt() if leverage is not None and not reason else ZERO
        if not reason and leverage is not None and notional > leverage * max(equity, ZERO):
            reason = (
                f"the account's net positions of {notional:.2f} USDT are above {leverage} times its equity of "
                f"{equity:.2f}"
            )
        state = replace(state, halted_reason=reason)
        self._state = state
        self._desk.halted = reason
        if state != before:
            await self._save()  # a halt is stored before the first order is sent
        return reason

    async def halt(self, reason: str) -> bool:
        """Close everything of every agent and write it down; whether all is flat."""
        view = self._view
        before = view.equity_usdt()
        failures: list[str] = []
        tries = await self._until_flat(view.settings.agents, HALT_MARK, failures)
        flat = not self._open(view.settings.agents)
        if tries or not self._recorded_halt:
            self._recorded_halt = True
            after = view.equity_usdt()
            await self._record("", reason, before, after, tries, failures, succeeded=flat)
        return flat

    # One agent

    def must_liquidate(self, agent: str) -> str:
        """Why an agent must be liquidated now; empty when it need not."""
        margin = self._view.margins(agent)
        if margin.is_liquidated:
            return (
                f"virtual liquidation: equity {margin.equity_usdt:.4f} USDT at a maintenance margin of "
                f"{margin.maintenance_usdt:.4f}"
            )
        return self._unfinished.get(agent, "")

    def _find_unfinished(self) -> None:
        """Liquidations that a killed process left half done: a position is open that was there when they began."""
        done_ms: dict[str, int] = {}
        for row in self._journal.emergencies(self._view.account):
            if row.succeeded:
                done_ms[row.agent] = max(row.time_ms, done_ms.get(row.agent, 0))
        for agent in self._view.settings.agents:
            opened = [state.opened_ms for state in self._view.positions(agent).values()]
            if not opened:
                continue
            since = Where(self._view.account, agent=agent, since_ms=min(opened))
            begun_ms = [
                fill.time_ms
                for fill in trades(self._view.ledger.store, since)
                if mark_of(fill.client_order_id) == LIQUIDATION_MARK
            ]
            if max(begun_ms, default=0) > done_ms.get(agent, 0):
                self._unfinished[agent] = "virtual liquidation, begun before a restart"

    async def liquidate(self, agent: str, reason: str) -> bool:
        """Close all of an agent's positions and cancel its triggers; whether it is flat."""
        view = self._view
        _LOG.warning("%s: %s", agent, reason)
        before = view.margins(agent).equity_usdt
        self._desk.closing.add(agent)
        failures: list[str] = []
        try:
            tries = await self._until_flat([agent], LIQUIDATION_MARK, failures)
        finally:
            self._desk.closing.discard(agent)
        flat = not self._open([agent])
        if flat:
            self._unfinished.pop(agent, None)
        else:
            self._unfinished[agent] = reason
        after = view.margins(agent).equity_usdt
        await self._record(agent, reason, before, after, tries, failures, succeeded=flat)
        return flat

    def _open(self, agents: Iterable[str]) -> list[tuple[str, str, Decimal]]:
        return [(a, s, state.p1) for a in agents for s, state in sorted(self._view.positions(a).items())]

    async def _until_flat(self, agents: Iterable[str], mark: int, failures: list[str]) -> int:
        """Close until nothing is open; how many rounds it took.

        Before each round the exchange is asked what is there: it may have liquidated the account itself, and an order
        that closes what is gone would open the opposite.
        """
        settings = self._view.settings
        delay_s, rounds = settings.close_delay_s, 0
        agents = list(agents)
        while self._open(agents) and rounds < settings.close_tries:
            if rounds:
                await asyncio.sleep(delay_s)
                delay_s *= 2
            rounds += 1
            try:
                await self._confirm()
            except ExchangeError as unread:
                failures.append(str(unread))
            left = self._open(agents)
            done = await asyncio.gather(
                *(self._desk.close(agent, symbol, quantity, mark) for agent, symbol, quantity in left),
                return_exceptions=True,
            )
            for error in done:
                if isinstance(error, OrderRejectedError) and error.code == REDUCE_ONLY_REJECT:
                    continue  # it is gone already
                if isinstance(error, ExchangeError):
                    failures.append(str(error))
                elif isinstance(error, BaseException):
                    raise error
        for agent in agents:
            for symbol in self._view.instruments:
                if self._desk.has_triggers(agent, symbol):
                    try:
                        await self._desk.cancel_triggers(agent, symbol)
                    except ExchangeError as error:
                        failures.append(str(error))
        return rounds

    async def _record(
        self,
        agent: str,
        reason: str,
        before: Decimal,
        after: Decimal,
        tries: int,
        failures: list[str],
        *,
        succeeded: bool,
    ) -> None:
        state, limit = self.state, self._view.settings.limits.max_drawdown_fraction
        whole = not agent
        await self._run(
            self._journal.emergency,
            Emergency(
                exchange=self._view.account,
                agent=agent,
                time_ms=self._now_ms(),
                reason=reason,
                drawdown_fraction=drawdown_fraction(before, state.peak_equity_usdt) if whole else ZERO,
                peak_usdt=state.peak_equity_usdt if whole else before,
                equity_before_usdt=before,
                equity_after_usdt=after,
                tries=tries,
                succeeded=succeeded,
                limit_fraction=limit if whole else None,
                failures=tuple(failures),
            ),
        )
