"""What StepLog writes: rows of each kind, each figure once, and a file that pandas reads."""

from __future__ import annotations

import csv
from dataclasses import astuple
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import START_MS, env_of, flat_rows, market_of, phases

from envs.errors import StepLogError
from envs.risk import RiskLimits
from envs.step_log import COLUMNS, EMERGENCY_COLUMNS, StepRecord
from envs.wrappers import RiskControl, StepLog

D = Decimal
HOUR_MS = 3_600_000


def logged(
    rows: Any, *, limits: Any = None, funding: Any = None, log: Any = None, **settings: Any
) -> StepLog:
    env = env_of(market_of(rows, funding=funding), **settings)
    return StepLog(RiskControl(env, RiskLimits.parse(limits or {})), agent="hand", **(log or {}))


def close_ms(candle: int) -> int:
    return START_MS + (candle + 1) * HOUR_MS - 1


def rounded(record: StepRecord) -> StepRecord:
    """Without the noise of floats in the last of 17 digits."""
    values = {name: getattr(record, name) for name in COLUMNS}
    return StepRecord(
        **{name: round(value, 12) if isinstance(value, D) else value for name, value in values.items()}
    )


def test_a_step_row_column_by_column() -> None:
    log = logged(
        [(100, 100, 100, 100), (102, 102, 102, 102), (110, 110, 110, 110), (110, 110, 110, 110)],
        funding={"BTCUSDT": [(120, 0.01)]},
    )
    log.reset()
    phases(log, 2.0)
    phases(log, -1.0)
    assert rounded(log.records[0]) == StepRecord(
        schema=1,
        timestamp=close_ms(0),
        step=0,
        agent="hand",
        symbol="BTCUSDT",
        action=2.0,
        price=D("100.0"),
        balance=D("999.796"),  # 1000 less 0.1 % of 2 * 102
        equity=D("995.796"),  # marked at the close of 100
        drawdown=D("0.004204"),
        max_drawdown=D("0.004204"),
        pnl_total=D("-4.204"),
        position_open=True,
        position_side="LONG",
        position_entry_price=D("102.0"),
        position_quantity=D("2"),
        unrealized_pnl=D("-4.0"),
        action_type="open_long",
        operation="BUY",
        result="filled",
        error="",
        trade_id="1",
        quantity=D("2"),
        fill_price=D("102.0"),
        commission=D("0.204"),
        funding=D("0.0"),
        reward=0.0,
    )
    second = log.records[1]
    assert (second.timestamp, second.step, second.action_type, second.operation) == (
        close_ms(1),
        1,
        "flip_to_short",
        "SELL",
    )
    # Funding at 02:00 on 2 at 110 and 1 %: -2.2. Sold 3 at 110, 0.33; 16 realized.
    assert float(second.funding) == pytest.approx(-2.2)
    assert float(second.balance) == pytest.approx(999.796 - 2.2 - 0.33 + 16)
    # Marked at 102: a short of 1 from 110 is 8 ahead.
    assert float(second.equity) == pytest.approx(float(second.balance) + 8)
    assert (second.position_side, second.position_quantity) == ("SHORT", D(1))
    assert second.reward == pytest.approx(np.log(999.796 / 1000))


def test_hold_skip_and_refusal() -> None:
    log = logged(flat_rows(*[100] * 5), limits={"max_order_notional_usdt": 50})
    log.reset()
    phases(log, 0.0)
    phases(log, 0.01)
    phases(log, 3.0)
    phases(log, float("nan"))
    rows = [
        (r.action_type, r.operation, r.result, r.quantity, r.fill_price, r.error) for r in log.records[:4]
    ]
    assert rows[0] == ("hold", "", "none", 0, None, "")
    assert rows[1][:5] == ("open_long", "", "skipped", 0, None)
    assert "below the minimum notional of 5" in rows[1][5]
    assert rows[2] == (
        "open_long",
        "BUY",
        "filled",
        D("0.5"),
        D("100.0"),
        "reduced by max_order_notional 50.00 USDT",
    )
    assert rows[3][:5] == ("hold", "", "refused", 0, None)
    assert rows[3][5].startswith("action: action [nan] is not finite")


def test_a_stop_has_a_row_of_its_own_at_the_close_of_its_candle() -> None:
    log = logged(
        [(100, 100, 100, 100), (100, 101, 94, 98), (98, 98, 98, 98), (98, 98, 98, 98)],
        action={"scheme": "quantity", "stop_loss_fraction": 0.05},
    )
    log.reset()
    phases(log, 2.0)
    phases(log, 0.0)
    step, stop, after = log.records
    assert (step.action_type, step.timestamp, step.step) == ("open_long", close_ms(0), 0)
    assert (stop.action_type, stop.timestamp, stop.step) == ("stop_loss", close_ms(1), 1)
    assert (stop.operation, stop.result, stop.quantity, stop.fill_price) == (
        "SELL",
        "filled",
        D(2),
        D("95.0"),
    )
    assert (stop.price, stop.position_open, float(stop.equity)) == (D("98.0"), False, pytest.approx(989.61))
    # The candle's reward is on the first row after it, the stop's.
    assert stop.reward == pytest.approx(np.log(989.61 / 1000))
    assert (after.action_type, after.step, after.reward) == ("hold", 1, 0.0)


