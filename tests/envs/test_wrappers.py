"""RiskControl around the simulation: refusals reach the results, and the emergency protocol ends flat and halted."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import env_of, flat_rows, instrument, market_of, phases

from agents.run import Ending, run
from envs.account import (
    AccountSnapshot,
    ActionType,
    Approved,
    EmergencyReport,
    Execution,
    Leg,
    OrderStatus,
    Plan,
    Protection,
)
from envs.base import TradingEnv, TradingWrapper
from envs.errors import ExchangeUnavailableError, HaltedError, OutcomeUnknownError
from envs.futures_env import FuturesEnv
from envs.risk import RiskLimits
from envs.risk_state import FileRiskStore, RiskState
from envs.synthetic import synthetic_market
from envs.wrappers import RiskControl, StepLog

D = Decimal
FALLING = flat_rows(100, 100, 98, 96, 94, 92, 90, 88)


def controlled(
    rows: Any, *, store: FileRiskStore | None = None, limits: Any = None, **settings: Any
) -> RiskControl:
    env = env_of(market_of(rows), **{"taker_fee_fraction": 0.0, **settings})
    return RiskControl(env, RiskLimits.parse(limits or {}), store=store)


class Constant:
    """An agent that always wants the same."""

    name = "constant"

    def __init__(self, *action: float) -> None:
        self.action = np.array(action)

    def reset(self, spec: Any, *, seed: int | None = None) -> None:
        pass

    def act(self, observation: Any, info: dict[str, Any]) -> Any:
        return self.action

    def close(self) -> None:
        pass


# --- judging in the loop -------------------------------------------------------------------------------------


def test_a_refused_order_is_not_sent_and_says_why() -> None:
    risk = controlled(flat_rows(*[100] * 4), limits={"allowed_symbols": []})
    risk.reset()
    execution, _ = phases(risk, 2.0)
    (result,) = execution.results
    assert result.status is OrderStatus.REFUSED
    assert result.error == "symbol_allowed: BTCUSDT against a limit of none"
    assert result.refusal is not None and result.refusal.check == "symbol_allowed"
    # The row tells what was wanted.
    assert result.planned.action_type is ActionType.OPEN_LONG and result.planned.order is not None
    assert risk.account().is_flat


def test_a_reduced_order_is_sent_smaller_and_says_why() -> None:
    risk = controlled(flat_rows(*[100] * 4), limits={"max_leverage": 0.5})
    risk.reset()
    execution, _ = phases(risk, 20.0)
    (result,) = execution.results
    assert (result.status, result.fills[0].quantity) == (OrderStatus.FILLED, 5)
    assert result.error == "reduced by max_leverage 500.00 USDT"


def test_orders_of_one_step_are_judged_together_reductions_first() -> None:
    rows = {"AAAUSDT": flat_rows(*[100] * 5), "BBBUSDT": flat_rows(*[100] * 5)}
    risk = controlled(rows, limits={"max_leverage": 1.0})
    risk.reset()
    both, _ = phases(risk, 6.0, 6.0)  # 600 + 600 of 1000: the second is cut to what the first leaves
    assert [r.fills[0].quantity for r in both.results] == [6, 4]
    shifted, _ = phases(risk, 8.0, 2.0)  # B gives 200 back first, so A may take them
    assert [r.fills[0].quantity for r in shifted.results] == [2, 2]
    assert [r.error for r in shifted.results] == ["", ""]


def test_orders_per_hour_count_only_what_enlarged() -> None:
    env = env_of(market_of(flat_rows(*[100] * 40), interval="15m"), taker_fee_fraction=0.0)
    risk = RiskControl(env, RiskLimits(max_orders_per_hour=2))
    risk.reset()
    statuses = []
    for quantity in (1.0, 2.0, 3.0, 1.0, 3.0, 3.0):
        execution, _ = phases(risk, quantity)
        statuses.append(execution.results[0].status.value)
    # Two openings, then one too many; a reduction passes; the fifth step is an hour after the first.
    assert statuses == ["filled", "filled", "refused", "filled", "filled", "none"]


def test_an_action_that_cannot_be_read_holds_and_is_a_refused_row() -> None:
    risk = controlled(flat_rows(*[100] * 6))
    risk.reset()
    phases(risk, 3.0)
    for bad in (np.array([np.nan]), np.array([1.0, 2.0]), "buy"):
        execution = risk.execute(risk.plan(bad))
        risk.advance()
        (result,) = execution.results
        assert (result.status, result.planned.action_type) == (OrderStatus.REFUSED, ActionType.HOLD)
        assert result.refusal is not None and result.refusal.check == "action"
        assert risk.account().positions["BTCUSDT"].quantity == 3
    execution, _ = phases(risk, 0.0)
    assert execution.results[0].status is OrderStatus.FILLED  # the next one is judged by itself


def test_a_daily_loss_stops_growth_until_midnight() -> None:
    # Hourly candles from 00:00; 10 units fall by 1 in candle 1: a loss of 1 %.
    risk = controlled(flat_rows(100, 100, 99, *[99] * 26), limits={"daily_loss_fraction": 0.01})
    risk.reset()
    phases(risk, 10.0)
    phases(risk, 10.0)  # marked at 990
    execution, _ = phases(risk, 11.0)
    assert execution.results[0].refusal is not None
    assert execution.results[0].refusal.check == "daily_loss"
    refused = 0
    while (execution := phases(risk, 11.0)[0]).results[0].status is OrderStatus.REFUSED:
        refused += 1
    # Decisions at the closes 03:00 to 23:00 of the day; that at 00:00 belongs to the next.
    assert execution.account.time_ms + 1 == risk.state.day_start_ms
    assert refused == 20


def test_a_stale_symbol_is_not_traded_at_all() -> None:
    class Stale(TradingWrapper):
        def stale_symbols(self) -> tuple[str, ...]:
            return ("AAAUSDT",)

    rows = {"AAAUSDT": flat_rows(*[100] * 4), "BBBUSDT": flat_rows(*[100] * 4)}
    risk = RiskControl(Stale(env_of(market_of(rows))), RiskLimits())
    risk.reset()
    execution, _ = phases(risk, 1.0, 1.0)
    assert [r.status for r in execution.results] == [OrderStatus.REFUSED, OrderStatus.FILLED]


def test_only_approved_plans_reach_the_environment() -> None:
    seen: list[object] = []

    class Spy(TradingWrapper):
        def execute(self, plan: Plan | Approved[Plan]) -> Execution:
            seen.append(plan)
            return super().execute(plan)

    risk = RiskControl(Spy(env_of(market_of(flat_rows(*[100] * 4)))), RiskLimits())
    risk.reset()
    phases(risk, 1.0)
    assert isinstance(seen[0], Approved)


def test_a_liquidation_at_the_open_is_told_even_where_the_order_was_refused() -> None:
    rows = [*flat_rows(100, 100), (50, 50, 50, 50), (50, 50, 50, 50)]
    risk = controlled(rows, limits={"max_order_notional_usdt": 5000})
    risk.reset()
    phases(risk, 50.0)
    execution = risk.execute(risk.plan(np.array([np.nan])))
    (result,) = execution.results
    assert result.planned.action_type is ActionType.LIQUIDATION
    assert result.status is OrderStatus.FILLED
    assert result.fills[0].liquidation


# --- protective stop ----------------------------------------------------------------------------------------


def test_protective_stop_by_hand_and_a_fall_ends_near_the_limit() -> None:
    rows = [*flat_rows(100, 100), (100, 100, 80, 85), *flat_rows(85, 85, 85)]
    risk = controlled(
        rows,
        limits={"max_drawdown_fraction": 0.1, "protective_stop": True},
        taker_fee_fraction=0.001,
        slippage_bps=10.0,
        instruments=[instrument(tick="0.01")],
    )
    risk.reset()
    phases(risk, 20.0)
    # At the first decision: 1000 less 0.9 * 1000, over 20 * 100, less fee and slippage of closing, 0.1 % each:
    # 5 % - 0.2 % = 4.8 %.
    assert risk.account().positions["BTCUSDT"].protection.guard_price == D("95.20")
    _, result = phases(risk, 20.0)
    # Bought at 100.1 for a fee of 2.002: equity 995.998. (995.998 - 900) / 2000 - 0.2 % = 4.5999 %.
    (event,) = result[4]["events"]
    assert event.fill.leg is Leg.PROTECTIVE_STOP
    assert float(event.fill.price) == pytest.approx(95.41 * 0.999)  # 95.4001 on the tick nearer to the price
    # Without it the account would have fallen to 696: 20 * 85.
    assert risk.account().is_flat
    final = float(risk.account().equity_usdt)
    assert 900 <= final < 901
    assert "emergency" not in result[4]


def test_protective_stop_moves_up_with_the_equity() -> None:
    risk = controlled(
        flat_rows(100, 100, 110, 121, 121), limits={"max_drawdown_fraction": 0.1, "protective_stop": True}
    )
    risk.reset()
    guards = []
    for _ in range(4):
        phases(risk, 10.0)
        guards.append(risk.account().positions["BTCUSDT"].protection.guard_price)
    # 10 units: equity is ten times the price, so a fall by a tenth of the peak price is the limit.
    assert guards == [D("90.0"), D("90.0"), D("99.0"), D("108.9")]


def test_no_protective_stop_without_a_drawdown_limit() -> None:
    risk = controlled(flat_rows(*[100] * 4), limits={"protective_stop": True})
    risk.reset()
    phases(risk, 10.0)
    assert risk.account().positions["BTCUSDT"].protection == Protection()


def test_a_flip_does_not_inherit_the_stop_of_the_other_side() -> None:
    risk = controlled(flat_rows(*[100] * 5), limits={"max_drawdown_fraction": 0.5, "protective_stop": True})
    risk.reset()
    plan = risk.plan(np.array([2.0]))
    entries = tuple(replace(e, protection=Protection(D(90), D(120))) for e in plan.entries)
    risk.execute(replace(plan, entries=entries))
    risk.advance()
    assert risk.account().positions["BTCUSDT"].protection.stop_price == 90
    _, result = phases(risk, -10.0)
    # A stop at 90 lies below a short's price of 100: it would close the position at once.
    assert result[4]["events"] == ()
    assert risk.account().positions["BTCUSDT"].protection == Protection(None, None, D("150.0"))


# --- emergency protocol --------------------------------------------------------------------------------------


def test_drawdown_at_a_close_closes_everything_and_halts(tmp_path: Path) -> None:
    store = FileRiskStore(tmp_path / "risk.json")
    rows = {"AAAUSDT": FALLING, "BBBUSDT": flat_rows(*[10] * 8)}
    risk = controlled(rows, store=store, limits={"max_drawdown_fraction": 0.05})
    result = run(risk, Constant(10.0, -20.0))
    # 10 units of A: 980 at candle 2, 960 at 3, 940 at 4: the first close at or below 950.
    assert (result.steps, result.ending) == (4, Ending.EMERGENCY)
    report = result.emergency
    assert report is not None and report.succeeded
    assert report.drawdown_fraction == D("0.06") and report.limit_fraction == D("0.05")
    assert (report.peak_equity_usdt, report.equity_usdt) == (1000, 940)
    assert report.reason == (
        "drawdown 6.0000% reached the limit of 5.0000% (equity 940.00 USDT, peak 1000.00)"
    )
    closed = {r.planned.symbol: r.fills[0] for r in report.executions[0].results}
    assert float(closed["AAAUSDT"].price) == 92.0  # the open of candle 5
    assert risk.account().is_flat
    assert risk.account().wallet_usdt == 920

    state = store.load()
    assert state is not None and state.halted_reason == report.reason
    with pytest.raises(HaltedError, match="--acknowledge-emergency") as caught:
        controlled(rows, store=store, limits={"max_drawdown_fraction": 0.05}).reset()
    assert (caught.value.exit_code, caught.value.reason) == (3, report.reason)
    store.path.unlink()  # what acknowledging does
    controlled(rows, store=store, limits={"max_drawdown_fraction": 0.05}).reset()


def test_drawdown_after_a_fill_ends_the_step(tmp_path: Path) -> None:
    # Slippage of 3 % on 20 units costs 60 of 1000 at once.
    risk = controlled(
        flat_rows(*[100] * 5),
        store=FileRiskStore(tmp_path / "risk.json"),
        limits={"max_drawdown_fraction": 0.05},
        slippage_bps=300.0,
    )
    risk.reset()
    execution, (_, reward, terminated, truncated, info) = phases(risk, 20.0)
    assert execution.emergency is not None and execution.emergency.succeeded
    assert execution.results[0].status is OrderStatus.FILLED
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert "emergency" not in info  # told once
    assert risk.account().is_flat
    assert risk.account().wallet_usdt == 1000 - 60 - 60


def test_the_peak_survives_a_restart(tmp_path: Path) -> None:
    store = FileRiskStore(tmp_path / "risk.json")
    first = controlled(flat_rows(100, 100, 120, 120), store=store, limits={"max_drawdown_fraction": 0.5})
    first.reset()
    phases(first, 10.0)
    phases(first, 10.0)
    assert first.state.peak_equity_usdt == 1200
    second = controlled(flat_rows(*[100] * 4), store=store, limits={"max_drawdown_fraction": 0.5})
    second.reset()
    assert second.state.peak_equity_usdt == 1200
    assert second.state.max_drawdown_fraction == 1 - D(1000) / D(1200)


class Written(FileRiskStore):
    """Tells how it was written."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.how: list[str] = []

    def save(self, state: RiskState) -> None:
        self.how.append("saved")
        super().save(state)

    def note(self, state: RiskState) -> None:
        self.how.append("noted")
        super().note(state)


