"""Binance's JSON to our types. Unknown fields are ignored: the exchange adds some without warning.

Raises `ExchangeError` (`_malformed`) when a field that is needed is missing or is not what it should be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from typing import Any

from envs.account import ZERO, Fill, Leg, Side
from envs.errors import ExchangeError, InstrumentError
from envs.instruments import Instrument, LeverageBracket
from live.exchange.base import (
    Booking,
    BookingKind,
    Candle,
    ExchangePosition,
    FundingPayment,
    FundingRate,
    OpenOrder,
    OrderReport,
    TriggerReport,
)
from live.exchange.client_ids import parse_client_order_id

Json = Mapping[str, Any]

_LIQUIDATION_PREFIX = "autoclose-"


def malformed(what: str, error: Exception) -> ExchangeError:
    """The error for a reply or event that lacks something or holds nonsense."""
    return ExchangeError(
        f"the exchange sent {what} that cannot be read ({type(error).__name__}: {error}); "
        f"its protocol may have changed"
    )


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn a field that is missing, or is not what it should be, into the exchange's error about `what`."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, InvalidOperation) as error:
        raise malformed(what, error) from error


def decimal_of(value: object) -> Decimal:
    """A number that came as a string, an int or a Decimal; empty counts as 0."""
    if isinstance(value, Decimal):
        return value
    return Decimal(str(value)) if value not in ("", None) else ZERO


def plain(value: Decimal) -> str:
    """Positional notation without an exponent: what the exchange reads."""
    return format(value, "f")


def candle(symbol: str, interval_ms: int, row: Sequence[Any]) -> Candle:
    """A row of klines or markPriceKlines."""
    try:
        return Candle(
            symbol=symbol,
            open_time_ms=int(row[0]),
            interval_ms=interval_ms,
            open=float(row[1]),
            high=float(row[2]),
            low=float(row[3]),
            close=float(row[4]),
            volume=float(row[5]),
        )
    except (IndexError, TypeError, ValueError) as error:
        raise malformed(f"a candle of {symbol}", error) from error


def funding_rate(row: Json) -> FundingRate:
    """A row of fundingRate."""
    try:
        mark = row.get("markPrice")
        return FundingRate(
            symbol=str(row["symbol"]),
            time_ms=int(row["fundingTime"]),
            rate=float(row["fundingRate"]),
            mark_price=float(mark) if mark not in (None, "") else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise malformed("a funding rate", error) from error


def funding_payment(row: Json) -> FundingPayment:
    """A row of income."""
    try:
        return FundingPayment(
            symbol=str(row["symbol"] or ""),
            amount_usdt=Decimal(row["income"]),
            time_ms=int(row["time"]),
            transaction_id=str(row.get("tranId", "")),
        )
    except (KeyError, TypeError, InvalidOperation) as error:
        raise malformed("a funding payment", error) from error


_BOOKINGS = {
    "REALIZED_PNL": BookingKind.TRADE,
    "COMMISSION": BookingKind.TRADE,
    "FUNDING_FEE": BookingKind.FUNDING,
    "INSURANCE_CLEAR": BookingKind.LIQUIDATION,
    "TRANSFER": BookingKind.TRANSFER,
}


def booking(row: Json) -> Booking:
    """A row of income, of whatever type."""
    payment = funding_payment(row)
    reason = str(row.get("incomeType", ""))
    return Booking(
        _BOOKINGS.get(reason, BookingKind.OTHER),
        reason,
        payment.symbol,
        payment.amount_usdt,
        payment.time_ms,
        payment.transaction_id,
    )


def _filters(symbol: Json) -> dict[str, Json]:
    return {str(entry["filterType"]): entry for entry in symbol["filters"]}


def instrument(
    symbol: Json, brackets: Sequence[LeverageBracket], *, maker_fee: Decimal, taker_fee: Decimal
) -> Instrument:
    """A symbol's entry of exchangeInfo, with its brackets and fees."""
    name = str(symbol.get("symbol", "?"))
    try:
        filters = _filters(symbol)
        price, lot, market = filters["PRICE_FILTER"], filters["LOT_SIZE"], filters["MARKET_LOT_SIZE"]
        percent = filters["PERCENT_PRICE"]
        step = max(Decimal(lot["stepSize"]), Decimal(market["stepSize"]))
        return Instrument(
            symbol=name,
            base_asset=str(symbol["baseAsset"]),
            tick_size=Decimal(price["tickSize"]),
            min_price=Decimal(price["minPrice"]),
            max_price=Decimal(price["maxPrice"]),
            step_size=step,
            # Some contracts state a minimum of 0; one step is the least that can be traded.
            min_quantity=max(Decimal(lot["minQty"]), Decimal(market["minQty"]), step),
            max_quantity_limit=Decimal(lot["maxQty"]),
            max_quantity_market=Decimal(market["maxQty"]),
            min_notional_usdt=Decimal(filters["MIN_NOTIONAL"]["notional"]),
            price_multiplier_up=Decimal(percent["multiplierUp"]),
            price_multiplier_down=Decimal(percent["multiplierDown"]),
            price_precision=int(symbol["pricePrecision"]),
            quantity_precision=int(symbol["quantityPrecision"]),
            maker_fee=maker_fee,
            taker_fee=taker_fee,
            liquidation_fee=Decimal(symbol["liquidationFee"]),
            brackets=tuple(brackets),
        )
    except (KeyError, TypeError, ValueError, InvalidOperation) as error:
        raise InstrumentError(
            f"{name}: the exchange's trading rules cannot be read ({type(error).__name__}: {error}); "
            f"leave the symbol out"
        ) from error


