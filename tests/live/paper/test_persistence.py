"""The exchange's state outlives its process: whatever the moment of the kill, what a client was told is still true."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from envs.account import Side
from envs.errors import ConfigError
from envs.market import Market
from live.paper import account_desk, algo_desk, amend, desk, timers
from live.paper.account import Account, PaperAccount
from live.paper.errors import ApiError
from live.paper.exchange import PaperExchange
from live.paper.feeds import ReplayFeed
from live.paper.orders import AlgoRequest, OrderRequest
from live.paper.play import play_candle
from live.paper.positions import Position
from live.paper.records import dump_account, load
from live.paper.runtime import PaperServer
from tests.lib.paper_client import PaperClient, paper_client

ROOT = Path(__file__).resolve().parents[3]
HOUR_MS = 3_600_000
D = Decimal


@pytest.fixture
def world(market: Callable[..., Market]) -> Market:
    """Forty hours of two symbols that wander, with a funding every eight."""
    rng = random.Random(5)
    rows: dict[str, list[tuple[float, float, float, float]]] = {}
    for symbol, price, tick in (("BTCUSDT", 50_000.0, 1), ("ETHUSDT", 2_500.0, 2)):
        found = []
        for _ in range(40):
            close = round(price * (1 + rng.uniform(-0.02, 0.02)), tick)
            high = round(max(price, close) * (1 + rng.uniform(0, 0.01)), tick)
            low = round(min(price, close) * (1 - rng.uniform(0, 0.01)), tick)
            found.append((price, high, low, close))
            price = close
        rows[symbol] = found
    return market(rows, funding={symbol: [(hour, 0.0003) for hour in range(0, 41, 8)] for symbol in rows})


BOUGHT = OrderRequest("BTCUSDT", Side.BUY, "MARKET", D("0.1"), client_order_id="bought")


def open_exchange(world: Market, path: Path | None) -> PaperExchange:
    accounts = [PaperAccount("alice", "alice-secret", D(20_000)), PaperAccount("bob", "bob-secret", D(5_000))]
    return PaperExchange(
        ReplayFeed(world, 2), accounts, slippage_bps=D(1), state=path, liquidity_share=D("0.5")
    )


def trade(exchange: PaperExchange, rng: random.Random) -> None:
    """One thing that a client might ask for, or an advance. Refusals are as good as anything."""
    engine = exchange.engine
    account = engine.accounts[rng.choice(["alice", "bob"])]
    symbol = rng.choice(["BTCUSDT", "ETHUSDT"])
    last = engine.prices[symbol]
    side = rng.choice([Side.BUY, Side.SELL])
    quantity = D(rng.randint(1, 60)) / 1000 * (1 if symbol == "BTCUSDT" else 20)
    position_side = rng.choice(["LONG", "SHORT"]) if account.hedge_mode else "BOTH"
    near = (last * D(rng.randint(970, 1030)) / 1000).quantize(D("0.1"))
    name = f"n{rng.getrandbits(40)}"
    ordinary = {"position_side": position_side, "client_order_id": name}
    conditional = {"position_side": position_side, "client_algo_id": name}
    match rng.randint(0, 9):
        case 0 | 1:
            desk.place_order(engine, account, OrderRequest(symbol, side, "MARKET", quantity, **ordinary))
        case 2 | 3:
            desk.place_order(engine, account, OrderRequest(symbol, side, "LIMIT", quantity, near, **ordinary))
        case 4:
            kind = rng.choice(["STOP_MARKET", "TAKE_PROFIT_MARKET", "STOP"])
            # A STOP order's LIMIT order often rests after the trigger.
            beyond = (near * (1 - side.sign * D("0.02"))).quantize(D("0.1")) if kind == "STOP" else D(0)
            request = AlgoRequest(symbol, side, kind, near, quantity, price=beyond, **conditional)
            algo_desk.place_algo_order(engine, account, request)
        case 5:
            request = AlgoRequest(
                symbol,
                side,
                "TRAILING_STOP_MARKET",
                quantity=quantity,
                callback_rate_percent=D("0.5"),
                **conditional,
            )
            algo_desk.place_algo_order(engine, account, request)
        case 6 if account.open_orders:
            order = rng.choice(list(account.open_orders.values()))
            amend.amend_order(engine, account, order, side=order.side, quantity=quantity, price=near)
        case 7:
            timers.set_countdown(engine, account, symbol, rng.choice([0, HOUR_MS // 2]))
        case 8:
            choice = rng.randint(0, 2)
            if choice == 0:
                account_desk.set_leverage(engine, account, symbol, rng.randint(5, 25))
            elif choice == 1:
                account_desk.set_margin_type(engine, account, symbol, rng.choice(["CROSSED", "ISOLATED"]))
            else:
                account_desk.set_position_mode(engine, account, hedge=not account.hedge_mode)
        case _:
            exchange.advance()


def trade_for_a_while(exchange: PaperExchange, seed: int, steps: int, then: Callable[[], None]) -> None:
    rng = random.Random(seed)
    for _ in range(steps):
        with suppress(ApiError):
            trade(exchange, rng)
        exchange.flush()
        then()


def record(row: Any) -> Any:
    """A record by its fields, the order inside it by its id."""
    found = {}
    for one in fields(row):
        value = getattr(row, one.name)
        found[one.name] = getattr(value, "order_id", value) if one.name == "order" else copy.copy(value)
    return found


def everything(exchange: PaperExchange) -> dict[str, Any]:
    """All that the exchange would answer from."""
    engine = exchange.engine

    def of(account: Account) -> dict[str, Any]:
        state = copy.deepcopy(dump_account(account))
        # A flat position may have been looked at, which leaves nothing to keep.
        state["positions"] = [
            one for one in state["positions"] if load(Position, one) != Position(one["symbol"], one["side"])
        ]
        return {
            **state,
            "orders": [record(one) for one in account.orders.values()],
            "open": sorted(account.open_orders),
            "algos": [record(one) for one in account.algo_orders.values()],
            "open algos": sorted(account.open_algo_orders),
            "triggered": sorted(account.triggered),
            "trades": {name: [record(one) for one in rows] for name, rows in account.trades.items()},
            "income": [record(one) for one in account.income],
            "margin": [record(one) for one in account.margin_changes],
        }

    return {
        "accounts": {key: of(account) for key, account in engine.accounts.items()},
        "clock": engine.clock_ms,
        "index": exchange.index,
        "prices": dict(engine.prices),
        "ids": [engine.order_ids.last, engine.algo_ids.last, engine.amendment_ids.last],
        "liquidity": engine.liquidity.dump(),
    }


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal, or the entries that are not."""
    for key, theirs in expected["accounts"].items():
        mine = found["accounts"][key]
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            assert mine[name] == value, f"{name} of {key}"
    assert found == expected


