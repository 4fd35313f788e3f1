"""The order desk: filters, codes, order types, conditional orders, leverage."""

from __future__ import annotations

from decimal import Decimal

import pytest

from live.paper import account_desk, algo_desk, desk
from live.paper.errors import ApiError
from live.paper.margin import margin_of_account
from live.paper.orders import AlgoStatus, OrderRequest, Side, Status

D = Decimal


def code_of(call, *arguments, **options) -> int:
    """The code that a call is refused with."""
    with pytest.raises(ApiError) as refused:
        call(*arguments, **options)
    return refused.value.code


@pytest.mark.parametrize(
    ("quantity", "code"),
    [
        ("0.0005", -1111),  # three decimals allowed
        ("121", -4005),  # MARKET_LOT_SIZE ends at 120
        ("0.0009", -1111),
        ("0.00", -4003),
        ("0.001", -2019),  # 50 is the minimum notional, and met; but 10 USDT cannot carry 60
    ],
)
def test_market_quantity_filters(bench, quantity: str, code: int) -> None:
    b = bench(BTCUSDT="60000", wallet="1")
    request = OrderRequest("BTCUSDT", Side.BUY, "MARKET", D(quantity))
    assert code_of(desk.place_order, b.engine, b.account, request) == code


@pytest.mark.parametrize(
    ("symbol", "price", "code"),
    [
        ("BTCUSDT", "500.0", -4013),
        ("BTCUSDT", "4529764.1", -4002),
        ("BTCUSDT", "50000.001", -1111),
        ("BTCUSDT", "50000.05", -4014),
        ("BTCUSDT", "52600.0", -4016),  # more than 5 % above
        ("BTCUSDT", "0.0", -4013),
    ],
)
def test_limit_price_filters(bench, symbol: str, price: str, code: int) -> None:
    b = bench(BTCUSDT="50000")
    assert code_of(b.limit, symbol, "0.01", price) == code


def test_more_refusals(bench) -> None:
    b = bench(BTCUSDT="50000", DOGEUSDT="0.1")
    assert code_of(b.limit, "BTCUSDT", "-0.01", "47000") == -4024
    assert code_of(b.limit, "DOGEUSDT", "1.5", "0.1") == -1111
    assert code_of(b.market, "BTCUSDT", "0.001", position_side="LONG") == -4061
    assert code_of(b.market, "XRPUSDT", "1") == -1121
    assert code_of(b.limit, "BTCUSDT", "0.01", "50000", time_in_force="RPI") == -1115
    assert code_of(b.limit, "BTCUSDT", "0.01", "50000", time_in_force="GTD") == -1102
    assert code_of(b.market, "BTCUSDT", "0.01", client_order_id="no spaces") == -4015
    assert code_of(b.market, "BTCUSDT", "0.01", client_order_id="x" * 37) == -4015
    request = OrderRequest("BTCUSDT", Side.BUY, "STOP_MARKET", D("0.01"))
    assert code_of(desk.place_order, b.engine, b.account, request) == -4120
    request = OrderRequest("BTCUSDT", Side.BUY, "ICEBERG", D("0.01"))
    assert code_of(desk.place_order, b.engine, b.account, request) == -1116
    assert not b.account.orders


def test_a_market_order_does_not_take_far_beyond_the_mark(bench) -> None:
    b = bench(BTCUSDT="50000")
    b.market("BTCUSDT", "0.1")
    b.engine.marks = {"BTCUSDT": D("47619.04")}  # 50000 is 5.00002 % above
    assert code_of(b.market, "BTCUSDT", "0.1") == -4131
    b.engine.marks = {"BTCUSDT": D("47619.05")}
    b.market("BTCUSDT", "0.1")
    b.engine.marks = {"BTCUSDT": D("52631.58")}  # 50000 is 5.000001 % below
    assert code_of(b.market, "BTCUSDT", "-0.1", reduce_only=True) == -4131
    b.market("BTCUSDT", "0.1")
    b.engine.marks = {"BTCUSDT": D("52631.57")}
    b.market("BTCUSDT", "-0.3", reduce_only=True)
    assert b.account.position("BTCUSDT").quantity == 0


