"""The best that a trader can do who knows the signal of a synthetic market, and how it was found.

The oracle knows the process of `envs.synthetic` without regimes and jumps: the momentum m[t], and so the expected log
return of the next candle, signal[t]. It may hold any of a grid of shares of equity, up to the same leverage as the
policy, and pays the same costs per traded notional, c = taker fee + slippage. Its positions maximise the expected log
growth per candle,

    p * signal(m) - p^2 * var / 2 - c * |p - previous p|,

over all rules that map (m, previous p) to p, by value iteration on a grid of m whose transitions average over the
shocks of the training span. Its fills then go through the same environment as the policy's: rebalance band, rounding,
margin, funding and the log growth that is compared are the simulator's, not the formula's.

What it does not know: the stochastic volatility of the moment, and fundings (about 0.1 basis points an hour).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.sac.dataset import TRAIN, Dataset
from envs.futures_env import FuturesEnv
from envs.synthetic import synthetic_signal

Floats = NDArray[np.float64]

# Of the module's docstring in envs/synthetic.py.
MOMENTUM_WEIGHT = 2 / (8 + 1)
_STD = math.sqrt(MOMENTUM_WEIGHT / (2 - MOMENTUM_WEIGHT))
_YEAR_MS = 365 * 86_400_000
_MOMENTA, _SHOCKS, _MOST_SWEEPS = 161, 200, 5_000
_REACH = 5 * _STD


@dataclass(frozen=True)
class Rule:
    """Which share of equity to hold: by momentum [M], in volatilities, and the share held before [P]."""

    momenta: Floats
    shares: Floats
    choice: NDArray[np.int64]

    def next_share(self, momentum: float, held: int) -> int:
        """Index of the share to hold."""
        step = self.momenta[1] - self.momenta[0]
        row = round((momentum - self.momenta[0]) / step)
        return int(self.choice[min(max(row, 0), len(self.momenta) - 1), held])


def best_rule(shocks: Floats, *, strength: float, volatility: float, cost: float, shares: Floats) -> Rule:
    """The rule of the module's docstring.

    Args:
        shocks: [S] what a candle's log return is beyond the signal, in volatilities, equally likely.
        strength: of the signal; volatility: of a candle, as a log return.
        cost: per traded notional.
        shares: [P] that may be held.
    """
    momenta = np.linspace(-_REACH, _REACH, _MOMENTA)
    signal = strength * np.clip(momenta / _STD, -2.0, 2.0)
    following = momenta[:, None] + MOMENTUM_WEIGHT * (signal[:, None] + shocks - momenta[:, None])
    place = np.clip((following + _REACH) / (momenta[1] - momenta[0]), 0.0, _MOMENTA - 1.0 - 1e-9)
    lower = place.astype(np.int64)
    transition = np.zeros((_MOMENTA, _MOMENTA))
    for row in range(_MOMENTA):
        np.add.at(transition[row], lower[row], (1.0 - place[row] + lower[row]) / len(shocks))
        np.add.at(transition[row], lower[row] + 1, (place[row] - lower[row]) / len(shocks))
    variance = volatility**2 * float(np.mean(shocks**2))
    holding = volatility * signal[:, None] * shares - shares**2 * variance / 2
    turning = cost * np.abs(shares[:, None] - shares)
    value = np.zeros_like(holding)
    for _ in range(_MOST_SWEEPS):
        held = holding + transition @ value
        better = (held[:, None, :] - turning).max(axis=2)
        better -= better.mean()
        settled = np.abs(better - value).max() < 1e-9
        value = better
        if settled:
            break
    return Rule(momenta, shares, (held[:, None, :] - turning).argmax(axis=2))


class Oracle:
    """The rule, as a policy for one pass through `env`: each call is the next candle's action.

    Args:
        dataset: whose training span the shocks are of.
        env: what it is to trade.
        strength, volatility_annual: of the market.
        shares: how many shares of equity it may hold, evenly spaced from -1 to 1; odd.
    """

    def __init__(
        self,
        dataset: Dataset,
        env: FuturesEnv,
        *,
        strength: float,
        volatility_annual: float,
        shares: int = 9,
    ) -> None:
        candles = dataset.market.candles[0]
        volatility = volatility_annual * math.sqrt(candles.interval_ms / _YEAR_MS)
        returns = np.diff(np.log(np.concatenate(([candles.open[0]], candles.close)))) / volatility
        signal = synthetic_signal(candles, signal_strength=strength, volatility_annual=volatility_annual)
        rows = dataset.rows[TRAIN]
        shocks = returns[rows.first + 1 : rows.last] - signal[rows.first : rows.last - 1] / volatility
        instrument = env.instruments[0]
        fee = env.config.taker_fee_fraction
        cost = (float(instrument.taker_fee) if fee is None else fee) + env.config.slippage_bps / 1e4
        self.rule = best_rule(
            np.quantile(shocks, (np.arange(_SHOCKS) + 0.5) / _SHOCKS),
            strength=strength,
            volatility=volatility,
            cost=cost,
            shares=np.linspace(-1.0, 1.0, shares),
        )
        self._momentum = np.empty(len(returns))
        momentum = 0.0
        for t, value in enumerate(returns.tolist()):
            momentum += MOMENTUM_WEIGHT * (value - momentum)
            self._momentum[t] = momentum
        self._candle = env.first_index
        self._held = len(self.rule.shares) // 2

    def __call__(self, _observation: Any) -> NDArray[np.float32]:
        """The action at the next candle."""
        self._held = self.rule.next_share(float(self._momentum[self._candle]), self._held)
        self._candle += 1
        return np.array([self.rule.shares[self._held]], np.float32)