def test_orders_wait_for_no_disk_but_the_peak_of_their_candle_survives_a_kill(tmp_path: Path) -> None:
    store = Written(tmp_path / "risk.json")
    first = controlled(flat_rows(100, 100, 120, 120), store=store)
    first.reset()
    phases(first, 10.0)
    first.execute(first.plan(np.array([10.0])))
    store.how.clear()
    first.advance()
    assert (store.how, first.state.peak_equity_usdt) == (["noted"], 1200)
    # Killed here, between the candle and the orders.
    again = FileRiskStore(store.path).load()
    assert again is not None and again.peak_equity_usdt == 1200
    first.execute(first.plan(np.array([10.0])))
    assert store.how == ["noted", "saved"]
    _, _, terminated, truncated, _ = first.advance()
    assert (terminated or truncated) and store.how == ["noted", "saved", "saved"]


def test_an_account_already_below_its_limit_is_not_traded(tmp_path: Path) -> None:
    store = FileRiskStore(tmp_path / "risk.json")
    first = controlled(flat_rows(100, 100, 120, 120), store=store)
    first.reset()
    phases(first, 10.0)
    phases(first, 10.0)
    second = controlled(flat_rows(*[100] * 4), store=store, limits={"max_drawdown_fraction": 0.1})
    asked: list[Any] = []

    class Asked(Constant):
        def act(self, observation: Any, info: dict[str, Any]) -> Any:
            asked.append(observation)
            return self.action

    result = run(second, Asked(1.0))
    assert (result.steps, result.ending, asked) == (0, Ending.EMERGENCY, [])
    assert second.advance()[2] is True


