"""Performance figures of a run: pure functions of its equity, its fills and its candle interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from envs.account import ZERO, Fill, PositionSide

YEAR_MS = 365 * 24 * 3_600_000
"""Crypto trades around the clock: a year has 365 days of 24 hours."""

# Returns that differ by less than this differ by rounding only, and have no spread to divide by.
_NO_SPREAD = 1e-12


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A position from flat to flat, or to a flip. Money in USDT, quantities in base units.

    Attributes:
        symbol: the instrument.
        side: LONG or SHORT.
        entry_time_ms, exit_time_ms: of the first opening and the last closing fill.
        entry_price, exit_price: averages of the opening and of the closing fills, by quantity.
        quantity: all that was opened, which is all that was closed.
        pnl: quote received minus quote paid, before fees and funding.
        fees: commissions of its fills; of a flip's fill the share of the closed part.
        liquidated: the exchange closed it.
    """

    symbol: str
    side: PositionSide
    entry_time_ms: int
    entry_price: Decimal
    exit_time_ms: int
    exit_price: Decimal
    quantity: Decimal
    pnl: Decimal
    fees: Decimal
    liquidated: bool = False

    @property
    def net_pnl(self) -> Decimal:
        """PnL after fees, before funding."""
        return self.pnl - self.fees


@dataclass(slots=True)
class _OpenTrip:
    """A round trip while it is open; `quantity` is the signed position."""

    entry_time_ms: int
    sign: int
    quantity: Decimal = ZERO
    opened: Decimal = ZERO
    opened_quote: Decimal = ZERO
    closed_quote: Decimal = ZERO
    fees: Decimal = ZERO


def fold_round_trips(fills: Iterable[Fill]) -> list[RoundTrip]:
    """The closed round trips, in the order of their exits; what is still open at the end is left out.

    Fills come in the order in which they happened; symbols may be mixed. A fill that flips a position closes one
    trip and opens the next, and its commission is shared by quantity.
    """
    open_trips: dict[str, _OpenTrip] = {}
    trips: list[RoundTrip] = []
    for fill in fills:
        left, fee_left = fill.quantity, fill.commission
        sign = fill.side.sign
        trip = open_trips.get(fill.symbol)
        if trip is not None and trip.sign != sign:
            closing = min(left, abs(trip.quantity))
            fee = fee_left if closing == left else fee_left * closing / left
            trip.quantity += closing * sign
            trip.closed_quote += closing * fill.price
            trip.fees += fee
            left, fee_left = left - closing, fee_left - fee
            if trip.quantity == 0:
                trips.append(_close(trip, fill))
                del open_trips[fill.symbol]
                trip = None
        if left == 0:
            continue
        if trip is None:
            trip = open_trips[fill.symbol] = _OpenTrip(fill.time_ms, sign)
        trip.quantity += left * sign
        trip.opened += left
        trip.opened_quote += left * fill.price
        trip.fees += fee_left
    return trips


