"""REST: public market data."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from envs.instruments import Instrument
from envs.time_grid import DAY_MS
from live.paper.calls import Call, Pool, Route, Security, Weight, by_limit, by_symbol
from live.paper.errors import refusal
from live.paper.filters import CONDITIONAL_TYPES, MARKET_TAKE_BOUND
from live.paper.history import Bar
from live.paper.limits import declared
from live.paper.market_events import BOOK_QUANTITY, best_prices
from live.paper.money import amount_text, exact, plain, price_text

_DEPTH_LIMITS = frozenset({5, 10, 20, 50, 100, 500, 1000})
_RATE_QUANTUM = Decimal("1e-8")
_PERPETUAL_DELIVERY_MS = 4_133_404_800_000
KLINE_WEIGHT = by_limit(500, (99, 1), (499, 2), (1000, 5), (1500, 10))
_DEPTH_WEIGHT = by_limit(500, (50, 2), (100, 5), (500, 10), (1000, 20))


def ping(call: Call) -> Any:
    """GET ping."""
    return {}


def server_time(call: Call) -> Any:
    """GET time: feed time, off by the clock fault where there is one."""
    return {"serverTime": call.exchange.server_ms}


def exchange_info(call: Call) -> Any:
    """GET exchangeInfo: every symbol traded here, whatever was asked."""
    return {
        "timezone": "UTC",
        "serverTime": call.exchange.now_ms,
        "futuresType": "U_MARGINED",
        "rateLimits": declared(call.exchange.limit_settings),
        "exchangeFilters": [],
        "assets": [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "0"}],
        "symbols": [_symbol_info(call.exchange.engine.instruments[one]) for one in call.exchange.symbols],
    }


def klines(call: Call) -> Any:
    """GET klines: ascending by open time, the open candle last."""
    symbol = call.symbol()
    interval = call.params.required("interval")
    return [bar.row() for bar in _bars(call, symbol, interval)]


def continuous_klines(call: Call) -> Any:
    """GET continuousKlines: for perpetuals the same as klines."""
    symbol = call.params.required("pair")
    if symbol not in call.exchange.symbols:
        raise refusal(-1121)
    if call.params.required("contractType") != "PERPETUAL":
        raise refusal(-1130, "contractType")
    return [bar.row() for bar in _bars(call, symbol, call.params.required("interval"))]


def mark_price_klines(call: Call) -> Any:
    """GET markPriceKlines: the feed's mark candles where it has them, else the last-price candles."""
    symbol = call.symbol()
    interval = call.params.required("interval")
    if symbol in call.exchange.history.marks:
        bars = call.exchange.history.mark_bars(
            symbol,
            interval,
            start_ms=call.params.integer("startTime"),
            end_ms=call.params.integer("endTime"),
            limit=call.params.limit(500, 1500),
            now_ms=call.exchange.now_ms,
        )
    else:
        bars = _bars(call, symbol, interval)
    rows = [bar.row() for bar in bars]
    for row in rows:
        row[5] = row[7] = "0"
    return rows


def premium_index(call: Call) -> Any:
    """GET premiumIndex. The index is the mark price; lastFundingRate is the rate last settled."""
    exchange = call.exchange

    def one(symbol: str) -> dict[str, Any]:
        price = amount_text(exchange.engine.mark(symbol))
        return {
            "symbol": symbol,
            "markPrice": price,
            "indexPrice": price,
            "estimatedSettlePrice": price,
            "lastFundingRate": f"{exchange.last_funding_rate(symbol):.8f}",
            "interestRate": "0.00010000",
            "nextFundingTime": exchange.next_funding_ms(symbol),
            "time": exchange.now_ms,
        }

    return _one_or_all(call, one)