def brackets(reply: Any) -> dict[str, tuple[LeverageBracket, ...]]:
    """leverageBracket by symbol; the reply is a list, or one object where a symbol was given."""
    try:
        entries: Iterable[Json] = [reply] if isinstance(reply, Mapping) else reply
        return {
            str(entry["symbol"]): tuple(
                sorted(
                    (
                        LeverageBracket(
                            notional_floor_usdt=decimal_of(row["notionalFloor"]),
                            notional_cap_usdt=decimal_of(row["notionalCap"]),
                            max_leverage=int(row["initialLeverage"]),
                            maintenance_rate=decimal_of(row["maintMarginRatio"]),
                            maintenance_amount_usdt=decimal_of(row["cum"]),
                        )
                        for row in entry["brackets"]
                    ),
                    key=lambda bracket: bracket.notional_floor_usdt,
                )
            )
            for entry in entries
        }
    except (KeyError, TypeError, ValueError, InvalidOperation) as error:
        raise malformed("leverage brackets", error) from error


def position(row: Json, leverage: int) -> ExchangePosition:
    """A row of positionRisk v3."""
    try:
        liquidation = decimal_of(row.get("liquidationPrice"))
        return ExchangePosition(
            symbol=str(row["symbol"]),
            quantity=Decimal(row["positionAmt"]),
            entry_price=Decimal(row["entryPrice"]),
            mark_price=Decimal(row["markPrice"]),
            leverage=leverage,
            liquidation_price=liquidation if liquidation > 0 else None,
        )
    except (KeyError, TypeError, InvalidOperation) as error:
        raise malformed("a position", error) from error


def fill(row: Json, *, client_order_id: str, exchange: str) -> Fill:
    """A row of userTrades; it lacks the client order id."""
    try:
        return make_fill(
            symbol=str(row["symbol"]),
            trade_id=str(row["id"]),
            order_id=str(row["orderId"]),
            client_order_id=client_order_id,
            side=Side(row["side"]),
            quantity=Decimal(row["qty"]),
            price=Decimal(row["price"]),
            commission=decimal_of(row["commission"]),
            commission_asset=str(row["commissionAsset"]),
            realized_pnl=decimal_of(row["realizedPnl"]),
            maker=bool(row["maker"]),
            time_ms=int(row["time"]),
            exchange=exchange,
        )
    except (KeyError, TypeError, ValueError, InvalidOperation) as error:
        raise malformed("a trade", error) from error


