"""How a candle plays: stops, take-profits, gaps, liquidation, funding. Fees 0.0005, maintenance rate 0.004."""

from __future__ import annotations

from decimal import Decimal

import pytest

from live.paper.liquidation import liquidation_price, margin_excess, margin_groups
from live.paper.orders import AlgoStatus, Status

D = Decimal


def open_position(b, symbol: str, quantity: str, entry: str, wallet: str) -> None:
    """Hold a position at an entry price with a given wallet, without going through an order."""
    b.account.position(symbol).apply(D(quantity), D(entry), D(0))
    b.account.book_income("TRANSFER", D(wallet) - b.account.wallet_usdt, "", b.engine.clock_ms)


def liquidation_price_of(b, symbol: str) -> Decimal:
    return liquidation_price(b.account, b.engine.instruments, b.engine.prices, b.account.position(symbol))


def test_stop_inside_the_candle_fills_at_the_stop_with_slippage_and_fee(bench) -> None:
    b = bench(BTCUSDT="50000", slippage_bps="10")
    open_position(b, "BTCUSDT", "0.1", "50000", "10000")
    stop = b.trigger("BTCUSDT", "SELL", "STOP_MARKET", "49000", client_algo_id="a_BTCUSDT_1s")
    b.candle(BTCUSDT=("50000", "50500", "48500", "49500"))
    (trade,) = b.account.trades["BTCUSDT"]
    assert trade.price == D("48951")  # 49000 * 0.999
    assert trade.realized_pnl_usdt == D("-104.9")
    assert trade.commission_usdt == D("2.44755")
    assert b.account.wallet_usdt == D("10000") - D("104.9") - D("2.44755")
    assert stop.status is AlgoStatus.FINISHED
    assert (stop.order.client_order_id, stop.order.orig_type) == ("a_BTCUSDT_1s", "STOP_MARKET")
    assert b.engine.prices["BTCUSDT"] == 49_500


def test_stop_is_not_set_off_by_a_candle_that_stays_above_it(bench) -> None:
    b = bench(BTCUSDT="50000")
    open_position(b, "BTCUSDT", "0.1", "50000", "10000")
    stop = b.trigger("BTCUSDT", "SELL", "STOP_MARKET", "49000")
    b.candle(BTCUSDT=("50000", "50500", "49000.1", "49500"))
    assert stop.is_open
    b.candle(BTCUSDT=("49500", "50500", "49000", "49500"))  # touching is enough
    assert stop.status is AlgoStatus.FINISHED


def test_gap_through_a_stop_fills_at_the_open(bench) -> None:
    b = bench(BTCUSDT="50000")
    open_position(b, "BTCUSDT", "-0.1", "50000", "10000")
    b.trigger("BTCUSDT", "BUY", "STOP_MARKET", "51000")
    b.candle(BTCUSDT=("51500", "52000", "51000", "51200"))
    (trade,) = b.account.trades["BTCUSDT"]
    assert (trade.price, trade.realized_pnl_usdt) == (D("51500"), D("-150"))


def test_take_profit_fills_at_its_price_or_at_a_better_open(bench) -> None:
    b = bench(BTCUSDT="50000")
    open_position(b, "BTCUSDT", "0.1", "50000", "10000")
    b.trigger("BTCUSDT", "SELL", "TAKE_PROFIT_MARKET", "51000")
    b.candle(BTCUSDT=("50000", "51000", "49000", "50500"))
    assert b.account.trades["BTCUSDT"][0].price == 51_000

    b = bench(BTCUSDT="50000")
    open_position(b, "BTCUSDT", "0.1", "50000", "10000")
    b.trigger("BTCUSDT", "SELL", "TAKE_PROFIT_MARKET", "51000")
    b.candle(BTCUSDT=("51700", "52000", "51500", "51600"))
    assert b.account.trades["BTCUSDT"][0].price == 51_700


def test_stop_and_take_profit_in_one_candle_take_the_stop(bench) -> None:
    b = bench(BTCUSDT="50000")
    open_position(b, "BTCUSDT", "0.1", "50000", "10000")
    take = b.trigger("BTCUSDT", "SELL", "TAKE_PROFIT_MARKET", "51000")
    stop = b.trigger("BTCUSDT", "SELL", "STOP_MARKET", "49000")
    b.candle(BTCUSDT=("50000", "52000", "48000", "51500"))
    (trade,) = b.account.trades["BTCUSDT"]
    assert trade.price == 49_000
    assert stop.status is AlgoStatus.FINISHED
    assert take.status is AlgoStatus.EXPIRED  # reached with nothing left to close


