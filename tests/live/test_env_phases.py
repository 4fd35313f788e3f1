"""LiveEnv's phases over a real paper exchange, with numbers worked out by hand and with requests that go wrong."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import pytest
from live_support import Rig, Scripted, env_config, flat_market, rig, step
from support import START_MS, market_of

from agents.run import Ending, run
from envs.account import Approved, Leg, Order, OrderStatus, Side
from envs.errors import ActionError, ExchangeUnavailableError, OutcomeUnknownError
from envs.risk import RiskLimits
from live.console import LiveConsole
from live.exchange.base import OrderReport, TriggerOrder, TriggerReport, client_order_id
from live.exchange.binance import BinanceExchange
from live.paper import algo_desk, desk
from live.paper.orders import AlgoRequest, OrderRequest

HOUR = 3_600_000
FEE = Decimal("0.0005")
# Patience is no part of what is tested: the rig's sleep is a list.
LIMITS = RiskLimits(max_drawdown_fraction=0.5, emergency_tries=3, emergency_delay_s=1.0)


def manual(one: Rig, side: Side, quantity: str, symbol: str = "BTCUSDT") -> None:
    """Somebody trades on the account by hand."""
    exchange = one.server.exchange
    order = OrderRequest(symbol, side, "MARKET", Decimal(quantity), client_order_id="web_abc")
    desk.place_order(exchange.engine, one.account, order)


def close_ms(index: int) -> int:
    """Close of candle `index`."""
    return START_MS + (index + 1) * HOUR - 1


# --- what is refused --------------------------------------------------------------------------------------


def test_only_approved_plans_are_executed_and_each_once() -> None:
    with rig(flat_market()) as one:
        one.stack.reset()
        plan = one.env.plan([0.1])
        with pytest.raises(TypeError, match="RiskControl"):
            one.env.execute(plan)
        one.env.execute(Approved(plan))
        with pytest.raises(ActionError, match="already called"):
            one.env.execute(Approved(plan))
        assert one.held() == Decimal("0.1")


def test_an_order_without_margin_is_rejected_and_the_run_goes_on() -> None:
    # 2 BTC at 50000 and leverage 20 bind 5000 USDT; the market opens at 110000: 220000 / 20 = 11000 > 10000.
    rows = [(50_000.0, 50_000.0, 50_000.0, 50_000.0), *[(110_000.0,) * 4] * 4]
    with rig(market_of(rows)) as one:
        one.stack.reset()
        execution, result = step(one, 2.0)
        assert execution.results[0].status is OrderStatus.REJECTED
        assert execution.results[0].error == "margin is insufficient"
        assert (one.held(), execution.emergency, result[2]) == (0, None, False)
        assert one.row()["result"] == "rejected"
        step(one, 0.01)
        assert one.held() == Decimal("0.01")


def test_a_symbol_that_fails_does_not_hide_what_the_other_filled() -> None:
    two = market_of({"BTCUSDT": [(50_000.0,) * 4] * 6, "ETHUSDT": [(2_500.0,) * 4] * 6})
    with rig(two, limits=LIMITS, with_proxy=True) as one:
        one.stack.reset()
        assert one.proxy is not None
        # One order is filled; the other is answered with 503 three times, and each time asked about.
        one.proxy.faults.extend([("POST /fapi/v1/order ETHUSDT", "503")] * 3)
        execution, result = step(one, 0.1, 1.0)
        assert [r.status for r in execution.results] == [OrderStatus.FILLED, OrderStatus.FAILED]
        assert execution.emergency is not None and execution.emergency.succeeded
        assert "ETHUSDT failed" in execution.emergency.reason
        assert (one.held("BTCUSDT"), one.held("ETHUSDT")) == (0, 0)
        kinds = [(r.symbol, r.action_type, r.result) for r in one.stack.records]
        assert kinds == [
            ("BTCUSDT", "open_long", "filled"),
            ("ETHUSDT", "open_long", "failed"),
            ("BTCUSDT", "emergency_close", "filled"),
            ("BTCUSDT", "end", "none"),
            ("ETHUSDT", "end", "none"),
        ]
        assert result[2]


# --- requests whose outcome is unclear ------------------------------------------------------------------------


def test_an_order_whose_reply_is_lost_is_asked_about_and_not_sent_again() -> None:
    with rig(flat_market(), limits=LIMITS, with_proxy=True) as one:
        one.stack.reset()
        assert one.proxy is not None
        one.proxy.faults.append(("POST /fapi/v1/order", "mute"))
        execution, _ = step(one, 0.2)
        assert execution.results[0].status is OrderStatus.FILLED
        assert one.held() == Decimal("0.2")
        assert one.proxy.seen.count("POST /fapi/v1/order") == 1
        assert one.row(0)["commission"] == Decimal("0.2") * 50_000 * FEE


class Unresolved(BinanceExchange):
    """Cannot find out what became of the first order, which was filled."""

    unclear = 1

    async def place(self, order: Order) -> OrderReport:
        report = await super().place(order)
        if self.unclear:
            self.unclear -= 1
            raise OutcomeUnknownError("it could not be found out whether it was placed")
        return report


def test_an_order_that_stays_unclear_runs_the_emergency_and_its_fill_is_not_lost() -> None:
    with rig(flat_market(), limits=LIMITS, exchange_type=Unresolved) as one:
        one.stack.reset()
        execution, _ = step(one, 0.2)
        assert execution.results[0].status is OrderStatus.UNKNOWN
        assert execution.emergency is not None and execution.emergency.succeeded
        assert one.held() == 0
        logged = [trade for r in one.stack.records for trade in r.trade_id.split(";") if trade]
        assert sorted(logged) == ["1", "2"], "the fill of the unclear order and that of its close"


def test_an_exchange_that_is_gone_ends_in_bounded_tries_and_a_halt() -> None:
    with rig(flat_market(), limits=LIMITS, with_proxy=True) as one:
        one.stack.reset()
        step(one, 0.2)
        assert one.proxy is not None
        one.proxy.down = True
        execution = one.stack.execute(one.stack.plan([0.4]))
        assert execution.results[0].status is OrderStatus.UNKNOWN
        report = execution.emergency
        assert report is not None and not report.succeeded
        assert report.tries == 3
        assert one.slept_s == [1.0, 2.0]
        assert "NOT FLAT after 3 tries" in one.risk.state.halted_reason
        assert one.held() == Decimal("0.2")
        one.proxy.down = False


@pytest.mark.parametrize(("ban_s", "flat"), [(120, True), (7_200, False)])
def test_the_emergency_waits_out_a_ban_of_minutes_and_no_ban_of_hours(ban_s: int, flat: bool) -> None:
    with rig(flat_market(), limits=LIMITS) as one:
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if seconds > ban_s - 60:  # then it is over, on both sides
                one.server.clear_faults()
                one.exchange._rest.budget.forgive()

        one.risk._sleep = sleep
        one.stack.reset()
        step(one, 0.2)
        one.happen(kind="banned", path="/fapi/v1/order", method="POST", retry_after_s=ban_s)
        execution = one.stack.execute(one.stack.plan([0.4]))
        assert execution.results[0].status is OrderStatus.FAILED
        report = execution.emergency
        assert report is not None and report.succeeded is flat
        assert (report.tries, one.held()) == ((2, 0) if flat else (3, Decimal("0.2")))
        assert slept == ([pytest.approx(ban_s, abs=30)] if flat else [1.0, 2.0])
        screen = io.StringIO()
        LiveConsole(out=screen).emergency(report)
        assert f"after {report.tries} tries" in screen.getvalue()


def test_an_exchange_that_fails_while_a_candle_is_awaited_runs_the_emergency() -> None:
    class Gone(BinanceExchange):
        fails = False

        async def funding_payments(self, *, since_ms: int) -> list[Any]:
            if self.fails:
                raise ExchangeUnavailableError("the exchange does not answer")
            return await super().funding_payments(since_ms=since_ms)

    with rig(flat_market(), limits=LIMITS, exchange_type=Gone) as one:
        one.stack.reset()
        one.stack.execute(one.stack.plan([0.2]))
        one.happen(kind="manual_trade", symbol="BTCUSDT", side="SELL", quantity="0.1")
        one.exchange.fails = True  # type: ignore[attr-defined]
        _, _, terminated, _, info = one.stack.advance()
        assert terminated
        assert info["emergency"].succeeded
        assert "does not answer" in one.risk.state.halted_reason
        assert one.held() == 0


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (-2023, "User in liquidation mode now."),
        (-4088, "User can not place order currently."),
        (-4192, "Trade forbidden due to Cooling-off Period."),
    ],
)
def test_an_account_that_may_not_trade_now_ends_the_run_flat(code: int, text: str) -> None:
    with rig(flat_market(), limits=LIMITS) as one:
        one.stack.reset()
        step(one, 0.2)
        # The order, and the first try to close.
        refusal = {"code": code, "message": text, "count": 2}
        one.happen(kind="refuse", method="POST", path="/fapi/v1/order", **refusal)
        execution, result = step(one, 0.4)
        assert execution.results[0].status is OrderStatus.FAILED and text in execution.results[0].error
        assert execution.emergency is not None and execution.emergency.succeeded
        assert (result[2], one.held(), one.slept_s) == (True, 0, [1.0])
        assert str(code) in one.risk.state.halted_reason


# --- triggers -----------------------------------------------------------------------------------------------

WITH_STOP = env_config(
    action={"scheme": "quantity", "stop_loss_fraction": 0.02, "take_profit_fraction": 0.04}
)


def resting(one: Rig) -> list[tuple[str, Decimal, Decimal]]:
    """(type, trigger price, quantity) of the algo orders at the exchange."""
    orders = one.account.open_algo_orders.values()
    return sorted((o.type, o.trigger_price, o.quantity) for o in orders)


def test_stop_and_take_profit_rest_at_the_exchange_and_go_with_the_position() -> None:
    with rig(flat_market(), config=WITH_STOP) as one:
        one.stack.reset()
        step(one, 0.2)
        assert resting(one) == [
            ("STOP_MARKET", Decimal(49_000), Decimal("0.2")),
            ("TAKE_PROFIT_MARKET", Decimal(52_000), Decimal("0.2")),
        ]
        step(one, 0.3)
        assert [quantity for _, _, quantity in resting(one)] == [Decimal("0.3")] * 2
        step(one, -0.1)
        assert resting(one) == [
            ("STOP_MARKET", Decimal(51_000), Decimal("0.1")),
            ("TAKE_PROFIT_MARKET", Decimal(48_000), Decimal("0.1")),
        ]
        step(one, 0.0)
        assert resting(one) == []


def test_a_stop_that_would_trigger_at_once_closes_the_position_again() -> None:
    # Decided at 50000 with the stop at 49000; the market opens at 48500.
    rows = [(50_000.0,) * 4, *[(48_500.0,) * 4] * 4]
    with rig(market_of(rows), config=WITH_STOP) as one:
        one.stack.reset()
        execution, result = step(one, 0.2)
        assert one.held() == 0 and resting(one) == []
        assert execution.emergency is None and not result[2]
        first, second = one.stack.records[:2]
        assert (first.action_type, first.operation, first.quantity) == ("open_long", "BUY", Decimal("0.2"))
        assert (second.action_type, second.operation, second.quantity) == (
            "emergency_close",
            "SELL",
            Decimal("0.2"),
        )
        assert "position closed again" in first.error and "position closed again" in second.error
        # Bought and sold at 48500: 2 * 0.2 * 48500 * 0.0005 = 9.7 of fees.
        assert second.balance == Decimal("9990.3")
        assert second.position_side == "FLAT"


class NoStops(BinanceExchange):
    """Takes orders, but neither stops nor the orders that would close what is without one."""

    async def place_trigger(self, trigger: TriggerOrder) -> TriggerReport:
        raise ExchangeUnavailableError("the algo service does not answer")

    async def place(self, order: Order) -> OrderReport:
        if order.leg is Leg.EMERGENCY and self.refusals:
            self.refusals -= 1
            raise ExchangeUnavailableError("nor do orders go through")
        return await super().place(order)

    refusals = 1


def test_a_position_that_can_be_neither_guarded_nor_closed_is_an_emergency() -> None:
    with rig(flat_market(), config=WITH_STOP, limits=LIMITS, exchange_type=NoStops) as one:
        one.stack.reset()
        execution, _ = step(one, 0.2)
        report = execution.emergency
        assert report is not None and report.succeeded
        assert "neither guarded nor closed" in report.reason
        assert one.held() == 0


class SlowCancel(BinanceExchange):
    """Fails to cancel a trigger, once."""

    failures = 0

    async def cancel_trigger(self, symbol: str, client_order_id: str) -> TriggerReport | None:
        if self.failures:
            self.failures -= 1
            raise ExchangeUnavailableError("the algo service does not answer")
        return await super().cancel_trigger(symbol, client_order_id)


def test_a_trigger_that_could_not_be_cancelled_is_not_forgotten() -> None:
    with rig(flat_market(), config=WITH_STOP, limits=LIMITS, exchange_type=SlowCancel) as one:
        one.stack.reset()
        step(one, 0.2)
        one.exchange.failures = 1  # type: ignore[attr-defined]
        step(one, 0.3)
        # The position could not be brought in step with its stops, so it was closed; nothing is left behind.
        assert one.held() == 0
        assert resting(one) == []


def test_the_protective_stop_rests_at_the_exchange_and_goes_with_the_position() -> None:
    limits = RiskLimits(max_drawdown_fraction=0.1, protective_stop=True)
    with rig(flat_market(), limits=limits) as one:
        one.stack.reset()
        step(one, 0.4)
        # 0.4 BTC are 20000 USDT: room 1000 of 20000 is 5 %, less the fee of closing of 0.05 %: 4.95 %.
        assert resting(one) == [("STOP_MARKET", Decimal(47_525), Decimal("0.4"))]
        step(one, 0.0)
        assert resting(one) == []


def test_a_protective_stop_that_fires_is_a_row_and_no_order_is_left() -> None:
    rows = [(50_000.0,) * 4] * 2 + [(50_000.0, 50_000.0, 47_000.0, 47_000.0)] + [(47_000.0,) * 4] * 3
    limits = RiskLimits(max_drawdown_fraction=0.1, protective_stop=True)
    with rig(market_of(rows), limits=limits) as one:
        one.stack.reset()
        step(one, 0.4)
        _, result = step(one, 0.4)
        assert result[4]["events"][0].action_type == "stop_loss"
        # Moved up with the fee of the opening: room 990 of 20000 is 4.95 %, less 0.05 %: 4.9 %.
        assert one.stack.records[2].fill_price == Decimal(47_550)
        assert resting(one) == []
        # 9990 - 0.4 * 2450 - 0.4 * 47550 * 0.0005: just within the limit of 9000, so no emergency.
        assert one.stack.records[2].equity == Decimal("9000.49")
        assert not result[2]


# --- what others do -------------------------------------------------------------------------------------------


def test_a_fill_by_hand_is_a_row_and_part_of_the_position() -> None:
    with rig(flat_market()) as one:
        one.stack.reset()
        one.stack.execute(one.stack.plan([0.2]))
        manual(one, Side.BUY, "0.1")
        one.stack.advance()
        row = one.row()
        assert (row["action_type"], row["trade_id"], row["quantity"]) == (
            "increase_long",
            "2",
            Decimal("0.1"),
        )
        assert row["error"] == "not our order: web_abc"
        assert row["position_quantity"] == Decimal("0.3")
        step(one, 0.3)
        assert one.row(2)["action_type"] == "hold"


def test_a_fill_between_the_candle_and_the_order_is_not_lost() -> None:
    with rig(flat_market()) as one:
        one.stack.reset()
        step(one, 0.2)
        manual(one, Side.SELL, "0.2")  # the account was read after the candle; now this; then the order
        step(one, 0.3)
        logged = [trade for r in one.stack.records for trade in r.trade_id.split(";") if trade]
        assert sorted(logged) == ["1", "2", "3"]
        assert one.held() == Decimal("0.1")
        assert one.row()["position_quantity"] == Decimal("0.1")


def test_a_position_closed_by_hand_takes_its_triggers_with_it() -> None:
    with rig(flat_market(), config=WITH_STOP) as one:
        one.stack.reset()
        one.stack.execute(one.stack.plan([0.2]))
        manual(one, Side.SELL, "0.2")
        _, _, terminated, _, _ = one.stack.advance()
        assert not terminated
        row = one.row()
        assert (row["action_type"], row["position_side"]) == ("close_long", "FLAT")
        assert resting(one) == []


def test_a_position_turned_round_by_hand_is_not_left_with_the_other_sides_stop() -> None:
    with rig(flat_market(), config=WITH_STOP) as one:
        one.stack.reset()
        one.stack.execute(one.stack.plan([0.2]))
        manual(one, Side.SELL, "0.5")
        one.stack.advance()
        assert one.row()["action_type"] == "flip_to_short"
        assert resting(one) == []
        step(one, -0.3)
        assert one.held() == Decimal("-0.3"), "a hold keeps what the hand made"


def test_a_trigger_that_somebody_else_rests_is_left_alone_until_the_emergency() -> None:
    with rig(flat_market(), config=WITH_STOP) as one:
        one.stack.reset()
        request = AlgoRequest(
            "BTCUSDT", Side.SELL, "STOP_MARKET", Decimal(40_000), Decimal("0.1"), client_algo_id="web_stop"
        )
        algo_desk.place_algo_order(one.server.exchange.engine, one.account, request)
        step(one, 0.2)
        step(one, 0.0)
        assert resting(one) == [("STOP_MARKET", Decimal(40_000), Decimal("0.1"))]
        report = one.risk.run_emergency("test")
        assert report.succeeded and resting(one) == []


def test_liquidation_is_a_row_and_the_end() -> None:
    # 2 BTC at 50000 on 10000 USDT: liquidated on the way to 44000.
    rows = [(50_000.0,) * 4] * 2 + [(50_000.0, 50_000.0, 44_000.0, 44_000.0)] + [(44_000.0,) * 4] * 3
    market = market_of(rows)
    config = env_config(max_leverage=20.0)
    with rig(market, config=config) as one:
        result = run(one.stack, Scripted([2.0], [2.0], [2.0]))
        assert result.ending is Ending.TERMINATED
        kinds = [r.action_type for r in one.stack.records]
        assert kinds == ["open_long", "hold", "liquidation", "end"]
        last = one.stack.records[-1]
        assert (last.position_side, last.equity) == ("FLAT", last.balance)
        assert last.balance >= 0
        fill = one.stack.fills[-1]
        # Wallet 9950 = 10000 - 50 of fee; equity 9950 - 2 (50000 - p) meets maintenance 0.004 * 2 p at p = 45205.
        assert float(fill.price) == pytest.approx((2 * 50_000 - 9_950) / (2 - 0.008), abs=0.1)
        assert last.balance == pytest.approx(
            Decimal(9_950) - 2 * (50_000 - fill.price) - fill.commission, abs=Decimal("1e-6")
        )


# --- money that moves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [Decimal(5_000), Decimal(-4_000)])
def test_a_transfer_is_neither_profit_nor_drawdown(amount: Decimal) -> None:
    limits = RiskLimits(max_drawdown_fraction=0.2)
    with rig(flat_market(), limits=limits) as one:
        one.stack.reset()
        one.stack.execute(one.stack.plan([0.1]))
        one.happen(kind="transfer", amount_usdt=str(amount))
        _, reward, terminated, _, info = one.stack.advance()
        step(one, 0.1)
        fee = Decimal("0.1") * 50_000 * FEE
        row = one.row()
        assert row["balance"] == 10_000 + amount - fee
        assert row["pnl_total"] == -fee
        assert float(row["drawdown"]) == pytest.approx(float(fee / 10_000))
        assert (info["transfers_usdt"], terminated) == (amount, False)
        assert reward == pytest.approx(float(-fee / 10_000), rel=1e-3), "the fee, and not the transfer"
        assert one.risk.state.max_drawdown_fraction < Decimal("0.001")


def test_funding_at_a_boundary_is_in_the_row_whose_orders_follow_it() -> None:
    # Rate 0.1 % at the open of candle 3. Bought 0.2 at the open of candle 1, closed at the open of candle 3: the
    # position before the orders pays 0.2 * 50000 * 0.001 = 10.
    market = market_of([(50_000.0,) * 4] * 6, funding={"BTCUSDT": [(180, 0.001)]})
    with rig(market) as one:
        run(one.stack, Scripted([0.2], [0.2], [0.0], [0.0]), max_steps=4)
        funding = [(r.timestamp, r.funding) for r in one.stack.records if r.funding]
        assert funding == [(close_ms(2), Decimal(-10))]
        balances = {r.timestamp: r.balance for r in one.stack.records}
        assert balances[close_ms(1)] == Decimal(9_995)
        assert balances[close_ms(2)] == Decimal(9_980)


def test_funding_inside_a_candle_is_in_the_row_after_it() -> None:
    # Settled 30 minutes into candle 2, while the position of step 1 is held.
    market = market_of([(50_000.0,) * 4] * 6, funding={"BTCUSDT": [(150, 0.001)]})
    with rig(market) as one:
        run(one.stack, Scripted([0.2], [0.2], [0.2], [0.0]), max_steps=4)
        assert [(r.timestamp, r.funding) for r in one.stack.records if r.funding] == [
            (close_ms(2), Decimal(-10))
        ]


# --- closing ----------------------------------------------------------------------------------------------------


def test_a_position_beyond_the_largest_market_order_is_closed_in_parts() -> None:
    config = env_config(initial_capital_usdt=2_000_000.0, max_leverage=5.0)
    with rig(flat_market(), config=config) as one:
        one.stack.reset()
        step(one, 119.0)
        step(one, 140.0)  # the largest market order is 120
        assert one.held() == 140
        report = one.risk.run_emergency("test")
        assert report.succeeded and one.held() == 0
        row = report.executions[0].results[0]
        assert [fill.quantity for fill in row.fills] == [120, 20]


def test_flattening_goes_on_with_the_other_symbols_when_one_fails() -> None:
    class OneFails(BinanceExchange):
        broken = True

        async def place(self, order: Order) -> OrderReport:
            if order.leg is Leg.EMERGENCY and order.symbol == "BTCUSDT" and self.broken:
                self.broken = False
                raise ExchangeUnavailableError("busy")
            return await super().place(order)

    two = market_of({"BTCUSDT": [(50_000.0,) * 4] * 6, "ETHUSDT": [(2_500.0,) * 4] * 6})
    with rig(two, limits=LIMITS, exchange_type=OneFails) as one:
        one.stack.reset()
        step(one, 0.1, 1.0)
        report = one.risk.run_emergency("test")
        assert report.succeeded and len(report.executions) == 2
        first = {r.planned.symbol: r.status for r in report.executions[0].results}
        assert first == {"BTCUSDT": OrderStatus.FAILED, "ETHUSDT": OrderStatus.FILLED}


def test_emergency_ids_stay_within_what_the_exchange_takes() -> None:
    with rig(flat_market(), limits=RiskLimits(emergency_tries=25), agent="buy-and-hold") as one:
        one.stack.reset()
        for _ in range(12):
            one.stack.execute(one.stack.plan([0.1]))
            assert one.stack.flatten("test").account.is_flat
            one.env._executed = False  # again at the same candle
        assert len({o.client_order_id for o in one.account.orders.values()}) > 10
        assert all(len(o.client_order_id) <= 36 for o in one.account.orders.values())
        assert client_order_id("buy-and-hold", "BTCUSDT", close_ms(0), Leg.EMERGENCY, 9)
