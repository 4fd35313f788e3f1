"""REST: limits on orders, and paths outside futures that clients ask when they start."""

from __future__ import annotations

from typing import Any

from live.paper.calls import Call, Route, Security
from live.paper.limits import declared_orders


def order_rate_limits(call: Call) -> Any:
    """GET rateLimit/order."""
    return declared_orders(call.exchange.limit_settings)


def system_status(call: Call) -> Any:
    """GET system/status: open for trade."""
    return {"status": 0, "msg": "normal"}


def nothing(call: Call) -> Any:
    """An empty list: there is no wallet but the futures one."""
    return []


ROUTES: tuple[Route, ...] = (
    Route("GET", "/fapi/v1/rateLimit/order", order_rate_limits, Security.SIGNED),
    # ccxt's fetch_status.
    Route("GET", "/sapi/v1/system/status", system_status, Security.NONE),
    # ccxt asks for currencies and margin pairs when it has a key.
    Route("GET", "/sapi/v1/capital/config/getall", nothing, Security.SIGNED),
    Route("GET", "/sapi/v1/margin/allPairs", nothing, Security.KEY),
    Route("GET", "/sapi/v1/margin/isolated/allPairs", nothing, Security.KEY),
    Route("GET", "/sapi/v1/margin/allAssets", nothing, Security.KEY),
)
