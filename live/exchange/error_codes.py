"""Binance's error codes: what each means for a request that was sent, and what to do about it.

The outcome is judged by the code first and by the HTTP status second. Whatever is not understood counts as
unknown for an order and as retryable for a read: the cautious reading of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType


class Outcome(Enum):
    """What an error reply says about the request."""

    REFUSED = "refused"  # no effect; the same request would be refused again
    FAILED = "failed"  # no effect; it may be sent again
    UNKNOWN = "unknown"  # it may have had its effect
    CLOCK = "clock"  # no effect; the timestamp was outside the receive window
    LIMITED = "limited"  # no effect; too many requests
    FORBIDDEN = "forbidden"  # no effect; key, signature, IP address, or the account may not trade now
    NOT_FOUND = "not found"  # the order that was asked about is not there
    ALREADY = "already"  # what was asked for is so already


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """How one code is handled. `remedy` is a sentence for people."""

    outcome: Outcome
    remedy: str


_REFRESH = "Read the account and the open orders again, then decide anew."
_FIX = "The request is wrong; reload the exchange's rules and report it if it comes again."
_ROUND = "Round by the instrument's tick and step size; reload the exchange's rules."
_ASK = "Ask for the order by its client order id; do not send it again blindly."
_KEY = "Check the API key, its permissions (futures enabled) and its list of allowed IP addresses."
_TRIGGER = "Check the trigger price, side and closePosition of the stop or take-profit."

_RULES: dict[int, ErrorRule] = {
    -1000: ErrorRule(Outcome.UNKNOWN, _ASK),
    -1001: ErrorRule(Outcome.FAILED, "The exchange had an internal error; try again."),
    -1002: ErrorRule(Outcome.FORBIDDEN, _KEY),
    -1003: ErrorRule(Outcome.LIMITED, "Send fewer requests."),
    -1006: ErrorRule(Outcome.UNKNOWN, _ASK),
    -1007: ErrorRule(Outcome.UNKNOWN, _ASK),
    -1008: ErrorRule(Outcome.FAILED, "The exchange is overloaded; try again later."),
    -1013: ErrorRule(Outcome.REFUSED, _FIX),
    -1015: ErrorRule(Outcome.LIMITED, "Send fewer orders."),
    -1016: ErrorRule(Outcome.FAILED, "The exchange is under maintenance; start again when it is back."),
    -1021: ErrorRule(Outcome.CLOCK, "Set this machine's clock (NTP)."),
    -1022: ErrorRule(Outcome.FORBIDDEN, "The signature is wrong: check the API secret."),
    -1099: ErrorRule(Outcome.FORBIDDEN, _KEY),
    -1102: ErrorRule(Outcome.REFUSED, _FIX),
    -1106: ErrorRule(Outcome.REFUSED, _FIX),
    -1111: ErrorRule(Outcome.REFUSED, _ROUND),
    -1115: ErrorRule(Outcome.REFUSED, _FIX),
    -1116: ErrorRule(Outcome.REFUSED, _FIX),
    -1117: ErrorRule(Outcome.REFUSED, _FIX),
    -1120: ErrorRule(Outcome.REFUSED, "Use one of the exchange's candle intervals, such as 1m, 1h or 1d."),
    -1121: ErrorRule(Outcome.REFUSED, "Check the symbol, such as BTCUSDT."),
    -1125: ErrorRule(Outcome.REFUSED, "Open the user stream again with a new listen key."),
    -1130: ErrorRule(Outcome.REFUSED, _FIX),
    -2010: ErrorRule(Outcome.REFUSED, _REFRESH),
    -2011: ErrorRule(Outcome.NOT_FOUND, "It is gone already; ask how it ended."),
    -2012: ErrorRule(Outcome.FAILED, "Cancel the orders one by one."),
    -2013: ErrorRule(Outcome.NOT_FOUND, "Right after sending, it may not be visible yet."),
    -2014: ErrorRule(Outcome.FORBIDDEN, "The API key is malformed: check for missing characters."),
    -2015: ErrorRule(Outcome.FORBIDDEN, _KEY),
    -2017: ErrorRule(Outcome.FORBIDDEN, "The API keys are locked; unlock them at the exchange."),
    -2018: ErrorRule(Outcome.REFUSED, "Transfer USDT to the futures wallet, or trade smaller."),
    -2019: ErrorRule(Outcome.REFUSED, "Trade smaller, or close positions first."),
    -2020: ErrorRule(Outcome.REFUSED, "The order book is too thin; try a smaller order."),
    -2021: ErrorRule(Outcome.REFUSED, "The price is beyond the trigger already: close at market instead."),
    -2022: ErrorRule(Outcome.REFUSED, "The position is flat or smaller than thought. " + _REFRESH),
    -2023: ErrorRule(
        Outcome.FORBIDDEN, "The account is being liquidated; look at it before anything trades on it again."
    ),
    -2024: ErrorRule(Outcome.REFUSED, _REFRESH),
    -2025: ErrorRule(Outcome.REFUSED, "Cancel orders that are left over."),
    -2026: ErrorRule(Outcome.REFUSED, _FIX),
    -2027: ErrorRule(Outcome.REFUSED, "Trade smaller, or set a lower leverage."),
    -2028: ErrorRule(Outcome.REFUSED, "Raise the margin balance, or keep the leverage."),
    -4001: ErrorRule(Outcome.REFUSED, _ROUND),
    -4002: ErrorRule(Outcome.REFUSED, _ROUND),
    -4003: ErrorRule(Outcome.REFUSED, _ROUND),
    -4004: ErrorRule(Outcome.REFUSED, "Trade at least the instrument's minimum quantity."),
    -4005: ErrorRule(Outcome.REFUSED, "Split the order: it is above the instrument's maximum quantity."),
    -4013: ErrorRule(Outcome.REFUSED, _ROUND),
    -4014: ErrorRule(Outcome.REFUSED, _ROUND),
    -4015: ErrorRule(
        Outcome.REFUSED, "Shorten the agent's name: a client order id has 36 characters at most."
    ),
    -4016: ErrorRule(Outcome.REFUSED, "Set the limit price nearer to the mark price."),
    -4021: ErrorRule(Outcome.REFUSED, _FIX),
    -4023: ErrorRule(Outcome.REFUSED, _ROUND),
    -4024: ErrorRule(Outcome.REFUSED, "Set the limit price nearer to the mark price."),
    -4028: ErrorRule(Outcome.REFUSED, "Choose a leverage that the symbol allows."),
    -4045: ErrorRule(Outcome.REFUSED, "Cancel stop orders that are left over."),
    -4046: ErrorRule(Outcome.ALREADY, "The margin type is set already."),
    -4047: ErrorRule(Outcome.REFUSED, "Cancel the symbol's open orders first."),
    -4048: ErrorRule(Outcome.REFUSED, "Close the symbol's position first."),
    -4050: ErrorRule(Outcome.REFUSED, "Transfer USDT to the futures wallet, or trade smaller."),
    -4051: ErrorRule(Outcome.REFUSED, "Transfer USDT to the futures wallet, or trade smaller."),
    -4059: ErrorRule(Outcome.ALREADY, "The position mode is set already."),
    -4060: ErrorRule(Outcome.REFUSED, "Set the account to one-way mode."),
    -4061: ErrorRule(Outcome.REFUSED, "Set the account to one-way mode."),
    -4067: ErrorRule(Outcome.REFUSED, "Cancel all open orders first."),
    -4068: ErrorRule(Outcome.REFUSED, "Close all positions first."),
    -4082: ErrorRule(Outcome.REFUSED, _FIX),
    -4087: ErrorRule(Outcome.FORBIDDEN, "The account may only reduce positions; ask the exchange why."),
    -4088: ErrorRule(Outcome.FORBIDDEN, "The account may not place orders; ask the exchange why."),
    -4109: ErrorRule(Outcome.FORBIDDEN, "Transfer funds to the futures wallet to activate the account."),
    -4116: ErrorRule(Outcome.REFUSED, "An open order has this client order id: ask what became of it."),
    -4117: ErrorRule(Outcome.REFUSED, "The order is being triggered; ask for it shortly after."),
    -4118: ErrorRule(Outcome.REFUSED, _REFRESH),
    -4120: ErrorRule(Outcome.REFUSED, "Stops and take-profits go to the algo-order service."),
    -4131: ErrorRule(Outcome.REFUSED, "The order book is too thin at the moment; wait or trade smaller."),
    -4161: ErrorRule(Outcome.REFUSED, "Close the position before lowering the leverage."),
    -4164: ErrorRule(Outcome.REFUSED, "Trade at least the instrument's minimum notional."),
    -4165: ErrorRule(Outcome.REFUSED, _FIX),
    -4183: ErrorRule(Outcome.REFUSED, _TRIGGER),
    -4184: ErrorRule(Outcome.REFUSED, _TRIGGER),
    -4192: ErrorRule(Outcome.FORBIDDEN, "The account is in a cooling-off period; wait until it ends."),
    -4531: ErrorRule(Outcome.REFUSED, "Set the position mode by hand at the exchange."),
    -5021: ErrorRule(Outcome.REFUSED, "A fill-or-kill order found too little; that is a normal end."),
    -5022: ErrorRule(Outcome.REFUSED, "A post-only order would have traded; that is a normal end."),
    -5027: ErrorRule(Outcome.ALREADY, "The order is so already."),
    -5028: ErrorRule(Outcome.CLOCK, "The order arrived too late at the matching engine."),
}
_RULES |= {
    code: ErrorRule(Outcome.REFUSED, _FIX) for code in (-1100, -1128, -1136, -4032, *range(-5040, -5036))
}
_RULES |= {code: ErrorRule(Outcome.REFUSED, _REFRESH) for code in (-4049, -4054, -4055)}
_RULES |= {
    -1131: ErrorRule(Outcome.REFUSED, "Set receive_window_ms to at most 60000."),
    -2007: ErrorRule(Outcome.REFUSED, _TRIGGER),
    -4130: ErrorRule(Outcome.REFUSED, "Cancel the closePosition order that rests in this direction first."),
    -4171: ErrorRule(Outcome.ALREADY, "The asset mode is set already."),
    -5026: ErrorRule(Outcome.REFUSED, "Nothing to amend: cancel the order and place another."),
}
# Ranges that the exchange documents as one.
_RULES |= {code: ErrorRule(Outcome.REFUSED, _TRIGGER) for code in range(-4142, -4134)}
_RULES |= {
    code: ErrorRule(Outcome.REFUSED, "Set a lower leverage, or verify it at the exchange.")
    for code in range(-4211, -4201)
}
_RULES |= {
    code: ErrorRule(Outcome.REFUSED, "Nothing to amend: cancel the order and place another.")
    for code in (-5024, -5025, -5026, -5029, -5047)
}
_RULES |= {
    code: ErrorRule(Outcome.FORBIDDEN, "The account may only reduce positions (trading rules); stop opening.")
    for code in range(-4403, -4399)
}

RULES: Mapping[int, ErrorRule] = MappingProxyType(_RULES)
"""Every code that perpgym treats in a way of its own."""

ORDER_DOES_NOT_EXIST = -2013
UNKNOWN_ORDER = -2011
DUPLICATE_CLIENT_ORDER_ID = -4116
LISTEN_KEY_DOES_NOT_EXIST = -1125
INVALID_SYMBOL = -1121
TOO_MANY_ORDERS = -1015

_NO_REPLY = ErrorRule(Outcome.UNKNOWN, _ASK)
_UNAVAILABLE = ErrorRule(Outcome.FAILED, "The exchange is not available; try again later.")
_GATEWAY = ErrorRule(
    Outcome.FAILED, "The exchange's firewall refused the request (HTTP 403); wait, then retry."
)
_NO_SUCH_PATH = ErrorRule(
    Outcome.REFUSED, "The server does not know this request: is the URL that of a USD-M futures exchange?"
)
_OTHER = ErrorRule(Outcome.REFUSED, "See the exchange's list of error codes.")


def rule_for(code: int | None, http_status: int, message: str) -> ErrorRule:
    """The rule for an error reply.

    Args:
        code: Binance's code, or None when the body had none (an HTML page of a proxy).
        http_status: of the reply; 200 when an error came in the body of a success.
        message: Binance's text; it tells the kinds of 503 apart.
    """
    if http_status in (418, 429):
        return RULES[TOO_MANY_ORDERS if code == TOO_MANY_ORDERS else -1003]
    if code is not None and code in RULES:
        return RULES[code]
    if http_status == 403:
        return _GATEWAY
    if http_status == 404 and code is None:
        return _NO_SUCH_PATH
    if http_status == 408:
        return RULES[-1007]
    if http_status >= 500:
        text = message.lower()
        if text.startswith("service unavailable") or "unable to process your request" in text:
            return _UNAVAILABLE
        if "request throttled" in text:
            return RULES[-1008]
        return _NO_REPLY
    if code is None:
        # A reply outside the protocol: nobody can say what became of the request.
        return _NO_REPLY
    return _OTHER
