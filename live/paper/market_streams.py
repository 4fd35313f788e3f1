"""Market streams beside klines: trades, tickers, depth, liquidations and the lists over all symbols.

Built only for streams that somebody hears. Prices come from candles, so there is one trade for each move of the
price (in lock-step one for each candle, at its close) and one level on each side of the book. Streams that have
nothing to tell here (`!contractInfo`, `!assetIndex@arr`, composite indices, RPI depth) can be heard and stay silent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from envs.time_grid import DAY_MS
from live.paper.account import Account
from live.paper.events import Event
from live.paper.history import number_text
from live.paper.market_events import BOOK_QUANTITY, best_prices, book_sides, mark_price
from live.paper.money import exact, plain

if TYPE_CHECKING:
    from live.paper.exchange import PaperExchange

_LIQUIDATION = "autoclose-"
_TAPE_LENGTH = 1000
_PER_CANDLE = 1000
_MARK_LISTS = ("!markPrice@arr", "!markPrice@arr@1s")
_PARTIAL_DEPTH = ("depth5", "depth10", "depth20")


@dataclass(frozen=True, slots=True)
class MarketTrade:
    """A move of the price as a trade. `trade_id` is the candle's number times 1000, plus a number within it."""

    trade_id: int
    price: Decimal
    quantity: Decimal
    time_ms: int
    buyer_is_maker: bool


