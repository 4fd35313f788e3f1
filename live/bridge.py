"""An event loop in a thread of its own, for a synchronous caller.

Gymnasium's `step` is synchronous and the exchange port is asynchronous. The loop's thread keeps sockets drained and
pings answered while an agent thinks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_STOP_TIMEOUT_S = 15.0


class _Work(Generic[T]):
    """Something for the thread that waits, and the future in which the loop waits for it."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[T] = self._loop.create_future()

    def do(self) -> None:
        """In the thread that waits."""
        if self.done.cancelled():
            return
        try:
            result = self._function()
        except Exception as error:  # noqa: BLE001  (raised in the loop)
            self._tell(self._fail, error)
        else:
            self._tell(self._succeed, result)

    def _tell(self, method: Callable[[Any], None], value: object) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            self._loop.call_soon_threadsafe(method, value)

    def _succeed(self, result: T) -> None:
        if not self.done.done():
            self.done.set_result(result)

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class _Call(Generic[T]):
    """A coroutine on its way through the loop, and the place where its caller waits.

    As `asyncio.run_coroutine_threadsafe`, but the result is handed over in the turn of the loop in which it is there,
    not one later, and through a queue whose waiting is written in C: a step makes two calls that its orders wait for.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._box: SimpleQueue[_Work[Any] | tuple[T | None, BaseException | None]] = SimpleQueue()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """In the loop."""
        _PRESENT_CALL.set(self)
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(self._ended)

    async def _run(self) -> None:
        try:
            result = await self._coroutine
        except asyncio.CancelledError:
            self._box.put((None, CancelledError()))
            raise
        except BaseException as error:  # noqa: BLE001  (raised by `result`)
            self._box.put((None, error))
        else:
            self._box.put((result, None))

    def _ended(self, _: asyncio.Task[None]) -> None:
        """Also of a task that was cancelled before its first turn."""
        self._coroutine.close()
        self._box.put((None, CancelledError()))

    def cancel(self) -> None:
        """In the loop."""
        if self._task is None:
            self._coroutine.close()  # interrupted before it was begun
        else:
            self._task.cancel()

    @property
    def is_over(self) -> bool:
        """Whether nobody waits any more."""
        return self._task is None or self._task.done()

    def hand_over(self, work: _Work[Any]) -> None:
        """In the loop: have the thread that waits do something meanwhile."""
        self._box.put(work)

    def result(self, timeout_s: float | None) -> T:
        """In the thread that waits."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            try:
                item = self._box.get(timeout=left_s)
            except Empty:
                raise TimeoutError(f"no result within {timeout_s} s") from None
            if not isinstance(item, _Work):
                break
            item.do()
        result, error = item
        if error is not None:
            try:
                raise error
            finally:
                del item, error  # whose traceback refers to this frame
        return result  # type: ignore[return-value]


_PRESENT_CALL: ContextVar[_Call[Any] | None] = ContextVar("present_call", default=None)


class LoopThread:
    """Runs coroutines for other threads. Use as a context manager, or call `stop` when done."""

    def __init__(self, name: str = "perpgym-io") -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            pending = asyncio.all_tasks(self.loop)
            for task in pending:
                task.cancel()
            if pending:
                self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def call(self, coroutine: Coroutine[Any, Any, T], *, timeout_s: float | None = None) -> T:
        """Run a coroutine in the loop and return its result; its exception is raised here.

        Raises:
            TimeoutError: it took longer than `timeout_s`; it is cancelled.
            CancelledError: of `concurrent.futures`: the loop was stopped meanwhile.
        """
        call = _Call(coroutine)
        try:
            self.loop.call_soon_threadsafe(call.begin)
            return call.result(timeout_s)
        except (TimeoutError, KeyboardInterrupt):
            self.loop.call_soon_threadsafe(call.cancel)
            raise

    @staticmethod
    async def in_caller(function: Callable[[], T]) -> T:
        """Run a function in the thread that waits for the present `call`, and return its result.

        Raises:
            RuntimeError: no thread waits: this was not begun by `call`, or that has ended.
        """
        call = _PRESENT_CALL.get()
        if call is None or call.is_over:
            raise RuntimeError("in_caller() works inside of call() only, while that waits")
        work = _Work(function)
        call.hand_over(work)
        return await work.done

    def stop(self) -> None:
        """Cancel what still runs and end the thread; harmless when called twice."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(_STOP_TIMEOUT_S)

    def __enter__(self) -> LoopThread:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
