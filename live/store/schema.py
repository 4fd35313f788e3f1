"""The schema's version: Alembic migrations run from code, on a connection of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from envs.errors import StoreError
from live.store import journal_models, models
from live.store.base import Base
from live.store.database import Store

METADATA = Base.metadata
TABLES = tuple(table.name for table in METADATA.sorted_tables)
_MODULES = (models, journal_models)  # importing them registers their tables


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The version that this code works with."""
    found = ScriptDirectory.from_config(_config()).get_current_head()
    assert found is not None
    return found


def current(store: Store) -> str | None:
    """The version of a database, None for one without tables."""
    with store.read() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(store: Store, revision: str = "head") -> None:
    """Bring a database to a version, by default the newest. In one transaction: all or nothing."""
    _known(store)
    with store.migrate() as connection:
        command.upgrade(_config(connection), revision)


def downgrade(store: Store, revision: str) -> None:
    """Take a database back to an older version; `base` removes all tables. What only newer tables hold is lost."""
    _known(store)
    with store.migrate() as connection:
        command.downgrade(_config(connection), revision)


def differences(store: Store) -> list[Any]:
    """What Alembic would change to make the database agree with the models; empty when they do."""
    with store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, METADATA))


def require_current(store: Store) -> None:
    """Make the tables of an empty database.

    Raises:
        StoreError: it has another version, or tables that are not perpgym's.
    """
    version = _known(store)
    if version == head():
        return
    if version is not None:
        raise StoreError(
            f"database {store.name} has schema {version}, this program needs {head()}; copy it, then run: "
            "python -m live.store upgrade"
        )
    with store.read() as connection:
        strangers = sorted(set(inspect(connection).get_table_names()) & set(TABLES))
    if strangers:
        raise StoreError(
            f"database {store.name} has tables {', '.join(strangers)}, but no schema version: it was not made by "
            "perpgym, or was damaged; give another database"
        )
    upgrade(store)


def _known(store: Store) -> str | None:
    version = current(store)
    if version is not None:
        known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
        if version not in known:
            raise StoreError(
                f"database {store.name} has schema {version}, which this program does not know (it knows up to "
                f"{head()}): a newer perpgym wrote it; update perpgym"
            )
    return version
