"""`python -m tests.benchmarks.backtest_speed`: bars per second of the EMA cross, from candles to step records.

What is timed begins with the candles and ends with the figures: features, environment, run, and the step records, kept
in memory or written as CSV. backtesting.py runs the same cross over the same candles, its indicators included.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from agents.baselines import baseline_setup
from agents.simulate import build_env, simulate
from tests.benchmarks import _setting
from tests.benchmarks._report import Rate, best_rates, emit, note

_NAME = "rule_backtest_bars_per_s"
_FAST, _SLOW = 20, 50


def backtests(candles: int, path: Path | None = None) -> Callable[[], int]:
    """A round: one backtest."""
    place = _setting.market(1, candles)

    def round_() -> int:
        setup = baseline_setup("ema-cross", symbols=1, parameters={"fast": _FAST, "slow": _SLOW})
        if path is not None:
            path.unlink(missing_ok=True)
        done = simulate(setup, build_env(setup, place), steps_path=path, keep_records=path is None)
        return done.metrics.steps

    return round_


def peer() -> tuple[Rate | None, str]:
    """backtesting.py, with a commission and as many trades; else why not."""
    from backtesting import Backtest, Strategy

    place = _setting.market()
    columns = {
        "Open": place.open,
        "High": place.high,
        "Low": place.low,
        "Close": place.close,
        "Volume": place.volume,
    }
    frame = pd.DataFrame(
        {name: values[:, 0] for name, values in columns.items()},
        index=pd.to_datetime(place.open_time_ms, unit="ms"),
    )

    def ema(values: object, period: int) -> np.ndarray:
        return pd.Series(values).ewm(span=period, adjust=False).mean().to_numpy()

    class EmaCross(Strategy):  # type: ignore[misc]
        def init(self) -> None:
            self.fast = self.I(ema, self.data.Close, _FAST)
            self.slow = self.I(ema, self.data.Close, _SLOW)

        def next(self) -> None:
            if self.fast[-1] > self.slow[-1]:
                if not self.position.is_long:
                    self.position.close()
                    self.buy()
            elif not self.position.is_short:
                self.position.close()
                self.sell()

    def round_() -> int:
        Backtest(frame, EmaCross, cash=10_000_000, commission=0.0005, finalize_trades=True).run()
        return len(frame)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return best_rates(round_, seconds=1.0, least=2), ""
    except Exception as error:  # noqa: BLE001  whatever a peer trips over is what there is to say of it
        return None, f"{type(error).__name__}: {error}"


def main() -> None:
    """Measure and print."""
    note("backtest_speed: records in memory")
    rate = best_rates(backtests(_setting.CANDLES), seconds=2.0)
    note("backtest_speed: backtesting.py")
    other, failure = peer()
    extra = {"candles": _setting.CANDLES, "records": "memory", "per_cpu_s": rate.cpu}
    if other is None:
        emit(_NAME, rate.wall, "bars/s", peer="backtesting.py", peer_failure=failure, **extra)
    else:
        emit(
            _NAME,
            rate.wall,
            "bars/s",
            peer="backtesting.py",
            peer_value=other.wall,
            peer_per_cpu_s=other.cpu,
            **extra,
        )
    with TemporaryDirectory() as folder:
        note("backtest_speed: records as CSV")
        path = Path(folder) / "steps.csv"
        rate = best_rates(backtests(_setting.CANDLES, path), seconds=2.0, least=2)
        emit(
            f"{_NAME}_with_csv",
            rate.wall,
            "bars/s",
            candles=_setting.CANDLES,
            bytes_per_bar=path.stat().st_size / _setting.CANDLES,
            per_cpu_s=rate.cpu,
        )
    for candles in (10_000, 100_000, 1_000_000):
        note(f"backtest_speed: {candles:,} candles")
        rate = best_rates(backtests(candles), seconds=1.0, least=2)
        emit(
            f"{_NAME}_by_candles",
            rate.wall,
            "bars/s",
            candles=candles,
            ns_per_bar=1e9 / rate.wall,
            per_cpu_s=rate.cpu,
        )


if __name__ == "__main__":
    main()
