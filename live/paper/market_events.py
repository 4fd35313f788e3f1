"""Market stream events: klines, mark price, book ticker. Built only for streams that somebody hears."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from envs.instruments import Instrument
from live.paper.events import Event
from live.paper.history import Bar, number_text
from live.paper.kline_grid import KlineGrid
from live.paper.money import amount_text, plain

if TYPE_CHECKING:
    from live.paper.exchange import PaperExchange

# The book has one level a side of a size that never matters: orders fill at the price, not from the book.
BOOK_QUANTITY = Decimal(100)


def publish_closed(exchange: PaperExchange, symbol: str, open_time_ms: int) -> None:
    """Send the closed candle (x = true), and longer intervals that end with it."""
    end_ms = open_time_ms + exchange.feed.market.interval_ms
    for stream, interval, grid, continuous in _kline_streams(exchange, symbol):
        if grid.floor(end_ms) != end_ms:
            continue
        bar = exchange.history.bar(symbol, grid.shift(end_ms, -1), end_ms, exchange.index, None)
        if bar is not None:
            event = kline(symbol, interval, bar, end_ms - 1, closed=True, continuous=continuous)
            exchange.hub.send(stream, event)


def publish_tick(exchange: PaperExchange, symbol: str) -> None:
    """Send what a price change shows: open candles (x = false, paced feeds only), mark price, book."""
    now_ms = exchange.engine.clock_ms
    forming = exchange.forming.get(symbol)
    if forming is not None and not exchange.lock_step:
        for stream, interval, grid, continuous in _kline_streams(exchange, symbol):
            begin_ms = grid.floor(now_ms)
            bar = exchange.history.bar(symbol, begin_ms, grid.shift(begin_ms, 1), exchange.index, forming)
            if bar is not None:
                event = kline(symbol, interval, bar, now_ms, closed=False, continuous=continuous)
                exchange.hub.send(stream, event)
    name = symbol.lower()
    for stream in (f"{name}@markPrice", f"{name}@markPrice@1s"):
        if exchange.hub.wants(stream):
            exchange.hub.send(stream, mark_price(exchange, symbol))
    stream = f"{name}@bookTicker"
    if exchange.hub.wants(stream):
        exchange.hub.send(stream, {"e": "bookTicker", **book_sides(exchange, symbol)})


def kline(
    symbol: str, interval: str, bar: Bar, time_ms: int, *, closed: bool, continuous: bool = False
) -> Event:
    """A kline event, or a continuous_kline one."""
    body: Event = {
        "t": bar.open_time_ms,
        "T": bar.close_time_ms,
        "s": symbol,
        "i": interval,
        "f": -1,
        "L": -1,
        "o": number_text(bar.open),
        "c": number_text(bar.close),
        "h": number_text(bar.high),
        "l": number_text(bar.low),
        "v": number_text(bar.volume),
        "n": 0,
        "x": closed,
        "q": f"{bar.quote_volume:.8f}",
        "V": "0",
        "Q": "0",
        "B": "0",
    }
    if continuous:
        del body["s"]
        return {"e": "continuous_kline", "E": time_ms, "ps": symbol, "ct": "PERPETUAL", "k": body}
    return {"e": "kline", "E": time_ms, "s": symbol, "st": 1, "k": body}


def mark_price(exchange: PaperExchange, symbol: str) -> Event:
    """markPriceUpdate. The index is the mark price."""
    price = amount_text(exchange.engine.mark(symbol))
    return {
        "e": "markPriceUpdate",
        "E": exchange.engine.clock_ms,
        "s": symbol,
        "p": price,
        "ap": price,
        "i": price,
        "P": price,
        "r": plain(exchange.last_funding_rate(symbol)),
        "T": exchange.next_funding_ms(symbol),
        "st": 1,
    }


def best_prices(instrument: Instrument, price: Decimal) -> tuple[Decimal, Decimal]:
    """Bid and ask, one tick apart around the last price."""
    bid = instrument.round_price(price, up=False)
    return bid, bid + instrument.tick_size


def book_sides(exchange: PaperExchange, symbol: str) -> Event:
    """The synthetic one-level book."""
    now_ms = exchange.engine.clock_ms
    bid, ask = best_prices(exchange.engine.instruments[symbol], exchange.engine.prices[symbol])
    return {
        "u": now_ms,
        "s": symbol,
        "b": plain(bid),
        "B": plain(BOOK_QUANTITY),
        "a": plain(ask),
        "A": plain(BOOK_QUANTITY),
        "T": now_ms,
        "E": now_ms,
        "ps": symbol,
        "st": 1,
    }


def _kline_streams(exchange: PaperExchange, symbol: str) -> list[tuple[str, str, KlineGrid, bool]]:
    """Kline streams of a symbol that somebody hears and the feed can serve: (name, interval, grid, continuous)."""
    found = []
    native = exchange.feed.market.interval_ms
    for prefix, continuous in (
        (f"{symbol.lower()}@kline_", False),
        (f"{symbol.lower()}_perpetual@continuousKline_", True),
    ):
        for name in exchange.hub.names():
            if name.startswith(prefix):
                interval = name[len(prefix) :]
                grid = KlineGrid.of(interval, native)
                if grid is not None:
                    found.append((name, interval, grid, continuous))
    return found
