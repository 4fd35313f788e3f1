"""The contract of `agents.base.Agent`, held against every agent, with one symbol and with two."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from policy_run import make_run

from agents.base import Agent, AgentSetup
from agents.baselines import BASELINES
from agents.catalog import make_agent
from agents.simulate import build_env
from envs.base import Action, Observation
from envs.candles import CandleSet
from envs.errors import ObservationMismatchError
from envs.funding import FundingSeries
from envs.futures_env import FuturesEnv
from envs.instruments import default_instruments
from envs.market import Market, build_market
from envs.observation import ObservationSpec, observation_spec
from envs.settings import EnvConfig
from envs.synthetic import synthetic_market
from live.exchange.client_ids import check_agent_name

CANDLES = 260
SEED = 11
SYMBOLS = [("BTCUSDT",), ("BTCUSDT", "ETHUSDT")]

Make = Callable[[tuple[str, ...]], AgentSetup]


@pytest.fixture(params=[*BASELINES, "actions-file", "training-run"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes the agent of this name for some symbols."""
    name: str = request.param

    def build(symbols: tuple[str, ...]) -> AgentSetup:
        spec = name
        if name == "actions-file":
            path = tmp_path / "actions.csv"
            drawn = np.random.default_rng(1).uniform(-1, 1, (CANDLES, len(symbols))).round(3)
            rows = [f"{step}," + ",".join(map(str, row)) for step, row in enumerate(drawn.tolist())]
            path.write_text("\n".join(["step," + ",".join(symbols), *rows]) + "\n", encoding="utf-8")
            spec = f"actions:{path}"
        elif name == "training-run":
            spec = make_run(tmp_path, symbols=symbols).train_id
        return make_agent(spec, symbols=symbols, seed=3, training_runs=tmp_path)

    return build


@pytest.fixture(params=SYMBOLS, ids=["one-symbol", "two-symbols"])
def symbols(request: pytest.FixtureRequest) -> tuple[str, ...]:
    chosen: tuple[str, ...] = request.param
    return chosen


class Listening:
    """Passes an agent's calls on and keeps what went by."""

    def __init__(self, agent: Agent) -> None:
        self.name = agent.name
        self._agent = agent
        self.observations: list[Observation] = []
        self.actions: list[Action] = []

    def reset(self, spec: ObservationSpec, *, seed: int | None = None) -> None:
        self._agent.reset(spec, seed=seed)

    def act(self, observation: Observation, info: dict[str, Any]) -> Action:
        before = observation.copy()
        action = self._agent.act(observation, info)
        assert np.array_equal(observation, before), "the agent changed its observation"
        self.observations.append(before)
        self.actions.append(np.array(action, copy=True))
        action[:] = np.nan  # an agent that keeps what it gave away would trip over this
        return self.actions[-1].copy()

    def close(self) -> None:
        self._agent.close()


def play(env: FuturesEnv, agent: Agent, *, seed: int = SEED, steps: int | None = None) -> Listening:
    listening = Listening(agent)
    observation, info = env.reset(seed=seed)
    listening.reset(env.spec_observation, seed=seed)
    done, count = False, 0
    while not done and (steps is None or count < steps):
        action = listening.act(observation, info)
        observation, _, terminated, truncated, info = env.step(action)
        done, count = terminated or truncated, count + 1
    return listening


def with_another_future(market: Market, row: int) -> Market:
    """The same market up to candle `row`, another one after it: prices, ranges, volumes and fundings."""

    def changed(candles: CandleSet) -> CandleSet:
        after = np.arange(len(candles)) > row
        drift = np.where(after, 1.3 + 0.2 * np.sin(np.arange(len(candles))), 1.0)
        return replace(
            candles,
            open=candles.open * drift,
            high=candles.high * drift * np.where(after, 1.02, 1.0),
            low=candles.low * drift * np.where(after, 0.97, 1.0),
            close=candles.close * drift,
            volume=candles.volume * np.where(after, 5.0, 1.0),
        )

    known_ms = int(market.close_time_ms[row])
    fundings = {
        one.symbol: FundingSeries(
            one.symbol, one.time_ms, np.where(one.time_ms > known_ms, -3.0, 1.0) * one.rate, "changed"
        )
        for one in market.funding
        if one is not None
    }
    return build_market([changed(candles) for candles in market.candles], funding=fundings)


