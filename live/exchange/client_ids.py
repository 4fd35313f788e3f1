"""Client order ids: a function of agent, symbol, candle and leg, so that after a restart one can ask by them.

`{agent}_{symbol}_{candle close, UTC ms}{leg}{attempt}`, e.g. `LLM-A_BTCUSDT_1736630400000o`. The attempt is left
out when it is 0. At most 36 characters of `[A-Za-z0-9._-]`: the exchange also allows `:` and `/`, but they break
python-binance's signature.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from envs.account import Leg
from envs.errors import ConfigError

MAX_LENGTH = 36
MAX_ATTEMPTS = 10
"""Attempts are numbered by one digit; an eleventh order of one leg at one candle takes the first's id again, which
the exchange allows once that order has ended."""

_ALLOWED = re.compile(r"[A-Za-z0-9._-]+")
_ID = re.compile(
    r"(?P<agent>[A-Za-z0-9._-]+)_(?P<symbol>[A-Z0-9]+)_(?P<close>\d{12,14})(?P<leg>[ostpx])(?P<attempt>\d*)"
)


@dataclass(frozen=True, slots=True)
class ClientOrderId:
    """The parts of a client order id. `candle_close_ms` is that of the candle that was decided on."""

    agent: str
    symbol: str
    candle_close_ms: int
    leg: Leg
    attempt: int = 0

    def __str__(self) -> str:
        attempt = str(self.attempt) if self.attempt else ""
        return f"{self.agent}_{self.symbol}_{self.candle_close_ms}{self.leg.value}{attempt}"


def client_order_id(agent: str, symbol: str, candle_close_ms: int, leg: Leg, attempt: int = 0) -> str:
    """The client order id of an agent's order.

    Args:
        agent: name of the agent.
        symbol: e.g. BTCUSDT.
        candle_close_ms: close time of the candle that was decided on, UTC ms.
        leg: what the order is for.
        attempt: counts orders of one leg at one candle (emergency closes), from 0.

    Raises:
        ConfigError: the id would be too long or hold a character that the exchange does not take.
    """
    text = str(ClientOrderId(agent, symbol, candle_close_ms, leg, attempt))
    if not _ALLOWED.fullmatch(text) or not agent:
        raise ConfigError(
            f"agent {agent!r} with symbol {symbol!r} gives the client order id {text!r}; "
            f"use only letters, digits, '.', '_' and '-'"
        )
    if len(text) > MAX_LENGTH:
        raise ConfigError(
            f"agent {agent!r} with symbol {symbol!r} gives the client order id {text!r} of {len(text)} "
            f"characters; the exchange takes {MAX_LENGTH}: shorten the agent's name by {len(text) - MAX_LENGTH}"
        )
    parsed = parse_client_order_id(text)
    if parsed is None or parsed.agent != agent:
        raise ConfigError(
            f"symbol {symbol!r} and candle close {candle_close_ms} do not make a client order id ({text!r}); "
            f"give an upper-case symbol and UTC milliseconds"
        )
    return text


def check_agent_name(agent: str, symbols: tuple[str, ...], *, attempts: int = MAX_ATTEMPTS) -> None:
    """Raise a ConfigError unless every order id of this agent will be one that the exchange takes."""
    for symbol in symbols:
        client_order_id(agent, symbol, 1_736_630_400_000, Leg.EMERGENCY, max(0, attempts - 1))


def parse_client_order_id(text: str) -> ClientOrderId | None:
    """The parts of a client order id, or None when it is not one of ours."""
    match = _ID.fullmatch(text)
    if match is None:
        return None
    return ClientOrderId(
        agent=match["agent"],
        symbol=match["symbol"],
        candle_close_ms=int(match["close"]),
        leg=Leg(match["leg"]),
        attempt=int(match["attempt"] or 0),
    )
