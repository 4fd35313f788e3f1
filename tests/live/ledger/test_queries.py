"""Trades, round trips and statistics: numbers worked out by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest
from ledger_support import T0, fill

from live.ledger import Income, Ledger
from live.ledger.queries import Where, round_trips, statistics, trades
from live.store import Store


@pytest.fixture
def filled(store: Store) -> Store:
    """Two round trips of one agent, one of another, and a foreign fill that closes part of it."""
    Ledger(store).record_batch(
        [
            fill(1, "BUY", "1", "100", commission="0.1"),
            fill(2, "SELL", "1", "110", commission="0.1", client_order_id="LLM-A_BTCUSDT_1700000000000t"),
            fill(3, "SELL", "2", "110", commission="0.2"),
            fill(5, "BUY", "2", "112", commission="0.2", client_order_id="LLM-A_BTCUSDT_1700000000000s"),
            fill(6, "BUY", "4", "50", agent="sac", symbol="ETHUSDT", commission="0.4"),
            fill(7, "SELL", "1", "60", agent="", symbol="ETHUSDT", commission="0.05"),
        ],
        [Income("paper", "BTCUSDT", T0 + 4000, Decimal("0.3"), "f1")],
    )
    return store


def test_trades_by_symbol_agent_exchange_and_time(filled: Store) -> None:
    ids = [one.trade_id for one in trades(filled)]
    assert ids == ["1", "2", "3", "5", "6", "7"]
    assert [one.trade_id for one in trades(filled, Where(symbol="ETHUSDT"))] == ["6", "7"]
    assert [one.trade_id for one in trades(filled, Where(exchange="other"))] == []
    spell = Where(since_ms=T0 + 2000, until_ms=T0 + 5000)
    assert [one.trade_id for one in trades(filled, spell)] == ["2", "3"]
    assert [one.trade_id for one in trades(filled, limit=2)] == ["6", "7"]
    whole, part = trades(filled, Where(agent="sac"))
    assert whole == fill(6, "BUY", "4", "50", agent="sac", symbol="ETHUSDT", commission="0.4")
    assert (part.trade_id, part.quantity, part.commission, part.agent) == ("7", 1, Decimal("0.05"), "sac")


def test_round_trips_say_how_they_ended(filled: Store) -> None:
    first, second, still_open = round_trips(filled)
    assert (first.side, first.exit_reason, first.entry_price, first.exit_price) == (
        "LONG",
        "TP_HIT",
        100,
        110,
    )
    assert (first.realized, first.fees, first.duration_ms) == (10, Decimal("0.2"), 1000)
    assert (first.net_pnl, first.pnl_percent, first.is_winner) == (Decimal("9.8"), Decimal("9.8"), True)
    assert (second.side, second.exit_reason, second.realized, second.funding) == (
        "SHORT",
        "SL_HIT",
        -4,
        Decimal("0.3"),
    )
    assert second.net_pnl == Decimal("-4.1")
    assert (still_open.agent, still_open.is_open, still_open.open_quantity) == ("sac", True, 3)
    assert (still_open.realized, still_open.exit_price, still_open.duration_ms) == (10, 60, None)
    assert round_trips(filled, is_open=True) == [still_open]
    assert round_trips(filled, Where(agent="LLM-A"), is_open=False) == [first, second]
    assert round_trips(filled, Where(until_ms=T0 + 5000)) == [first]


def test_statistics(filled: Store) -> None:
    found = statistics(filled, Where(agent="LLM-A"))
    assert (found.trades, found.volume_usdt, found.fees_usdt) == (4, 100 + 110 + 220 + 224, Decimal("0.6"))
    assert (found.round_trips, found.open_round_trips, found.wins) == (2, 0, 1)
    assert found.win_rate_fraction == Decimal("0.5")
    assert found.profit_factor == Decimal("2.390243902439")  # 9.8 / 4.1
    assert found.average_duration_ms == 1500
    assert (found.net_pnl_usdt, found.funding_usdt) == (Decimal("5.7"), Decimal("0.3"))
    nothing = statistics(filled, Where(agent="nobody"))
    assert (
        nothing.trades,
        nothing.win_rate_fraction,
        nothing.profit_factor,
        nothing.average_duration_ms,
    ) == (
        0,
        None,
        None,
        None,
    )
    assert statistics(filled).trades == 6
