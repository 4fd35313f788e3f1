"""One exchange account under several agents: `SharedAccount` owns it, and gives each agent its `SubAccount`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from decimal import Decimal
from typing import Self

from envs.account import ZERO
from envs.errors import ConfigError, ExchangeError, HaltedError, LedgerError
from envs.risk_state import RiskStore
from live.exchange.base import Candle, Exchange, ExchangeAccount
from live.ledger import MANUAL, Ledger, Transfer
from live.ledger.arithmetic import exact
from live.ledger.identity import Identity, check_identity
from live.store.journal import Journal
from live.subaccount.candle_hub import CandleHub
from live.subaccount.desk import SharedDesk
from live.subaccount.events import OwnEvents
from live.subaccount.joined import Joined
from live.subaccount.keeper import Keeper
from live.subaccount.own_fills import EXCESS_MARK
from live.subaccount.settings import SharedAccountSettings
from live.subaccount.sub import SubAccount
from live.subaccount.switchboard import Switchboard
from live.subaccount.view import AccountView
from live.sync import PositionSync, TradeSync

_LOG = logging.getLogger(__name__)

_AUDITS = 6


class SharedAccount:
    """An exchange account whose positions and money belong to several agents, and to MANUAL.

    Everything runs in the event loop that `start` was called in; the agents' environments may each have a thread of
    their own. What an agent has is always folded from the ledger, so that nothing of it can be lost with this process.

    Args:
        exchange: the real account, connected; closed by who opened it.
        ledger: of the account.
        sync: brings the account's fills, funding and transfers into the ledger; not started yet. Started and closed
            here.
        settings: the agents, their capital, and the limits above them.
        store: keeps the account's peak equity and halt across restarts; None forgets them.
    """

    def __init__(
        self,
        exchange: Exchange,
        ledger: Ledger,
        sync: TradeSync,
        settings: SharedAccountSettings,
        *,
        store: RiskStore | None = None,
    ) -> None:
        self.exchange = exchange
        self.ledger = ledger
        self.sync = sync
        self.settings = settings
        self.account = sync.account
        self.view = AccountView(ledger, self.account, settings, sync.run)
        self.desk = SharedDesk(exchange, sync, self.view)
        self.keeper = Keeper(
            self.view, self.desk, Journal(ledger.store), store, exchange.now_ms, sync.run, self._confirm
        )
        self.candles = CandleHub(exchange, settings.symbols, self._on_candle)
        self.verify = Joined(self._verify)
        self.read_bookings = Joined(self._read_bookings)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._dirty = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._keeping = asyncio.Lock()
        self.error: BaseException | None = None
        self.switchboard = Switchboard(self.view, self.desk, self._touch)
        self.positions = PositionSync(sync, settings=settings.position_sync)
        sync.add_listener(on_fill=self.switchboard.on_fill, on_event=self.switchboard.on_event)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # Life

    async def start(self, *, acknowledge_emergency: bool = False) -> None:
        """Bring the ledger up to now, assign the capital, and finish what an earlier process began.

        Raises:
            ConfigError: the agents' capital is more than the account holds.
            LedgerError: the account holds what no entry explains.
            HaltedError: the account was halted by its limits, and that was not acknowledged.
            ExchangeError: the account cannot be read.
        """
        try:
            self.view.instruments = await self.exchange.instruments(self.settings.symbols)
            self.view.prices |= await self.exchange.prices()
            await self.sync.start()
            # Also what is still held of symbols that the configuration has dropped must be margined and closed.
            held = {symbol for _, symbol in self.ledger.positions(self.account)} - set(self.settings.symbols)
            self.view.instruments |= await self.exchange.instruments(sorted(held)) if held else {}
            await self._check_books()
            await self.sync.run(self._assign_capital)
            await self.desk.adopt()
            await self.keeper.start(acknowledge=acknowledge_emergency)
            if self.desk.halted:
                await self.keeper.halt(self.desk.halted)
                raise HaltedError(
                    f"the account was halted: {self.desk.halted}. Look at it, then start again with "
                    "--acknowledge-emergency",
                    reason=self.desk.halted,
                )
            self._touch_all()
            self._watch = asyncio.get_running_loop().create_task(self._keep(), name="shared account")
            self.positions.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End all streams and tasks. Orders and positions stay as they are."""
        tasks = [*self._tasks.values(), *([self._watch] if self._watch else [])]
        self._tasks, self._watch = {}, None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.switchboard.close()
        await self.candles.close()
        try:
            await self.positions.close()
        finally:
            await self.sync.close()

    def agent(self, name: str) -> SubAccount:
        """An agent's account.

        Raises:
            ConfigError: it has none.
        """
        if name not in self.settings.agents:
            known = ", ".join(self.settings.agents)
            raise ConfigError(f"agent {name!r} has no part of this account; those with one are {known}")
        return SubAccount(self, name)

    async def _check_books(self) -> None:
        """What the exchange has must be explained by the ledger, before anybody trades on it."""
        identity = await self.audit()
        first = not any(self.ledger.capital(self.account, name) for name in self.settings.agents)
        if first and identity.missing_usdt and not identity.missing_quantities:
            # The exchange's history does not reach back to the account's first day.
            opening = Transfer(
                self.account,
                MANUAL,
                identity.missing_usdt,
                self.exchange.now_ms(),
                f"opening:{self.exchange.now_ms()}",
                note="balance that the exchange's history does not explain",
            )
            await self.sync.run(self.ledger.record_transfers, [opening])
            _LOG.warning(
                "%s: %s USDT are older than the exchange's history; they are %s's",
                self.account,
                identity.missing_usdt,
                MANUAL,
            )
            return
        if not identity.holds:
            missing = {symbol: str(value) for symbol, value in identity.missing_quantities.items()}
            raise LedgerError(
                f"{self.account}: the exchange and the ledger differ by {identity.missing_usdt} USDT and by the "
                f"quantities {missing}; nobody trades until that is explained: look at the account, and run "
                "python -m live.store check"
            )

    def _assign_capital(self) -> None:
        """Pay the agents' capital out of what nobody owns; what was paid before counts."""
        with exact():
            unassigned = self.ledger.capital(self.account, MANUAL)
            wanted = {
                name: unassigned
                if agent.capital_usdt is None
                else agent.capital_usdt - self.ledger.capital(self.account, name)
                for name, agent in self.settings.agents.items()
            }
            free = self.ledger.wallet(self.account, MANUAL)
            needed = sum(wanted.values(), ZERO)
        if needed > max(free, ZERO) and not self._is_alone:
            total = sum((agent.capital_usdt or ZERO for agent in self.settings.agents.values()), ZERO)
            raise ConfigError(
                f"the agents' capital adds up to {total} USDT: {needed} more than they have, but {self.account} has "
                f"only {free:.2f} USDT that no agent owns; give them less, or pay some in"
            )
        # First what is taken back: MANUAL never owes.
        for name, amount in sorted(wanted.items(), key=lambda one: one[1]):
            if amount:
                # Numbered, so that a capital that comes back to what it was is an assignment of its own.
                number = self.view.assignments(name) + 1
                self.ledger.assign_capital(
                    self.account,
                    name,
                    amount,
                    time_ms=self.exchange.now_ms(),
                    assignment=f"config:{name}:{number}",
                )

    @property
    def _is_alone(self) -> bool:
        return all(agent.capital_usdt is None for agent in self.settings.agents.values())

    async def _pass_on_transfers(self) -> None:
        """What was paid in or out meanwhile is the capital of an agent that has the account for itself."""
        if self._is_alone and self.ledger.capital(self.account, MANUAL):
            await self.sync.run(self._assign_capital)

    # What the exchange says

    async def audit(self) -> Identity:
        """Compare the ledger with the exchange, to the last unit, after reading what was missing.

        Orders that are under way make the two differ for a moment: it is compared again, a few times.
        """
        for attempt in range(_AUDITS):
            before = self.ledger.booked_wallet(self.account)
            account = await self.exchange.account()
            identity = check_identity(
                self.ledger,
                self.account,
                exchange_wallet=account.wallet_usdt,
                exchange_quantities={s: p.quantity for s, p in account.positions.items()},
            )
            if identity.holds:
                break
            if before == self.ledger.booked_wallet(self.account):
                if attempt:
                    await asyncio.sleep(0.05 * 2**attempt)
                await self.sync.catch_up()
        return identity

    async def _verify(self) -> None:
        """Make sure that the ledger has what the exchange has, and take over its prices and what was paid in or out."""
        self.check()
        account = await self._confirm()
        for symbol, position in account.positions.items():
            self.view.prices[symbol] = position.mark_price
        await self._pass_on_transfers()

    async def _confirm(self) -> ExchangeAccount:
        """Make sure that the ledger has what the exchange has: one cheap question, and the history where it differs."""
        account = await self.exchange.account()
        net = {s: q for s, q in self.ledger.net_positions(self.account).items() if q}
        held = {s: p.quantity for s, p in account.positions.items()}
        if net != held or self.ledger.booked_wallet(self.account) != account.wallet_usdt:
            await self.sync.catch_up()
        return account

    async def _read_bookings(self) -> None:
        await self.sync.catch_up(())

    def check(self) -> None:
        """Raise the error that ended the account's tasks, if one did."""
        self.sync.check()
        if self.error is not None:
            raise self.error

    @property
    def is_current(self) -> bool:
        """Whether the ledger has all that the exchange has told."""
        return self.sync.is_caught_up

    def open_events(self, agent: str) -> OwnEvents:
        """A stream of an agent's events."""
        return self.switchboard.open(agent, lambda: self.is_current)

    def _on_candle(self, candle: Candle) -> None:
        self.view.prices[candle.symbol] = Decimal(repr(candle.close))
        self._dirty.set()

    # Watching

    def _touch(self, agent: str, symbol: str) -> None:
        """Something happened to an agent's position: look what is left over."""
        if symbol in self.view.instruments:
            self._tidy_soon(agent, symbol)
        self._dirty.set()

    def _touch_all(self) -> None:
        for agent in self.settings.agents:
            for symbol in self.view.instruments:
                self._touch(agent, symbol)

    def _tidy_soon(self, agent: str, symbol: str) -> None:
        """Tidy up in the background, once at a time for a position; a second time after the first."""
        name = f"tidy {agent} {symbol}"
        previous = self._tasks.get(name)

        async def run() -> None:
            if previous is not None and not previous.done():
                await asyncio.wait({previous})
            await self._tidy(agent, symbol)

        task = asyncio.get_running_loop().create_task(run(), name=name)
        self._tasks[name] = task
        task.add_done_callback(lambda one: self._ended(name, one))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
        if not task.cancelled() and task.exception() is not None:
            self.error = self.error or task.exception()
            _LOG.error("%s: %s has failed: %s", self.account, name, task.exception())

    async def _tidy(self, agent: str, symbol: str) -> None:
        delay_s = self.settings.close_delay_s
        for _ in range(self.settings.close_tries):
            try:
                if await self.desk.tidy(agent, symbol, EXCESS_MARK):
                    return
            except ExchangeError as error:
                _LOG.warning("%s %s: what is left over cannot be closed yet: %s", agent, symbol, error)
            await asyncio.sleep(delay_s)
            delay_s *= 2
        _LOG.error("%s %s: an excess is left; trying again with the next event", agent, symbol)

    async def _keep(self) -> None:
        """Look at every agent and at the account whenever something happened, and every `watch_s`."""
        while True:
            try:
                async with asyncio.timeout(self.settings.watch_s):
                    await self._dirty.wait()
            except TimeoutError:
                pass
            try:
                if not self._dirty.is_set() and self._has_positions():
                    self.view.prices |= await self.exchange.prices()
                self._dirty.clear()
                await self.keep()
            except ExchangeError as error:
                _LOG.warning("%s cannot be watched: %s", self.account, error)
            except Exception as error:
                self.error = self.error or error
                _LOG.error("%s: nobody watches over the account any more: %s", self.account, error)
                raise

    def _has_positions(self) -> bool:
        return bool(self.ledger.positions(self.account))

    async def keep(self) -> None:
        """Liquidate whom the newest prices demand, and halt everybody where the account's limits do."""
        async with self._keeping:
            reason = await self.keeper.check_account()
            if reason:
                await self.keeper.halt(reason)
                return
            for agent in self.settings.agents:
                why = self.keeper.must_liquidate(agent)
                if why:
                    await self.keeper.liquidate(agent, why)

    async def settled(self) -> None:
        """Wait until nothing is left to tidy up and everybody was looked at."""
        while self._tasks:
            await asyncio.wait(set(self._tasks.values()))
            self.check()
        await self.keep()

    # Settings at the exchange

    async def set_leverage(self, agent: str, symbol: str, leverage: int) -> None:
        """Set an agent's leverage; the exchange's own is the highest that any agent needs."""
        await self.desk.leverage.set(agent, symbol, leverage)

    def invariant(self) -> Mapping[str, Decimal]:
        """Net quantity less the sum of everybody's, by symbol: 0, or the ledger contradicts itself."""
        with exact():
            return {
                book.symbol: book.net_quantity - sum((one.p1 for one in book.positions.values()), ZERO)
                for book in self.ledger.books(self.account)
                if book.symbol
            }
