"""The keys of exchanges and accounts, made when they are first named."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite

from envs.errors import StoreError
from live.store.models import Account, Exchange

NAME_LENGTH = 64


def insert_of(dialect: str) -> Any:
    """The dialect's INSERT, which knows ON CONFLICT; both are used alike, but have no common type."""
    return insert_sqlite if dialect == "sqlite" else insert_postgresql


class Names:
    """Keys by name and names by key. After a transaction that was rolled back, call `clear`.

    Attributes:
        complete: whether all that there are have been read.
    """

    def __init__(self) -> None:
        self._exchanges: dict[str, int] = {}
        self._accounts: dict[tuple[str, str], int] = {}
        self._names: dict[int, tuple[str, str]] = {}
        self.complete = False

    def clear(self) -> None:
        """Forget everything; it is read again when needed."""
        self._exchanges.clear()
        self._accounts.clear()
        self._names.clear()
        self.complete = False

    def load(self, connection: Connection) -> None:
        """Read all of them."""
        self.clear()
        by_key = {}
        for key, name in connection.execute(select(Exchange.id, Exchange.name)):
            self._exchanges[name] = key
            by_key[key] = name
        for key, exchange_id, name in connection.execute(
            select(Account.id, Account.exchange_id, Account.name)
        ):
            self._put(by_key[exchange_id], name, key)
        self.complete = True

    def exchanges(self) -> list[str]:
        """Names of all exchange accounts."""
        return sorted(self._exchanges)

    def accounts(self, exchange: str) -> list[str]:
        """Names of all accounts on an exchange account."""
        return sorted(name for place, name in self._accounts if place == exchange)

    def name(self, connection: Connection, account_id: int) -> tuple[str, str]:
        """Exchange and name of an account."""
        if account_id not in self._names:
            self.load(connection)
        if account_id not in self._names:
            raise StoreError(
                f"account {account_id} does not exist; the database is damaged: restore it from a copy"
            )
        return self._names[account_id]

    def exchange_name(self, connection: Connection, key: int) -> str:
        """Name of an exchange account."""
        for attempt in range(2):
            for name, known in self._exchanges.items():
                if known == key:
                    return name
            if not attempt:
                self.load(connection)
        raise StoreError(f"exchange {key} does not exist; the database is damaged: restore it from a copy")

    def exchange(self, connection: Connection, name: str) -> int:
        """Key of an exchange account, which is made when it is new."""
        if name not in self._exchanges:
            _check("exchange", name)
            insert = insert_of(connection.dialect.name)
            connection.execute(insert(Exchange).values(name=name).on_conflict_do_nothing())
            self._exchanges[name] = connection.execute(
                select(Exchange.id).where(Exchange.name == name)
            ).scalar_one()
        return self._exchanges[name]

    def account(self, connection: Connection, exchange: str, name: str) -> int:
        """Key of an account, which is made when it is new."""
        if (exchange, name) not in self._accounts:
            _check("account", name)
            exchange_id = self.exchange(connection, exchange)
            insert = insert_of(connection.dialect.name)
            connection.execute(
                insert(Account).values(exchange_id=exchange_id, name=name).on_conflict_do_nothing()
            )
            found = select(Account.id).where(Account.exchange_id == exchange_id, Account.name == name)
            self._put(exchange, name, connection.execute(found).scalar_one())
        return self._accounts[exchange, name]

    def _put(self, exchange: str, name: str, key: int) -> None:
        self._accounts[exchange, name] = key
        self._names[key] = exchange, name


def _check(what: str, name: str) -> None:
    if not name or len(name) > NAME_LENGTH or name != name.strip():
        raise StoreError(
            f"{what} {name!r} cannot be a name; give 1 to {NAME_LENGTH} characters, no blanks around"
        )
