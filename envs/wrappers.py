"""RiskControl and StepLog: gym wrappers around any environment that trades, simulated or live.

The stack is `StepLog(RiskControl(env))` everywhere. The two know nothing of each other: RiskControl changes what is
executed and reports emergencies in the execution; StepLog writes down what it sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from envs.account import (
    ZERO,
    AccountSnapshot,
    ActionType,
    Approved,
    CandleEvent,
    EmergencyReport,
    Execution,
    Fill,
    OrderResult,
    OrderStatus,
    Plan,
    PlannedOrder,
    Protection,
    Refused,
)
from envs.base import Action, Observation, StepResult, TradingEnv, TradingWrapper
from envs.errors import ActionError, ExchangeError, HaltedError
from envs.planning import to_decimal
from envs.risk import (
    RiskContext,
    RiskLimits,
    RiskState,
    RiskStore,
    drawdown_fraction,
    fresh_state,
    guard_prices,
    judge,
    with_guard,
)
from envs.step_log import COLUMNS, EMERGENCY_COLUMNS, SCHEMA, CsvAppender, Standing, StepRecord


def _no_sleep(_seconds: float) -> None:
    """A simulation does not wait."""


class RiskControl(TradingWrapper):
    """Approves, reduces or refuses every order, and runs the emergency protocol.

    Args:
        env: what trades.
        limits: the limits.
        store: keeps peak equity and halt across restarts; None forgets them at every reset.
        sleep: waits between the tries of the emergency protocol, seconds. A live runner passes a real one.

    Raises:
        HaltedError: at reset, when the stored state is halted.
    """

    def __init__(
        self,
        env: TradingEnv | TradingWrapper,
        limits: RiskLimits,
        *,
        store: RiskStore | None = None,
        sleep: Callable[[float], None] = _no_sleep,
    ) -> None:
        super().__init__(env)
        self.limits = limits
        self._store = store
        self._sleep = sleep
        self._by_symbol = {instrument.symbol: instrument for instrument in self.instruments}
        self._leverage = {i.symbol: self.config.leverage_setting(i) for i in self.instruments}
        self._state: RiskState | None = None
        self._emergency: EmergencyReport | None = None
        self._observation: Observation | None = None
        self._unreadable: Refused | None = None

    @property
    def state(self) -> RiskState:
        """What the layer remembers: peak, day, halt."""
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() first")
        return self._state

    def resume(self, state: RiskState) -> None:
        """Go on from `state`, after steps that the simulation did without this layer."""
        self._state = state

    @property
    def emergency(self) -> EmergencyReport | None:
        """The emergency of this episode, if there was one."""
        return self._emergency

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset the environment, load the risk state, and check the drawdown before the agent is asked.

        When the account is already below its limit, the emergency protocol runs at once, and
        `info["emergency"]` holds its report; the next `advance` ends the episode.
        """
        stored = self._store.load() if self._store is not None else None
        if stored is not None and stored.halted_reason:
            raise HaltedError(
                f"this run was halted: {stored.halted_reason}. Check the account, then start again with "
                "--acknowledge-emergency",
                reason=stored.halted_reason,
            )
        observation, info = super().reset(seed=seed, options=options)
        account = self.account()
        self._state = stored or fresh_state(account.equity_usdt, account.time_ms)
        self._transfer(info.get("transfers_usdt", ZERO), account)
        self._emergency = None
        self._observation = observation
        self._mark(account)
        report = self._check_drawdown(account)
        return observation, {**info, "emergency": report} if report else info

    def plan(self, action: Action) -> Plan:
        """The environment's plan; an action that cannot be read is a plan that holds, and says why."""
        self._unreadable = None
        try:
            return super().plan(action)
        except ActionError as error:
            self._unreadable = Refused("action", "one finite number per symbol", str(error))
            neutral = super().plan(np.zeros(self.action_space.shape or ()))
            return replace(neutral, entries=tuple(_hold(entry) for entry in neutral.entries))

    def execute(self, plan: Plan | Approved[Plan]) -> Execution:
        """Judge the orders, execute the approved ones, and check the drawdown after the fills."""
        wanted = plan.value if isinstance(plan, Approved) else plan
        account = self.account()
        entries, refusals = self._judge_all(wanted, account)
        if self._unreadable is not None:
            refusals = dict.fromkeys(self.symbols, self._unreadable)
            self._unreadable = None
        if self.limits.protective_stop:
            entries = self._with_guards(entries, account)
        approved: Approved[Plan] = Approved(replace(wanted, entries=tuple(entries)))
        execution = super().execute(approved)
        results = tuple(
            self._merge(result, asked, refusals.get(result.planned.symbol))
            for result, asked in zip(execution.results, wanted.entries, strict=True)
        )
        execution = replace(execution, results=results)
        self._remember_orders(execution, account.time_ms)
        self._mark(execution.account)
        report = self._check_drawdown(execution.account) or self._check_failures(execution)
        return replace(execution, emergency=report) if report else execution

    def advance(self) -> StepResult:
        """Advance, then check the drawdown before the agent is asked again."""
        if self._emergency is not None:
            assert self._observation is not None
            return self._observation, 0.0, True, False, {"events": ()}
        observation, reward, terminated, truncated, info = super().advance()
        self._observation = observation
        account = self.account()
        self._transfer(info.get("transfers_usdt", ZERO), account)
        self._mark(account)
        report = self._check_drawdown(account)
        if report is None and info.get("failure"):
            report = self.run_emergency(info["failure"])
        if report is not None:
            info = {**info, "emergency": report}
            terminated, truncated = True, False
        return observation, reward, terminated, truncated, info

    # --- judging -----------------------------------------------------------------------------------------

    def _judge_all(
        self, plan: Plan, account: AccountSnapshot
    ) -> tuple[list[PlannedOrder], dict[str, Refused]]:
        """Judge orders that shrink positions first, as they are executed first."""
        quantities = {symbol: position.quantity for symbol, position in account.positions.items()}
        stale = frozenset(self.stale_symbols())
        judged: dict[str, PlannedOrder] = {}
        refusals: dict[str, Refused] = {}

        def shrinks(entry: PlannedOrder) -> bool:
            order = entry.order
            held = quantities[entry.symbol]
            return order is not None and held * order.signed_quantity < 0 and order.quantity <= abs(held)

        for entry in sorted(plan.entries, key=lambda e: not shrinks(e)):
            context = RiskContext(
                limits=self.limits,
                state=self.state,
                account=account,
                instruments=self._by_symbol,
                leverage=self._leverage,
                quantities=quantities,
                stale_symbols=stale,
            )
            verdict = judge(entry, context)
            if isinstance(verdict, Refused):
                refusals[entry.symbol] = verdict
                judged[entry.symbol] = _hold(entry)
                continue
            judged[entry.symbol] = verdict.value
            if verdict.value.order is not None:
                quantities[entry.symbol] += verdict.value.order.signed_quantity
        return [judged[entry.symbol] for entry in plan.entries], refusals

    def _with_guards(self, entries: Sequence[PlannedOrder], account: AccountSnapshot) -> list[PlannedOrder]:
        limit = self.limits.max_drawdown_fraction
        if limit is None:
            return list(entries)
        quantities = {
            e.symbol: account.positions[e.symbol].quantity + (e.order.signed_quantity if e.order else ZERO)
            for e in entries
        }
        taker = max(self._taker_fee(symbol) for symbol in quantities)
        slippage = to_decimal(self.config.slippage_bps) / 10_000
        guards = guard_prices(
            quantities,
            account,
            peak_equity_usdt=self.state.peak_equity_usdt,
            limit_fraction=to_decimal(limit),
            cost_fraction=taker + slippage,
            instruments=self._by_symbol,
        )
        guarded = []
        for e in entries:
            held, after = account.positions[e.symbol].quantity, quantities[e.symbol]
            # The triggers of a position that is flipped guard the wrong side of the new one.
            current = account.positions[e.symbol].protection if held * after > 0 else Protection()
            guarded.append(with_guard(e, current, guards.get(e.symbol)) if after != 0 else e)
        return guarded

    def _taker_fee(self, symbol: str) -> Decimal:
        override = self.config.taker_fee_fraction
        return self._by_symbol[symbol].taker_fee if override is None else to_decimal(override)

    @staticmethod
    def _merge(result: OrderResult, asked: PlannedOrder, refusal: Refused | None) -> OrderResult:
        """Put a refusal, or the reason of a reduction, into the result that the step log sees."""
        if result.planned.action_type is ActionType.LIQUIDATION:
            return result  # the exchange did something: that it was not asked for something else is beside the point
        if refusal is not None:
            return replace(
                result, planned=asked, status=OrderStatus.REFUSED, refusal=refusal, error=str(refusal)
            )
        if not result.error and result.planned.note:
            return replace(result, error=result.planned.note)
        return result

    def _remember_orders(self, execution: Execution, time_ms: int) -> None:
        sent = tuple(
            time_ms
            for result in execution.results
            if result.planned.order is not None
            and not result.planned.order.reduce_only
            and result.status in (OrderStatus.FILLED, OrderStatus.PARTIAL, OrderStatus.UNKNOWN)
        )
        if sent:
            self._state = replace(self.state, order_times_ms=self.state.order_times_ms + sent)

    # --- drawdown and emergency --------------------------------------------------------------------------

    def _transfer(self, amount_usdt: Decimal, account: AccountSnapshot) -> None:
        """Move what losses are measured from along with a deposit or withdrawal."""
        if amount_usdt == 0:
            return
        scale = transfer_scale(amount_usdt, account.equity_usdt)
        self._state = replace(
            self.state,
            initial_equity_usdt=self.state.initial_equity_usdt + amount_usdt,
            peak_equity_usdt=self.state.peak_equity_usdt * scale,
            day_start_equity_usdt=self.state.day_start_equity_usdt * scale,
        )

    def _mark(self, account: AccountSnapshot) -> None:
        self._state = self.state.marked(account.equity_usdt, account.time_ms)
        self._save()

    def _save(self) -> None:
        if self._store is not None:
            self._store.save(self.state)

    def _check_drawdown(self, account: AccountSnapshot) -> EmergencyReport | None:
        limit = self.limits.max_drawdown_fraction
        if limit is None or self._emergency is not None:
            return None
        drawdown = drawdown_fraction(account.equity_usdt, self.state.peak_equity_usdt)
        if drawdown < to_decimal(limit):
            return None
        reason = (
            f"drawdown {drawdown:.4%} reached the limit of {limit:.4%} (equity {account.equity_usdt:.2f} USDT, "
            f"peak {self.state.peak_equity_usdt:.2f})"
        )
        return self.run_emergency(reason)

    def _check_failures(self, execution: Execution) -> EmergencyReport | None:
        if self._emergency is not None:
            return None
        for result in execution.results:
            if result.status in (OrderStatus.FAILED, OrderStatus.UNKNOWN):
                return self.run_emergency(f"order in {result.planned.symbol} {result.status}: {result.error}")
        return self.run_emergency(execution.failure) if execution.failure else None

    def run_emergency(self, reason: str) -> EmergencyReport:
        """Close every position, cancel every order, read back until flat, and halt.

        The halt is stored before the first order is sent, so that a process that dies in between does not start
        again as if nothing had happened.
        """
        before = self.account()
        self._state = replace(self.state, halted_reason=reason)
        self._save()
        executions: list[Execution] = []
        failures: list[str] = []
        account = before
        delay_s = self.limits.emergency_delay_s
        for attempt in range(self.limits.emergency_tries):
            if attempt:
                self._sleep(delay_s)
                delay_s *= 2
            try:
                execution = super().flatten(reason)
            except ExchangeError as error:
                # An exchange that fails now is the one time when giving up would be worst.
                failures.append(str(error))
                continue
            executions.append(execution)
            account = self.account()
            if account.is_flat and account.pending_orders == 0:
                break
        limit = self.limits.max_drawdown_fraction
        self._emergency = EmergencyReport(
            reason=reason,
            time_ms=before.time_ms,
            drawdown_fraction=drawdown_fraction(before.equity_usdt, self.state.peak_equity_usdt),
            limit_fraction=None if limit is None else to_decimal(limit),
            peak_equity_usdt=self.state.peak_equity_usdt,
            equity_usdt=before.equity_usdt,
            executions=tuple(executions),
            account=account,
            failures=tuple(failures),
        )
        if not self._emergency.succeeded:
            what = f"{reason}; NOT FLAT after {self._emergency.tries} tries"
            if failures:
                what += f", the last error: {failures[-1]}"
            self._state = replace(self.state, halted_reason=what)
        self._mark(account)
        return self._emergency


