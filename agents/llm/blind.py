"""Blind mode: a scene without names, dates or price levels that a model could remember, and decisions mapped back.

A model was trained on the history that a backtest replays. Blind, an instrument is called ASSET1, its prices are
multiplied by a factor of its own and its quantities divided by it, so that every amount of money stays what it is,
volumes get another factor, and dates move by whole weeks. Factors are products of powers of 2 and 5: they and their
inverses are finite decimals. A prompt shows eight digits of a number; one that a model repeats is taken for the price
or the quantity that it was, so that what was shown comes back exactly.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np

from agents.llm.decision import Decision
from agents.llm.scene import Past, PositionScene, Scene, SymbolScene
from envs.features import FeatureConfig
from envs.synthetic import synthetic_candles, synthetic_funding

_WEEK_MS = 7 * 24 * 3_600_000
_POWERS = range(-12, 13)
_FIRST_PRICES = (20.0, 500.0)
_WEEKS_AHEAD = (520, 1500)
# More than what eight digits leave out, and less than any model means.
_SAME = Decimal("6e-8")
_LARGEST = Decimal(repr(sys.float_info.max))
_SMALLEST = Decimal(repr(sys.float_info.min))


def shows_levels(features: FeatureConfig) -> str | None:
    """The column of the first indicator that moves when prices and volumes have other levels; None when none does.

    A blind prompt shows indicators as they are, so such a one would show what is hidden.
    """
    candles = synthetic_candles(n=features.memory + 50, seed=3)
    funding = synthetic_funding(candles)
    prices = {name: getattr(candles, name) * 8.0 for name in ("open", "high", "low", "close")}
    other = replace(candles, **prices, volume=candles.volume * 4.0)
    for one in features.indicators:
        for column, here, there in zip(
            one.columns, one.compute(candles, funding), one.compute(other, funding), strict=True
        ):
            if not np.allclose(here[-40:], there[-40:], rtol=1e-6, atol=1e-9, equal_nan=True):
                return column
    return None


@dataclass(frozen=True, slots=True)
class Disguise:
    """One instrument's: its other name, what its prices and volumes are multiplied by, and its real steps."""

    alias: str
    price_factor: Decimal
    volume_factor: Decimal
    tick_size: Decimal
    step_size: Decimal


class Blindfold:
    """Maps scenes to what is shown, and decisions back.

    Args:
        seed: draws names, factors and dates.
        first: the scene of the first decision; its closes fix where prices begin.
    """

    def __init__(self, seed: int, first: Scene) -> None:
        rng = np.random.default_rng([seed, len(first.symbols)])
        names = [f"ASSET{i + 1}" for i in rng.permutation(len(first.symbols))]
        self._shift_ms = int(rng.integers(*_WEEKS_AHEAD)) * _WEEK_MS
        self._disguises: dict[str, Disguise] = {}
        for one, alias in zip(first.symbols, names, strict=True):
            begin = math.exp(rng.uniform(math.log(_FIRST_PRICES[0]), math.log(_FIRST_PRICES[1])))
            volume = math.exp(rng.uniform(-5.0, 5.0))
            self._disguises[one.symbol] = Disguise(
                alias,
                _factor_near(begin / float(one.price)),
                _factor_near(volume),
                one.tick_size,
                one.step_size,
            )
        self._symbols = {disguise.alias: symbol for symbol, disguise in self._disguises.items()}

    @property
    def disguises(self) -> Mapping[str, Disguise]:
        """By symbol."""
        return dict(self._disguises)

    def cover(self, scene: Scene) -> Scene:
        """What is shown of a scene, in the order of the aliases."""
        symbols = sorted((self._symbol(one) for one in scene.symbols), key=lambda one: one.symbol)
        return replace(
            scene,
            close_ms=scene.close_ms + self._shift_ms,
            symbols=tuple(symbols),
            positions=tuple(
                sorted((self._position(one) for one in scene.positions), key=lambda one: one.symbol)
            ),
            past=tuple(self._past(one) for one in scene.past),
        )

    def uncover(self, decision: Decision) -> Decision:
        """What a decision about what was shown means."""
        if decision.symbol is None:
            return decision
        symbol = self._symbols[decision.symbol]
        disguise = self._disguises[symbol]
        factor, tick, step = disguise.price_factor, disguise.tick_size, disguise.step_size
        return decision.model_copy(
            update={
                "symbol": symbol,
                "quantity": _meant(decision.quantity, factor, step),
                "stop_loss": _meant(decision.stop_loss, 1 / factor, tick),
                "take_profit": _meant(decision.take_profit, 1 / factor, tick),
            }
        )

    def _symbol(self, one: SymbolScene) -> SymbolScene:
        disguise = self._disguises[one.symbol]
        factor = disguise.price_factor
        return replace(
            one,
            symbol=disguise.alias,
            price=one.price * factor,
            tick_size=one.tick_size * factor,
            step_size=one.step_size / factor,
            candles=tuple(
                replace(
                    row,
                    close_ms=row.close_ms + self._shift_ms,
                    open=row.open * factor,
                    high=row.high * factor,
                    low=row.low * factor,
                    close=row.close * factor,
                    quote_volume=row.quote_volume * disguise.volume_factor,
                )
                for row in one.candles
            ),
        )

    def _position(self, one: PositionScene) -> PositionScene:
        disguise = self._disguises[one.symbol]
        factor = disguise.price_factor
        return replace(
            one,
            symbol=disguise.alias,
            quantity=one.quantity / factor,
            entry_price=one.entry_price * factor,
            price=one.price * factor,
            stop_price=_times(one.stop_price, factor),
            take_profit_price=_times(one.take_profit_price, factor),
            liquidation_price=_times(one.liquidation_price, factor),
        )

    def _past(self, one: Past) -> Past:
        shifted = replace(one, close_ms=one.close_ms + self._shift_ms)
        if one.symbol is None:
            return shifted
        disguise = self._disguises[one.symbol]
        factor = disguise.price_factor
        return replace(
            shifted,
            symbol=disguise.alias,
            quantity=None if one.quantity is None else one.quantity / factor,
            stop_price=_times(one.stop_price, factor),
            take_profit_price=_times(one.take_profit_price, factor),
            fills=tuple((what, quantity / factor, price * factor) for what, quantity, price in one.fills),
        )


def _times(price: Decimal | None, factor: Decimal) -> Decimal | None:
    return None if price is None else price * factor


def _meant(value: float | None, factor: Decimal, step: Decimal) -> float | None:
    """What a number that was said stands for: on the instrument's grid if it differs by no more than was left out."""
    if value is None:
        return None
    real = Decimal(repr(value)) * factor
    near = (real / step).to_integral_value() * step
    if near and abs(near - real) <= _SAME * real:
        real = near
    # Neither infinite nor zero: beyond every limit and below every step is where it was.
    return float(min(max(real, _SMALLEST), _LARGEST))


def _factor_near(wanted: float) -> Decimal:
    """The product of powers of 2 and 5 that is nearest to `wanted`, as a ratio."""
    pairs: Sequence[tuple[int, int]] = [(a, b) for a in _POWERS for b in _POWERS]
    logs = [a * math.log(2) + b * math.log(5) for a, b in pairs]
    a, b = pairs[int(np.argmin(np.abs(np.array(logs) - math.log(wanted))))]
    return Decimal(2) ** a * Decimal(5) ** b