def test_without_a_store_every_reset_forgets() -> None:
    risk = controlled(FALLING, limits={"max_drawdown_fraction": 0.05})
    assert run(risk, Constant(10.0)).ending is Ending.EMERGENCY
    assert run(risk, Constant(10.0)).ending is Ending.EMERGENCY
    assert risk.emergency is not None


def test_an_order_of_unknown_outcome_is_an_emergency() -> None:
    class Failing(TradingWrapper):
        def execute(self, plan: Plan | Approved[Plan]) -> Execution:
            execution = super().execute(plan)
            results = tuple(
                replace(r, status=OrderStatus.UNKNOWN, error="no reply") for r in execution.results
            )
            return replace(execution, results=results)

    risk = RiskControl(Failing(env_of(market_of(flat_rows(*[100] * 4)))), RiskLimits())
    risk.reset()
    execution, _ = phases(risk, 1.0)
    assert execution.emergency is not None
    assert execution.emergency.reason == "order in BTCUSDT unknown: no reply"
    assert risk.account().is_flat


class Stubborn(TradingWrapper):
    """An exchange on which flattening fails a number of times, in one of several ways."""

    def __init__(self, env: TradingEnv, failures: int, how: str) -> None:
        super().__init__(env)
        self.left, self.how, self.tries = failures, how, 0
        self.pending = 0

    def account(self) -> AccountSnapshot:
        return replace(super().account(), pending_orders=self.pending)

    def flatten(self, reason: str) -> Execution:
        self.tries += 1
        if self.left == 0:
            self.pending = 0
            return super().flatten(reason)
        self.left -= 1
        if self.how == "unavailable":
            raise ExchangeUnavailableError("no answer", http_status=503)
        if self.how == "unknown":
            raise OutcomeUnknownError("timeout", client_order_id="x")
        if self.how == "orders stay":
            self.pending = 2
            return replace(super().flatten(reason), account=self.account())
        return Execution((), self.account())  # accepted, and nothing happened


