"""LiveEnv as a Gymnasium environment, and as what an agent that was trained on FuturesEnv expects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_reset_options, check_reset_return_type
from gymnasium.utils.passive_env_checker import (
    check_action_space,
    check_observation_space,
    env_reset_passive_checker,
    env_step_passive_checker,
)
from live_support import FEATURES, Scripted, env_config, flat_market, rig, step
from policy_run import FEATURES as POLICY_FEATURES
from policy_run import make_run

from agents.baselines import BASELINES
from agents.catalog import make_agent
from agents.run import Ending, run
from agents.sac.policy import load_sac_setup
from envs.errors import ObservationMismatchError
from envs.features import default_features, market_features
from envs.futures_env import FuturesEnv
from envs.market import Market
from envs.settings import EnvConfig
from envs.synthetic import synthetic_market
from live.venues import first_decision_index


def simulated(market: Market, config: EnvConfig, features: object, first: int) -> FuturesEnv:
    table = market_features(market, features)  # type: ignore[arg-type]
    return FuturesEnv(market, features=table, config=config, start=int(market.open_time_ms[first]))


@pytest.mark.parametrize("symbols", [("BTCUSDT",), ("BTCUSDT", "ETHUSDT")])
def test_spaces_and_observation_are_those_of_the_simulation(symbols: tuple[str, ...]) -> None:
    market = synthetic_market(symbols, n=1_200, seed=2)
    config = EnvConfig(window_size=10)
    features = default_features()
    env = simulated(market, config, features, 900)
    with rig(market, first=900, config=config, features=features) as one:
        observation, _ = one.stack.reset()
        expected, _ = env.reset()
        assert one.stack.spec_observation.hash == env.spec_observation.hash
        assert one.stack.observation_space == env.observation_space
        assert one.stack.action_space == env.action_space
        assert one.stack.observation_space.contains(observation)
        np.testing.assert_allclose(observation, expected, rtol=1e-6, atol=1e-6)


def test_gymnasiums_own_checks_have_nothing_to_say() -> None:
    """All but that the same seed gives the same steps: a market does not go back when an account is read anew."""
    market = synthetic_market(n=1_200, seed=2)
    config = EnvConfig(window_size=5)
    with rig(market, first=600, config=config, features=default_features()) as one:
        check_reset_return_type(one.stack)
        check_reset_options(one.stack)
        check_action_space(one.stack.action_space)
        check_observation_space(one.stack.observation_space)
        env_reset_passive_checker(one.stack, seed=1)
        for action in ([0.5], [-0.5], [0.0]):
            env_step_passive_checker(one.stack, np.array(action, np.float32))


def test_a_second_reset_goes_on_with_the_account_that_is_there() -> None:
    with rig(flat_market()) as one:
        one.stack.reset()
        step(one, 0.2)
        for _ in range(2):
            one.stack.reset()
            assert one.env.account().positions["BTCUSDT"].quantity == one.held()
        step(one, 0.3)
        assert str(one.held()) == "0.3"


@pytest.mark.parametrize("name", BASELINES)
def test_every_rule_trades_live(name: str) -> None:
    setup = make_agent(name, symbols=("BTCUSDT",), config=None, seed=1, training_runs=None)  # type: ignore[arg-type]
    market = synthetic_market(n=1_500, seed=6)
    first = max(700, first_decision_index(market, setup, None))
    with rig(
        market,
        first=first,
        config=setup.env,
        features=setup.features,
        limits=setup.limits,
        agent=setup.agent.name,
    ) as one:
        result = run(one.stack, setup.agent, max_steps=4)
        assert (result.steps, result.ending) == (4, Ending.TRUNCATED)
        assert not [r.error for r in one.stack.records if r.result in ("failed", "unknown", "rejected")]


def test_a_policy_reads_live_observations_of_its_own_market_and_of_no_other(tmp_path: Path) -> None:
    setup = load_sac_setup(make_run(tmp_path))
    market = synthetic_market(n=300, seed=6)
    with rig(
        market, first=200, config=setup.env, features=POLICY_FEATURES, scaler=setup.scaler, agent="SAC"
    ) as one:
        assert run(one.stack, setup.agent, max_steps=3).steps == 3
    with (
        rig(market, first=200, config=setup.env, features=FEATURES) as one,
        pytest.raises(ObservationMismatchError),
    ):
        run(one.stack, setup.agent, max_steps=1)


def test_the_end_of_a_replay_truncates_as_the_simulation_does() -> None:
    market = flat_market(count=5)
    with rig(market) as one:
        result = run(one.stack, Scripted([0.1]))
        assert (result.steps, result.ending) == (4, Ending.TRUNCATED)
        assert [r.action_type for r in one.stack.records][-1] == "end"
        # Nothing is left to wait for: it says so, and does not hang.
        _, _, terminated, truncated, info = one.stack.advance()
        assert (terminated, truncated, info["stopped"]) == (False, True, False)


def test_closing_twice_does_no_harm() -> None:
    with rig(flat_market(), config=env_config()) as one:
        one.stack.reset()
        one.stack.close()
        one.stack.close()
