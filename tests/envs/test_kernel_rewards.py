"""The three rewards, by hand and against numpy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from support import env_of, flat_rows, market_of, phases

PRICES = (100.0, 100.0, 104.0, 101.0, 99.0, 103.0, 110.0, 108.0, 112.0)


def rewards_of(reward: dict[str, object], prices: tuple[float, ...] = PRICES) -> list[float]:
    """Rewards of holding 10 units of 100 with 1000 USDT, so that equity is ten times the price."""
    env = env_of(market_of(flat_rows(*prices)), taker_fee_fraction=0.0, reward=reward)
    env.reset()
    return [phases(env, 10.0)[1][1] for _ in range(len(prices) - 1)]


def test_log_return() -> None:
    assert rewards_of({"reward": "log_return"}) == pytest.approx(
        [math.log(b / a) for a, b in itertools.pairwise(PRICES)], rel=1e-12, abs=1e-15
    )


def test_log_return_counts_the_commission() -> None:
    env = env_of(market_of(flat_rows(100, 100, 100)))
    env.reset()
    _, result = phases(env, 10.0)
    assert result[1] == pytest.approx(math.log(999 / 1000), rel=1e-12)


def test_drawdown_penalised() -> None:
    got = rewards_of({"reward": "drawdown_penalised", "penalty": 2.0})
    # Peak 1000, 1000, 1040 ...: the drawdown grows at 101 (3/104) and at 99 (2/104 more), shrinks at 103.
    expected = [
        0.0,
        math.log(104 / 100),
        math.log(101 / 104) - 2 * (3 / 104),
        math.log(99 / 101) - 2 * (2 / 104),
        math.log(103 / 99),
        math.log(110 / 103),
        math.log(108 / 110) - 2 * (2 / 110),
        math.log(112 / 108),
    ]
    assert got == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_differential_sharpe_against_the_papers_formula() -> None:
    rate = 0.05
    rng = np.random.default_rng(3)
    prices = np.concatenate(([100.0, 100.0], 100 * np.exp(np.cumsum(rng.normal(0, 0.01, 60)))))
    prices = np.round(prices, 1)
    got = rewards_of({"reward": "differential_sharpe", "rate": rate}, tuple(prices))
    # Moody and Saffell (2001), eq. 16: A and B as of the step before.
    returns = np.log(prices[1:] / prices[:-1])
    a = b = 0.0
    expected = []
    for value in returns:
        delta_a, delta_b = value - a, value**2 - b
        spread = b - a * a
        expected.append((b * delta_a - 0.5 * a * delta_b) / spread**1.5 if spread > 1e-16 else 0.0)
        a, b = a + rate * delta_a, b + rate * delta_b
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert any(abs(value) > 0.1 for value in got)


def test_differential_sharpe_is_the_derivative_of_the_moving_sharpe_ratio() -> None:
    """D is dS/d(rate) at rate 0, S = A / sqrt(B - A^2): checked by a small difference."""
    a, b, value = 0.001, 0.0004, 0.012
    direct = (b * (value - a) - 0.5 * a * (value**2 - b)) / (b - a * a) ** 1.5
    step = 1e-7

    def sharpe(rate: float) -> float:
        a1, b1 = a + rate * (value - a), b + rate * (value**2 - b)
        return a1 / math.sqrt(b1 - a1 * a1)

    assert (sharpe(step) - sharpe(-step)) / (2 * step) == pytest.approx(direct, rel=1e-5)


def test_a_liquidation_is_a_large_finite_loss() -> None:
    rows = [*flat_rows(100, 100), (50, 50, 50, 50), (50, 50, 50, 50)]
    env = env_of(market_of(rows), exchange_leverage=20)
    env.reset()
    phases(env, 50.0)
    _, result = phases(env, 50.0)
    # Equity 995 falls to 0, floored at a millionth of the capital.
    assert result[1] == pytest.approx(math.log(1e-6 * 1000 / 995), rel=1e-12)
    assert result[2] is True
