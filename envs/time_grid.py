"""Candle intervals and UTC times: names to milliseconds and back, and what a user may type as a time."""

from __future__ import annotations

import difflib
import re
from datetime import UTC, date, datetime
from types import MappingProxyType

from envs.errors import ConfigError

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS

INTERVALS_MS = MappingProxyType(
    {
        "1m": MINUTE_MS,
        "3m": 3 * MINUTE_MS,
        "5m": 5 * MINUTE_MS,
        "15m": 15 * MINUTE_MS,
        "30m": 30 * MINUTE_MS,
        "1h": HOUR_MS,
        "2h": 2 * HOUR_MS,
        "4h": 4 * HOUR_MS,
        "6h": 6 * HOUR_MS,
        "8h": 8 * HOUR_MS,
        "12h": 12 * HOUR_MS,
        "1d": DAY_MS,
        "3d": 3 * DAY_MS,
        "1w": WEEK_MS,
    }
)
"""Binance's candle intervals of fixed length, in ms. The month (`1M`) is not one."""

_LATEST_MS = 100_000_000_000_000  # the year 5138; a larger number is microseconds or nanoseconds


def interval_to_ms(interval: str) -> int:
    """Length of an interval such as `"1h"` in ms.

    Raises:
        ConfigError: not one of `INTERVALS_MS`.
    """
    if interval in INTERVALS_MS:
        return INTERVALS_MS[interval]
    near = difflib.get_close_matches(str(interval).strip().lower(), INTERVALS_MS, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"unknown interval {interval!r}.{hint} Known intervals: {', '.join(INTERVALS_MS)}")


def interval_name(interval_ms: int) -> str:
    """Name of an interval in ms: `3_600_000` is `"1h"`.

    Raises:
        ConfigError: no interval has that length.
    """
    for name, length_ms in INTERVALS_MS.items():
        if length_ms == interval_ms:
            return name
    raise ConfigError(f"no interval is {interval_ms} ms long. Known intervals: {', '.join(INTERVALS_MS)}")


def grid_offset_ms(interval_ms: int) -> int:
    """Time of the first boundary after the epoch, in ms: weeks begin on Monday, the rest at the epoch."""
    return 4 * DAY_MS if interval_ms == WEEK_MS else 0  # the epoch was a Thursday


def parse_time_ms(value: str | int | date | datetime | None) -> int | None:
    """A time as a user or a config gives it, as UTC milliseconds; None stays None.

    Takes a date (`"2023-01-01"`, midnight), a date with a time (`"2023-01-01T12:00"`, or with a space),
    `datetime` and `date` objects, and milliseconds as a number. Times without an offset are UTC.

    Raises:
        ConfigError: the value is none of these.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        raise _time_error(value)
    if isinstance(value, datetime):
        return _datetime_ms(value)
    if isinstance(value, date):
        return _datetime_ms(datetime(value.year, value.month, value.day, tzinfo=UTC))
    if isinstance(value, str):
        return _parse_text_ms(value)
    try:
        milliseconds = int(value)
        exact = milliseconds == value
    except (TypeError, ValueError):
        raise _time_error(value) from None
    if not exact or not 0 <= milliseconds < _LATEST_MS:
        raise _time_error(value)
    # 20230101 would be twenty past five on the first of January 1970.
    if re.fullmatch(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", str(milliseconds)):
        raise _time_error(value)
    return milliseconds


def _parse_text_ms(text: str) -> int:
    stripped = text.strip()
    if stripped.isdigit() and len(stripped) != 8:  # eight digits are a date, YYYYMMDD
        if len(stripped) < 12 or int(stripped) >= _LATEST_MS:
            raise _time_error(text)
        return int(stripped)
    try:
        return _datetime_ms(datetime.fromisoformat(stripped))
    except ValueError:
        raise _time_error(text) from None


def _datetime_ms(moment: datetime) -> int:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)


def _time_error(value: object) -> ConfigError:
    return ConfigError(
        f"cannot read {value!r} as a time. Give UTC as 2023-01-01, 2023-01-01T12:00 or milliseconds"
    )


def format_time(time_ms: int) -> str:
    """A UTC time for messages: `2023-01-01 12:00 UTC`, with seconds and ms only where there are any."""
    moment = datetime.fromtimestamp(int(time_ms) // 1000, tz=UTC)
    text = moment.strftime("%Y-%m-%d %H:%M:%S" if moment.second else "%Y-%m-%d %H:%M")
    milliseconds = int(time_ms) % 1000
    if milliseconds:
        text = f"{moment.strftime('%Y-%m-%d %H:%M:%S')}.{milliseconds:03d}"
    return f"{text} UTC"
