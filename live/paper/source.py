"""Public market data of Binance, or of whoever speaks its protocol: candles, fundings, mark prices."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any

import aiohttp
import numpy as np

from envs.candles import from_columns
from envs.errors import ConfigError, ExchangeUnavailableError, PerpgymError
from envs.funding import FundingSeries
from envs.instruments import Instrument, LeverageBracket, default_instruments
from envs.market import build_market
from envs.time_grid import interval_to_ms
from live.exchange.parse import instrument
from live.paper.feeds import ReplayFeed

BINANCE_REST_URL = "https://fapi.binance.com"
BINANCE_STREAM_URL = "wss://fstream.binance.com"
HISTORY = 1_500
_PAGE = 1_000
_TIMEOUT_S = 20.0
_CONNECT_S = 10.0
_FEES = (Decimal("0.0002"), Decimal("0.0005"))
# Brackets need a key to be asked for. This one is for contracts that the table does not have.
_UNKNOWN_CONTRACT = (LeverageBracket(Decimal(0), Decimal("1e12"), 20, Decimal("0.025"), Decimal(0)),)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kline:
    """A candle as a stream or a REST row tells of it."""

    open_ms: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    closed: bool


@dataclass(frozen=True, slots=True)
class Settlement:
    """A funding that was charged; `mark` is None where the source does not say."""

    time_ms: int
    rate: Decimal
    mark: Decimal | None


@dataclass(frozen=True, slots=True)
class MarketSource:
    """Where prices come from.

    Attributes:
        symbols, interval: what is followed.
        rest_url, stream_url: without a path.
        silence_s: a stream that says nothing for so long is dead. Mark prices come every second.
    """

    symbols: tuple[str, ...]
    interval: str
    rest_url: str = BINANCE_REST_URL
    stream_url: str = BINANCE_STREAM_URL
    silence_s: float = 30.0
    name: str = field(default="binance", compare=False)

    def __post_init__(self) -> None:
        if not self.symbols:
            raise ConfigError("--feed binance needs at least one --symbol, as BTCUSDT")
        if len(set(self.symbols)) != len(self.symbols):
            raise ConfigError(f"a symbol is there twice: {', '.join(self.symbols)}")
        for url, schemes in ((self.rest_url, ("http", "https")), (self.stream_url, ("ws", "wss"))):
            if url.partition("://")[0] not in schemes or not url.partition("://")[2]:
                raise ConfigError(f"the source's address is {url!r}; give one like {schemes[1]}://host")

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[SourceConnection]:
        """A session for requests and streams."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S, connect=_CONNECT_S)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
            yield SourceConnection(self, session)