def stubborn(
    failures: int, how: str, tries: int = 5
) -> tuple[EmergencyReport, Stubborn, list[float], RiskControl]:
    exchange = Stubborn(env_of(market_of(FALLING), taker_fee_fraction=0.0), failures, how)
    waits: list[float] = []
    limits = RiskLimits(max_drawdown_fraction=0.05, emergency_tries=tries, emergency_delay_s=0.5)
    risk = RiskControl(exchange, limits, sleep=waits.append)
    result = run(risk, Constant(10.0))
    assert result.ending is Ending.EMERGENCY and result.emergency is not None
    return result.emergency, exchange, waits, risk


HOWS = ["nothing happens", "orders stay", "unavailable", "unknown"]


@pytest.mark.parametrize("how", HOWS)
def test_the_protocol_repeats_until_flat_with_growing_delays(how: str) -> None:
    report, exchange, waits, risk = stubborn(3, how)
    assert report.succeeded
    assert exchange.tries == report.tries == 4
    assert waits == [0.5, 1.0, 2.0]
    assert risk.account().is_flat
    assert "NOT FLAT" not in risk.state.halted_reason


@pytest.mark.parametrize("how", HOWS)
def test_the_protocol_gives_up_after_its_tries_and_says_so(how: str) -> None:
    report, exchange, waits, risk = stubborn(99, how, tries=3)
    assert not report.succeeded
    assert exchange.tries == report.tries == 3
    assert waits == [0.5, 1.0]
    assert "; NOT FLAT after 3 tries" in risk.state.halted_reason
    assert len(report.failures) == (3 if how in ("unavailable", "unknown") else 0)


