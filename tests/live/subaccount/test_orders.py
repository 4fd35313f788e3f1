"""Two agents on one account: what they may send, and what reaches the exchange."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from live_support import flat_market
from subaccount_support import Shared, paper_server, settings_of, shared

from envs.errors import ConfigError, OrderRejectedError
from live.exchange.budget import metered

D = Decimal
SYMBOLS = ("BTCUSDT",)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Shared]:
    with (
        paper_server(flat_market()) as server,
        shared(server, tmp_path / "a.db", settings_of({"A": "1000", "B": "1000"}, SYMBOLS)) as account,
    ):
        yield account


def orders_sent(two: Shared) -> list[tuple[str, bool]]:
    """Agent and reduce-only of each order at the exchange."""
    return [(o.client_order_id.split("_")[0], o.reduce_only) for o in two.books.orders.values()]


def test_trading_rules_are_read_once_for_all_agents(two: Shared) -> None:
    """A contract's commission costs 20 of the 2400 request weights of a minute: every agent needs it at its start."""

    async def ask() -> tuple[int, bool]:
        with metered() as meter:
            found = [await agent.instruments(SYMBOLS) for agent in two.agents.values()]
        return meter.weight, all(one == {"BTCUSDT": two.exchange.loaded["BTCUSDT"]} for one in found)

    assert two.call(ask()) == (0, True)


def test_opposite_positions_net_at_the_exchange_and_not_between_the_agents(two: Shared) -> None:
    two.trade("A", "0.02")
    two.trade("B", "-0.03")
    assert (two.held("A"), two.held("B"), two.net()) == (D("0.02"), D("-0.03"), D("-0.01"))
    account = two.call(two.agents["A"].account())
    assert account.positions["BTCUSDT"].quantity == D("0.02")
    assert account.positions["BTCUSDT"].entry_price == 50_000
    # 1000 less 0.05 % of 1000; 1000 / 10 bound.
    assert account.wallet_usdt == D("999.5")
    assert account.initial_margin_usdt == 100
    assert account.available_usdt == D("899.5")
    two.check()


def test_a_close_is_reduce_only_at_the_exchange_just_where_the_net_covers_it(two: Shared) -> None:
    two.trade("A", "0.02")
    two.trade("B", "-0.03")
    two.trade("A", "-0.02", reduce_only=True)  # the net is short: reduce-only would be refused
    two.trade("B", "0.03", reduce_only=True)
    assert orders_sent(two)[2:] == [("A", False), ("B", True)]
    assert two.net() == two.held("A") == two.held("B") == 0
    two.check()


def test_a_close_never_exceeds_the_agents_own_position(two: Shared) -> None:
    two.trade("A", "0.02")
    two.trade("B", "0.03")
    report = two.trade("A", "-0.05", reduce_only=True)
    assert report.executed_quantity == D("0.02")
    assert (two.held("A"), two.held("B")) == (0, D("0.03"))
    with pytest.raises(OrderRejectedError) as refused:
        two.trade("A", "-0.01", reduce_only=True)
    assert refused.value.code == -2022


def test_an_order_beyond_an_agents_own_margin_is_refused_before_it_is_sent(two: Shared) -> None:
    with pytest.raises(OrderRejectedError, match="Margin is insufficient") as refused:
        two.trade("A", "0.25")  # 12500 / 10 = 1250 of 1000; the account has 10000
    assert refused.value.code == -2019
    assert two.books.orders == {}
    two.trade("A", "0.19")
    with pytest.raises(OrderRejectedError):
        two.trade("A", "0.01")
    two.trade("A", "-0.1")  # reducing is never refused for margin
    two.check()


def test_what_is_too_small_for_the_exchange_is_closed_with_a_padding(tmp_path: Path) -> None:
    with (
        paper_server(flat_market(40_000.0)) as server,
        shared(server, tmp_path / "a.db", settings_of({"A": "1000", "B": "1000"}, SYMBOLS)) as two,
    ):
        two.trade("A", "0.02")
        two.trade("B", "-0.03")
        two.trade("A", "-0.019")
        report = two.trade("A", "-0.001", reduce_only=True)  # 40 USDT, the least is 50 unless reduce-only
        assert report.executed_quantity > D("0.001")
        assert [size for _, size in closes(two)][-2:] == [D("0.003"), D("-0.004")]
        assert (two.held("A"), two.held("B")) == (0, D("-0.03"))
        two.check()


def closes(two: Shared) -> list[tuple[str, Decimal]]:
    """Agent and signed quantity of each fill, as the exchange has them."""
    trades = two.books.trades["BTCUSDT"]
    return [(one.order.client_order_id.split("_")[0], one.quantity * one.side.sign) for one in trades]


def test_fills_tell_the_agents_own_realized_pnl(tmp_path: Path) -> None:
    from support import market_of

    market = market_of(
        [(100, 100, 100, 100), (100, 110, 100, 110), (110, 110, 110, 110), (110, 110, 110, 110)]
    )
    with (
        paper_server(market) as server,
        shared(server, tmp_path / "a.db", settings_of({"A": "1000", "B": "1000"}, SYMBOLS)) as two,
    ):
        two.trade("A", "2")
        two.trade("B", "-2")
        two.advance(2)
        report = two.trade("A", "-2", reduce_only=True)
        # At the exchange the account was flat, and this opened a short.
        assert report.fills[0].realized_pnl == 20
        assert two.net() == -2
        fills = two.call(two.agents["A"].fills("BTCUSDT"))
        assert [f.realized_pnl for f in fills] == [0, 20]
        assert two.call(two.agents["B"].fills("BTCUSDT"))[0].agent == "B"
        two.check()


def test_more_capital_than_the_account_holds_is_refused_and_the_same_counts_once(tmp_path: Path) -> None:
    with paper_server(flat_market()) as server:
        with (
            pytest.raises(ConfigError, match=r"10000\.5 USDT"),
            shared(server, tmp_path / "a.db", settings_of({"A": "5000", "B": "5000.5"}, SYMBOLS)),
        ):
            pass
        for capital in ("5000", "5000", "4000"):
            with shared(server, tmp_path / "a.db", settings_of({"A": "5000", "B": capital}, SYMBOLS)) as two:
                assert two.wallets() == {"A": 5000, "B": D(capital), "MANUAL": 5000 - D(capital)}
                two.check()


def test_a_manual_trade_reduces_the_agents_pro_rata_and_each_sees_its_part(two: Shared) -> None:
    two.trade("A", "0.02")
    two.trade("B", "0.01")
    two.happen(kind="manual_trade", symbol="BTCUSDT", side="SELL", quantity="0.006")
    two.settle()
    assert (two.held("A"), two.held("B")) == (D("0.016"), D("0.008"))
    (_, part) = two.call(two.agents["A"].fills("BTCUSDT"))
    assert (part.quantity, part.agent, part.client_order_id[:4]) == (D("0.004"), "A", "web_")
    two.check()
