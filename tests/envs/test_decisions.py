"""The decision scheme: from rows to orders, through the phases and the risk layer, and what a view shows."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from support import START_MS, counting_features, env_of, flat_rows, instrument, market_of

from envs.account import ActionType, OrderStatus
from envs.decisions import Decided, decision_action
from envs.errors import ActionError, ConfigError
from envs.futures_env import FuturesEnv
from envs.risk import RiskLimits
from envs.vector_env import FuturesVectorEnv
from envs.wrappers import RiskControl

SYMBOLS = ("BTCUSDT", "ETHUSDT")


def make(rows: Any = None, **settings: Any) -> FuturesEnv:
    table = rows or {"BTCUSDT": flat_rows(*[100.0] * 6), "ETHUSDT": flat_rows(*[10.0] * 6)}
    env = env_of(
        market_of(table),
        instruments=[instrument("BTCUSDT"), instrument("ETHUSDT", tick="0.01")],
        **{"action": {"scheme": "decision"}, **settings},
    )
    env.reset()
    return env


def decide(**decided: Decided) -> Any:
    return decision_action(SYMBOLS, decided)


def held(env: FuturesEnv) -> list[Decimal]:
    return [position.quantity for position in env.account().positions.values()]


def test_a_decision_opens_one_symbol_with_its_triggers_and_leaves_the_other() -> None:
    env = make()
    execution = env.execute(env.plan(decide(BTCUSDT=Decided(2.0, 3.0, 90.04, 120.09))))
    assert held(env) == [Decimal("2"), 0]
    kinds = [result.planned.action_type for result in execution.results]
    assert kinds == [ActionType.OPEN_LONG, ActionType.HOLD]
    # To the tick of 0.1 that is nearer to the price.
    protection = env.account().positions["BTCUSDT"].protection
    assert (protection.stop_price, protection.take_profit_price) == (Decimal("90.1"), Decimal("120"))


def test_a_short_rounds_its_triggers_the_other_way() -> None:
    env = make()
    env.execute(env.plan(decide(BTCUSDT=Decided(-2.0, 3.0, 110.09, 90.04))))
    protection = env.account().positions["BTCUSDT"].protection
    assert (protection.stop_price, protection.take_profit_price) == (Decimal("110"), Decimal("90.1"))


def test_the_quantity_is_a_target_so_that_repeating_changes_only_triggers() -> None:
    env = make()
    env.execute(env.plan(decide(BTCUSDT=Decided(2.0, 3.0, 90.0))))
    env.advance()
    execution = env.execute(env.plan(decide(BTCUSDT=Decided(2.0, 3.0, 95.0))))
    assert [result.status for result in execution.results] == [OrderStatus.NONE] * 2
    assert held(env) == [Decimal("2"), 0]
    assert env.account().positions["BTCUSDT"].protection.stop_price == Decimal("95")
    env.advance()
    env.execute(env.plan(decide(BTCUSDT=Decided(0.0))))
    assert held(env) == [0, 0]


def test_holding_keeps_a_position_that_no_longer_fits_max_leverage() -> None:
    # 1000 USDT, 50 units at 100: 5x. At 85 equity is 250 and the position is worth 17x.
    env = make({"BTCUSDT": flat_rows(100, 100, 85, 85), "ETHUSDT": flat_rows(*[10.0] * 4)})
    env.execute(env.plan(decide(BTCUSDT=Decided(50.0, 10.0))))
    env.advance()
    env.execute(env.plan(decide()))
    env.advance()
    assert float(env.account().equity_usdt) == pytest.approx(1000 - 5 - 750)
    execution = env.execute(env.plan(decide(ETHUSDT=Decided(5.0, 1.0))))
    assert held(env) == [Decimal("50"), 0]  # no room is left for another position
    assert execution.results[1].planned.order is None


def test_the_decisions_own_leverage_bounds_its_position_and_says_so() -> None:
    env = make()
    plan = env.plan(decide(BTCUSDT=Decided(25.0, 2.0)))
    order = plan.entries[0].order
    assert order is not None and order.quantity == Decimal("20")  # 2 * 1000 / 100
    assert plan.entries[0].note == "cut to the decision's own leverage"
    plan = env.plan(decide(BTCUSDT=Decided(250.0, 0.0)))
    order = plan.entries[0].order
    assert order is not None and order.quantity == Decimal("100")  # max_leverage 10
    assert plan.entries[0].note == "scaled to max_leverage"


def test_step_is_the_phases() -> None:
    one, other = make(), make()
    for row in (decide(BTCUSDT=Decided(2.0, 3.0, 90.0)), decide(), decide(BTCUSDT=Decided(0.0))):
        one.step(row)
        other.execute(other.plan(row))
        other.advance()
        assert one.account() == other.account()


def test_rows_that_are_no_decisions_are_refused_and_hold_under_risk_control() -> None:
    env = make()
    for bad in (np.zeros(2), np.full((2, 5), np.nan), np.zeros((2, 4))):
        with pytest.raises(ActionError):
            env.plan(bad)
    risk = RiskControl(make(), RiskLimits())
    risk.reset()
    execution = risk.execute(risk.plan(np.full((2, 5), np.inf)))
    assert {result.status for result in execution.results} == {OrderStatus.REFUSED}


def test_every_sample_of_the_action_space_can_be_planned() -> None:
    env = make()
    env.action_space.seed(3)
    for _ in range(50):
        assert len(env.plan(env.action_space.sample()).entries) == 2


def test_risk_control_cuts_decisions() -> None:
    risk = RiskControl(make(), RiskLimits(max_leverage=0.5))
    risk.reset()
    result = risk.execute(risk.plan(decide(BTCUSDT=Decided(8.0, 3.0, 90.0)))).results[0]
    assert result.fills[0].quantity == Decimal("5")
    assert "max_leverage 500.00 USDT" in result.error


def test_a_decision_without_triggers_takes_the_schemes_fractions() -> None:
    env = make(action={"scheme": "decision", "stop_loss_fraction": 0.05})
    env.execute(env.plan(decide(BTCUSDT=Decided(2.0))))
    assert env.account().positions["BTCUSDT"].protection.stop_price == Decimal("95")


def test_the_vector_environment_says_that_it_does_not_take_decisions() -> None:
    with pytest.raises(ConfigError, match="decisions"):
        env = make()
        FuturesVectorEnv(2, env.market, features=counting_features(env.market), config=env.config)


def test_a_view_shows_closed_candles_and_no_more() -> None:
    rows = {"BTCUSDT": [(float(i), i + 1.0, i - 0.5, i + 0.5) for i in range(10, 16)]}
    env = env_of(market_of(rows), action={"scheme": "decision"})
    env.reset()
    env.step(np.zeros((1, 5)))
    view = env.view
    candles = view.recent_candles(10)
    assert candles.close[:, 0].tolist() == [10.5, 11.5]
    assert candles.open_time_ms.tolist() == [START_MS, START_MS + 3_600_000]
    assert view.recent_candles(1).open[:, 0].tolist() == [11.0]
    assert view.account().time_ms == START_MS + 2 * 3_600_000 - 1
    candles.close[:] = 0.0  # a copy
    assert view.recent_candles(1).close[0, 0] == 11.5
    assert not hasattr(view, "execute")
