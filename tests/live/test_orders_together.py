"""The orders of one step at the exchange: which go at the same time, and which wait for which."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from live_support import Rig, env_config, rig, step
from support import market_of

from envs.account import Order, OrderStatus, Side
from envs.errors import OrderRejectedError
from live.exchange.base import OrderReport
from live.exchange.binance import BinanceExchange

PRICES = {"BTCUSDT": 50_000.0, "ETHUSDT": 2_500.0, "BNBUSDT": 500.0}
THREE = market_of({symbol: [(price,) * 4] * 8 for symbol, price in PRICES.items()})
# 10000 USDT at leverage 20.
CONFIG = env_config(exchange_leverage=20)
_PATIENCE_S = 20.0


class Traced(BinanceExchange):
    """Notes when each order is begun and ended, and does to it what it is told."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trace: list[tuple[str, str]] = []
        self.meet = 1
        """So many orders must be under way before any of them goes on."""
        self.fail: dict[str, BaseException] = {}
        self._met = asyncio.Event()

    def forget(self, *, meet: int = 1) -> None:
        self.trace.clear()
        self.meet = meet
        self._met = asyncio.Event()

    async def place(self, order: Order) -> OrderReport:
        self.trace.append(("begin", order.symbol))
        if len(self.trace) >= self.meet:
            self._met.set()
        async with asyncio.timeout(_PATIENCE_S):
            await self._met.wait()
        try:
            if order.symbol in self.fail:
                raise self.fail.pop(order.symbol)
            return await super().place(order)
        finally:
            self.trace.append(("end", order.symbol))


def traced(one: Rig) -> Traced:
    assert isinstance(one.exchange, Traced)
    return one.exchange


def test_orders_that_open_are_under_way_together() -> None:
    with rig(THREE, config=CONFIG, exchange_type=Traced) as one:
        one.stack.reset()
        traced(one).forget(meet=3)
        # 5000 + 5000 + 5000 of notional: 750 of 10000 USDT bound.
        execution, _ = step(one, 0.1, -2.0, 10.0)
        assert [r.status for r in execution.results] == [OrderStatus.FILLED] * 3
        assert [what for what, _ in traced(one).trace] == ["begin"] * 3 + ["end"] * 3
        # They are begun in the order of the symbols.
        assert [symbol for _, symbol in traced(one).trace[:3]] == list(PRICES)
        held = [one.held(symbol) for symbol in PRICES]
        assert held == [Decimal("0.1"), Decimal("-2"), Decimal("10")]
        assert [row.result for row in one.stack.records] == ["filled"] * 3


def test_what_shrinks_has_ended_before_anything_grows() -> None:
    with rig(THREE, config=CONFIG, exchange_type=Traced) as one:
        one.stack.reset()
        step(one, 0.2, 4.0, 0.0)
        traced(one).forget(meet=2)
        execution, _ = step(one, 0.1, 0.0, 10.0)
        assert [r.status for r in execution.results] == [OrderStatus.FILLED] * 3
        trace = traced(one).trace
        assert {symbol for _, symbol in trace[:4]} == {"BTCUSDT", "ETHUSDT"}
        assert [what for what, _ in trace] == ["begin", "begin", "end", "end", "begin", "end"]
        assert trace[4:] == [("begin", "BNBUSDT"), ("end", "BNBUSDT")]


def test_where_margin_may_not_do_for_all_they_go_one_after_another() -> None:
    # 50000 of notional each bind 5000 of 10000 USDT at leverage 10: the first one's fee leaves too little for the
    # second, whichever that is, so the first symbol has to come first, as in the simulation.
    with rig(THREE, config=env_config(exchange_leverage=10), exchange_type=Traced) as one:
        one.stack.reset()
        traced(one).forget()
        execution, _ = step(one, 1.0, 20.0, 0.0)
        pair = ("BTCUSDT", "ETHUSDT")
        assert traced(one).trace == [(what, symbol) for symbol in pair for what in ("begin", "end")]
        assert [r.status for r in execution.results[:2]] == [OrderStatus.FILLED, OrderStatus.REJECTED]
        assert execution.results[1].error == "margin is insufficient"


def test_a_refusal_is_the_refused_orders_alone() -> None:
    config = env_config(
        exchange_leverage=20, max_leverage=3.0, action={"scheme": "target", "stop_loss_fraction": 0.02}
    )
    with rig(THREE, config=config, exchange_type=Traced) as one:
        one.stack.reset()
        traced(one).forget(meet=3)
        traced(one).fail["ETHUSDT"] = OrderRejectedError("a filter says no", code=-4003)
        execution, _ = step(one, 0.2, 0.2, 0.2)
        by_symbol = {result.planned.symbol: result for result in execution.results}
        assert by_symbol["ETHUSDT"].status is OrderStatus.REJECTED
        assert by_symbol["ETHUSDT"].error == "a filter says no"
        account = execution.account
        assert one.held("ETHUSDT") == account.positions["ETHUSDT"].quantity == 0
        assert account.positions["ETHUSDT"].protection.stop_price is None
        for symbol in ("BTCUSDT", "BNBUSDT"):
            assert by_symbol[symbol].status is OrderStatus.FILLED
            assert account.positions[symbol].quantity == one.held(symbol) > 0
            assert account.positions[symbol].protection.stop_price is not None
        assert execution.emergency is None
        # The next step knows the whole account.
        traced(one).forget()
        execution, _ = step(one, 0.0, 0.2, 0.0)
        assert [one.held(symbol) > 0 for symbol in PRICES] == [False, True, False]


def test_what_is_no_answer_of_the_exchange_ends_the_step_after_the_others_have_ended() -> None:
    with rig(THREE, config=CONFIG, exchange_type=Traced) as one:
        one.stack.reset()
        traced(one).forget(meet=3)
        traced(one).fail["BTCUSDT"] = ZeroDivisionError("a bug")
        with pytest.raises(ZeroDivisionError, match="a bug"):
            step(one, 0.1, 1.0, 1.0)
        assert [what for what, _ in traced(one).trace] == ["begin"] * 3 + ["end"] * 3
        assert [one.held(symbol) for symbol in PRICES] == [0, 1, 1]
        manual = Order("BTCUSDT", Side.BUY, Decimal("0.1"), client_order_id="web_1")
        assert (
            one.bridge.call(BinanceExchange.place(one.exchange, manual)).executed_quantity == manual.quantity
        )