def test_the_halt_is_stored_before_the_first_order_is_sent(tmp_path: Path) -> None:
    store = FileRiskStore(tmp_path / "risk.json")
    seen: list[str] = []

    class Dies(TradingWrapper):
        def flatten(self, reason: str) -> Execution:
            state = store.load()
            assert state is not None
            seen.append(state.halted_reason)
            raise KeyboardInterrupt

    env = env_of(market_of(FALLING), taker_fee_fraction=0.0)
    risk = RiskControl(Dies(env), RiskLimits(max_drawdown_fraction=0.05), store=store)
    with pytest.raises(KeyboardInterrupt):
        run(risk, Constant(10.0))
    assert seen and seen[0].startswith("drawdown 6.0000%")
    with pytest.raises(HaltedError):
        RiskControl(env, RiskLimits(), store=store).reset()


def test_a_liquidation_beyond_the_limit_is_an_emergency_too(tmp_path: Path) -> None:
    store = FileRiskStore(tmp_path / "risk.json")
    rows = [*flat_rows(100, 100), (50, 50, 50, 50), (50, 50, 50, 50)]
    risk = controlled(rows, store=store, limits={"max_drawdown_fraction": 0.2})
    result = run(risk, Constant(50.0))
    assert result.ending is Ending.EMERGENCY
    assert result.emergency is not None and result.emergency.drawdown_fraction == 1
    state = store.load()
    assert state is not None and state.halted_reason


def test_a_falling_market_ends_by_the_protocol_with_one_emergencies_row(tmp_path: Path) -> None:
    market = synthetic_market(("BTCUSDT",), n=300, falling=True)
    steps, emergencies = tmp_path / "steps.csv", tmp_path / "emergencies.csv"
    log = StepLog(
        RiskControl(
            FuturesEnv(market),
            RiskLimits(max_drawdown_fraction=0.01),
            store=FileRiskStore(tmp_path / "risk.json"),
        ),
        agent="long",
        path=steps,
        emergencies_path=emergencies,
        keep_records=True,
    )
    result = run(log, Constant(1.0))
    log.close()
    assert result.ending is Ending.EMERGENCY
    assert len(emergencies.read_text(encoding="utf-8").splitlines()) == 2
    assert [r.action_type for r in log.records[-2:]] == ["emergency_close", "end"]
    assert log.records[-1].position_open is False
