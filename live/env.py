"""LiveEnv: the trading environment over an exchange. The agent, the risk layer and the step log do not notice."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from envs import kernel
from envs.account import (
    ZERO,
    AccountSnapshot,
    Approved,
    Execution,
    Plan,
    Position,
)
from envs.base import Action, Observation, StepResult, TradingEnv
from envs.errors import (
    ActionError,
    ConfigError,
    ExchangeError,
    MarketDataError,
)
from envs.features import FeatureConfig
from envs.instruments import Instrument
from envs.observation import CLIP, observation_spec
from envs.planning import Planner, to_decimal
from envs.risk_state import transfer_scale
from envs.scaler import FeatureScaler
from envs.settings import EnvConfig
from envs.time_grid import HOUR_MS, format_time
from envs.view import RecentCandles
from live.bridge import LoopThread
from live.candle_feed import CandleFeed, RequestCandle
from live.exchange.base import Candle, Exchange
from live.fill_events import events_of
from live.history import LiveHistory
from live.intent import Intent
from live.live_account import Beginning, LiveAccount, Meanwhile
from live.order_desk import OrderDesk
from live.outcome import Outcome
from live.rehearsal import ClosesIn, Rehearsal, Rehearse
from live.resume import Resume, begin_account
from live.triggers import TriggerDesk

_NEAR = 0.002
"""A trigger this near to a candle's range, as a fraction of the price, counts as inside it."""

_CONNECTIONS = 20
"""So many orders of a step can leave without waiting for a connection."""

UNREAD = -1
"""`pending_orders` of an account that could not be read back."""


