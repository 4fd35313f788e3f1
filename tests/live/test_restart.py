"""A live run that ends at a chosen point and is started again on the same exchange: the whole runner, in process."""

from __future__ import annotations

import inspect
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from live_support import FEATURES, Scripted, env_config, rows_of
from support import START_MS, market_of

from agents.base import AgentSetup
from agents.run import Ending
from envs.account import Fill, Side
from envs.errors import (
    ConfigError,
    ExchangeError,
    ExchangeUnavailableError,
    HaltedError,
    MarketDataError,
    StepLogError,
)
from envs.market import Market
from envs.observation import ObservationSpec
from envs.risk import RiskLimits
from envs.risk_state import FileRiskStore
from envs.settings import EnvConfig
from envs.step_log import COLUMNS, CsvAppender
from live import recovery, resume
from live.candle_feed import CandleFeed
from live.console import LiveConsole
from live.exchange.base import RetryPolicy
from live.exchange.binance import BinanceExchange
from live.exchange.connection import ConnectionSettings
from live.live_account import LiveAccount
from live.order_desk import OrderDesk
from live.paper import algo_desk, desk
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.orders import AlgoRequest, OrderRequest
from live.paper.runtime import PaperServer
from live.recovery import Session, read_logged, run_lock
from live.runner import LiveOptions, LiveResult, _LiveLog, run_live
from live.venues import PaperOptions, VenueChoice

HOUR = 3_600_000
STOPS = env_config(action={"scheme": "quantity", "stop_loss_fraction": 0.02})


class Killed(BaseException):
    """The process ends here."""


def market(count: int = 30, price: float = 50_000.0, **options: Any) -> Market:
    return market_of([(price,) * 4] * count, **options)


@pytest.fixture
def server() -> Iterator[PaperServer]:
    with serve(market()) as running:
        yield running


def serve(market: Market) -> PaperServer:
    return PaperServer.start(ReplayFeed(market, 2), (PaperAccount(wallet_usdt=Decimal(10_000)),))


def session(
    server: PaperServer,
    folder: Path,
    *actions: Sequence[float],
    steps: int | None = None,
    config: EnvConfig | None = None,
    limits: RiskLimits | None = None,
    **options: Any,
) -> LiveResult:
    """One session of the runner on the server, playing actions."""
    agent = Scripted(*actions) if actions else Scripted([0.0])
    setup = AgentSetup(agent, config or env_config(), FEATURES, limits=limits or RiskLimits())
    choice = LiveOptions(
        setup=setup,
        symbols=("BTCUSDT",),
        interval_ms=HOUR,
        folder=folder,
        choice=VenueChoice.PAPER,
        paper=PaperOptions(url=server.rest_url),
        steps=len(actions) if steps is None else steps,
        **options,
    )
    return run_live(choice, LiveConsole(quiet=True, out=io.StringIO()))


def kill(patch: pytest.MonkeyPatch, owner: Any, name: str, *, call: int = 1, after: bool = False) -> None:
    """End the process at the `call`th call of a method, before it or after it; nothing is written any more."""
    count = [0]
    original = getattr(owner, name)

    def dying(*arguments: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] < call:
            return original(*arguments, **options)
        if after:
            original(*arguments, **options)
        raise Killed

    async def dying_async(*arguments: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] < call:
            return await original(*arguments, **options)
        if after:
            await original(*arguments, **options)
        raise Killed

    patch.setattr(owner, name, dying_async if inspect.iscoroutinefunction(original) else dying)
    patch.setattr(_LiveLog, "close", lambda self: self._file.close())


def account(server: PaperServer) -> Any:
    return server.exchange.engine.accounts["paper"]


def stops(server: PaperServer) -> list[tuple[Decimal, Decimal]]:
    orders = account(server).open_algo_orders.values()
    return sorted((order.trigger_price, order.quantity) for order in orders)


def check(server: PaperServer, folder: Path) -> list[dict[str, str]]:
    """Log and exchange tell the same story: each fill once, no candle decided on twice, steps in order."""
    rows = rows_of(folder)
    logged = Counter(trade for row in rows for trade in row["trade_id"].split(";") if trade)
    assert set(logged.values()) <= {1}
    assert set(logged) == {str(trade.trade_id) for trade in account(server).trades.get("BTCUSDT", [])}
    decided = Counter(row["timestamp"] for row in rows if row["action"])
    assert set(decided.values()) <= {1}
    numbers = [int(row["step"]) for row in rows]
    assert numbers == sorted(numbers)
    ids = Counter(trade.order.client_order_id for trade in account(server).trades.get("BTCUSDT", []))
    assert set(ids.values()) <= {1}
    return rows