def _close(trip: _OpenTrip, fill: Fill) -> RoundTrip:
    return RoundTrip(
        symbol=fill.symbol,
        side=PositionSide.LONG if trip.sign > 0 else PositionSide.SHORT,
        entry_time_ms=trip.entry_time_ms,
        entry_price=trip.opened_quote / trip.opened,
        exit_time_ms=fill.time_ms,
        exit_price=trip.closed_quote / trip.opened,
        quantity=trip.opened,
        pnl=(trip.closed_quote - trip.opened_quote) * trip.sign,
        fees=trip.fees,
        liquidated=fill.liquidation,
    )


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a run came to. Money in USDT; None where a figure is not defined.

    Attributes:
        final_equity: at the last close.
        total_return: final equity / first equity - 1.
        sharpe, sortino: annualised, of the returns per candle; see the functions below.
        max_drawdown: largest 1 - equity / peak equity so far.
        trades: closed round trips.
        win_rate: share of the round trips whose PnL after fees is above zero.
        fees: commissions and liquidation fees paid.
        funding: received (+) or paid (-).
        liquidations: times that the exchange closed the account.
        steps: candles traded.
    """

    final_equity: float
    total_return: float
    sharpe: float | None
    sortino: float | None
    max_drawdown: float
    trades: int
    win_rate: float | None
    fees: float
    funding: float
    liquidations: int
    steps: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON: a figure that is not defined is None, never NaN."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def compute_metrics(
    equity: npt.ArrayLike, interval_ms: int, fills: Sequence[Fill] = (), *, funding_usdt: float = 0.0
) -> Metrics:
    """The figures of one run.

    Args:
        equity: [T + 1], USDT, marked at successive closes; the first entry is from before the first step.
        interval_ms: length of a candle.
        fills: all of the run's, stops and liquidations too, in order.
        funding_usdt: received (+) or paid (-) over the run.

    Raises:
        ValueError: no equity, a number that is not finite, or a first equity that is not above zero.
    """
    values = np.asarray(equity, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all() or values[0] <= 0:
        raise ValueError(
            f"equity of shape {values.shape} must be finite, one-dimensional and begin above zero"
        )
    returns = candle_returns(values)
    trips = fold_round_trips(fills)
    wins = sum(1 for trip in trips if trip.net_pnl > 0)
    return Metrics(
        final_equity=float(values[-1]),
        total_return=float(values[-1] / values[0] - 1.0),
        sharpe=sharpe_ratio(returns, interval_ms),
        sortino=sortino_ratio(returns, interval_ms),
        max_drawdown=max_drawdown(values),
        trades=len(trips),
        win_rate=wins / len(trips) if trips else None,
        fees=float(sum((fill.commission for fill in fills), ZERO)),
        funding=float(funding_usdt),
        # A liquidation closes every symbol at one moment.
        liquidations=len({fill.time_ms for fill in fills if fill.liquidation}),
        steps=len(values) - 1,
    )


def candle_returns(equity: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Simple returns [T] of equity [T + 1]; 0 from the candle on in which nothing was left."""
    before = equity[:-1]
    alive = before > 0.0
    return np.where(alive, equity[1:] / np.where(alive, before, 1.0) - 1.0, 0.0)


def sharpe_ratio(returns: npt.NDArray[np.float64], interval_ms: int) -> float | None:
    """mean / standard deviation (n - 1) * sqrt(candles per year), against a return of zero.

    W. F. Sharpe, "The Sharpe Ratio", Journal of Portfolio Management 21(1), 1994, with a zero benchmark; scaling
    by the square root of time takes returns as independent. None for fewer than two returns or equal ones.
    """
    if len(returns) < 2:
        return None
    spread = float(np.std(returns, ddof=1))
    return None if spread < _NO_SPREAD else float(np.mean(returns)) / spread * _yearly(interval_ms)


def sortino_ratio(returns: npt.NDArray[np.float64], interval_ms: int) -> float | None:
    """mean / downside deviation * sqrt(candles per year), for a target return of zero.

    Downside deviation = sqrt(mean(min(return, 0)^2)) over all candles: F. A. Sortino and L. N. Price,
    "Performance Measurement in a Downside Risk Framework", Journal of Investing 3(3), 1994. None without a loss.
    """
    if len(returns) < 2:
        return None
    downside = math.sqrt(float(np.mean(np.square(np.minimum(returns, 0.0)))))
    return None if downside < _NO_SPREAD else float(np.mean(returns)) / downside * _yearly(interval_ms)


def max_drawdown(equity: npt.NDArray[np.float64]) -> float:
    """Largest 1 - equity / highest equity so far; 0 when equity never fell."""
    peak = np.maximum.accumulate(equity)
    return float(np.max(1.0 - equity / peak))


def _yearly(interval_ms: int) -> float:
    return math.sqrt(YEAR_MS / interval_ms)
