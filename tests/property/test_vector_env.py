"""Account by account, the vector environment is `FuturesEnv`, bit for bit."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support import counting_features

from envs.futures_env import FuturesEnv
from envs.market import Market
from envs.randomisation import DomainRandomisation
from envs.settings import EnvConfig
from envs.synthetic import synthetic_market
from envs.vector_env import FuturesVectorEnv

SYMBOLS = (("BTCUSDT",), ("ETHUSDT", "XRPUSDT"), ("DOGEUSDT", "BTCUSDT", "AVAXUSDT"))
CANDLES = 90
STEPS = 60


@cache
def market(symbols: tuple[str, ...], interval: str, seed: int) -> Market:
    return synthetic_market(symbols, interval=interval, n=CANDLES, seed=seed, volatility_annual=2.0)


fractions = st.sampled_from([0.0, 0.003, 0.01, 0.04])
schemes = st.one_of(
    st.fixed_dictionaries(
        {
            "scheme": st.just("target"),
            "rebalance_band": st.sampled_from([0.0, 0.02, 0.2]),
            "stop_loss_fraction": fractions,
            "take_profit_fraction": fractions,
        }
    ),
    st.fixed_dictionaries(
        {
            "scheme": st.just("signal"),
            "hold_threshold": st.sampled_from([0.0, 0.3]),
            "signal_fraction": st.sampled_from([0.5, 3.0]),
            "flip": st.booleans(),
            "stop_loss_fraction": fractions,
            "take_profit_fraction": fractions,
        }
    ),
    st.fixed_dictionaries({"scheme": st.just("quantity"), "stop_loss_fraction": fractions}),
)
rewards = st.sampled_from(["log_return", "differential_sharpe", "drawdown_penalised"])


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    """What both environments are made of."""
    place = market(
        draw(st.sampled_from(SYMBOLS)), draw(st.sampled_from(["1h", "12h"])), draw(st.integers(0, 2))
    )
    config = {
        "window_size": draw(st.sampled_from([1, 4])),
        "initial_capital_usdt": draw(st.sampled_from([60.0, 10_000.0, 3_000_000.0])),
        "max_leverage": draw(st.sampled_from([1.0, 3.5, 20.0])),
        "slippage_bps": draw(st.sampled_from([0.0, 1.0, 30.0])),
        "action": draw(schemes),
        "reward": {"reward": draw(rewards)},
        "normalize_portfolio": draw(st.booleans()),
        "terminate_drawdown_fraction": draw(st.sampled_from([None, 0.05, 0.3])),
    }
    return {
        "market": place,
        "features": counting_features(place),
        "config": EnvConfig.parse(config),
        "random_start": draw(st.booleans()),
        "episode_candles": draw(st.sampled_from([None, 7, 25])),
    }


def random_actions(given_arguments: dict[str, Any], num_envs: int, seed: int) -> Any:
    """float32 [STEPS, num_envs, n]"""
    place, config = given_arguments["market"], given_arguments["config"]
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (STEPS, num_envs, len(place.symbols)))
    actions[rng.random(actions.shape) < 0.1] = 0.0
    if config.action.scheme == "quantity":
        actions *= config.initial_capital_usdt * config.max_leverage / place.close[0]
    return actions.astype(np.float32)


def require_same_account(vector: FuturesVectorEnv, slot: int, single: FuturesEnv) -> None:
    totals = vector.totals()
    assert {name: values[slot] for name, values in totals.items()} == single.totals()
    assert vector.candle_index[slot] == single.candle_index


# Few accounts are stepped on one thread, many on all of them.
@given(arguments(), st.sampled_from([3, 33]), st.integers(0, 1000), st.integers(0, 1000))
def test_every_account_is_a_single_environment(
    given_arguments: dict[str, Any], num_envs: int, seed: int, action_seed: int
) -> None:
    vector = FuturesVectorEnv(num_envs, **given_arguments)
    singles = [FuturesEnv(**given_arguments) for _ in range(num_envs)]
    observations, _ = vector.reset(seed=seed)
    for slot, single in enumerate(singles):
        np.testing.assert_array_equal(observations[slot], single.reset(seed=seed + slot)[0])
    for actions in random_actions(given_arguments, num_envs, action_seed):
        observations, rewards, terminated, truncated, infos = vector.step(actions)
        for slot, single in enumerate(singles):
            observation, reward, ended, cut, _ = single.step(actions[slot])
            assert (rewards[slot], terminated[slot], truncated[slot]) == (reward, ended, cut)
            if ended or cut:
                np.testing.assert_array_equal(infos["final_obs"][slot], observation)
                final = infos["final_info"]
                assert final["equity_usdt"][slot] == single.totals()["equity"]
                assert final["trades"][slot] == single.totals()["trades"]
                observation, _ = single.reset()
            np.testing.assert_array_equal(observations[slot], observation)
            require_same_account(vector, slot, single)


ranges = st.sampled_from([None, (1.0, 1.0), (0.5, 3.0)])


@given(arguments(), ranges, ranges, ranges, st.integers(0, 1000))
def test_an_episode_with_drawn_settings_is_one_with_these_settings(
    given_arguments: dict[str, Any], capital: Any, slippage: Any, fee: Any, seed: int
) -> None:
    randomisation = {
        "initial_capital_usdt": None if capital is None else tuple(10_000 * x for x in capital),
        "slippage_bps": slippage,
        "taker_fee_multiplier": fee,
    }
    drawn_from = DomainRandomisation.parse(randomisation)
    vector = FuturesVectorEnv(3, **given_arguments, randomisation=drawn_from)
    vector.reset(seed=seed)

    def single_of(slot: int) -> FuturesEnv:
        drawn = {name: values[slot] for name, values in vector.drawn().items()}
        costs = {
            "initial_capital_usdt": float(drawn["initial_capital_usdt"]),
            "slippage_bps": float(drawn["slippage_bps"]),
        }
        config = EnvConfig.parse({**given_arguments["config"].model_dump(), **costs})
        single = FuturesEnv(**{**given_arguments, "config": config})
        single._config["fee_multiplier"] = drawn["taker_fee_multiplier"]
        single.reset(options={"start_index": int(vector.candle_index[slot])})
        return single

    singles = [single_of(slot) for slot in range(3)]
    for actions in random_actions(given_arguments, 3, seed):
        observations, rewards, terminated, truncated, infos = vector.step(actions)
        for slot, single in enumerate(singles):
            observation, reward, ended, cut, _ = single.step(actions[slot])
            assert (rewards[slot], terminated[slot], truncated[slot]) == (reward, ended, cut)
            if ended or cut:
                np.testing.assert_array_equal(infos["final_obs"][slot], observation)
                singles[slot] = single_of(slot)
            else:
                np.testing.assert_array_equal(observations[slot], observation)
                require_same_account(vector, slot, single)


@given(arguments(), st.integers(0, 1000))
def test_an_account_does_not_depend_on_how_many_there_are(given_arguments: dict[str, Any], seed: int) -> None:
    randomisation = DomainRandomisation(
        initial_capital_usdt=(100.0, 1e6), slippage_bps=(0.0, 20.0), taker_fee_multiplier=(0.0, 3.0)
    )
    many = FuturesVectorEnv(40, **given_arguments, randomisation=randomisation)
    few = FuturesVectorEnv(4, **given_arguments, randomisation=randomisation)
    first, second = many.reset(seed=seed)[0], few.reset(seed=seed)[0]
    np.testing.assert_array_equal(first[:4], second)
    for actions in random_actions(given_arguments, 40, seed)[:30]:
        got, expected = many.step(actions), few.step(actions[:4])
        for all_of_them, some in zip(got[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(all_of_them[:4], some)
        for name, values in few.drawn().items():
            np.testing.assert_array_equal(many.drawn()[name][:4], values)