def transfer_scale(amount_usdt: Decimal, equity_usdt: Decimal) -> Decimal:
    """Factor for a peak when `amount_usdt` was paid in (or out, below zero) and `equity_usdt` came of it.

    The drawdown is a fraction of the money that is there, so that moving money leaves it as it is.
    """
    before = equity_usdt - amount_usdt
    return equity_usdt / before if before > 0 and equity_usdt > 0 else Decimal(1)


def _hold(entry: PlannedOrder) -> PlannedOrder:
    """The entry without its order."""
    return replace(entry, order=None, action_type=ActionType.HOLD, protection=None, skipped=False)


class StepLog(TradingWrapper):
    """Writes one row per step and symbol as soon as `execute` is done, and a row for what the exchange does itself.

    Args:
        env: what trades.
        agent: name of the agent, a column.
        path: the CSV to append to; None keeps the rows in `records` only.
        emergencies_path: the emergencies CSV, created by the first emergency; None writes none.
        keep_records: keep the rows in `records`, and the fills in `fills`, too.
        initial_equity_usdt: what pnl_total counts from; None takes the equity at reset.
        peak_equity_usdt, max_drawdown_fraction, first_step: where an earlier session of the same run ended.
    """

    def __init__(
        self,
        env: TradingEnv | TradingWrapper,
        *,
        agent: str,
        path: Path | None = None,
        emergencies_path: Path | None = None,
        keep_records: bool = False,
        initial_equity_usdt: Decimal | None = None,
        peak_equity_usdt: Decimal | None = None,
        max_drawdown_fraction: Decimal = ZERO,
        first_step: int = 0,
    ) -> None:
        super().__init__(env)
        self.agent = agent
        self.records: list[StepRecord] = []
        self.fills: list[Fill] = []
        self.start_equity_usdt = ZERO  # at reset
        self._keep = keep_records or path is None
        self._file = CsvAppender(path, COLUMNS) if path is not None else None
        self._emergencies_path = emergencies_path
        self._given = (initial_equity_usdt, peak_equity_usdt, max_drawdown_fraction)
        self._initial = self._peak = self._max_drawdown = ZERO
        self._first_step = first_step
        self._step = first_step
        # Reward and funding wait here until the symbol's next row takes them, so that each counts once.
        self._reward: dict[str, float] = {}
        self._funding: dict[str, Decimal] = {}
        self._ended = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset the environment and the running figures."""
        observation, info = super().reset(seed=seed, options=options)
        account = self.account()
        equity = account.equity_usdt
        initial, peak, max_drawdown = self._given
        self.start_equity_usdt = equity
        self._initial = equity if initial is None else initial
        self._peak = equity if peak is None else peak
        self._max_drawdown = max_drawdown
        self._transfer(info.get("transfers_usdt", ZERO), equity)
        self._see(equity)
        self._step = self._first_step
        self._reward = dict.fromkeys(self.symbols, 0.0)
        self._funding = dict.fromkeys(self.symbols, ZERO)
        self._ended = False
        for event in info.get("events", ()):
            self._write_event(event, account)
        report = info.get("emergency")
        if report is not None:
            self._write_emergency(report)
        return observation, info

    def execute(self, plan: Plan | Approved[Plan]) -> Execution:
        """Execute and write the step's rows."""
        execution = super().execute(plan)
        self._collect(execution.funding_usdt)
        for result in execution.results:
            self._write_result(result, execution)
        for event in execution.events:
            self._write_event(event, execution.account)
        if execution.emergency is not None:
            self._write_emergency(execution.emergency)
        return execution

    def advance(self) -> StepResult:
        """Advance; write what the exchange did meanwhile, an emergency, and the end."""
        observation, reward, terminated, truncated, info = super().advance()
        self._step += 1
        for symbol in self.symbols:
            self._reward[symbol] += reward
        self._collect(info.get("funding_usdt", {}))
        account = self.account()
        report = info.get("emergency")
        self._transfer(info.get("transfers_usdt", ZERO), account.equity_usdt)
        # The equity at this close makes peaks and drawdowns whether or not a row shows it.
        self._see(account.equity_usdt if report is None else report.equity_usdt)
        for event in info.get("events", ()):
            self._write_event(event, account)
        if report is not None:
            self._write_emergency(report)
        if terminated or truncated:
            self.finish()
        return observation, reward, terminated, truncated, info

    def flatten(self, reason: str) -> Execution:
        """Flatten, and write a row for every position that was closed."""
        execution = super().flatten(reason)
        self._write_flattening(execution, reason)
        return execution

    def finish(self) -> None:
        """Write the `end` rows, once: the account at the last close."""
        if self._ended:
            return
        self._ended = True
        account = self.account()
        for symbol in self.symbols:
            self._write(account, symbol, action_type=ActionType.END, result=OrderStatus.NONE)

    @property
    def writes(self) -> bool:
        """Whether there is a file."""
        return self._file is not None

    @property
    def standing(self) -> Standing:
        """The running figures between two steps."""
        return Standing(
            step=self._step,
            initial_usdt=self._initial,
            peak_usdt=self._peak,
            max_drawdown_fraction=self._max_drawdown,
            reward=dict(self._reward),
            funding=dict(self._funding),
        )

    def resume(self, standing: Standing, *, ended: bool = False) -> None:
        """Go on from `standing`, after steps whose rows were made elsewhere; `ended`: those of the end too."""
        self._step, self._ended = standing.step, ended
        self._initial, self._peak = standing.initial_usdt, standing.peak_usdt
        self._max_drawdown = standing.max_drawdown_fraction
        self._reward, self._funding = dict(standing.reward), dict(standing.funding)

    def append_lines(self, blocks: Iterable[bytes]) -> None:
        """Write rows that were made elsewhere to the file, if there is one."""
        if self._file is not None:
            for block in blocks:
                self._file.append_lines(block)

    def close(self) -> None:
        """Write the end rows if the run was stopped, and close the files."""
        self.finish()
        if self._file is not None:
            self._file.close()
        super().close()

    # --- rows --------------------------------------------------------------------------------------------

    def _write_result(self, result: OrderResult, execution: Execution) -> None:
        planned = result.planned
        fills = result.fills
        self._keep_fills(fills)
        quantity = sum((fill.quantity for fill in fills), ZERO)
        price = sum((fill.quote_quantity for fill in fills), ZERO) / quantity if quantity else None
        side = fills[0].side if fills else planned.order.side if planned.order is not None else None
        self._write(
            execution.account,
            planned.symbol,
            action=None if planned.action_type is ActionType.EMERGENCY_CLOSE else planned.action,
            action_type=planned.action_type,
            operation=side.value if side is not None else "",
            result=result.status,
            error=result.error,
            trade_id=";".join(fill.trade_id for fill in fills),
            quantity=quantity,
            fill_price=price if len(fills) != 1 else fills[0].price,
            commission=sum((fill.commission for fill in fills), ZERO),
        )

    def _write_event(self, event: CandleEvent, account: AccountSnapshot) -> None:
        fill = event.fill
        self._keep_fills((fill,))
        self._write(
            account,
            fill.symbol,
            action_type=event.action_type,
            operation=fill.side.value,
            result=OrderStatus.FILLED,
            error=event.note,
            trade_id=fill.trade_id,
            quantity=fill.quantity,
            fill_price=fill.price,
            commission=fill.commission,
        )

    def _write_emergency(self, report: EmergencyReport) -> None:
        for execution in report.executions:
            self._write_flattening(execution, report.reason)
        if self._emergencies_path is None:
            return
        closed = sum(1 for e in report.executions for r in e.results if r.status is OrderStatus.FILLED)
        writer = CsvAppender(self._emergencies_path, EMERGENCY_COLUMNS)
        try:
            writer.append(
                (
                    SCHEMA,
                    report.time_ms,
                    self._step,
                    self.agent,
                    report.reason,
                    report.drawdown_fraction,
                    report.limit_fraction,
                    report.peak_equity_usdt,
                    report.equity_usdt,
                    report.account.equity_usdt,
                    report.account.wallet_usdt,
                    closed,
                    report.tries,
                    bool(report.executions) and report.account.is_flat,
                    report.account.pending_orders,
                )
            )
        finally:
            writer.close()

    def _keep_fills(self, fills: Iterable[Fill]) -> None:
        if self._keep:
            self.fills.extend(fills)

    def _transfer(self, amount_usdt: Decimal, equity_usdt: Decimal) -> None:
        """Keep a deposit or withdrawal out of the PnL and out of the drawdown."""
        if amount_usdt:
            self._initial += amount_usdt
            self._peak *= transfer_scale(amount_usdt, equity_usdt)

    def _write_flattening(self, execution: Execution, reason: str) -> None:
        self._collect(execution.funding_usdt)
        for event in execution.events:
            self._write_event(event, execution.account)
        for result in execution.results:
            if result.planned.action_type is not ActionType.HOLD:
                error = "; ".join(filter(None, (reason, result.error)))
                self._write_result(replace(result, error=error), execution)

    def _see(self, equity_usdt: Decimal) -> Decimal:
        """Renew peak and largest drawdown; the drawdown at `equity_usdt`."""
        self._peak = max(self._peak, equity_usdt)
        drawdown = drawdown_fraction(equity_usdt, self._peak)
        self._max_drawdown = max(self._max_drawdown, drawdown)
        return drawdown

    def _collect(self, funding_usdt: Mapping[str, Decimal]) -> None:
        for symbol, amount in funding_usdt.items():
            self._funding[symbol] += amount

    def _write(
        self,
        account: AccountSnapshot,
        symbol: str,
        *,
        action_type: ActionType,
        result: OrderStatus,
        action: float | None = None,
        operation: str = "",
        error: str = "",
        trade_id: str = "",
        quantity: Decimal = ZERO,
        fill_price: Decimal | None = None,
        commission: Decimal = ZERO,
    ) -> None:
        equity = account.equity_usdt
        drawdown = self._see(equity)
        position = account.positions[symbol]
        record = StepRecord(
            schema=SCHEMA,
            timestamp=account.time_ms,
            step=self._step,
            agent=self.agent,
            symbol=symbol,
            action=action,
            price=position.mark_price,
            balance=account.wallet_usdt,
            equity=equity,
            drawdown=drawdown,
            max_drawdown=self._max_drawdown,
            pnl_total=equity - self._initial,
            position_open=position.quantity != 0,
            position_side=position.side.value,
            position_entry_price=position.entry_price,
            position_quantity=abs(position.quantity),
            unrealized_pnl=position.unrealized_pnl_usdt,
            action_type=action_type.value,
            operation=operation,
            result=result.value,
            error=error,
            trade_id=trade_id,
            quantity=quantity,
            fill_price=fill_price,
            commission=commission,
            funding=self._funding[symbol],
            reward=self._reward[symbol],
        )
        self._funding[symbol] = ZERO
        self._reward[symbol] = 0.0
        if self._file is not None:
            self._file.append(getattr(record, name) for name in COLUMNS)
        if self._keep:
            self.records.append(record)