def make_fill(
    *,
    symbol: str,
    trade_id: str,
    order_id: str,
    client_order_id: str,
    side: Side,
    quantity: Decimal,
    price: Decimal,
    commission: Decimal,
    commission_asset: str,
    realized_pnl: Decimal,
    maker: bool,
    time_ms: int,
    exchange: str,
) -> Fill:
    """A fill, its agent and leg taken from the client order id where it is one of ours."""
    owner = parse_client_order_id(client_order_id)
    return Fill(
        symbol=symbol,
        trade_id=trade_id,
        order_id=order_id,
        client_order_id=client_order_id,
        side=side,
        quantity=quantity,
        price=price,
        commission=commission,
        realized_pnl=realized_pnl,
        time_ms=time_ms,
        commission_asset=commission_asset,
        maker=maker,
        liquidation=client_order_id.startswith(_LIQUIDATION_PREFIX),
        leg=owner.leg if owner else Leg.ORDER,
        agent=owner.agent if owner else "",
        exchange=exchange,
    )


def average_price(fills: Sequence[Fill]) -> Decimal | None:
    """Average price over fills, None without any."""
    quantity = sum((one.quantity for one in fills), ZERO)
    return sum((one.quote_quantity for one in fills), ZERO) / quantity if quantity else None


def order_report(reply: Json, fills: Sequence[Fill] = ()) -> OrderReport:
    """A reply about an ordinary order. Only replies to reads carry an average price; fills give a better one."""
    try:
        executed = decimal_of(reply["executedQty"])
        average = average_price(fills)
        if average is None and executed and decimal_of(reply.get("avgPrice")):
            average = decimal_of(reply["avgPrice"])
        return OrderReport(
            symbol=str(reply["symbol"]),
            client_order_id=str(reply["clientOrderId"]),
            order_id=str(reply["orderId"]),
            status=str(reply["status"]),
            executed_quantity=executed,
            average_price=average,
            fills=tuple(fills),
        )
    except (KeyError, TypeError, InvalidOperation) as error:
        raise malformed("an order", error) from error


def trigger_report(reply: Json) -> TriggerReport:
    """A reply about an algo order."""
    try:
        actual = str(reply.get("actualOrderId") or "")
        return TriggerReport(
            symbol=str(reply["symbol"]),
            client_order_id=str(reply["clientAlgoId"]),
            trigger_id=str(reply["algoId"]),
            status=str(reply["algoStatus"]),
            trigger_price=decimal_of(reply["triggerPrice"]),
            order_id=actual if actual not in ("", "0") else None,
        )
    except (KeyError, TypeError, InvalidOperation) as error:
        raise malformed("an algo order", error) from error


def open_order(reply: Json) -> OpenOrder:
    """An entry of openOrders or openAlgoOrders."""
    try:
        is_trigger = "algoId" in reply
        limit = decimal_of(reply.get("price"))
        return OpenOrder(
            symbol=str(reply["symbol"]),
            client_order_id=str(reply["clientAlgoId" if is_trigger else "clientOrderId"]),
            order_id=str(reply["algoId" if is_trigger else "orderId"]),
            side=Side(reply["side"]),
            # Both names have been seen for the type of an algo order.
            type=str(reply["orderType" if "orderType" in reply else "type"]),
            quantity=decimal_of(reply.get("quantity" if is_trigger else "origQty")),
            executed_quantity=decimal_of(reply.get("executedQty")),
            price=decimal_of(reply["triggerPrice"]) if is_trigger else limit,
            reduce_only=bool(reply.get("reduceOnly")) or bool(reply.get("closePosition")),
            is_trigger=is_trigger,
        )
    except (KeyError, TypeError, ValueError, InvalidOperation) as error:
        raise malformed("an open order", error) from error
