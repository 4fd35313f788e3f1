"""A decision: the one thing that a model may say. Everything else that it says is not understood."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agents.llm.errors import InvalidReplyError
from agents.llm.text import plain

_REASON_CHARS = 300
_LONGEST_REPLY = 100_000
# What providers do not take in a strict schema, or what says nothing to a model.
_NO_STRICT_SCHEMA = {
    "default",
    "title",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "maxLength",
}


class Decision(BaseModel):
    """What to do now, with at most one symbol."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    action: Literal["OPEN_POSITION", "CLOSE_POSITION", "HOLD"] = Field(
        description="OPEN_POSITION brings the position in `symbol` to `quantity`; CLOSE_POSITION closes it; HOLD does "
        "nothing."
    )
    symbol: str | None = Field(None, description="The instrument; null for HOLD.")
    strategy: str = Field("", description="A short name for the idea, e.g. trend-following.")
    side: Literal["BUY", "SELL"] | None = Field(
        None, description="BUY is long, SELL is short; null unless opening."
    )
    leverage: float | None = Field(
        None,
        gt=0.0,
        description="Largest notional of this position as a multiple of equity; null unless opening.",
    )
    quantity: float | None = Field(
        None, gt=0.0, description="Size of the whole position to hold, base units; null unless opening."
    )
    stop_loss: float | None = Field(None, gt=0.0, description="Stop price, or null for none.")
    take_profit: float | None = Field(None, gt=0.0, description="Take-profit price, or null for none.")
    confidence: float | None = Field(None, ge=0.0, le=1.0, description="How sure you are, 0 to 1.")
    reasoning: str = Field("", description="Why, in at most three sentences.")

    @model_validator(mode="after")
    def _complete(self) -> Decision:
        needed = {
            "OPEN_POSITION": ("symbol", "side", "leverage", "quantity"),
            "CLOSE_POSITION": ("symbol",),
            "HOLD": (),
        }[self.action]
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"{self.action} needs {', '.join(missing)}")
        return self

    @property
    def signed_quantity(self) -> float:
        """The position to hold, above zero for long; 0 for anything but opening."""
        if self.action != "OPEN_POSITION" or self.quantity is None:
            return 0.0
        return self.quantity if self.side == "BUY" else -self.quantity


def decision_schema(symbols: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of a decision about one of `symbols`, in the strict form that providers take."""
    schema: dict[str, Any] = _strict(Decision.model_json_schema())
    schema["properties"]["symbol"]["anyOf"][0] = {"type": "string", "enum": list(symbols)}
    schema["required"] = list(schema["properties"])
    schema["additionalProperties"] = False
    return schema


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(one) for key, one in value.items() if key not in _NO_STRICT_SCHEMA}
    return [_strict(one) for one in value] if isinstance(value, list) else value


def parse_decision(text: str, symbols: Sequence[str]) -> Decision:
    """The decision in a reply: a JSON object, alone or once in other words.

    Raises:
        InvalidReplyError: there is none, there are two, or it is not a decision about one of `symbols`.
    """
    if len(text) > _LONGEST_REPLY:
        raise InvalidReplyError(f"the reply has {len(text)} characters")
    if not text.strip():
        raise InvalidReplyError("the reply is empty")
    try:
        decision = Decision.model_validate(_only_object(text))
    except ValidationError as error:
        problems = [
            ": ".join(filter(None, (".".join(map(str, one["loc"])), _explain(one)))) for one in error.errors()
        ]
        raise InvalidReplyError(plain("; ".join(problems), _REASON_CHARS)) from None
    if decision.symbol is not None and decision.symbol not in symbols:
        raise InvalidReplyError(f"symbol: {plain(decision.symbol, 40)!r} is none of {', '.join(symbols)}")
    return decision


def _explain(problem: Any) -> str:
    given = problem.get("input")
    shown = f" (got {plain(repr(given), 40)})" if isinstance(given, str | int | float | bool | None) else ""
    return f"{problem['msg']}{shown}"


def _only_object(text: str) -> dict[str, Any]:
    """The one JSON object in `text`."""
    stripped = text.strip()
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
    found: list[Any] = []
    position = stripped.find("{")
    while position != -1:
        try:
            value, end = decoder.raw_decode(stripped, position)
        except json.JSONDecodeError as error:
            # Looking on behind this brace could take a part of something for the whole.
            raise InvalidReplyError(
                f"the reply is not valid JSON: {error.msg} at character {error.pos}"
            ) from None
        except RecursionError:
            raise InvalidReplyError("the reply is nested too deeply") from None
        except ValueError as error:  # a whole number of thousands of digits
            raise InvalidReplyError(plain(str(error), _REASON_CHARS)) from None
        found.append(value)
        position = stripped.find("{", end)
    if not found:
        raise InvalidReplyError("the reply holds no JSON object")
    if len(found) > 1:
        raise InvalidReplyError(f"the reply holds {len(found)} JSON objects; give one decision")
    value = found[0]
    assert isinstance(value, dict)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise InvalidReplyError("the reply names a field twice")
    return values


def _no_constant(name: str) -> NoReturn:
    raise InvalidReplyError(f"the reply holds {name}, which is no number")
