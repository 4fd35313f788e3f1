"""The rules of the game: what a model is told of its limits, and the checks before an order is planned.

The limits themselves are enforced by the planner and the risk layer, whatever a model was told or says.
"""

from __future__ import annotations

from collections.abc import Mapping

from agents.llm.config import BudgetConfig, RulesConfig
from agents.llm.decision import Decision
from agents.llm.scene import Scene
from envs.account import Refused
from envs.risk import RiskLimits
from envs.settings import EnvConfig


def limit_lines(
    env: EnvConfig,
    limits: RiskLimits,
    rules: RulesConfig,
    budget: BudgetConfig,
    names: Mapping[str, str],
) -> list[str]:
    """The limits in words, one line each; `names` is what the symbols are called."""
    leverage = min(env.max_leverage, limits.max_leverage or env.max_leverage)
    lines = [
        f"All positions together: at most {leverage:g} times equity. `leverage`: at most {env.max_leverage:g}."
    ]
    for value, words in (
        (limits.max_position_notional_usdt, "One position: at most {:g} USDT."),
        (limits.max_order_notional_usdt, "One order: at most {:g} USDT."),
        (limits.max_orders_per_hour, "Orders that enlarge positions: at most {:g} per hour."),
        (budget.decisions_per_hour, "Decisions: at most {:g} per hour."),
    ):
        if value is not None:
            lines.append(words.format(value))
    if limits.max_drawdown_fraction is not None:
        lines.append(
            f"At a drawdown of {limits.max_drawdown_fraction:.2%} from the peak everything is closed and you are out."
        )
    if limits.daily_loss_fraction is not None:
        lines.append(
            f"After a loss of {limits.daily_loss_fraction:.2%} in a UTC day positions may only shrink until the next."
        )
    if limits.allowed_symbols is not None:
        allowed = sorted(names[symbol] for symbol in limits.allowed_symbols if symbol in names)
        lines.append(f"Positions may grow in {', '.join(allowed) or 'no instrument'} only.")
    if rules.require_stop_loss:
        lines.append("A position without `stop_loss` is refused.")
    if rules.min_confidence > 0:
        lines.append(f"A position opened with a `confidence` below {rules.min_confidence:g} is refused.")
    lines.append(
        f"Costs of an order: the taker fee, and about {env.slippage_bps:g} basis points of slippage."
        if env.taker_fee_fraction is None
        else f"Costs of an order: {env.taker_fee_fraction:.3%} fee, and about {env.slippage_bps:g} basis points of "
        "slippage."
    )
    return lines


def broken_rule(decision: Decision, scene: Scene, env: EnvConfig, rules: RulesConfig) -> Refused | None:
    """The rule that a decision breaks, before anything is planned; None when it breaks none."""
    if decision.action == "CLOSE_POSITION":
        if any(one.symbol == decision.symbol for one in scene.positions):
            return None
        return Refused("position", "an open position to close", f"none in {decision.symbol}")
    if decision.action != "OPEN_POSITION":
        return None
    assert decision.leverage is not None
    if decision.leverage > env.max_leverage:
        return Refused("leverage", f"{env.max_leverage:g}", f"{decision.leverage:g}")
    if rules.require_stop_loss and decision.stop_loss is None:
        return Refused("stop_loss", "a stop price", "none")
    if rules.min_confidence > 0 and (decision.confidence or 0.0) < rules.min_confidence:
        return Refused("confidence", f"at least {rules.min_confidence:g}", f"{decision.confidence or 0.0:g}")
    price = next(float(one.price) for one in scene.symbols if one.symbol == decision.symbol)
    long = decision.side == "BUY"
    for name, value, below in (
        ("stop_loss", decision.stop_loss, long),
        ("take_profit", decision.take_profit, not long),
    ):
        if value is not None and not (value < price if below else value > price):
            where = "below" if below else "above"
            return Refused(name, f"{where} the price of {price:g}", f"{value:g}")
    return None
