"""Settings of an exchange account that several agents share: the section `accounts` of a config file."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from envs.config import StrictModel
from live.ledger import MANUAL
from live.sync import PositionSyncSettings

Usdt = Annotated[Decimal, Field(gt=0)]


class AgentAccount(StrictModel):
    """One agent's part of the account.

    Attributes:
        capital_usdt: its capital. Whoever changes it pays the difference in or out at the next start. None for an
            agent that has the account for itself: all that is paid in or out is its capital.
        real_account: name of a real sub-account at the exchange that this agent has for itself, with its own API keys
            (`sub_account_credentials`); None for a part of the shared account.
        symbols: what it may trade; None for all of the account's. Where no other agent may trade a symbol, its stops
            are reduce-only at the exchange.
    """

    capital_usdt: Usdt | None = None
    real_account: Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")] | None = None
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
        position_sync: how often the positions are compared with the exchange's, marked and reported.
        close_tries, close_delay_s: how often an excess or a liquidation's order is tried in a row, and the first pause.
    """

    agents: dict[str, AgentAccount] = Field(min_length=1)
    symbols: tuple[str, ...] = Field(min_length=1)
    limits: AccountLimits = AccountLimits()
    watch_s: float = Field(2.0, gt=0)
    position_sync: PositionSyncSettings = PositionSyncSettings()
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
        sharing = [name for name, agent in self.agents.items() if agent.real_account is None]
        for name, agent in self.agents.items():
            if agent.real_account is not None and agent.capital_usdt is not None:
                raise ValueError(
                    f"agent {name} has the real account {agent.real_account} for itself: what is paid in there is its "
                    "capital; leave capital_usdt out"
                )
            if agent.capital_usdt is None and agent.real_account is None and len(sharing) > 1:
                raise ValueError(f"agent {name} shares the account; give its capital_usdt")
        real = [agent.real_account for agent in self.agents.values() if agent.real_account is not None]
        for name in real:
            # Their keys' variables are in capitals.
            if [one.upper() for one in real].count(name.upper()) > 1:
                raise ValueError(f"the real account {name} belongs to one agent; give the others another")
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

    def of_account(self, real_account: str | None) -> SharedAccountSettings | None:
        """The settings of one exchange account: a real sub-account, or the shared one. None when no agent is on it."""
        agents = {
            name: agent.model_copy(update={"real_account": None})
            for name, agent in self.agents.items()
            if agent.real_account == real_account
        }
        return self.model_copy(update={"agents": agents}) if agents else None

    @property
    def real_accounts(self) -> tuple[str, ...]:
        """Names of the real sub-accounts."""
        return tuple(one.real_account for one in self.agents.values() if one.real_account is not None)
