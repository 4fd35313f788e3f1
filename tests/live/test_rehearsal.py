"""The step that is rehearsed before its candle closes: on time, without any effect, and giving way to the candle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from live_support import Rig, Scripted, env_config, rig
from support import market_of

from agents.run import run
from envs.account import AccountSnapshot, Plan
from envs.base import Observation
from envs.risk import RiskLimits
from envs.risk_state import RiskState
from live import rehearsal
from live.rehearsal import Rehearsal, deciding
from live.venues import LockStep

CLOSE_MS = 1_736_630_400_000
_PATIENCE_S = 20.0


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, nobody else is at work."""
    monkeypatch.setattr(rehearsal, "_BUSY_S", 60.0)


class Scene:
    """Counts what a rehearsal does, at a time that stands still."""

    def __init__(self, closes_in_s: float) -> None:
        self.closes_in_s = closes_in_s
        self.connected = 0
        self.begun = 0
        self.rounds = 0
        self.rehearsed = asyncio.Event()

    async def connect(self) -> None:
        self.connected += 1

    async def parts(self) -> AsyncGenerator[None]:
        self.begun += 1
        yield
        self.rounds += 1
        if self.rounds == 3:
            self.rehearsed.set()

    def rehearsal(self) -> Rehearsal:
        return Rehearsal(lambda _: self.closes_in_s, self.connect, self.parts)


async def cancelled(task: asyncio.Task[None]) -> bool:
    task.cancel()
    await asyncio.wait({task})
    return task.cancelled()


async def test_it_goes_on_from_shortly_before_the_close_until_the_candle_is_there() -> None:
    scene = Scene(0.05)
    task = asyncio.create_task(scene.rehearsal().until(CLOSE_MS))
    async with asyncio.timeout(_PATIENCE_S):
        await scene.rehearsed.wait()
    assert scene.connected == 1
    assert await cancelled(task)


async def test_it_gives_way_to_whoever_else_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "_BUSY_S", 0.0)
    scene = Scene(0.0)
    task = asyncio.create_task(scene.rehearsal().until(CLOSE_MS))
    async with asyncio.timeout(_PATIENCE_S):
        while scene.begun < 3:
            await asyncio.sleep(0.001)
    assert scene.rounds == 0
    assert await cancelled(task)


async def test_long_before_the_close_only_connections_are_opened() -> None:
    scene = Scene(1.0)
    task = asyncio.create_task(scene.rehearsal().until(CLOSE_MS))
    await asyncio.sleep(0.05)
    assert (scene.connected, scene.begun) == (1, 0)
    assert await cancelled(task)
    scene = Scene(3.0)
    task = asyncio.create_task(scene.rehearsal().until(CLOSE_MS))
    await asyncio.sleep(0.05)
    assert (scene.connected, scene.begun) == (0, 0)
    assert await cancelled(task)


async def test_a_candle_that_is_late_is_waited_for_without() -> None:
    scene = Scene(-0.001)
    await scene.rehearsal().until(CLOSE_MS)
    assert (scene.connected, scene.begun) == (0, 0)
    scene = Scene(0.0)
    task = asyncio.create_task(scene.rehearsal().until(CLOSE_MS))
    async with asyncio.timeout(_PATIENCE_S):
        await scene.rehearsed.wait()
        scene.closes_in_s = -1.1
        await task


async def test_it_ends_even_if_its_cancellation_got_lost_while_connecting() -> None:
    scene = Scene(0.05)
    connecting = asyncio.Event()

    async def loses_it() -> None:
        connecting.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(_PATIENCE_S)

    task = asyncio.create_task(Rehearsal(lambda _: scene.closes_in_s, loses_it, scene.parts).until(CLOSE_MS))
    await connecting.wait()
    task.cancel()
    async with asyncio.timeout(_PATIENCE_S):
        await asyncio.wait({task})
    assert scene.begun == 0


async def test_a_rehearsal_that_fails_says_so_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> AsyncGenerator[None]:
        yield
        raise ZeroDivisionError("an indicator")

    async def connect() -> None:
        pass

    with caplog.at_level(logging.WARNING):
        await Rehearsal(lambda _: 0.0, connect, fails).until(CLOSE_MS)
    assert "could not be rehearsed" in caplog.text and "an indicator" in caplog.text


# --- the whole step -------------------------------------------------------------------------------------------