def test_liquidation_rows_inside_a_candle_and_at_its_open() -> None:
    inside = logged([(100, 100, 100, 100), (100, 100, 50, 50), (50, 50, 50, 50)])
    inside.reset()
    phases(inside, 50.0)
    assert [(r.action_type, r.timestamp) for r in inside.records] == [
        ("open_long", close_ms(0)),
        ("liquidation", close_ms(1)),
        ("end", close_ms(1)),
    ]
    gap = logged([*flat_rows(100, 100), (50, 50, 50, 50), (50, 50, 50, 50)])
    gap.reset()
    phases(gap, 50.0)
    phases(gap, 50.0)
    # At the open it is what became of the step's own row.
    assert [(r.action_type, r.timestamp, r.error) for r in gap.records] == [
        ("open_long", close_ms(0), ""),
        ("liquidation", close_ms(1), "liquidated at the open"),
        ("end", close_ms(2), ""),
    ]
    assert gap.records[-1].balance == 0


def test_one_row_per_symbol_in_their_order() -> None:
    log = logged({"BBBUSDT": flat_rows(*[10] * 3), "AAAUSDT": flat_rows(*[100] * 3)})
    log.reset()
    phases(log, 3.0, -1.0)
    phases(log, 3.0, -1.0)
    assert [(r.step, r.symbol, r.action_type) for r in log.records] == [
        (0, "BBBUSDT", "open_long"),
        (0, "AAAUSDT", "open_short"),
        (1, "BBBUSDT", "hold"),
        (1, "AAAUSDT", "hold"),
        (2, "BBBUSDT", "end"),
        (2, "AAAUSDT", "end"),
    ]


def test_reward_and_funding_count_once_per_symbol() -> None:
    rows = {"AAAUSDT": flat_rows(100, 100, 104, 99, 97), "BBBUSDT": flat_rows(10, 10, 10, 11, 12)}
    funding = {
        "AAAUSDT": [(0, 0.01), (120, 0.01), (150, 0.002), (240, -0.003)],
        "BBBUSDT": [(0, 0.02), (90, 0.01), (180, 0.004), (270, 0.001)],
    }
    log = logged(rows, funding=funding, action={"scheme": "quantity", "stop_loss_fraction": 0.03})
    log.reset()
    total = sum(phases(log, 3.0, -20.0)[1][1] for _ in range(4))
    assert any(r.action_type == "stop_loss" for r in log.records)
    totals = log.unwrapped.totals()  # type: ignore[attr-defined]
    for symbol in ("AAAUSDT", "BBBUSDT"):
        assert sum(r.reward for r in log.records if r.symbol == symbol) == pytest.approx(total)
    assert total == pytest.approx(np.log(totals["equity"] / 1000))
    assert float(sum(r.funding for r in log.records)) == pytest.approx(totals["funding"])
    assert totals["funding"] != 0


def test_drawdown_counts_from_the_highest_close_even_where_no_row_shows_it() -> None:
    # 10 units: equity 1100 at the close of candle 2. Selling all at 105 leaves 1050 in that step's row.
    log = logged(
        [*flat_rows(100, 100), (110, 110, 110, 110), (105, 105, 105, 105), (105, 105, 105, 105)],
        taker_fee_fraction=0.0,
    )
    log.reset()
    phases(log, 10.0)
    phases(log, 10.0)
    phases(log, 0.0)
    risk = log.env
    assert isinstance(risk, RiskControl)
    assert float(log.records[2].equity) == 1050
    assert float(log.records[2].drawdown) == pytest.approx(50 / 1100)
    assert log.records[2].max_drawdown == risk.state.max_drawdown_fraction
    assert risk.state.peak_equity_usdt == 1100


def test_the_running_figures_of_an_earlier_session_go_on() -> None:
    given = {
        "initial_equity_usdt": D(800),
        "peak_equity_usdt": D(1250),
        "max_drawdown_fraction": D("0.3"),
        "first_step": 17,
    }
    log = logged(flat_rows(*[100] * 3), log=given)
    log.reset()
    phases(log, 0.0)
    row = log.records[0]
    assert (row.step, row.pnl_total, row.drawdown, row.max_drawdown) == (17, 200, D("0.2"), D("0.3"))


def test_a_second_episode_starts_its_figures_anew() -> None:
    log = logged(flat_rows(100, 100, 150, 150), taker_fee_fraction=0.0)
    for _ in range(2):
        log.reset()
        for _ in range(3):
            phases(log, 10.0)
    first, second = log.records[:4], log.records[4:]
    assert first == second
    assert second[0].drawdown == 0  # not from the first episode's 1500


