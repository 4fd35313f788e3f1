"""Any indicator of pandas-ta-classic by name, tried out before it is believed.

An indicator of a library may look ahead (a centred average, a span shifted back), need the whole history (a
running total), or be undefined on some rows. Which it is cannot be read off its name, so a configured one is run
on made-up candles when the config is read: with the future cut off, with another future, and on short histories.
What looks ahead or needs the whole history is refused; for the rest, warm-up and memory are measured.
"""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from envs.candle_tail import Candles
from envs.candles import CandleSet
from envs.errors import ConfigError
from envs.funding import FundingSeries
from envs.indicators import Floats, Indicator, Period
from envs.time_grid import MINUTE_MS

if TYPE_CHECKING:
    pass

Parameter = bool | int | float | str

_INPUTS = ("open_", "open", "high", "low", "close", "volume")
_SAMPLE_ROWS = 6000
_LONGEST_MEMORY = 2500
_AGREES = 1e-9


class PandasTa(Indicator):
    """An indicator of pandas-ta-classic: `{name: pandas_ta, kind: cci, params: {length: 20}}`.

    Values are as the library gives them; one in units of price (an average, a band) will drift with the price.

    Attributes:
        kind: the library's name for it.
        params: its keyword arguments.
        outputs: which of its columns, by the library's names; all when not given.
        trailing: candles that the last row needs, where it takes more than are tried out (then not checked).
    """

    name: Literal["pandas_ta"] = "pandas_ta"
    kind: str
    params: dict[str, Parameter] = Field(default_factory=dict)
    outputs: tuple[str, ...] | None = None
    trailing: Period | None = None

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        kinds = _kinds()
        if kind not in kinds:
            near = difflib.get_close_matches(kind.lower(), kinds, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"features: pandas_ta: unknown kind {kind!r}.{hint} Known: {', '.join(kinds)}")
        return kind

    @model_validator(mode="after")
    def _tried_out(self) -> PandasTa:
        self._findings()
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        return self._findings().columns

    @property
    def warmup(self) -> int:
        return self._findings().warmup

    @property
    def memory(self) -> int:
        return self._findings().memory

    def compute(self, candles: Candles, funding: FundingSeries | None) -> tuple[Floats, ...]:
        found = run_pandas_ta(self.kind, self.params, candles)
        missing = np.full(len(candles), np.nan)
        return tuple(found.get(column, missing) for column in self.columns)

    def _findings(self) -> Findings:
        return try_out(self.kind, tuple(sorted(self.params.items())), self.outputs, self.trailing)


@dataclass(frozen=True)
class Findings:
    """What trying an indicator out has shown: its columns, first defined row, and candles that a row needs."""

    columns: tuple[str, ...]
    warmup: int
    memory: int