def funding_rate(call: Call) -> Any:
    """GET fundingRate: settled rates up to now, ascending, of one symbol or all; without a start the newest."""
    limit = call.params.limit(100, 1000)
    start, end = call.params.integer("startTime"), call.params.integer("endTime")
    rows = [
        (when, symbol, rate)
        for symbol in call.symbols()
        for when, rate in call.exchange.settled_funding(symbol, start, end)
    ]
    rows.sort(key=lambda row: row[0])
    return [
        {
            "symbol": symbol,
            "fundingTime": when,
            "fundingRate": f"{rate:.8f}" if rate == rate.quantize(_RATE_QUANTUM) else plain(rate),
            "markPrice": amount_text(exact(call.exchange.history.mark_at(symbol, when))),
            "rateType": "Regular",
        }
        for when, symbol, rate in (rows[-limit:] if start is None else rows[:limit])
    ]


def funding_info(call: Call) -> Any:
    """GET fundingInfo: lists only symbols with adjusted values, so none here."""
    return []


def price_ticker_v1(call: Call) -> Any:
    """GET v1/ticker/price."""
    return _one_or_all(call, lambda symbol: _price_ticker(call, symbol))


def ticker_24hr(call: Call) -> Any:
    """GET ticker/24hr over the candles of the last 24 hours."""
    exchange = call.exchange

    def one(symbol: str) -> dict[str, Any]:
        now_ms = exchange.now_ms
        closed = exchange.history.bars(
            symbol,
            exchange.interval,
            start_ms=now_ms - DAY_MS,
            end_ms=None,
            limit=1500,
            closed=exchange.index,
            forming=exchange.forming.get(symbol),
        )
        last = exchange.engine.prices[symbol]
        first = exact(closed[0].open) if closed else last
        volume = sum(bar.volume for bar in closed)
        quote = sum(bar.quote_volume for bar in closed)
        change = last - first
        return {
            "symbol": symbol,
            "priceChange": plain(change),
            "priceChangePercent": f"{change / first * 100:.3f}",
            "weightedAvgPrice": f"{quote / volume:.8f}" if volume else plain(last),
            "lastPrice": plain(last),
            "lastQty": "0",
            "openPrice": plain(first),
            "highPrice": plain(exact(max((bar.high for bar in closed), default=float(last)))),
            "lowPrice": plain(exact(min((bar.low for bar in closed), default=float(last)))),
            "volume": f"{volume:.8f}",
            "quoteVolume": f"{quote:.8f}",
            "openTime": closed[0].open_time_ms if closed else now_ms,
            "closeTime": now_ms,
            "firstId": -1,
            "lastId": -1,
            "count": 0,
        }

    return _one_or_all(call, one)


def book_ticker(call: Call) -> Any:
    """GET ticker/bookTicker: the synthetic one-level book."""
    exchange = call.exchange

    def one(symbol: str) -> dict[str, Any]:
        bid, ask = best_prices(exchange.engine.instruments[symbol], exchange.engine.prices[symbol])
        return {
            "symbol": symbol,
            "bidPrice": plain(bid),
            "bidQty": plain(BOOK_QUANTITY),
            "askPrice": plain(ask),
            "askQty": plain(BOOK_QUANTITY),
            "time": exchange.now_ms,
            "lastUpdateId": exchange.now_ms,
        }

    return _one_or_all(call, one)


def depth(call: Call) -> Any:
    """GET depth: the synthetic one-level book."""
    symbol = call.symbol()
    limit = call.params.integer("limit")
    if limit is not None and limit not in _DEPTH_LIMITS:
        raise refusal(-4021, limit)
    exchange = call.exchange
    bid, ask = best_prices(exchange.engine.instruments[symbol], exchange.engine.prices[symbol])
    return {
        "lastUpdateId": exchange.now_ms,
        "E": exchange.now_ms,
        "T": exchange.now_ms,
        "bids": [[plain(bid), plain(BOOK_QUANTITY)]],
        "asks": [[plain(ask), plain(BOOK_QUANTITY)]],
    }


def _price_ticker(call: Call, symbol: str) -> dict[str, Any]:
    price = plain(call.exchange.engine.prices[symbol])
    return {"symbol": symbol, "price": price, "time": call.exchange.now_ms}


