"""Trading rules of the instruments: price and quantity grid, minimum notional, leverage brackets, fees.

The bundled table (`default_instruments`) serves backtests, training and the paper exchange. A live run reads
the same rules from the exchange, because Binance changes them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from envs.errors import InstrumentError

# The exchange sends amounts as binary floats, some of them rounded.
_AMOUNT_TOLERANCE_USDT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class LeverageBracket:
    """One row of the exchange's leverage table, for notionals in (floor, cap], in USDT.

    Maintenance margin = notional * maintenance_rate - maintenance_amount_usdt (Binance's `cum`).
    """

    notional_floor_usdt: Decimal
    notional_cap_usdt: Decimal
    max_leverage: int
    maintenance_rate: Decimal
    maintenance_amount_usdt: Decimal


@dataclass(frozen=True, slots=True)
class Instrument:
    """One perpetual contract, settled in USDT. Fees are fractions of the notional (0.0005 is 5 bps)."""

    symbol: str
    base_asset: str
    tick_size: Decimal
    min_price: Decimal
    max_price: Decimal
    step_size: Decimal
    min_quantity: Decimal
    max_quantity_limit: Decimal
    max_quantity_market: Decimal
    min_notional_usdt: Decimal
    price_multiplier_up: Decimal
    price_multiplier_down: Decimal
    price_precision: int
    quantity_precision: int
    maker_fee: Decimal
    taker_fee: Decimal
    liquidation_fee: Decimal
    brackets: tuple[LeverageBracket, ...]

    def __post_init__(self) -> None:
        for name in ("tick_size", "step_size", "min_quantity"):
            if getattr(self, name) <= 0:
                raise InstrumentError(f"{self.symbol}: {name} is {getattr(self, name)}; it must be above 0")
        if not self.brackets:
            raise InstrumentError(f"{self.symbol}: no leverage brackets; give at least one")
        floor = Decimal(0)
        amount = Decimal(0)
        rate = Decimal(0)
        for row, bracket in enumerate(self.brackets):
            # cum_n = cum_{n-1} + floor_n * (rate_n - rate_{n-1}) keeps the maintenance margin continuous.
            amount += bracket.notional_floor_usdt * (bracket.maintenance_rate - rate)
            rate = bracket.maintenance_rate
            off = abs(bracket.maintenance_amount_usdt - amount)
            if bracket.notional_floor_usdt != floor or off > _AMOUNT_TOLERANCE_USDT:
                raise InstrumentError(
                    f"{self.symbol}: leverage bracket {row} starts at {bracket.notional_floor_usdt} with "
                    f"maintenance amount {bracket.maintenance_amount_usdt}; expected {floor} and {amount}"
                )
            floor = bracket.notional_cap_usdt

    @property
    def max_leverage(self) -> int:
        """Highest leverage that the exchange allows, that of the smallest bracket."""
        return self.brackets[0].max_leverage

    def round_quantity(self, quantity: Decimal) -> Decimal:
        """`quantity` (base units, signed) rounded toward zero to the step size."""
        steps = (abs(quantity) / self.step_size).to_integral_value(rounding=ROUND_DOWN)
        return (steps * self.step_size).copy_sign(quantity)

    def round_price(self, price: Decimal, *, up: bool) -> Decimal:
        """`price` rounded to the tick size, up or down."""
        mode = ROUND_CEILING if up else ROUND_FLOOR
        return (price / self.tick_size).to_integral_value(rounding=mode) * self.tick_size

    def bracket_at(self, notional_usdt: Decimal) -> LeverageBracket:
        """The leverage bracket of a position's absolute notional; the last one beyond the table's end."""
        for bracket in self.brackets:
            if notional_usdt <= bracket.notional_cap_usdt:
                return bracket
        return self.brackets[-1]

    def maintenance_margin_usdt(self, notional_usdt: Decimal) -> Decimal:
        """Maintenance margin of an absolute notional: notional * rate - maintenance amount."""
        bracket = self.bracket_at(notional_usdt)
        return notional_usdt * bracket.maintenance_rate - bracket.maintenance_amount_usdt

    def max_notional_usdt(self, leverage: int) -> Decimal:
        """Largest position notional allowed at a leverage setting: the cap of the last bracket allowing it."""
        cap = Decimal(0)
        for bracket in self.brackets:
            if bracket.max_leverage >= leverage:
                cap = bracket.notional_cap_usdt
        if cap == 0:
            raise InstrumentError(
                f"{self.symbol}: leverage {leverage} is above the exchange's maximum of {self.max_leverage}"
            )
        return cap

    def with_fees(self, *, taker_fee: Decimal | None = None, maker_fee: Decimal | None = None) -> Instrument:
        """The same instrument with other commission rates (fractions of the notional)."""
        return replace(
            self,
            taker_fee=self.taker_fee if taker_fee is None else taker_fee,
            maker_fee=self.maker_fee if maker_fee is None else maker_fee,
        )


def instrument_from_dict(symbol: str, rules: Mapping[str, Any]) -> Instrument:
    """Read one instrument from the form of `instruments.json` (numbers as strings).

    Raises:
        InstrumentError: a rule is missing or is not a number; names it.
    """

    def number(rule: Mapping[str, Any], name: str) -> Decimal:
        try:
            value = Decimal(rule[name])
        except (ArithmeticError, TypeError, ValueError):
            value = Decimal("NaN")
        if not value.is_finite():
            raise InstrumentError(f"{symbol}: {name} is {rule[name]!r}; give a number")
        return value

    try:
        values: dict[str, Any] = {
            name: rules[name] if name.endswith("_precision") or name == "base_asset" else number(rules, name)
            for name in Instrument.__dataclass_fields__
            if name not in ("symbol", "brackets")
        }
        brackets = tuple(
            LeverageBracket(
                notional_floor_usdt=number(row, "notional_floor_usdt"),
                notional_cap_usdt=number(row, "notional_cap_usdt"),
                max_leverage=int(number(row, "max_leverage")),
                maintenance_rate=number(row, "maintenance_rate"),
                maintenance_amount_usdt=number(row, "maintenance_amount_usdt"),
            )
            for row in rules["brackets"]
        )
    except KeyError as missing:
        raise InstrumentError(
            f"{symbol}: the rule {missing} is missing; see envs/instruments.json"
        ) from missing
    return Instrument(symbol=symbol, brackets=brackets, **values)


@cache
def default_instruments() -> Mapping[str, Instrument]:
    """The bundled rules, by symbol, read-only."""
    text = resources.files("envs").joinpath("instruments.json").read_text(encoding="utf-8")
    rules: dict[str, Any] = json.loads(text)["instruments"]
    return MappingProxyType({symbol: instrument_from_dict(symbol, row) for symbol, row in rules.items()})


def get_instruments(
    symbols: Iterable[str], table: Mapping[str, Instrument] | None = None
) -> tuple[Instrument, ...]:
    """The instruments of `symbols`, in that order.

    Raises:
        InstrumentError: a symbol is not in the table; the message suggests the nearest.
    """
    known = default_instruments() if table is None else table
    found = []
    for symbol in symbols:
        if symbol not in known:
            near = difflib.get_close_matches(symbol.upper(), known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise InstrumentError(f"unknown symbol {symbol!r}.{hint} Known symbols: {', '.join(known)}")
        found.append(known[symbol])
    return tuple(found)
