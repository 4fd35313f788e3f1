"""Market data for training and backtests: files of candles, fundings and marks become one market."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from envs.candles import CandleSet, FundingSeries, TimeLike, load_candles, load_funding, parse_time_ms
from envs.errors import ConfigError
from envs.market import Market, build_market
from envs.time_grid import format_time

S = TypeVar("S", CandleSet, FundingSeries)

Notice = Callable[[str], None]
"""Told, in one line, what was done to the data that the user may not expect."""


def _ignore(_message: str) -> None:
    """Nobody wants to know."""


def load_market(
    candles: Sequence[Path],
    *,
    funding: Sequence[Path] = (),
    marks: Sequence[Path] = (),
    symbols: Sequence[str] | None = None,
    start: TimeLike = None,
    end: TimeLike = None,
    constant_funding_rate: float = 0.0001,
    fill_gaps: bool = False,
    notice: Notice = _ignore,
) -> Market:
    """Load one market from files.

    Candles before `start` stay in the market, because features and windows of the first steps look back on them:
    bound the episodes by `FuturesEnv(..., start=start)`. Candles from `end` on are left out. Where funding files
    begin later or end earlier than the candles, the candles are cropped to them, unless `start` or `end` asks for
    the part that would be lost.

    Args:
        candles: one file per symbol.
        funding: files of settled rates, for some or all of the symbols.
        marks: files of mark-price candles, likewise; without one a settlement is charged at the candle's open.
        symbols: which symbols, in the order of the action vector; None takes those of the candle files.
        start, end: half open span by open time; see `envs.candles.parse_time_ms`.
        constant_funding_rate: charged every eight hours for a symbol without funding file, as a fraction.
        fill_gaps: put candles of the previous close and zero volume where candles are missing.
        notice: told what was cropped, and where a span that was asked for is not covered.

    Raises:
        CandleError: a file cannot be read or breaks a rule, or no candle is left.
        ConfigError: no candle file, a symbol without one, or a file of a symbol that has no candles.
    """
    if not candles:
        raise ConfigError(
            "no candle file was given; give one per symbol, as --candles data/BTCUSDT_1h.parquet"
        )
    # A file that does not say its symbol can only be the one that was asked for.
    single = symbols[0] if symbols is not None and len(symbols) == 1 and len(candles) == 1 else None
    loaded = [load_candles(path, symbol=single, fill_gaps=fill_gaps) for path in candles]
    chosen = _choose(loaded, symbols)
    names = [one.symbol for one in chosen]
    fundings = _by_symbol((load_funding(path, single) for path in funding), names, loaded, "funding")
    mark_candles = _by_symbol((load_candles(path, symbol=single) for path in marks), names, loaded, "marks")
    start_ms, end_ms = parse_time_ms(start), parse_time_ms(end)
    if start_ms is not None and end_ms is not None and start_ms >= end_ms:
        raise ConfigError(f"start {format_time(start_ms)} is not before end {format_time(end_ms)}")
    for one in chosen:
        if start_ms is not None and start_ms < one.open_time_ms[0]:
            notice(
                f"{one.symbol}: the candles begin at {format_time(one.open_time_ms[0])}, after the start asked for"
            )
        if end_ms is not None and end_ms > one.open_time_ms[-1] + one.interval_ms:
            after = format_time(one.open_time_ms[-1] + one.interval_ms)
            notice(f"{one.symbol}: the candles end at {after}, before the end asked for")
    cropped = [_crop(one, fundings.get(one.symbol), start_ms, end_ms, notice) for one in chosen]
    if start_ms is not None:
        for one in cropped:
            one.slice(start_ms)  # says what the candles cover when none lies there
    return build_market(
        cropped, funding=fundings, marks=mark_candles, constant_funding_rate=constant_funding_rate
    )


def _choose(loaded: Sequence[CandleSet], symbols: Sequence[str] | None) -> list[CandleSet]:
    if symbols is None:
        return list(loaded)
    by_symbol = {one.symbol: one for one in loaded}
    for symbol in symbols:
        if symbol not in by_symbol:
            raise ConfigError(
                f"no candle file is of {symbol}; the files are of {', '.join(by_symbol)}: give its candles, or "
                f"another symbol"
            )
    return [by_symbol[symbol] for symbol in symbols]


def _by_symbol(
    series: Iterable[S], names: Sequence[str], loaded: Sequence[CandleSet], kind: str
) -> dict[str, S]:
    """The series of the chosen symbols; those of symbols that were left out are dropped with them."""
    found: dict[str, S] = {}
    known = [one.symbol for one in loaded]
    for one in series:
        if one.symbol not in known:
            raise ConfigError(
                f"the {kind} file of {one.symbol} has no candles beside it; candle files are of {', '.join(known)}"
            )
        if one.symbol in found:
            raise ConfigError(f"two {kind} files are of {one.symbol}; give one")
        if one.symbol in names:
            found[one.symbol] = one
    return found


def _crop(
    candles: CandleSet,
    funding: FundingSeries | None,
    start_ms: int | None,
    end_ms: int | None,
    notice: Notice,
) -> CandleSet:
    """The candles up to `end_ms` whose fundings are known."""
    if end_ms is not None:
        candles = candles.slice(end=end_ms)
    if funding is None or len(funding) == 0:
        return candles
    # A settlement that is missing at either end would have come one interval before or after the known ones.
    unknown_before_ms = int(funding.time_ms[0]) - funding.spacing_ms
    unknown_after_ms = int(funding.time_ms[-1]) + funding.spacing_ms
    first = int(np.searchsorted(candles.open_time_ms, unknown_before_ms, side="right"))
    last = int(np.searchsorted(candles.close_time_ms, unknown_after_ms))
    # What was asked for stays: build_market then says that its fundings are missing.
    if start_ms is not None and start_ms <= unknown_before_ms:
        first = 0
    if end_ms is not None:
        last = len(candles)
    dropped = len(candles) - (last - first)
    if dropped == 0 or first >= last:
        return candles
    notice(
        f"{candles.symbol}: {dropped} of {len(candles)} candles left out, because their fundings are not in the "
        f"funding file ({format_time(funding.time_ms[0])} to {format_time(funding.time_ms[-1])})"
    )
    return candles.rows(first, last)
