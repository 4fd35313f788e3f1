"""An agent's own events, out of those of the account that it shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from live.exchange.base import Resync, UserEvent
from live.exchange.buffer import EventStream

_LIMIT = 10_000


class OwnEvents(EventStream[UserEvent]):
    """Fed by the shared account; a `Resync` first, and whenever something changed that the agent's orders did not do.

    Args:
        is_current: whether the shared account's ledger has all that the exchange has told.
        on_close: told of the end.
    """

    def __init__(self, is_current: Callable[[], bool], on_close: Callable[[OwnEvents], None]) -> None:
        super().__init__(_LIMIT)
        self._is_current = is_current
        self._on_close = on_close
        self.push(Resync("first"))

    @property
    def connected(self) -> bool:
        """Whether the account can tell of an event now."""
        return not self._closed and self._is_current()

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._closed

    def tell(self, event: UserEvent) -> None:
        """Pass an event on; a consumer who never reads gets one `Resync` for all."""
        if self.is_full():
            self.clear()
            event = Resync("too many events were waiting")
        self.push(event)

    def __aiter__(self) -> Self:
        return self

    async def aclose(self) -> None:
        """End the stream."""
        self._on_close(self)
        await super().aclose()
