"""The step log's file: columns, cells, torn lines, and reading it back."""

from __future__ import annotations

import csv
import errno
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.errors import StepLogError
from envs.step_log import COLUMNS, EMERGENCY_COLUMNS, CsvAppender, format_value, repair_torn_line

D = Decimal

DESIGN_COLUMNS = (
    "schema, timestamp, step, agent, symbol, action, price, balance, equity, drawdown, max_drawdown, pnl_total, "
    "position_open, position_side, position_entry_price, position_quantity, unrealized_pnl, action_type, operation, "
    "result, error, trade_id, quantity, fill_price, commission, funding, reward"
)


def test_columns_and_their_order_are_fixed() -> None:
    assert ", ".join(COLUMNS) == DESIGN_COLUMNS
    assert len(set(EMERGENCY_COLUMNS)) == len(EMERGENCY_COLUMNS)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (1704067200000, "1704067200000"),
        (D("100.00"), "100"),
        (D("0.000001"), "0.000001"),
        (D("1E-9"), "0.000000001"),
        (D("1E+3"), "1000"),
        (D("0.00"), "0"),
        (D("-0.0"), "0"),
        (D("-1.50"), "-1.5"),
        (0.1, "0.1"),
        (1e-7, "1e-07"),
        (np.float64(0.25), "0.25"),
        (np.float32(0.5), "0.5"),
        (np.int64(3), "3"),
        (np.bool_(True), "true"),
        ("text", "text"),
        ("two\nlines\r\nand a\rreturn", "two lines and a return"),
    ],
)
def test_cells(value: Any, text: str) -> None:
    assert format_value(value) == text


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**15), max_value=10**15))
def test_decimals_read_back_exactly(value: D) -> None:
    text = format_value(value)
    assert "e" not in text.lower()
    assert D(text) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_read_back_exactly(value: float) -> None:
    assert float(format_value(value)) == value


def test_a_new_file_has_a_header_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "steps.csv"
    for row in (("1", "2"), ("3", "4")):
        writer = CsvAppender(path, ("a", "b"))
        writer.append(row)
        writer.close()
    assert path.read_text(encoding="utf-8") == "a,b\n1,2\n3,4\n"


def test_every_row_is_one_write_and_on_disk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    real = os.write

    def spy(descriptor: int, data: bytes) -> int:
        writes.append(data)
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", spy)
    path = tmp_path / "steps.csv"
    writer = CsvAppender(path, ("a", "b"))
    writer.append(("x", "with, comma"))
    assert path.read_bytes() == b'a,b\nx,"with, comma"\n'
    assert len(writes) == 2
    writer.close()
    writer.close()  # harmless


@pytest.mark.parametrize("text", ['she said "no"', "a,b", "line\nbreak", "naïve €", "", " padded "])
def test_any_text_stays_in_its_cell_and_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "steps.csv"
    writer = CsvAppender(path, ("a", "b"))
    writer.append((text, "end"))
    writer.close()
    assert path.read_text(encoding="utf-8").count("\n") == 2
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[1] == [text.replace("\n", " "), "end"]


@pytest.mark.parametrize(
    ("content", "cut", "left"),
    [
        (b"a,b\n1,2\n", "", b"a,b\n1,2\n"),
        (b"a,b\n1,2\n3,", "3,", b"a,b\n1,2\n"),
        (b'a,b\n1,2\n"3', '"3', b"a,b\n1,2\n"),
        (b"a,", "a,", b""),
        (b"", "", b""),
        (b"a,b\n1,2\n\xff\xfe", "\ufffd\ufffd", b"a,b\n1,2\n"),
    ],
)
def test_a_torn_last_line_is_cut_off(tmp_path: Path, content: bytes, cut: str, left: bytes) -> None:
    path = tmp_path / "steps.csv"
    path.write_bytes(content)
    assert repair_torn_line(path) == cut
    assert path.read_bytes() == left


@given(st.integers(0, 400))
def test_a_kill_at_any_byte_loses_at_most_the_row_being_written(keep: int) -> None:
    import tempfile

    rows = [("1", 'tricky "quote"'), ("2", "comma, comma"), ("3", "line\nbreak"), ("4", "plain")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "steps.csv"
        writer = CsvAppender(path, ("n", "text"))
        ends = [path.stat().st_size]
        for row in rows:
            writer.append(row)
            ends.append(path.stat().st_size)
        writer.close()
        keep = min(keep, ends[-1])
        os.truncate(path, keep)
        repair_torn_line(path)
        whole = sum(end <= keep for end in ends)  # header and rows
        with path.open(newline="", encoding="utf-8") as file:
            assert len(list(csv.reader(file))) == whole


def test_an_unwritable_place_is_an_error_that_names_it(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("", encoding="utf-8")
    with pytest.raises(StepLogError, match=r"cannot write .*steps\.csv"):
        CsvAppender(blocker / "steps.csv", ("a",))
    with pytest.raises(StepLogError, match="cannot write"):
        CsvAppender(tmp_path, ("a",))  # a folder


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = CsvAppender(tmp_path / "steps.csv", ("a",))

    def full(_descriptor: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StepLogError, match=r"steps\.csv: No space left on device"):
            writer.append(("1",))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda _descriptor, data: len(data) - 1)
        with pytest.raises(StepLogError, match="only 1 of 2 bytes"):
            writer.append(("1",))
    writer.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_really_full_device() -> None:
    with pytest.raises(StepLogError, match="No space left on device"):
        CsvAppender(Path("/dev/full"), ("a",))


def test_pandas_reads_the_cells_with_their_types(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    writer = CsvAppender(path, ("time", "open", "price", "none", "text"))
    writer.append((1704067200000, True, D("0.10"), None, "x"))
    writer.append((1704070800000, False, D("1E-8"), None, ""))
    writer.close()
    frame = pd.read_csv(path)
    assert [str(t) for t in frame.dtypes[:4]] == ["int64", "bool", "float64", "float64"]
    assert frame["price"].tolist() == [0.1, 1e-8]
    assert frame["none"].isna().all()
