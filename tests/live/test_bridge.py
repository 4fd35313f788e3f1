"""The loop in a thread of its own: results, errors and cancellations reach who waits, and work reaches that thread."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextvars import ContextVar

import pytest

from live.bridge import LoopThread

_PATIENCE_S = 20.0


@pytest.fixture
def bridge() -> Iterator[LoopThread]:
    with LoopThread() as one:
        yield one


async def _thread() -> int:
    return threading.get_ident()


def test_a_coroutine_runs_in_the_loops_thread_and_its_result_comes_back(bridge: LoopThread) -> None:
    assert bridge.call(_thread()) != threading.get_ident()
    assert bridge.call(_thread()) == bridge.call(_thread())


def test_its_error_is_raised_here(bridge: LoopThread) -> None:
    class RefusedError(Exception):
        pass

    async def refuse() -> None:
        await asyncio.sleep(0)
        raise RefusedError("no")

    with pytest.raises(RefusedError, match="no") as caught:
        bridge.call(refuse())
    assert any(entry.name == "refuse" for entry in caught.traceback)


def test_an_error_is_not_kept_alive_by_the_call(bridge: LoopThread) -> None:
    class WeightyError(Exception):
        pass

    async def fail() -> None:
        raise WeightyError

    seen: list[weakref.ref[WeightyError]] = []
    gc.disable()
    try:
        try:
            bridge.call(fail())
        except WeightyError as error:
            seen.append(weakref.ref(error))
        bridge.call(asyncio.sleep(0))
        assert seen[0]() is None
    finally:
        gc.enable()


def test_a_call_that_takes_too_long_is_cancelled(bridge: LoopThread) -> None:
    cancelled = threading.Event()

    async def wait() -> None:
        try:
            await asyncio.sleep(_PATIENCE_S)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(TimeoutError, match=r"no result within 0\.05 s"):
        bridge.call(wait(), timeout_s=0.05)
    assert cancelled.wait(_PATIENCE_S)


def test_a_call_that_is_interrupted_is_cancelled(bridge: LoopThread) -> None:
    """Ctrl+C reaches the thread that waits."""
    cancelled = threading.Event()

    async def wait() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(_PATIENCE_S)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(KeyboardInterrupt):
        bridge.call(wait())
    assert cancelled.wait(_PATIENCE_S)


def test_a_call_that_is_interrupted_before_it_begins_is_closed(
    bridge: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = bridge.loop.call_soon_threadsafe

    def interrupted(*_: object) -> None:
        monkeypatch.setattr(bridge.loop, "call_soon_threadsafe", later)
        raise KeyboardInterrupt

    monkeypatch.setattr(bridge.loop, "call_soon_threadsafe", interrupted)
    coroutine = _thread()
    with pytest.raises(KeyboardInterrupt):
        bridge.call(coroutine)
    assert bridge.call(_thread()) != threading.get_ident()
    with pytest.raises(RuntimeError, match="cannot reuse"):
        coroutine.send(None)


def test_a_loop_that_is_stopped_ends_the_calls() -> None:
    bridge = LoopThread()
    begun = threading.Event()
    ended: list[BaseException] = []

    async def wait() -> None:
        begun.set()
        await asyncio.sleep(_PATIENCE_S)

    def call() -> None:
        try:
            bridge.call(wait())
        except CancelledError as error:
            ended.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert begun.wait(_PATIENCE_S)
    bridge.stop()
    thread.join(_PATIENCE_S)
    assert len(ended) == 1
    bridge.stop()


def test_a_call_that_is_cancelled_before_its_first_turn_ends_too(bridge: LoopThread) -> None:
    async def never() -> None:
        raise AssertionError("it was cancelled before")

    def cancel_new_tasks() -> None:
        for task in asyncio.all_tasks(bridge.loop):
            task.cancel()

    async def blocked() -> None:
        # What is begun meanwhile and what cancels it come in the same turn of the loop, in this order.
        time.sleep(0.2)  # noqa: ASYNC251

    asyncio.run_coroutine_threadsafe(blocked(), bridge.loop)
    threading.Timer(0.1, bridge.loop.call_soon_threadsafe, (cancel_new_tasks,)).start()
    with pytest.raises(CancelledError):
        bridge.call(never(), timeout_s=_PATIENCE_S)


def test_the_callers_context_goes_along(bridge: LoopThread) -> None:
    name: ContextVar[str] = ContextVar("name")

    async def read() -> str:
        return name.get()

    name.set("mine")
    assert bridge.call(read()) == "mine"


def test_work_is_done_in_the_thread_that_waits(bridge: LoopThread) -> None:
    async def ask() -> list[int]:
        return [await bridge.in_caller(threading.get_ident) for _ in range(3)]

    assert bridge.call(ask()) == [threading.get_ident()] * 3
    assert bridge.call(ask(), timeout_s=_PATIENCE_S) == [threading.get_ident()] * 3


def test_each_call_has_work_done_in_its_own_thread(bridge: LoopThread) -> None:
    """Also by tasks that it begins."""
    same: list[bool] = []
    together = threading.Barrier(4)

    async def ask() -> int:
        return await asyncio.ensure_future(bridge.in_caller(threading.get_ident))

    def call() -> None:
        together.wait(_PATIENCE_S)
        same.extend(bridge.call(ask()) == threading.get_ident() for _ in range(50))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_PATIENCE_S)
    assert same == [True] * 200


def test_an_error_of_work_is_raised_in_the_loop(bridge: LoopThread) -> None:
    def fail() -> None:
        raise ZeroDivisionError("there")

    async def ask() -> str:
        try:
            await bridge.in_caller(fail)
        except ZeroDivisionError as error:
            return str(error)
        return ""

    assert bridge.call(ask()) == "there"


def test_work_that_nobody_waits_for_any_more_delays_nothing_else(bridge: LoopThread) -> None:
    """A rehearsal is cancelled while the other thread is at it."""
    begun = threading.Event()
    go_on = threading.Event()

    def work() -> str:
        begun.set()
        assert go_on.wait(_PATIENCE_S)
        return "nobody reads this"

    async def ask() -> str:
        task = asyncio.ensure_future(bridge.in_caller(work))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait({task})
        go_on.set()
        return "cancelled" if task.cancelled() else "?"

    assert bridge.call(ask()) == "cancelled"
    assert bridge.call(_thread()) != threading.get_ident()


def test_work_that_was_cancelled_before_it_began_is_left_out(bridge: LoopThread) -> None:
    """A candle has come: who decides on it does not finish the rehearsal first."""
    begun = threading.Event()
    go_on = threading.Event()
    done: list[str] = []

    def first() -> None:
        begun.set()
        assert go_on.wait(_PATIENCE_S)

    async def ask() -> None:
        tasks = [asyncio.ensure_future(bridge.in_caller(first))]
        while not begun.is_set():
            await asyncio.sleep(0.001)
        tasks.append(asyncio.ensure_future(bridge.in_caller(lambda: done.append("second"))))
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        go_on.set()

    bridge.call(ask())
    assert done == []


def test_a_task_that_outlives_its_call_has_no_thread_that_waits(bridge: LoopThread) -> None:
    tasks: list[asyncio.Task[int]] = []
    ended = asyncio.Event()

    async def later() -> int:
        await ended.wait()
        return await bridge.in_caller(threading.get_ident)

    async def begin() -> None:
        tasks.append(asyncio.ensure_future(later()))

    async def finish() -> None:
        ended.set()
        await tasks[0]

    bridge.call(begin())
    with pytest.raises(RuntimeError, match="while that waits"):
        bridge.call(finish())


async def test_without_a_call_there_is_no_thread_that_waits() -> None:
    with pytest.raises(RuntimeError, match="inside of call"):
        await LoopThread.in_caller(threading.get_ident)
