"""Opening the database: SQLite or PostgreSQL, its transactions, and errors that never tell a password."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url, pool
from sqlalchemy.orm import Session

from envs.errors import ConfigError, StoreError

DEFAULT_PATH = Path("data") / "perpgym.db"
BUSY_TIMEOUT_S = 30.0
_WRITES = "perpgym_writes"
_SECRET_KEYS = re.compile(r"pass|secret|token|key", re.IGNORECASE)


def database_url(given: str | None = None, *, default: Path = DEFAULT_PATH) -> str:
    """The database to use: what was given, else `DATABASE_URL`, else a SQLite file."""
    return given or os.environ.get("DATABASE_URL") or str(default)


def parse_url(text: str) -> URL:
    """A path of a SQLite file, or a `sqlite:///` or `postgresql://` URL.

    Raises:
        ConfigError: another kind of database, or not a URL. The message leaves the URL out: it may hold a password.
    """
    if "://" not in text:
        if not text.strip() or re.search(r"@|^\w{2,}:", text):
            raise ConfigError(
                "the database is neither a file nor a URL; give a path, or postgresql://user:password@host/name"
            )
        return URL.create("sqlite", database=text)
    try:
        url = make_url(text)
    except (exc.ArgumentError, ValueError):
        raise ConfigError(
            "the database URL cannot be read; write it as postgresql://user:password@host:5432/name, with special "
            "characters of the password percent-encoded"
        ) from None
    backend = url.drivername.split("+", 1)[0]
    if backend == "sqlite":
        return url.set(drivername="sqlite")
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    raise ConfigError(
        f"databases of kind {backend!r} are not supported; give a SQLite file or a postgresql:// URL"
    )


def safe_url(url: URL) -> str:
    """A URL for people: without the password, and without options, among which may be another."""
    return _bare(url).render_as_string(hide_password=True)


def _bare(url: URL) -> URL:
    return url.set(query={name: value for name, value in url.query.items() if name == "host"})


class Store:
    """A database with perpgym's tables. Safe to share between threads.

    Attributes:
        name: which database, for people; never holds a password.
        engine: SQLAlchemy's.
    """

    def __init__(self, url: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        """Connects on first use. Use `Store.open` to have the schema checked as well.

        Args:
            url: see `parse_url`; `sqlite://` lives in memory.
            busy_timeout_s: how long to wait for another writer.
        """
        parsed = parse_url(url)
        self.name = safe_url(parsed)
        self._secrets = _secrets(parsed)
        self.is_sqlite = parsed.drivername == "sqlite"
        self.in_memory = self.is_sqlite and parsed.database in (None, "", ":memory:")
        self.engine = _engine(parsed, busy_timeout_s, self.in_memory)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @classmethod
    def open(cls, url: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Self:
        """Open a database and check its schema; an empty one gets its tables.

        Raises:
            StoreError: it cannot be reached, or has another schema.
        """
        from live.store.schema import require_current

        store = cls(url, busy_timeout_s=busy_timeout_s)
        try:
            require_current(store)
        except BaseException:
            store.close()
            raise
        return store

    def __repr__(self) -> str:
        return f"Store({self.name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: all of it is kept, or nothing. In SQLite it is the only one.

        Raises:
            StoreError: the database refused.
        """
        with self._errors(), self.engine.connect() as connection:
            connection = connection.execution_options(**{_WRITES: True})
            with connection.begin():
                yield connection

    @contextmanager
    def migrate(self) -> Iterator[Connection]:
        """A transaction that may replace whole tables; references are checked at its end, not in between.

        Raises:
            StoreError: the database refused, or a row would refer to one that is gone.
        """
        if not self.is_sqlite:
            with self.write() as connection:
                yield connection
            return
        with self._errors(), self.engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            driver.execute("PRAGMA foreign_keys = OFF")  # has no effect inside a transaction
            try:
                connection = connection.execution_options(**{_WRITES: True})
                with connection.begin():
                    yield connection
                    lost = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                    if lost is not None:
                        raise StoreError(
                            f"database {self.name}: row {lost[1]} of {lost[0]} refers to a row of {lost[2]} that does "
                            "not exist; nothing was changed; restore the database from a copy"
                        )
            finally:
                driver.execute("PRAGMA foreign_keys = ON")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads: everything in it is of one moment."""
        with self._errors(), self.engine.connect() as connection:
            if not self.is_sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def session(self) -> Iterator[Session]:
        """An ORM session over a writing transaction, committed at its end."""
        with self.write() as connection, Session(connection, expire_on_commit=False) as session:
            yield session
            session.flush()

    @property
    def _driver(self) -> Any:
        return self.engine.dialect.loaded_dbapi

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except exc.SQLAlchemyError as error:
            # Without its cause: the drivers' own messages may quote the connection string.
            raise StoreError(f"database {self.name}: {self._explain(error)}") from None
        except Exception as error:
            if not isinstance(error, self._driver.Error):  # of a cursor of the driver's own
                raise
            raise StoreError(f"database {self.name}: {self._explain(error)}") from None

    def _explain(self, error: Exception) -> str:
        origin = error.orig if isinstance(error, exc.DBAPIError) else None
        lines = str(origin if origin is not None else error).strip().splitlines()
        message = lines[0] if lines else type(error).__name__
        for secret in self._secrets:
            message = message.replace(secret, "***")
        if "locked" in message:
            message += "; another process is writing to it: stop that, or wait"
        elif "unable to open" in message:
            message += "; check the path and its permissions"
        elif "not a database" in message:
            message += "; give the path of another file"
        elif isinstance(error, (exc.OperationalError, self._driver.OperationalError)) and not self.is_sqlite:
            message += "; check that the server runs and that user and password are right"
        return message


def _secrets(url: URL) -> tuple[str, ...]:
    found: list[str] = [str(url.password)] if url.password else []
    for name, value in url.query.items():
        if _SECRET_KEYS.search(name):
            found += [value] if isinstance(value, str) else list(value)
    encoded = [urllib.parse.quote(secret, safe="") for secret in found]
    return tuple(sorted({*found, *encoded} - {""}, key=len, reverse=True))


def _engine(url: URL, busy_timeout_s: float, in_memory: bool) -> Engine:
    options: Mapping[str, Any]
    if url.drivername == "sqlite":
        connect: dict[str, Any] = {"timeout": busy_timeout_s, "check_same_thread": False}
        if in_memory:
            options = {"connect_args": connect, "poolclass": pool.StaticPool}
        else:
            try:
                Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"cannot make the folder of {url.database}: {error.strerror}") from error
            options = {"connect_args": connect}
    else:
        # Options go to the driver, not into the engine's URL, which SQLAlchemy shows.
        given = {name: value for name, value in url.query.items() if name != "host"}
        options = {"connect_args": {"connect_timeout": 10, **given}, "pool_pre_ping": True}
        url = _bare(url)
    return create_engine(url, hide_parameters=True, **options)


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions begin where we say (`_begin_sqlite`)
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA journal_mode = WAL")
        # A killed process loses nothing; after a power cut the last transactions may be gone, and their cursors too.
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA cache_size = -65536")
        cursor.execute("PRAGMA temp_store = MEMORY")
    finally:
        cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
