"""Opening databases: which, how, and what never shows."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import traceback
from decimal import Decimal
from pathlib import Path

import pytest
from databases import empty_postgresql
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, MetaData, String, Table, create_engine, insert, select, text
from sqlalchemy.dialects import postgresql, sqlite

from envs.errors import ConfigError, StoreError
from live.store import Store, database_url
from live.store.database import parse_url
from live.store.types import ExactDecimal, decimal_text

ROOT = Path(__file__).resolve().parents[3]
SECRET = "s3cret/of@mine"
QUOTED = "s3cret%2Fof%40mine"


def test_where_the_database_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert database_url() == "data/perpgym.db"
    assert database_url(default=Path("run/x.db")) == "run/x.db"
    monkeypatch.setenv("DATABASE_URL", "postgresql://h/d")
    assert database_url() == "postgresql://h/d"
    assert database_url("mine.db") == "mine.db"


@pytest.mark.parametrize(
    ("given_url", "driver"),
    [
        ("data/x.db", "sqlite"),
        ("sqlite:///x.db", "sqlite"),
        ("sqlite+pysqlite:///x.db", "sqlite"),
        ("postgresql://u:p@h/d", "postgresql+psycopg"),
        ("postgres://u:p@h/d", "postgresql+psycopg"),
        ("postgresql+psycopg2://u:p@h/d", "postgresql+psycopg"),
    ],
)
def test_urls(given_url: str, driver: str) -> None:
    assert parse_url(given_url).drivername == driver


@pytest.mark.parametrize(
    "bad",
    [
        f"mysql://me:{SECRET}@host/db",
        f"postgresql://me:{QUOTED}@host:port/db",
        f"me:{SECRET}@host/db",
        f"postgresql:me:{SECRET}",
        " ",
        f"://me:{SECRET}@host",
    ],
)
def test_a_bad_url_is_an_error_that_does_not_repeat_it(bad: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Store(bad)
    shown = "".join(traceback.format_exception(caught.value))
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in shown.replace(f'Store("{bad}")', "")


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{QUOTED}@127.0.0.1:1/db",
        f"postgresql://127.0.0.1:1/db?user=me&password={QUOTED}",
        f"postgresql://me:{QUOTED}@127.0.0.1:1/db?nonsense={QUOTED}",
        f"postgresql://me@127.0.0.1:1/db?sslmode={QUOTED}&sslpassword={QUOTED}",
    ],
)
def test_a_password_shows_nowhere(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        store = Store(url)
        with pytest.raises(StoreError) as caught, store.read():
            pass
        with pytest.raises(StoreError) as opened:
            Store.open(url)
    shown = "".join(traceback.format_exception(caught.value) + traceback.format_exception(opened.value))
    shown += repr(store) + store.name + repr(store.engine) + str(store.engine.url) + caplog.text
    for secret in (SECRET, QUOTED, "s3cret"):
        assert secret not in shown
    assert "127.0.0.1" in store.name


def test_statements_do_not_show_their_values(tmp_path: Path) -> None:
    with (
        Store.open(str(tmp_path / "s.db")) as store,
        pytest.raises(StoreError) as caught,
        store.write() as connection,
    ):
        connection.execute(
            text("INSERT INTO exchanges (id, name) VALUES (:id, :name)"), {"id": 1, "name": None}
        )
        raise AssertionError("not reached")
    assert "NOT NULL" in str(caught.value)


def test_sqlite_is_set_up(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "new" / "folder" / "s.db")) as store, store.read() as connection:
        for pragma, value in (("foreign_keys", 1), ("journal_mode", "wal"), ("busy_timeout", 30_000)):
            assert connection.execute(text(f"PRAGMA {pragma}")).scalar_one() == value


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot make the folder"):
        Store.open(str(tmp_path / "file" / "s.db"))
    (tmp_path / "text.db").write_text(
        "this is not a database, and longer than a header of one would be " * 20
    )
    with pytest.raises(StoreError, match="not a database"):
        Store.open(str(tmp_path / "text.db"))
    with pytest.raises(StoreError, match=r"unable to open.*check the path"):
        Store.open(str(tmp_path))


def test_a_writer_waits_and_then_says_who_is_in_the_way(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")
    with Store.open(path) as first, Store.open(path, busy_timeout_s=0.05) as second:
        with (
            first.write(),
            pytest.raises(StoreError, match="locked; another process is writing"),
            second.write(),
        ):
            pass
        entered = threading.Event()
        with Store.open(path) as patient, first.write() as connection:
            connection.execute(text("INSERT INTO exchanges (name) VALUES ('a')"))

            def write() -> None:
                entered.set()
                with patient.write() as other:
                    other.execute(text("INSERT INTO exchanges (name) VALUES ('b')"))

            thread = threading.Thread(target=write)
            thread.start()
            entered.wait(5)
            connection.commit()
            thread.join(20)
            with first.read() as reader:
                names = reader.execute(text("SELECT name FROM exchanges ORDER BY name")).scalars().all()
            assert names == ["a", "b"]


def test_readers_see_one_moment(store: Store) -> None:
    with store.read() as reader:
        assert reader.execute(text("SELECT count(*) FROM exchanges")).scalar_one() == 0
        with store.write() as writer:
            writer.execute(text("INSERT INTO exchanges (name) VALUES ('a')"))
        assert reader.execute(text("SELECT count(*) FROM exchanges")).scalar_one() == 0
    with store.read() as reader:
        assert reader.execute(text("SELECT count(*) FROM exchanges")).scalar_one() == 1


EXACT = [
    "0", "-0", "1", "-1", "0.1", "1E+3", "1.500", "123456789012345678901234567890.123456789012345678901234567890",
    "1E-30", "-0.000000000001", "99999999999999999999", "9007199254740993",
]  # fmt: skip


def test_decimals_are_exact_in_both_databases(tmp_path: Path) -> None:
    for url in (str(tmp_path / "d.db"), empty_postgresql()):
        engine = create_engine(parse_url(url))
        table = Table("numbers", MetaData(), Column("name", String), Column("value", ExactDecimal()))
        table.create(engine)
        with engine.begin() as connection:
            connection.execute(insert(table), [{"name": one, "value": Decimal(one)} for one in EXACT])
            found = connection.execute(select(table.c.name, table.c.value)).all()
            assert len(found) == len(EXACT)
            for name, value in found:
                assert isinstance(value, Decimal) and value == Decimal(name)
                assert decimal_text(value) == decimal_text(Decimal(name))
            same = select(table.c.name).where(table.c.value == Decimal("1.5"))
            assert connection.execute(same).scalar_one() == "1.500"
        engine.dispose()


@given(st.decimals(allow_nan=False, allow_infinity=False).filter(lambda value: abs(value.adjusted()) < 60))
def test_every_decimal_comes_back(value: Decimal) -> None:
    kind = ExactDecimal()
    stored = kind.process_bind_param(value, sqlite.dialect())
    back = kind.process_result_value(stored, sqlite.dialect())
    assert back == value and "E" not in stored and stored != "-0"
    assert kind.process_bind_param(value, postgresql.dialect()) == value
    assert decimal_text(back) == stored


@pytest.mark.parametrize("bad", [0.1, 1, "1", Decimal("NaN"), Decimal("Infinity"), Decimal("sNaN"), True])
def test_what_is_no_finite_decimal_is_refused(bad: object) -> None:
    with pytest.raises(StoreError):
        ExactDecimal().process_bind_param(bad, sqlite.dialect())  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["", "x", "NaN", 1.5, b"1"])
def test_a_cell_that_holds_something_else_is_an_error(bad: object) -> None:
    with pytest.raises(StoreError, match="where a decimal number belongs"):
        ExactDecimal().process_result_value(bad, sqlite.dialect())


def test_a_run_without_a_database_does_not_load_one() -> None:
    """The start of live.py is short, and SQLAlchemy's import is not."""
    heavy = ("sqlalchemy", "alembic", "psycopg", "live.store")
    code = f"import sys, live.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=240)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
