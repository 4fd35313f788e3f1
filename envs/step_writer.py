"""StepLog: every step of what trades becomes rows of the step log, which `envs.step_log` lays out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

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
)
from envs.base import Observation, StepResult, TradingEnv, TradingWrapper
from envs.risk_state import drawdown_fraction, transfer_scale
from envs.step_log import COLUMNS, EMERGENCY_COLUMNS, SCHEMA, CsvAppender, Standing, StepRecord


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