class LiveEnv(TradingEnv):
    """An account at an exchange, one step per closed candle.

    Spaces, observation and reward are those of `FuturesEnv` with the same settings. The account shown at the close of
    candle t holds what was booked before the next candle opened: a funding charged at that instant is counted after
    the step's orders, as in the simulation.

    Args:
        exchange: a connected exchange.
        bridge: the loop that the exchange lives in.
        interval_ms: candle length.
        config, features, scaler: as for FuturesEnv.
        instruments: the exchange's rules, in the order of the symbols.
        agent: name in client order ids.
        resume: where an earlier session ended.
        request_candle: awaited before each wait for a candle: the lock-step replay's hook. None waits for the market.
        on_transfers: told the time of the newest deposit or withdrawal that is counted, whenever that changes.
        on_intents: told which stops and take-profits the decisions of the `decision` scheme name, before the orders.
        closes_in_s: the exchange's clock, by which each step is rehearsed shortly before its candle closes. None
            rehearses nothing.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own convention)

    def __init__(
        self,
        exchange: Exchange,
        bridge: LoopThread,
        *,
        interval_ms: int,
        config: EnvConfig,
        features: FeatureConfig,
        scaler: FeatureScaler | None,
        instruments: Sequence[Instrument],
        agent: str,
        resume: Resume | None = None,
        request_candle: RequestCandle | None = None,
        on_transfers: Callable[[int], None] = lambda _time_ms: None,
        on_intents: Callable[[Mapping[str, Intent]], None] = lambda _intents: None,
        closes_in_s: ClosesIn | None = None,
    ) -> None:
        self.config = config
        self.instruments = tuple(instruments)
        self.symbols = tuple(instrument.symbol for instrument in self.instruments)
        self.agent = agent
        self.render_mode = None
        self._exchange = exchange
        self._bridge = bridge
        self._resume = resume or Resume()
        self._planner = Planner(config, self.instruments)
        self._history = LiveHistory(self.symbols, interval_ms, features, scaler, config.window_size)
        rehearsal = None
        if closes_in_s is not None:
            rehearsal = Rehearsal(closes_in_s, self._open_connections, self._rehearse)
        self._rehearse_more: tuple[Rehearse, ...] = ()
        self._feed = CandleFeed(exchange, self._history, request_candle, rehearsal)
        self._account = LiveAccount(exchange, self.symbols, agent)
        self._triggers = TriggerDesk(exchange, self.instruments, agent)
        self._desk = OrderDesk(
            exchange,
            self._account,
            self._triggers,
            config,
            self.instruments,
            agent,
            intents=self._resume.intents,
            on_intents=on_intents,
        )
        self.spec_observation = observation_spec(self.symbols, interval_ms, self._history.names, config)
        n = len(self.symbols)
        self.action_space = self._planner.action_space
        self.observation_space = gym.spaces.Box(-CLIP, CLIP, (self.spec_observation.size,), np.float32)
        self._record = np.zeros(1, kernel.ACCOUNT_DTYPE)
        self._position = np.zeros(n, kernel.POSITION_DTYPE)
        self._order = np.zeros(n, kernel.ORDER_DTYPE)
        # Views of their columns: a row of a structured array is an object that has to be made first.
        self._wallet = self._record["wallet"]
        self._quantity, self._entry_price = self._position["quantity"], self._position["entry_price"]
        self._candles_held = self._position["candles_held"]
        self._step = 0
        self._pending_orders = 0
        self._executed = False
        self._snapshot: AccountSnapshot | None = None  # until something changes
        self._on_transfers = on_transfers
        self._transfers_until_ms: int | None = None

    # --- Gymnasium ---------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Load the history, read the account, and find out what an earlier session left.

        `info["events"]` holds the fills that no step log has yet, `info["transfers_usdt"]` what was paid in or out
        meanwhile.

        Raises:
            MarketDataError: the exchange has too few candles, or none left to play.
            ConfigError: its clock is behind the step log, or a position is not what the log and the fills since make of
                it: it is not the exchange that the log is about.
        """
        super().reset(seed=seed)
        self._snapshot = None
        beginning = self._bridge.call(self._begin())
        self._note_transfers()
        self._step = 0
        self._executed = False
        peak = self._resume.peak_equity_usdt
        if peak is not None:
            equity = self.account().equity_usdt
            peak *= transfer_scale(beginning.transfers_usdt, equity)
        self._record[:] = np.zeros(1, kernel.ACCOUNT_DTYPE)
        self._sync_kernel(peak)
        self._remember_before_step()
        events = events_of(beginning.fills, self._quantities(), recovered=True)
        return self._observe(), {"events": events, "transfers_usdt": beginning.transfers_usdt}

    async def _begin(self) -> Beginning:
        await self._feed.start()
        ahead_ms = self._resume.last_row_close_ms - self._history.last_close_ms
        if ahead_ms > self._history.interval_ms:
            raise ConfigError(
                f"the step log has decided on the candle that closed at {format_time(self._resume.last_row_close_ms)}, "
                f"but the exchange's last is of {format_time(self._history.last_close_ms)}: it is another exchange or "
                "was started anew; give another folder with --out"
            )
        if ahead_ms >= 0:
            # The last session finished this candle's step: deciding on it again would trade it twice.
            candles = await self._feed.next_candles()
            if candles is None and not self._feed.stopped:
                raise MarketDataError(
                    "the exchange has no candle left to play: the last one is decided on; start another exchange"
                )
        boundary_ms = self._history.last_close_ms + 1
        beginning = await begin_account(self._account, self.symbols, self._resume, boundary_ms)
        await self._desk.begin(self._history.last_close_ms)
        for index, symbol in enumerate(self.symbols):
            held = self._account.candles_held(symbol, boundary_ms, self._history.interval_ms)
            self._candles_held[index] = held
        self._pending_orders = self._triggers.count
        return beginning

    def _note_transfers(self) -> None:
        until_ms = max(self._account.transfers_until_ms, self._resume.transfers_until_ms or 0)
        if until_ms != self._transfers_until_ms:
            self._transfers_until_ms = until_ms
            self._on_transfers(until_ms)

    def close(self) -> None:
        """End the streams. The exchange is closed by who opened it."""
        self._bridge.call(self._close())

    async def _close(self) -> None:
        await self._feed.close()
        await self._account.close()

    def request_stop(self) -> None:
        """End a wait for the next candle now; `advance` then truncates. Safe from a signal handler."""
        self._bridge.loop.call_soon_threadsafe(self._feed.stop)

    # --- phases ------------------------------------------------------------------------------------------

    @property
    def time_ms(self) -> int:
        """Close time of the last closed candle."""
        return self._history.last_close_ms

    @property
    def interval_ms(self) -> int:
        """Length of a candle."""
        return self._history.interval_ms

    def recent_candles(self, count: int) -> RecentCandles:
        """The newest closed candles, as far as the history goes back."""
        return self._history.recent(count)

    def account(self) -> AccountSnapshot:
        """The account, marked at the last close."""
        if self._snapshot is None:
            self._snapshot = self._read_account()
        return self._snapshot

    def _read_account(self) -> AccountSnapshot:
        closes = self._history.closes
        positions: dict[str, Position] = {}
        initial = maintenance = ZERO
        for index, instrument in enumerate(self.instruments):
            symbol = instrument.symbol
            quantity, entry = self._account.position(symbol)
            price = to_decimal(closes[index])
            positions[symbol] = Position(
                symbol=symbol,
                quantity=quantity,
                entry_price=entry,
                mark_price=price,
                protection=self._triggers.protection(symbol),
                candles_held=int(self._candles_held[index]),
            )
            notional = abs(quantity) * price
            initial += notional / self.config.leverage_setting(instrument)
            if quantity:
                maintenance += instrument.maintenance_margin_usdt(notional)
        return AccountSnapshot(
            time_ms=self.time_ms,
            wallet_usdt=self._account.wallet_usdt,
            positions=positions,
            initial_margin_usdt=initial,
            maintenance_margin_usdt=maintenance,
            pending_orders=self._pending_orders,
        )

    def is_unchanged(self) -> bool:
        """Whether the account is surely as it was last read: its events are heard, and tell of nothing else."""
        return self._account.is_unchanged(self.time_ms + 1)

    def stale_symbols(self) -> Sequence[str]:
        """Symbols whose candle did not arrive in time, or all when the candle after it has closed already.

        After an outage candles come in a burst: orders sized at an old one would trade at a price of now.
        """
        late_ms = self._exchange.now_ms() - self._history.last_close_ms - 1
        return self.symbols if late_ms >= self._history.interval_ms else self._feed.stale

    def plan(self, action: Action) -> Plan:
        """Orders sized at the last close, by the simulation's code."""
        return self._planner.plan(
            action,
            step=self._step,
            candle_close_ms=self.time_ms,
            equity_usdt=float(self._record[0]["equity"]),
            position=self._position,
            close=self._history.closes,
            order=self._order,
        )

    def execute(self, plan: Plan | Approved[Plan]) -> Execution:
        """Send approved orders, set their triggers, and read the account.

        Raises:
            TypeError: the plan was not approved by the risk layer.
        """
        if not isinstance(plan, Approved):
            raise TypeError("a live environment executes approved plans only: wrap it in RiskControl")
        if self._executed:
            raise ActionError("execute() was already called in this step; call advance()")
        self._executed = True
        before = self._quantities()
        self._snapshot = None
        outcome = self._bridge.call(self._desk.carry_out(plan.value))
        self._note_position_changes(before)
        self._pending_orders = self._triggers.count
        self._sync_kernel()
        return self._execution(outcome)

    def advance(self) -> StepResult:
        """Wait for the next closed candle and read what the exchange did meanwhile.

        `info["failure"]` says that one of the two could not be done; the account is then as it was last read.
        """
        before = self._quantities()
        self._snapshot = None
        try:
            meanwhile = self._bridge.call(self._await_candles(before))
        except (ExchangeError, MarketDataError) as error:
            return self._observe(), 0.0, False, True, {"events": (), "failure": str(error)}
        if meanwhile is None:
            return self._observe(), 0.0, False, True, {"events": (), "stopped": self._feed.stopped}
        self._note_transfers()
        self._note_position_changes(before)
        self._pending_orders = self._triggers.count
        if meanwhile.transfers_usdt:
            scale = float(transfer_scale(meanwhile.transfers_usdt, self._read_account().equity_usdt))
            self._record[0]["peak_equity"] *= scale
            self._equity_before *= scale
        self._sync_kernel()
        self._candles_held += self._quantity != 0.0
        reward = kernel.step_reward(
            self._planner.config_record[0], self._record[0], self._equity_before, self._drawdown_before
        )
        self._step += 1
        self._executed = False
        self._remember_before_step()
        liquidated = any(fill.liquidation for fill in meanwhile.fills)
        terminated = liquidated or self._record[0]["equity"] <= 0.0
        info = {
            "events": events_of(meanwhile.fills, self._quantities()),
            "funding_usdt": meanwhile.funding_usdt,
            "transfers_usdt": meanwhile.transfers_usdt,
        }
        return self._observe(), float(reward), bool(terminated), not terminated and self._feed.exhausted, info

    async def _await_candles(self, before: Mapping[str, Decimal]) -> Meanwhile | None:
        """The next candles, and what the exchange did to positions that were `before`; None without a next candle.

        One visit to the loop: each takes a tenth of a millisecond to change threads, there and back.
        """
        candles = await self._feed.next_candles()
        if candles is None:
            return None
        quiet = self._was_quiet(candles)
        meanwhile = await self._account.after_candle(self.time_ms + 1, quiet=quiet)
        changed = {fill.symbol: self._account.position(fill.symbol)[0] for fill in meanwhile.fills}
        # The triggers of a position that was turned round guard the wrong side.
        gone = {s: q if q * before[s] > 0 else ZERO for s, q in changed.items()}
        await self._triggers.clean(gone)
        return meanwhile

    def _was_quiet(self, candles: Mapping[str, Candle]) -> bool:
        """Whether no trigger, liquidation or funding of ours can have come about inside these candles."""
        if self.stale_symbols():
            return False  # after an outage candles come in a burst, and what happened belongs to a later one
        held = {symbol: self._account.position(symbol) for symbol in self.symbols}
        if any(quantity for quantity, _ in held.values()) and self._history.interval_ms > HOUR_MS:
            return False
        equity, maintenance = self._account.wallet_usdt, ZERO
        for instrument in self.instruments:
            quantity, entry = held[instrument.symbol]
            if quantity == 0:
                continue
            candle = candles[instrument.symbol]
            low, high = to_decimal(candle.low * (1 - _NEAR)), to_decimal(candle.high * (1 + _NEAR))
            resting = self._triggers.protection(instrument.symbol)
            adverse, favourable = (low, high) if quantity > 0 else (high, low)
            sign = 1 if quantity > 0 else -1
            stops = (resting.stop_price, resting.guard_price)
            if any(stop is not None and sign * (stop - adverse) >= 0 for stop in stops):
                return False
            take = resting.take_profit_price
            if take is not None and sign * (favourable - take) >= 0:
                return False
            equity += quantity * (adverse - entry)
            maintenance += instrument.maintenance_margin_usdt(abs(quantity) * adverse)
        return equity > 2 * maintenance

    def flatten(self, reason: str) -> Execution:
        """Cancel every order, trigger orders too, and close every position at market; then read back.

        Raises:
            ExchangeError: nothing was filled, and the account cannot be read.
        """
        before = self._quantities()
        self._snapshot = None
        prices = dict(zip(self.symbols, map(to_decimal, self._history.closes), strict=True))
        outcome = self._bridge.call(self._desk.close_all(reason, self.time_ms, prices))
        self._note_position_changes(before)
        self._pending_orders = UNREAD if outcome.open_orders is None else outcome.open_orders
        self._sync_kernel()
        return self._execution(outcome)

    def _execution(self, outcome: Outcome) -> Execution:
        return Execution(
            results=outcome.results,
            account=self.account(),
            funding_usdt=outcome.funding_usdt,
            events=outcome.events,
            failure=outcome.failure,
        )

    def _quantities(self) -> dict[str, Decimal]:
        return {symbol: self._account.position(symbol)[0] for symbol in self.symbols}

    # --- rehearsal ---------------------------------------------------------------------------------------

    def rehearse_with(self, *others: Rehearse) -> None:
        """Rehearse what is around this environment, too."""
        self._rehearse_more = others

    async def _open_connections(self) -> None:
        await self._exchange.warm_up(min(len(self.symbols), _CONNECTIONS))

    async def _rehearse(self) -> AsyncGenerator[None]:
        """A step on the candles that are there, up to its signed orders. Nothing is kept, and nothing is sent.

        Each part is gone through in the thread that will do it: another one runs on another processor.
        """
        for _ in self._history.rehearse():
            yield
        self._was_quiet(self._history.newest_candles())
        self.is_unchanged()
        yield
        shown = _, plan, _ = await self._bridge.in_caller(self._rehearse_planning)
        yield
        for rehearse in self._rehearse_more:
            await self._bridge.in_caller(partial(rehearse, *shown))
            yield
        for request in self._desk.rehearse(plan):
            await request
            yield

    def _rehearse_planning(self) -> tuple[Observation, Plan, AccountSnapshot]:
        record, position = self._record.copy(), self._position.copy()
        kernel.mark(record[0], position, self._history.kernel_row())
        kernel.step_reward(self._planner.config_record[0], record[0], 1.0, 0.0)
        plan = self._planner.plan(
            np.ones(self.action_space.shape or ()),
            step=self._step,
            candle_close_ms=self.time_ms + self._history.interval_ms,
            equity_usdt=float(record[0]["equity"]),
            position=position,
            close=self._history.closes,
            order=self._order.copy(),
        )
        return self._observe(), plan, self._read_account()

    # --- the kernel's view -------------------------------------------------------------------------------

    def _note_position_changes(self, before: dict[str, Decimal]) -> None:
        """A position that is new, or changed sides, starts counting its candles again."""
        for index, symbol in enumerate(self.symbols):
            quantity, _ = self._account.position(symbol)
            if quantity * before[symbol] <= 0:
                self._candles_held[index] = 0

    def _sync_kernel(self, peak_equity_usdt: Decimal | None = None) -> None:
        """Copy the account into the kernel's records and mark it at the last close."""
        record = self._record[0]
        self._wallet[0] = float(self._account.wallet_usdt)
        if peak_equity_usdt is not None:
            record["peak_equity"] = float(peak_equity_usdt)
            record["max_drawdown"] = float(self._resume.max_drawdown_fraction)
        for index, symbol in enumerate(self.symbols):
            quantity, entry = self._account.position(symbol)
            self._quantity[index] = float(quantity)
            self._entry_price[index] = float(entry)
        kernel.mark(record, self._position, self._history.kernel_row())

    def _remember_before_step(self) -> None:
        self._equity_before = float(self._record[0]["equity"])
        self._drawdown_before = float(self._record[0]["drawdown"])

    def _observe(self) -> Observation:
        observation = np.empty(self.spec_observation.size, np.float32)
        split = self._history.window.size
        observation[:split] = self._history.window.ravel()
        kernel.portfolio_vector(
            self._planner.config_record[0],
            self._planner.symbol_table,
            self._record[0],
            self._position,
            self._history.kernel_row(),
            observation[split:],
        )
        return observation
