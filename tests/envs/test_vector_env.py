"""FuturesVectorEnv as a Gymnasium vector environment: spaces, seeds, resets, autoreset, arrays, refusals."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics
from support import counting_features

import envs  # noqa: F401  (registers perpgym/Futures-v0)
from envs.errors import ActionError, ConfigError
from envs.futures_env import FuturesEnv
from envs.market import Market
from envs.randomisation import DomainRandomisation
from envs.settings import EnvConfig
from envs.synthetic import synthetic_market
from envs.vector_env import FuturesVectorEnv

CONFIG = EnvConfig(window_size=3, max_leverage=2.0)


@pytest.fixture(scope="module")
def market() -> Market:
    return synthetic_market(("BTCUSDT", "ETHUSDT"), n=200, seed=5)


def arguments(market: Market, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"market": market, "features": counting_features(market), "config": CONFIG}
    return {**given, "random_start": True, "episode_candles": 10, **more}


def make(market: Market, num_envs: int = 4, **more: Any) -> FuturesVectorEnv:
    return FuturesVectorEnv(num_envs, **arguments(market, **more))


def actions_for(env: FuturesVectorEnv, seed: int = 0) -> Any:
    shape = env.action_space.shape
    assert shape is not None
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


# --- Gymnasium's contract ---------------------------------------------------------------------------------


def test_spaces_and_results_are_those_of_a_vector_environment(market: Market) -> None:
    env = make(market)
    assert env.single_action_space.shape == (2,)
    assert env.action_space.shape == (4, 2)
    assert env.observation_space.shape == (4, env.spec_observation.size)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    observations, infos = env.reset(seed=1)
    assert env.observation_space.contains(observations)
    assert infos == {}
    env.action_space.seed(0)
    observations, rewards, terminated, truncated, infos = env.step(env.action_space.sample())
    assert env.observation_space.contains(observations)
    assert (rewards.dtype, rewards.shape) == (np.float64, (4,))
    assert (terminated.dtype, terminated.shape) == (np.bool_, (4,))
    assert (truncated.dtype, truncated.shape) == (np.bool_, (4,))
    assert infos == {}
    env.close()


def test_it_is_what_make_vec_makes() -> None:
    env = gym.make_vec("perpgym/Futures-v0", 3, vectorization_mode="vector_entry_point", episode_candles=5)
    assert isinstance(env.unwrapped, FuturesVectorEnv)
    assert env.num_envs == 3
    assert env.unwrapped.market.synthetic
    env.reset(seed=1)
    env.step(np.zeros((3, 1), np.float32))


def test_it_does_what_gymnasiums_own_vector_environment_does(market: Market) -> None:
    """SyncVectorEnv over single environments, in the same mode: the same arrays, the same place for what ended."""
    given = arguments(market, config=CONFIG.model_copy(update={"terminate_drawdown_fraction": 0.01}))
    ours = FuturesVectorEnv(4, **given)
    theirs = SyncVectorEnv([lambda: FuturesEnv(**given)] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    np.testing.assert_array_equal(ours.reset(seed=7)[0], theirs.reset(seed=7)[0])
    assert ours.np_random_seed == theirs.np_random_seed
    ends = 0
    for step in range(60):
        actions = actions_for(ours, step)
        got, expected = ours.step(actions), theirs.step(actions)
        for mine, other in zip(got[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(mine, other)
        assert ("final_obs" in got[4]) == ("final_obs" in expected[4])
        if not got[4]:
            continue
        ends += int(got[4]["_final_obs"].sum())
        np.testing.assert_array_equal(got[4]["_final_obs"], expected[4]["_final_obs"])
        np.testing.assert_array_equal(got[4]["_final_info"], expected[4]["_final_info"])
        for mine, other in zip(got[4]["final_obs"], expected[4]["final_obs"], strict=True):
            np.testing.assert_array_equal(mine, other)
    assert ends > 20
    assert [g.bit_generator.state for g in ours.np_random] == [
        g.bit_generator.state for g in theirs.np_random
    ]


def test_gymnasiums_wrappers_understand_it(market: Market) -> None:
    env = DictInfoToList(RecordEpisodeStatistics(make(market, episode_candles=3)))
    env.reset(seed=1)
    total = np.zeros(4)
    for _ in range(3):
        _, rewards, _, truncated, infos = env.step(actions_for(env.unwrapped))
        total += rewards
    assert truncated.all()
    assert [one["episode"]["l"] for one in infos] == [3] * 4
    final = [one["final_info"]["episode"] for one in infos]
    assert [one["l"] for one in final] == [3] * 4
    np.testing.assert_allclose([one["r"] for one in final], total, rtol=0, atol=1e-15)


# --- episodes ---------------------------------------------------------------------------------------------


def test_what_ended_is_told_of_in_the_step_that_begins_the_next(market: Market) -> None:
    """Accounts 0 and 2 end after 4 candles of 200, at the last candle; the others go on."""
    env = make(market, random_start=False, episode_candles=None)
    last = env.last_index
    env.reset(seed=1, options={"start_index": [last - 2, 20, last - 2, 30]})
    env.step(actions_for(env))
    observations, _, terminated, truncated, infos = env.step(actions_for(env))
    assert truncated.tolist() == [True, False, True, False]
    assert not terminated.any()
    assert infos["_final_obs"].tolist() == [True, False, True, False]
    assert infos["final_obs"][1] is None
    # The feature counts candles: the last window of the old episode, and the first of the new.
    assert infos["final_obs"][0][[0, 2, 4]].tolist() != observations[0][[0, 2, 4]].tolist()
    assert env.candle_index.tolist() == [env.first_index, 22, env.first_index, 32]
    assert env.decided_on.tolist() == [last - 1, 21, last - 1, 31]
    final = infos["final_info"]
    assert final["episode"]["l"].tolist() == [2, 0, 2, 0]
    assert final["first_index"].tolist() == [last - 2, 0, last - 2, 0]
    assert final["_equity_usdt"].tolist() == [True, False, True, False]
    np.testing.assert_allclose(
        np.log(final["equity_usdt"][[0, 2]] / 10_000), final["episode"]["r"][[0, 2]], rtol=1e-12
    )
    assert env.totals()["trades"][0] == 0


def test_a_liquidated_account_terminates() -> None:
    wild = synthetic_market(("BTCUSDT",), n=300, seed=2, volatility_annual=3.0)
    config = EnvConfig(window_size=1, max_leverage=40.0, exchange_leverage=50)
    env = FuturesVectorEnv(40, wild, features=counting_features(wild), config=config, random_start=True)
    env.reset(seed=3)
    liquidated = 0
    for step in range(100):
        _, _, terminated, _, infos = env.step(actions_for(env, step))
        if infos:
            final = infos["final_info"]
            np.testing.assert_array_equal(final["liquidated"], terminated)
            liquidated += int(terminated.sum())
    assert liquidated > 100


@pytest.mark.parametrize("more", [{}, {"randomisation": DomainRandomisation(slippage_bps=(0.0, 9.0))}])
def test_some_accounts_can_be_reset(market: Market, more: dict[str, Any]) -> None:
    env = make(market, **more)
    env.reset(seed=1)
    for step in range(3):
        before = env.step(actions_for(env, step))[0].copy()
    index, totals = env.candle_index, env.totals()
    mask = np.array([False, True, False, True])
    observations, _ = env.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(observations[~mask], before[~mask])
    np.testing.assert_array_equal(env.candle_index[~mask], index[~mask])
    assert (env.totals()["equity"][mask] == 10_000).all()
    np.testing.assert_array_equal(env.totals()["equity"][~mask], totals["equity"][~mask])


# --- randomness -------------------------------------------------------------------------------------------


def test_seeds_can_be_given_one_by_one(market: Market) -> None:
    env = make(market)
    first = env.reset(seed=[5, 6, 7, 8])[0].copy()
    np.testing.assert_array_equal(first, env.reset(seed=5)[0])
    assert env.np_random_seed == (5, 6, 7, 8)
    # None goes on drawing from what is there.
    generators = [copy.deepcopy(one) for one in env.np_random]
    env.reset(seed=[None, 1, None, 1])
    starts = [one.integers(env.first_index, env.last_index) for one in generators]
    index = env.candle_index
    assert (index[0], index[2]) == (starts[0], starts[2])
    assert index[1] == index[3]


def test_settings_are_drawn_within_their_ranges(market: Market) -> None:
    ranges = DomainRandomisation(
        initial_capital_usdt=(100.0, 1e6), slippage_bps=(0.0, 20.0), taker_fee_multiplier=(0.5, 0.5)
    )
    env = make(market, 400, randomisation=ranges)
    env.reset(seed=0)
    drawn = env.drawn()
    capital, slippage = drawn["initial_capital_usdt"], drawn["slippage_bps"]
    assert 100.0 <= capital.min() < 200.0 and 5e5 < capital.max() <= 1e6
    # The logarithm is uniform: half of them lie below the geometric mean.
    assert 150 < (capital < math.sqrt(100.0 * 1e6)).sum() < 250
    assert 0.0 <= slippage.min() < 1.0 and 19.0 < slippage.max() <= 20.0
    assert (drawn["taker_fee_multiplier"] == 0.5).all()
    np.testing.assert_array_equal(env.totals()["wallet"], capital)
    env.step(np.ones((400, 2), np.float32))
    fees = env.totals()["fees"]
    # Bitcoin and Ether at 0.05 %, halved; both at a leverage of 1, filled a slippage above the open.
    assert fees.mean() == pytest.approx(2 * 0.00025 * capital.mean(), rel=0.02)


def test_without_ranges_nothing_is_drawn(market: Market) -> None:
    env = make(market, random_start=False)
    env.reset()
    assert env.drawn()["slippage_bps"].tolist() == [CONFIG.slippage_bps] * 4
    assert env.candle_index.tolist() == [env.first_index] * 4


@pytest.mark.parametrize(
    "ranges",
    [
        {"slippage_bps": (2.0, 1.0)},
        {"slippage_bps": (0.0, 10_000.0)},
        {"initial_capital_usdt": (0.0, 10.0)},
        {"taker_fee_multiplier": (-1.0, 1.0)},
        {"taker_fee_multiplier": (0.0, math.inf)},
        {"slipage_bps": (0.0, 1.0)},
    ],
)
def test_ranges_that_make_no_sense_are_refused(ranges: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DomainRandomisation.parse(ranges)


# --- arrays -----------------------------------------------------------------------------------------------


def test_an_array_that_is_still_held_is_never_written_again(market: Market) -> None:
    env = make(market)
    held = [env.reset(seed=1)[0]]
    views = [held[0][2]]
    copies = [held[0].copy()]
    for step in range(12):
        observations = env.step(actions_for(env, step))[0]
        copies.append(observations.copy())
        held.append(observations)
        views.append(observations[2])
    del observations
    for one, expected in zip(held, copies, strict=True):
        np.testing.assert_array_equal(one, expected)
    held.clear()
    # Views keep their array, too.
    for step in range(12):
        env.step(actions_for(env, step))
    for view, expected in zip(views, copies, strict=True):
        np.testing.assert_array_equal(view, expected[2])


def test_arrays_that_were_dropped_are_used_again(market: Market) -> None:
    env = make(market)
    observations, _ = env.reset(seed=1)
    seen = set()
    for step in range(20):
        observations, *_ = env.step(actions_for(env, step))
        seen.add(observations.ctypes.data)
    assert len(seen) == 2


def test_infos_are_the_callers(market: Market) -> None:
    env = make(market, episode_candles=2)
    env.reset(seed=1)
    env.step(actions_for(env))
    infos = env.step(actions_for(env))[4]
    kept = copy.deepcopy(infos)
    for step in range(4):
        env.step(actions_for(env, step))
    np.testing.assert_array_equal(infos["final_info"]["equity_usdt"], kept["final_info"]["equity_usdt"])
    np.testing.assert_array_equal(np.stack(infos["final_obs"]), np.stack(kept["final_obs"]))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_goes_its_own_way(market: Market, copied: Any) -> None:
    env = make(market, 40)
    env.reset(seed=1)
    env.step(actions_for(env))
    other = copied(env)
    first = [one.copy() for one in env.step(actions_for(env, 1))[:4]]
    env.step(actions_for(env, 2))
    for mine, theirs in zip(first, other.step(actions_for(env, 1))[:4], strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_threads_change_nothing(market: Market) -> None:
    one, all_of_them = make(market, 100, threads=1), make(market, 100)
    np.testing.assert_array_equal(one.reset(seed=1)[0], all_of_them.reset(seed=1)[0])
    for step in range(25):
        actions = actions_for(one, step)
        for mine, theirs in zip(one.step(actions)[:4], all_of_them.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(mine, theirs)


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((4, 1)), r"shape \(4, 1\); expected \(4, 2\)"),
        (np.zeros(2), "shape"),
        (np.full((4, 2), np.nan), "account 0 is not finite"),
        (np.array([[0, 0], [0, 0], [0, np.inf], [0, 0]]), "account 2 is not finite"),
        (np.full((4, 2), "buy"), "not numbers"),
        (None, "shape"),
    ],
)
def test_actions_that_cannot_be_read_move_no_account(market: Market, actions: Any, message: str) -> None:
    env = make(market)
    env.reset(seed=1)
    before = env.candle_index
    with pytest.raises(ActionError, match=message):
        env.step(actions)
    np.testing.assert_array_equal(env.candle_index, before)


def test_whole_numbers_and_lists_are_actions(market: Market) -> None:
    env = make(market)
    env.reset(seed=1)
    env.step([[0, 1], [1, 0], [-1, 0], [0, 0]])
    assert env.totals()["trades"].tolist() == [1, 1, 1, 0]


def test_it_must_be_reset_first(market: Market) -> None:
    with pytest.raises(gym.error.ResetNeeded):
        make(market).step(np.zeros((4, 2)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": [1, 2]}, "2 seeds for 4 accounts"),
        ({"options": {"start_index": 0}}, "outside"),
        ({"options": {"start_index": [2, 3, 500, 4]}}, "outside"),
        ({"options": {"reset_mask": np.zeros(4, np.bool_)}}, "reset_mask"),
        ({"options": {"reset_mask": np.ones(3, np.bool_)}}, "reset_mask"),
        ({"options": {"reset_mask": np.ones(4)}}, "reset_mask"),
        ({"options": {"reset_mask": np.array([True, True, True, False])}}, "never been reset"),
    ],
)
def test_resets_that_do_not_fit_are_refused(market: Market, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(market).reset(**given)


@pytest.mark.parametrize("given", [{"num_envs": 0}, {"threads": 0}, {"threads": 10_000}])
def test_arguments_out_of_range_are_refused(market: Market, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make(market, **given)
