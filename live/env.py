"""LiveEnv: the trading environment over an exchange. The agent, the risk layer and the step log do not notice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import gymnasium as gym
import numpy as np

from envs import kernel
from envs.account import (
    ZERO,
    AccountSnapshot,
    ActionType,
    Approved,
    CandleEvent,
    Execution,
    Fill,
    Leg,
    Order,
    OrderResult,
    OrderStatus,
    Plan,
    PlannedOrder,
    Position,
    Protection,
    Side,
    classify,
)
from envs.base import Action, Observation, StepResult, TradingEnv
from envs.errors import (
    ActionError,
    ExchangeUnavailableError,
    OrderRejectedError,
    OutcomeUnknownError,
    RateLimitedError,
)
from envs.features import FeatureConfig
from envs.instruments import Instrument
from envs.observation import CLIP, observation_spec
from envs.planning import Planner, check_action, to_decimal
from envs.scaler import FeatureScaler
from envs.settings import EnvConfig
from live.bridge import LoopThread
from live.candle_feed import CandleFeed
from live.exchange.base import Exchange, OrderReport, client_order_id, parse_client_order_id
from live.history import LiveHistory
from live.live_account import LiveAccount
from live.triggers import TriggerDesk

_MARGIN_INSUFFICIENT = -2019


@dataclass(frozen=True, slots=True)
class Resume:
    """Where an earlier session of the same run ended.

    Attributes:
        last_row_close_ms: close of the last candle whose step rows are all on disk; 0 for a new run.
        logged_trades: (symbol, trade id) of every fill in the step logs.
        peak_equity_usdt, max_drawdown_fraction: of the run so far; None for a new run.
    """

    last_row_close_ms: int = 0
    logged_trades: frozenset[tuple[str, str]] = field(default_factory=frozenset)
    peak_equity_usdt: Decimal | None = None
    max_drawdown_fraction: Decimal = ZERO


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
        request_candle: awaited before each wait for a candle, and tells whether more candles follow the next: the
            lock-step replay's hook. None waits for the market.
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
        request_candle: Callable[[], Awaitable[bool]] | None = None,
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
        self._feed = CandleFeed(exchange, self._history, request_candle)
        self._account = LiveAccount(exchange, self.symbols, agent)
        self._triggers = TriggerDesk(exchange, self.instruments, agent)
        self.spec_observation = observation_spec(self.symbols, interval_ms, self._history.names, config)
        n = len(self.symbols)
        bound = np.inf if config.action.scheme == "quantity" else 1.0
        self.action_space = gym.spaces.Box(-bound, bound, (n,), np.float32)
        self.observation_space = gym.spaces.Box(-CLIP, CLIP, (self.spec_observation.size,), np.float32)
        self._record = np.zeros(1, kernel.ACCOUNT_DTYPE)
        self._position = np.zeros(n, kernel.POSITION_DTYPE)
        self._order = np.zeros(n, kernel.ORDER_DTYPE)
        self._step = 0
        self._done_orders: dict[str, OrderReport] = {}
        self._flatten_attempt = 0
        self._pending_orders = 0
        self._executed = False

    # --- Gymnasium ---------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Load the history, read the account, and find out what an earlier session left.

        `info["events"]` holds the fills that no step log has yet.
        """
        super().reset(seed=seed)
        events = self._bridge.call(self._begin())
        self._step = 0
        self._executed = False
        self._sync_kernel(self._resume.peak_equity_usdt)
        self._remember_before_step()
        return self._observe(), {"events": events}

    async def _begin(self) -> tuple[CandleEvent, ...]:
        await self._feed.start()
        if self._resume.last_row_close_ms >= self._history.last_close_ms:
            # The last session finished this candle's step: deciding on it again would trade it twice.
            await self._feed.next_candles()
        boundary_ms = self._history.last_close_ms + 1
        fills = await self._account.begin(
            boundary_ms,
            logged=self._resume.logged_trades,
            since_ms=self._resume.last_row_close_ms,
        )
        await self._triggers.begin()
        close_ms = self._history.last_close_ms
        for symbol in self.symbols:
            done = await self._exchange.order(
                symbol, client_order_id(self.agent, symbol, close_ms, Leg.ORDER)
            )
            if done is not None:
                self._done_orders[symbol] = done
        for index, symbol in enumerate(self.symbols):
            held = self._account.candles_held(symbol, boundary_ms, self._history.interval_ms)
            self._position[index]["candles_held"] = held
        return tuple(_event(fill, ZERO, recovered=True) for fill in fills)

    def close(self) -> None:
        """End the streams. The exchange is closed by who opened it."""
        self._bridge.call(self._feed.close())

    def request_stop(self) -> None:
        """End a wait for the next candle now; `advance` then truncates. Safe from a signal handler."""
        self._bridge.loop.call_soon_threadsafe(self._feed.stop)

    # --- phases ------------------------------------------------------------------------------------------

    @property
    def time_ms(self) -> int:
        """Close time of the last closed candle."""
        return self._history.last_close_ms

    def account(self) -> AccountSnapshot:
        """The account, marked at the last close."""
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
                candles_held=int(self._position[index]["candles_held"]),
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

    def stale_symbols(self) -> Sequence[str]:
        """Symbols whose candle did not arrive in time for this step."""
        return self._feed.stale

    def plan(self, action: Action) -> Plan:
        """Orders sized at the last close, by the simulation's code."""
        return self._planner.plan(
            check_action(action, len(self.symbols)),
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
        return self._bridge.call(self._execute(plan.value))

    async def _execute(self, plan: Plan) -> Execution:
        before = {symbol: self._account.position(symbol)[0] for symbol in self.symbols}
        results: dict[str, OrderResult] = {}

        def enlarges(entry: PlannedOrder) -> bool:
            return entry.order is not None and not entry.order.reduce_only

        for entry in sorted(plan.entries, key=enlarges):
            results[entry.symbol] = await self._send(entry, plan.candle_close_ms)
        funding = await self._account.after_orders(
            [fill for result in results.values() for fill in result.fills]
        )
        for entry in plan.entries:
            results[entry.symbol] = await self._protect(entry, results[entry.symbol], plan.candle_close_ms)
        self._note_position_changes(before)
        self._pending_orders = self._triggers.count
        self._sync_kernel()
        return Execution(
            results=tuple(results[symbol] for symbol in self.symbols),
            account=self.account(),
            funding_usdt=funding,
        )

    async def _send(self, entry: PlannedOrder, close_ms: int) -> OrderResult:
        symbol = entry.symbol
        done = self._done_orders.pop(symbol, None)
        if done is not None:
            note = f"order {done.client_order_id} of this candle was already executed before the restart"
            kept = replace(entry, order=None, action_type=ActionType.HOLD, protection=None, note=note)
            return OrderResult(kept, OrderStatus.NONE, error=note)
        if entry.order is None:
            status = OrderStatus.SKIPPED if entry.skipped else OrderStatus.NONE
            return OrderResult(entry, status, error=entry.note if entry.skipped else "")
        order = replace(
            entry.order, client_order_id=client_order_id(self.agent, symbol, close_ms, entry.order.leg)
        )
        return await self._place(replace(entry, order=order), order)

    async def _place(self, entry: PlannedOrder, order: Order) -> OrderResult:
        try:
            report = await self._exchange.place(order)
        except OrderRejectedError as error:
            text = "margin is insufficient" if error.code == _MARGIN_INSUFFICIENT else str(error)
            return OrderResult(entry, OrderStatus.REJECTED, error=text)
        except (ExchangeUnavailableError, RateLimitedError) as error:
            return OrderResult(entry, OrderStatus.FAILED, error=str(error))
        except OutcomeUnknownError as error:
            return OrderResult(entry, OrderStatus.UNKNOWN, error=str(error))
        fills = tuple(replace(fill, leg=order.leg, agent=self.agent) for fill in report.fills)
        if report.executed_quantity >= order.quantity:
            return OrderResult(entry, OrderStatus.FILLED, fills)
        status = OrderStatus.PARTIAL if fills else OrderStatus.REJECTED
        text = f"{report.status.lower()} after {report.executed_quantity} of {order.quantity}"
        return OrderResult(entry, status, fills, error=text)

    async def _protect(self, entry: PlannedOrder, result: OrderResult, close_ms: int) -> OrderResult:
        """Bring the triggers in step with the position; an entry whose stop is refused is closed again."""
        symbol = entry.symbol
        quantity, _ = self._account.position(symbol)
        try:
            await self._triggers.update(symbol, quantity, entry.protection, close_ms)
        except (OrderRejectedError, ExchangeUnavailableError, RateLimitedError, OutcomeUnknownError) as error:
            attempt = self._flatten_attempt
            self._flatten_attempt += 1
            closing = await self._close_position(symbol, close_ms, attempt, f"its stop failed: {error}")
            await self._account.after_orders(list(closing.fills) if closing else [])
            await self._triggers.update(symbol, self._account.position(symbol)[0], Protection(), close_ms)
            fills = result.fills + (closing.fills if closing else ())
            return replace(result, fills=fills, error=f"stop refused, position closed again: {error}")
        return result

    def advance(self) -> StepResult:
        """Wait for the next closed candle and read what the exchange did meanwhile."""
        candles = self._bridge.call(self._feed.next_candles())
        if candles is None:
            return self._observe(), 0.0, False, True, {"events": (), "stopped": True}
        before = {symbol: self._account.position(symbol)[0] for symbol in self.symbols}
        fills, funding = self._bridge.call(self._account.after_candle(self.time_ms + 1))
        events = []
        running = dict(before)
        for fill in fills:
            events.append(_event(fill, running[fill.symbol]))
            running[fill.symbol] += fill.signed_quantity
        if any(running[symbol] != before[symbol] for symbol in self.symbols):
            self._bridge.call(self._triggers.clean({s: self._account.position(s)[0] for s in self.symbols}))
        self._note_position_changes(before)
        self._pending_orders = self._triggers.count
        self._sync_kernel()
        for row in self._position:
            row["candles_held"] += 1 if row["quantity"] != 0.0 else 0
        reward = kernel.step_reward(
            self._planner.config_record[0], self._record[0], self._equity_before, self._drawdown_before
        )
        self._step += 1
        self._executed = False
        self._remember_before_step()
        liquidated = any(fill.liquidation for fill in fills)
        terminated = liquidated or self._record[0]["equity"] <= 0.0
        info = {"events": tuple(events), "funding_usdt": funding}
        return self._observe(), float(reward), bool(terminated), not terminated and self._feed.exhausted, info

    def flatten(self, reason: str) -> Execution:
        """Cancel every order, trigger orders too, and close every position at market; then read back."""
        return self._bridge.call(self._flatten(reason))

    async def _flatten(self, reason: str) -> Execution:
        attempt = self._flatten_attempt
        self._flatten_attempt += 1
        results = []
        fills: list[Fill] = []
        await self._account.refresh()
        for symbol in self.symbols:
            closing = await self._close_position(symbol, self.time_ms, attempt, reason)
            price = to_decimal(self._history.closes[self.symbols.index(symbol)])
            if closing is None:
                held = PlannedOrder(symbol, 0.0, ActionType.HOLD, None, ZERO, price, note=reason)
                results.append(OrderResult(held, OrderStatus.NONE))
            else:
                results.append(closing)
                fills += closing.fills
        errors = [await self._cancel_all(symbol) for symbol in self.symbols]
        results = [
            replace(result, error="; ".join(filter(None, (result.error, error))))
            for result, error in zip(results, errors, strict=True)
        ]
        before = {symbol: self._account.position(symbol)[0] for symbol in self.symbols}
        funding = await self._account.after_orders(fills)
        self._triggers.forget()
        self._pending_orders = len(
            [order for symbol in self.symbols for order in await self._exchange.open_orders(symbol)]
        )
        self._note_position_changes(before)
        self._sync_kernel()
        return Execution(tuple(results), self.account(), funding)

    async def _cancel_all(self, symbol: str) -> str:
        try:
            await self._exchange.cancel_all(symbol)
        except (OrderRejectedError, ExchangeUnavailableError, RateLimitedError, OutcomeUnknownError) as error:
            return f"cancel failed: {error}"
        return ""

    async def _close_position(
        self, symbol: str, close_ms: int, attempt: int, reason: str
    ) -> OrderResult | None:
        """Close one position at market, reduce-only, under an emergency id; None when there is none."""
        held, _ = self._account.position(symbol)
        if held == 0:
            return None
        order = Order(
            symbol=symbol,
            side=Side.SELL if held > 0 else Side.BUY,
            quantity=abs(held),
            reduce_only=True,
            leg=Leg.EMERGENCY,
            client_order_id=client_order_id(self.agent, symbol, close_ms, Leg.EMERGENCY, attempt),
        )
        price = to_decimal(self._history.closes[self.symbols.index(symbol)])
        entry = PlannedOrder(symbol, 0.0, ActionType.EMERGENCY_CLOSE, order, ZERO, price, note=reason)
        return await self._place(entry, order)

    # --- the kernel's view -------------------------------------------------------------------------------

    def _note_position_changes(self, before: dict[str, Decimal]) -> None:
        """A position that is new, or changed sides, starts counting its candles again."""
        for index, symbol in enumerate(self.symbols):
            quantity, _ = self._account.position(symbol)
            if quantity * before[symbol] <= 0:
                self._position[index]["candles_held"] = 0

    def _sync_kernel(self, peak_equity_usdt: Decimal | None = None) -> None:
        """Copy the account into the kernel's records and mark it at the last close."""
        record = self._record[0]
        record["wallet"] = float(self._account.wallet_usdt)
        if peak_equity_usdt is not None:
            record["peak_equity"] = float(peak_equity_usdt)
            record["max_drawdown"] = float(self._resume.max_drawdown_fraction)
        for index, symbol in enumerate(self.symbols):
            quantity, entry = self._account.position(symbol)
            self._position[index]["quantity"] = float(quantity)
            self._position[index]["entry_price"] = float(entry)
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


def _event(fill: Fill, held: Decimal, *, recovered: bool = False) -> CandleEvent:
    """Name what a fill that no step asked for did to the position."""
    parsed = parse_client_order_id(fill.client_order_id)
    if fill.liquidation:
        kind = ActionType.LIQUIDATION
    elif parsed is not None and parsed.leg in (Leg.STOP, Leg.PROTECTIVE_STOP):
        kind = ActionType.STOP_LOSS
    elif parsed is not None and parsed.leg is Leg.TAKE_PROFIT:
        kind = ActionType.TAKE_PROFIT
    elif parsed is not None and parsed.leg is Leg.EMERGENCY:
        kind = ActionType.EMERGENCY_CLOSE
    else:
        kind = classify(held, held + fill.signed_quantity)
    if recovered:
        note = f"recovered after a restart: order {fill.client_order_id}"
    else:
        note = (
            ""
            if parsed is not None or fill.liquidation
            else f"not our order: {fill.client_order_id or fill.order_id}"
        )
    return CandleEvent(kind, fill, note)
