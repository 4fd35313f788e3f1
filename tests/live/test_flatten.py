"""`live.py --flatten` end to end: a paper exchange with positions and orders, faults, and what is left."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from envs.account import Leg, Order, Side
from envs.errors import ExchangeUnavailableError
from envs.instruments import default_instruments
from envs.synthetic import synthetic_market
from live import cli, venues
from live.bridge import LoopThread
from live.cli import app
from live.exchange.base import RetryPolicy, TriggerKind, TriggerOrder, client_order_id
from live.exchange.binance import BinanceExchange
from live.exchange.budget import Urgency, present_urgency
from live.flatten import Action, Flattener
from live.paper.account import Account, PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from live.settings import Credentials, paper_venue

Run = Callable[..., tuple[int, str, str]]
SYMBOLS = ("BTCUSDT", "ETHUSDT")
CLOSE_MS = 1_736_630_399_999
QUICK = "connection: {attempts: 2, retry_delay_s: 0.01, timeout_s: 0.5, receive_window_ms: 100}\n"


@pytest.fixture
def server() -> Iterator[PaperServer]:
    feed = ReplayFeed(synthetic_market(SYMBOLS, n=60, seed=3), 20)
    with PaperServer.start(feed, (PaperAccount(wallet_usdt=Decimal(100_000)),)) as started:
        yield started


@pytest.fixture
def held(server: PaperServer) -> Account:
    """A long, a short, a stop, a take-profit, and a resting order that somebody else placed."""

    async def trade() -> None:
        async with connector(server) as exchange:
            for symbol, side, quantity in (("BTCUSDT", Side.BUY, "0.05"), ("ETHUSDT", Side.SELL, "1.5")):
                name = client_order_id("A", symbol, CLOSE_MS, Leg.ORDER)
                await exchange.place(Order(symbol, side, Decimal(quantity), client_order_id=name))
            price = Decimal(str(server.exchange.engine.prices["BTCUSDT"])).quantize(Decimal(1))
            for leg, kind, factor in (
                (Leg.PROTECTIVE_STOP, TriggerKind.STOP, "0.5"),
                (Leg.TAKE_PROFIT, TriggerKind.TAKE_PROFIT, "1.5"),
            ):
                name = client_order_id("A", "BTCUSDT", CLOSE_MS, leg)
                at = (price * Decimal(factor)).quantize(Decimal(1))
                await exchange.place_trigger(
                    TriggerOrder("BTCUSDT", Side.SELL, kind, at, name, Decimal("0.05"))
                )
            server.fault("manual_trade", symbol="BTCUSDT", side="BUY", quantity="0.01", price=str(price // 2))

    with LoopThread() as bridge:
        bridge.call(trade())
    account = server.exchange.engine.accounts["paper"]
    assert [one.symbol for one in account.held()] == ["BTCUSDT", "ETHUSDT"]
    assert (len(account.open_orders), len(account.open_algo_orders)) == (1, 2)
    return account


def connector(server: PaperServer, symbols: tuple[str, ...] = SYMBOLS) -> BinanceExchange:
    return BinanceExchange(
        paper_venue(server.rest_url, server.ws_url.rstrip("/")),
        Credentials("paper", "paper"),
        symbols,
        retry=RetryPolicy(attempts=2, delay_s=0.01, resolve_s=0.3),
        recv_window_ms=100,
        timeout_s=0.5,
        back_end_delay_s=0.05,
    )


def is_flat(account: Account) -> bool:
    return not list(account.held()) and not account.open_orders and not account.open_algo_orders


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process, patient for parts of a second."""
    monkeypatch.chdir(tmp_path)
    for name in ("BINANCE_API_KEY", "BINANCE_API_SECRET", "BINANCE_TESTNET_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "connection.yaml"
    config.write_text(QUICK)
    original = cli.FlattenOptions
    monkeypatch.setattr(cli, "FlattenOptions", lambda *a, **k: original(*a, first_delay_s=0.02, **k))

    def start(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            app(["--flatten", "--config", str(config), *arguments])
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return start


def test_everything_is_closed_and_shown(run: Run, server: PaperServer, held: Account) -> None:
    code, out, err = run("--paper-url", server.rest_url)
    assert (code, err) == (0, "")
    assert is_flat(held)
    for text in ("SELL 0.050 at market", "BUY 1.500 at market", "cancel 3 orders", "what was done"):
        assert text in out, text
    assert "FLAT: no position and no order is left; wallet" in out
    code, out, _ = run("--paper", "--paper-url", server.rest_url)
    assert code == 0 and "what was done" not in out


def test_only_the_symbols_that_are_asked_for(run: Run, server: PaperServer, held: Account) -> None:
    code, out, _ = run("--paper-url", server.rest_url, "--symbols", "ETHUSDT")
    assert code == 0 and "FLAT: no position and no order is left in ETHUSDT; wallet" in out
    assert [one.symbol for one in held.held()] == ["BTCUSDT"]
    assert (len(held.open_orders), len(held.open_algo_orders)) == (1, 2)
    code, _, _ = run("--paper-url", server.rest_url, "--symbols", "ETHUSDT,BTCUSDT")
    assert code == 0 and is_flat(held)


FAULTS: dict[str, list[dict[str, Any]]] = {
    "a reply lost after the order was taken": [
        {"kind": "lost_after", "method": "POST", "path": "/fapi/v1/order", "count": 2}
    ],
    "an order lost on the way": [{"kind": "lost_before", "method": "POST", "path": "/fapi/v1/order"}],
    "unknown outcomes": [{"kind": "unknown_503", "path": "/fapi/v1/order", "executed": True, "count": 2}],
    "filled in part": [{"kind": "partial_fill", "share": "0.4", "path": "/fapi/v1/order", "count": 2}],
    "cancelling fails": [{"kind": "unavailable_503", "method": "DELETE", "path": "*Orders", "count": 4}],
    "reading back fails": [
        {"kind": "internal_503", "method": "GET", "path": "/fapi/v3/account", "skip": 1, "count": 4}
    ],
    "the clock is off": [{"kind": "clock_skew", "offset_ms": 20_000}],
    "a rate limit": [{"kind": "rate_limited", "path": "/fapi/v3/*", "retry_after_s": 1}],
    "html from a proxy": [{"kind": "html_502", "path": "/fapi/v1/*Orders", "count": 3}],
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_do_not_keep_it_from_closing(run: Run, server: PaperServer, held: Account, name: str) -> None:
    for fault in FAULTS[name]:
        server.fault(**fault)
    code, out, _ = run("--paper-url", server.rest_url)
    assert code == 0, out
    assert is_flat(held)
    assert "FLAT: no position" in out
    # Nothing was closed twice: a flip would have been a new position.
    closed = sum(trade.quantity for trade in held.trades["ETHUSDT"] if trade.side is Side.BUY)
    assert closed == Decimal("1.5")


def test_what_cannot_be_closed_is_said_with_exit_code_3(run: Run, server: PaperServer, held: Account) -> None:
    server.fault(
        "refuse", code=-4088, message="User can not place order currently.", path="/fapi/v1/order", count=99
    )
    code, out, _ = run("--paper-url", server.rest_url)
    assert code == 3
    assert "NOT FLAT after 5 tries: 0.050 BTCUSDT, -1.500 ETHUSDT" in out
    assert "The account may not place orders" in out and out.count("FAILED") == 10
    assert not held.open_algo_orders and not held.open_orders  # the rest was done all the same


def test_an_account_that_cannot_be_read_is_not_called_flat(
    run: Run, server: PaperServer, held: Account
) -> None:
    server.fault("internal_503", path="/fapi/v3/account", count=999)
    code, out, _ = run("--paper-url", server.rest_url)
    assert code == 3 and "could not be read" in out
    server.clear_faults()
    server.fault("internal_503", path="/fapi/v1/time", count=999)
    code, out, _ = run("--paper-url", server.rest_url)
    assert code == 3 and "NOT FLAT: nothing could be done" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paper"], "there is no account left; give --paper-url URL, --testnet or --live"),
        ([], "there is no account left"),
        (["--testnet"], "BINANCE_TESTNET_API_KEY"),
        (["--live"], "BINANCE_API_KEY"),
        (["--paper", "--live"], "exclude one another"),
        (
            ["--live", "--paper-url", "http://127.0.0.1:1"],
            "--paper-url is for the paper exchange, not for live",
        ),
        (["--paper-url", "127.0.0.1:1"], "give a URL such as"),
        (["--paper-url", "http://127.0.0.1:1"], "no paper exchange answers"),
        (["--agent", "flat", "--steps", "3"], "--flatten runs no agent: leave out --agent, --steps"),
        (["--config", "typo.yaml"], "unknown setting 'atempts', did you mean 'attempts'?"),
        (["--config", "listed.yaml"], "section 'connection' is [1]"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "typo.yaml").write_text("connection: {atempts: 3}\n")
    (tmp_path / "listed.yaml").write_text("connection: [1]\n")
    if "--config" in arguments:
        arguments = ["--paper-url", "http://127.0.0.1:1", *arguments]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(venues, "_paper_state", lambda _url: {})
            code, _, err = run(*arguments)
    else:
        code, _, err = run(*arguments)
    assert code == 2 and message in err and err.count("\n") == 1


def test_an_unknown_symbol_is_refused_before_anything_is_touched(
    run: Run, server: PaperServer, held: Account
) -> None:
    code, _, err = run("--paper-url", server.rest_url, "--symbols", "BTCUSDT,ETHUSD")
    assert code == 2 and "ETHUSD" in err and "Did you mean ETHUSDT?" in err
    assert len(list(held.held())) == 2


@pytest.mark.parametrize(
    ("arguments", "answer", "code"),
    [([], None, 2), ([], "trade real money", 2), ([], "close everything", 0), (["--yes"], None, 0)],
)
def test_real_money_is_closed_only_when_it_is_confirmed(
    run: Run,
    server: PaperServer,
    held: Account,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    answer: str | None,
    code: int,
) -> None:
    place = replace(paper_venue(server.rest_url, server.ws_url.rstrip("/")), name="live", real_money=True)
    monkeypatch.setattr(venues, "venue", lambda _name: place)
    monkeypatch.setenv("BINANCE_API_KEY", "paper")
    monkeypatch.setenv("BINANCE_API_SECRET", "paper")

    def typed(prompt: str = "") -> str:
        print(prompt)
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr(builtins, "input", typed)
    ended, out, err = run("--live", *arguments)
    assert ended == code
    assert is_flat(held) == (code == 0)
    if code:
        assert "0.050 BTCUSDT, -1.500 ETHUSDT" in out and "REAL MONEY" in out
        assert err == "error: not confirmed: nothing was closed; give --yes to skip the question\n"


async def test_a_large_position_is_closed_in_parts_and_everything_uses_the_reserve(
    server: PaperServer, held: Account
) -> None:
    urgencies = set()
    done: list[Action] = []

    class Watched(BinanceExchange):
        async def place(self, order: Order) -> Any:
            urgencies.add(present_urgency())
            return await super().place(order)

        async def instruments(self, symbols: Any) -> Any:
            small = replace(default_instruments()["ETHUSDT"], max_quantity_market=Decimal("0.7"))
            return {"BTCUSDT": default_instruments()["BTCUSDT"], "ETHUSDT": small}

    exchange = Watched(
        paper_venue(server.rest_url, server.ws_url.rstrip("/")), Credentials("paper", "paper"), ()
    )
    async with exchange:
        report = await Flattener(exchange, on_action=done.append).run()
    assert report.flat and report.tries == 1 and is_flat(held)
    assert [one.what for one in done if one.symbol == "ETHUSDT"] == [
        "BUY 0.7 at market",
        "BUY 0.7 at market",
        "BUY 0.100 at market",
    ]
    assert urgencies == {Urgency.RISK}
    names = [one.client_order_id for one in held.orders.values() if one.client_order_id.startswith("close_")]
    assert len(names) == len(set(names)) == 4


async def test_pauses_between_tries_double(server: PaperServer, held: Account) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with connector(server, ()) as exchange:

        async def refuse(_order: Order) -> Any:
            raise ExchangeUnavailableError("down")

        exchange.place = refuse  # type: ignore[method-assign]
        report = await Flattener(exchange, tries=4, first_delay_s=1.0, sleep=sleep).run()
    assert slept == [1.0, 2.0, 4.0]
    assert not report.flat and report.tries == 4 and report.orders == ()
    assert report.positions == {"BTCUSDT": Decimal("0.05"), "ETHUSDT": Decimal("-1.5")}


async def test_a_ban_of_minutes_is_waited_out(server: PaperServer, held: Account) -> None:
    slept: list[float] = []
    server.fault("banned", path="/fapi/v1/order", retry_after_s=120)
    async with connector(server, ()) as exchange:

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            await asyncio.to_thread(server.clear_faults)  # then it is over, on both sides
            exchange._rest.budget.forgive()

        report = await Flattener(exchange, sleep=sleep).run()
    # The second try can but read what is there; the third closes it.
    assert slept == [pytest.approx(120, abs=30), 2.0]
    assert report.flat and report.tries == 3 and is_flat(held)