def test_a_gap_above_the_take_profit_still_takes_a_stop_that_the_candle_reaches(bench) -> None:
    b = bench(BTCUSDT="50000")
    open_position(b, "BTCUSDT", "0.1", "50000", "10000")
    b.trigger("BTCUSDT", "SELL", "TAKE_PROFIT_MARKET", "51000")
    b.trigger("BTCUSDT", "SELL", "STOP_MARKET", "49000")
    b.candle(BTCUSDT=("51700", "52000", "48000", "51500"))
    assert b.account.trades["BTCUSDT"][0].price == 49_000


def test_reduce_only_stops_share_the_position(bench) -> None:
    b = bench(BTCUSDT="50000")
    open_position(b, "BTCUSDT", "0.10", "50000", "10000")
    b.trigger("BTCUSDT", "SELL", "STOP_MARKET", "49500", quantity="0.06", reduce_only=True)
    last = b.trigger("BTCUSDT", "SELL", "STOP_MARKET", "49000", quantity="0.10", reduce_only=True)
    b.candle(BTCUSDT=("50000", "50000", "48000", "48500"))
    assert [(t.quantity, t.price) for t in b.account.trades["BTCUSDT"]] == [
        (D("0.06"), D("49500")),
        (D("0.04"), D("49000")),
    ]
    assert last.order.quantity == D("0.04")


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [("1", "57228.915662650602"), ("-1", "62749.003984063745")],
)
def test_liquidation_price_of_the_published_example(bench, quantity: str, expected: str) -> None:
    # q 1, entry 60000, wallet 3000, rate 0.004: 57000/0.996 and 63000/1.004.
    b = bench(BTCUSDT="60000")
    open_position(b, "BTCUSDT", quantity, "60000", "3000")
    price = liquidation_price_of(b, "BTCUSDT")
    assert price == D(expected)
    (group,) = margin_groups(b.account)
    at_price = margin_excess(group, b.engine.instruments, {"BTCUSDT": price})
    assert abs(at_price) < D("1e-11")


def test_liquidation_price_in_a_higher_bracket(bench) -> None:
    # 10 BTC near 540k: rate 0.005, amount 300: (60000 + 300 - 600000) / (0.05 - 10).
    b = bench(BTCUSDT="60000")
    open_position(b, "BTCUSDT", "10", "60000", "60000")
    price = liquidation_price_of(b, "BTCUSDT")
    assert price == D("54241.206030150754")


def test_liquidation_price_counts_the_other_positions(bench) -> None:
    # ETH short 10 at 3000, now 3100: PnL -1000, maintenance 124. (10000 - 124 - 1000 - 60000) / -0.996.
    b = bench(BTCUSDT="60000", ETHUSDT="3100")
    open_position(b, "BTCUSDT", "1", "60000", "10000")
    open_position(b, "ETHUSDT", "-10", "3000", "10000")
    price = liquidation_price_of(b, "BTCUSDT")
    assert price == D("51329.317269076305")
    assert liquidation_price_of(b, "ETHUSDT") > 3_100


def test_no_liquidation_price_when_the_wallet_covers_everything(bench) -> None:
    b = bench(BTCUSDT="60000")
    open_position(b, "BTCUSDT", "0.1", "60000", "10000")
    assert liquidation_price_of(b, "BTCUSDT") == 0


def test_liquidation_inside_the_candle(bench) -> None:
    b = bench(BTCUSDT="60000", slippage_bps="50")
    open_position(b, "BTCUSDT", "1", "60000", "3000")
    resting = b.limit("BTCUSDT", "-0.1", "62000")
    b.heard("ORDER_TRADE_UPDATE")
    b.events.clear()
    b.candle(BTCUSDT=("60000", "61000", "55000", "56000"))
    (trade,) = b.account.trades["BTCUSDT"]
    assert trade.price == D("57228.915662650602")  # the formula's price, no slippage
    assert trade.commission_usdt == 0
    assert trade.realized_pnl_usdt == D("-2771.084337349398")
    # 0.0125 * 57228.9 would be 715.36; only 228.91 is left.
    assert b.income("INSURANCE_CLEAR") == [D("-228.915662650602")]
    assert b.account.wallet_usdt == 0
    assert resting.status is Status.EXPIRED
    updates = b.heard("ORDER_TRADE_UPDATE")
    assert [(u["o"]["x"], u["o"]["X"], u["o"]["er"]) for u in updates] == [
        ("EXPIRED", "EXPIRED", "5"),
        ("NEW", "NEW", "0"),
        ("CALCULATED", "FILLED", "0"),
    ]
    assert updates[-1]["o"]["c"].startswith("autoclose-")
    assert [u["a"]["m"] for u in b.heard("ACCOUNT_UPDATE")] == ["ORDER", "INSURANCE_CLEAR"]


