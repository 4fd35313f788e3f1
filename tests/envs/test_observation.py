"""The observation, entry by entry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support import env_of, flat_rows, instrument, market_of, phases

from envs.errors import ObservationMismatchError
from envs.features import FeatureTable
from envs.futures_env import FuturesEnv
from envs.observation import observation_spec
from envs.settings import EnvConfig

HOUR_MS = 3_600_000


def test_every_entry_of_a_single_symbol() -> None:
    market = market_of(flat_rows(100, 100, 100, 100, 110, 105, 105))
    table = FeatureTable(
        ("up", "down"), np.column_stack([np.arange(7) / 10, -np.arange(7) / 5]).astype(np.float64), 1
    )
    rules = instrument(brackets=[("1000", "0.01", 100), ("100000", "0.05", 20)])
    config = EnvConfig.parse(
        {
            "window_size": 3,
            "initial_capital_usdt": 1000.0,
            "max_leverage": 4.0,
            "slippage_bps": 0.0,
            "taker_fee_fraction": 0.0,
            "action": {"scheme": "quantity"},
        }
    )
    env = FuturesEnv(market, features=table, config=config, instruments={"BTCUSDT": rules})
    observation, _ = env.reset()
    # Warm-up of 1 and a window of 3: the first decision is at candle 3, over the rows 1, 2, 3, oldest first.
    assert env.candle_index == 3
    window = [0.1, -0.2, 0.2, -0.4, 0.3, -0.6]
    np.testing.assert_allclose(observation, [*window, 0, 0, 0, 0, 0], rtol=1e-6)
    assert observation.dtype == np.float32

    _, (observation, *_) = phases(env, 20.0)  # 20 at 110, marked at 110
    exposure = 20 * 110 / 1000 / 4  # notional / equity / max_leverage
    margin = (2200 * 0.05 - 1000 * 0.04) / 1000  # second bracket, less its amount
    window = [0.2, -0.4, 0.3, -0.6, 0.4, -0.8]
    np.testing.assert_allclose(observation, [*window, exposure, 0, 1 / 3, 0, margin], rtol=1e-6)

    _, (observation, *_) = phases(env, 20.0)  # marked at 105: 20 * -5 = -100
    expected = [20 * 105 / 900 / 4, -100 / 900, 2 / 3, 0.1, (2100 * 0.05 - 40) / 900]
    np.testing.assert_allclose(observation[6:], expected, rtol=1e-6)


def test_exposure_without_normalising_is_a_multiple_of_equity() -> None:
    env = env_of(
        market_of(flat_rows(*[100] * 4)), max_leverage=4.0, normalize_portfolio=False, taker_fee_fraction=0.0
    )
    env.reset()
    _, (observation, *_) = phases(env, -20.0)
    assert observation[1] == pytest.approx(-2.0)


def test_two_symbols_then_the_account() -> None:
    market = market_of({"AAAUSDT": flat_rows(*[100] * 4), "BBBUSDT": flat_rows(10, 10, 11, 11)})
    env = env_of(market, max_leverage=2.0, taker_fee_fraction=0.0)
    env.reset()
    phases(env, 0.0, 50.0)
    _, (observation, *_) = phases(env, -3.0, 50.0)
    # B earned 50 * (11 - 10) = 50. Equity 1050; maintenance 1 % of 300 and of 550.
    expected = [
        *(-300 / 1050 / 2, 0, 1.0),
        *(550 / 1050 / 2, 50 / 1050, 2.0),
        *(0, 8.5 / 1050),
    ]
    np.testing.assert_allclose(observation[1:], expected, rtol=1e-6)


def test_everything_is_cut_to_ten() -> None:
    market = market_of(flat_rows(*[100] * 40))
    env = env_of(market, max_leverage=50.0, normalize_portfolio=False, exchange_leverage=100)
    env.reset()
    for _ in range(15):
        _, (observation, *_) = phases(env, 200.0)
    assert observation[0] == 10.0  # the feature counts candles: 15
    assert observation[1] == 10.0  # exposure 20
    assert observation[3] == 10.0  # 15 candles held, window 1
    assert env.observation_space.contains(observation)


def test_an_account_that_lost_everything_has_a_finite_observation() -> None:
    env = env_of(market_of([*flat_rows(100, 100), (20, 20, 20, 20), (20, 20, 20, 20)]))
    env.reset()
    phases(env, 50.0)
    _, (observation, _, terminated, *_) = phases(env, 50.0)
    assert terminated
    np.testing.assert_array_equal(
        observation[1:], [0, 0, 0, 1, 10]
    )  # all drawn down, no equity: ratio at its cap
    assert env.observation_space.contains(observation)


def test_spec_names_every_entry_in_order() -> None:
    config = EnvConfig(window_size=2)
    spec = observation_spec(("BTCUSDT",), HOUR_MS, ("rsi", "atr"), config)
    assert [e.name for e in spec.entries()] == [
        "rsi[t-1]", "atr[t-1]", "rsi[t]", "atr[t]",
        "exposure", "unrealized_pnl", "candles_in_position", "drawdown", "margin_ratio",
    ]  # fmt: skip
    assert spec.size == 9 == len(spec.entries())
    assert spec.entries()[4].unit == "share of max_leverage"
    two = observation_spec(("A", "B"), HOUR_MS, ("A:rsi", "B:rsi", "hour"), config)
    assert two.features == ("rsi", "rsi", "hour")
    assert [e.name for e in two.portfolio][:4] == [
        "symbol_0.exposure", "symbol_0.unrealized_pnl", "symbol_0.candles_in_position", "symbol_1.exposure",
    ]  # fmt: skip


def test_the_hash_changes_with_what_a_policy_sees_and_with_nothing_else() -> None:
    config = EnvConfig(window_size=4)

    def hashed(
        symbols: tuple[str, ...] = ("BTCUSDT",),
        interval_ms: int = HOUR_MS,
        features: tuple[str, ...] = ("rsi", "atr"),
        settings: EnvConfig = config,
    ) -> str:
        return observation_spec(symbols, interval_ms, features, settings).hash

    base = hashed()
    assert len(base) == 16
    assert hashed(symbols=("ETHUSDT",)) == base
    assert hashed(settings=EnvConfig(window_size=4, slippage_bps=5.0, initial_capital_usdt=7.0)) == base
    different = [
        hashed(symbols=("BTCUSDT", "ETHUSDT")),
        hashed(interval_ms=2 * HOUR_MS),
        hashed(features=("atr", "rsi")),
        hashed(features=("rsi",)),
        hashed(settings=EnvConfig(window_size=5)),
        hashed(settings=EnvConfig(window_size=4, normalize_portfolio=False)),
    ]
    assert len({base, *different}) == 1 + len(different)


def test_a_policy_of_another_observation_is_refused_with_both_hashes() -> None:
    spec = observation_spec(("BTCUSDT",), HOUR_MS, ("rsi",), EnvConfig())
    spec.require(spec.hash, whose="run x")
    other = replace(spec, window_size=spec.window_size + 1)
    with pytest.raises(ObservationMismatchError) as caught:
        spec.require(other.hash, whose="run x")
    assert (caught.value.expected, caught.value.actual) == (other.hash, spec.hash)
    for part in ("run x", other.hash, spec.hash, "1h candles", "window 30", "1 features"):
        assert part in str(caught.value)
