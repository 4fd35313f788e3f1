"""Deposits and withdrawals move what a live run counts from, exactly once, wherever the process dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from live_support import env_config, rig, rows_of
from restart_support import Killed, account, check, kill, market, serve, session

from envs.account import Plan
from envs.risk import RiskLimits
from envs.risk_state import FileRiskStore
from live import recovery
from live.candle_feed import CandleFeed
from live.order_desk import OrderDesk, Outcome
from live.paper.runtime import PaperServer
from live.runner import _LiveLog


@pytest.fixture
def server() -> Iterator[PaperServer]:
    with serve(market()) as running:
        yield running


def test_a_withdrawal_while_the_run_is_down_is_no_loss(server: PaperServer, tmp_path: Path) -> None:
    limits = RiskLimits(max_drawdown_fraction=0.1)
    session(server, tmp_path, [0.2], [0.2], limits=limits)
    account(server).book_income("TRANSFER", Decimal(-4_000), "", server.exchange.now_ms)
    for _ in range(2):
        result = session(server, tmp_path, [0.2], limits=limits)
        assert result.exit_code == 0
    rows = check(server, tmp_path)
    assert Decimal(rows[-1]["balance"]) == Decimal(5_995)
    assert Decimal(rows[-1]["pnl_total"]) == Decimal(-5)
    assert float(rows[-1]["drawdown"]) < 0.001


@pytest.mark.parametrize(
    ("owner", "name", "call", "after"),
    [
        (recovery, "write_json", 2, False),  # the first is the session's own file
        (FileRiskStore, "save", 1, False),
        (FileRiskStore, "save", 1, True),
    ],
)
def test_a_transfer_counts_once_wherever_the_process_dies(
    server: PaperServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    call: int,
    after: bool,
) -> None:
    limits = RiskLimits(max_drawdown_fraction=0.1)
    session(server, tmp_path, [0.2], limits=limits)
    account(server).book_income("TRANSFER", Decimal(-4_000), "", server.exchange.now_ms)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, owner, name, call=call, after=after)
        session(server, tmp_path, [0.2], limits=limits)
    for _ in range(2):
        assert session(server, tmp_path, [0.2], limits=limits).exit_code == 0
    state = FileRiskStore(next(tmp_path.glob("risk_*.json"))).load()
    assert state is not None
    assert state.initial_equity_usdt == 6_000
    # The fee of 5 USDT is the same part of what was there before it moved.
    assert float(state.peak_equity_usdt) == pytest.approx(5_995 * 10_000 / 9_995)


def move_and_die(
    patch: pytest.MonkeyPatch, server: PaperServer, amount: int, written: str, *, replaced: bool
) -> None:
    """Have money moved while a session waits for its second candle, and end the process when it then replaces a file.

    Args:
        patch: undoes it.
        server: where the account is.
        amount: of USDT paid in; out, below zero.
        written: how the file's name begins.
        replaced: the new one is in its place already; else it is written beside it.
    """
    wait, replace = CandleFeed.next_candles, Path.replace
    waits: list[int] = []

    async def moving(self: CandleFeed) -> Any:
        waits.append(len(waits))
        if len(waits) == 2:
            server.fault("transfer", amount_usdt=str(amount))
        return await wait(self)

    def dying(self: Path, target: Path) -> Path:
        if len(waits) < 2 or not self.name.startswith(written):
            return replace(self, target)
        if replaced:
            replace(self, target)
        raise Killed

    patch.setattr(CandleFeed, "next_candles", moving)
    patch.setattr(Path, "replace", dying)
    patch.setattr(_LiveLog, "close", lambda self: self._file.close())


@pytest.mark.parametrize("amount", [-4_000, 5_000])
@pytest.mark.parametrize(
    ("written", "replaced"), [("transfers_", False), ("transfers_", True), ("risk_", False), ("risk_", True)]
)
def test_a_transfer_in_a_running_session_counts_once_wherever_the_process_dies(
    server: PaperServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    amount: int,
    written: str,
    replaced: bool,
) -> None:
    limits = RiskLimits(max_drawdown_fraction=0.1)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        move_and_die(patch, server, amount, written, replaced=replaced)
        session(server, tmp_path, [0.2], [0.2], [0.2], limits=limits)
    (path,) = tmp_path.glob("risk_*.json")
    killed = FileRiskStore(path).load()
    counted = written == "risk_" and replaced
    assert killed is not None and killed.initial_equity_usdt == 10_000 + amount * counted
    for _ in range(2):
        assert session(server, tmp_path, [0.2], limits=limits).exit_code == 0
        state = FileRiskStore(path).load()
        assert state is not None
        assert state.initial_equity_usdt == 10_000 + amount
        # The fee of 5 USDT was paid before the money moved: it is the same part of what there is.
        assert float(state.peak_equity_usdt) == pytest.approx(10_000 * (9_995 + amount) / 9_995)
        assert float(state.max_drawdown_fraction) == pytest.approx(5 / 10_000)
    rows = check(server, tmp_path)
    assert [row["action_type"] for row in rows] == ["open_long", "hold", "hold", "end", "hold", "end"]
    assert Decimal(rows[-1]["pnl_total"]) == -5


@pytest.mark.parametrize(("amount", "dies"), [(-4_000, False), (5_000, False), (5_000, True)])
def test_a_transfer_before_the_orders_counts_with_the_next_candle(
    server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amount: int, dies: bool
) -> None:
    limits = RiskLimits(max_drawdown_fraction=0.1)
    carry_out = OrderDesk.carry_out
    plans: list[Plan] = []

    async def late(self: OrderDesk, plan: Plan) -> Outcome:
        plans.append(plan)
        if len(plans) == 2:
            server.fault("transfer", amount_usdt=str(amount))
        outcome = await carry_out(self, plan)
        if dies and len(plans) == 2:
            raise Killed
        return outcome

    with monkeypatch.context() as patch, pytest.raises(Killed) if dies else nullcontext():
        patch.setattr(OrderDesk, "carry_out", late)
        patch.setattr(_LiveLog, "close", (lambda self: self._file.close()) if dies else _LiveLog.close)
        session(server, tmp_path, [0.2], [0.3], [0.3], limits=limits)
    assert len(plans) >= 2
    assert session(server, tmp_path, [0.3], limits=limits).exit_code == 0
    rows = check(server, tmp_path)
    if not dies:
        balances = [Decimal(row["balance"]) for row in rows[:3]]
        assert balances == [Decimal(9_995), Decimal("9992.5"), Decimal("9992.5") + amount]
    assert {row["pnl_total"] for row in rows[2:]} == {"-7.5"}
    assert max(float(row["drawdown"]) for row in rows) < 0.0015
    state = FileRiskStore(next(tmp_path.glob("risk_*.json"))).load()
    assert state is not None
    assert state.initial_equity_usdt == 10_000 + amount


def test_money_that_moves_is_asked_about_after_the_stops_are_set() -> None:
    """A position does not wait for its stop until the exchange has told of its bookings."""
    config = env_config(action={"scheme": "quantity", "stop_loss_fraction": 0.02})
    with rig(market(), config=config, limits=RiskLimits(max_drawdown_fraction=0.1), with_proxy=True) as one:
        assert one.proxy is not None
        one.stack.reset()
        plan = one.stack.plan([0.2])
        one.server.fault("transfer", amount_usdt="-4000")
        one.proxy.seen.clear()
        execution = one.stack.execute(plan)
        seen = [name for name in one.proxy.seen if name.startswith("POST") or "income" in name]
        assert seen == ["POST /fapi/v1/order", "POST /fapi/v1/algoOrder", "GET /fapi/v1/income"]
        assert execution.emergency is None and execution.account.wallet_usdt == 9_995
        *_, info = one.stack.advance()
        assert info["transfers_usdt"] == -4_000 and one.env.account().wallet_usdt == 5_995


def test_a_deposit_counts_once_however_often_the_run_starts(server: PaperServer, tmp_path: Path) -> None:
    for number in range(3):
        session(server, tmp_path, [0.1])
        account(server).book_income("TRANSFER", Decimal(1_000), "", server.exchange.now_ms)
        session(server, tmp_path, [0.1])
        assert Decimal(rows_of(tmp_path)[-1]["pnl_total"]) == Decimal("-2.5"), number
        state = FileRiskStore(next(tmp_path.glob("risk_*.json"))).load()
        assert state is not None
        assert state.initial_equity_usdt == 10_000 + 1_000 * (number + 1)


def test_what_was_paid_in_long_before_a_run_is_its_capital(server: PaperServer, tmp_path: Path) -> None:
    server.advance(5)  # the account was opened, with a deposit, more than an hour ago
    for _ in range(3):
        session(server, tmp_path, [0.1])
        state = FileRiskStore(next(tmp_path.glob("risk_*.json"))).load()
        assert state is not None
        assert state.initial_equity_usdt == 10_000
        assert 9_990 < state.peak_equity_usdt < 10_010
    server.fault("transfer", amount_usdt="10000")
    session(server, tmp_path, [0.1])
    state = FileRiskStore(next(tmp_path.glob("risk_*.json"))).load()
    assert state is not None and 19_980 < state.peak_equity_usdt < 20_020
