"""`python -m live.store`: upgrade, check, export; and that a check finds what is broken."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ledger_support import fill_with_everything
from sqlalchemy import text
from typer.testing import CliRunner, Result

from envs.errors import ConfigError
from live.store import Decision, Journal, OrderRecord, Store, schema
from live.store.check import check
from live.store.cli import app
from live.store.export import export


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "DATABASE_URL": ""})


def test_upgrade_check_export(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")
    missing = run("check", "--db", path)
    assert missing.exit_code == 2 and "python -m live.store upgrade" in missing.stderr
    assert run("upgrade", "--db", path).stdout.endswith(f"schema {schema.head()} (was empty)\n")
    assert "as it was" in run("upgrade", "--db", path).stdout
    with Store.open(path) as store:
        fill_with_everything(store)
    checked = run("check", "--db", path)
    assert checked.exit_code == 0, checked.stdout
    assert "80 fills" in checked.stdout and "BROKEN" not in checked.stdout
    done = run("export", str(tmp_path / "out"), "--db", path)
    assert done.exit_code == 0, done.stderr
    assert len(done.stdout.split()) == len(schema.TABLES)
    with Store.open(path) as store:
        schema.downgrade(store, "0001")
    assert run("export", str(tmp_path / "out"), "--db", path).exit_code == 1
    assert run("check", "--db", path).exit_code == 1
    assert "(was 0001)" in run("upgrade", "--db", path).stdout
    assert run("upgrade", "--db", "mysql://a:b@c/d").exit_code == 2


def test_exports_hold_every_row_exactly(store: Store, tmp_path: Path) -> None:
    fill_with_everything(store)
    export(store, tmp_path, file_format="parquet")
    export(store, tmp_path, file_format="csv", tables=["fills", "decisions"])
    assert not list(tmp_path.glob("*.tmp"))
    with store.read() as connection:
        for table in schema.METADATA.sorted_tables:
            rows = connection.execute(table.select().order_by(*table.primary_key.columns)).all()
            frame = pd.read_parquet(tmp_path / f"{table.name}.parquet")
            assert len(frame) == len(rows), table.name
            assert list(frame.columns)[: len(table.columns)] == [column.name for column in table.columns]
        fills = connection.execute(
            text("SELECT id, quantity, realized_pnl, time_ms FROM fills ORDER BY id")
        ).all()
    frame = pd.read_parquet(tmp_path / "fills.parquet")
    assert [Decimal(cell) for cell in frame["quantity"]] == [Decimal(row[1]) for row in fills]
    assert frame["time_ms"].tolist() == [row[3] for row in fills]
    assert set(frame["agent"].dropna()) == {"LLM-A", "sac"} and set(frame["exchange"]) == {"paper"}
    as_csv = pd.read_csv(tmp_path / "fills.csv", dtype=str, keep_default_na=False)
    assert as_csv["quantity"].tolist() == frame["quantity"].tolist()
    assert pd.read_csv(tmp_path / "decisions.csv")["decision"].tolist() == ['{"a": 1}']
    with pytest.raises(ConfigError, match="nothing"):
        export(store, tmp_path, tables=["nothing"])
    with pytest.raises(ConfigError, match="parquet or csv"):
        export(store, tmp_path, file_format="xlsx")


def test_an_interrupted_export_leaves_the_old_file(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "s.db")) as store:
        fill_with_everything(store)
        (path,) = export(store, tmp_path, tables=["fills"])
        old = path.read_bytes()

        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            export(store, tmp_path, tables=["fills"], progress=stop)
        assert path.read_bytes() == old
        assert not list(tmp_path.glob("*.tmp"))


def test_what_is_no_folder_and_what_is_no_database_is_one_line(tmp_path: Path) -> None:
    path, file = str(tmp_path / "s.db"), tmp_path / "file.db"
    assert run("upgrade", "--db", path).exit_code == 0
    file.write_text("mine, and no database at all")
    done = run("export", str(file), "--db", path)
    assert done.exit_code == 2
    assert "error: cannot make the folder" in done.stderr and "give another folder" in done.stderr
    done = run("upgrade", "--db", str(file))
    assert done.exit_code == 1
    assert "file is not a database; give the path of another file" in done.stderr
    assert file.read_text() == "mine, and no database at all"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("UPDATE positions SET realized = '123' WHERE p1 <> '0'", "realized of"),
        ("UPDATE snapshots SET net_fees = '1'", "net_fees is 1 in the snapshot"),
        ("UPDATE fills SET price = '1' WHERE id = 3", "in the snapshot and"),
        ("DELETE FROM fills WHERE id = 80", "31 entries are there, 32 were recorded"),
        ("UPDATE transactions SET realized = '5'", "transactions: .* do not follow from the fills"),
        ("DELETE FROM allocations", "allocations: 0 rows do not follow from the fills and"),
        ("UPDATE books SET fills = fills + 1", "were recorded"),
        ("UPDATE sync_cursors SET position = '5'", "stands at trade 5, which is not there"),
        ("UPDATE transfers SET kind = 'CAPITAL'", "'opening' add up to 1000, not to 0"),
        ("DROP INDEX ix_fills_book", "not those of this schema"),
    ],
)
def test_a_check_finds_what_is_broken(tmp_path: Path, damage: str, problem: str) -> None:
    with Store.open(str(tmp_path / "s.db")) as store:
        fill_with_everything(store)
        assert [one for one in check(store) if one.problem] == []
        with store.engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            driver.execute("PRAGMA foreign_keys = OFF")
            driver.execute(damage)
        found = "\n".join(one.problem for one in check(store) if one.problem)
        assert re.search(problem, found), found


def test_the_journal(store: Store) -> None:
    fill_with_everything(store)
    journal = Journal(store)
    order = OrderRecord(
        "paper", "BTCUSDT", "1", "c1", "BUY", "MARKET", Decimal(1), "FILLED", 5, 2 * 10**12, agent="sac"
    )
    journal.orders(
        [order, OrderRecord("paper", "BTCUSDT", "1", "c1", "BUY", "MARKET", Decimal(1), "NEW", 5, 9)]
    )
    with store.read() as connection:
        assert connection.execute(text("SELECT status FROM orders")).scalars().all() == ["FILLED"]
    (first,) = journal.decisions("paper", "LLM-A")
    assert first.decision == {"a": 1} and first.verdict == "INVALID"
    second = Decision(
        "paper",
        "LLM-A",
        first.time_ms + 1,
        "OPEN_POSITION",
        "ACCEPTED",
        "openai",
        "m",
        "h",
        cost_usd=Decimal("0.01"),
    )
    journal.link_order(journal.decide(second), "c9")
    assert journal.decisions("paper", "LLM-A", limit=1)[0].client_order_id == "c9"
    assert journal.decisions("paper", "nobody") == []
    (equity,) = journal.equity_of("paper", "sac")
    journal.equity([equity, equity])
    assert journal.equity_of("paper", "sac") == [equity]
    (emergency,) = journal.emergencies("paper", unacknowledged=True)
    assert (emergency.reason, emergency.failures, emergency.agent) == ("drawdown", (), "")
    assert journal.acknowledge("paper", 7) == 1
    assert journal.acknowledge("paper", 8) == 0
    assert journal.emergencies("paper", unacknowledged=True) == []
    assert journal.emergencies("paper")[0].acknowledged_ms == 7
