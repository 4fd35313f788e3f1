"""A run whose actions are known ahead comes to the same rows, bytes and figures as one through the wrappers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
from env_cases import environments, limits_strategy
from hypothesis import given
from hypothesis import strategies as st
from support import counting_features

from agents.base import Agent, AgentSetup, ForesightedAgent, KnownActions
from agents.baselines import BASELINES
from agents.catalog import make_agent
from agents.run import Ending
from agents.simulate import Simulation, build_env, simulate
from envs.base import Action, Observation
from envs.features import default_features
from envs.futures_env import FuturesEnv
from envs.observation import ObservationSpec
from envs.risk import RiskLimits
from envs.settings import EnvConfig
from envs.step_columns import StepColumns
from envs.step_log import COLUMNS
from envs.synthetic import synthetic_market


class Scripted:
    """Gives the rows of a table."""

    def __init__(self, actions: np.ndarray) -> None:
        self.name = "scripted"
        self._actions = actions
        self._step = 0

    def reset(self, spec: ObservationSpec, *, seed: int | None = None) -> None:
        self._step = 0

    def act(self, observation: Observation, info: dict[str, Any]) -> Action:
        self._step += 1
        return self._actions[self._step - 1]

    def close(self) -> None:
        """Nothing is held."""


class Foresighted(Scripted):
    """The same, and says so before."""

    def act_ahead(self, candles: np.ndarray) -> KnownActions:
        first = self._step
        self._step += len(candles)
        return KnownActions(self._actions[first : self._step])


def run_it(
    env: FuturesEnv, agent: Agent, limits: RiskLimits, max_steps: int | None, folder: Path, **wanted: Any
) -> tuple[Simulation, dict[str, bytes]]:
    setup = AgentSetup(agent, env.config, default_features(), limits=limits, max_steps=max_steps)
    done = simulate(
        setup, env, steps_path=folder / "steps.csv", emergencies_path=folder / "emergencies.csv", **wanted
    )
    return done, {path.name: path.read_bytes() for path in folder.iterdir()}


def same(one: Simulation, other: Simulation) -> None:
    assert one.ending is other.ending
    assert one.emergency == other.emergency
    assert one.account == other.account
    assert one.metrics == other.metrics
    assert one.trades == other.trades
    np.testing.assert_array_equal(one.equity, other.equity)
    np.testing.assert_array_equal(one.time_ms, other.time_ms)


@given(environments(), st.one_of(st.just({}), limits_strategy), st.sampled_from([None, 17]))
def test_rows_and_bytes_equal_those_of_the_wrappers(
    case: tuple[Any, np.ndarray], limits: Mapping[str, Any], max_steps: int | None
) -> None:
    make, actions = case
    limit = RiskLimits.parse(limits)
    assert isinstance(Foresighted(actions), ForesightedAgent)
    assert not isinstance(Scripted(actions), ForesightedAgent)
    with TemporaryDirectory() as first, TemporaryDirectory() as second, TemporaryDirectory() as third:
        slow, expected = run_it(make(), Scripted(actions), limit, max_steps, Path(first), keep_records=True)
        kept, files = run_it(make(), Foresighted(actions), limit, max_steps, Path(second), keep_records=True)
        written, also = run_it(make(), Foresighted(actions), limit, max_steps, Path(third))
    assert files == expected
    assert also == expected
    same(kept, slow)
    same(written, slow)
    assert len(kept.records) == len(slow.records)
    for got, wanted in zip(kept.records, slow.records, strict=True):
        assert got == wanted
        assert [type(value) for value in astuple(got)] == [type(value) for value in astuple(wanted)]
    setup = AgentSetup(
        Foresighted(actions), make().config, default_features(), limits=limit, max_steps=max_steps
    )
    in_memory = simulate(setup, make(), keep_records=True)
    assert in_memory.records == slow.records
    same(in_memory, slow)
    same(simulate(setup, make()), slow)


STEPS = 300
BITES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # What the limit is, how the environment is set up, and what must be in the log for the test to be one.
    "leverage": ({"max_leverage": 1.2}, {}, "reduced by max_leverage"),
    "position": ({"max_position_notional_usdt": 9_000.0}, {}, "reduced by max_position_notional"),
    "order": ({"max_order_notional_usdt": 12_000.0}, {}, "reduced by max_order_notional"),
    "margin": ({}, {"max_leverage": 2.0, "exchange_leverage": 2, "slippage_bps": 0.0}, "available_margin"),
    "daily loss": (
        {"daily_loss_fraction": 0.02},
        {"action": {"scheme": "signal", "signal_fraction": 1.0}},
        "daily_loss: ",
    ),
    "orders": ({"max_orders_per_hour": 1}, {}, "orders_per_hour: "),
    "symbols": ({"allowed_symbols": ["ETHUSDT"]}, {}, "symbol_allowed: "),
    "drawdown": ({"max_drawdown_fraction": 0.15}, {}, "reached the limit of 15"),
    "protective stop": (
        {"max_drawdown_fraction": 0.15, "protective_stop": True, "max_leverage": 1.2},
        {},
        "reduced by max_leverage",
    ),
    "liquidation": (
        {},
        {"max_leverage": 20.0, "action": {"scheme": "signal", "signal_fraction": 9.0}, "slippage_bps": 0.0},
        ",liquidation,",
    ),
    "termination": ({}, {"terminate_drawdown_fraction": 0.1}, "end"),
    "skipped orders": ({}, {"initial_capital_usdt": 40.0}, "below the minimum notional"),
}


@pytest.mark.parametrize("kind", BITES)
@pytest.mark.parametrize("held", [1, 7], ids=["orders at every step", "and seldom"])
def test_each_limit_bites_alike(kind: str, held: int, tmp_path: Path) -> None:
    limits, settings, sign = BITES[kind]
    place = synthetic_market(
        ("BTCUSDT", "ETHUSDT"), interval="15m", n=STEPS + 2, seed=5, volatility_annual=3.0
    )
    config = EnvConfig.parse({"window_size": 2, "max_leverage": 2.0, **settings})
    actions = np.repeat(np.random.default_rng(3).uniform(-1, 1, (STEPS + 1, 2)), held, axis=0)
    runs, written = [], []
    for number, agent in enumerate((Scripted(actions), Foresighted(actions))):
        folder = tmp_path / str(number)
        folder.mkdir()
        env = FuturesEnv(place, features=counting_features(place), config=config)
        done, files = run_it(env, agent, RiskLimits.parse(limits), None, folder, keep_records=True)
        runs.append(done)
        written.append(files)
    slow, fast = runs
    assert sign in written[0]["steps.csv"].decode()
    assert written[0] == written[1]
    same(fast, slow)
    assert fast.records == slow.records
    ahead = sum(len(part) for part in fast.records.parts if isinstance(part, StepColumns))
    if kind == "protective stop":
        assert ahead == 0
    elif held == 7 and kind != "symbols":  # a refused order is wanted again at every step
        assert ahead > len(slow.records) / 12


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("capital", [10_000.0, 4.0])
def test_rules_run_ahead_as_they_act(name: str, capital: float, monkeypatch: pytest.MonkeyPatch) -> None:
    place = synthetic_market(("BTCUSDT", "ETHUSDT"), interval="4h", n=1_200, seed=2)

    def run() -> Simulation:
        setup = make_agent(
            name, symbols=place.symbols, config={"env": {"initial_capital_usdt": capital}}, seed=1
        )
        return simulate(setup, build_env(setup, place), seed=6, keep_records=True)

    fast = run()
    agent = type(make_agent(name, symbols=place.symbols).agent)
    assert isinstance(fast.records.parts[0], StepColumns)
    monkeypatch.delattr(agent, "act_ahead")
    slow = run()
    assert not any(isinstance(part, StepColumns) for part in slow.records.parts)
    same(fast, slow)
    assert fast.records == slow.records
    if capital > 5_000:
        assert bool(slow.trades) == (name != "flat")


def test_a_stopped_run_ends_its_log(tmp_path: Path) -> None:
    """Whether the rows are kept, written, or both."""
    place = synthetic_market(n=40_000, interval="5m", seed=1)
    for number, keep in enumerate((True, False)):
        asked = iter([False, False, True])
        setup = make_agent("ema-cross", symbols=place.symbols)
        path = tmp_path / f"{number}.csv"
        env = build_env(setup, place)
        done = simulate(
            setup, env, steps_path=path, keep_records=keep, should_stop=lambda asked=asked: next(asked)
        )
        assert done.ending is Ending.STOPPED
        assert 0 < done.metrics.steps < 10_000
        frame = pd.read_csv(path)
        assert frame["action_type"].tolist()[-1] == "end"
        assert (frame["action_type"] == "end").sum() == 1
        assert frame["timestamp"].iloc[-1] == done.time_ms[-1]
        if keep:
            assert len(done.records) == len(frame) == done.metrics.steps + 1


def test_rows_as_a_table() -> None:
    place = synthetic_market(("BTCUSDT", "ETHUSDT"), n=300, seed=1)
    setup = make_agent("momentum", symbols=place.symbols)
    done = simulate(setup, build_env(setup, place), keep_records=True)
    frame = done.records.frame()
    assert tuple(frame.columns) == COLUMNS
    for name in COLUMNS:
        wanted = [getattr(record, name) for record in done.records]
        if isinstance(wanted[0], Decimal | float):
            wanted = [float("nan") if value is None else float(value) for value in wanted]
            np.testing.assert_array_equal(frame[name], wanted)
        elif name in ("action", "fill_price"):
            assert frame[name].isna().tolist() == [value is None for value in wanted]
        else:
            assert frame[name].tolist() == wanted
