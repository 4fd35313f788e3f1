"""Messages of Binance's user data stream to our events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any

from envs.account import Side
from live.exchange.base import (
    AccountEvent,
    AlgoEvent,
    FillEvent,
    FundingEvent,
    LeverageEvent,
    MarginCallEvent,
    OpenOrder,
    OrderEvent,
    UserEvent,
)
from live.exchange.parse import Json, decimal_of, make_fill, malformed
from live.exchange.sockets import event_of

LISTEN_KEY_EXPIRED = "listenKeyExpired"


def parse_user_message(message: Json, *, exchange: str) -> tuple[UserEvent, ...]:
    """The events in one message, raw or in the envelope of a combined stream; none for kinds that do not matter.

    TRADE_LITE is left out: the full event follows it.

    Raises:
        ExchangeError: a message of a known kind lacks something.
    """
    body = event_of(message)
    parser = _PARSERS.get(str(body.get("e", "")))
    if parser is None:
        return ()
    try:
        return parser(body, exchange)
    except (KeyError, TypeError, ValueError, InvalidOperation) as error:
        raise malformed(f"a {body['e']} event", error) from error


def message_kind(message: Json) -> str:
    """The message's event type, e.g. `listenKeyExpired`; empty for replies to control requests."""
    return str(event_of(message).get("e", ""))


def _order_trade_update(body: Json, exchange: str) -> tuple[UserEvent, ...]:
    order = body["o"]
    executed = decimal_of(order["z"])
    status = str(order["X"])
    reason = str(order.get("er", "0"))
    if decimal_of(order.get("l")) > 0 and int(order["t"]) > 0:
        fill = make_fill(
            symbol=str(order["s"]),
            trade_id=str(order["t"]),
            order_id=str(order["i"]),
            client_order_id=str(order["c"]),
            side=Side(order["S"]),
            quantity=Decimal(order["l"]),
            price=Decimal(order["L"]),
            commission=decimal_of(order.get("n")),
            commission_asset=str(order.get("N") or "USDT"),
            realized_pnl=decimal_of(order.get("rp")),
            maker=bool(order.get("m")),
            time_ms=int(order["T"]),
            exchange=exchange,
        )
        return (FillEvent(fill, status, executed, _order_of(order)),)
    event = OrderEvent(
        symbol=str(order["s"]),
        client_order_id=str(order["c"]),
        order_id=str(order["i"]),
        status=status,
        executed_quantity=executed,
        time_ms=int(body["T"]),
        reason="" if reason == "0" else reason,
        order=_order_of(order),
    )
    return (event,)


def _order_of(order: Json) -> OpenOrder | None:
    """The order that an event is about; None where the event describes too little of it."""
    is_trigger = "caid" in order
    if "q" not in order or "S" not in order or "o" not in order:
        return None
    trigger_price = decimal_of(order.get("tp" if is_trigger else "sp"))
    return OpenOrder(
        symbol=str(order["s"]),
        client_order_id=str(order["caid" if is_trigger else "c"]),
        order_id=str(order["aid" if is_trigger else "i"]),
        side=Side(order["S"]),
        type=str(order["o"]),
        quantity=decimal_of(order["q"]),
        executed_quantity=decimal_of(order.get("aq" if is_trigger else "z")),
        price=trigger_price or decimal_of(order.get("p")),
        reduce_only=bool(order.get("R")) or bool(order.get("cp")),
        is_trigger=is_trigger,
    )


def _account_update(body: Json, exchange: str) -> tuple[UserEvent, ...]:
    account = body["a"]
    time_ms = int(body["T"])
    reason = str(account["m"])
    usdt: Json | None = next((row for row in account.get("B", ()) if row["a"] == "USDT"), None)
    update = AccountEvent(
        time_ms=time_ms,
        reason=reason,
        wallet_usdt=Decimal(usdt["wb"]) if usdt else None,
        positions=tuple(
            (str(row["s"]), Decimal(row["pa"]), Decimal(row["ep"]))
            for row in account.get("P", ())
            if row.get("ps", "BOTH") == "BOTH"
        ),
    )
    if reason != "FUNDING_FEE" or usdt is None:
        return (update,)
    symbol = account.get("S") or next((row["s"] for row in account.get("P", ())), None)
    funding = FundingEvent(time_ms, str(symbol) if symbol else None, decimal_of(usdt.get("bc")))
    return (funding, update)


def _algo_update(body: Json, exchange: str) -> tuple[UserEvent, ...]:
    order = body["o"]
    event = AlgoEvent(
        symbol=str(order["s"]),
        client_order_id=str(order["caid"]),
        trigger_id=str(order["aid"]),
        status=str(order["X"]),
        time_ms=int(body["T"]),
        order_id=str(order["ai"]) if str(order.get("ai") or "") not in ("", "0") else None,
        reason=str(order.get("rm") or ""),
        order=_order_of(order),
    )
    return (event,)


def _account_config_update(body: Json, exchange: str) -> tuple[UserEvent, ...]:
    setting = body.get("ac")
    if setting is None:
        return ()
    return (LeverageEvent(str(setting["s"]), int(setting["l"]), int(body["T"])),)


def _margin_call(body: Json, exchange: str) -> tuple[UserEvent, ...]:
    return (MarginCallEvent(int(body["E"]), tuple(str(row["s"]) for row in body["p"])),)


_PARSERS: Mapping[str, Callable[[Mapping[str, Any], str], tuple[UserEvent, ...]]] = MappingProxyType(
    {
        "ORDER_TRADE_UPDATE": _order_trade_update,
        "ACCOUNT_UPDATE": _account_update,
        "ALGO_UPDATE": _algo_update,
        "ACCOUNT_CONFIG_UPDATE": _account_config_update,
        "MARGIN_CALL": _margin_call,
    }
)