def test_end_rows_come_once_and_a_stopped_run_has_them_too(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    log = logged(flat_rows(*[100] * 9), log={"path": path, "keep_records": True})
    log.reset()
    phases(log, 1.0)
    phases(log, 1.0)
    log.close()
    log.close()
    assert [r.action_type for r in log.records] == ["open_long", "hold", "end"]
    end = log.records[-1]
    assert (end.timestamp, end.step, end.result, end.operation) == (close_ms(2), 2, "none", "")
    assert end.position_open and end.quantity == 0
    log_closed_before_reset = logged(flat_rows(*[100] * 9), log={"path": tmp_path / "empty.csv"})
    log_closed_before_reset.close()
    assert (tmp_path / "empty.csv").read_text(encoding="utf-8").count("\n") == 1


def test_flattening_on_request_is_written_down() -> None:
    log = logged(flat_rows(*[100] * 5), taker_fee_fraction=0.0)
    log.reset()
    phases(log, 2.0)
    log.flatten("flat on exit")
    log.close()
    kinds = [(r.action_type, r.operation, r.error) for r in log.records]
    assert kinds == [("open_long", "BUY", ""), ("emergency_close", "SELL", "flat on exit"), ("end", "", "")]
    assert log.records[-1].position_open is False
    assert len(log.fills) == 2


def test_an_emergency_after_a_fill_and_its_row(tmp_path: Path) -> None:
    emergencies = tmp_path / "emergencies.csv"
    log = logged(
        flat_rows(*[100] * 5),
        limits={"max_drawdown_fraction": 0.05},
        slippage_bps=300.0,
        taker_fee_fraction=0.0,
        log={"emergencies_path": emergencies, "keep_records": True},
    )
    log.reset()
    assert not emergencies.exists()
    phases(log, 20.0)
    kinds = [(r.action_type, r.timestamp) for r in log.records]
    assert kinds == [
        ("open_long", close_ms(0)),
        ("emergency_close", close_ms(0)),
        ("end", close_ms(0)),
    ]
    with emergencies.open(newline="", encoding="utf-8") as file:
        header, row = list(csv.reader(file))
    assert tuple(header) == EMERGENCY_COLUMNS
    values = dict(zip(header, row, strict=True))
    reason = "drawdown 6.0000% reached the limit of 5.0000% (equity 940.00 USDT, peak 1000.00)"
    assert values == {
        "schema": "1",
        "timestamp": str(close_ms(0)),
        "step": "0",
        "agent": "hand",
        "reason": reason,
        "drawdown": "0.06",
        "limit": "0.05",
        "peak_equity": "1000",
        "equity_before": "940",
        "equity_after": "880",
        "balance": "880",
        "positions_closed": "1",
        "tries": "1",
        "flat": "true",
        "pending_orders": "0",
    }
    assert log.records[1].error == reason


def test_the_file_holds_the_records_and_pandas_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "steps.csv"
    log = logged(
        [(100, 100, 100, 100), (100, 101, 94, 98), *flat_rows(98, 98.3, 99.1)],
        limits={"max_order_notional_usdt": 200},
        action={"scheme": "quantity", "stop_loss_fraction": 0.05},
        log={"path": path, "keep_records": True},
    )
    log.reset()
    for quantity in (3.0, 0.01, 1.0, -1.0):
        phases(log, quantity)
    log.close()
    frame = pd.read_csv(path)
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == len(log.records) == 6
    kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert {kinds[c] for c in ("schema", "timestamp", "step")} == {"int64"}
    assert kinds["position_open"] == "bool"
    text = {
        *("agent", "symbol", "position_side", "action_type", "operation", "result", "error", "trade_id"),
        "position_open",
    }
    numbers = [name for name in COLUMNS if name not in text]
    for name in numbers:
        assert pd.api.types.is_numeric_dtype(frame[name]), name
        expected = [
            np.nan if value is None else float(value) for value in (getattr(r, name) for r in log.records)
        ]
        np.testing.assert_array_equal(frame[name].to_numpy(dtype=float), expected)
    for name in ("agent", "symbol", "action_type", "operation", "result", "error", "position_side"):
        assert frame[name].fillna("").tolist() == [getattr(r, name) for r in log.records]


def test_a_row_is_on_disk_as_soon_as_the_order_is_done(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    log = logged(flat_rows(*[100] * 4), log={"path": path})
    log.reset()
    log.execute(log.plan(np.array([1.0])))
    assert path.read_text(encoding="utf-8").count("\n") == 2
    assert log.records == []  # kept on disk only
    log.advance()
    log.close()


def test_an_unwritable_log_stops_the_run_at_its_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StepLogError):
        logged(flat_rows(*[100] * 4), log={"path": tmp_path / "file" / "steps.csv"})


def test_records_are_plain_values() -> None:
    log = logged(flat_rows(*[100] * 4))
    log.reset()
    phases(log, 1.0)
    assert {type(value) for value in astuple(log.records[0])} <= {int, str, float, bool, Decimal}
