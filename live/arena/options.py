"""What a live arena is told, and what that means for the accounts that it trades on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from agents.arena.config import ArenaConfig, Entrant
from agents.base import AgentSetup
from envs.account import ZERO
from envs.planning import to_decimal
from live.options import SessionOptions
from live.subaccount import SharedAccountSettings
from live.venues import PaperOptions


@dataclass(frozen=True, kw_only=True)
class ArenaLiveOptions(SessionOptions):
    """A live arena; each agent has a folder in its folder, and without `db` the ledger is kept there too.

    Attributes:
        config: the arena.
        entrants: its agents.
    """

    config: ArenaConfig
    entrants: Sequence[Entrant]

    def entrants_on(self, real_account: str | None) -> list[Entrant]:
        """Who is on a real sub-account, or shares the account (None)."""
        agents = self.config.agents
        return [one for one in self.entrants if agents[one.name].real_account == real_account]

    def account_setup(self) -> AgentSetup:
        """What the paper exchange is started for: the capital of all who share, and the longest warm-up."""
        total = sum((to_decimal(one.capital_usdt) for one in self.entrants_on(None)), ZERO)
        longest = max(
            (one.setup for one in self.entrants), key=lambda one: one.features.warmup + one.env.window_size
        )
        env = longest.env.model_copy(update={"initial_capital_usdt": float(total)})
        return replace(longest, env=env)

    def paper_options(self) -> PaperOptions:
        """The paper exchange's, with the real sub-accounts that it should have."""
        own = {}
        for one in self.entrants:
            real = self.config.agents[one.name].real_account
            if real is not None:
                own[real] = to_decimal(one.capital_usdt)
        return replace(self.paper, sub_accounts=own)


def shared_settings(config: ArenaConfig) -> SharedAccountSettings:
    """The parts of the account, as the arena assigns them."""
    limits = config.account

    def exact(value: float | None) -> Decimal | None:
        return None if value is None else to_decimal(value)

    return SharedAccountSettings.parse(
        {
            "symbols": config.symbols,
            "agents": {
                name: {
                    "capital_usdt": to_decimal(config.capital_of(name)) if one.real_account is None else None,
                    "symbols": one.symbols,
                    "real_account": one.real_account,
                }
                for name, one in config.agents.items()
            },
            "limits": {
                "max_drawdown_fraction": exact(limits.max_drawdown_fraction),
                "max_net_leverage": exact(limits.max_net_leverage),
            },
        },
        where="arena",
    )
