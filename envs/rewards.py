"""Rewards, computed in the kernel (`kernel.step_reward`) from equity at two successive closes.

- `log_return` (default): ln(equity[t+1] / equity[t]). It adds up to the log growth of the account.
- `differential_sharpe`: the first-order change of an exponentially weighted Sharpe ratio, after J. Moody and
  M. Saffell, "Learning to Trade via Direct Reinforcement", IEEE Trans. Neural Networks 12(4), 2001, eq. 16:
  D = (B * dA - A * dB / 2) / (B - A^2)^(3/2), with A and B moving averages of return and squared return at
  `rate`, dA = R - A, dB = R^2 - B; R is the log return.
- `drawdown_penalised`: the log return minus `penalty` times the growth of the drawdown in this step.

Equity is floored at a millionth of the initial capital, so that a liquidation is a large finite loss.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from envs.config import StrictModel


class LogReturn(StrictModel):
    """ln(equity[t+1] / equity[t])."""

    reward: Literal["log_return"] = "log_return"


class DifferentialSharpe(StrictModel):
    """Moody and Saffell's differential Sharpe ratio; `rate` is the weight of the newest return."""

    reward: Literal["differential_sharpe"] = "differential_sharpe"
    rate: float = Field(0.01, gt=0.0, lt=1.0)


class DrawdownPenalised(StrictModel):
    """Log return minus `penalty` * max(0, drawdown[t+1] - drawdown[t])."""

    reward: Literal["drawdown_penalised"] = "drawdown_penalised"
    penalty: float = Field(1.0, ge=0.0)


Reward = Annotated[LogReturn | DifferentialSharpe | DrawdownPenalised, Field(discriminator="reward")]
