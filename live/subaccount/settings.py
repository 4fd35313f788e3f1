"""Settings of an exchange account that several agents share: the section `accounts` of a config file."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from envs.config import StrictModel
from live.ledger import MANUAL

Usdt = Annotated[Decimal, Field(gt=0)]


class AgentAccount(StrictModel):
    """One agent's part of the account.

    Attributes:
        capital_usdt: its capital. Whoever changes it pays the difference in or out at the next start. None for an
            agent that has the account for itself: all that is paid in or out is its capital.
        symbols: what it may trade; None for all of the account's. Where no other agent may trade a symbol, its stops
            are reduce-only at the exchange.
    """

    capital_usdt: Usdt | None
    symbols: tuple[str, ...] | None = None


class AccountLimits(StrictModel):
    """Limits of the real account, above the agents' own. Reached, every agent is flattened and halted.

    Attributes:
        max_drawdown_fraction: of the account's equity from its peak; None for no limit.
        max_net_leverage: sum of the net positions' notionals over the account's equity; None for no limit. An order
            that would exceed it is refused.
    """

    max_drawdown_fraction: Annotated[Decimal, Field(gt=0, le=1)] | None = None
    max_net_leverage: Annotated[Decimal, Field(gt=0)] | None = None


class SharedAccountSettings(StrictModel):
    """Agents on one exchange account.

    Attributes:
        agents: by name; the name is in their client order ids.
        symbols: what is traded on the account; one stream of candles serves all agents.
        limits: of the account as a whole.
        watch_s: how often prices are asked for while something is open, to see a virtual liquidation or a limit.
        close_tries, close_delay_s: how often an excess or a liquidation's order is tried in a row, and the first pause.
    """

    agents: dict[str, AgentAccount] = Field(min_length=1)
    symbols: tuple[str, ...] = Field(min_length=1)
    limits: AccountLimits = AccountLimits()
    watch_s: float = Field(2.0, gt=0)
    close_tries: int = Field(6, ge=1, le=50)
    close_delay_s: float = Field(0.2, ge=0)

    @field_validator("agents")
    @classmethod
    def _named(cls, agents: dict[str, AgentAccount]) -> dict[str, AgentAccount]:
        if MANUAL in agents:
            raise ValueError(f"{MANUAL} is the account of what no agent owns; name the agent otherwise")
        return agents

    @model_validator(mode="after")
    def _capital_is_given(self) -> SharedAccountSettings:
        if len(self.agents) > 1:
            for name, agent in self.agents.items():
                if agent.capital_usdt is None:
                    raise ValueError(f"agent {name} shares the account; give its capital_usdt")
        return self

    @model_validator(mode="after")
    def _known_symbols(self) -> SharedAccountSettings:
        for name, agent in self.agents.items():
            unknown = sorted(set(agent.symbols or ()) - set(self.symbols))
            if unknown:
                raise ValueError(f"agent {name} has {', '.join(unknown)}, which the account's symbols lack")
        return self

    def may_trade(self, agent: str, symbol: str) -> bool:
        """Whether an agent may trade a symbol."""
        own = self.agents[agent].symbols
        return symbol in (self.symbols if own is None else own)

    def is_sole(self, agent: str, symbol: str) -> bool:
        """Whether no other agent may trade a symbol."""
        return not any(self.may_trade(other, symbol) for other in self.agents if other != agent)
