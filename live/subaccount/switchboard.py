"""Who hears of what happens on a shared account."""

from __future__ import annotations

import logging
from collections.abc import Callable

from envs.account import ZERO, Fill
from live.exchange.base import (
    AccountEvent,
    AlgoEvent,
    FillEvent,
    FundingEvent,
    MarginCallEvent,
    OrderEvent,
    Resync,
    UserEvent,
)
from live.ledger.arithmetic import exact, portion
from live.subaccount.desk import TRIGGER_ENDED, SharedDesk
from live.subaccount.events import OwnEvents
from live.subaccount.view import AccountView

_LOG = logging.getLogger(__name__)

_REMEMBERED = 1000


class Switchboard:
    """Hands the account's events to the agents that they are about.

    Args:
        view, desk: of the account.
        touch: told the agent and the symbol of a position that something happened to.
    """

    def __init__(self, view: AccountView, desk: SharedDesk, touch: Callable[[str, str], None]) -> None:
        self._view = view
        self._desk = desk
        self._touch = touch
        self._streams: dict[str, list[OwnEvents]] = {name: [] for name in view.settings.agents}
        self._heard: dict[tuple[str, str], FillEvent] = {}

    def open(self, agent: str, is_current: Callable[[], bool]) -> OwnEvents:
        """A stream of an agent's events."""
        streams = self._streams[agent]
        stream = OwnEvents(is_current, lambda one: streams.remove(one) if one in streams else None)
        streams.append(stream)
        return stream

    async def close(self) -> None:
        """End all streams."""
        for streams in self._streams.values():
            for stream in list(streams):
                await stream.aclose()

    def _tell(self, agent: str, event: UserEvent) -> None:
        for stream in self._streams.get(agent, ()):
            stream.tell(event)

    def _tell_all(self, event: UserEvent) -> None:
        for agent in self._streams:
            self._tell(agent, event)

    def on_event(self, event: UserEvent) -> None:
        """The exchange told something of the account."""
        match event:
            case FillEvent():
                self._heard[event.fill.symbol, event.fill.trade_id] = event
                # Those that an order's report brought first are never asked for.
                if len(self._heard) > _REMEMBERED:
                    del self._heard[next(iter(self._heard))]
            case AlgoEvent():
                agent = self._view.owner_of_id(event.client_order_id)
                if event.status in TRIGGER_ENDED:
                    self._desk.ended(agent, event.symbol, event.client_order_id)
                self._tell(agent, event)
            case OrderEvent():
                self._tell(self._view.owner_of_id(event.client_order_id), event)
            case FundingEvent():
                self._tell_funding(event)
            case AccountEvent() if event.reason not in ("ORDER", "FUNDING_FEE"):
                self._tell_all(Resync(f"the shared account changed: {event.reason}"))
            case Resync():
                self._tell_all(event)
            case MarginCallEvent():
                _LOG.warning("%s: margin call for %s", self._view.account, ", ".join(event.symbols))
                for agent in self._streams:
                    for symbol in event.symbols:
                        self._touch(agent, symbol)

    def _tell_funding(self, event: FundingEvent) -> None:
        symbol = event.symbol or ""
        net = self._view.net(symbol)
        for agent in self._view.settings.agents:
            held = self._view.quantity(agent, symbol)
            if held:
                with exact():
                    part = portion(event.amount_usdt, held, net) if net else ZERO
                self._tell(agent, FundingEvent(event.time_ms, event.symbol, part))

    def on_fill(self, fill: Fill) -> None:
        """A fill is in the ledger."""
        heard = self._heard.pop((fill.symbol, fill.trade_id), None)
        owner = self._view.owner(fill)
        if owner:
            status = heard.order_status if heard else "FILLED"
            executed = heard.executed_quantity if heard else fill.quantity
            self._tell(owner, FillEvent(fill, status, executed))
            self._touch(owner, fill.symbol)
            return
        self._tell_all(Resync("somebody else traded on the shared account"))
        for agent in self._view.settings.agents:
            self._touch(agent, fill.symbol)
