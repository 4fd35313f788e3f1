"""Follow a market that is elsewhere: its candles and mark prices move this exchange as they come.

Between two messages the price is taken to have gone straight: first to an extreme that the open candle has newly
reached (the nearer one first, if both), then to its newest price. What lies on the way happens there, as on any paced
feed. A gap (a lost connection, a restart of this exchange) is filled from the source's candles: each is played once,
in order, and its fundings are charged on the way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from envs.errors import ExchangeUnavailableError
from envs.market import Market
from live.paper import market_events, market_streams
from live.paper.money import exact
from live.paper.play import jump_prices, move_prices
from live.paper.source import Json, Kline, LiveFeed, Settlement, SourceConnection, funding_series, kline_of

if TYPE_CHECKING:
    from live.paper.exchange import PaperExchange

_LOG = logging.getLogger(__name__)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_ASK_AGAIN_S = 1.0
# How long the other symbols' last candle is waited for before it is asked for.
_PATIENCE_S = 2.0


async def run_live(exchange: PaperExchange, *, first_wait_s: float = _FIRST_WAIT_S) -> None:
    """Follow the feed's source for ever, over every loss of the connection."""
    feed = exchange.feed
    assert isinstance(feed, LiveFeed)
    follower = Follower(exchange)
    wait_s = first_wait_s
    async with feed.source.connect() as connection:
        while True:
            try:
                async with connection.events() as events:
                    await follower.catch_up(connection)
                    wait_s = first_wait_s
                    async with aclosing(_with_pauses(events, follower)) as heard:
                        async for event in heard:
                            if event is not None:
                                follower.hear(event)
                            await follower.settle(connection)
                            if follower.is_stuck:
                                await follower.catch_up(connection)
            except ExchangeUnavailableError as problem:
                _LOG.warning("%s; prices stand still, trying again in %.1f s", problem, wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


async def _with_pauses(events: AsyncIterator[Json], follower: Follower) -> AsyncGenerator[Json | None, None]:
    """The events, and None where none comes for a while though the follower waits for something."""
    coming: asyncio.Future[Json] | None = None
    try:
        while True:
            if coming is None:
                coming = asyncio.ensure_future(anext(events))
            await asyncio.wait({coming}, timeout=_ASK_AGAIN_S if follower.is_waiting else None)
            if coming.done():
                done, coming = coming, None
                yield done.result()
            else:
                yield None
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


class Follower:
    """Moves one exchange as its source moves."""

    def __init__(self, exchange: PaperExchange, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        feed = exchange.feed
        assert isinstance(feed, LiveFeed)
        self._exchange = exchange
        self._monotonic_s = monotonic_s
        self._final: dict[str, Kline] = {}
        self._ahead: dict[str, Kline] = {}
        self._ahead_since_s = 0.0
        self._opened: set[str] = set()
        self._volumes = dict.fromkeys(exchange.symbols, Decimal(0))
        self._next_funding: dict[str, int] = {}
        self._owed: set[str] = set()
        self._asked_s = float("-inf")
        self._settled_ms = exchange.settled_ms
        for symbol in exchange.symbols:
            self._settled_ms.setdefault(symbol, exchange.engine.clock_ms)
        self._source_ms = exchange.engine.clock_ms
        if exchange.real_time:
            exchange.follow_clock(lambda: int(time.time() * 1000) + feed.ahead_ms)
        else:
            exchange.follow_clock(lambda: max(exchange.engine.clock_ms, self._source_ms))
        if exchange.between:
            exchange.open_candle()
        elif not exchange.resumed:
            self._begin(feed.market)

    @property
    def is_stuck(self) -> bool:
        """Whether a symbol has gone on while the end of another's candle does not come."""
        return bool(self._ahead) and self._monotonic_s() - self._ahead_since_s > _PATIENCE_S

    @property
    def is_waiting(self) -> bool:
        """Whether a funding is to be listed, or a candle to end: no further event may tell of either."""
        return bool(self._owed or self._ahead)

    def hear(self, event: Json) -> None:
        """Take one event of the source's streams."""
        kind = event.get("e")
        if kind not in ("kline", "markPriceUpdate") or event["s"] not in self._volumes:
            return
        self._source_ms = max(self._source_ms, int(event["E"]))
        if kind == "kline":
            self.take(event["s"], kline_of(event))
        else:
            self._mark(event["s"], Decimal(event["p"]), int(event["T"]))

    async def settle(self, connection: SourceConnection) -> None:
        """Charge the fundings that are due; the source may list them a moment late."""
        if not self._owed or self._monotonic_s() - self._asked_s < _ASK_AGAIN_S:
            return
        for symbol in sorted(self._owed):
            listed = await connection.fundings(symbol, self._settled_ms[symbol] + 1)
            # What lies behind the newest event heard, or the open candle, belongs to candles that are still to come.
            found = [one for one in listed if one.time_ms <= min(self._source_ms, self._exchange.close_ms)]
            for one in found:
                self._charge(symbol, one)
            if len(found) < len(listed):
                self._owed.add(symbol)
            if symbol in self._owed:
                self._asked_s = self._monotonic_s()

    async def catch_up(self, connection: SourceConnection) -> None:
        """Play what was missed: every candle that has closed since, then the open one as far as it is."""
        exchange = self._exchange
        self._ahead.clear()
        while True:
            begin_ms = exchange.history.open_time_ms(exchange.index)
            now_ms = await connection.server_ms()
            rows = {
                symbol: {one.open_ms: one for one in await connection.klines(symbol, start_ms=begin_ms)}
                for symbol in exchange.symbols
            }
            # Asked after the candles, so that none is played whose funding is not known.
            due = [
                (one.time_ms, symbol, one)
                for symbol in exchange.symbols
                for one in await connection.fundings(symbol, self._settled_ms[symbol] + 1)
            ]
            due.sort(key=lambda row: row[:2])
            times = sorted(set.intersection(*(set(one) for one in rows.values())))
            for open_ms in times:
                if open_ms > exchange.close_ms:
                    break  # the one before had not ended when it was asked for
                while due and due[0][0] <= open_ms:
                    _, symbol, settlement = due.pop(0)
                    self._charge(symbol, settlement)
                for symbol in exchange.symbols:
                    self.take(symbol, rows[symbol][open_ms])
            for time_ms, symbol, settlement in due:
                if time_ms <= min(now_ms, exchange.close_ms):
                    self._charge(symbol, settlement)
                else:
                    self._owed.add(symbol)
            if exchange.history.open_time_ms(exchange.index) == begin_ms or not times:
                return

    def take(self, symbol: str, kline: Kline) -> None:
        """Take a symbol's candle as it is now."""
        exchange = self._exchange
        open_ms = exchange.history.open_time_ms(exchange.index)
        if kline.open_ms < open_ms or symbol in self._final:
            if kline.open_ms > open_ms:
                self._keep_for_later(symbol, kline)
            return
        if kline.open_ms > open_ms:
            self._keep_for_later(symbol, kline)
            return
        self._move(symbol, kline)
        if kline.closed:
            self._final[symbol] = kline
            if len(self._final) == len(exchange.symbols):
                self._close()

    def _begin(self, market: Market) -> None:
        """Stand where the open candle has got to."""
        exchange = self._exchange
        for column, symbol in enumerate(exchange.symbols):
            forming = exchange.forming[symbol]
            forming.high, forming.low = float(market.high[-1, column]), float(market.low[-1, column])
            forming.close, forming.volume = float(market.close[-1, column]), float(market.volume[-1, column])
            exchange.engine.prices = {**exchange.engine.prices, symbol: exact(forming.close)}
            self._opened.add(symbol)

    # --- what moves -----------------------------------------------------------------------------------

    def _keep_for_later(self, symbol: str, kline: Kline) -> None:
        if not self._ahead:
            self._ahead_since_s = self._monotonic_s()
        # The end of a candle is not to be replaced by what comes after it: then the gap must be filled.
        if symbol not in self._ahead or not self._ahead[symbol].closed:
            self._ahead[symbol] = kline

    def _move(self, symbol: str, kline: Kline) -> None:
        """Let a symbol's price go where its open candle has been since it was last heard of."""
        exchange = self._exchange
        engine, forming = exchange.engine, exchange.forming[symbol]
        exchange.tick()
        self._volumes[symbol] = max(Decimal(0), kline.volume - exact(forming.volume))
        engine.renew_liquidity(self._volumes)
        if symbol not in self._opened:
            # The last close stood for the open until now.
            self._opened.add(symbol)
            forming.open = forming.high = forming.low = float(kline.open)
            if kline.open != engine.prices[symbol]:
                jump_prices(engine, {**engine.prices, symbol: kline.open})
        extremes = [
            price
            for price, new in (
                (kline.high, kline.high > exact(forming.high)),
                (kline.low, kline.low < exact(forming.low)),
            )
            if new
        ]
        extremes.sort(key=lambda price: abs(price - engine.prices[symbol]))
        for price in (*extremes, kline.close):
            if price != engine.prices[symbol]:
                move_prices(engine, {**engine.prices, symbol: price}, engine.marks)
        # An event from before a gap was filled must not make an extreme new once more.
        forming.high, forming.low = max(forming.high, float(kline.high)), min(forming.low, float(kline.low))
        forming.close, forming.volume = float(kline.close), float(kline.volume)
        market_streams.publish_trade(exchange, symbol, kline.close, float(self._volumes[symbol]))
        self._tell(symbol)

    def _mark(self, symbol: str, price: Decimal, next_funding_ms: int) -> None:
        exchange = self._exchange
        before = self._next_funding.get(symbol)
        # A gap that was filled meanwhile has brought the funding already.
        if before is not None and next_funding_ms > before > self._settled_ms[symbol]:
            self._owed.add(symbol)
        self._next_funding[symbol] = next_funding_ms
        exchange.tick()
        move_prices(exchange.engine, exchange.engine.prices, {**exchange.engine.marks, symbol: price})
        self._tell(symbol)

    def _tell(self, symbol: str) -> None:
        exchange = self._exchange
        exchange.flush()
        market_events.publish_tick(exchange, symbol)
        market_streams.publish_tick(exchange)

    def _close(self) -> None:
        """Every symbol's candle has ended: the next one begins where this one closed."""
        exchange = self._exchange
        exchange.grow(_grown(exchange.feed.market, [self._final[symbol] for symbol in exchange.symbols]))
        exchange.end_candle()
        self._final.clear()
        self._opened.clear()
        exchange.open_candle()
        waiting, self._ahead = self._ahead, {}
        for symbol, kline in waiting.items():
            self.take(symbol, kline)

    def _charge(self, symbol: str, settlement: Settlement) -> None:
        exchange = self._exchange
        if settlement.time_ms <= self._settled_ms[symbol]:
            return
        self._settled_ms[symbol] = settlement.time_ms
        self._owed.discard(symbol)
        mark = settlement.mark or exchange.engine.mark(symbol)
        exchange.tick()
        exchange.engine.book_funding({symbol: settlement.rate * mark})
        market, column = exchange.feed.market, exchange.symbols.index(symbol)
        known = market.funding[column]
        assert known is not None
        settlements = [
            Settlement(int(when), exact(rate), None)
            for when, rate in zip(known.time_ms.tolist(), known.rate.tolist(), strict=True)
        ]
        if not settlements or settlement.time_ms > settlements[-1].time_ms:
            funding = list(market.funding)
            funding[column] = funding_series(symbol, [*settlements, settlement])
            exchange.grow(replace(market, funding=tuple(funding)))
        exchange.flush()


def _grown(market: Market, candles: list[Kline]) -> Market:
    """A market whose last candle is these, and after it one that has just opened at their closes."""
    rows = {name: [float(getattr(one, name)) for one in candles] for name in ("open", "high", "low", "close")}
    rows["volume"] = [float(one.volume) for one in candles]
    nothing = [0.0] * len(candles)

    def column(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        opening = nothing if name == "volume" else rows["close"]
        return np.vstack([getattr(market, name)[:-1], rows[name], opening])

    return replace(
        market,
        open_time_ms=np.append(market.open_time_ms, market.open_time_ms[-1] + market.interval_ms),
        open=column("open"),
        high=column("high"),
        low=column("low"),
        close=column("close"),
        volume=column("volume"),
        funding_open=np.vstack([market.funding_open, nothing]),
        funding_inner=np.vstack([market.funding_inner, nothing]),
        candles=(),
    )
