"""What happened to the account while a live run was down, and while it started: taken up, or refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from live_support import Scripted, env_config, rows_of
from restart_support import STOPS, account, by_hand, check, live_options, market, serve, session, stops
from support import market_of

from agents.run import Ending
from envs.account import Fill, Side
from envs.errors import ConfigError, ExchangeError, ExchangeUnavailableError
from live import resume
from live.console import LiveConsole
from live.exchange.base import RetryPolicy
from live.exchange.binance import BinanceExchange
from live.exchange.connection import ConnectionSettings
from live.paper import algo_desk
from live.paper.orders import AlgoRequest
from live.paper.runtime import PaperServer
from live.runner import run_live


@pytest.fixture
def server() -> Iterator[PaperServer]:
    with serve(market()) as running:
        yield running


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


def test_an_account_without_money_ends_the_run_and_says_so(server: PaperServer, tmp_path: Path) -> None:
    session(server, tmp_path, [0.2], [0.0])
    account(server).book_income("TRANSFER", -account(server).wallet_usdt, "", server.exchange.now_ms)
    out = io.StringIO()
    options = live_options(server, tmp_path, Scripted([0.2]), steps=1)
    result = run_live(options, LiveConsole(quiet=True, out=out))
    assert (result.result.ending, result.result.steps) == (Ending.TERMINATED, 0)
    assert "holds no money to trade with" in out.getvalue()


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