def test_minimum_notional_spares_only_reduce_only_orders(bench) -> None:
    b = bench(BTCUSDT="49000")
    assert code_of(b.market, "BTCUSDT", "0.001") == -4164  # 49 < 50
    b.market("BTCUSDT", "0.002")
    assert code_of(b.market, "BTCUSDT", "-0.001") == -4164
    b.market("BTCUSDT", "-0.001", reduce_only=True)
    assert code_of(b.market, "BTCUSDT", "-0.001") == -4164  # though it would exactly close
    b.market("BTCUSDT", "-0.001", reduce_only=True)
    assert not b.account.position("BTCUSDT").quantity


def test_reduce_only_never_opens_or_flips(bench) -> None:
    b = bench(BTCUSDT="50000")
    assert code_of(b.market, "BTCUSDT", "0.1", reduce_only=True) == -2022
    b.market("BTCUSDT", "0.1")
    assert code_of(b.market, "BTCUSDT", "0.1", reduce_only=True) == -2022
    order = b.market("BTCUSDT", "-0.3", reduce_only=True)
    assert (order.status, order.executed_quantity) == (Status.FILLED, D("0.1"))
    assert not b.account.position("BTCUSDT").quantity


def test_client_ids_are_unique_among_open_orders_only(bench) -> None:
    b = bench(BTCUSDT="50000")
    first = b.limit("BTCUSDT", "0.01", "49000", client_order_id="same")
    assert code_of(b.limit, "BTCUSDT", "0.01", "49000", client_order_id="same") == -4116
    desk.cancel_order(b.engine, b.account, first)
    second = b.market("BTCUSDT", "0.01", client_order_id="same")
    third = b.market("BTCUSDT", "0.01", client_order_id="same")  # a MARKET order sent twice fills twice
    assert b.account.position("BTCUSDT").quantity == D("0.02")
    assert b.account.find_order(None, "same") is third
    assert b.account.find_order(second.order_id, None) is second


def test_limit_orders_by_time_in_force(bench) -> None:
    b = bench(BTCUSDT="50000", slippage_bps="1")
    assert b.limit("BTCUSDT", "0.01", "49999").status is Status.NEW
    taken = b.limit("BTCUSDT", "0.01", "50100")  # crosses: a taker at 50000 * 1.0001
    assert (taken.status, taken.average_price) == (Status.FILLED, D("50005"))
    bounded = b.limit("BTCUSDT", "0.01", "50002", time_in_force="IOC")  # never worse than the limit
    assert bounded.average_price == D("50002")
    assert b.account.trades["BTCUSDT"][-1].commission_usdt == D("0.25001")
    assert b.limit("BTCUSDT", "0.01", "49999", time_in_force="IOC").status is Status.EXPIRED
    assert code_of(b.limit, "BTCUSDT", "0.01", "49999", time_in_force="FOK") == -5021
    assert b.limit("BTCUSDT", "0.01", "50000", time_in_force="FOK").status is Status.FILLED
    assert code_of(b.limit, "BTCUSDT", "0.01", "50000", time_in_force="GTX") == -5022
    assert b.limit("BTCUSDT", "0.01", "49999", time_in_force="GTX").status is Status.NEW


def test_resting_orders_hold_margin(bench) -> None:
    # 0.3 at 50000 holds 750 of 1000; another 0.2 at market needs 500.
    b = bench(BTCUSDT="50000", wallet="1000")
    resting = b.limit("BTCUSDT", "0.3", "49999.9")
    figures = margin_of_account(b.account, b.engine.instruments, b.engine.prices)
    assert figures.open_order_initial == D("749.9985")
    assert figures.available == D("250.0015")
    assert code_of(b.market, "BTCUSDT", "0.2") == -2019
    desk.cancel_order(b.engine, b.account, resting)
    assert code_of(desk.cancel_order, b.engine, b.account, resting) == -2011
    b.market("BTCUSDT", "0.2")


def test_cancel_all_leaves_conditional_orders(bench) -> None:
    b = bench(BTCUSDT="50000", ETHUSDT="2500")
    b.limit("BTCUSDT", "0.01", "49000")
    other = b.limit("ETHUSDT", "1", "2400")
    algo = b.trigger("BTCUSDT", "SELL", "STOP_MARKET", "49000")
    desk.cancel_all(b.engine, b.account, "BTCUSDT")
    assert list(b.account.open_orders.values()) == [other]
    assert list(b.account.open_algo_orders.values()) == [algo]
    algo_desk.cancel_all_algo_orders(b.engine, b.account, "BTCUSDT")
    assert algo.status is AlgoStatus.CANCELED