@dataclass(slots=True)
class Tape:
    """What the streams must remember of each symbol: its newest trades, and the book as last sent."""

    trades: dict[str, deque[MarketTrade]] = field(default_factory=dict)
    books: dict[str, tuple[int, Decimal, Decimal]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Day:
    """The candles of the last 24 hours, the open one included, as one."""

    open_time_ms: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: float
    quote_volume: float


def day(exchange: PaperExchange, symbol: str) -> Day:
    """What happened to a symbol in the 24 hours up to now."""
    market, now_ms = exchange.feed.market, exchange.engine.clock_ms
    column = exchange.symbols.index(symbol)
    first = int(market.open_time_ms.searchsorted(now_ms - DAY_MS))
    part = slice(first, exchange.index)
    high, low, close = market.high[part, column], market.low[part, column], market.close[part, column]
    volumes = market.volume[part, column]
    last = exchange.engine.prices[symbol]
    begin_ms, begin, highest, lowest = now_ms, last, last, last
    volume = quote = 0.0
    if len(volumes):
        begin_ms, begin = int(market.open_time_ms[first]), exact(float(market.open[first, column]))
        highest, lowest = max(last, exact(float(high.max()))), min(last, exact(float(low.min())))
        volume, quote = float(volumes.sum()), float((volumes * (high + low + close) / 3).sum())
    forming = exchange.forming.get(symbol)
    if forming is not None:
        highest, lowest = max(highest, exact(forming.high)), min(lowest, exact(forming.low))
        volume += forming.volume
        quote += forming.volume * (forming.high + forming.low + forming.close) / 3
    return Day(begin_ms, begin, highest, lowest, last, volume, quote)


def ticker(exchange: PaperExchange, symbol: str) -> Event:
    """24hrTicker."""
    now_ms, past = exchange.engine.clock_ms, day(exchange, symbol)
    change = past.close - past.open
    return {
        "e": "24hrTicker",
        "E": now_ms,
        "s": symbol,
        "p": plain(change),
        "P": f"{change / past.open * 100:.3f}",
        "w": f"{past.quote_volume / past.volume:.8f}" if past.volume else plain(past.close),
        "c": plain(past.close),
        "Q": "0",
        "o": plain(past.open),
        "h": plain(past.high),
        "l": plain(past.low),
        "v": number_text(past.volume),
        "q": f"{past.quote_volume:.8f}",
        "O": past.open_time_ms,
        "C": now_ms,
        "F": -1,
        "L": -1,
        "n": 0,
        "ps": symbol,
        "st": 1,
    }


def mini_ticker(exchange: PaperExchange, symbol: str) -> Event:
    """24hrMiniTicker."""
    past = day(exchange, symbol)
    return {
        "e": "24hrMiniTicker",
        "E": exchange.engine.clock_ms,
        "s": symbol,
        "c": plain(past.close),
        "o": plain(past.open),
        "h": plain(past.high),
        "l": plain(past.low),
        "v": number_text(past.volume),
        "q": f"{past.quote_volume:.8f}",
        "ps": symbol,
        "st": 1,
    }


def publish_tick(exchange: PaperExchange) -> None:
    """Send what a change of prices shows, apart from klines and the streams of one symbol's price."""
    hub = exchange.hub
    for name in hub.names():
        subject, _, kind = name.partition("@")
        symbol = subject.upper()
        if name in ("!ticker@arr", "!miniTicker@arr"):
            build = ticker if name == "!ticker@arr" else mini_ticker
            hub.send(name, [build(exchange, one) for one in exchange.symbols])
        elif name in _MARK_LISTS:
            hub.send(name, [mark_price(exchange, one) for one in exchange.symbols])
        elif name == "!bookTicker":
            for one in exchange.symbols:
                hub.send(name, {"e": "bookTicker", **book_sides(exchange, one)})
        elif symbol not in exchange.symbols or subject != symbol.lower():
            continue
        elif kind == "ticker":
            hub.send(name, ticker(exchange, symbol))
        elif kind == "miniTicker":
            hub.send(name, mini_ticker(exchange, symbol))
        elif kind.partition("@")[0] in _PARTIAL_DEPTH:
            hub.send(name, _depth_update(exchange, symbol, whole=True))
        elif kind.partition("@")[0] == "depth":
            event = _depth_update(exchange, symbol, whole=False)
            if event["u"] > event["pu"]:
                hub.send(name, event)
    remember_books(exchange)


def remember_books(exchange: PaperExchange) -> None:
    """Keep the book as it is now, for the differences to it."""
    for symbol in exchange.symbols:
        exchange.tape.books[symbol] = (exchange.engine.clock_ms, *_best(exchange, symbol))


def recall_trades(exchange: PaperExchange) -> None:
    """Put the history's newest candles on the tape, one trade each."""
    market = exchange.feed.market
    for column, symbol in enumerate(exchange.symbols):
        exchange.tape.trades[symbol] = deque(maxlen=_TAPE_LENGTH)
        for index in range(max(0, exchange.index - _TAPE_LENGTH), exchange.index):
            time_ms = int(market.open_time_ms[index]) + market.interval_ms - 1
            _trade(
                exchange,
                symbol,
                index,
                exact(float(market.close[index, column])),
                float(market.volume[index, column]),
                time_ms,
            )


def publish_candle(exchange: PaperExchange, symbol: str, index: int) -> None:
    """Send a whole candle as one trade at its close."""
    market, column = exchange.feed.market, exchange.symbols.index(symbol)
    price, volume = exact(float(market.close[index, column])), float(market.volume[index, column])
    _send_trade(exchange, symbol, _trade(exchange, symbol, index, price, volume, exchange.engine.clock_ms))


def publish_trade(exchange: PaperExchange, symbol: str, price: Decimal, volume: float) -> None:
    """Send one trade within the present candle, of `volume` rounded down to the step."""
    now_ms = exchange.engine.clock_ms
    _send_trade(exchange, symbol, _trade(exchange, symbol, exchange.index, price, volume, now_ms))


def _trade(
    exchange: PaperExchange, symbol: str, index: int, price: Decimal, volume: float, time_ms: int
) -> MarketTrade | None:
    """Put a trade on the tape; None when its quantity is less than a step."""
    quantity = exchange.engine.instruments[symbol].round_quantity(exact(volume))
    if not quantity:
        return None
    tape = exchange.tape.trades[symbol]
    last = tape[-1] if tape else None
    number = max(index * _PER_CANDLE, last.trade_id if last else 0) + 1
    trade = MarketTrade(number, price, quantity, time_ms, last is not None and price < last.price)
    tape.append(trade)
    return trade


def _send_trade(exchange: PaperExchange, symbol: str, trade: MarketTrade | None) -> None:
    name = symbol.lower()
    aggregate, single = f"{name}@aggTrade", f"{name}@trade"
    if trade is None or not (exchange.hub.wants(aggregate) or exchange.hub.wants(single)):
        return
    number, quantity = trade.trade_id, plain(trade.quantity)
    common: Event = {
        "E": exchange.engine.clock_ms,
        "s": symbol,
        "p": plain(trade.price),
        "q": quantity,
        "T": trade.time_ms,
        "m": trade.buyer_is_maker,
        "st": 1,
    }
    numbers = {"a": number, "f": number, "l": number, "nq": quantity}
    exchange.hub.send(aggregate, {"e": "aggTrade", **numbers, **common})
    exchange.hub.send(single, {"e": "trade", "t": number, "X": "MARKET", **common})


def publish_liquidations(exchange: PaperExchange, outbox: Iterable[tuple[Account, Event]]) -> None:
    """Send the liquidation orders among the accounts' events to everyone, as forceOrder."""
    for _, event in outbox:
        order = event.get("o")
        if event["e"] != "ORDER_TRADE_UPDATE" or order is None or not order["c"].startswith(_LIQUIDATION):
            continue
        if order["l"] == "0":
            continue
        shown = {key: order[key] for key in ("s", "S", "o", "f", "q", "ap", "X", "l", "z", "T")}
        # The order's own price is the bankruptcy price; only the average is known here.
        shown |= {"o": "LIMIT", "f": "IOC", "p": order["ap"]}
        force: Event = {"e": "forceOrder", "E": event["E"], "o": shown, "ps": order["s"], "st": 1}
        exchange.hub.send(f"{order['s'].lower()}@forceOrder", force)
        exchange.hub.send("!forceOrder@arr", force)


def _best(exchange: PaperExchange, symbol: str) -> tuple[Decimal, Decimal]:
    return best_prices(exchange.engine.instruments[symbol], exchange.engine.prices[symbol])


def _depth_update(exchange: PaperExchange, symbol: str, *, whole: bool) -> Event:
    """depthUpdate: the whole book, or what has changed since the last one. The time in ms is the update's id."""
    now_ms = exchange.engine.clock_ms
    bid, ask = _best(exchange, symbol)
    seen_ms, old_bid, old_ask = exchange.tape.books[symbol]
    size = plain(BOOK_QUANTITY)
    bids, asks = [[plain(bid), size]], [[plain(ask), size]]
    if not whole:
        bids += [[plain(old_bid), "0"]] if old_bid != bid else []
        asks += [[plain(old_ask), "0"]] if old_ask != ask else []
    return {
        "e": "depthUpdate",
        "E": now_ms,
        "T": now_ms,
        "s": symbol,
        "U": seen_ms + 1,
        "u": now_ms,
        "pu": seen_ms,
        "b": bids,
        "a": asks,
        "ps": symbol,
        "st": 1,
    }