class SourceConnection:
    """Requests to a source.

    Every method raises `ExchangeUnavailableError` when the source cannot be reached, refuses, or talks nonsense.
    """

    def __init__(self, source: MarketSource, session: aiohttp.ClientSession) -> None:
        self._source = source
        self._session = session

    async def get(self, path: str, **params: Any) -> Any:
        """A public GET."""
        url = self._source.rest_url.rstrip("/") + path
        asked = {name: str(value) for name, value in params.items() if value is not None}
        try:
            async with self._session.get(url, params=asked) as reply:
                text = await reply.text()
                if reply.status != 200:
                    raise ExchangeUnavailableError(
                        f"{url} answered {reply.status}: {text[:200]}; the source must be reachable from here "
                        f"(--source-rest, --source-streams)"
                    )
                return json.loads(text)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as problem:
            raise ExchangeUnavailableError(
                f"cannot read {url}: {type(problem).__name__} {problem}; is it reachable from here? "
                f"(--source-rest, --source-streams give another source)"
            ) from problem

    async def server_ms(self) -> int:
        """The source's clock."""
        return int((await self.get("/fapi/v1/time"))["serverTime"])

    async def klines(self, symbol: str, *, start_ms: int | None = None, limit: int = _PAGE) -> list[Kline]:
        """Candles ascending: from a time on, else the newest; the last may be open."""
        now_ms = await self.server_ms()
        rows = await self.get(
            "/fapi/v1/klines",
            symbol=symbol,
            interval=self._source.interval,
            startTime=start_ms,
            limit=limit,
        )
        try:
            newest_ms = max((int(row[0]) for row in rows), default=0)
            # What another has followed is closed, though it was open when the clock was asked for.
            return [
                _kline(row[0], row[1:6], closed=int(row[0]) < newest_ms or int(row[6]) < now_ms)
                for row in rows
            ]
        except (TypeError, ValueError, IndexError, InvalidOperation) as problem:
            raise ExchangeUnavailableError(f"candles of {symbol} cannot be read: {problem}") from problem

    async def history(self, symbol: str, start_ms: int, end_ms: int) -> list[Kline]:
        """All candles with start <= open time <= end."""
        found: list[Kline] = []
        while True:
            since_ms = found[-1].open_ms + 1 if found else start_ms
            rows = await self.klines(symbol, start_ms=since_ms)
            found += [row for row in rows if row.open_ms <= end_ms]
            if len(rows) < _PAGE or rows[-1].open_ms >= end_ms:
                return found

    async def fundings(self, symbol: str, start_ms: int) -> list[Settlement]:
        """Fundings from a time on, ascending; of many the oldest thousand."""
        rows = await self.get("/fapi/v1/fundingRate", symbol=symbol, startTime=start_ms, limit=1000)
        try:
            return [
                Settlement(
                    int(row["fundingTime"]),
                    Decimal(row["fundingRate"]),
                    Decimal(row["markPrice"]) if row.get("markPrice") else None,
                )
                for row in rows
            ]
        except (TypeError, KeyError, ValueError, InvalidOperation) as problem:
            raise ExchangeUnavailableError(f"fundings of {symbol} cannot be read: {problem}") from problem

    async def instruments(self) -> dict[str, Instrument]:
        """Trading rules from exchangeInfo; brackets and fees, which need a key, from the built-in table."""
        info = await self.get("/fapi/v1/exchangeInfo")
        rows = {row["symbol"]: row for row in info["symbols"]}
        known = default_instruments()
        found = {}
        for symbol in self._source.symbols:
            if symbol not in rows:
                raise ConfigError(f"{symbol} is not traded at {self._source.rest_url}; leave it out")
            maker, taker = _FEES
            table = known.get(symbol)
            found[symbol] = instrument(
                rows[symbol],
                table.brackets if table else _UNKNOWN_CONTRACT,
                maker_fee=table.maker_fee if table else maker,
                taker_fee=table.taker_fee if table else taker,
            )
        return found

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[Json]]:
        """Kline and mark-price events; the iteration ends with `ExchangeUnavailableError`."""
        source = self._source
        names = [
            f"{symbol.lower()}@{kind}"
            for symbol in source.symbols
            for kind in (f"kline_{source.interval}", "markPrice@1s")
        ]
        url = f"{source.stream_url.rstrip('/')}/market/stream?streams={'/'.join(names)}"
        try:
            socket = await self._session.ws_connect(
                url, heartbeat=source.silence_s / 2, timeout=aiohttp.ClientWSTimeout(ws_close=1.0)
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            raise ExchangeUnavailableError(f"cannot open {url}: {problem}") from problem
        try:
            yield self._heard(socket)
        finally:
            await socket.close()

    async def _heard(self, socket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[Json]:
        while True:
            try:
                message = await asyncio.wait_for(socket.receive(), self._source.silence_s)
            except TimeoutError:
                raise ExchangeUnavailableError(
                    f"the source's stream said nothing for {self._source.silence_s:g} s"
                ) from None
            if message.type is not aiohttp.WSMsgType.TEXT:
                raise ExchangeUnavailableError(f"the source's stream ended ({message.type.name})")
            event = json.loads(message.data).get("data")
            if isinstance(event, dict):
                yield event


def kline_of(event: Json) -> Kline:
    """The candle of a kline event."""
    k = event["k"]
    return _kline(k["t"], [k[name] for name in "ohlcv"], closed=bool(k["x"]))


def _kline(open_ms: Any, figures: list[Any], *, closed: bool) -> Kline:
    begin, high, low, close, volume = (Decimal(one) for one in figures)
    return Kline(int(open_ms), begin, high, low, close, volume, closed)


@dataclass(frozen=True, slots=True)
class LiveFeed(ReplayFeed):
    """A feed whose market grows with its source. Its last candle is the open one, as far as it is known.

    Attributes:
        source: what it follows.
        instruments: trading rules as the source has them.
        ahead_ms: the source's clock minus this machine's, when the feed was made.
    """

    source: MarketSource = field(default=MarketSource(("BTCUSDT",), "1m"))
    instruments: dict[str, Instrument] = field(default_factory=dict)
    ahead_ms: int = 0

    def starts_now(self, wall_ms: int) -> bool:
        """Whether the source's clock is the wall clock, give or take a minute: then requests are judged by it."""
        return abs(self.ahead_ms) < 60_000


def live_feed(source: MarketSource, *, begin_ms: int | None = None) -> LiveFeed:
    """Read the source's newest candles. With `begin_ms`, up to the candle of that open time: a restart goes on there.

    Raises:
        ExchangeUnavailableError: the source cannot be reached.
        ConfigError: a symbol that is not traded there.
    """
    return asyncio.run(_live_feed(source, begin_ms))


async def _live_feed(source: MarketSource, begin_ms: int | None) -> LiveFeed:
    length = interval_to_ms(source.interval)
    async with source.connect() as connection:
        instruments = await connection.instruments()
        now_ms = await connection.server_ms()
        ahead_ms = now_ms - int(time.time() * 1000)
        newest = (await connection.klines(source.symbols[0], limit=1))[-1].open_ms
        end_ms = newest if begin_ms is None else min(begin_ms, newest)
        sets, series = [], []
        for symbol in source.symbols:
            rows = await connection.history(symbol, end_ms - HISTORY * length, end_ms)
            if len(rows) < 2 or rows[-1].open_ms != end_ms:
                raise ExchangeUnavailableError(
                    f"{source.rest_url} has no candles of {symbol} up to the present one; wait a candle or "
                    f"leave the symbol out"
                )
            columns: Json = {"open_time": [row.open_ms for row in rows]}
            for name in ("open", "high", "low", "close", "volume"):
                columns[name] = [float(getattr(row, name)) for row in rows]
            sets.append(from_columns(columns, symbol=symbol, interval=source.interval))
            known = [
                one for one in await connection.fundings(symbol, rows[0].open_ms) if one.time_ms < end_ms
            ]
            series.append(funding_series(symbol, known))
    try:
        market = build_market(sets, constant_funding_rate=0.0)
    except PerpgymError as problem:
        raise ExchangeUnavailableError(f"the source's candles cannot be used: {problem}") from problem
    market = replace(market, funding=tuple(series))
    return LiveFeed(market, len(market) - 1, 1.0, {}, source, instruments, ahead_ms)


def funding_series(symbol: str, settlements: list[Settlement]) -> FundingSeries:
    """Settlements as a series."""
    return FundingSeries(
        symbol,
        np.array([one.time_ms for one in settlements], dtype=np.int64),
        np.array([float(one.rate) for one in settlements], dtype=np.float64),
        "source",
    )