def _one_or_all(call: Call, one: Any) -> Any:
    """One object when a symbol was asked for, else the list of all."""
    if call.params.text("symbol") is not None:
        return one(call.symbol())
    return [one(symbol) for symbol in call.exchange.symbols]


def _bars(call: Call, symbol: str, interval: str) -> list[Bar]:
    exchange = call.exchange
    return exchange.history.bars(
        symbol,
        interval,
        start_ms=call.params.integer("startTime"),
        end_ms=call.params.integer("endTime"),
        limit=call.params.limit(500, 1500),
        closed=exchange.index,
        forming=exchange.forming.get(symbol),
    )


def _symbol_info(instrument: Instrument) -> dict[str, Any]:
    tick, step = instrument.tick_size, instrument.step_size
    lot = {"minQty": plain(instrument.min_quantity), "stepSize": plain(step)}
    return {
        "symbol": instrument.symbol,
        "pair": instrument.symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": _PERPETUAL_DELIVERY_MS,
        "onboardDate": 1_569_398_400_000,
        "status": "TRADING",
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": instrument.base_asset,
        "quoteAsset": "USDT",
        "marginAsset": "USDT",
        "pricePrecision": instrument.price_precision,
        "quantityPrecision": instrument.quantity_precision,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "settlePlan": 0,
        "triggerProtect": "0.0500",
        "liquidationFee": f"{instrument.liquidation_fee:.6f}",
        "marketTakeBound": plain(MARKET_TAKE_BOUND),
        "maxMoveOrderLimit": 10000,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": plain(instrument.min_price),
                "maxPrice": plain(instrument.max_price),
                "tickSize": price_text(tick, instrument.price_precision),
            },
            {"filterType": "LOT_SIZE", **lot, "maxQty": plain(instrument.max_quantity_limit)},
            {"filterType": "MARKET_LOT_SIZE", **lot, "maxQty": plain(instrument.max_quantity_market)},
            {"filterType": "MAX_NUM_ORDERS", "limit": 200},
            {"filterType": "MIN_NOTIONAL", "notional": plain(instrument.min_notional_usdt)},
            {
                "filterType": "PERCENT_PRICE",
                "multiplierUp": f"{instrument.price_multiplier_up:.4f}",
                "multiplierDown": f"{instrument.price_multiplier_down:.4f}",
                "multiplierDecimal": "4",
            },
            {"filterType": "POSITION_RISK_CONTROL", "positionControlSide": "NONE"},
        ],
        "orderTypes": ["LIMIT", "MARKET", *sorted(CONDITIONAL_TYPES)],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
    }


def _public(path: str, handler: Any, weight: Weight = 1) -> Route:
    return Route("GET", path, handler, Security.NONE, weight)


ROUTES: tuple[Route, ...] = (
    _public("/api/v3/ping", ping),
    _public("/api/v3/time", server_time),
    _public("/fapi/v1/ping", ping),
    _public("/fapi/v1/time", server_time),
    _public("/fapi/v1/exchangeInfo", exchange_info),
    _public("/fapi/v1/klines", klines, KLINE_WEIGHT),
    _public("/fapi/v1/continuousKlines", continuous_klines, KLINE_WEIGHT),
    _public("/fapi/v1/markPriceKlines", mark_price_klines, KLINE_WEIGHT),
    _public("/fapi/v1/premiumIndex", premium_index, by_symbol(1, 10)),
    Route("GET", "/fapi/v1/fundingRate", funding_rate, Security.NONE, 0, pool=Pool.FUNDING),
    Route("GET", "/fapi/v1/fundingInfo", funding_info, Security.NONE, 0, pool=Pool.FUNDING),
    _public("/fapi/v1/ticker/price", price_ticker_v1, by_symbol(1, 2)),
    _public("/fapi/v2/ticker/price", price_ticker_v1, by_symbol(1, 2)),
    _public("/fapi/v1/ticker/24hr", ticker_24hr, by_symbol(1, 40)),
    _public("/fapi/v1/ticker/bookTicker", book_ticker, by_symbol(2, 5)),
    _public("/fapi/v1/depth", depth, _DEPTH_WEIGHT),
)