@pytest.mark.parametrize(
    ("stop", "kind", "price"),
    [
        ("58000", "STOP_MARKET", D("58000")),  # above 57228.9: reached first
        ("57000", "MARKET", D("57228.915662650602")),  # below: liquidated on the way
    ],
)
def test_the_nearer_of_stop_and_liquidation_comes_first(bench, stop: str, kind: str, price: D) -> None:
    b = bench(BTCUSDT="60000")
    open_position(b, "BTCUSDT", "1", "60000", "3000")
    b.trigger("BTCUSDT", "SELL", "STOP_MARKET", stop)
    b.candle(BTCUSDT=("60000", "60000", "55000", "56000"))
    (trade,) = b.account.trades["BTCUSDT"]
    assert (trade.order.orig_type, trade.price) == (kind, price)


def test_two_symbols_fall_together_and_are_liquidated_together(bench) -> None:
    # 600 - 800x = 0.004 * (10000 - 800x) at x = 560 / 796.8.
    b = bench(BTCUSDT="50000", ETHUSDT="2500")
    open_position(b, "BTCUSDT", "0.1", "50000", "600")
    open_position(b, "ETHUSDT", "2", "2500", "600")
    b.candle(BTCUSDT=("50000", "50000", "46000", "47000"), ETHUSDT=("2500", "2500", "2300", "2400"))
    x = D(560) / D("796.8")
    assert b.account.trades["BTCUSDT"][0].price == (50_000 - 4_000 * x).quantize(D("1e-12"))
    assert b.account.trades["ETHUSDT"][0].price == (2_500 - 200 * x).quantize(D("1e-12"))
    # All PnL first (37.75 left), then the fees in symbol order: BTC's takes everything.
    assert len(b.income("INSURANCE_CLEAR")) == 1
    assert b.account.wallet_usdt == 0


def test_a_stop_in_one_symbol_changes_when_the_other_is_liquidated(bench) -> None:
    # BTC stop at 48000 (x = 0.5): -200 - 2.4, wallet 397.6. ETH: 397.6 - 400x = 20 - 1.6x at x = 377.6/398.4.
    b = bench(BTCUSDT="50000", ETHUSDT="2500")
    open_position(b, "BTCUSDT", "0.1", "50000", "600")
    open_position(b, "ETHUSDT", "2", "2500", "600")
    b.trigger("BTCUSDT", "SELL", "STOP_MARKET", "48000")
    b.candle(BTCUSDT=("50000", "50000", "46000", "47000"), ETHUSDT=("2500", "2500", "2300", "2400"))
    assert b.account.trades["BTCUSDT"][0].price == 48_000
    x = D("377.6") / D("398.4")
    assert b.account.trades["ETHUSDT"][0].price == (2_500 - 200 * x).quantize(D("1e-12"))


def test_a_shortfall_is_covered_by_the_insurance_fund(bench, exchange, market) -> None:
    # Long 1 at 60000 with 3000; the next candle opens at 50000: PnL -10000, the fund pays 7000.
    x = exchange(market({"BTCUSDT": [(60_000, 60_000, 60_000, 60_000)] * 2 + [(50_000,) * 4]}))
    (account,) = x.engine.accounts.values()
    account.position("BTCUSDT").apply(D(1), D(60_000), D(0))
    account.book_income("TRANSFER", D(-7_000), "", x.now_ms)
    x.advance()
    (trade,) = account.trades["BTCUSDT"]
    assert (trade.price, trade.realized_pnl_usdt) == (D("50000"), D("-10000"))
    assert [row.amount_usdt for row in account.income if row.income_type == "INSURANCE_CLEAR"] == [D(7_000)]
    assert account.wallet_usdt == 0
    assert trade.time_ms == x.now_ms


