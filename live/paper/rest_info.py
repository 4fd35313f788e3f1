"""REST: market figures that candles tell nothing of, in the form of a market where nothing happens.

Bots ask for them beside prices. There is one index, the mark price, so the basis is 0; who holds what is known of
this exchange's own accounts only, so histories of open interest and of long-short ratios are empty, as Binance's are
for times that it no longer keeps.
"""

from __future__ import annotations

from typing import Any

from envs.time_grid import INTERVALS_MS
from live.paper.calls import Call, Pool, Route, Security, by_symbol
from live.paper.errors import refusal
from live.paper.history import number_text
from live.paper.rest_market import depth

_PERIODS = ("5m", "15m", "30m", "1h", "2h", "4h", "6h", "12h", "1d")
_MOST = 500


def rpi_depth(call: Call) -> Any:
    """GET rpiDepth: the book, as there are no RPI orders."""
    return depth(call)


def constituents(call: Call) -> Any:
    """GET constituents: the index has none here."""
    return {"symbol": call.symbol(), "time": call.exchange.now_ms, "constituents": []}


def nothing(call: Call) -> Any:
    """An empty list: no composite index, no asset index in single-asset mode."""
    call.symbols()
    return []


def insurance_balance(call: Call) -> Any:
    """GET insuranceBalance: the fund pays whatever is missing and has no balance."""
    fund = {"symbols": call.symbols(), "assets": []}
    return fund if call.params.text("symbol") is not None else [fund]


def adl_risk(call: Call) -> Any:
    """GET symbolAdlRisk: nobody is deleveraged."""
    rows = [
        {"symbol": symbol, "adlRisk": "low", "updateTime": call.exchange.now_ms} for symbol in call.symbols()
    ]
    return rows[0] if call.params.text("symbol") is not None else rows


def trading_schedule(call: Call) -> Any:
    """GET tradingSchedule: nothing traded here has hours."""
    return {"updateTime": call.exchange.now_ms, "marketSchedules": {}}


def statistics(call: Call) -> Any:
    """GET openInterestHist, takerlongshortRatio and the long-short ratios: no data."""
    call.symbol()
    _period(call)
    call.params.limit(30, _MOST)
    return []


def basis(call: Call) -> Any:
    """GET basis: 0 at each close, ascending."""
    pair = call.params.required("pair")
    if pair not in call.exchange.symbols:
        raise refusal(-1121)
    contract = call.params.required("contractType")
    if contract not in ("PERPETUAL", "CURRENT_QUARTER", "NEXT_QUARTER"):
        raise refusal(-1130, "contractType")
    period = _period(call)
    limit = call.params.limit(30, _MOST)
    exchange = call.exchange
    if contract != "PERPETUAL" or INTERVALS_MS[period] % exchange.feed.market.interval_ms:
        return []
    bars = exchange.history.bars(
        pair,
        period,
        start_ms=call.params.integer("startTime"),
        end_ms=call.params.integer("endTime"),
        limit=limit,
        closed=exchange.index,
        forming=None,
    )
    return [
        {
            "indexPrice": number_text(bar.close),
            "contractType": contract,
            "basisRate": "0.0000",
            "futuresPrice": number_text(bar.close),
            "annualizedBasisRate": "",
            "basis": "0",
            "pair": pair,
            "timestamp": bar.close_time_ms + 1,
        }
        for bar in bars
    ]


def _period(call: Call) -> str:
    period = call.params.required("period")
    if period not in _PERIODS:
        raise refusal(-1130, "period")
    return period


def _data(name: str, handler: Any) -> Route:
    return Route("GET", f"/futures/data/{name}", handler, Security.NONE, 0, pool=Pool.DATA)


ROUTES: tuple[Route, ...] = (
    Route("GET", "/fapi/v1/rpiDepth", rpi_depth, Security.NONE, 20),
    Route("GET", "/fapi/v1/constituents", constituents, Security.NONE, 2),
    Route("GET", "/fapi/v1/indexInfo", nothing, Security.NONE, by_symbol(1, 10)),
    Route("GET", "/fapi/v1/assetIndex", nothing, Security.NONE, by_symbol(1, 10)),
    Route("GET", "/fapi/v1/insuranceBalance", insurance_balance, Security.NONE),
    Route("GET", "/fapi/v1/symbolAdlRisk", adl_risk, Security.NONE),
    Route("GET", "/fapi/v1/tradingSchedule", trading_schedule, Security.NONE, 5),
    _data("openInterestHist", statistics),
    _data("topLongShortPositionRatio", statistics),
    _data("topLongShortAccountRatio", statistics),
    _data("globalLongShortAccountRatio", statistics),
    _data("takerlongshortRatio", statistics),
    _data("basis", basis),
)