# --- points to die at ---------------------------------------------------------------------------------------------


def test_killed_before_the_order(
    server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, OrderDesk, "carry_out", call=2)
        session(server, tmp_path, [0.2], [0.3], [0.3])
    session(server, tmp_path, [0.3], [0.3])
    rows = check(server, tmp_path)
    assert [row["action_type"] for row in rows] == ["open_long", "increase_long", "hold", "end"]
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]


def test_killed_after_the_order_and_before_its_stop(
    server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, LiveAccount, "after_orders", call=1)
        session(server, tmp_path, [0.2], config=STOPS)
    assert account(server).position("BTCUSDT").quantity == Decimal("0.2")
    assert stops(server) == []
    session(server, tmp_path, [0.2], [0.2], config=STOPS)
    rows = check(server, tmp_path)
    assert stops(server) == [(Decimal(49_000), Decimal("0.2"))], (
        "the stop that the first session did not place"
    )
    assert [row["action_type"] for row in rows] == ["open_long", "hold", "hold", "end"]
    assert rows[0]["action"] == "" and "recovered after a restart" in rows[0]["error"]
    assert "already executed before the restart" in rows[1]["error"]


def test_killed_after_the_order_and_back_candles_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(market()) as server:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill(patch, LiveAccount, "after_orders", call=2)
            session(server, tmp_path, [0.1], [-0.2], config=STOPS)
        server.advance(4)
        session(server, tmp_path, [-0.2], config=STOPS)
        rows = check(server, tmp_path)
        assert [row["action_type"] for row in rows] == ["open_long", "flip_to_short", "hold", "end"]
        # The old stop of the long position is gone, the new one guards the short.
        assert stops(server) == [(Decimal(51_000), Decimal("0.2"))]


def test_killed_after_the_stop_and_before_the_row(
    server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, OrderDesk, "carry_out", call=1, after=True)
        session(server, tmp_path, [0.2], config=STOPS)
    session(server, tmp_path, [0.2], [0.3], config=STOPS)
    rows = check(server, tmp_path)
    assert [row["action_type"] for row in rows] == ["open_long", "hold", "increase_long", "end"]
    assert stops(server) == [(Decimal(49_000), Decimal("0.3"))]


def test_killed_after_the_row(server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, CandleFeed, "next_candles", call=2)
        session(server, tmp_path, [0.2], [0.3])
    before = server.exchange.index
    session(server, tmp_path, [0.1])
    assert server.exchange.index == before + 2, "the decided candle is not decided on again"
    rows = check(server, tmp_path)
    assert [row["action_type"] for row in rows] == ["open_long", "increase_long", "reduce_long", "end"]


def test_killed_within_the_row(server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, CandleFeed, "next_candles", call=1)
        session(server, tmp_path, [0.2])
    (path,) = tmp_path.glob("steps_*.csv")
    path.write_bytes(path.read_bytes()[:-20])
    session(server, tmp_path, [0.2])
    rows = check(server, tmp_path)
    assert [(row["action_type"], row["trade_id"]) for row in rows] == [
        ("open_long", "1"),
        ("hold", ""),
        ("end", ""),
    ]


