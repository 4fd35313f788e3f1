"""The gates before real money, against a local exchange that is called real: nothing here leaves this machine."""

from __future__ import annotations

import builtins
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from live_support import rows_of

from envs.synthetic import synthetic_market
from live import venues
from live.cli import app
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from live.settings import Venue, paper_venue

KEY, SECRET = "a-key-for-real-money-0123", "a-secret-for-real-money-0123"
SAFE = {"enableWithdrawals": False, "enableFutures": True}


class Permissions:
    """Binance's spot API, as far as it tells what a key may do."""

    def __init__(self) -> None:
        self.reply: Any = SAFE
        self.status = 200
        self.asked = 0
        own = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                own.asked += 1
                body = json.dumps(own.reply).encode()
                self.send_response(own.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def permissions() -> Iterator[Permissions]:
    running = Permissions()
    yield running
    running.stop()


@pytest.fixture
def exchange() -> Iterator[PaperServer]:
    feed = ReplayFeed(synthetic_market(n=200, seed=3), 100)
    account = PaperAccount(KEY, SECRET, Decimal(10_000))
    with PaperServer.start(feed, (account,)) as server:
        yield server


@pytest.fixture
def run(
    exchange: PaperServer,
    permissions: Permissions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """`live.py --live` on the local exchange; `answer` is what is typed, None for no terminal."""
    local = replace(
        paper_venue(exchange.rest_url, exchange.ws_url.rstrip("/")),
        name="live",
        permissions_url=permissions.url,
        real_money=True,
    )

    def venue(name: str) -> Venue:
        assert name == "live"
        return local

    monkeypatch.setattr(venues, "venue", venue)
    monkeypatch.setenv("BINANCE_API_KEY", KEY)
    monkeypatch.setenv("BINANCE_API_SECRET", SECRET)

    def start(*arguments: str, answer: str | None = None) -> tuple[int, str, str]:
        def typed(prompt: str = "") -> str:
            print(prompt)
            if answer is None:
                raise EOFError
            return answer

        monkeypatch.setattr(builtins, "input", typed)
        with pytest.raises(SystemExit) as ended:
            app(["--live", "--agent", "flat", "--out", str(tmp_path), *arguments])
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        assert SECRET not in out + err and KEY not in out + err
        return ended.value.code, out, err

    return start


def leverage(exchange: PaperServer) -> int:
    return exchange.exchange.engine.accounts[KEY].leverage["BTCUSDT"]


@pytest.mark.parametrize("answer", [None, "", "yes", "trade Real Money"])
def test_without_the_typed_confirmation_nothing_is_touched(
    run: Callable[..., tuple[int, str, str]], exchange: PaperServer, tmp_path: Path, answer: str | None
) -> None:
    exchange.exchange.engine.accounts[KEY].leverage["BTCUSDT"] = 7
    code, out, err = run(answer=answer)
    assert code == 2
    assert "REAL MONEY: 10000.00 USDT, BTCUSDT, agent flat" in out
    assert err.startswith("error: not confirmed") and err.count("\n") == 1
    assert leverage(exchange) == 7 and rows_of(tmp_path) == []


@pytest.mark.parametrize(
    ("reply", "status", "message"),
    [
        ({**SAFE, "enableWithdrawals": True}, 200, "may withdraw funds"),
        ({"enableFutures": True}, 200, "may withdraw funds"),
        ({**SAFE, "enableFutures": False}, 200, "may not trade futures"),
        ({"code": -2015, "msg": "Invalid API-key, IP, or permissions for action."}, 401, "cannot be checked"),
    ],
)
def test_a_key_that_is_not_known_to_be_harmless_is_refused(
    run: Callable[..., tuple[int, str, str]],
    exchange: PaperServer,
    permissions: Permissions,
    reply: dict[str, Any],
    status: int,
    message: str,
) -> None:
    exchange.exchange.engine.accounts[KEY].leverage["BTCUSDT"] = 7
    permissions.reply, permissions.status = reply, status
    code, _, err = run("--yes")
    assert code == 2
    assert message in err and err.count("\n") == 1
    assert leverage(exchange) == 7 and permissions.asked >= 1


@pytest.mark.parametrize("extra", [["--yes"], []])
def test_confirmed_it_trades_and_says_that_it_is_real(
    run: Callable[..., tuple[int, str, str]],
    exchange: PaperServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    extra: list[str],
) -> None:
    stop = threading.Event()

    def play() -> None:
        while not stop.wait(0.05):
            exchange.advance()

    player = threading.Thread(target=play)
    player.start()
    try:
        code, out, err = run("--steps", "2", *extra, answer="trade real money")
    finally:
        stop.set()
        player.join()
    assert code == 0, err
    assert "BINANCE FUTURES, REAL MONEY" in out
    assert ("Type 'trade real money'" in out) == (not extra)
    assert leverage(exchange) == 20
    assert rows_of(tmp_path)[-1]["action_type"] == "end"
    assert [path.name for path in tmp_path.glob("risk_*.json")] == ["risk_live.json"]


def test_a_halt_is_not_forgotten_by_a_start_that_is_not_confirmed(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    state = {
        "initial_equity_usdt": "10000",
        "peak_equity_usdt": "10000",
        "day_start_ms": 0,
        "day_start_equity_usdt": "10000",
        "max_drawdown_fraction": "0.3",
        "order_times_ms": [],
        "halted_reason": "drawdown 30 %",
        "last_candle_close_ms": 0,
    }
    path = tmp_path / "risk_live.json"
    path.write_text(json.dumps(state))
    code, _, err = run(answer="trade real money")
    assert code == 3 and "drawdown 30 %" in err
    code, _, err = run("--acknowledge-emergency", answer="no")
    assert code == 2 and "not confirmed" in err
    assert json.loads(path.read_text())["halted_reason"] == "drawdown 30 %"