TWO = market_of(
    {
        "BTCUSDT": [
            (p, p + 300.0, p - 300.0, p + 40.0) for p in (50_000.0, 50_200.0, 49_900.0, 50_500.0) * 3
        ],
        "ETHUSDT": [(p, p + 20.0, p - 20.0, p - 3.0) for p in (2_500.0, 2_480.0, 2_530.0, 2_510.0) * 3],
    }
)
CONFIG = env_config(max_leverage=3.0, action={"scheme": "target", "stop_loss_fraction": 0.02})
LIMITS = RiskLimits(max_drawdown_fraction=0.5, protective_stop=True, max_orders_per_hour=6)
ACTIONS = ([0.5, -0.5], [0.9, 0.4], [-0.3, 0.4], [0.0, -0.8], [0.2, 0.1], [-0.6, 0.0])


class Memorising(Scripted):
    """Rehearses, and would notice if it were asked for a decision instead."""

    rehearsed = 0

    def rehearse(self, observation: Observation) -> None:
        assert observation.dtype == np.float32
        self.rehearsed += 1


class Store:
    """A risk store that counts."""

    def __init__(self) -> None:
        self.written = 0

    def load(self) -> RiskState | None:
        return None

    def save(self, state: RiskState) -> None:
        self.written += 1

    def note(self, state: RiskState) -> None:
        self.written += 1


class Rehearsed:
    """Plays a candle once the step was rehearsed to its end a few times, and looks for traces."""

    def __init__(self, one: Rig, store: Store) -> None:
        self._one = one
        self._lock_step = LockStep(one.server.rest_url)
        self._store = store
        self.rounds = 0
        self.enough = asyncio.Event()
        self.closes = False

    def closes_in_s(self, close_ms: int) -> float:
        assert close_ms == self._one.env.time_ms + 1 + self._one.env.interval_ms
        return 0.0

    def traces(self) -> Any:
        one = self._one
        assert one.proxy is not None
        env = one.env
        orders = [name for name in one.proxy.seen if "rder" in name or "account" in name]
        arrays = (env._record, env._position, env._order, env._history.window, env._history._values)
        rows = len(one.stack.records)
        state = deepcopy(one.risk.state)
        return orders, [array.tobytes() for array in arrays], rows, state, self._store.written, env._snapshot

    async def request_candle(self) -> bool | None:
        before = self.traces()
        self.enough.clear()
        self.rounds = 0
        async with asyncio.timeout(_PATIENCE_S):
            await self.enough.wait()
        assert self.traces() == before
        return await self._lock_step.request_candle()

    def look(self, observation: Observation, plan: Plan, account: AccountSnapshot) -> None:
        assert plan.entries and account.time_ms == self._one.env.time_ms
        self.rounds += 1
        if self.rounds == 3:
            self.enough.set()

    async def close(self) -> None:
        await self._lock_step.close()


def test_a_rehearsed_run_leaves_the_rows_of_one_that_was_not() -> None:
    def rows(one: Rig) -> list[Any]:
        return list(one.stack.records)

    plain_agent = Scripted(*ACTIONS)
    with rig(TWO, config=CONFIG, limits=LIMITS, with_proxy=True) as one:
        run(one.stack, plain_agent, max_steps=len(ACTIONS))
        plain = rows(one)
    assert sum(row.result == "filled" for row in plain) > 6

    store = Store()
    agent = Memorising(*ACTIONS)
    played: list[Rehearsed] = []

    async def request_candle() -> bool | None:
        return await played[0].request_candle()

    def closes_in_s(close_ms: int) -> float:
        return played[0].closes_in_s(close_ms)

    with rig(
        TWO,
        config=CONFIG,
        limits=LIMITS,
        store=store,
        with_proxy=True,
        request_candle=request_candle,
        closes_in_s=closes_in_s,
    ) as one:
        played.append(Rehearsed(one, store))
        one.env.rehearse_with(deciding(agent), one.risk.rehearse, played[0].look)
        run(one.stack, agent, max_steps=len(ACTIONS))
        one.bridge.call(played[0].close())
        assert rows(one) == plain
        assert one.proxy is not None
        # One request per connection before each candle.
        assert one.proxy.seen.count("GET /fapi/v1/time") >= 2 * len(ACTIONS)
    assert agent.rehearsed >= 3 * len(ACTIONS)
    assert len(agent.seen) == len(ACTIONS)
    for seen, expected in zip(agent.seen, plain_agent.seen, strict=True):
        np.testing.assert_array_equal(seen, expected)


def test_an_agent_that_cannot_rehearse_is_left_alone() -> None:
    agent = Scripted([0.1])
    deciding(agent)(np.zeros(1, np.float32), None, None)  # type: ignore[arg-type]
    assert agent.seen == []
