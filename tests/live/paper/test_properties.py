"""Whatever happens, the wallet is the sum of what was booked, and the position the fold of the trades."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from envs.account import Side
from envs.instruments import get_instruments
from live.paper import algo_desk, desk
from live.paper.account import Account, PaperAccount
from live.paper.closing import liquidate_where_due
from live.paper.engine import Engine, EngineSettings
from live.paper.errors import ApiError
from live.paper.orders import AlgoRequest, OrderRequest
from live.paper.play import Candle, move_prices, play_candle

D = Decimal

SYMBOLS = ("BTCUSDT", "ETHUSDT")
STARTS = {"BTCUSDT": D("50000.0"), "ETHUSDT": D("2500.00")}
TICKS = {"BTCUSDT": D("0.1"), "ETHUSDT": D("0.01")}

symbols = st.sampled_from(SYMBOLS)
sides = st.sampled_from([Side.BUY, Side.SELL])
quantities = st.integers(20, 3000).map(lambda steps: D(steps) / 1000)
moves = st.integers(-700, 700).map(lambda bps: D(bps) / 10_000)

market_orders = st.tuples(st.just("market"), symbols, sides, quantities, st.booleans())
limit_orders = st.tuples(
    st.just("limit"),
    symbols,
    sides,
    quantities,
    st.booleans(),
    moves,
    st.sampled_from(["GTC", "IOC", "FOK", "GTX"]),
)
triggers = st.tuples(
    st.just("trigger"),
    symbols,
    sides,
    st.sampled_from(["STOP_MARKET", "TAKE_PROFIT_MARKET"]),
    st.one_of(st.none(), quantities),
    st.booleans(),
    moves,
)
candles = st.tuples(st.just("candle"), st.tuples(*[st.tuples(moves, moves, moves, moves)] * 2))
segments = st.tuples(st.just("segment"), st.tuples(moves, moves))
fundings = st.tuples(st.just("funding"), st.tuples(moves, moves))
cancels = st.tuples(st.just("cancel"), symbols, st.booleans())
actions = st.lists(
    st.one_of(market_orders, limit_orders, triggers, candles, segments, fundings, cancels),
    min_size=20,
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(actions=actions, wallet=st.integers(2_000, 100_000), slippage=st.integers(0, 30))
def test_wallet_and_positions_are_folds(actions: list[Any], wallet: int, slippage: int) -> None:
    rules = {one.symbol: one for one in get_instruments(SYMBOLS)}
    engine = Engine(EngineSettings(rules, D(slippage)), 0, dict(STARTS))
    account = engine.add_account(PaperAccount("key", "secret", D(wallet)))
    for action in actions:
        engine.clock_ms += 1
        perform(engine, account, action)
        check(engine, account, D(wallet))


def on_tick(symbol: str, price: D) -> D:
    return max(TICKS[symbol] * 10_000, (price / TICKS[symbol]).to_integral_value() * TICKS[symbol])


def moved(engine: Engine, symbol: str, move: D) -> D:
    return on_tick(symbol, engine.prices[symbol] * (1 + move))


def perform(engine: Engine, account: Account, action: Any) -> None:
    kind, *rest = action
    try:
        match kind:
            case "market":
                symbol, side, quantity, reduce_only = rest
                request = OrderRequest(symbol, side, "MARKET", quantity, reduce_only=reduce_only)
                desk.place_order(engine, account, request)
            case "limit":
                symbol, side, quantity, reduce_only, move, time_in_force = rest
                price = moved(engine, symbol, move)
                request = OrderRequest(
                    symbol, side, "LIMIT", quantity, price, time_in_force, reduce_only=reduce_only
                )
                desk.place_order(engine, account, request)
            case "trigger":
                symbol, side, type_, quantity, reduce_only, move = rest
                held = account.position(symbol).quantity
                if held and reduce_only:
                    side = Side.SELL if held > 0 else Side.BUY
                # A distance to the side on which it does not fire at once.
                move = abs(move) * (1 if (type_ == "STOP_MARKET") == (side is Side.BUY) else -1)
                algo_desk.place_algo_order(
                    engine,
                    account,
                    AlgoRequest(
                        symbol,
                        side,
                        type_,
                        moved(engine, symbol, move),
                        quantity=quantity or D(0),
                        close_position=quantity is None,
                        reduce_only=reduce_only and quantity is not None,
                    ),
                )
            case "cancel":
                symbol, algo = rest
                (algo_desk.cancel_all_algo_orders if algo else desk.cancel_all)(engine, account, symbol)
            case "funding":
                engine.book_funding(
                    {s: engine.prices[s] * move / 10 for s, move in zip(SYMBOLS, rest[0], strict=True)}
                )
                liquidate_where_due(engine)
            case "segment":
                move_prices(engine, {s: moved(engine, s, m) for s, m in zip(SYMBOLS, rest[0], strict=True)})
                assert account.wallet_usdt >= 0 or any(account.held())
            case "candle":
                play_candle(engine, candle_from(engine, rest[0]))
                assert account.wallet_usdt >= 0 or any(account.held())
    except ApiError:
        pass


def candle_from(engine: Engine, moves_by_symbol: Any) -> Candle:
    columns: list[dict[str, D]] = [{}, {}, {}, {}]
    for symbol, four in zip(SYMBOLS, moves_by_symbol, strict=True):
        prices = [moved(engine, symbol, move) for move in four]
        for column, price in enumerate((prices[0], max(prices), min(prices), prices[3])):
            columns[column][symbol] = price
    return Candle(*columns)


def check(engine: Engine, account: Account, deposit: D) -> None:
    trades = [trade for rows in account.trades.values() for trade in rows]

    def income(kind: str) -> D:
        return sum((row.amount_usdt for row in account.income if row.income_type == kind), D(0))

    realized = sum((trade.realized_pnl_usdt for trade in trades), D(0))
    commission = sum((trade.commission_usdt for trade in trades), D(0))
    # "Exactly": the same Decimal, digit for digit.
    assert account.wallet_usdt == (
        deposit + realized - commission + income("FUNDING_FEE") + income("INSURANCE_CLEAR")
    )
    assert income("REALIZED_PNL") == realized
    assert income("COMMISSION") == -commission
    for symbol, rows in account.trades.items():
        assert [trade.trade_id for trade in rows] == list(range(1, len(rows) + 1))
        quantity, entry = fold(rows)
        position = account.position(symbol)
        assert position.quantity == quantity
        assert abs(position.entry_price - entry) <= D("1e-9")
    for order in account.orders.values():
        filled = sum((trade.quantity for trade in trades if trade.order is order), D(0))
        assert order.executed_quantity == filled <= order.quantity
        assert order.is_open == (order.order_id in account.open_orders)


def fold(trades: list[Any]) -> tuple[D, D]:
    """An independent fold: quantity, and average price of the fills that built the present position."""
    quantity, cost = D(0), D(0)
    for trade in trades:
        change = trade.quantity * trade.side.sign
        if quantity * change >= 0:
            cost += change * trade.price
        elif abs(change) <= abs(quantity):
            cost *= (quantity + change) / quantity
        else:
            cost = (quantity + change) * trade.price
        quantity += change
    return quantity, cost / quantity if quantity else D(0)
