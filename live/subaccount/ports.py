"""Each agent's exchange port, wherever its money is: on the shared account, or on a real sub-account of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from envs.errors import ConfigError, CredentialsError
from envs.risk import FileRiskStore
from live.exchange.base import Exchange
from live.ledger import Ledger
from live.settings import Credentials
from live.subaccount.settings import SharedAccountSettings
from live.subaccount.shared import SharedAccount
from live.subaccount.sub import SubAccount
from live.sync import TradeSync, TradeSyncSettings

Connector = Callable[[str | None], Exchange]
"""Makes the connector of a real sub-account, by its name, or of the shared account (None); not connected yet."""


class AgentPorts:
    """The accounts of all agents. A real sub-account is a shared one with a single agent, so both behave alike.

    Use as an async context manager, or call `open` and `close`.

    Args:
        settings: all agents.
        connect: makes the connectors; they are connected and closed here.
        ledger: keeps all accounts; a real sub-account's name there is `{account}.{real account}`.
        account: the shared account's name in the ledger.
        folder: where each account's peak and halt are kept; None forgets them.
        syncing: of each account's trade sync.
    """

    def __init__(
        self,
        settings: SharedAccountSettings,
        connect: Connector,
        ledger: Ledger,
        *,
        account: str,
        folder: Path | None = None,
        syncing: TradeSyncSettings | None = None,
    ) -> None:
        self.settings = settings
        self._connect = connect
        self._ledger = ledger
        self._account = account
        self._folder = folder
        self._syncing = syncing
        self._opened = AsyncExitStack()
        self.accounts: dict[str | None, SharedAccount] = {}

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self, *, acknowledge_emergency: bool = False) -> None:
        """Connect and start every account. Raises as `SharedAccount.start`; then none stays open."""
        try:
            for real in (None, *self.settings.real_accounts):
                settings = self.settings.of_account(real)
                if settings is None:
                    continue
                name = self._account if real is None else f"{self._account}.{real}"
                exchange = self._connect(real)
                self._opened.push_async_callback(exchange.close)
                await exchange.connect()
                sync = TradeSync(
                    exchange, self._ledger, symbols=settings.symbols, account=name, settings=self._syncing
                )
                store = None if self._folder is None else FileRiskStore(self._folder / f"account_{name}.json")
                account = SharedAccount(exchange, self._ledger, sync, settings, store=store)
                await account.start(acknowledge_emergency=acknowledge_emergency)
                self._opened.push_async_callback(account.close)
                self.accounts[real] = account
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every account, then its connection; one that cannot be closed keeps none of the others open."""
        self.accounts = {}
        await self._opened.aclose()

    def __getitem__(self, agent: str) -> SubAccount:
        """An agent's port.

        Raises:
            ConfigError: no such agent.
        """
        if agent not in self.settings.agents:
            raise ConfigError(
                f"agent {agent!r} has no account; those with one are {', '.join(self.settings.agents)}"
            )
        return self.accounts[self.settings.agents[agent].real_account].agent(agent)


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
