"""What each request costs of the exchange's limits, by the name of python-binance's method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Cost:
    """Request weight per address, and orders per account."""

    weight: int = 1
    orders: int = 0


_UNKNOWN = 5
# With a symbol, and without: then it is about all of them.
_BY_SYMBOL: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"futures_mark_price": (1, 10), "futures_get_open_orders": (1, 40), "futures_symbol_ticker": (1, 2)}
)
_KLINES = frozenset({"futures_klines", "futures_mark_price_klines"})
_WEIGHTS: Mapping[str, int] = MappingProxyType(
    {
        "futures_time": 1,
        "futures_exchange_info": 1,
        "futures_funding_rate": 0,  # from a pool of its own, which no header tells of
        "futures_leverage_bracket": 1,
        "futures_commission_rate": 20,
        "futures_account": 5,
        "futures_account_balance": 5,
        "futures_position_information": 5,
        "futures_account_config": 5,
        "futures_symbol_config": 5,
        "futures_change_margin_type": 1,
        "futures_change_leverage": 1,
        "futures_cancel_order": 1,
        "futures_cancel_all_open_orders": 1,
        "futures_get_order": 1,
        "futures_get_all_orders": 5,
        "futures_account_trades": 5,
        "futures_income_history": 30,
        "futures_countdown_cancel_all": 10,
        "futures_stream_get_listen_key": 1,
        "futures_stream_keepalive": 1,
        "get_account_api_permissions": 0,  # at another host, with limits of its own
    }
)
_ORDER = Cost(weight=0, orders=1)


def cost_of(method: str, params: Mapping[str, Any]) -> Cost:
    """The cost of a request; of a method that is not listed, a cautious guess."""
    if method == "futures_create_order":
        return _ORDER
    if method in _KLINES:
        limit = int(params.get("limit") or 500)
        return Cost(1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10)
    if method in _BY_SYMBOL:
        return Cost(_BY_SYMBOL[method][params.get("symbol") is None])
    return Cost(_WEIGHTS.get(method, _UNKNOWN))


def is_listed(method: str) -> bool:
    """Whether the cost of a method is known."""
    return method == "futures_create_order" or method in _KLINES or method in _BY_SYMBOL or method in _WEIGHTS
