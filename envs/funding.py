"""Funding rates of one perpetual contract: load, validate, slice, store."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from envs.candle_rules import check_order
from envs.errors import CandleError
from envs.table_files import as_floats, as_times_ms, read_table, write_parquet
from envs.time_grid import format_time, parse_time_ms

_LARGEST_RATE = 0.5  # Binance caps rates at a few percent; 0.5 and more is a percentage, not a fraction
_FILE_NAME = re.compile(r"(?:^|_)(?P<symbol>[A-Z0-9]{4,20})[-_]funding", re.ASCII)


@dataclass(frozen=True, eq=False)
class FundingSeries:
    """Settled funding rates of one contract. Arrays are read-only; a series may be empty.

    Attributes:
        symbol: e.g. BTCUSDT.
        time_ms: int64 [K], UTC, increasing; when the rate was charged.
        rate: float64 [K], a fraction of the notional; longs pay positive rates to shorts.
        source: where they came from, for people; `constant` when a configured rate stands for them.

    Raises:
        CandleError: not sorted, repeated, not finite, or beyond any possible rate; names the row.
    """

    symbol: str
    time_ms: npt.NDArray[np.int64]
    rate: npt.NDArray[np.float64]
    source: str

    def __post_init__(self) -> None:
        label = f"{self.symbol} funding"
        times = np.array(self.time_ms, dtype=np.int64)
        rates = np.array(self.rate, dtype=np.float64)
        if times.ndim != 1 or times.shape != rates.shape:
            raise CandleError(
                f"{label}: time_ms has shape {times.shape} and rate {rates.shape}; "
                f"give one-dimensional arrays of one length"
            )
        times.flags.writeable = False
        rates.flags.writeable = False
        object.__setattr__(self, "time_ms", times)
        object.__setattr__(self, "rate", rates)
        check_order(times, label, "funding_time")
        broken = ~(np.abs(rates) < _LARGEST_RATE)
        if broken.any():
            row = int(np.argmax(broken))
            what = "not a finite number" if not np.isfinite(rates[row]) else "too large"
            raise CandleError(
                f"{label}: row {row} ({format_time(times[row])}): funding_rate {rates[row]:g} is {what}; "
                f"give a fraction (0.0001 is 0.01 %)",
                row=row,
            )

    def __len__(self) -> int:
        return len(self.time_ms)

    @property
    def spacing_ms(self) -> int:
        """Usual time between two settlements (the median), in ms; 8 hours when there are fewer than two."""
        return 8 * 3_600_000 if len(self) < 2 else int(np.median(np.diff(self.time_ms)))

    def slice(
        self, start: str | int | date | datetime | None = None, end: str | int | date | datetime | None = None
    ) -> FundingSeries:
        """Settlements with start <= time < end; None leaves that side open. May be empty."""
        start_ms, end_ms = parse_time_ms(start), parse_time_ms(end)
        first = 0 if start_ms is None else int(np.searchsorted(self.time_ms, start_ms))
        last = len(self) if end_ms is None else int(np.searchsorted(self.time_ms, end_ms))
        return replace(self, time_ms=self.time_ms[first:last], rate=self.rate[first:last])

    def to_parquet(self, path: Path | str) -> None:
        """Write zstd Parquet with the columns funding_time and funding_rate; whole or not at all."""
        write_parquet(
            Path(path),
            {"funding_time": self.time_ms, "funding_rate": self.rate},
            {"symbol": self.symbol, "market": "USD-M perp", "interval": "funding", "source": self.source},
        )

    def data_hash(self) -> str:
        """SHA-256 (hex) of symbol, times and rates."""
        digest = hashlib.sha256(f"{self.symbol} funding {len(self)}\n".encode())
        digest.update(self.time_ms.tobytes())
        digest.update(self.rate.tobytes())
        return digest.hexdigest()


def load_funding(path: Path | str, symbol: str | None = None) -> FundingSeries:
    """Load funding rates from Parquet or CSV with the columns funding_time (UTC ms) and funding_rate.

    Times are rounded to the second: the exchange stamps a settlement some milliseconds after the hour.

    Raises:
        CandleError: the file cannot be read, is of another symbol, or breaks a rule.
    """
    path = Path(path)
    table = read_table(path)
    table.require(("funding_time", "funding_rate"))
    stated = table.metadata.get("symbol")
    if symbol is not None and stated not in (None, symbol):
        raise CandleError(
            f"{path}: the file says that it holds {stated}, but {symbol} was asked for; "
            f"give the file of {symbol}"
        )
    named = _FILE_NAME.search(path.name)
    symbol = symbol or stated or (named["symbol"] if named else None)
    if symbol is None:
        raise CandleError(
            f"{path}: neither the file nor its name says the symbol; give it, as --symbol BTCUSDT "
            f"(symbol='BTCUSDT'), or name the file as BTCUSDT_funding{path.suffix}"
        )
    times = as_times_ms(table.columns["funding_time"], "funding_time", path.name)
    return FundingSeries(
        symbol=symbol,
        time_ms=(times + 500) // 1000 * 1000,
        rate=as_floats(table.columns["funding_rate"], "funding_rate", path.name),
        source=table.metadata.get("source", path.name),
    )
