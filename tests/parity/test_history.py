"""Features computed live, over a rolling history, equal those of the whole file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.candles import load_candles, load_funding
from envs.errors import MarketDataError
from envs.features import FeatureConfig, default_features, market_features
from envs.funding import FundingSeries
from envs.market import Market, build_market
from envs.scaler import fit_scaler, identity_scaler
from envs.synthetic import synthetic_market
from live.exchange.base import Candle, FundingRate
from live.history import LiveHistory

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real candles of ../shared/data are not here")

WINDOW = 30
DAY = 86_400_000

CONFIGS = {
    "default": default_features(),
    "pandas-ta": FeatureConfig.model_validate(
        {
            "indicators": [
                {"name": "log_return", "periods": 1},
                {"name": "pandas_ta", "kind": "willr", "params": {"length": 14}},
            ]
        }
    ),
    "funding": FeatureConfig.model_validate(
        {"indicators": [{"name": "funding_rate", "mean": 3}, {"name": "rsi", "period": 7}]}
    ),
}


def candle(market: Market, column: int, row: int) -> Candle:
    """Row `row` as the exchange sends it."""
    prices = (getattr(market, name)[row, column] for name in ("open", "high", "low", "close", "volume"))
    return Candle(
        market.symbols[column], int(market.open_time_ms[row]), market.interval_ms, *map(float, prices)
    )


def settled(series: FundingSeries | None, symbol: str, after_ms: int, until_ms: int) -> list[FundingRate]:
    """Rates as the exchange lists them: a few milliseconds after the hour."""
    if series is None:
        return []
    chosen = (series.time_ms > after_ms) & (series.time_ms <= until_ms)
    return [
        FundingRate(symbol, int(time) + 7, float(rate))
        for time, rate in zip(series.time_ms[chosen], series.rate[chosen], strict=True)
        if int(time) + 7 <= until_ms
    ]


def rolled(market: Market, config: FeatureConfig, first: int, steps: int) -> tuple[np.ndarray[Any, Any], Any]:
    """Windows [steps, W, F] that the live side sees after candles first, first + 1, ..., and the scaler."""
    names = LiveHistory(market.symbols, market.interval_ms, config, None, WINDOW).names
    table = market_features(market, config)
    scaler = fit_scaler(table, rows=slice(table.warmup, len(market)))
    history = LiveHistory(market.symbols, market.interval_ms, config, scaler, WINDOW)
    assert names == table.names
    columns = range(len(market.symbols))
    start = max(0, first - history.candles_needed + 1)
    reach = max((first - start + 1) * market.interval_ms, (history.settlements_needed + 2) * DAY)

    def fund(after_ms: int, row: int) -> None:
        until = int(market.open_time_ms[row]) + market.interval_ms - 1
        for symbol, series in zip(market.symbols, market.funding, strict=True):
            history.add_funding(settled(series, symbol, after_ms, until))

    fund(int(market.open_time_ms[first]) - reach, first)
    history.load(
        {market.symbols[c]: [candle(market, c, row) for row in range(start, first + 1)] for c in columns}
    )
    windows = [history.window.copy()]
    for row in range(first + 1, first + steps):
        fund(0, row)
        history.append({market.symbols[c]: candle(market, c, row) for c in columns})
        windows.append(history.window.copy())
    return np.array(windows), scaler


def assert_equal(market: Market, config: FeatureConfig, first: int, steps: int) -> None:
    live, scaler = rolled(market, config, first, steps)
    table = market_features(market, config)
    scaled = scaler.transform(table.values[table.warmup :])
    for step in range(steps):
        end = first + step + 1 - table.warmup
        np.testing.assert_allclose(live[step], scaled[end - WINDOW : end], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("symbols", [("BTCUSDT",), ("ETHUSDT", "DOGEUSDT")])
def test_synthetic_candles(name: str, symbols: tuple[str, ...]) -> None:
    market = synthetic_market(symbols, n=2_500, seed=8)
    assert_equal(market, CONFIGS[name], first=2_300, steps=60)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_beginning_of_the_data(name: str) -> None:
    """A young listing: fewer candles than the features would reach back, then ever more of them."""
    market = synthetic_market(n=1_500, seed=9)
    table = market_features(market, CONFIGS[name])
    first = table.warmup + WINDOW - 1
    steps = min(400, len(market) - first)
    assert_equal(market, CONFIGS[name], first=first, steps=steps)


@needs_data
@pytest.mark.parametrize("name", CONFIGS)
def test_real_candles(name: str) -> None:
    sets, fundings = [], {}
    for symbol in ("BTCUSDT", "ETHUSDT"):
        (path,) = DATA.glob(f"binance_um_{symbol}_1h_20*.parquet")
        (funding,) = DATA.glob(f"binance_um_{symbol}_funding_*.parquet")
        candles = load_candles(path)
        sets.append(candles.slice("2024-01-01", "2024-09-01"))
        fundings[symbol] = load_funding(funding)
    market = build_market(sets, funding=fundings)
    assert_equal(market, CONFIGS[name], first=4_000, steps=150)


def test_a_rate_that_is_settled_when_the_candle_has_closed_is_not_seen_at_its_close() -> None:
    """Candles of an hour; the rate settled at the open of candle 8 is in the row of candle 8, not of candle 7."""
    base = synthetic_market(n=40, seed=1)
    start, hour = int(base.open_time_ms[0]), base.interval_ms
    times = start + 8 * hour * np.arange(-1, 6, dtype=np.int64)
    series = FundingSeries("BTCUSDT", times, np.arange(7) * 1e-4, "test")
    market = build_market(list(base.candles), funding={"BTCUSDT": series})
    config = FeatureConfig.model_validate({"indicators": [{"name": "funding_rate"}]})
    history = LiveHistory(("BTCUSDT",), hour, config, None, 1)
    history.add_funding(settled(series, "BTCUSDT", 0, start + 7 * hour - 1))
    history.load({"BTCUSDT": [candle(market, 0, row) for row in range(7)]})
    seen = {}
    for row in range(7, 10):
        # Even when the exchange tells of it early, what a row shows goes by the clock of its candle.
        history.add_funding(settled(series, "BTCUSDT", 0, start + (row + 2) * hour - 1))
        history.append({"BTCUSDT": candle(market, 0, row)})
        seen[row] = float(history.window[-1, 0])
    assert seen == pytest.approx({7: 1e-4, 8: 2e-4, 9: 2e-4})
    assert list(seen.values()) == pytest.approx(market_features(market, config).values[7:10, 0])


def test_a_candle_that_comes_late_takes_the_place_of_its_stand_in() -> None:
    market = synthetic_market(("BTCUSDT", "ETHUSDT"), n=900, seed=4)
    config = default_features()
    table = market_features(market, config)
    history = LiveHistory(market.symbols, market.interval_ms, config, None, WINDOW)
    first = 800
    start = max(0, first - history.candles_needed + 1)
    history.load(
        {s: [candle(market, c, row) for row in range(start, first + 1)] for c, s in enumerate(market.symbols)}
    )
    last = float(market.close[first, 1])
    stand_in = Candle(
        "ETHUSDT", int(market.open_time_ms[first + 1]), market.interval_ms, last, last, last, last, 0.0
    )
    history.append({"BTCUSDT": candle(market, 0, first + 1), "ETHUSDT": stand_in})
    history.correct(candle(market, 1, first + 1))
    history.append({s: candle(market, c, first + 2) for c, s in enumerate(market.symbols)})
    known = [name for name in table.names if "funding" not in name]
    columns = [table.names.index(name) for name in known]
    expected = identity_scaler(table.names).transform(table.values[first + 3 - WINDOW : first + 3])
    np.testing.assert_allclose(history.window[:, columns], expected[:, columns], rtol=1e-6, atol=1e-6)
    before = history.window.copy()
    history.correct(candle(market, 1, first + 20))  # of a time that is not in the history
    np.testing.assert_array_equal(history.window, before)


def test_parts_computed_as_candles_arrive_make_the_same_rows() -> None:
    market = synthetic_market(("BTCUSDT", "ETHUSDT"), n=900, seed=4)
    first, hour = 800, market.interval_ms
    plain, ahead = (LiveHistory(market.symbols, hour, default_features(), None, WINDOW) for _ in range(2))
    start = first - plain.candles_needed + 1
    funding = {
        s: settled(series, s, 0, 2**62) for s, series in zip(market.symbols, market.funding, strict=True)
    }

    def both(act: Callable[[LiveHistory], None]) -> None:
        act(plain)
        act(ahead)

    def rates(until: int) -> Callable[[LiveHistory], None]:
        def add(one: LiveHistory) -> None:
            for series in funding.values():
                one.add_funding([rate for rate in series if rate.time_ms < int(market.open_time_ms[until])])

        return add

    both(rates(first))
    both(
        lambda one: one.load(
            {s: [candle(market, c, r) for r in range(start, first + 1)] for c, s in enumerate(market.symbols)}
        )
    )
    used = 0
    for row in range(first + 1, first + 60):
        btc, eth = candle(market, 0, row), candle(market, 1, row)
        late = candle(market, 1, row - 1)
        match row % 6:
            case 0:
                ahead.prepare(eth)
                ahead.prepare(btc)
            case 1:
                ahead.prepare(btc)
            case 2:  # not the candle that comes to count
                ahead.prepare(replace(btc, close=btc.low, volume=0.0))
            case 3:  # a rate becomes known in between
                ahead.prepare(eth)
                both(rates(row + 1))
            case 4:  # the candle before was wrong
                ahead.prepare(eth)
                both(lambda one, late=late: one.correct(replace(late, close=late.low)))
            case _:  # not the next one, and one that cannot be
                ahead.prepare(candle(market, 0, row + 1))
                ahead.prepare(replace(eth, high=eth.low / 2))
        used += len(ahead._prepared)
        both(lambda one, pair={"BTCUSDT": btc, "ETHUSDT": eth}: one.append(pair))
        np.testing.assert_array_equal(ahead.window, plain.window)
        assert not ahead._prepared
    assert used > 20


def test_histories_that_cannot_be_used_are_refused() -> None:
    market = synthetic_market(("BTCUSDT", "ETHUSDT"), n=300, seed=4)
    config = CONFIGS["pandas-ta"]

    def load(btc: list[int], eth: list[int]) -> None:
        history = LiveHistory(market.symbols, market.interval_ms, config, None, 5)
        history.load(
            {"BTCUSDT": [candle(market, 0, r) for r in btc], "ETHUSDT": [candle(market, 1, r) for r in eth]}
        )

    with pytest.raises(MarketDataError, match="gave 3 closed candles"):
        load(list(range(3)), list(range(3)))
    with pytest.raises(MarketDataError, match="gap"):
        load([*range(195), *range(196, 200)], [*range(195), *range(196, 200)])
    with pytest.raises(MarketDataError, match="different times"):
        load(list(range(200)), list(range(1, 201)))
