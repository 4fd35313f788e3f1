"""Fills, fees, slippage and funding, worked by hand. BTCUSDT taker fee 0.0005, ETHUSDT the same."""

from __future__ import annotations

from decimal import Decimal

import pytest

from live.paper.account import PaperAccount
from live.paper.errors import ApiError

D = Decimal


def test_open_increase_reduce_flip_close(bench) -> None:
    b = bench(BTCUSDT="50000")
    position = b.account.position("BTCUSDT")

    b.market("BTCUSDT", "0.1")  # fee 0.1 * 50000 * 0.0005 = 2.5
    assert (position.quantity, position.entry_price) == (D("0.1"), D("50000"))
    assert b.account.wallet_usdt == D("9997.5")

    b.price("BTCUSDT", "51000")
    b.market("BTCUSDT", "0.1")  # entry (0.1*50000 + 0.1*51000) / 0.2; fee 2.55
    assert (position.quantity, position.entry_price) == (D("0.2"), D("50500"))
    assert b.account.wallet_usdt == D("9994.95")

    b.price("BTCUSDT", "52000")
    b.market("BTCUSDT", "-0.05")  # PnL 0.05 * 1500 = 75; fee 1.3
    assert (position.quantity, position.entry_price) == (D("0.15"), D("50500"))
    assert b.account.wallet_usdt == D("10068.65")

    b.market("BTCUSDT", "-0.25")  # closes 0.15: 225; opens 0.10 short at 52000; fee 6.5
    assert (position.quantity, position.entry_price) == (D("-0.10"), D("52000"))
    assert b.account.wallet_usdt == D("10287.15")
    assert position.break_even_price == D("51974")  # 2.6 of the fee belongs to the 0.1 that it opened

    b.price("BTCUSDT", "51000")
    b.market("BTCUSDT", "0.1", reduce_only=True)  # PnL 100; fee 2.55
    assert (position.quantity, position.entry_price) == (D(0), D(0))
    assert b.account.wallet_usdt == D("10384.60")

    trades = b.account.trades["BTCUSDT"]
    assert [trade.trade_id for trade in trades] == [1, 2, 3, 4, 5]
    assert [trade.realized_pnl_usdt for trade in trades] == [0, 0, 75, 225, 100]
    assert b.income("REALIZED_PNL") == [D(75), D(225), D(100)]
    assert b.income("COMMISSION") == [D("-2.5"), D("-2.55"), D("-1.3"), D("-6.5"), D("-2.55")]
    assert b.account.wallet_usdt == sum(row.amount_usdt for row in b.account.income)


def test_break_even_price_carries_the_fees(bench) -> None:
    b = bench(BTCUSDT="50000")
    b.market("BTCUSDT", "0.1")
    assert b.account.position("BTCUSDT").break_even_price == D("50025")  # (5000 + 2.5) / 0.1
    b.price("BTCUSDT", "51000")
    b.market("BTCUSDT", "-0.05")  # (5000 - 2550 + 2.5 + 1.275) / 0.05
    assert b.account.position("BTCUSDT").break_even_price == D("49075.5")


def test_slippage_moves_against_the_taker_and_is_not_rounded_to_the_tick(bench) -> None:
    b = bench(BTCUSDT="50000.3", slippage_bps="2")
    b.market("BTCUSDT", "0.1")
    b.market("BTCUSDT", "-0.1")
    bought, sold = b.account.trades["BTCUSDT"]
    assert bought.price == D("50010.30006")  # 50000.3 * 1.0002
    assert sold.price == D("49990.29994")  # 50000.3 * 0.9998
    assert bought.commission_usdt == D("2.500515003")
    assert sold.realized_pnl_usdt == D("-2.000012")
    assert b.account.wallet_usdt == 10_000 - D("2.500515003") - D("2.499514997") - D("2.000012")


def test_trade_ids_count_per_symbol_and_account(bench) -> None:
    b = bench(BTCUSDT="50000", ETHUSDT="2500")
    for symbol, quantity in (("BTCUSDT", "0.01"), ("ETHUSDT", "1"), ("BTCUSDT", "0.01")):
        b.market(symbol, quantity)
    assert [t.trade_id for t in b.account.trades["BTCUSDT"]] == [1, 2]
    assert [t.trade_id for t in b.account.trades["ETHUSDT"]] == [1]
    assert [t.order.order_id for t in b.account.trades["BTCUSDT"]] == [1, 3]


def test_longs_pay_funding_and_shorts_receive_it(bench) -> None:
    b = bench(BTCUSDT="50000", ETHUSDT="2500")
    b.market("BTCUSDT", "0.1")
    b.market("ETHUSDT", "-2")
    b.heard("ACCOUNT_UPDATE")
    b.events.clear()
    before = b.account.wallet_usdt
    b.engine.book_funding({"BTCUSDT": D("5"), "ETHUSDT": D("0.25")})  # price * 0.0001
    assert b.income("FUNDING_FEE") == [D("-0.5"), D("0.5")]
    assert b.account.wallet_usdt == before
    first, second = b.heard("ACCOUNT_UPDATE")
    assert (first["a"]["m"], first["a"]["S"], first["a"]["P"]) == ("FUNDING_FEE", "BTCUSDT", [])
    assert (first["a"]["B"][0]["bc"], second["a"]["B"][0]["bc"]) == ("-0.50000000", "0.50000000")


def test_margin_refusal_at_the_contracts_bound(bench) -> None:
    # Leverage 20, wallet 100: q * p / 20 <= 100 - q * p * 0.0005 gives q * p <= 100 / 0.0505 = 1980.198.
    b = bench(ETHUSDT="2500", wallet="100")
    with pytest.raises(ApiError) as refused:
        b.market("ETHUSDT", "0.793")  # 1982.5
    assert refused.value.code == -2019
    assert not b.account.trades
    b.market("ETHUSDT", "0.792")  # 1980.0: margin 99 <= 100 - 0.99 = 99.01
    assert b.account.position("ETHUSDT").quantity == D("0.792")


def test_margin_counts_the_other_symbols_and_never_stops_a_reduction(bench) -> None:
    b = bench(BTCUSDT="50000", ETHUSDT="2500", wallet="1000")
    b.market("BTCUSDT", "0.3")  # margin 750 of 992.5
    with pytest.raises(ApiError) as refused:
        b.market("ETHUSDT", "2")  # 250 more, 1000 > 992.5 - 2.5
    assert refused.value.code == -2019
    b.price("BTCUSDT", "47000")  # equity 92.5, margin 705
    b.market("BTCUSDT", "-0.1")  # only reduces
    assert b.account.position("BTCUSDT").quantity == D("0.2")
    with pytest.raises(ApiError) as refused:
        b.market("BTCUSDT", "-0.3")  # a flip to 0.1 short needs 235
    assert refused.value.code == -2019


def test_accounts_share_nothing_but_the_prices(bench) -> None:
    b = bench(BTCUSDT="50000")
    other = b.engine.add_account(PaperAccount("other", "secret", D(7)))
    b.market("BTCUSDT", "0.1")
    b.engine.book_funding({"BTCUSDT": D(5)})
    assert other.wallet_usdt == 7
    assert not other.trades
    assert all(account is b.account for account, _ in b.engine.outbox)


def test_secrets_stay_out_of_reprs(bench) -> None:
    b = bench(BTCUSDT="50000")
    assert "secret" not in repr(b.account).replace("api_secret", "")
    assert "hidden" not in repr(PaperAccount("key", "hidden"))
