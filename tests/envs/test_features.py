"""Features: each built-in against an independent calculation, warm-up, memory, configs and their errors."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.candles import CandleSet, FundingSeries, load_candles, load_funding
from envs.errors import CandleError, ConfigError
from envs.features import (
    INDICATORS,
    FeatureConfig,
    FeatureTable,
    compute_features,
    default_features,
    feature_names,
    market_features,
    parse_indicator,
)
from envs.indicators import FundingRate, Indicator, window_mean_and_std
from envs.market import build_market
from envs.pandas_ta_indicator import PandasTa
from envs.synthetic import synthetic_candles, synthetic_funding, synthetic_market

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / ".." / "shared" / "data"
HOUR = 3_600_000
START = 1_672_531_200_000  # 2023-01-01 00:00 UTC, a Sunday

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real candles of ../shared/data are not here")

Floats = np.ndarray[Any, np.dtype[np.float64]]


def config(*indicators: Any) -> FeatureConfig:
    return FeatureConfig.model_validate({"indicators": list(indicators)})


def column(candles: CandleSet, *indicators: Any, funding: FundingSeries | None = None) -> Floats:
    """The first column."""
    return compute_features(candles, config(*indicators), funding).values[:, 0]


def candles_of(closes: Sequence[float], volumes: Sequence[float] | None = None, hour: int = 0) -> CandleSet:
    """Hourly candles that open at the close before, with high and low one beyond the body."""
    close = np.asarray(closes, dtype=np.float64)
    open = np.concatenate((close[:1], close[:-1]))
    return CandleSet(
        symbol="BTCUSDT",
        interval_ms=HOUR,
        open_time_ms=START + HOUR * (hour + np.arange(len(close))),
        open=open,
        high=np.maximum(open, close) + 1,
        low=np.minimum(open, close) - 1,
        close=close,
        volume=np.ones(len(close)) if volumes is None else np.asarray(volumes, dtype=np.float64),
        source="hand",
    )


@pytest.fixture(scope="module")
def made_up() -> CandleSet:
    return synthetic_candles(n=400, seed=11)


class TestAgainstIndependentCalculations:
    def test_log_return(self) -> None:
        values = column(candles_of([100, 110, 99, 99]), {"name": "log_return", "periods": 2})
        assert np.isnan(values[:2]).all()
        assert values[2:].tolist() == pytest.approx([math.log(99 / 100), math.log(99 / 110)])

    def test_ema_distance(self) -> None:
        # EMA(3): starts as the mean of 1, 2, 6 = 3; then 3 + 2/4 * (5 - 3) = 4.
        values = column(candles_of([3, 4, 8, 5]), {"name": "ema_distance", "period": 3})
        assert np.isnan(values[:2]).all()
        assert values[2:].tolist() == pytest.approx([8 / 5 - 1, 0.0])

    def test_rsi(self) -> None:
        # Changes +2 -1 | +3 -4 with period 2: gains 1, losses 0.5 -> 2/3; gains (1+3)/2 = 2, losses 0.25 -> 8/9;
        # gains 1, losses (0.25 + 4) / 2 = 2.125 -> 1 / 3.125.
        values = column(candles_of([10, 12, 11, 14, 10]), {"name": "rsi", "period": 2})
        assert np.isnan(values[:2]).all()
        assert values[2:].tolist() == pytest.approx([2 / 3, 8 / 9, 0.32])

    def test_rsi_of_a_flat_price(self) -> None:
        assert column(candles_of([7.0] * 30), "rsi")[14:].tolist() == [0.0] * 16

    def test_macd(self, made_up: CandleSet) -> None:
        close = made_up.close.tolist()

        def ema(values: list[float], period: int, start: int) -> dict[int, float]:
            level = sum(values[start - period + 1 : start + 1]) / period
            levels = {start: level}
            for t in range(start + 1, len(values)):
                level += 2 / (period + 1) * (values[t] - level)
                levels[t] = level
            return levels

        # TA-Lib starts the fast EMA where the slow one starts.
        fast, slow = ema(close, 5, 12), ema(close, 13, 12)
        line = [0.0] * 12 + [fast[t] - slow[t] for t in range(12, 400)]
        signal = ema(line, 4, 15)
        values = compute_features(
            made_up, config({"name": "macd", "fast": 5, "slow": 13, "signal": 4})
        ).values
        assert np.isnan(values[:15]).all()
        for t in (15, 16, 40, 399):
            expected = [line[t], signal[t], line[t] - signal[t]]
            assert values[t].tolist() == pytest.approx([value / close[t] for value in expected], rel=1e-9)

    def test_atr(self, made_up: CandleSet) -> None:
        high, low, close = made_up.high, made_up.low, made_up.close
        ranges = [
            max(high[t] - low[t], abs(high[t] - close[t - 1]), abs(low[t] - close[t - 1]))
            for t in range(1, 400)
        ]
        level = sum(ranges[:14]) / 14
        expected = {14: level}
        for t in range(15, 400):
            level = (level * 13 + ranges[t - 1]) / 14
            expected[t] = level
        values = column(made_up, "atr")
        assert np.isnan(values[:14]).all()
        assert values[[14, 15, 399]].tolist() == pytest.approx(
            [expected[t] / close[t] for t in (14, 15, 399)], rel=1e-9
        )

    def test_adx(self, made_up: CandleSet) -> None:
        # Wilder's own definition, with the smoothing of TA-Lib: sums that lose a 14th of themselves.
        n = 14
        high, low, close = made_up.high, made_up.low, made_up.close
        up = np.diff(high)
        down = -np.diff(low)
        plus = np.where((up > down) & (up > 0), up, 0.0)
        minus = np.where((down > up) & (down > 0), down, 0.0)
        spread = np.maximum(high[1:], close[:-1]) - np.minimum(low[1:], close[:-1])
        sums = [values[: n - 1].sum() for values in (plus, minus, spread)]
        directional = []
        for t in range(n - 1, 399):
            sums = [
                total - total / n + values[t]
                for total, values in zip(sums, (plus, minus, spread), strict=True)
            ]
            directional.append(abs(sums[0] - sums[1]) / (sums[0] + sums[1]))
        level = sum(directional[:n]) / n
        expected = {2 * n - 1: level}
        for index in range(n, len(directional)):
            level = (level * (n - 1) + directional[index]) / n
            expected[n + index] = level
        values = column(made_up, "adx")
        assert np.isnan(values[: 2 * n - 1]).all()
        for t in (27, 28, 100, 399):
            assert values[t] == pytest.approx(expected[t], rel=1e-9)

    def test_bollinger_percent_b(self) -> None:
        # 1, 2, 3: mean 2, deviation sqrt(2/3); (3 - (2 - 2d)) / 4d with d = 0.8165
        values = column(candles_of([2, 3, 4, 4, 4]), {"name": "bollinger_percent_b", "period": 3})
        d = math.sqrt(2 / 3)
        assert values[2] == pytest.approx((4 - (3 - 2 * d)) / (4 * d))
        assert values[4] == 0.5  # no width

    def test_volume_zscore(self) -> None:
        # 1, 2, 6: mean 3, deviation sqrt(14 / 3)
        values = column(candles_of([5] * 6, [1, 2, 6, 0, 0, 0]), {"name": "volume_zscore", "period": 3})
        assert values[2] == pytest.approx((6 - 3) / math.sqrt(14 / 3))
        assert values[5] == 0.0  # nothing traded, nothing unusual

    def test_high_low_range(self) -> None:
        assert column(candles_of([10, 20]), "high_low_range").tolist() == [2 / 10, 12 / 20]

    def test_funding_rate_is_the_last_settled(self) -> None:
        # Settled at 00:00, 02:00 and at the last millisecond of the candle of 03:00.
        funding = FundingSeries(
            "BTCUSDT",
            START + np.array([0, 2 * HOUR, 4 * HOUR - 1, 5 * HOUR]),
            np.array([0.001, 0.002, 0.004, 0.008]),
            "hand",
        )
        table = compute_features(
            candles_of([5] * 5), config({"name": "funding_rate", "mean": 2}, "high_low_range"), funding
        )
        assert table.names == ("funding_rate", "funding_rate_mean_2", "high_low_range")
        assert table.warmup == 2  # two are settled by the close of the candle of 02:00
        # The one of 05:00 is settled after the close of the candle of 04:00 (04:59:59.999).
        assert table.values[:, 0].tolist() == [0.001, 0.001, 0.002, 0.004, 0.004]
        assert table.values[2:, 1].tolist() == pytest.approx([0.0015, 0.003, 0.003])

    def test_time_of_week(self) -> None:
        # The candle of Sunday 23:00 closes when Monday begins: all angles are 0. The next closes at 01:00.
        values = compute_features(candles_of([5, 5], hour=23), config("time_of_week")).values
        assert values[0].tolist() == pytest.approx([0, 1, 0, 1], abs=1e-12)
        day, week = 2 * math.pi / 24, 2 * math.pi / 168
        assert values[1].tolist() == pytest.approx(
            [math.sin(day), math.cos(day), math.sin(week), math.cos(week)]
        )

    def test_windows_are_exact(self, made_up: CandleSet) -> None:
        mean, std = window_mean_and_std(made_up.volume, 20)
        for t in (19, 20, 399):
            window = made_up.volume[t - 19 : t + 1]
            assert mean[t] == pytest.approx(window.mean(), rel=1e-13)
            assert std[t] == pytest.approx(window.std(), rel=1e-10)
        part_mean, part_std = window_mean_and_std(made_up.volume[100:120], 20)
        assert (part_mean[-1], part_std[-1]) == (mean[119], std[119])  # to the last bit


EVERY_BUILT_IN = [name for name in INDICATORS if name != "pandas_ta"]


@pytest.mark.parametrize("name", EVERY_BUILT_IN)
def test_warmup_is_exact_and_enough_candles_suffice(name: str, made_up: CandleSet) -> None:
    indicator = parse_indicator(name)
    funding = synthetic_funding(made_up)
    table = compute_features(made_up, config(name), funding)
    assert table.warmup == indicator.warmup == config(name).warmup
    assert np.isfinite(table.values[indicator.warmup :]).all()
    assert not np.isfinite(table.values[: indicator.warmup]).all(axis=1).any()
    assert len(compute_features(made_up.rows(0, indicator.warmup + 1), config(name), funding).values)
    if indicator.warmup:
        with pytest.raises(
            CandleError, match=f"{indicator.warmup} candles, but .* needs {indicator.warmup + 1}"
        ):
            compute_features(made_up.rows(0, indicator.warmup), config(name), funding)


def long_memories() -> FeatureConfig:
    return config(
        {"name": "rsi", "period": 30},
        {"name": "macd", "fast": 20, "slow": 60, "signal": 15},
        {"name": "ema_distance", "period": 100},
        {"name": "adx", "period": 25},
        {"name": "atr", "period": 30},
        {"name": "funding_rate", "mean": 21},
        {"name": "volume_zscore", "period": 100},
        {"name": "bollinger_percent_b", "period": 50, "std": 2.5},
        {"name": "log_return", "periods": 168},
    )


def assert_memory_suffices(candles: CandleSet, features: FeatureConfig, funding: FundingSeries) -> None:
    whole = compute_features(candles, features, funding).values
    memory = features.memory
    scale = whole[features.warmup :].std(axis=0)
    for t in np.random.default_rng(1).integers(memory - 1, len(candles), 50).tolist():
        part = compute_features(candles.rows(t - memory + 1, t + 1), features, funding).values[-1]
        assert (np.abs(part - whole[t]) <= 1e-8 * scale).all(), (t, np.abs(part - whole[t]) / scale)


@pytest.mark.parametrize("features", [default_features(), long_memories()], ids=["default", "long"])
def test_memory_suffices_on_synthetic_candles(features: FeatureConfig) -> None:
    candles = synthetic_candles(n=6000, seed=4)
    assert_memory_suffices(candles, features, synthetic_funding(candles))


@needs_data
@pytest.mark.parametrize("features", [default_features(), long_memories()], ids=["default", "long"])
def test_memory_suffices_on_real_candles(features: FeatureConfig) -> None:
    candles = load_candles(DATA / "binance_um_BTCUSDT_1h_2019-09-08_2025-08-31.parquet", start="2019-10-01")
    funding = load_funding(DATA / "binance_um_BTCUSDT_funding_2019-09-10_2025-08-31.parquet")
    assert_memory_suffices(candles, features, funding)


@pytest.mark.parametrize("name", EVERY_BUILT_IN)
def test_memory_of_each_alone(name: str) -> None:
    candles = synthetic_candles(n=1500, seed=6)
    assert_memory_suffices(candles, config(name), synthetic_funding(candles))


class TestTables:
    def test_default(self, made_up: CandleSet) -> None:
        features = default_features()
        table = compute_features(made_up, features, synthetic_funding(made_up))
        assert table.names == features.columns
        assert len(table.names) == 17
        assert table.values.shape == (400, 17)
        assert table.values.dtype == np.float64
        assert table.warmup == features.warmup == 49
        assert features.memory <= 1000  # live fetches that many in one request
        with pytest.raises(ValueError, match="read-only"):
            table.values[0, 0] = 0

    def test_one_symbol_has_no_prefix(self) -> None:
        market = synthetic_market(["BTCUSDT"], n=100)
        table = market_features(market, default_features())
        own = compute_features(market.candles[0], default_features(), market.funding[0])
        assert table.names == own.names == feature_names(default_features(), ["BTCUSDT"])
        assert np.array_equal(table.values, own.values, equal_nan=True)

    def test_two_symbols(self) -> None:
        market = synthetic_market(["BTCUSDT", "ETHUSDT"], n=100)
        features = config("log_return", "time_of_week", "funding_rate")
        table = market_features(market, features)
        assert table.names == (
            "BTCUSDT:log_return_1",
            "BTCUSDT:funding_rate",
            "ETHUSDT:log_return_1",
            "ETHUSDT:funding_rate",
            "time_of_day_sin",
            "time_of_day_cos",
            "time_of_week_sin",
            "time_of_week_cos",
        )
        assert table.names == feature_names(features, market.symbols)
        for index, candles in enumerate(market.candles):
            own = compute_features(candles, features, market.funding[index]).values
            assert np.array_equal(table.values[1:, 2 * index], own[1:, 0])
            assert np.array_equal(table.values[1:, 2 * index + 1], own[1:, 5])
        assert np.array_equal(table.values[:, 4:], own[:, 1:5])

    def test_a_market_without_funding_has_rate_zero(self, made_up: CandleSet) -> None:
        market = build_market([made_up], constant_funding_rate=0.0)
        table = market_features(market, config({"name": "funding_rate", "mean": 1000}))
        assert table.warmup == 0
        assert not table.values.any()

    def test_a_sliced_market_keeps_its_fundings(self) -> None:
        market = synthetic_market(n=200)
        features = config({"name": "funding_rate", "mean": 3})
        whole = market_features(market, features).values
        part = market_features(market.rows(101, 150), features)
        assert part.warmup == 0
        assert np.array_equal(part.values, whole[101:150])

    def test_fundings_are_needed(self, made_up: CandleSet) -> None:
        with pytest.raises(ConfigError, match="funding_rate needs the funding rates of BTCUSDT"):
            compute_features(made_up, config("funding_rate"))
        late = FundingSeries("BTCUSDT", made_up.close_time_ms[-1:] + 1, np.array([0.1]), "hand")
        with pytest.raises(CandleError, match="fewer than 1 funding rates are settled"):
            compute_features(made_up, config("funding_rate"), late)

    def test_a_value_that_is_no_number_is_named(self) -> None:
        # Nothing traded for a while: the library's money flow divides zero by zero.
        closes = 100 + np.random.default_rng(0).normal(size=200).cumsum()
        volumes = np.ones(200)
        volumes[120:160] = 0
        with pytest.raises(
            CandleError, match=r"feature CMF_20 is nan in row 139 \(2023-01-06 19:00 UTC\)"
        ) as caught:
            compute_features(
                candles_of(closes.tolist(), volumes.tolist()), config({"name": "pandas_ta", "kind": "cmf"})
            )
        assert caught.value.row == 139


class TestConfig:
    def test_round_trip(self) -> None:
        features = default_features()
        assert FeatureConfig.model_validate(features.model_dump()) == features
        assert FeatureConfig.model_validate_json(features.model_dump_json()) == features
        assert config("rsi", {"name": "atr", "period": 7}).columns == ("rsi_14", "atr_7")

    def test_frozen(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            default_features().indicators[0].name = "x"  # type: ignore[misc, assignment]

    @pytest.mark.parametrize(
        ("indicator", "message"),
        [
            ("rsii", r"unknown indicator 'rsii'\. Did you mean 'rsi'\? Known: log_return, rsi, macd"),
            ("supertrend", r"unknown indicator 'supertrend'.*\{name: pandas_ta, kind: supertrend"),
            ({"name": "rsi", "length": 7}, r"rsi: unknown key 'length'.*Known keys: name, period"),
            ({"name": "rsi", "perod": 7}, r"rsi: unknown key 'perod'\. Did you mean 'period'\?"),
            ({"name": "rsi", "period": 1}, r"rsi: period is 1: input should be greater than or equal to 2"),
            ({"name": "rsi", "period": "7"}, r"rsi: period is '7': input should be a valid integer"),
            ({"name": "rsi", "period": True}, r"rsi: period is True"),
            ({"name": "macd", "fast": 26, "slow": 12}, r"macd: fast is 26 and slow 12"),
            ({"period": 7}, r"is no indicator; give a name"),
            (7, r"7 is no indicator"),
            (
                {"name": "pandas_ta", "kind": "supertrnd"},
                r"unknown kind 'supertrnd'\. Did you mean 'supertrend'",
            ),
            (
                {"name": "pandas_ta", "kind": "rsi", "params": {"lenght": 7}},
                r"'lenght'\. Did you mean 'length'",
            ),
            (
                {"name": "pandas_ta", "kind": "rsi", "outputs": ["RSI"]},
                r"unknown output 'RSI'\. Known: RSI_14",
            ),
            ({"name": "pandas_ta"}, r"pandas_ta: kind is .*field required"),
        ],
    )
    def test_errors(self, indicator: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            config(indicator)

    def test_errors_of_the_whole(self) -> None:
        with pytest.raises(ConfigError, match="rsi_14 is there twice"):
            config("rsi", {"name": "rsi", "period": 14})
        with pytest.raises(ConfigError, match="no indicators; give at least one of log_return"):
            config()
        with pytest.raises(ConfigError, match="give a list"):
            FeatureConfig.model_validate({"indicators": {"name": "rsi"}})
        with pytest.raises(ConfigError, match=r"unknown key 'indicator'\. Did you mean 'indicators'"):
            FeatureConfig.model_validate({"indicator": []})


class TestPandasTa:
    def test_equals_the_built_in(self, made_up: CandleSet) -> None:
        table = compute_features(made_up, config("rsi", {"name": "pandas_ta", "kind": "rsi"}))
        assert table.names == ("rsi_14", "RSI_14")
        assert np.allclose(table.values[14:, 0] * 100, table.values[14:, 1])

    @pytest.mark.parametrize(
        ("kind", "params", "message"),
        [
            ("dpo", {}, r"looks ahead: DPO_20 10 candles back.*cut off.*centered: false"),
            ("ichimoku", {}, r"looks ahead: ICS_26.*include_chikou: false"),
            ("rsi", {"offset": -1}, r"looks ahead: RSI_14"),
            ("tos_stdevall", {}, r"looks ahead"),
            ("vp", {}, r"looks ahead"),
            ("obv", {}, r"depend on the whole history.*trailing: N"),
            ("drawdown", {}, r"depend on the whole history"),
            ("long_run", {}, r"needs 'fast', which is not a column of candles"),
            ("supertrend", {}, r"not defined on every row; choose outputs: \[SUPERT_7_3.0, SUPERTd_7_3.0\]"),
            ("ma", {}, r"gives no columns"),
            ("rsi", {"length": "x"}, r"it fails with"),
            ("sma", {"length": 9000}, r"gives nothing with"),
        ],
    )
    def test_refused(self, kind: str, params: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            config({"name": "pandas_ta", "kind": kind, "params": params})

    def test_look_ahead_can_be_configured_away(self) -> None:
        assert PandasTa(kind="dpo", params={"centered": False}).columns == ("DPO_20",)
        ichimoku = PandasTa(kind="ichimoku", params={"include_chikou": False})
        assert ichimoku.columns == ("ISA_9", "ISB_26", "ITS_9", "IKS_26")
        assert ichimoku.warmup == 77

    def test_trailing_takes_the_place_of_trying_out(self) -> None:
        assert PandasTa(kind="obv", trailing=500).memory == 500

    @pytest.mark.parametrize(
        ("kind", "params", "outputs"),
        [
            ("cci", {}, None),
            ("stochrsi", {}, None),
            ("supertrend", {"length": 10}, ["SUPERTd_10_3.0"]),
            ("ema", {"length": 100}, None),
            ("kama", {}, None),
            ("vwap", {}, None),
            ("willr", {"length": 30}, None),
        ],
    )
    def test_memory_suffices(self, kind: str, params: dict[str, Any], outputs: list[str] | None) -> None:
        candles = synthetic_candles(n=5000, seed=4)
        features = config({"name": "pandas_ta", "kind": kind, "params": params, "outputs": outputs})
        whole = compute_features(candles, features).values
        scale = np.abs(whole[features.warmup :]).max(axis=0)
        for t in np.random.default_rng(1).integers(features.memory - 1, len(candles), 20).tolist():
            part = compute_features(candles.rows(t - features.memory + 1, t + 1), features).values[-1]
            assert (np.abs(part - whole[t]) <= 1e-6 * scale).all()

    def test_imported_only_when_named(self) -> None:
        code = (
            "import sys; from envs.features import default_features, compute_features; "
            "from envs.synthetic import synthetic_market; from envs.features import market_features; "
            "market_features(synthetic_market(n=100), default_features()); "
            "heavy = {'pandas_ta_classic', 'torch', 'sklearn'} & set(sys.modules); assert not heavy, heavy"
        )
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_indicator_says_what_it_is() -> None:
    for name, model in INDICATORS.items():
        assert issubclass(model, Indicator)
        assert (model.__doc__ or "").strip(), name
    assert FundingRate(mean=3).settlements == 3
    assert default_features().settlements == 1
    assert isinstance(compute_features(candles_of([5, 6]), config("high_low_range")), FeatureTable)
