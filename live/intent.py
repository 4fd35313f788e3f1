"""Stops and take-profits that a decision names: written down before its order is sent.

A process can be killed between an order and its triggers. The scheme's own triggers follow from the entry price; those
that a decision named would be lost with the process that knew them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from envs.account import PlannedOrder, Protection
from envs.errors import StepLogError
from live.recovery import write_json


@dataclass(frozen=True, slots=True)
class Intent:
    """What the last decision on a symbol wanted for its position.

    Attributes:
        close_ms: close of the candle that was decided on.
        ordered: whether an order belongs to it; without one that was executed it means nothing.
        quantity: signed position that it leads to.
        stop_price, take_profit_price: None where it wanted none.
    """

    close_ms: int
    ordered: bool
    quantity: Decimal
    stop_price: Decimal | None
    take_profit_price: Decimal | None

    @classmethod
    def of(cls, entry: PlannedOrder, close_ms: int) -> Intent | None:
        """Of a planned entry; None when it leaves the triggers as they are."""
        if entry.order is None and entry.protection is None:
            return None
        wanted = entry.protection or Protection()
        return cls(
            close_ms,
            entry.order is not None,
            entry.target_quantity,
            wanted.stop_price,
            wanted.take_profit_price,
        )


class IntentFile:
    """The intents of an agent by symbol, across restarts."""

    def __init__(self, folder: Path, account: str) -> None:
        self.path = folder / f"intents_{account}.json"

    def load(self) -> dict[str, Intent]:
        """What was written down last; empty for a run that never wrote.

        Raises:
            StepLogError: the file is damaged.
        """
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            return {symbol: _read(one) for symbol, one in values.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
            raise StepLogError(
                f"{self.path} is damaged ({error}): it says which stops the last decisions wanted; look at the stops "
                "that rest at the exchange, then delete it"
            ) from error

    def save(self, intents: Mapping[str, Intent]) -> None:
        """Write them down.

        Raises:
            StepLogError: they cannot be written; the order must not be sent then.
        """
        write_json(self.path, {symbol: _written(one) for symbol, one in intents.items()})


def _written(one: Intent) -> dict[str, Any]:
    return {
        "close_ms": one.close_ms,
        "ordered": one.ordered,
        "quantity": str(one.quantity),
        "stop_price": None if one.stop_price is None else str(one.stop_price),
        "take_profit_price": None if one.take_profit_price is None else str(one.take_profit_price),
    }


def _read(values: Mapping[str, Any]) -> Intent:
    def price(name: str) -> Decimal | None:
        text = values[name]
        return None if text is None else Decimal(text)

    return Intent(
        int(values["close_ms"]),
        bool(values["ordered"]),
        Decimal(values["quantity"]),
        price("stop_price"),
        price("take_profit_price"),
    )
