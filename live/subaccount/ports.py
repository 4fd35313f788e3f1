"""Each agent's exchange port, wherever its money is: on the shared account, or on a real sub-account of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Self

from envs.errors import ConfigError, CredentialsError
from envs.risk_state import RiskStore
from live.exchange.binance import BinanceExchange
from live.ledger import Ledger
from live.settings import Credentials
from live.subaccount.settings import SharedAccountSettings
from live.subaccount.shared import SharedAccount
from live.subaccount.sub import SubAccount
from live.sync import TradeSync, TradeSyncSettings

Connector = Callable[[str | None], BinanceExchange]
"""Makes the connector of a real sub-account, by its name, or of the shared account (None); not connected yet."""

Namer = Callable[[str | None, str], str]
"""An account's name in the ledger, of the real sub-account's name or None, and the exchange's own name for it."""


class AgentPorts:
    """The accounts of all agents. A real sub-account is a shared one with a single agent, so both behave alike.

    Use as an async context manager, or call `open` and `close`.

    Args:
        settings: all agents.
        connect: makes the connectors; they are connected and closed here.
        ledger: keeps all accounts.
        name: of each account in the ledger; no two may have the same.
        store: makes what keeps an account's peak and halt, by its real name, or None; None forgets them.
        syncing: of each account's trade sync.

    Attributes:
        accounts: by the real sub-account's name; None is the shared one, if anybody shares it.
        account_ids: the exchange's own names, by the same.
    """

    def __init__(
        self,
        settings: SharedAccountSettings,
        connect: Connector,
        ledger: Ledger,
        *,
        name: Namer,
        store: Callable[[str | None], RiskStore | None] = lambda _real: None,
        syncing: TradeSyncSettings | None = None,
    ) -> None:
        self.settings = settings
        self._connect = connect
        self._ledger = ledger
        self._name = name
        self._store = store
        self._syncing = syncing
        self._opened = AsyncExitStack()
        self.accounts: dict[str | None, SharedAccount] = {}
        self.account_ids: dict[str | None, str] = {}

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self, *, acknowledge_emergency: bool = False) -> None:
        """Connect and start every account; when one cannot be started none stays open.

        Raises:
            ConfigError: two of them are one account at the exchange.
            PerpgymError: as `SharedAccount.start`.
        """
        try:
            for real in (None, *self.settings.real_accounts):
                settings = self.settings.of_account(real)
                if settings is None:
                    continue
                exchange = self._connect(real)
                self._opened.push_async_callback(exchange.close)
                await exchange.connect()
                account_id = await exchange.account_id()
                for other, other_id in self.account_ids.items():
                    if account_id and account_id == other_id:
                        raise ConfigError(
                            f"{_told(other)} and {_told(real)} are one account at the exchange: give each its own "
                            "API keys"
                        )
                self.account_ids[real] = account_id
                name = self._name(real, account_id)
                sync = TradeSync(
                    exchange, self._ledger, symbols=settings.symbols, account=name, settings=self._syncing
                )
                account = SharedAccount(exchange, self._ledger, sync, settings, store=self._store(real))
                await account.start(acknowledge_emergency=acknowledge_emergency)
                self._opened.push_async_callback(account.close)
                self.accounts[real] = account
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every account, then its connection; one that cannot be closed keeps none of the others open."""
        self.accounts, self.account_ids = {}, {}
        await self._opened.aclose()

    def of(self, agent: str) -> SharedAccount:
        """The account that an agent is on.

        Raises:
            ConfigError: no such agent.
        """
        if agent not in self.settings.agents:
            raise ConfigError(
                f"agent {agent!r} has no account; those with one are {', '.join(self.settings.agents)}"
            )
        return self.accounts[self.settings.agents[agent].real_account]

    def __getitem__(self, agent: str) -> SubAccount:
        """An agent's port.

        Raises:
            ConfigError: no such agent.
        """
        return self.of(agent).agent(agent)


def _told(real: str | None) -> str:
    return "the shared account" if real is None else f"the real account {real}"


def sub_account_credentials(real_account: str, environ: Mapping[str, str]) -> Credentials:
    """The API keys of a real sub-account: BINANCE_SUB_{NAME}_API_KEY and BINANCE_SUB_{NAME}_API_SECRET.

    Raises:
        CredentialsError: one is missing.
    """
    names = [f"BINANCE_SUB_{real_account.upper()}_API_{what}" for what in ("KEY", "SECRET")]
    missing = [name for name in names if not environ.get(name, "").strip()]
    if missing:
        raise CredentialsError(
            f"no credentials for the sub-account {real_account}: set the environment variables {' and '.join(missing)}"
        )
    key, secret = (environ[name].strip() for name in names)
    return Credentials(key, secret)
