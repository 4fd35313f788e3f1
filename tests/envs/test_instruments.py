"""Trading rules: rounding, brackets, the bundled table."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import instrument

from envs.errors import InstrumentError
from envs.instruments import (
    Instrument,
    LeverageBracket,
    default_instruments,
    get_instruments,
    instrument_from_dict,
)
from envs.settings import EnvConfig

D = Decimal
SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "XRPUSDT", "DOGEUSDT", "ADAUSDT", "AVAXUSDT")


def test_the_seven_are_there() -> None:
    assert set(default_instruments()) == set(SYMBOLS)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_bundled_rules_are_consistent(symbol: str) -> None:
    rules = default_instruments()[symbol]
    assert rules.symbol == symbol and symbol == rules.base_asset + "USDT"
    assert rules.min_quantity == rules.step_size  # sizing counts whole steps and needs no other minimum
    for one in (1 / rules.step_size, 1 / rules.tick_size):
        assert one == one.to_integral_value()  # the kernel's grids are whole numbers of steps per unit
    assert 0 < rules.maker_fee < rules.taker_fee < rules.liquidation_fee < 1
    assert rules.max_quantity_market % rules.step_size == 0
    leverages = [b.max_leverage for b in rules.brackets]
    assert leverages == sorted(leverages, reverse=True)
    for lower, upper in zip(rules.brackets, rules.brackets[1:], strict=False):
        # Continuous: both brackets agree on the margin at the border.
        border = lower.notional_cap_usdt
        assert border * lower.maintenance_rate - lower.maintenance_amount_usdt == (
            border * upper.maintenance_rate - upper.maintenance_amount_usdt
        )
    for bracket in rules.brackets:
        assert bracket.maintenance_rate < D(1) / bracket.max_leverage  # initial margin exceeds maintenance


@given(
    st.decimals(min_value=-1_000_000, max_value=1_000_000, places=9),
    st.sampled_from(["0.001", "0.1", "1", "0.5", "5"]),
)
def test_quantities_round_toward_zero(quantity: D, step: str) -> None:
    rounded = instrument(step=step).round_quantity(quantity)
    assert rounded % D(step) == 0
    assert abs(rounded) <= abs(quantity) < abs(rounded) + D(step)
    assert rounded == 0 or (rounded > 0) == (quantity > 0)


@pytest.mark.parametrize(
    ("price", "up", "expected"),
    [
        ("100.25", True, "100.3"),
        ("100.25", False, "100.2"),
        ("100.3", True, "100.3"),
        ("100.3", False, "100.3"),
    ],
)
def test_prices_round_to_the_tick(price: str, up: bool, expected: str) -> None:
    assert instrument().round_price(D(price), up=up) == D(expected)


BRACKETS = [("1000", "0.01", 100), ("5000", "0.02", 50), ("20000", "0.1", 5)]


@pytest.mark.parametrize(
    ("notional", "margin"),
    # Amounts: 1000 * 0.01 = 10, then 10 + 5000 * 0.08 = 410.
    [
        ("0", "0"),
        ("500", "5"),
        ("1000", "10"),
        ("1001", "10.02"),
        ("5000", "90"),
        ("6000", "190"),
        ("30000", "2590"),
    ],
)
def test_maintenance_margin(notional: str, margin: str) -> None:
    assert instrument(brackets=BRACKETS).maintenance_margin_usdt(D(notional)) == D(margin)


@pytest.mark.parametrize(
    ("leverage", "cap"), [(100, "1000"), (51, "1000"), (50, "5000"), (6, "5000"), (5, "20000"), (1, "20000")]
)
def test_largest_position_at_a_leverage(leverage: int, cap: str) -> None:
    assert instrument(brackets=BRACKETS).max_notional_usdt(leverage) == D(cap)


def test_a_leverage_above_the_maximum_is_refused() -> None:
    with pytest.raises(InstrumentError, match=r"leverage 101 is above the exchange's maximum of 100"):
        instrument(brackets=BRACKETS).max_notional_usdt(101)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tick_size": D(0)}, "tick_size is 0"),
        ({"step_size": D("-1")}, "step_size is -1"),
        ({"brackets": ()}, "no leverage brackets"),
        (
            {"brackets": (LeverageBracket(D(10), D(1000), 100, D("0.01"), D(0)),)},
            "bracket 0 starts at 10",
        ),
        (
            {
                "brackets": (
                    LeverageBracket(D(0), D(1000), 100, D("0.01"), D(0)),
                    LeverageBracket(D(1000), D(2000), 50, D("0.02"), D(11)),
                )
            },
            "bracket 1 starts at 1000 with maintenance amount 11; expected 1000 and 10",
        ),
    ],
)
def test_rules_that_contradict_themselves_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InstrumentError, match=message):
        replace(instrument(), **change)


def test_the_exchanges_rounding_of_amounts_is_tolerated() -> None:
    rounded = (
        LeverageBracket(D(0), D(1000), 100, D("0.01"), D(0)),
        LeverageBracket(D(1000), D(2000), 50, D("0.02"), D("10.000000000752")),
    )
    assert replace(instrument(), brackets=rounded).maintenance_margin_usdt(D(2000)) == D("29.999999999248")


def plain_rules() -> dict[str, Any]:
    return {
        name: str(getattr(instrument(), name))
        for name in Instrument.__dataclass_fields__
        if name not in ("symbol", "brackets")
    } | {
        "base_asset": "BTC",
        "price_precision": 1,
        "quantity_precision": 3,
        "brackets": [
            {
                "notional_floor_usdt": "0",
                "notional_cap_usdt": "1000",
                "max_leverage": 20,
                "maintenance_rate": "0.01",
                "maintenance_amount_usdt": "0",
            }
        ],
    }


def test_rules_are_read_from_a_mapping() -> None:
    rules = instrument_from_dict("BTCUSDT", plain_rules())
    assert rules.tick_size == D("0.1") and rules.max_leverage == 20


def test_a_missing_rule_is_named() -> None:
    without = plain_rules()
    del without["tick_size"]
    with pytest.raises(InstrumentError, match="BTCUSDT: the rule 'tick_size' is missing"):
        instrument_from_dict("BTCUSDT", without)


@pytest.mark.parametrize("value", ["ten", None, "", "NaN"])
def test_a_rule_that_is_no_number_is_named(value: object) -> None:
    with pytest.raises(InstrumentError, match="tick_size"):
        instrument_from_dict("BTCUSDT", plain_rules() | {"tick_size": value})


def test_a_typo_in_the_symbol_is_answered_with_the_nearest() -> None:
    with pytest.raises(InstrumentError, match=r"unknown symbol 'BTCUSD'\. Did you mean BTCUSDT\?"):
        get_instruments(["ETHUSDT", "BTCUSD"])


def test_order_is_kept() -> None:
    assert [one.symbol for one in get_instruments(["XRPUSDT", "BTCUSDT"])] == ["XRPUSDT", "BTCUSDT"]


def test_the_table_is_read_only() -> None:
    with pytest.raises(TypeError):
        default_instruments()["X"] = instrument()  # type: ignore[index]


def test_with_fees() -> None:
    changed = instrument().with_fees(taker_fee=D("0.0002"))
    assert (changed.taker_fee, changed.maker_fee) == (D("0.0002"), instrument().maker_fee)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_leverage": 1}, 20),  # at least 20
        ({"max_leverage": 12.5}, 25),  # twice the exposure
        ({"max_leverage": 60}, 75),  # within the instrument's maximum
        ({"max_leverage": 3, "exchange_leverage": 5}, 5),
    ],
)
def test_leverage_setting(settings: dict[str, Any], expected: int) -> None:
    rules = instrument(brackets=[("1000", "0.01", 75)])
    assert EnvConfig.parse(settings).leverage_setting(rules) == expected