@pytest.mark.parametrize(
    ("side", "kind", "price"),
    [
        ("SELL", "STOP_MARKET", "50000"),
        ("BUY", "STOP_MARKET", "50000"),
        ("SELL", "TAKE_PROFIT_MARKET", "49000"),
        ("BUY", "TAKE_PROFIT_MARKET", "51000"),
    ],
)
def test_triggers_already_reached_are_refused(bench, side: str, kind: str, price: str) -> None:
    b = bench(BTCUSDT="50000")
    assert code_of(b.trigger, "BTCUSDT", side, kind, price) == -2021


def test_conditional_order_refusals(bench) -> None:
    b = bench(BTCUSDT="50000")
    stop = ("BTCUSDT", "SELL", "STOP_MARKET", "49000")
    assert code_of(b.trigger, *stop, quantity="0.1", close_position=True) == -4137
    assert code_of(b.trigger, *stop, reduce_only=True) == -4138
    assert code_of(b.trigger, *stop, quantity="0.0001") == -1111
    assert code_of(b.trigger, "BTCUSDT", "SELL", "STOP_MARKET", "49000.05") == -4014
    assert code_of(b.trigger, "BTCUSDT", "SELL", "TRAILING_STOP_MARKET", "49000") == -4136
    assert code_of(b.trigger, "BTCUSDT", "SELL", "ICEBERG", "49000") == -1116
    algo = b.trigger(*stop, client_algo_id="one")
    assert code_of(b.trigger, *stop, client_algo_id="one") == -4116
    algo_desk.cancel_algo_order(b.engine, b.account, algo)
    assert code_of(algo_desk.cancel_algo_order, b.engine, b.account, algo) == -2011
    assert code_of(algo_desk.cancel_algo_order, b.engine, b.account, None) == -2013
    b.trigger(*stop)
    assert code_of(b.trigger, *stop) == -4130  # one that closes the position a direction
    b.trigger("BTCUSDT", "SELL", "TAKE_PROFIT_MARKET", "51000")  # and one take-profit
    for _ in range(198):
        b.trigger(*stop, quantity="0.01")
    assert code_of(b.trigger, *stop, quantity="0.01") == -4045


def test_algo_updates_tell_the_life_of_a_trigger(bench) -> None:
    b = bench(BTCUSDT="50000")
    b.market("BTCUSDT", "0.1")
    b.trigger("BTCUSDT", "SELL", "STOP_MARKET", "49000", client_algo_id="guard")
    b.candle(BTCUSDT=("50000", "50000", "48000", "48500"))
    updates = b.heard("ALGO_UPDATE")
    assert [u["o"]["X"] for u in updates] == ["NEW", "TRIGGERING", "TRIGGERED", "FINISHED"]
    assert {u["o"]["caid"] for u in updates} == {"guard"}
    finished = updates[-1]["o"]
    assert (finished["ai"], finished["ap"], finished["aq"], finished["act"]) == (
        "2",
        "49000",
        "0.100",
        "MARKET",
    )
    fill = b.heard("ORDER_TRADE_UPDATE")[-1]["o"]
    assert (fill["c"], fill["ot"], fill["o"], fill["cp"]) == ("guard", "STOP_MARKET", "MARKET", True)
    assert (fill["x"], fill["X"], fill["rp"], fill["n"]) == ("TRADE", "FILLED", "-100.00000000", "2.45000000")


def test_leverage_bounds(bench) -> None:
    b = bench(BTCUSDT="50000", wallet="100000")
    assert code_of(account_desk.set_leverage, b.engine, b.account, "BTCUSDT", 151) == -4028
    assert code_of(account_desk.set_leverage, b.engine, b.account, "BTCUSDT", 0) == -4028
    account_desk.set_leverage(b.engine, b.account, "BTCUSDT", 150)
    # At 150 the bracket ends at 300000 USDT = 6 BTC.
    assert code_of(b.market, "BTCUSDT", "6.001") == -2027
    account_desk.set_leverage(b.engine, b.account, "BTCUSDT", 100)
    b.market("BTCUSDT", "16")  # 800000 exactly
    assert code_of(account_desk.set_leverage, b.engine, b.account, "BTCUSDT", 150) == -2027
    # Wallet 99600; at leverage 8 the margin is 100000.
    assert code_of(account_desk.set_leverage, b.engine, b.account, "BTCUSDT", 8) == -2028
    account_desk.set_leverage(b.engine, b.account, "BTCUSDT", 9)
    assert [e["ac"]["l"] for e in b.heard("ACCOUNT_CONFIG_UPDATE")] == [150, 100, 9]
