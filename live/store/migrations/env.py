"""Run by Alembic: migrates the connection that `live.store.schema` hands over, in its transaction."""

from alembic import context

from live.store.schema import METADATA

connection = context.config.attributes["connection"]
if connection is None:
    raise RuntimeError("migrations run through live.store.schema (python -m live.store upgrade)")
context.configure(
    connection=connection,
    target_metadata=METADATA,
    # SQLite cannot alter most of a table: Alembic makes a new one and copies the rows.
    render_as_batch=connection.dialect.name == "sqlite",
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
