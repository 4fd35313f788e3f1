"""What the exchange closes by itself: liquidation, auto-deleveraging, the insurance fund, margin calls."""

from __future__ import annotations

from decimal import Decimal

from envs.account import Side
from live.paper import events
from live.paper.account import Account
from live.paper.engine import EXPIRED_BY_LIQUIDATION, Engine
from live.paper.liquidation import MarginGroup, margin_excess, margin_groups
from live.paper.margin import margin_of_position
from live.paper.money import ZERO, booked
from live.paper.orders import AlgoStatus, Order, Status, Trade
from live.paper.positions import Position

# Maintenance margin by margin balance at which the owner is warned (MARGIN_CALL).
MARGIN_CALL_RATIO = Decimal("0.8")


def liquidate_where_due(engine: Engine) -> None:
    """Liquidate, at current prices, every group whose equity is at or below its maintenance margin."""
    marks = engine.mark_prices
    for account in engine.accounts.values():
        for group in margin_groups(account):
            if margin_excess(group, engine.instruments, marks) <= 0:
                liquidate(engine, account, group)


def liquidate(engine: Engine, account: Account, group: MarginGroup | None = None) -> None:
    """Close a group (by default every group) at mark prices without slippage, and charge the liquidation fee.

    Its open orders expire first. All PnL is realized; then each position's fee is charged, limited to what is
    left of the group's wallet. A negative wallet is covered by the insurance fund.
    """
    if group is None:
        for one in margin_groups(account):
            liquidate(engine, account, one)
        return
    _expire_orders(engine, account, group)
    before = account.wallet_usdt
    order_of = {symbol: index for index, symbol in enumerate(engine.prices)}
    closed = [
        (position, _auto_close(engine, account, position))
        for position in sorted(group.positions, key=lambda position: order_of[position.symbol])
    ]
    engine.emit_account(account, "ORDER", [position for position, _ in closed])
    # What the fees may take: the whole wallet of a cross group, of an isolated one what remains of its own.
    left = account.cross_wallet_usdt
    if group.isolated:
        left = group.wallet_usdt + account.wallet_usdt - before
    charged = ZERO
    for position, trade in closed:
        fee = engine.instruments[position.symbol].liquidation_fee * trade.quote_usdt
        fee = booked(min(fee, max(left, ZERO)))
        account.book_income("INSURANCE_CLEAR", -fee, position.symbol, engine.clock_ms, trade.trade_id)
        charged += fee
        left -= fee
    if charged:
        engine.emit_account(account, "INSURANCE_CLEAR", balance_change=-charged)
    if group.isolated and left < 0:
        _insure(engine, account, -left)
    cover_shortfall(engine, account)


def deleverage(
    engine: Engine, account: Account, position: Position, quantity: Decimal, price: Decimal
) -> Trade:
    """Close part of a position against a liquidated counterparty (ADL): a maker, without commission."""
    trade = _auto_close(engine, account, position, quantity=quantity, price=price, client_id="adl_autoclose")
    engine.emit_account(account, "ORDER", [position])
    engine.expire_superfluous(account, position)
    return trade


def cover_shortfall(engine: Engine, account: Account) -> None:
    """A flat cross wallet never owes: the insurance fund pays what is missing."""
    if account.wallet_usdt >= 0 and not account.isolated_symbols:
        return
    missing = -account.cross_wallet_usdt
    if missing > 0 and not any(not account.is_isolated(p.symbol) for p in account.held()):
        _insure(engine, account, missing)


def warn_where_due(engine: Engine) -> None:
    """Send MARGIN_CALL for each group that has come near its liquidation, once until it has recovered."""
    marks = engine.mark_prices
    for account in engine.accounts.values():
        groups = margin_groups(account)
        account.margin_called &= {group.key for group in groups}
        for group in groups:
            excess = margin_excess(group, engine.instruments, marks)
            equity = group.wallet_usdt
            for position in group.positions:
                equity += position.unrealized_pnl(marks[position.symbol])
            # excess = equity - maintenance, so maintenance >= ratio * equity reads:
            if excess > equity * (1 - MARGIN_CALL_RATIO):
                account.margin_called.discard(group.key)
            elif group.key not in account.margin_called:
                account.margin_called.add(group.key)
                _warn(engine, account, group)


def _warn(engine: Engine, account: Account, group: MarginGroup) -> None:
    rows = [
        (
            margin_of_position(account, one, engine.instruments[one.symbol], engine.mark(one.symbol)),
            engine.instruments[one.symbol],
        )
        for one in group.positions
    ]
    cross = None if group.isolated else group.wallet_usdt
    engine.emit(account, events.margin_call(engine.clock_ms, cross, rows))


def _insure(engine: Engine, account: Account, missing: Decimal) -> None:
    account.book_income("INSURANCE_CLEAR", missing, "", engine.clock_ms)
    engine.emit_account(account, "INSURANCE_CLEAR", balance_change=missing)


def _expire_orders(engine: Engine, account: Account, group: MarginGroup) -> None:
    """A cross liquidation ends every open order of the account, an isolated one those of its position."""
    key = group.key
    for order in list(account.open_orders.values()):
        if not group.isolated or (order.symbol, order.position_side) == key:
            engine.end_order(account, order, Status.EXPIRED, reason=EXPIRED_BY_LIQUIDATION)
    for algo in list(account.open_algo_orders.values()):
        if not group.isolated or (algo.symbol, algo.position_side) == key:
            engine.end_algo(account, algo, AlgoStatus.EXPIRED, "Liquidation")


def _auto_close(
    engine: Engine,
    account: Account,
    position: Position,
    *,
    quantity: Decimal | None = None,
    price: Decimal | None = None,
    client_id: str | None = None,
) -> Trade:
    order_id = engine.order_ids.next()
    order = Order(
        order_id=order_id,
        client_order_id=client_id or f"autoclose-{engine.clock_ms}{order_id:03d}",
        symbol=position.symbol,
        side=Side.SELL if position.quantity > 0 else Side.BUY,
        type="MARKET",
        time_in_force="GTC",
        quantity=abs(position.quantity) if quantity is None else quantity,
        price=ZERO,
        reduce_only=True,
        position_side=position.side,
        working_type="CONTRACT_PRICE",
        time_ms=engine.clock_ms,
        update_ms=engine.clock_ms,
        orig_type="MARKET",
    )
    engine.accept(account, order)
    at = booked(engine.mark(position.symbol)) if price is None else price
    trade = account.book_fill(order, order.quantity, at, ZERO, maker=False, time_ms=engine.clock_ms)
    order.status = Status.FILLED
    account.close_order(order)
    engine.emit_order(account, order, "CALCULATED", trade=trade)
    return trade
