"""Fills for ledger tests, and an independent way to work out what they add up to."""

from __future__ import annotations

import random
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from envs.account import Fill, Side
from live.ledger import MANUAL, Cursor, Income, Ledger, Transfer
from live.store import Decision, Emergency, Equity, Journal, OrderRecord, Store

T0 = 1_700_000_000_000
SYMBOLS = ("BTCUSDT", "ETHUSDT")
AGENTS = ("LLM-A", "sac", "")


def fill(
    number: int,
    side: str,
    quantity: str,
    price: str,
    *,
    agent: str = "LLM-A",
    symbol: str = "BTCUSDT",
    time_ms: int | None = None,
    commission: str = "0",
    client_order_id: str | None = None,
    realized_pnl: str = "0",
    exchange: str = "paper",
    **other: Any,
) -> Fill:
    """A fill with trade id `number`, a second after the one before."""
    at = T0 + 1000 * number if time_ms is None else time_ms
    if client_order_id is None:
        client_order_id = f"{agent}_{symbol}_{T0}o" if agent else f"web_{number}"
    return Fill(
        symbol=symbol,
        trade_id=str(number),
        order_id=str(9_000 + number),
        client_order_id=client_order_id,
        side=Side(side),
        quantity=Decimal(quantity),
        price=Decimal(price),
        commission=Decimal(commission),
        realized_pnl=Decimal(realized_pnl),
        time_ms=at,
        agent=agent,
        exchange=exchange,
        **other,
    )


def random_fills(
    count: int,
    seed: int,
    *,
    exchange: str = "paper",
    agents: tuple[str, ...] = AGENTS,
    symbols: tuple[str, ...] = SYMBOLS,
) -> list[Fill]:
    """Fills in order of time, several in a millisecond now and then; trade ids pass from 9 to 10 digits."""
    dice = random.Random(seed)
    fills = []
    at = T0
    for number in range(count):
        at += dice.choice((0, 0, 1, 1500))
        agent = dice.choice(agents)
        symbol = dice.choice(symbols)
        fills.append(
            fill(
                999_999_990 + number,
                dice.choice(("BUY", "SELL")),
                str(Decimal(dice.randint(1, 40)) / 1000),
                str(Decimal(dice.randint(9_000_000, 11_000_000)) / 100),
                agent=agent,
                symbol=symbol,
                time_ms=at,
                commission=str(Decimal(dice.randint(0, 10**7)) / 10**8),
                exchange=exchange,
            )
        )
    return fills


class Reference:
    """Position, average entry and realized PnL in rational numbers: no rounding anywhere."""

    def __init__(self, fills: Iterable[Fill]) -> None:
        self.quantity = Fraction(0)
        self.cost = Fraction(0)
        self.realized = Fraction(0)
        self.fees = Fraction(0)
        for one in sorted(fills, key=lambda f: (f.time_ms, int(f.trade_id))):
            self.fees += Fraction(one.commission)
            self._trade(Fraction(one.signed_quantity), Fraction(one.price))

    def _trade(self, signed: Fraction, price: Fraction) -> None:
        if self.quantity * signed < 0:
            closing = max(-abs(self.quantity), -abs(signed)) * (1 if self.quantity > 0 else -1)
            average = self.cost / self.quantity
            self.realized += -closing * (price - average)
            self.quantity += closing
            self.cost += closing * average
            signed -= closing
        self.quantity += signed
        self.cost += signed * price


def fill_with_everything(store: Store) -> Ledger:
    """At least a row in every table."""
    ledger = Ledger(store, snapshot_every=20)
    ledger.record_transfers([Transfer("paper", MANUAL, Decimal(1000), T0, "opening", note="start")])
    fills = random_fills(80, seed=1)
    ledger.record_batch(
        fills,
        [Income("paper", "BTCUSDT", fills[50].time_ms, Decimal("-0.12"), "f1")],
        cursors=[Cursor("paper", "fills", fills[-1].time_ms, fills[-1].trade_id, fills[-1].symbol)],
    )
    journal = Journal(store)
    journal.orders(
        [OrderRecord("paper", "BTCUSDT", "1", "c1", "BUY", "MARKET", Decimal(1), "NEW", T0, T0, agent="sac")]
    )
    journal.decide(
        Decision("paper", "LLM-A", T0, "HOLD", "INVALID", "anthropic", "m", "abc", decision={"a": 1})
    )
    journal.equity([Equity("paper", "sac", T0, *map(Decimal, ("99.5", "0.5", "100", "101", "0.01")))])
    journal.emergency(
        Emergency("paper", T0, "drawdown", *map(Decimal, ("0.2", "100", "80", "79")), tries=1, succeeded=True)
    )
    return ledger
