"""The first reading of an account: what is older than the history that the exchange keeps.

An exchange forgets: Binance keeps trades and income for three months. What an account held before is not lost in its
wallet and its positions, only unexplained there. At the first reading, and never again, the difference is booked as
`MANUAL`'s, under the time at which the history begins: a deposit, and a fill for each position. So the sums agree from
then on, and a difference that appears later is one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from envs.account import Fill, Side
from envs.time_grid import format_time
from live.exchange.base import ExchangePosition
from live.ledger import MANUAL, Cursor, Ledger, Transfer
from live.ledger.arithmetic import ZERO, divide, exact
from live.ledger.identity import Identity
from live.ledger.queries import Where, trades
from live.store.types import decimal_text
from live.sync.history import CaughtUp
from live.sync.rows import compare
from live.sync.writer import LedgerWriter

if TYPE_CHECKING:
    from live.sync.trades import TradeSync

OPENING = "opening"

_LOG = logging.getLogger(__name__)
_TRIES = 10


def opening_fill(
    account: str,
    symbol: str,
    quantity: Decimal,
    position: ExchangePosition | None,
    later: Iterable[Fill],
    before_ms: int,
) -> Fill:
    """A fill for a position that was there before the history begins.

    Its price follows from the first realized PnL that the exchange reported, else from the entry price that the
    exchange has for what is held now; where neither tells, it is the first price that is known.

    Args:
        quantity: signed, that no fill explains.
        position: what is held now, None when flat.
        later: the fills of the history, in their order.
        before_ms: time to book it under.
    """
    fills = list(later)
    return Fill(
        symbol=symbol,
        trade_id=OPENING,
        order_id=OPENING,
        client_order_id="",
        side=Side.BUY if quantity > 0 else Side.SELL,
        quantity=abs(quantity),
        price=_entry_price(quantity, position, fills),
        commission=ZERO,
        realized_pnl=ZERO,
        time_ms=min([before_ms, *(one.time_ms - 1 for one in fills[:1])]),
        agent=MANUAL,
        exchange=account,
    )


def _entry_price(quantity: Decimal, position: ExchangePosition | None, fills: Sequence[Fill]) -> Decimal:
    """Of the quantity that was there before the fills."""
    average = position.entry_price if position is not None else None
    with exact():
        held, added = quantity, ZERO
        for one in fills:
            if (held > 0) != (one.signed_quantity > 0):
                closed = min(one.quantity, abs(held)) * (1 if held > 0 else -1)
                average = one.price - divide(one.realized_pnl, closed)
                break
            held += one.signed_quantity
            added += one.signed_quantity * one.price
        if average is not None:
            price = divide(average * held - added, quantity)
            if price > 0:
                return price
    return average or (fills[0].price if fills else Decimal(1))


def entries_before(
    ledger: Ledger, account: str, identity: Identity, positions: Mapping[str, ExchangePosition], begin_ms: int
) -> tuple[list[Fill], list[Transfer]]:
    """What has to be booked for the sums to agree. Reads the database."""
    fills = []
    for symbol, quantity in identity.missing_quantities.items():
        known = trades(ledger.store, Where(exchange=account, symbol=symbol))
        fills.append(opening_fill(account, symbol, quantity, positions.get(symbol), known, begin_ms))
    transfers = []
    if identity.missing_usdt:
        note = f"from before {format_time(begin_ms)}, where the exchange's history begins"
        transfers.append(Transfer(account, MANUAL, identity.missing_usdt, begin_ms, OPENING, note=note))
    return fills, transfers


def tell(begin_ms: int, found: Sequence[Fill], fills: Sequence[Fill], transfers: Sequence[Transfer]) -> str:
    """How far a first reading reached, for people.

    Args:
        begin_ms: how far back the history was asked for.
        found: the fills of the history.
        fills, transfers: what was booked for the time before it.
    """
    text = f"first reading, back to {format_time(begin_ms)}: {len(found)} fills"
    if found:
        text += f" since {format_time(min(one.time_ms for one in found))}"
    unknown = sum(not one.client_order_id for one in found)
    if unknown:
        text += f", {unknown} of them of orders that the exchange has forgotten, shared out as foreign ones"
    if not fills and not transfers:
        return f"{text}; they explain the wallet and the positions, nothing older is missing"
    booked = [f"{decimal_text(one.amount_usdt)} USDT" for one in transfers]
    booked += [
        f"{decimal_text(one.signed_quantity)} {one.symbol} at {decimal_text(one.price)}" for one in fills
    ]
    return f"{text}; older than that, and booked as {MANUAL}'s: {', '.join(booked)}"


async def open_books(sync: TradeSync, writer: LedgerWriter, done: CaughtUp) -> None:
    """At the first reading of an account, book what is older than its history."""
    if await sync.history.cursor(OPENING) is not None:
        return
    for _ in range(_TRIES):
        first = compare(sync.ledger, sync.account, await sync.exchange.account())
        more = await sync.catch_up()
        done.add(more)
        told = await sync.exchange.account()
        identity = compare(sync.ledger, sync.account, told)
        # Nothing happened between the readings, so that what is missing is not merely on its way.
        same = first.missing_usdt == identity.missing_usdt
        if more.is_empty and same and first.missing_quantities == identity.missing_quantities:
            break
    else:
        _LOG.warning("%s is traded without pause: what is older than its history is not booked", sync.account)
        return
    begin_ms = told.time_ms - sync.settings.reach_ms
    fills, transfers = await writer.run(
        entries_before, sync.ledger, sync.account, identity, told.positions, max(1, begin_ms)
    )
    await writer.fills(fills)
    await writer.bookings([], transfers, Cursor(sync.account, OPENING, max(1, begin_ms)))
    done.reach = tell(max(0, begin_ms), done.fills, fills, transfers)
    _LOG.info("%s: %s", sync.account, done.reach)
