"""Databases for tests: SQLite files, and one real PostgreSQL server per test process."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from live.store import Store
from live.store.database import parse_url


@functools.cache
def postgresql_server() -> Any:
    """Started on first use, stopped and removed when the process ends."""
    # The server's own account must be able to reach its folder, so it cannot lie under pytest's private one.
    folder = Path(tempfile.mkdtemp(prefix="perpgym-postgresql-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # before pgserver's own, so after it
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)  # pgserver keeps its lock file there
    import pgserver

    server = pgserver.get_server(folder / "data", cleanup_mode="delete")
    server.psql("ALTER SYSTEM SET synchronous_commit = off; SELECT pg_reload_conf();")
    return server


def empty_postgresql() -> str:
    """The URL of an empty database."""
    url = str(postgresql_server().get_uri())
    engine = create_engine(parse_url(url))
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return url


def delete_database(url: str) -> None:
    """Leave nothing of it; who opens it again begins anew."""
    if "://" in url:
        empty_postgresql()
        return
    for ending in ("", "-wal", "-shm"):
        Path(url + ending).unlink(missing_ok=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once of each kind."""
    return str(tmp_path / "store.db") if request.param == "sqlite" else empty_postgresql()


SLOW_ON_POSTGRESQL = pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
"""For tests with `database` that take long."""


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    """An open store on an empty database, once of each kind."""
    with Store.open(database) as opened:
        yield opened
