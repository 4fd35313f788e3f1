"""The exchange's Decimal engine against the simulator's compiled kernel, over random candles and orders."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from envs import kernel
from envs.account import Side
from envs.instruments import get_instruments
from envs.settings import EnvConfig, config_record, symbol_table
from live.paper import algo_desk, desk
from live.paper.account import Account
from live.paper.errors import ApiError
from live.paper.orders import AlgoRequest, OrderRequest

D = Decimal

SYMBOLS = ("BTCUSDT", "ETHUSDT")
FIRST_PRICE = (50_000.0, 2_500.0)
STEPS = 30
SLIPPAGE_BPS = 3


class Twin:
    """The kernel's side: the arrays of one account."""

    def __init__(self, market: Any, wallet: float) -> None:
        instruments = get_instruments(SYMBOLS)
        config = EnvConfig(slippage_bps=SLIPPAGE_BPS)
        self.config = config_record(config)[0]
        self.symbols = symbol_table(instruments, config)
        self.symbols["leverage"] = 20.0
        self.market = market.kernel_array()
        self.account = np.zeros(1, kernel.ACCOUNT_DTYPE)
        self.account["wallet"] = wallet
        self.position = np.zeros(2, kernel.POSITION_DTYPE)
        self.order = np.zeros(2, kernel.ORDER_DTYPE)

    def trade(self, index: int, quantity: float) -> bool:
        """One market order at the open of candle `index // 10`; whether it filled."""
        candle, symbol = divmod(index, 10)
        self.order[:] = np.zeros(2, kernel.ORDER_DTYPE)
        self.order[symbol]["code"] = kernel.PLAN_ORDER
        self.order[symbol]["quantity"] = quantity
        kernel.execute_orders(
            self.config, self.symbols, self.account[0], self.position, self.market[candle], self.order
        )
        return bool(self.order[symbol]["outcome"] == kernel.OUTCOME_FILLED)

    def play(self, candle: int) -> None:
        """Play a candle, then open the next."""
        kernel.play_candle(self.config, self.symbols, self.account[0], self.position, self.market[candle])
        if candle + 1 < len(self.market):
            kernel.open_candle(self.symbols, self.account[0], self.position, self.market[candle + 1])


def random_rows(rng: np.random.Generator, first: float, tick: float) -> list[tuple[float, ...]]:
    """Wild candles with gaps, on the tick grid."""
    rows = []
    price = first
    for _ in range(STEPS + 2):
        start = price * (1 + rng.normal(0, 0.004) * (rng.random() < 0.3))
        end = start * (1 + rng.normal(0, 0.02))
        high = max(start, end) * (1 + abs(rng.normal(0, 0.015)))
        low = min(start, end) * (1 - abs(rng.normal(0, 0.015)))
        row = [round(round(value / tick) * tick, 6) for value in (start, high, low, end)]
        rows.append((row[0], max(row), min(row), row[3]))
        price = row[3]
    return rows


def test_engine_and_kernel_book_the_same(market, exchange) -> None:
    seen: Counter[str] = Counter()
    for seed in range(200):
        account = run_both(seed, market, exchange)
        for trade in (trade for rows in account.trades.values() for trade in rows):
            liquidated = trade.order.client_order_id.startswith("autoclose-")
            seen["LIQUIDATION" if liquidated else trade.order.orig_type] += 1
        seen.update(row.income_type for row in account.income)
    # The comparison is worth something only if it met every kind of event.
    assert seen["MARKET"] > 1000
    assert min(seen["STOP_MARKET"], seen["TAKE_PROFIT_MARKET"], seen["FUNDING_FEE"]) > 100
    assert min(seen["LIQUIDATION"], seen["INSURANCE_CLEAR"]) > 15


def run_both(seed: int, market: Any, exchange: Any) -> Account:
    """One random run of both, compared after every change."""
    rng = np.random.default_rng(seed)
    rows = {
        symbol: random_rows(rng, first, tick)
        for symbol, first, tick in zip(SYMBOLS, FIRST_PRICE, (0.1, 0.01), strict=True)
    }
    hours = [(hour, float(rng.normal(0, 0.001))) for hour in range(0, STEPS + 8, 8)]
    world = market(rows, funding=dict.fromkeys(SYMBOLS, hours))  # type: ignore[arg-type]
    paper = exchange(world, slippage_bps=str(SLIPPAGE_BPS), wallet="10000")
    (account,) = paper.engine.accounts.values()
    twin = Twin(world, 10_000.0)

    for candle in range(1, STEPS + 1):
        for column, symbol in enumerate(SYMBOLS):
            if rng.random() < 0.5:
                _order(rng, paper, account, twin, candle, column, symbol)
            _set_triggers(rng, paper, account, twin, column, symbol)
        _compare(account, twin)
        paper.advance()
        twin.play(candle)
        _compare(account, twin)
        if twin.account[0]["liquidated"]:
            break
    return account


def _order(rng: Any, paper: Any, account: Account, twin: Twin, candle: int, column: int, symbol: str) -> None:
    price = float(paper.engine.prices[symbol])
    equity = max(float(account.wallet_usdt), 100.0)
    steps = round(float(rng.normal(0, 10)) * equity / price * 1000)
    if abs(steps) * price / 1000 < 60:
        return
    request = OrderRequest(symbol, Side.BUY if steps > 0 else Side.SELL, "MARKET", D(abs(steps)) / 1000)
    filled = True
    try:
        desk.place_order(paper.engine, account, request)
    except ApiError as problem:
        assert problem.code == -2019
        filled = False
    assert twin.trade(candle * 10 + column, steps / 1000) == filled


def _set_triggers(rng: Any, paper: Any, account: Account, twin: Twin, column: int, symbol: str) -> None:
    """Replace the stop and the take-profit by others on either side of the price, where they do not fire."""
    algo_desk.cancel_all_algo_orders(paper.engine, account, symbol)
    twin.position[column]["stop_price"] = twin.position[column]["take_profit_price"] = 0.0
    quantity = account.position(symbol).quantity
    if not quantity or rng.random() < 0.6:
        return
    sign = 1 if quantity > 0 else -1
    tick = D("0.1") if symbol == "BTCUSDT" else D("0.01")
    price = paper.engine.prices[symbol]
    for kind, name, direction in (
        ("STOP_MARKET", "stop_price", -sign),
        ("TAKE_PROFIT_MARKET", "take_profit_price", sign),
    ):
        level = price * (1 + direction * D(repr(abs(float(rng.normal(0, 0.008))) + 0.0005)))
        level = (level / tick).to_integral_value() * tick
        algo_desk.place_algo_order(
            paper.engine,
            account,
            AlgoRequest(symbol, Side.SELL if sign > 0 else Side.BUY, kind, level, close_position=True),
        )
        twin.position[column][name] = float(level)


def _compare(account: Account, twin: Twin) -> None:
    assert float(account.wallet_usdt) == pytest.approx(float(twin.account[0]["wallet"]), rel=1e-9, abs=1e-7)
    for column, symbol in enumerate(SYMBOLS):
        position = account.position(symbol)
        assert float(position.quantity) == pytest.approx(twin.position[column]["quantity"], abs=1e-9)
        assert float(position.entry_price) == pytest.approx(twin.position[column]["entry_price"], rel=1e-9)
    assert sum(len(trades) for trades in account.trades.values()) == twin.account[0]["trades"]