def test_resting_limits_fill_at_their_price_as_maker(bench) -> None:
    b = bench(BTCUSDT="50000")
    bid = b.limit("BTCUSDT", "0.1", "49000")
    b.candle(BTCUSDT=("50000", "50500", "49000.1", "49500"))
    assert bid.status is Status.NEW
    b.candle(BTCUSDT=("49500", "50000", "48000", "48500"))
    (trade,) = b.account.trades["BTCUSDT"]
    assert (trade.price, trade.maker, trade.commission_usdt) == (D("49000"), True, D("0.98"))


def test_entry_stop_opens_a_position(bench) -> None:
    b = bench(BTCUSDT="50000", slippage_bps="10")
    algo = b.trigger("BTCUSDT", "BUY", "STOP_MARKET", "51000", quantity="0.1")
    b.candle(BTCUSDT=("50000", "51500", "49900", "51200"))
    assert algo.order.average_price == D("51051")
    assert b.account.position("BTCUSDT").quantity == D("0.1")


def test_entry_stop_without_margin_is_rejected(bench) -> None:
    b = bench(BTCUSDT="50000", wallet="100")
    algo = b.trigger("BTCUSDT", "BUY", "STOP_MARKET", "51000", quantity="0.1")
    b.candle(BTCUSDT=("50000", "51500", "49900", "51200"))
    assert (algo.status, algo.order) == (AlgoStatus.REJECTED, None)
    assert not b.account.trades


def test_gte_orders_end_with_the_position(bench) -> None:
    b = bench(BTCUSDT="50000")
    b.market("BTCUSDT", "0.1")
    algo = b.trigger("BTCUSDT", "SELL", "TAKE_PROFIT_MARKET", "60000", time_in_force="GTE_GTC")
    b.market("BTCUSDT", "-0.1")
    assert algo.status is AlgoStatus.EXPIRED


FLAT = (50_000.0, 50_000.0, 50_000.0, 50_000.0)


def test_funding_at_the_boundary_falls_on_what_was_held_before_new_orders(exchange, market) -> None:
    # Settlement at hour 2 = the open of candle 2, at mark 52000, rate 0.001: 52 per BTC.
    rows = [FLAT, FLAT, (52_000.0,) * 4, (52_000.0,) * 4]
    x = exchange(market({"BTCUSDT": rows}, funding={"BTCUSDT": [(2, 0.001)]}))
    (account,) = x.engine.accounts.values()
    account.position("BTCUSDT").apply(D("0.1"), D(50_000), D(0))
    x.advance()
    (fee,) = [row for row in account.income if row.income_type == "FUNDING_FEE"]
    assert (fee.amount_usdt, fee.time_ms) == (D("-5.2"), x.now_ms)
    assert x.now_ms == x.history.open_time_ms(2)


def test_funding_inside_a_candle_falls_on_what_is_held_in_it(exchange, market) -> None:
    # Daily candles: hour 32 and 40 lie inside candle 1; 0.001 * 50000 each on 0.2 BTC short.
    funding = {"BTCUSDT": [(hour, 0.001) for hour in range(0, 72, 8)]}
    x = exchange(market({"BTCUSDT": [FLAT] * 3}, funding=funding, interval="1d"))
    (account,) = x.engine.accounts.values()
    account.position("BTCUSDT").apply(D("-0.2"), D(50_000), D(0))
    start = x.now_ms
    x.advance()
    fees = [
        (row.amount_usdt, row.time_ms - start) for row in account.income if row.income_type == "FUNDING_FEE"
    ]
    assert fees == [(D("20"), 16 * 3_600_000), (D("10"), 24 * 3_600_000)]


def test_lock_step_ends_at_the_last_close(exchange, market) -> None:
    x = exchange(market({"BTCUSDT": [FLAT, FLAT, (50_000.0, 50_000.0, 49_000.0, 49_500.0)]}))
    assert x.advance().as_json() == {"clock": x.now_ms, "index": 2, "remaining": 1, "done": False}
    assert x.advance().as_json()["done"] is True
    assert x.engine.prices["BTCUSDT"] == D("49500.0")
    assert x.now_ms == x.history.open_time_ms(2) + 3_600_000
    assert x.advance().as_json() == {"clock": x.now_ms, "index": 3, "remaining": 0, "done": True}
