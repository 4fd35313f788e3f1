"""RiskControl: what an agent plans is approved, reduced or refused before anything trades on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import gymnasium as gym
import numpy as np

from envs.account import (
    ZERO,
    AccountSnapshot,
    ActionType,
    Approved,
    EmergencyReport,
    Execution,
    OrderResult,
    OrderStatus,
    Plan,
    PlannedOrder,
    Protection,
    Refused,
)
from envs.base import Action, Observation, StepResult, TradingEnv, TradingWrapper
from envs.errors import ActionError, ExchangeError, HaltedError, RateLimitedError
from envs.planning import to_decimal
from envs.risk import RiskContext, RiskLimits, guard_prices, judge, with_guard
from envs.risk_state import RiskState, RiskStore, drawdown_fraction, fresh_state, transfer_scale


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
        transfers_usdt = info.get("transfers_usdt", ZERO)
        self._transfer(transfers_usdt, account)
        self._mark(account, soon=transfers_usdt == 0 and not (terminated or truncated))
        report = self._check_drawdown(account)
        if report is None and info.get("failure"):
            report = self.run_emergency(info["failure"])
        if report is not None:
            info = {**info, "emergency": report}
            terminated, truncated = True, False
        return observation, reward, terminated, truncated, info

    def rehearse(self, observation: Observation, plan: Plan, account: AccountSnapshot) -> None:
        """Judge a plan that will not be executed, and forget the verdicts."""
        del observation
        state = self.state.marked(account.equity_usdt, account.time_ms)
        drawdown_fraction(account.equity_usdt, state.peak_equity_usdt)
        entries, _ = self._judge_all(plan, account)
        if self.limits.protective_stop:
            self._with_guards(entries, account)

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

    def _mark(self, account: AccountSnapshot, *, soon: bool = False) -> None:
        """Remember what the account shows; `soon`: the step's orders wait for it."""
        self._state = self.state.marked(account.equity_usdt, account.time_ms)
        if not soon:
            self._save()
        elif self._store is not None:
            self._store.note(self.state)

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
        delay_s, ban_s = self.limits.emergency_delay_s, 0.0
        for attempt in range(self.limits.emergency_tries):
            if attempt:
                self._sleep(max(delay_s, ban_s))
                delay_s *= 2
            try:
                execution = super().flatten(reason)
            except ExchangeError as error:
                # An exchange that fails now is the one time when giving up would be worst.
                failures.append(str(error))
                ban_s = error.bearable_s if isinstance(error, RateLimitedError) else 0.0
                continue
            ban_s = 0.0
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


def _hold(entry: PlannedOrder) -> PlannedOrder:
    """The entry without its order."""
    return replace(entry, order=None, action_type=ActionType.HOLD, protection=None, skipped=False)