def test_three_starts_at_one_candle_leave_one_stop(
    server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill(patch, OrderDesk, "carry_out", call=1, after=True)
            session(server, tmp_path, [0.2], config=STOPS)
        by_hand(server, Side.BUY, "0.1")  # so that the next start has to replace the stop
        assert len(stops(server)) == 1, f"start {number}"
    session(server, tmp_path, [0.6], config=STOPS)
    assert stops(server) == [(Decimal(49_000), Decimal("0.6"))]
    check(server, tmp_path)


def test_a_stop_that_fires_while_the_run_is_down_is_logged_once(tmp_path: Path) -> None:
    rows = [(50_000.0,) * 4] * 4 + [(50_000.0, 50_000.0, 48_000.0, 48_000.0)] + [(48_000.0,) * 4] * 300
    with serve(market_of(rows)) as server:
        session(server, tmp_path, [0.2], [0.2], config=STOPS)
        # Away for longer than the week that the exchange tells of without being asked.
        server.advance(200)
        session(server, tmp_path, [0.0], config=STOPS)
        session(server, tmp_path, [0.0], config=STOPS)
        logged = check(server, tmp_path)
        kinds = [row["action_type"] for row in logged]
        assert kinds == ["open_long", "hold", "end", "stop_loss", "hold", "end", "hold", "end"]
        assert stops(server) == []


# --- what survives ------------------------------------------------------------------------------------------------


def test_peak_and_initial_equity_survive(tmp_path: Path) -> None:
    rows = [(50_000.0,) * 4] * 4 + [(55_000.0,) * 4] * 3 + [(53_000.0,) * 4] * 20
    with serve(market_of(rows)) as server:
        session(server, tmp_path, [0.2], [0.2], [0.2], [0.2])
        session(server, tmp_path, [0.2], [0.2], [0.2], [0.2])
        logged = rows_of(tmp_path)
        # Bought at 50000 for a fee of 5: the peak was 10995 at 55000, and 53000 is 400 below it.
        last = logged[-1]
        assert Decimal(last["equity"]) == Decimal(10_595)
        assert float(last["drawdown"]) == pytest.approx(400 / 10_995)
        assert Decimal(last["pnl_total"]) == Decimal(595)


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


def test_an_emergency_halts_until_it_is_acknowledged(tmp_path: Path) -> None:
    rows = [(50_000.0,) * 4] * 3 + [(45_000.0,) * 4] * 20
    limits = RiskLimits(max_drawdown_fraction=0.05)
    with serve(market_of(rows)) as server:
        result = session(server, tmp_path, [0.2], [0.2], [0.2], limits=limits)
        assert (result.result.ending, result.exit_code) == (Ending.EMERGENCY, 3)
        with pytest.raises(HaltedError, match="--acknowledge-emergency"):
            session(server, tmp_path, [0.2], limits=limits)
        assert len(rows_of(tmp_path, "emergencies_*.csv")) == 1
        result = session(server, tmp_path, [0.1], [0.1], limits=limits, acknowledge_emergency=True)
        assert result.exit_code == 0
        check(server, tmp_path)


def test_the_peak_of_a_killed_session_halts_the_next_one_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(50_000.0,) * 4] * 4 + [(40_000.0,) * 4] * 20
    limits = RiskLimits(max_drawdown_fraction=0.1)
    with serve(market_of(rows)) as server:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill(patch, CandleFeed, "next_candles", call=2)
            session(server, tmp_path, [0.2], [0.2], limits=limits)
        server.advance(3)
        result = session(server, tmp_path, [0.2], limits=limits)
        assert (result.result.ending, result.result.steps) == (Ending.EMERGENCY, 0)
        assert account(server).position("BTCUSDT").quantity == 0
        kinds = [row["action_type"] for row in check(server, tmp_path)]
        assert kinds == ["open_long", "hold", "emergency_close", "end"]


def test_logs_of_another_account_are_ignored(tmp_path: Path) -> None:
    with serve(market()) as one, serve(market()) as other:
        session(one, tmp_path, [0.2], [0.2])
        session(other, tmp_path, [0.1], [0.1])
        rows = rows_of(tmp_path)
        assert [row["step"] for row in rows] == ["0", "1", "2", "0", "1", "2"]
        assert not any("recovered" in row["error"] for row in rows)


def test_candles_held_goes_on_after_a_restart(server: PaperServer, tmp_path: Path) -> None:
    session(server, tmp_path, [0.2], [0.2], [0.2])
    seen = []

    class Watching(Scripted):
        def reset(self, spec: ObservationSpec, *, seed: int | None = None) -> None:
            super().reset(spec)
            names = [entry.name for entry in spec.entries()]
            self.place = next(i for i, name in enumerate(names) if name.endswith("candles_in_position"))

        def act(self, observation: Any, info: dict[str, Any]) -> Any:
            seen.append(float(observation[self.place]))
            return super().act(observation, info)

    setup = AgentSetup(Watching([0.2], [0.2]), env_config(), FEATURES)
    options = LiveOptions(
        setup=setup,
        symbols=("BTCUSDT",),
        interval_ms=HOUR,
        folder=tmp_path,
        choice=VenueChoice.PAPER,
        paper=PaperOptions(url=server.rest_url),
        steps=2,
    )
    run_live(options, LiveConsole(quiet=True, out=io.StringIO()))
    # Bought at the first of three opens; the unit is the window, one candle.
    assert seen == [3.0, 4.0]


