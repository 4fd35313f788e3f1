"""Which fields recorded Binance payloads have, and of which JSON type, by path or by event.

Three sources, each partly older than the API of today: what one has none of the others need have.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import binance_sdk_derivatives_trading_usds_futures as official

from live.paper.ws_api import METHODS

PAYLOADS = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "payloads"

Shape = dict[str, set[str]]

_TYPES = {"str": "string", "int": "number", "float": "number", "NoneType": "null"}

# Fields of recorded replies that a reply of today does not have, or not for what is asked here: (path, field).
LEFT = {
    *(("*", name) for name in ("activatePrice", "priceRate")),  # trailing orders
    *(
        (path, name)
        for path in (
            "POST /fapi/v1/order",
            "PUT /fapi/v1/order",
            "DELETE /fapi/v1/order",
            "POST /fapi/v1/order/test",
        )
        for name in ("avgPrice", "cumQuote")  # since 2026-06
    ),
    *(
        (f"{verb} /fapi/v1/batchOrders", name)
        for verb in ("POST", "PUT", "DELETE")
        for name in ("avgPrice", "cumQuote")
    ),
    # Refused items of a batch; none is refused here.
    *(
        (f"{verb} /fapi/v1/batchOrders", name)
        for verb in ("POST", "PUT", "DELETE")
        for name in ("code", "msg")
    ),
    *(
        ("GET /fapi/v3/positionRisk", name)
        for name in ("leverage", "marginType", "maxNotionalValue", "isAutoAddMargin")
    ),
    (
        "GET /fapi/v3/positionRisk",
        "unrealizedProfit",
    ),  # a slip of one example: the others write unRealizedProfit
    ("GET /fapi/v1/adlQuantile", "adlQuantile.HEDGE"),  # hedge mode
    ("GET /fapi/v1/orderAmendment", "amendment.modifyId"),  # one source has it inside, others beside
    ("GET /fapi/v1/openAlgoOrders", "type"),  # of a library's own example
    # An example that shows the order; live ones, and the newer example, do not.
    *(
        ("DELETE /fapi/v1/algoOrder", name)
        for name in (
            *(
                "algoType",
                "orderType",
                "symbol",
                "side",
                "positionSide",
                "timeInForce",
                "quantity",
                "algoStatus",
            ),
            *(
                "triggerPrice",
                "price",
                "icebergQuantity",
                "selfTradePreventionMode",
                "workingType",
                "priceMatch",
            ),
            *("closePosition", "priceProtect", "reduceOnly", "createTime", "updateTime", "triggerTime"),
            "goodTillDate",
        )
    ),
    ("ORDER_TRADE_UPDATE", "o.AP"),  # trailing orders
    ("ORDER_TRADE_UPDATE", "o.cr"),
    ("ORDER_TRADE_UPDATE", "o.W"),  # of a library's own example
    ("ACCOUNT_CONFIG_UPDATE", "ai"),  # multi-assets mode
    ("ACCOUNT_CONFIG_UPDATE", "ai.j"),
}
# Fields that came after the recordings, or that their examples leave out.
CAME = {
    *(
        (f"GET /fapi/v1/{path}", name)
        for path in ("order", "openOrder", "openOrders")
        for name in ("pair", "cumBase")
    ),
    *(
        (f"GET /fapi/v1/{path}", name)
        for path in ("algoOrder", "openAlgoOrders", "allAlgoOrders")
        for name in ("activatePrice", "callbackRate", "isActivated", "actualType", "actualQty")
    ),
    *(
        ("GET /fapi/v2/account", f"positions.{name}")
        for name in ("isolatedMargin", "notional", "isolatedWallet", "breakEvenPrice")
    ),
    ("GET /fapi/v2/positionRisk", "isolated"),
    ("GET /fapi/v2/positionRisk", "adlQuantile"),
    ("GET /fapi/v1/exchangeInfo", "futuresType"),
    ("GET /fapi/v1/exchangeInfo", "symbols.maxMoveOrderLimit"),
    ("GET /fapi/v1/exchangeInfo", "symbols.filters.positionControlSide"),
    *(
        ("GET /fapi/v1/forceOrders", name)
        for name in ("priceProtect", "priceMatch", "selfTradePreventionMode", "goodTillDate")
    ),
    ("ORDER_TRADE_UPDATE", "o.er"),
    ("ALGO_UPDATE", "o.ia"),
    ("kline", "st"),
    ("trade", "st"),
    ("trade", "X"),
}


def shape_of(body: Any, place: str = "", found: Shape | None = None) -> Shape:
    """Every field of a payload and the JSON types that it has; the items of a list count as one."""
    found = {} if found is None else found
    if isinstance(body, list):
        for item in body:
            shape_of(item, place, found)
    elif isinstance(body, dict):
        for name, value in body.items():
            where = f"{place}.{name}" if place else name
            kind = type(value).__name__
            found.setdefault(where, set()).add(_TYPES.get(kind, kind))
            shape_of(value, where, found)
    return found


@dataclass
class Recorded:
    """The recorded payloads: replies by `VERB /path`, events by type."""

    shapes: dict[str, Shape] = field(default_factory=dict)

    @classmethod
    def load(cls) -> Recorded:
        """What is there; nothing where ../shared is not."""
        recorded = cls()
        if not PAYLOADS.exists():
            return recorded
        for row in _read("rest_responses"):
            recorded.add(f"{row['method']} {row['path']}", row["response"])
        paths = _paths_of_the_sdk()
        for group in _read("connector_rest_api").values():
            for operation, example in group.items():
                recorded.add(paths[operation], example["response"])
        for row in _read("ws_api_responses"):
            sent, received = (message for message in row["messages"])
            verb, path = METHODS[sent["sent"]["method"]]
            recorded.add(f"{verb} {path}", received["received"]["result"])
        for row in _read("stream_events"):
            for message in row["messages"]:
                recorded.add_events(message.get("received"))
        for group in _read("connector_websocket_streams").values():
            for example in group.values():
                recorded.add_events(example["response"])
        for example in _read("events_nautilus").values():
            recorded.add_events(example)
        return recorded

    def add(self, name: str, body: Any) -> None:
        """One example."""
        shape_of(body, found=self.shapes.setdefault(name, {}))

    def add_events(self, message: Any) -> None:
        """The events in a message, in whatever envelope."""
        for one in message if isinstance(message, list) else [message]:
            if isinstance(one, dict):
                body = one.get("data", one)
                if isinstance(body, dict) and "e" in body:
                    self.add(body["e"], body)
                elif isinstance(body, list):
                    self.add_events(body)

    def differences(self, name: str, body: Any) -> list[str]:
        """What a reply or event of ours lacks, has besides, or has of another type. Nothing without an example."""
        theirs, ours = self.shapes.get(name), shape_of(body)
        if not theirs or not ours:
            return []
        empty = _empty_places(body)
        lacks = [
            f"{name}: {place} is missing"
            for place in theirs.keys() - ours.keys()
            if not any(place.startswith(f"{one}.") for one in empty) and not _is_known(name, place, LEFT)
        ]
        besides = [
            f"{name}: {place} is in no recorded payload"
            for place in ours.keys() - theirs.keys()
            if not _is_known(name, place, CAME)
        ]
        types = [
            f"{name}: {place} is {', '.join(sorted(kinds))}, recorded {', '.join(sorted(theirs[place]))}"
            for place, kinds in ours.items()
            if (wanted := theirs.get(place, set()) - {"null"}) and not kinds - {"null"} <= wanted
        ]
        return sorted(lacks + besides + types)


def _is_known(name: str, place: str, table: set[tuple[str, str]]) -> bool:
    return (name, place) in table or ("*", place) in table


def _empty_places(body: Any, place: str = "") -> list[str]:
    """Lists and objects without anything in them: of those nothing can be said."""
    if isinstance(body, list):
        return [found for item in body for found in _empty_places(item, place)] if body else [place]
    if isinstance(body, dict):
        if not body:
            return [place]
        return [
            found
            for name, value in body.items()
            for found in _empty_places(value, f"{place}.{name}" if place else name)
        ]
    return []


def _read(name: str) -> Any:
    return json.loads((PAYLOADS / f"binance_um_{name}.json").read_text())


def _paths_of_the_sdk() -> dict[str, str]:
    """`VERB /path` by the name of the SDK's operation."""
    found: dict[str, str] = {}
    for file in (Path(official.__file__).parent / "rest_api" / "api").glob("*.py"):
        for part in re.split(r"\n    def ", file.read_text())[1:]:
            asked = re.search(r'method="(\w+)",\s*path="([^"]+)"', part)
            if asked:
                found[part.split("(")[0]] = f"{asked[1]} {asked[2]}"
    return found
