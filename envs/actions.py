"""Action schemes: how an action vector becomes target positions, and target positions become orders.

A scheme is settings; the arithmetic is `kernel.plan_orders`, so that the simulated and the live environment size
every order with the same compiled code.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from envs.config import StrictModel


class _Scheme(StrictModel):
    """Triggers that any scheme can attach.

    stop_loss_fraction, take_profit_fraction: distance of a stop and a take-profit from the close that was
    decided on, as a fraction of it; 0 is none. They are set whenever a step opens, enlarges or flips a position.
    """

    stop_loss_fraction: float = Field(0.0, ge=0.0, lt=1.0)
    take_profit_fraction: float = Field(0.0, ge=0.0)


class TargetScheme(_Scheme):
    """`a_i * max_leverage * equity` is the target notional of symbol i, a_i in [-1, 1].

    Gross exposure is scaled to at most max_leverage * equity. A change smaller than `rebalance_band` (fraction of
    equity) is held, so that noise in the action does not pay fees.
    """

    scheme: Literal["target"] = "target"
    rebalance_band: float = Field(0.02, ge=0.0)


class SignalScheme(_Scheme):
    """|a_i| < hold_threshold keeps the position; beyond it a_i opens, closes or flips.

    A position is opened with a notional of `signal_fraction` of equity and is not resized while the signal keeps its
    side. The opposite signal flips it (`flip: true`), or closes it and waits for the next (`flip: false`).
    """

    scheme: Literal["signal"] = "signal"
    hold_threshold: float = Field(0.1, ge=0.0, le=1.0)
    signal_fraction: float = Field(0.5, gt=0.0)
    flip: bool = True


class QuantityScheme(_Scheme):
    """a_i is the target position of symbol i in base units, signed: for rules that size by themselves."""

    scheme: Literal["quantity"] = "quantity"


class DecisionScheme(_Scheme):
    """One row per symbol, [n, 5]: what to do, target quantity, leverage, stop, take-profit; see `envs.decisions`.

    For agents that decide in words: a symbol can be left alone, which no number of the other schemes says in every
    state, and a decision brings triggers of its own. A trigger that a decision leaves out is the scheme's fraction.
    """

    scheme: Literal["decision"] = "decision"


ActionScheme = Annotated[
    TargetScheme | SignalScheme | QuantityScheme | DecisionScheme, Field(discriminator="scheme")
]
