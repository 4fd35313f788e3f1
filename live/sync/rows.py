"""The rows of a report: positions as the ledger folds them, beside what the exchange tells of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal

from live.exchange.base import Exchange, ExchangeAccount, ExchangePosition, OpenOrder
from live.exchange.client_ids import parse_client_order_id
from live.ledger import MANUAL, Ledger
from live.ledger.arithmetic import ZERO, exact
from live.ledger.booking import known_fills
from live.ledger.identity import Identity, check_identity
from live.store.names import Names
from live.sync.history import is_kept
from live.sync.report import Changes, Difference, PositionRow, SyncReport

Opened = tuple[str, str]
"""Symbol and trade id of the fill that opened a position."""
Guards = tuple[tuple[str, Decimal], ...]


def compare(ledger: Ledger, account: str, told: ExchangeAccount) -> Identity:
    """The ledger's sums against what the exchange tells of the account."""
    quantities = {symbol: one.quantity for symbol, one in told.positions.items() if is_kept(symbol)}
    return check_identity(ledger, account, exchange_wallet=told.wallet_usdt, exchange_quantities=quantities)


def differences_of(identity: Identity) -> tuple[Difference, ...]:
    """Where ledger and exchange differ, and where the ledger contradicts itself."""
    theirs = identity.exchange_quantities or {}
    found = [
        Difference(symbol, identity.quantities.get(symbol, ZERO), theirs.get(symbol, ZERO))
        for symbol in identity.missing_quantities
    ]
    if identity.missing_usdt and identity.exchange_wallet is not None:
        found.append(Difference("wallet", identity.booked_wallet, identity.exchange_wallet))
    if identity.wallet_error:
        with exact():
            own = identity.booked_wallet + identity.wallet_error
        found.append(Difference("sum of the accounts' wallets", own, identity.booked_wallet))
    return tuple(found)


def opening_orders(ledger: Ledger, account: str, known: Collection[Opened] = ()) -> dict[Opened, str]:
    """Client order ids of the fills that opened the open positions, but for the known ones. Reads the database."""
    wanted = [
        (account, book.symbol, trip.entry_id)
        for book in ledger.books(account)
        for trip in book.open_trips()
        if (book.symbol, trip.entry_id) not in known
    ]
    if not wanted:
        return {}
    with ledger.store.read() as connection:
        found = known_fills(connection, Names(), wanted)
        return {(fill.symbol, fill.trade_id): fill.client_order_id for fill in found}


def position_rows(
    ledger: Ledger,
    account: str,
    *,
    prices: Mapping[str, Decimal],
    held: Mapping[str, ExchangePosition],
    orders: Sequence[OpenOrder],
    opened_by: Mapping[Opened, str],
) -> list[PositionRow]:
    """All open positions of an exchange account, by symbol and owner."""
    guards = _guards(orders)
    rows = []
    for (owner, symbol), state in ledger.positions(account).items():
        price = prices.get(symbol)
        rows.append(
            PositionRow(
                owner=owner,
                symbol=symbol,
                side=state.side,
                quantity=state.p1,
                entry_price=state.entry_price,
                entry_value=state.cost,
                price=price,
                unrealized_usdt=None if price is None else state.unrealized(price),
                leverage=held[symbol].leverage if symbol in held else None,
                client_order_id=opened_by.get((symbol, state.opened_by), ""),
                opened_ms=state.opened_ms,
                opened_by=state.opened_by,
                guards=guards.get((owner, symbol), ()),
            )
        )
    return sorted(rows, key=lambda row: (row.symbol, row.owner))


def _guards(orders: Sequence[OpenOrder]) -> dict[tuple[str, str], Guards]:
    """Resting stops and take-profits by owner and symbol."""
    found: dict[tuple[str, str], Guards] = {}
    for order in orders:
        if order.is_trigger:
            parsed = parse_client_order_id(order.client_order_id)
            key = parsed.agent if parsed else MANUAL, order.symbol
            found[key] = (*found.get(key, ()), (order.type, order.price))
    return found


async def snapshot(exchange: Exchange, ledger: Ledger, account: str) -> SyncReport:
    """Ledger and exchange as they are, side by side: nothing is caught up with, nothing is written.

    Raises:
        ExchangeError: the exchange cannot be read.
    """
    told = await exchange.account()
    prices = await exchange.prices()
    orders = tuple(await exchange.open_orders())
    identity = compare(ledger, account, told)
    rows = position_rows(
        ledger,
        account,
        prices=prices,
        held=told.positions,
        orders=orders,
        opened_by=opening_orders(ledger, account),
    )
    owners = {row.owner for row in rows}
    return SyncReport(
        account=account,
        time_ms=told.time_ms,
        positions=tuple(rows),
        agents={name: Changes(sum(row.owner == name for row in rows)) for name in sorted(owners)},
        exchange_positions=dict(told.positions),
        open_orders=orders,
        identity=identity,
        differences=differences_of(identity),
    )