# --- what is damaged ------------------------------------------------------------------------------------------------


def test_an_exchange_that_was_started_anew_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    with serve(market()) as server:
        session(server, tmp_path, [0.2], [0.2], [0.2], [0.2])
        port = server.port
    feed = ReplayFeed(market(), 2)
    accounts = (PaperAccount(wallet_usdt=Decimal(10_000)),)
    with (
        PaperServer.start(feed, accounts, port=port) as anew,
        pytest.raises(ConfigError, match="started anew; give another folder with --out"),
    ):
        session(anew, tmp_path, [0.2])


def test_an_exchange_without_a_candle_left_is_said_to_be_so(tmp_path: Path) -> None:
    with serve(market(count=5)) as server:
        result = session(server, tmp_path, [0.2], steps=10)
        assert result.result.ending is Ending.TRUNCATED
        rows = len(rows_of(tmp_path))
        session(server, tmp_path, [0.2], steps=10)  # the last candle is still to be decided on
        assert [r["action_type"] for r in rows_of(tmp_path)[rows:]] == ["open_long", "end"]
        with pytest.raises(MarketDataError, match="no candle left"):
            session(server, tmp_path, [0.2], steps=10)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"\x00\xff\xfe garbage\n", "line"),
        (b"1,17,not-a-step\n", "line 5"),
        (b"1,x,y,z,,,,,,,,,,,,,,,,,,,,,,,\n", "line 5"),
    ],
)
def test_a_damaged_log_is_named_with_its_line(
    server: PaperServer, tmp_path: Path, damage: bytes, message: str
) -> None:
    session(server, tmp_path, [0.2], [0.2])
    (path,) = tmp_path.glob("steps_*.csv")
    with path.open("ab") as file:
        file.write(damage)
    with pytest.raises(StepLogError, match=message) as problem:
        session(server, tmp_path, [0.2])
    assert path.name in str(problem.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{torn"])
def test_a_damaged_session_file_is_named(server: PaperServer, tmp_path: Path, text: str) -> None:
    session(server, tmp_path, [0.2])
    (path,) = tmp_path.glob("session_*.json")
    path.write_text(text)
    with pytest.raises(StepLogError, match="is damaged"):
        session(server, tmp_path, [0.2])


def test_a_log_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "steps_20250101_000000.csv"
    path.write_text("time,price\n1,2\n")
    with pytest.raises(StepLogError, match="other columns"):
        read_logged([Session(path, 0)], ("BTCUSDT",))


def test_a_log_of_nothing_but_a_torn_header_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "steps_20250101_000000.csv"
    path.write_text(",".join(COLUMNS)[:40])
    logged = read_logged([Session(path, 7)], ("BTCUSDT",))
    assert (logged.next_step, logged.last_row_close_ms, logged.repaired) == (0, 0, (path,))
    assert logged.fills_since_ms == 7


def test_a_candle_of_which_one_symbol_is_missing_is_not_complete(tmp_path: Path) -> None:
    path = tmp_path / "steps_20250101_000000.csv"
    writer = CsvAppender(path, COLUMNS)
    for step, symbols in enumerate((("BTCUSDT", "ETHUSDT"), ("BTCUSDT",))):
        for symbol in symbols:
            values = dict.fromkeys(COLUMNS, "0") | {"symbol": symbol, "step": step, "action_type": "hold"}
            values |= {"timestamp": START_MS + step, "trade_id": "", "action": "0.5"}
            writer.append([values[name] for name in COLUMNS])
    writer.close()
    logged = read_logged([Session(path, 0)], ("BTCUSDT", "ETHUSDT"))
    assert (logged.last_row_close_ms, logged.next_step) == (START_MS, 2)


def test_a_second_run_on_the_account_is_refused(server: PaperServer, tmp_path: Path) -> None:
    session(server, tmp_path, [0.2])
    state = json.loads(next(tmp_path.glob("session_*.json")).read_text())
    with (
        run_lock(tmp_path, state["account"]),
        pytest.raises(ConfigError, match=r"process \d+ already runs"),
    ):
        session(server, tmp_path, [0.2])
    session(server, tmp_path, [0.2])


def test_an_account_without_money_ends_the_run_and_says_so(server: PaperServer, tmp_path: Path) -> None:
    session(server, tmp_path, [0.2], [0.0])
    account(server).book_income("TRANSFER", -account(server).wallet_usdt, "", server.exchange.now_ms)
    out = io.StringIO()
    setup = AgentSetup(Scripted([0.2]), env_config(), FEATURES)
    url = PaperOptions(url=server.rest_url)
    options = LiveOptions(
        setup=setup,
        symbols=("BTCUSDT",),
        interval_ms=HOUR,
        folder=tmp_path,
        choice=VenueChoice.PAPER,
        paper=url,
        steps=1,
    )
    result = run_live(options, LiveConsole(quiet=True, out=out))
    assert (result.result.ending, result.result.steps) == (Ending.TERMINATED, 0)
    assert "holds no money to trade with" in out.getvalue()


def test_a_session_within_the_second_of_the_last_or_before_it_sorts_behind_it(
    server: PaperServer, tmp_path: Path
) -> None:
    for _ in range(3):
        session(server, tmp_path, [0.1])
    (tmp_path / "session_20990101_000000.json").write_bytes(
        next(tmp_path.glob("session_*.json")).read_bytes()
    )
    session(server, tmp_path, [0.1])
    names = sorted(path.name for path in tmp_path.glob("session_*.json"))
    assert names[-1] == "session_20990101_000001.json" and len(names) == 5
    steps = [int(row["step"]) for row in rows_of(tmp_path)]
    assert steps == sorted(steps) and len(check(server, tmp_path)) == 8


# --- what happens while nobody looks --------------------------------------------------------------------------------


def by_hand(server: PaperServer, side: Side, quantity: str) -> None:
    name = f"web_{quantity}_{len(account(server).orders)}"
    order = OrderRequest("BTCUSDT", side, "MARKET", Decimal(quantity), client_order_id=name)
    desk.place_order(server.exchange.engine, account(server), order)


def test_a_trade_by_hand_while_the_run_is_down_is_a_row_and_part_of_the_position(
    server: PaperServer, tmp_path: Path
) -> None:
    session(server, tmp_path, [0.2], [0.2], config=STOPS)
    by_hand(server, Side.SELL, "0.5")
    server.advance(3)
    session(server, tmp_path, [-0.3], [-0.3], config=STOPS)
    rows = check(server, tmp_path)
    kinds = [row["action_type"] for row in rows]
    assert kinds == ["open_long", "hold", "end", "flip_to_short", "hold", "hold", "end"]
    assert "recovered after a restart: order web_0.5" in rows[3]["error"]
    # The long position's stop is gone; the short one, of which nobody took care, has its own.
    assert stops(server) == [(Decimal(51_000), Decimal("0.3"))]


def test_a_liquidation_while_the_run_is_down_is_a_row(tmp_path: Path) -> None:
    rows = [(50_000.0,) * 4] * 4 + [(50_000.0, 50_000.0, 43_000.0, 44_000.0)] + [(44_000.0,) * 4] * 10
    with serve(market_of(rows)) as server:
        config = env_config(max_leverage=20.0)
        session(server, tmp_path, [2.0], [2.0], config=config)
        server.advance(3)
        assert account(server).position("BTCUSDT").quantity == 0
        session(server, tmp_path, [0.0], config=config)
        logged = check(server, tmp_path)
        kinds = [row["action_type"] for row in logged]
        # Nothing is left of the account, so that there is nothing to decide on.
        assert kinds == ["open_long", "hold", "end", "liquidation", "end"]
        assert Decimal(logged[-1]["balance"]) == account(server).wallet_usdt


@pytest.mark.parametrize("side", [Side.BUY, Side.SELL])
def test_triggers_of_ours_without_a_position_are_cancelled_and_others_are_left_alone(
    server: PaperServer, tmp_path: Path, side: Side
) -> None:
    session(server, tmp_path, [0.2], [0.0], config=STOPS)

    def rest(name: str, agent_side: Side, price: int) -> None:
        request = AlgoRequest(
            "BTCUSDT", agent_side, "STOP_MARKET", Decimal(price), Decimal("0.2"), client_algo_id=name
        )
        algo_desk.place_algo_order(server.exchange.engine, account(server), request)

    price = 60_000 if side is Side.BUY else 40_000
    rest("script_BTCUSDT_1704067199999s", side, price)
    rest("other-agent_BTCUSDT_1704067199999s", side, price)
    rest("web_stop", side, price)
    session(server, tmp_path, [0.0], config=STOPS)
    left = {order.client_algo_id for order in account(server).open_algo_orders.values()}
    assert left == {"web_stop", "other-agent_BTCUSDT_1704067199999s"}
    check(server, tmp_path)


def test_a_fill_between_the_books_and_the_account_is_not_lost(
    server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session(server, tmp_path, [0.2], [0.2])
    original = BinanceExchange.transfers
    done = []

    async def transfers(self: BinanceExchange, **options: Any) -> Any:
        if not done:
            done.append(True)
            by_hand(server, Side.SELL, "0.1")
        return await original(self, **options)

    with monkeypatch.context() as patch:
        patch.setattr(BinanceExchange, "transfers", transfers)
        session(server, tmp_path, [0.1])
    rows = check(server, tmp_path)
    assert [row["action_type"] for row in rows[3:]] == ["reduce_long", "hold", "end"]


def test_an_account_that_never_stands_still_is_refused(
    server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = BinanceExchange.transfers

    async def transfers(self: BinanceExchange, **options: Any) -> Any:
        by_hand(server, Side.SELL, "0.001")
        return await original(self, **options)

    with monkeypatch.context() as patch:
        patch.setattr(BinanceExchange, "transfers", transfers)
        with pytest.raises(ExchangeError, match="stop whatever else trades on it"):
            session(server, tmp_path, [0.1])


def test_an_exchange_that_cannot_be_reached_at_the_start_costs_nothing(
    server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session(server, tmp_path, [0.2], [0.2], config=STOPS)
    before = (len(account(server).orders), stops(server), rows_of(tmp_path))
    quick = RetryPolicy(attempts=2, delay_s=0.01)
    with monkeypatch.context() as patch:
        patch.setattr(
            ConnectionSettings,
            "connector",
            lambda _self, venue, keys, symbols: BinanceExchange(venue, keys, symbols, retry=quick),
        )
        server.fault("unavailable_503", count=100)
        with pytest.raises(ExchangeUnavailableError):
            session(server, tmp_path, [0.3], config=STOPS)
        server.clear_faults()
    assert (len(account(server).orders), stops(server), rows_of(tmp_path)) == before
    session(server, tmp_path, [0.3], config=STOPS)
    assert check(server, tmp_path)[-2]["action_type"] == "increase_long"


# --- what is lost, or another's -------------------------------------------------------------------------------------


def test_a_lost_risk_state_is_refused_with_what_is_known(server: PaperServer, tmp_path: Path) -> None:
    session(server, tmp_path, [0.2], [0.2])
    (path,) = tmp_path.glob("risk_*.json")
    path.unlink()
    with pytest.raises(
        ConfigError, match=r"is missing, but the step log has 3 steps.*equity of 9995\.00 USDT"
    ):
        session(server, tmp_path, [0.2])
    session(server, tmp_path, [0.2], acknowledge_emergency=True)
    session(server, tmp_path, [0.2])
    check(server, tmp_path)


def test_a_torn_risk_state_is_refused(server: PaperServer, tmp_path: Path) -> None:
    session(server, tmp_path, [0.2], [0.2])
    (path,) = tmp_path.glob("risk_*.json")
    path.write_text(path.read_text()[:40])
    with pytest.raises(ConfigError, match="cannot be read"):
        session(server, tmp_path, [0.2], acknowledge_emergency=True)


def test_an_acknowledged_emergency_leaves_the_profit_and_loss_of_the_run(tmp_path: Path) -> None:
    rows = [(50_000.0,) * 4] * 3 + [(45_000.0,) * 4] * 20
    limits = RiskLimits(max_drawdown_fraction=0.05)
    with serve(market_of(rows)) as server:
        session(server, tmp_path, [0.2], [0.2], [0.2], limits=limits)
        loss = Decimal(rows_of(tmp_path)[-1]["pnl_total"])
        session(server, tmp_path, [0.0], limits=limits, acknowledge_emergency=True)
        last = rows_of(tmp_path)[-1]
        assert Decimal(last["pnl_total"]) == loss < -900
        assert float(last["drawdown"]) == 0.0
        # The halt is gone for good, and the peak is what the account was at the acknowledgement.
        assert session(server, tmp_path, [0.0], limits=limits).exit_code == 0


def test_the_key_of_another_account_is_refused(tmp_path: Path) -> None:
    wallets = [PaperAccount(key, key, wallet_usdt=Decimal(10_000)) for key in ("paper", "other")]
    with PaperServer.start(ReplayFeed(market(), 2), wallets) as server:
        session(server, tmp_path, [0.2], [0.2])
        setup = AgentSetup(Scripted([0.2]), env_config(), FEATURES)
        other = PaperOptions(url=server.rest_url, api_key="other", api_secret="other")
        options = LiveOptions(
            setup=setup,
            symbols=("BTCUSDT",),
            interval_ms=HOUR,
            folder=tmp_path,
            choice=VenueChoice.PAPER,
            paper=other,
            steps=1,
        )
        with pytest.raises(ConfigError, match=r"this API key is of the account Paper\d+: use a key of"):
            run_live(options, LiveConsole(quiet=True, out=io.StringIO()))
        assert not server.exchange.engine.accounts["other"].orders


def test_a_position_that_no_fill_explains_is_refused_and_taken_over_on_request(
    server: PaperServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "_FILLS_LATE_S", (0.0,))
    session(server, tmp_path, [0.2], [0.2])
    account(server).position("BTCUSDT").quantity = Decimal("0.5")
    told = "BTCUSDT: the step log ends with 0.2, fills since make 0.2, the exchange holds 0.5"
    before = len(account(server).orders)
    with pytest.raises(ConfigError, match=f"{told}: no fill explains .* --acknowledge-emergency"):
        session(server, tmp_path, [0.3])
    assert len(account(server).orders) == before
    assert not caplog.records
    with caplog.at_level("WARNING"):
        session(server, tmp_path, [0.5], acknowledge_emergency=True)
    assert told in caplog.text
    assert rows_of(tmp_path)[-2]["action_type"] == "hold"
    assert session(server, tmp_path, [0.5]).exit_code == 0, "from then on it is the run's"


def test_a_fill_that_is_listed_late_explains_its_position(
    server: PaperServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "_FILLS_LATE_S", (0.0,))
    session(server, tmp_path, [0.2], [0.2])
    by_hand(server, Side.BUY, "0.1")
    read, asked = BinanceExchange.fills, []

    async def late(self: BinanceExchange, symbol: str, **since: Any) -> list[Fill]:
        asked.append(symbol)
        fills = await read(self, symbol, **since)
        return fills[:-1] if len(asked) == 1 else fills

    with monkeypatch.context() as patch:
        patch.setattr(BinanceExchange, "fills", late)
        session(server, tmp_path, [0.3])
    assert len(asked) > 1
    assert check(server, tmp_path)[-3]["action_type"] == "increase_long"


@pytest.mark.parametrize(
    ("held", "explained"),
    [
        ("1", True),  # the last row, which names fill 3, shows what it and all later ones made
        ("1.5", True),  # all but 5
        ("1.7", True),  # 3 only
        ("0.7", True),  # not even 3: the account could not be read after it
        ("1.2", False),
        ("0", False),
    ],
)
def test_what_fills_explain_of_a_position(held: str, explained: bool) -> None:
    def fill(number: int, quantity: str) -> Fill:
        amount = Decimal(quantity)
        return Fill(
            "BTCUSDT",
            str(number),
            str(number),
            "",
            Side.BUY if amount > 0 else Side.SELL,
            abs(amount),
            Decimal(50_000),
            commission=Decimal(0),
            realized_pnl=Decimal(0),
            time_ms=number,
        )

    fills = [fill(3, "-1"), fill(4, "0.2"), fill(5, "0.5")]
    known = resume.Resume(positions={"BTCUSDT": Decimal(1)}, logged_trades=frozenset({("BTCUSDT", "3")}))
    assert (known.differences({"BTCUSDT": Decimal(held)}, fills) == []) is explained


def test_a_first_start_takes_over_what_it_finds(server: PaperServer, tmp_path: Path) -> None:
    by_hand(server, Side.SELL, "0.1")
    server.advance(1)
    session(server, tmp_path, [-0.1])
    session(server, tmp_path, [-0.1])
    assert [row["action_type"] for row in rows_of(tmp_path)] == ["hold", "end"] * 2
