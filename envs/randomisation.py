"""What may differ from episode to episode: costs and capital, drawn from ranges."""

from __future__ import annotations

import math

from pydantic import field_validator

from envs.config import StrictModel

Range = tuple[float, float]


class DomainRandomisation(StrictModel):
    """Ranges (low, high) that each account draws from at the start of each episode. None keeps the setting.

    initial_capital_usdt: wallet at the start; the logarithm is uniform.
    slippage_bps: uniform.
    taker_fee_multiplier: of the taker fee, uniform.
    """

    initial_capital_usdt: Range | None = None
    slippage_bps: Range | None = None
    taker_fee_multiplier: Range | None = None

    @field_validator("*")
    @classmethod
    def _ordered(cls, value: Range | None) -> Range | None:
        if value is not None and not 0.0 <= value[0] <= value[1] < math.inf:
            raise ValueError(f"{list(value)} is no range: give [low, high] with 0 <= low <= high")
        return value

    @field_validator("initial_capital_usdt")
    @classmethod
    def _some_capital(cls, value: Range | None) -> Range | None:
        if value is not None and value[0] <= 0.0:
            raise ValueError(f"the least capital is {value[0]}; give more than 0")
        return value

    @field_validator("slippage_bps")
    @classmethod
    def _some_price(cls, value: Range | None) -> Range | None:
        if value is not None and value[1] >= 10_000.0:
            raise ValueError(f"the largest slippage is {value[1]} bps; give less than 10000")
        return value
