"""Small hand-made markets and environments whose every number a test can work out.

Features are a single column that counts candles, the window is one candle, and there is no warm-up: the first
decision is made at the close of row 0 and fills at the open of row 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np

from envs.account import Execution
from envs.base import StepResult
from envs.candles import CandleSet
from envs.features import FeatureTable
from envs.funding import FundingSeries
from envs.futures_env import FuturesEnv
from envs.instruments import Instrument, LeverageBracket
from envs.market import Market, build_market
from envs.settings import EnvConfig
from envs.time_grid import interval_to_ms

START_MS = 1_704_067_200_000  # 2024-01-01 00:00 UTC
HOUR_MS = 3_600_000

Ohlc = tuple[float, float, float, float]
Rows = Sequence[Ohlc]


def flat_rows(*prices: float) -> list[Ohlc]:
    """Candles without a range: open, high, low and close are the same."""
    return [(price, price, price, price) for price in prices]


def candle_set(
    rows: Rows, symbol: str = "BTCUSDT", interval: str = "1h", start_ms: int = START_MS
) -> CandleSet:
    """Candles of one symbol from (open, high, low, close) rows."""
    interval_ms = interval_to_ms(interval)
    columns = np.array(rows, dtype=np.float64).T
    return CandleSet(
        symbol,
        interval_ms,
        start_ms + interval_ms * np.arange(len(rows), dtype=np.int64),
        *columns,
        volume=np.ones(len(rows)),
        source="test",
    )


def market_of(
    rows: Rows | Mapping[str, Rows],
    *,
    interval: str = "1h",
    funding: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    marks: Mapping[str, CandleSet] | None = None,
) -> Market:
    """A market of hand-made candles.

    `funding` maps a symbol to (minutes after the first candle's open, rate); symbols without one pay none.
    """
    table = rows if isinstance(rows, Mapping) else {"BTCUSDT": rows}
    series = {
        symbol: FundingSeries(
            symbol,
            np.array([START_MS + minutes * 60_000 for minutes, _ in rates], dtype=np.int64),
            np.array([rate for _, rate in rates]),
            "test",
        )
        for symbol, rates in (funding or {}).items()
    }
    candles = [candle_set(one, symbol, interval) for symbol, one in table.items()]
    return build_market(candles, funding=series, marks=marks, constant_funding_rate=0.0)


def instrument(
    symbol: str = "BTCUSDT",
    *,
    tick: str = "0.1",
    step: str = "0.001",
    min_notional: str = "5",
    max_quantity: str = "1000000",
    taker_fee: str = "0.001",
    liquidation_fee: str = "0.01",
    brackets: Sequence[tuple[str, str, int]] = (("1000000000", "0.01", 100),),
) -> Instrument:
    """An instrument with round rules. `brackets` are (notional cap, maintenance rate, largest leverage)."""
    rows = []
    floor, rate, amount = Decimal(0), Decimal(0), Decimal(0)
    for cap_text, rate_text, leverage in brackets:
        cap, next_rate = Decimal(cap_text), Decimal(rate_text)
        amount += floor * (next_rate - rate)
        rows.append(LeverageBracket(floor, cap, leverage, next_rate, amount))
        floor, rate = cap, next_rate
    return Instrument(
        symbol=symbol,
        base_asset=symbol.removesuffix("USDT"),
        tick_size=Decimal(tick),
        min_price=Decimal(tick),
        max_price=Decimal(10_000_000),
        step_size=Decimal(step),
        min_quantity=Decimal(step),
        max_quantity_limit=Decimal(max_quantity),
        max_quantity_market=Decimal(max_quantity),
        min_notional_usdt=Decimal(min_notional),
        price_multiplier_up=Decimal("1.05"),
        price_multiplier_down=Decimal("0.95"),
        price_precision=8,
        quantity_precision=8,
        maker_fee=Decimal(0),
        taker_fee=Decimal(taker_fee),
        liquidation_fee=Decimal(liquidation_fee),
        brackets=tuple(rows),
    )


def counting_features(market: Market) -> FeatureTable:
    """One feature, the number of the candle, known from the first candle on."""
    values = np.arange(len(market), dtype=np.float64)[:, None]
    return FeatureTable(("candle",), values, 0)


def env_of(
    market: Market,
    *,
    instruments: Sequence[Instrument] = (),
    agent: str = "agent",
    episode_candles: int | None = None,
    **settings: Any,
) -> FuturesEnv:
    """An environment over `market`: 1000 USDT, no slippage, quantities as actions, unless set otherwise."""
    values: dict[str, Any] = {
        "window_size": 1,
        "initial_capital_usdt": 1000.0,
        "slippage_bps": 0.0,
        "max_leverage": 10.0,
        "action": {"scheme": "quantity"},
    }
    given = instruments or [instrument(symbol) for symbol in market.symbols]
    return FuturesEnv(
        market,
        features=counting_features(market),
        config=EnvConfig.parse({**values, **settings}),
        instruments={one.symbol: one for one in given},
        agent=agent,
        episode_candles=episode_candles,
    )


def with_tick(one: Instrument, tick: str) -> Instrument:
    """The instrument with another tick size."""
    return replace(one, tick_size=Decimal(tick))


def phases(env: Any, *action: float) -> tuple[Execution, StepResult]:
    """One step by its phases."""
    execution = env.execute(env.plan(np.array(action, dtype=np.float64)))
    return execution, env.advance()


def wallet(env: Any) -> float:
    """The wallet, USDT."""
    return float(env.account().wallet_usdt)


def equity(env: Any) -> float:
    """Equity at the last close, USDT."""
    return float(env.account().equity_usdt)
