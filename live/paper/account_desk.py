"""An account's settings: leverage, margin type, position mode, and the margin of isolated positions."""

from __future__ import annotations

from decimal import Decimal

from live.paper import events
from live.paper.account import Account
from live.paper.desk import instrument_of
from live.paper.engine import Engine
from live.paper.errors import ApiError, refusal
from live.paper.margin import margin_of_account, margin_of_position
from live.paper.money import ZERO
from live.paper.positions import Position


def set_leverage(engine: Engine, account: Account, symbol: str, leverage: int) -> None:
    """Change a symbol's leverage: -4028 out of range, -2027 position too large, -4161 lower with an isolated
    position, -2028 margin too small.
    """
    instrument = instrument_of(engine, symbol)
    if not 1 <= leverage <= instrument.max_leverage:
        raise refusal(-4028, leverage)
    before = account.leverage[symbol]
    held = [position for position in account.positions_of(symbol) if position.quantity]
    mark = engine.mark(symbol)
    if any(abs(p.quantity) * mark > instrument.max_notional_usdt(leverage) for p in held):
        raise refusal(-2027)
    if leverage < before and held and account.is_isolated(symbol):
        raise refusal(-4161)
    account.leverage[symbol] = leverage
    if leverage < before and (held or account.open_orders_of(symbol)):
        figures = margin_of_account(account, engine.instruments, engine.mark_prices)
        if figures.cross_position_initial + figures.open_order_initial > figures.cross_equity:
            account.leverage[symbol] = before
            raise refusal(-2028)
    if leverage != before:
        engine.emit(account, events.leverage_update(symbol, leverage, engine.clock_ms))


def set_margin_type(engine: Engine, account: Account, symbol: str, margin_type: str) -> None:
    """CROSSED or ISOLATED: -4046 as it is, -4047 with open orders, -4048 with a position."""
    instrument_of(engine, symbol)
    if margin_type not in ("CROSSED", "ISOLATED"):
        raise refusal(-1130, "marginType")
    if (margin_type == "ISOLATED") == account.is_isolated(symbol):
        raise refusal(-4046)
    if account.open_orders_of(symbol) or account.open_algo_orders_of(symbol):
        raise refusal(-4047)
    positions = account.positions_of(symbol)
    if any(position.quantity for position in positions):
        raise refusal(-4048)
    if margin_type == "ISOLATED":
        account.isolated_symbols.add(symbol)
    else:
        account.isolated_symbols.discard(symbol)
    engine.emit_account(account, "MARGIN_TYPE_CHANGE", positions)


def set_position_mode(engine: Engine, account: Account, *, hedge: bool) -> None:
    """One-way or hedge mode, for all symbols: -4059 as it is, -4067 with open orders, -4068 with a position."""
    if hedge == account.hedge_mode:
        raise refusal(-4059)
    if account.open_orders or account.open_algo_orders:
        raise refusal(-4067)
    if any(account.held()):
        raise refusal(-4068)
    account.hedge_mode = hedge


def set_multi_assets_mode(*, multi: bool) -> None:
    """Only single-asset mode is known: -4171 for that, a refusal for the other."""
    if not multi:
        raise refusal(-4171)
    raise ApiError(
        -1130, "Data sent for parameter 'multiAssetsMargin' is not valid: this exchange has one margin asset."
    )


def change_position_margin(
    engine: Engine, account: Account, position: Position, amount: Decimal, *, add: bool
) -> None:
    """Move margin into an isolated position or out of it.

    Refusals: -4055 not above zero, -4049 cross margined, -4054 no position, -4050 more than the cross wallet
    can spare, -4051 more than the position can. A position can spare
    min(isolated wallet - maintenance margin, isolated wallet + unrealized PnL - initial margin at the mark).
    """
    if amount <= 0:
        raise refusal(-4055)
    if not account.is_isolated(position.symbol):
        raise refusal(-4049)
    if not position.quantity:
        raise refusal(-4054)
    if add:
        figures = margin_of_account(account, engine.instruments, engine.mark_prices)
        if amount > figures.addable:
            raise refusal(-4050)
    else:
        instrument = engine.instruments[position.symbol]
        row = margin_of_position(account, position, instrument, engine.mark(position.symbol))
        spare = min(
            position.isolated_wallet_usdt - row.maintenance,
            position.isolated_wallet_usdt + row.unrealized - row.position_initial,
        )
        if amount > max(ZERO, spare):
            raise refusal(-4051)
    moved = amount if add else -amount
    account.move_margin(position, moved, "USER_ADJUST", engine.clock_ms)
    engine.emit_account(account, "MARGIN_TRANSFER", [position], balance_change=ZERO)
