"""Migrations up and down with data in them, models and documentation that agree, constraints that hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ledger_support import fill, fill_with_everything
from sqlalchemy import CheckConstraint, Connection, Select, create_engine, inspect, select, text

from envs.errors import StoreError
from live.ledger import Ledger
from live.store import Store, schema
from live.store.check import check
from live.store.schema_page import schema_page

ROOT = Path(__file__).resolve().parents[3]


def contents(store: Store, tables: tuple[str, ...] = schema.TABLES) -> dict[str, list[Any]]:
    with store.read() as connection:
        there = set(inspect(connection).get_table_names())
        return {
            name: sorted(map(tuple, connection.execute(_columns(connection, name))), key=repr)
            for name in tables
            if name in there
        }


def _columns(connection: Connection, table: str) -> Select[Any]:
    """Those that are there: an older schema has fewer."""
    there = {one["name"] for one in inspect(connection).get_columns(table)}
    return select(*(one for one in schema.METADATA.tables[table].columns if one.name in there))


def test_migrations_up_and_down_with_data_in_them(store: Store) -> None:
    ledger = fill_with_everything(store)
    before = contents(store)
    assert all(before.values()), [name for name, rows in before.items() if not rows]
    schema.downgrade(store, "0001")
    journal = {"orders", "decisions", "equity", "emergencies"}
    assert contents(store) == {
        name: before[name] for name in before if name not in journal and name != "books"
    } | {"books": [row[:-1] for row in before["books"]]}
    with pytest.raises(
        StoreError, match=r"has schema 0001, this program needs \d{4}.*python -m live.store upgrade"
    ):
        schema.require_current(store)
    assert check(store)[0].problem
    schema.upgrade(store)
    books = [(*row[:-1], 1) for row in before["books"]]  # folded by the rules of then
    assert contents(store) == {**before, "books": books, **{name: [] for name in journal}}
    assert Ledger(store).wallets("paper") == ledger.wallets("paper")
    assert [one for one in check(store) if one.problem] == []
    schema.downgrade(store, "base")
    assert contents(store) == {}
    assert schema.current(store) is None
    schema.upgrade(store)
    assert [rows for rows in contents(store).values() if rows] == []
    fill_with_everything(store)
    assert contents(store).keys() == before.keys()


def test_models_and_migrations_agree(store: Store) -> None:
    assert schema.differences(store) == []
    # Alembic compares neither checks nor what happens on a delete.
    with store.read() as connection:
        found = inspect(connection)
        for table in schema.METADATA.sorted_tables:
            checks = {one["name"] for one in found.get_check_constraints(table.name)}
            wanted = {one.name for one in table.constraints if isinstance(one, CheckConstraint)}
            assert checks == wanted, table.name
            keys = {
                (one["name"], one["options"].get("ondelete")) for one in found.get_foreign_keys(table.name)
            }
            assert keys == {(one.name, one.ondelete) for one in table.foreign_key_constraints}, table.name


def test_a_schema_of_tomorrow_is_refused(store: Store) -> None:
    with store.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for attempt in (schema.upgrade, schema.require_current):
        with pytest.raises(StoreError, match="a newer perpgym wrote it"):
            attempt(store)


def test_tables_of_others_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE fills (x)"))
    engine.dispose()
    with pytest.raises(StoreError, match="tables fills, but no schema version"):
        Store.open(str(path))


def test_the_schema_page_is_not_stale() -> None:
    stored = (ROOT / "docs" / "store.md").read_text(encoding="utf-8")
    assert stored == schema_page(), "run: python -m live.store schema > docs/store.md"


def test_every_column_says_what_it_means() -> None:
    for table in schema.METADATA.sorted_tables:
        for column in table.columns:
            assert column.info["meaning"].endswith((".", ")", "`")), f"{table.name}.{column.name}"


IMPOSSIBLE = [
    ("UPDATE fills SET quantity = '0'", "quantity_above_zero"),
    ("UPDATE fills SET price = '-1'", "price_above_zero"),
    ("UPDATE fills SET side = 'HOLD'", "side_known"),
    ("UPDATE fills SET time_ms = 0", "time_ms"),
    ("UPDATE fills SET trade_id = ''", "key_given"),
    ("UPDATE fills SET exchange_id = 77", "(?i)foreign key"),
    ("UPDATE funding SET kind = 'GIFT'", "kind_known"),
    ("UPDATE transfers SET amount_usdt = '0'", "amount_not_zero"),
    ("UPDATE transactions SET exit_ms = 5 WHERE exit_ms IS NOT NULL", "exit_after_entry"),
    ("UPDATE transactions SET exit_reason = ''  WHERE exit_ms IS NOT NULL", "exit_has_reason"),
    ("UPDATE decisions SET verdict = 'MAYBE'", "verdict_known"),
    ("UPDATE orders SET quantity = '-1'", "quantity_not_negative"),
    ("DELETE FROM accounts", "(?i)foreign key"),
    (
        "INSERT INTO fills SELECT 999, exchange_id, symbol, trade_id, order_id, client_order_id, account_id, side, "
        "quantity, price, quote_quantity, commission, commission_asset, realized_pnl, maker, time_ms FROM fills "
        "WHERE id = 1",
        "(?i)unique",
    ),
]


def test_the_database_refuses_what_cannot_be(store: Store) -> None:
    fill_with_everything(store)
    before = contents(store)
    for statement, constraint in IMPOSSIBLE:
        if not store.is_sqlite:
            statement = re.sub(r"= '(-?\d+)'", r"= \1", statement)
        with pytest.raises(StoreError, match=constraint), store.write() as connection:
            connection.execute(text(statement))
    assert contents(store) == before


def test_a_failed_migration_changes_nothing(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "s.db")) as store:
        fill_with_everything(store)
        before = contents(store)
        with store.engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            driver.execute("PRAGMA foreign_keys = OFF")
            driver.execute("UPDATE orders SET account_id = 4711")
            driver.execute("UPDATE fills SET account_id = 4711 WHERE id = 1")
            driver.execute("PRAGMA foreign_keys = ON")
        damaged = contents(store)
        assert damaged != before
        with pytest.raises(
            StoreError, match="refers to a row of accounts that does not exist; nothing was changed"
        ):
            schema.downgrade(store, "0001")
        assert contents(store) == damaged
        assert any("that do not exist" in one.problem for one in check(store))


def test_one_fill_makes_every_ledger_row(store: Store) -> None:
    Ledger(store).record(fill(1, "BUY", "1", "100"))
    rows = {name: len(found) for name, found in contents(store).items() if found}
    assert rows == {"exchanges": 1, "accounts": 1, "fills": 1, "books": 1, "transactions": 1}
