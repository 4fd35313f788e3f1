"""What the account's event stream has told since the account was last read.

Reading the account takes a round trip, and the order that waits for it is late by as much. An account of which the
stream has told nothing new need not be read again before the order, only after it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from decimal import Decimal

from envs.account import ZERO, Fill
from envs.errors import ExchangeError
from live.exchange.base import (
    AccountEvent,
    AlgoEvent,
    Exchange,
    FillEvent,
    FundingEvent,
    Resync,
    UserEvent,
    UserEventStream,
)

_log = logging.getLogger(__name__)

_TRIGGERS_AT_WORK = frozenset({"TRIGGERING", "TRIGGERED", "FINISHED"})


class AccountWatch:
    """Listens to the user stream of an exchange.

    It never says that an account is as it was unless the stream has been open since the last reading and what it told
    agrees with that reading. What it cannot know is what the exchange has not told yet.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._stream: UserEventStream | None = None
        self._task: asyncio.Task[None] | None = None
        self._unsure = True
        self._fills: dict[tuple[str, int], Fill] = {}
        self._funding: list[FundingEvent] = []
        self._wallet_usdt: Decimal | None = None
        self._positions: dict[str, Decimal] = {}

    def start(self) -> None:
        """Open the stream, unless it is open. Needs a running event loop."""
        if self._task is None or self._task.done():
            self._unsure = True
            self._stream = self._exchange.stream_user_events()
            self._task = asyncio.get_running_loop().create_task(
                self._listen(self._stream), name="account watch"
            )

    async def close(self) -> None:
        """End the stream; harmless when there is none."""
        task, stream = self._task, self._stream
        self._task = self._stream = None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if stream is not None:
            await stream.aclose()

    async def _listen(self, stream: UserEventStream) -> None:
        try:
            async for event in stream:
                self._note(event)
        except ExchangeError as error:
            _log.warning("the account's events cannot be heard (%s): it is read at every candle", error)
        self._unsure = True

    def _note(self, event: UserEvent) -> None:
        match event:
            case FillEvent():
                self._fills[event.fill.symbol, int(event.fill.trade_id)] = event.fill
            case FundingEvent():
                self._funding.append(event)
            case AccountEvent():
                if event.wallet_usdt is not None:
                    self._wallet_usdt = event.wallet_usdt
                self._positions.update({symbol: quantity for symbol, quantity, _ in event.positions})
            case AlgoEvent() if event.status in _TRIGGERS_AT_WORK:
                self._unsure = True
            case Resync():
                self._unsure = True

    def begin_reading(self) -> None:
        """The account is asked for now: what was told before will be in the answer."""
        self._unsure = False
        self._fills.clear()
        self._funding.clear()
        self._wallet_usdt = None
        self._positions.clear()

    def doubt(self) -> None:
        """The last reading failed, or something in it is not understood: nothing is certain until the next one."""
        self._unsure = True

    def agrees(
        self,
        wallet_usdt: Decimal,
        positions: Mapping[str, Decimal],
        is_known: Callable[[str, int], bool],
        before_ms: int,
    ) -> bool:
        """Whether all that was told of the time before `before_ms` is in this account.

        Args:
            wallet_usdt, positions: as last read.
            is_known: whether a trade, by symbol and id, is in it.
            before_ms: fundings from here on may be missing in it.
        """
        stream = self._stream
        if self._unsure or stream is None or not stream.connected:
            return False
        if not all(is_known(symbol, trade) for symbol, trade in self._fills):
            return False
        if any(positions.get(symbol, ZERO) != quantity for symbol, quantity in self._positions.items()):
            return False
        later = [event for event in self._funding if event.time_ms >= before_ms]
        if len(later) < len(self._funding):
            return False
        charged = sum((event.amount_usdt for event in later), ZERO)
        return self._wallet_usdt is None or self._wallet_usdt - charged == wallet_usdt