def test_it_is_an_agent_with_a_name_that_order_ids_can_carry(make: Make, symbols: tuple[str, ...]) -> None:
    agent = make(symbols).agent
    assert isinstance(agent, Agent)
    assert re.fullmatch(r"[A-Za-z0-9.-]+", agent.name)
    check_agent_name(agent.name, tuple(default_instruments()))


def test_every_action_lies_in_the_action_space(make: Make, symbols: tuple[str, ...]) -> None:
    setup = make(symbols)
    env = build_env(setup, synthetic_market(symbols, n=CANDLES, seed=5))
    seen = play(env, setup.agent)
    assert len(seen.actions) > 150
    for action in seen.actions:
        assert action.shape == (len(symbols),)
        assert np.isfinite(action).all()
        assert env.action_space.contains(action.astype(np.float32))


def test_the_same_seed_gives_the_same_actions_whatever_came_before(
    make: Make, symbols: tuple[str, ...]
) -> None:
    market = synthetic_market(symbols, n=CANDLES, seed=6)
    setup = make(symbols)
    env = build_env(setup, market)
    first = play(env, setup.agent)
    play(env, setup.agent, seed=99, steps=17)
    again = play(env, setup.agent)
    fresh = make(symbols)
    anew = play(build_env(fresh, market), fresh.agent)
    for other in (again, anew):
        assert np.array_equal(first.actions, other.actions)
        assert np.array_equal(first.observations, other.observations)


def test_no_action_depends_on_a_later_candle(make: Make, symbols: tuple[str, ...]) -> None:
    market = synthetic_market(symbols, n=CANDLES, seed=7)
    row = 180
    other = with_another_future(market, row)
    runs = []
    for one in (market, other):
        setup = make(symbols)
        env = build_env(setup, one)
        runs.append(play(env, setup.agent))
        # The last decision that knows only the common past is made at the close of candle `row`.
        known = row - env.first_index + 1
    assert not np.array_equal(market.close[row + 1 :], other.close[row + 1 :])
    assert known > 100
    assert np.array_equal(runs[0].observations[:known], runs[1].observations[:known])
    assert np.array_equal(runs[0].actions[:known], runs[1].actions[:known])


def test_it_begins_anew_after_being_closed(make: Make, symbols: tuple[str, ...]) -> None:
    market = synthetic_market(symbols, n=CANDLES, seed=8)
    setup = make(symbols)
    env = build_env(setup, market)
    first = play(env, setup.agent, steps=30)
    setup.agent.close()
    setup.agent.close()
    assert np.array_equal(first.actions, play(env, setup.agent, steps=30).actions)


@pytest.mark.parametrize("name", ["ema-cross", "momentum", "training-run", "actions-file"])
def test_an_observation_that_it_cannot_read_is_refused(name: str, tmp_path: Path) -> None:
    if name == "training-run":
        spec = make_run(tmp_path).train_id
    elif name == "actions-file":
        (tmp_path / "a.csv").write_text("step,BTCUSDT\n0,0\n", encoding="utf-8")
        spec = f"actions:{tmp_path / 'a.csv'}"
    else:
        spec = name
    agent = make_agent(spec, symbols=("BTCUSDT",), training_runs=tmp_path).agent
    unknown = observation_spec(("ETHUSDT",), 3_600_000, ("adx_14",), EnvConfig(window_size=2))
    with pytest.raises(ObservationMismatchError):
        agent.reset(unknown)
