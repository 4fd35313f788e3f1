"""Fundings: what is read, and how each broken rule is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from candle_frames import HOUR, START, candles

from envs.candles import FundingSeries, load_funding
from envs.errors import CandleError


class TestFunding:
    def series(self) -> FundingSeries:
        return FundingSeries(
            "BTCUSDT", START + 8 * HOUR * np.arange(4), np.array([1e-4, -2e-4, 3e-4, 0]), "x"
        )

    def test_round_trip_and_slice(self, tmp_path: Path) -> None:
        self.series().to_parquet(tmp_path / "f.parquet")
        again = load_funding(tmp_path / "f.parquet")
        assert again.data_hash() == self.series().data_hash()
        assert again.slice("2023-01-01T08:00", "2023-01-02").rate.tolist() == [-2e-4, 3e-4]
        assert len(again.slice("2030-01-01")) == 0
        assert again.spacing_ms == 8 * HOUR

    def test_times_are_rounded_to_the_second(self, tmp_path: Path) -> None:
        path = tmp_path / "BTCUSDT_funding.csv"
        path.write_text(f"funding_time,funding_rate\n{START + 5},0.0001\n{START + 8 * HOUR - 3},0.0002\n")
        assert load_funding(path).time_ms.tolist() == [START, START + 8 * HOUR]
        assert load_funding(path).symbol == "BTCUSDT"

    @pytest.mark.parametrize(
        ("times", "rates", "message"),
        [
            ([0, 16, 8], [0, 0, 0], "row 2: not sorted: funding_time"),
            ([0, 8, 8], [0, 0, 0], "row 2: duplicate funding_time"),
            ([0, 8, 16], [0, np.nan, 0], r"row 1 \(2023-01-01 08:00 UTC\): funding_rate nan is not a finite"),
            ([0, 8, 16], [0, 0, 1.0], r"row 2 .*funding_rate 1 is too large; give a fraction"),
        ],
    )
    def test_rules(self, times: list[int], rates: list[float], message: str) -> None:
        with pytest.raises(CandleError, match=message):
            FundingSeries("BTCUSDT", START + HOUR * np.array(times), np.array(rates), "x")

    def test_another_symbol(self, tmp_path: Path) -> None:
        self.series().to_parquet(tmp_path / "f.parquet")
        with pytest.raises(CandleError, match="holds BTCUSDT, but ETHUSDT"):
            load_funding(tmp_path / "f.parquet", symbol="ETHUSDT")

    def test_candles_are_not_fundings(self, tmp_path: Path) -> None:
        candles().to_parquet(tmp_path / "a.parquet")
        with pytest.raises(CandleError, match="column 'funding_time' is missing"):
            load_funding(tmp_path / "a.parquet")