def test_after_every_batch_the_file_holds_everything(world: Market, tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    exchange = open_exchange(world, path)
    moments: list[tuple[int, dict[str, Any]]] = []

    def remember() -> None:
        moments.append((path.stat().st_size, everything(exchange)))

    trade_for_a_while(exchange, 1, 300, remember)
    whole = path.read_bytes()
    state = moments[-1][1]["accounts"]
    # The run was no quiet one.
    assert all(len(state[key]["orders"]) > 20 for key in state)
    assert any(moment["accounts"][key]["triggered"] for _, moment in moments for key in state)
    assert exchange.index > 12
    exchange.close()
    rng = random.Random(2)
    for size, expected in [*rng.sample(moments, 12), moments[-1]]:
        # Killed while the next line was being written: some of it is there.
        line_end = whole.find(b"\n", size)
        torn = b"" if line_end < 0 else whole[size : rng.randint(size, line_end)]
        path = tmp_path / f"copy{size}.jsonl"
        path.write_bytes(whole[:size] + torn)
        again = open_exchange(world, path)
        found = everything(again)
        again.close()
        # The clock may have run on without anything worth a line.
        assert_same(found, expected)


def test_a_restarted_exchange_plays_on_as_if_nothing_had_been(world: Market, tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    first, other = open_exchange(world, path), open_exchange(world, None)
    for exchange in (first, other):
        trade_for_a_while(exchange, 3, 120, lambda: None)
    first.close()
    again = open_exchange(world, path)
    for exchange in (again, other):
        trade_for_a_while(exchange, 4, 150, lambda: None)
    assert_same(everything(again), everything(other))
    again.close()


def test_a_kill_between_two_candles_opens_the_next_one(world: Market, tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    exchange = open_exchange(world, path)
    desk.place_order(
        exchange.engine,
        exchange.engine.accounts["alice"],
        BOUGHT,
    )
    exchange.flush()
    while exchange.index < 7:
        exchange.advance()
    # What `advance` does, up to the closed candle: the funding at the next open is still to come.
    exchange.book_funding_inside()
    play_candle(exchange.engine, exchange.history.candle(7))
    exchange.end_candle()
    dead, exchange._state = exchange._state, None  # the process dies here
    assert dead is not None
    dead.close()
    other = open_exchange(world, None)
    desk.place_order(other.engine, other.engine.accounts["alice"], BOUGHT)
    while other.index < 8:
        other.advance()
    again = open_exchange(world, path)
    assert_same(everything(again), everything(other))
    fundings = [one for one in again.engine.accounts["alice"].income if one.income_type == "FUNDING_FEE"]
    assert len(fundings) == 1
    again.close()


def test_secrets_stay_out_of_the_file(world: Market, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.jsonl"
    exchange = open_exchange(world, path)
    trade_for_a_while(exchange, 1, 20, lambda: None)
    exchange.close()
    assert "secret" not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


def test_a_file_that_does_not_fit_is_refused(
    world: Market, market: Callable[..., Market], tmp_path: Path
) -> None:
    path = tmp_path / "state.jsonl"
    exchange = open_exchange(world, path)
    with pytest.raises(ConfigError, match="another exchange is running on"):
        open_exchange(world, path)
    exchange.advance()
    exchange.close()
    kept = path.read_bytes()
    with pytest.raises(ConfigError, match=r"belongs to another market: its symbols"):
        PaperExchange(ReplayFeed(market({"BTCUSDT": [(1.0,) * 4] * 40}), 2), state=path)
    with pytest.raises(ConfigError, match=r"an account with the API key 'bob', which is not given"):
        PaperExchange(ReplayFeed(world, 2), [PaperAccount("alice", "a")], state=path)
    assert path.read_bytes() == kept  # a refused start changes nothing
    for content, message in (
        (b"hello\n", "is damaged"),
        (b'{"format": "else"}\n', "is no state file"),
        (b'{"format": "perpgym paper exchange", "version": 9}\n', "version 9"),
        (b"", "is no state file"),
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            open_exchange(world, path)
    path.write_bytes(kept)
    path.with_name(path.name + ".new").write_bytes(b"half of a rewr")  # killed while the journal was folded
    again = open_exchange(world, path)
    assert again.index == 3
    again.close()


def test_a_new_account_may_join(world: Market, tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    alice = PaperAccount("alice", "a", D(100))
    exchange = PaperExchange(ReplayFeed(world, 2), [alice], state=path)
    exchange.advance()
    exchange.close()
    joined = PaperExchange(ReplayFeed(world, 2), [alice, PaperAccount("carol", "c", D(7))], state=path)
    assert joined.engine.accounts["carol"].wallet_usdt == 7
    joined.close()


async def test_a_server_with_a_state_file_goes_on(world: Market, tmp_path: Path) -> None:
    accounts = [PaperAccount("alice", "alice-secret")]
    path = tmp_path / "state.jsonl"
    with PaperServer.start(ReplayFeed(world, 2), accounts, state=path) as server:
        async with paper_client(server) as alice:
            await alice.order(newClientOrderId="before")
            await asyncio.to_thread(server.advance, 3)
    with PaperServer.start(ReplayFeed(world, 2), accounts, state=path) as server:
        async with paper_client(server) as alice:
            assert [row["clientOrderId"] for row in await alice.orders()] == ["before"]
            assert (await asyncio.to_thread(server.state))["index"] == 5


# --- a process that is killed -------------------------------------------------------------------------


class Process:
    """`python -m live.paper` on a state file, in lock-step, and what a client needs to talk to it."""

    def __init__(self, state: Path) -> None:
        command = [sys.executable, "-m", "live.paper", "--port", "0", "--speed", "max", "--state", str(state)]
        command += ["--symbol", "BTCUSDT", "--interval", "1h", "--wallet", "100000", "--seed", "7"]
        command += ["--api-key", "alice", "--api-secret", "alice-secret"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}
        )
        assert self.process.stdout is not None
        self.rest_url = ""
        while not self.rest_url:
            line = self.process.stdout.readline()
            assert line, "the process ended before it listened"
            found = re.search(r"REST (http://\S+?)(/fapi)?(\s|$)", line)
            self.rest_url = found[1] if found else ""
        self.ws_url = self.rest_url.replace("http", "ws") + "/"

    def kill(self) -> None:
        """No goodbye."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Told:
    """What the exchange told its client before it died: replies, and fills over the user stream."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self.accepted: dict[str, int] = {}
        self.fills: dict[int, tuple[str, str]] = {}
        self.candles = 0


class Remote(PaperClient):
    """A client of an exchange in another process: the clock has to be asked for."""

    time_ms = 0

    def now_ms(self) -> int:
        return self.time_ms


async def trade_until_killed(process: Process, told: Told, rng: random.Random, run: int) -> None:
    async with aiohttp.ClientSession() as session:
        alice = Remote(session, process, "alice", "alice-secret")  # type: ignore[arg-type]
        alice.time_ms = (await alice.public("/fapi/v1/time")).body["serverTime"]
        user = await alice.hear(f"private/ws/{await alice.listen_key()}")

        async def listen() -> None:
            async for message in user:
                event = json.loads(message.data)
                if event["e"] == "ORDER_TRADE_UPDATE" and event["o"]["x"] == "TRADE":
                    assert event["o"]["t"] not in told.fills
                    told.fills[event["o"]["t"]] = (event["o"]["l"], event["o"]["L"])

        async def order() -> None:
            for number in range(10_000):
                name = f"r{run}-{number}"
                told.asked.add(name)
                kind: dict[str, Any] = {}
                if rng.random() < 0.3:
                    price = (await alice.public("/fapi/v2/ticker/price", symbol="BTCUSDT")).body["price"]
                    near = f"{float(price) * rng.uniform(0.99, 1.01):.1f}"
                    kind = {"type": "LIMIT", "timeInForce": "GTC", "price": near}
                side = rng.choice(["BUY", "SELL"])
                reply = await alice.order(newClientOrderId=name, side=side, **kind)
                if reply.status == 200:
                    told.accepted[name] = reply.body["orderId"]
                if number % 4 == 3:
                    async with session.post(f"{process.rest_url}/paper/advance") as advanced:
                        told.candles = (await advanced.json())["index"]
                    alice.time_ms += HOUR_MS

        async def kill() -> None:
            goal, patience_s = len(told.accepted) + rng.randint(11, 40), time.monotonic() + 60
            while len(told.accepted) < goal and time.monotonic() < patience_s:
                await asyncio.sleep(0.001)
            await asyncio.sleep(rng.uniform(0, 0.01))
            process.kill()

        # Whoever talks to a killed process hears of it in one way or another.
        await asyncio.gather(listen(), order(), kill(), return_exceptions=True)
        await alice.close()


async def test_a_process_killed_at_any_moment_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    told, rng = Told(), random.Random(20)
    for run in range(4):
        await trade_until_killed(Process(state), told, rng, run)
    process = Process(state)
    try:
        async with aiohttp.ClientSession() as session:
            alice = Remote(session, process, "alice", "alice-secret")  # type: ignore[arg-type]
            alice.time_ms = (await alice.public("/fapi/v1/time")).body["serverTime"]
            account = (await alice.signed("GET", "/fapi/v3/account")).body
            trades = await page(alice, "/fapi/v1/userTrades", "id")
            orders = await page(alice, "/fapi/v1/allOrders", "orderId")
            income = await income_pages(alice)
            async with session.get(f"{process.rest_url}/paper/state") as reply:
                place = await reply.json()
    finally:
        process.kill()
    assert len(told.accepted) > 40
    assert told.fills
    assert place["index"] >= told.candles
    # Every order that was acknowledged is there, none twice, and none that nobody sent.
    ids = {row["clientOrderId"]: row["orderId"] for row in orders}
    assert len(orders) == len(ids)
    assert told.accepted.items() <= ids.items()
    assert set(ids) <= told.asked
    # Every fill that was told of is there, once, as it was told.
    assert [row["id"] for row in trades] == list(range(1, len(trades) + 1))
    booked = {row["id"]: (row["qty"], row["price"]) for row in trades}
    assert told.fills.items() <= booked.items()
    # And the money is what the fills make of it.
    wallet = sum((D(row["income"]) for row in income), D(0))
    assert D(account["totalWalletBalance"]) == wallet
    fees = sum((D(row["commission"]) for row in trades), D(0))
    assert -fees == sum((D(r["income"]) for r in income if r["incomeType"] == "COMMISSION"), D(0))
    held = sum((D(row["qty"]) * (1 if row["side"] == "BUY" else -1) for row in trades), D(0))
    assert sum((D(row["positionAmt"]) for row in account["positions"]), D(0)) == held


async def income_pages(alice: PaperClient) -> list[Any]:
    """All rows of the income history: how many there are depends on how much a run got done before it was killed."""
    found: list[Any] = []
    for number in itertools.count(1):
        rows = (await alice.signed("GET", "/fapi/v1/income", limit=1000, startTime=1, page=number)).body
        if not rows:
            break
        found += rows
    return found


async def page(alice: PaperClient, path: str, key: str) -> list[Any]:
    """All rows of a list that is paged by id."""
    found: list[Any] = []
    while True:
        since = {"fromId" if key == "id" else "orderId": found[-1][key] + 1 if found else 1}
        rows = (await alice.signed("GET", path, symbol="BTCUSDT", limit=1000, **since)).body
        if not rows:
            return found
        found += rows