@contextmanager
def _library() -> Iterator[Any]:
    """The library, with the warnings muted that are for its authors (it lags behind pandas)."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, RuntimeWarning):
            warnings.simplefilter("ignore", category)
        import pandas_ta_classic

        yield pandas_ta_classic


@cache
def _kinds() -> tuple[str, ...]:
    with _library() as library:
        return tuple(sorted({kind for kinds in library.Category.values() for kind in kinds}))


def run_pandas_ta(kind: str, params: dict[str, Parameter], candles: Candles) -> dict[str, Floats]:
    """The library's columns by name, each float64 [T]; empty when it finds the candles too few.

    Raises:
        ConfigError: it needs inputs other than candles, an unknown parameter, or it fails.
    """
    import pandas as pd

    with _library() as library:
        function = getattr(library, kind)
    accepted = inspect.signature(function).parameters
    label = f"features: pandas_ta {kind}"
    unknown = [key for key in params if key not in accepted or key in _INPUTS]
    options = [key for key in accepted if key not in _INPUTS and key != "kwargs"]
    if unknown:
        near = difflib.get_close_matches(unknown[0], options, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{label}: unknown parameter {unknown[0]!r}.{hint} Known: {', '.join(options)}")
    for key in options:
        if accepted[key].default is inspect.Parameter.empty and key not in params:
            raise ConfigError(f"{label}: it needs {key!r}, which is not a column of candles; choose another")
    index = pd.DatetimeIndex(candles.open_time_ms.astype("datetime64[ms]"))
    inputs = {
        key: pd.Series(getattr(candles, key.rstrip("_")).copy(), index=index, name=key.rstrip("_"))
        for key in _INPUTS
        if key in accepted
    }
    try:
        with _library():
            result = function(**inputs, **params)
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{label}: it fails with {params}: {error}") from error
    return _named_columns(kind, result)


def _named_columns(kind: str, result: Any) -> dict[str, Floats]:
    import pandas as pd

    if isinstance(result, tuple):
        # Ichimoku returns its lines and, apart, spans that reach beyond the last candle.
        result = result[0]
    if result is None:
        return {}
    if not isinstance(result, pd.Series | pd.DataFrame):
        raise ConfigError(f"features: pandas_ta {kind}: it gives no columns of numbers; choose another")
    frame = result.to_frame(result.name or kind) if isinstance(result, pd.Series) else result
    return {str(name): frame[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in frame.columns}


@cache
def try_out(
    kind: str,
    params: tuple[tuple[str, Parameter], ...],
    outputs: tuple[str, ...] | None,
    trailing: int | None,
) -> Findings:
    """Run an indicator on made-up candles; see the module's docstring.

    Raises:
        ConfigError: it looks ahead, needs the whole history, or is undefined on some rows after its warm-up.
    """
    label = f"features: pandas_ta {kind}"
    arguments = dict(params)
    sample = _sample()
    found = run_pandas_ta(kind, arguments, sample)
    if not found:
        raise ConfigError(f"{label}: it gives nothing with {arguments}; check its parameters")
    columns = tuple(found) if outputs is None else outputs
    for column in columns:
        if column not in found:
            raise ConfigError(f"{label}: unknown output {column!r}. Known: {', '.join(found)}")

    def values(candles: CandleSet) -> Floats:
        given = run_pandas_ta(kind, arguments, candles)
        empty = np.full(len(candles), np.nan)
        return np.stack([given.get(column, empty) for column in columns], axis=1)

    full = np.stack([found[column] for column in columns], axis=1)
    _refuse_look_ahead(label, columns, full, values)
    _refuse_undefined(label, columns, full)
    undefined = np.flatnonzero(~np.isfinite(full).all(axis=1))
    warmup = int(undefined[-1]) + 1 if len(undefined) else 0
    if trailing is not None:
        return Findings(columns, warmup, max(trailing, warmup + 1))
    return Findings(columns, warmup, _measure_memory(label, full, warmup, values))


def _refuse_look_ahead(label: str, columns: tuple[str, ...], full: Floats, values: Any) -> None:
    sample = _sample()
    for cut in (_SAMPLE_ROWS * 2 // 3, _SAMPLE_ROWS - 7):
        for kind, other in (
            ("cut off", values(sample.rows(0, cut))),
            ("changed", values(_other_future(sample, cut))[:cut]),
        ):
            same = np.isclose(other, full[:cut], rtol=_AGREES, atol=1e-300, equal_nan=True)
            if not same.all():
                row, index = np.argwhere(~same)[0]
                raise ConfigError(
                    f"{label}: it looks ahead: {columns[index]} {cut - 1 - row} candles back is another when the "
                    f"candles after it are {kind}. Choose parameters without look-ahead (centered: false, "
                    f"include_chikou: false, no negative offset), other outputs, or another indicator"
                )


def _refuse_undefined(label: str, columns: tuple[str, ...], full: Floats) -> None:
    holes = ~np.all(np.isfinite(full[_SAMPLE_ROWS // 2 :]), axis=0)
    if holes.any():
        defined = [column for column, hole in zip(columns, holes, strict=True) if not hole]
        bad = [column for column, hole in zip(columns, holes, strict=True) if hole]
        remedy = f"outputs: [{', '.join(defined)}]" if defined else "another indicator"
        raise ConfigError(f"{label}: {', '.join(bad)} is not defined on every row; choose {remedy}")


def _measure_memory(label: str, full: Floats, warmup: int, values: Any) -> int:
    sample = _sample()
    scale = np.nanmax(np.abs(full[_SAMPLE_ROWS // 2 :]), axis=0)

    def enough(length: int, rows: range) -> bool:
        for row in rows:
            last = values(sample.rows(row + 1 - length, row + 1))[-1]
            if not (np.abs(last - full[row]) <= _AGREES * scale).all():
                return False
        return True

    few = range(_LONGEST_MEMORY, _SAMPLE_ROWS, 307)
    many = range(_LONGEST_MEMORY, _SAMPLE_ROWS, 61)
    length = warmup + 1
    while length <= _LONGEST_MEMORY:
        if enough(length, few) and enough(length, many):
            # How far back it reaches may depend on the candles, so twice as many.
            return 2 * length
        length += max(length // 4, 4)
    raise ConfigError(
        f"{label}: {_LONGEST_MEMORY} candles are not enough for its last row: it seems to depend on the whole "
        f"history (a running total?), which a live run does not have. Choose another, or give trailing: N"
    )


@cache
def _sample() -> CandleSet:
    """Made-up 1m candles: at the shortest interval, what starts anew each day reaches back farthest."""
    rng = np.random.default_rng(20240101)
    change = rng.normal(0.0, 0.002, _SAMPLE_ROWS) * np.exp(0.5 * np.sin(np.arange(_SAMPLE_ROWS) / 400))
    return _candles_from_returns(change, rng)


def _other_future(sample: CandleSet, cut: int) -> CandleSet:
    rng = np.random.default_rng(7)
    later = _candles_from_returns(rng.normal(0.0, 0.01, len(sample) - cut), rng, float(sample.close[cut - 1]))
    columns: dict[str, npt.NDArray[np.float64]] = {
        name: np.concatenate((getattr(sample, name)[:cut], getattr(later, name)))
        for name in ("open", "high", "low", "close", "volume")
    }
    return CandleSet("SAMPLE", MINUTE_MS, sample.open_time_ms, **columns, source="made up")  # type: ignore[arg-type]


def _candles_from_returns(change: Floats, rng: np.random.Generator, start: float = 100.0) -> CandleSet:
    close = start * np.exp(np.cumsum(change))
    open = np.concatenate(([start], close[:-1]))
    reach = np.abs(rng.normal(0.0, 0.001, (2, len(change))))
    return CandleSet(
        symbol="SAMPLE",
        interval_ms=MINUTE_MS,
        open_time_ms=1_704_067_200_000 + np.arange(len(change), dtype=np.int64) * MINUTE_MS,
        open=open,
        high=np.maximum(open, close) * (1 + reach[0]),
        low=np.minimum(open, close) * (1 - reach[1]),
        close=close,
        volume=rng.lognormal(3.0, 0.5, len(change)),
        source="made up",
        synthetic=True,
    )
