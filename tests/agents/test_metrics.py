"""Metrics against numbers worked out by hand."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import numpy as np
import pytest

from agents.metrics import (
    Metrics,
    candle_returns,
    compute_metrics,
    fold_round_trips,
    max_drawdown,
    sharpe_ratio,
    sortino_ratio,
)
from envs.account import Fill, PositionSide, Side

HOUR_MS = 3_600_000
D = Decimal


def fill(
    side: Side,
    quantity: str,
    price: str,
    *,
    fee: str = "0",
    time: int = 0,
    symbol: str = "BTCUSDT",
    **more: bool,
) -> Fill:
    return Fill(
        symbol=symbol,
        trade_id=str(time),
        order_id=str(time),
        client_order_id="",
        side=side,
        quantity=D(quantity),
        price=D(price),
        commission=D(fee),
        realized_pnl=D(0),
        time_ms=time,
        **more,
    )


def test_sharpe_and_sortino_by_hand() -> None:
    # Returns +10 %, -5 %, +20 %: mean 0.25/3, sample variance of (0.1, -0.05, 0.2) is 0.0158333...
    equity = np.array([100.0, 110.0, 104.5, 125.4])
    returns = candle_returns(equity)
    assert returns == pytest.approx([0.10, -0.05, 0.20])
    mean = 0.25 / 3
    variance = ((0.10 - mean) ** 2 + (-0.05 - mean) ** 2 + (0.20 - mean) ** 2) / 2
    assert variance == pytest.approx(0.0158333333)
    yearly = math.sqrt(365 * 24)  # hours in a year
    assert sharpe_ratio(returns, HOUR_MS) == pytest.approx(mean / math.sqrt(variance) * yearly)
    # Downside: only -5 % counts, over all three candles: sqrt(0.0025 / 3).
    assert sortino_ratio(returns, HOUR_MS) == pytest.approx(mean / math.sqrt(0.0025 / 3) * yearly)
    # A day's candles scale by sqrt(365).
    assert sharpe_ratio(returns, 24 * HOUR_MS) == pytest.approx(mean / math.sqrt(variance) * math.sqrt(365))


def test_max_drawdown_by_hand() -> None:
    # Peak 120, trough 90: 25 %; the later fall from 130 to 104 is 20 %.
    assert max_drawdown(np.array([100.0, 120.0, 90.0, 130.0, 104.0])) == pytest.approx(0.25)
    assert max_drawdown(np.array([1.0, 2.0, 3.0])) == 0.0


def test_undefined_figures_are_none_and_json_is_strict() -> None:
    flat = compute_metrics([100.0, 100.0, 100.0], HOUR_MS)
    assert flat.sharpe is None and flat.sortino is None and flat.win_rate is None
    assert (flat.total_return, flat.max_drawdown, flat.trades, flat.steps) == (0.0, 0.0, 0, 2)
    only_up = compute_metrics([100.0, 101.0, 103.0], HOUR_MS)
    assert only_up.sharpe is not None and only_up.sortino is None
    assert compute_metrics([100.0], HOUR_MS).sharpe is None
    nan = Metrics(1.0, 0.0, float("nan"), float("inf"), 0.0, 0, None, 0.0, 0.0, 0, 0)
    assert json.dumps(nan.to_dict(), allow_nan=False)
    assert nan.to_dict()["sharpe"] is None and nan.to_dict()["sortino"] is None
    figures = "final_equity total_return sharpe sortino max_drawdown trades win_rate fees funding liquidations steps"
    assert " ".join(flat.to_dict()) == figures


def test_equal_returns_have_no_sharpe_ratio() -> None:
    # 1 % every candle: the spread that is left is rounding.
    assert compute_metrics(100.0 * 1.01 ** np.arange(50), HOUR_MS).sharpe is None


def test_ruin_is_a_loss_of_everything_and_then_nothing() -> None:
    assert candle_returns(np.array([100.0, 0.0, 0.0])).tolist() == [-1.0, 0.0]
    ruined = compute_metrics([100.0, 0.0, 0.0], HOUR_MS)
    assert (ruined.total_return, ruined.max_drawdown) == (-1.0, 1.0)


@pytest.mark.parametrize("equity", [[], [0.0, 1.0], [1.0, float("nan")], [[1.0]]])
def test_impossible_equity_is_refused(equity: list[float]) -> None:
    with pytest.raises(ValueError, match="equity"):
        compute_metrics(equity, HOUR_MS)


def test_round_trip_of_a_long_with_two_entries_and_two_exits() -> None:
    # Buy 1 at 100 and 3 at 120 (average 115), sell 2 at 130 and 2 at 110 (average 120).
    trips = fold_round_trips(
        [
            fill(Side.BUY, "1", "100", fee="0.1", time=1),
            fill(Side.BUY, "3", "120", fee="0.3", time=2),
            fill(Side.SELL, "2", "130", fee="0.2", time=3),
            fill(Side.SELL, "2", "110", fee="0.4", time=4),
        ]
    )
    assert len(trips) == 1
    trip = trips[0]
    assert (trip.side, trip.quantity, trip.entry_price, trip.exit_price) == (PositionSide.LONG, 4, 115, 120)
    assert (trip.entry_time_ms, trip.exit_time_ms) == (1, 4)
    # PnL: 2*130 + 2*110 - 100 - 360 = 20; fees 1.0; after fees 19.
    assert (trip.pnl, trip.fees, trip.net_pnl) == (D(20), D("1.0"), D("19.0"))


def test_a_flip_closes_one_trip_and_opens_the_next() -> None:
    # Short 2 at 50; buy 5 at 40: 2 close (PnL +20) with 2/5 of the fee, 3 open a long, sold at 41 (PnL +3).
    trips = fold_round_trips(
        [
            fill(Side.SELL, "2", "50", fee="1", time=1),
            fill(Side.BUY, "5", "40", fee="5", time=2),
            fill(Side.SELL, "3", "41", fee="1", time=3, liquidation=True),
        ]
    )
    assert [(t.side, t.quantity, t.pnl, t.fees) for t in trips] == [
        (PositionSide.SHORT, D(2), D(20), D(3)),
        (PositionSide.LONG, D(3), D(3), D(4)),
    ]
    assert [t.liquidated for t in trips] == [False, True]
    assert [t.net_pnl for t in trips] == [D(17), D(-1)]


def test_symbols_are_folded_apart_and_an_open_position_is_no_trade() -> None:
    fills = [
        fill(Side.BUY, "1", "10", fee="0.01", time=1),
        fill(Side.SELL, "1", "20", symbol="ETHUSDT", time=2),
        fill(Side.SELL, "1", "12", fee="0.01", time=3),
        fill(Side.BUY, "1", "10", fee="0.01", time=4),
    ]
    trips = fold_round_trips(fills)
    assert [(t.symbol, t.net_pnl) for t in trips] == [("BTCUSDT", D("1.98"))]
    metrics = compute_metrics([100.0, 101.98, 101.97], HOUR_MS, fills, funding_usdt=-0.5)
    assert (metrics.trades, metrics.win_rate) == (1, 1.0)
    assert metrics.fees == pytest.approx(0.03)
    assert metrics.funding == -0.5


def test_win_rate_is_after_fees_and_liquidations_count_by_moment() -> None:
    fills = [
        fill(Side.BUY, "1", "10", fee="0.3", time=1),
        fill(Side.SELL, "1", "10.5", fee="0.3", time=2),  # +0.5 - 0.6: a loss
        fill(Side.BUY, "1", "10", time=3),
        fill(Side.BUY, "1", "7", time=3, symbol="ETHUSDT"),
        fill(Side.SELL, "1", "11", time=4, liquidation=True),
        fill(Side.SELL, "1", "5", time=4, symbol="ETHUSDT", liquidation=True),
    ]
    metrics = compute_metrics([100.0, 99.9], HOUR_MS, fills)
    assert (metrics.trades, metrics.win_rate, metrics.liquidations) == (3, pytest.approx(1 / 3), 1)
