"""What must hold for every market, every setting and every action."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from env_cases import environments, limits_strategy
from hypothesis import given

from envs.base import TradingWrapper
from envs.planning import to_decimal
from envs.risk import RiskLimits
from envs.wrappers import RiskControl, StepLog


@given(environments())
def test_the_fused_step_equals_the_phases(case: tuple[Any, np.ndarray]) -> None:
    make, actions = case
    fused, phased = make(), make()
    first, _ = fused.reset(seed=0)
    second, _ = phased.reset(seed=0)
    np.testing.assert_array_equal(first, second)
    for action in actions:
        got = fused.step(action)
        phased.execute(phased.plan(action))
        expected = phased.advance()
        np.testing.assert_array_equal(got[0], expected[0])
        assert got[1:4] == expected[1:4]
        assert fused.totals() == phased.totals()
        assert fused.account() == phased.account()
        if got[2] or got[3]:
            break
    assert phased.account().time_ms == fused.account().time_ms


@given(environments())
def test_the_account_adds_up(case: tuple[Any, np.ndarray]) -> None:
    make, actions = case
    env = make()
    env.reset()
    capital = env.config.initial_capital_usdt
    for action in actions:
        env.execute(env.plan(action))
        _, _, terminated, truncated, _ = env.advance()
        totals, account = env.totals(), env.account()
        booked = capital + totals["realized_pnl"] - totals["fees"] + totals["funding"] + totals["insurance"]
        assert totals["wallet"] == pytest.approx(booked, abs=1e-9 * capital)
        assert totals["equity"] == pytest.approx(
            booked + float(account.unrealized_pnl_usdt), abs=1e-9 * capital
        )
        assert totals["equity"] >= 0.0
        assert totals["wallet"] >= 0.0 or not account.is_flat
        assert totals["insurance"] >= 0.0
        for instrument in env.instruments:
            steps = account.positions[instrument.symbol].quantity / instrument.step_size
            assert steps == steps.to_integral_value()
        if terminated or truncated:
            break


@given(environments(reward={"reward": "log_return"}, terminate_drawdown_fraction=None))
def test_log_rewards_add_up_to_the_growth_of_the_account(case: tuple[Any, np.ndarray]) -> None:
    make, actions = case
    env = make()
    env.reset()
    total = 0.0
    for action in actions:
        _, reward, terminated, truncated, _ = env.step(action)
        total += reward
        if terminated or truncated:
            break
    floor = 1e-6 * env.config.initial_capital_usdt
    growth = math.log(max(env.totals()["equity"], floor) / env.config.initial_capital_usdt)
    assert total == pytest.approx(growth, abs=1e-9)


@given(environments())
def test_no_step_sizes_more_than_max_leverage(case: tuple[Any, np.ndarray]) -> None:
    make, actions = case
    env = make()
    env.reset()
    for action in actions:
        account = env.account()
        plan = env.plan(action)
        band = getattr(env.config.action, "rebalance_band", 0.0)
        equity = float(account.equity_usdt)
        ordered = [e for e in plan.entries if e.order is not None]
        # A position within the band, or too small to correct, may stay a little larger than asked.
        slack = sum(band * equity + float(i.min_notional_usdt) for i in env.instruments)
        total = sum(abs(float(e.target_quantity * e.price)) for e in plan.entries)
        limit = env.config.max_leverage * equity
        if any("maximum market order" in e.note for e in plan.entries):
            pass  # a reduction that takes several steps leaves more for a while
        elif env.config.action.scheme != "signal":
            assert total <= limit * (1 + 1e-9) + slack
        else:
            # Signals keep what they hold; what they add must fit beside it.
            kept = sum(abs(float(e.target_quantity * e.price)) for e in plan.entries if e.order is None)
            assert sum(abs(float(e.target_quantity * e.price)) for e in ordered) <= max(0.0, limit - kept) * (
                1 + 1e-9
            ) + sum(float(i.min_notional_usdt) for i in env.instruments)
        for entry, instrument in zip(plan.entries, env.instruments, strict=True):
            if entry.order is None:
                continue
            assert entry.order.quantity > 0
            assert entry.order.quantity == instrument.round_quantity(entry.order.quantity)
            held = account.positions[entry.symbol].quantity
            assert entry.target_quantity == held + entry.order.signed_quantity
            closes = entry.target_quantity == 0
            assert closes or entry.order.quantity * entry.price >= instrument.min_notional_usdt
        env.execute(plan)
        if any(env.advance()[2:4]):
            break


@given(environments(), limits_strategy)
def test_the_step_log_tells_all_of_it_once(case: tuple[Any, np.ndarray], limits: Mapping[str, Any]) -> None:
    make, actions = case
    env = make()
    log = StepLog(RiskControl(env, RiskLimits.parse(limits)), agent="random")
    log.reset()
    reward_sum = 0.0
    emergency = False
    for action in actions:
        execution = log.execute(log.plan(action))
        _, reward, terminated, truncated, info = log.advance()
        reward_sum += reward
        emergency = emergency or execution.emergency is not None or "emergency" in info
        if terminated or truncated:
            break
    log.close()
    totals = env.totals()
    scale = env.config.initial_capital_usdt
    rows = log.records
    for symbol in env.symbols:
        assert sum(r.reward for r in rows if r.symbol == symbol) == pytest.approx(reward_sum, abs=1e-9)
    assert float(sum(r.funding for r in rows)) == pytest.approx(totals["funding"], abs=1e-9 * scale)
    assert float(sum(r.commission for r in rows)) == pytest.approx(totals["fees"], abs=1e-9 * scale)
    assert sum(r.fill_price is not None for r in rows) == totals["trades"]
    assert [r.action_type for r in rows[-len(env.symbols) :]] == ["end"] * len(env.symbols)
    final = rows[-1]
    assert final.equity == env.account().equity_usdt
    assert final.pnl_total == final.equity - to_decimal(scale)
    # Positions are the running sum of the logged fills.
    held = dict.fromkeys(env.symbols, 0)
    for row in rows:
        held[row.symbol] += row.quantity * {"BUY": 1, "SELL": -1, "": 0}[row.operation]
        signed = row.position_quantity * (-1 if row.position_side == "SHORT" else 1)
        if row.action_type not in ("stop_loss", "take_profit", "liquidation", "emergency_close"):
            assert signed == held[row.symbol]
    times = [r.timestamp for r in rows]
    assert times == sorted(times)
    assert [r.step for r in rows] == sorted(r.step for r in rows)
    if emergency:
        assert env.account().is_flat


@given(environments(), limits_strategy)
def test_risk_control_never_lets_a_limit_be_broken_by_an_order(
    case: tuple[Any, np.ndarray], limits: Mapping[str, Any]
) -> None:
    make, actions = case
    limit = RiskLimits.parse(limits)
    risk: TradingWrapper = RiskControl(make(), limit)
    risk.reset()
    for action in actions:
        before = risk.account()
        execution = risk.execute(risk.plan(action))
        for result in execution.results:
            order = result.planned.order
            if order is None or not result.fills or any(fill.liquidation for fill in result.fills):
                continue
            held = before.positions[order.symbol].quantity
            reduces = held * order.signed_quantity < 0 and order.quantity <= abs(held)
            if reduces:
                continue
            price = result.planned.price
            after = abs(held + order.signed_quantity) * price
            if limit.max_position_notional_usdt is not None:
                assert float(after) <= limit.max_position_notional_usdt * (1 + 1e-9)
            if limit.max_order_notional_usdt is not None:
                assert float(order.quantity * price) <= limit.max_order_notional_usdt * (1 + 1e-9)
            if limit.max_leverage is not None:
                assert float(after) <= limit.max_leverage * float(before.equity_usdt) * (1 + 1e-9)
        if any(risk.advance()[2:4]):
            break
