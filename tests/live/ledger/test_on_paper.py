"""The ledger beside the paper exchange's own books: agents, a person, funding and liquidations, to the last unit."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest

from envs.account import Fill, Leg, Side
from envs.instruments import get_instruments
from live.exchange.client_ids import client_order_id
from live.exchange.parse import make_fill
from live.ledger import MANUAL, Income, IncomeKind, Ledger, Transfer
from live.ledger.identity import check_identity
from live.ledger.queries import Where, round_trips
from live.paper import desk
from live.paper.account import Account, PaperAccount
from live.paper.closing import liquidate_where_due
from live.paper.engine import Engine, EngineSettings
from live.paper.errors import ApiError
from live.paper.orders import OrderRequest
from live.paper.play import move_prices
from live.store import Store
from live.store.check import check

SYMBOLS = ("BTCUSDT", "ETHUSDT")
AGENTS = ("LLM-A", "sac", "ema")
INCOME = {"FUNDING_FEE": IncomeKind.FUNDING, "INSURANCE_CLEAR": IncomeKind.CLEARANCE}
START_MS = 1_736_630_400_000


def fills_of(account: Account) -> list[Fill]:
    """What userTrades lists, with the client order ids of the orders."""
    return [
        make_fill(
            symbol=trade.symbol,
            trade_id=str(trade.trade_id),
            order_id=str(trade.order.order_id),
            client_order_id=trade.order.client_order_id,
            side=trade.side,
            quantity=trade.quantity,
            price=trade.price,
            commission=trade.commission_usdt,
            commission_asset="USDT",
            realized_pnl=trade.realized_pnl_usdt,
            maker=trade.maker,
            time_ms=trade.time_ms,
            exchange="paper",
        )
        for trades in account.trades.values()
        for trade in trades
    ]


def income_of(account: Account) -> list[Income]:
    """What income lists of funding and liquidations."""
    return [
        Income(
            "paper",
            row.symbol,
            row.time_ms,
            row.amount_usdt,
            str(row.transaction_id),
            INCOME[row.income_type],
        )
        for row in account.income
        if row.income_type in INCOME
    ]


def trade_at_random(engine: Engine, account: Account, dice: random.Random, wildly: bool) -> None:
    """One thing happens: an agent's order, a person's, a price move, a settlement."""
    engine.clock_ms += dice.choice((0, 1, 60_000))
    what = dice.random()
    try:
        if what < 0.7:
            symbol, agent = dice.choice(SYMBOLS), dice.choice((*AGENTS, ""))
            size = dice.randrange(20, 4000 if wildly else 300)
            quantity = Decimal(size) / 1000 * (1 if symbol == "BTCUSDT" else 10)
            leg = dice.choice(list(Leg))
            name = client_order_id(agent, symbol, engine.clock_ms, leg) if agent else ""
            side = dice.choice((Side.BUY, Side.SELL))
            desk.place_order(
                engine, account, OrderRequest(symbol, side, "MARKET", quantity, client_order_id=name)
            )
        elif what < 0.9:
            moves = {
                s: Decimal(dice.randint(-900, 900) if wildly else dice.randint(-300, 300)) / 10_000
                for s in SYMBOLS
            }
            prices = {
                s: (engine.prices[s] * (1 + move)).quantize(Decimal("0.1")) for s, move in moves.items()
            }
            move_prices(engine, prices)
        else:
            rates = {s: Decimal(dice.randint(-75, 75)) / 10_000 for s in SYMBOLS}
            engine.book_funding({s: engine.prices[s] * rate for s, rate in rates.items()})
            liquidate_where_due(engine)
    except ApiError:
        pass  # refused for margin, or twice one id: then nothing happened


@pytest.mark.parametrize(("seed", "wildly"), [(1, False), (3, True)])
def test_the_books_agree_at_any_moment(seed: int, wildly: bool) -> None:
    dice = random.Random(seed)
    deposit = Decimal(20_000)
    rules = {one.symbol: one for one in get_instruments(SYMBOLS)}
    prices = {"BTCUSDT": Decimal("50000.0"), "ETHUSDT": Decimal("2500.0")}
    engine = Engine(EngineSettings(rules, Decimal(3)), START_MS, prices)
    account = engine.add_account(PaperAccount("key", "secret", deposit))
    with Store.open("sqlite://") as store:
        ledger = Ledger(store, snapshot_every=40)
        ledger.record_transfers([Transfer("paper", MANUAL, deposit, START_MS, "opening")])
        for agent in AGENTS:
            ledger.assign_capital("paper", agent, Decimal(100), time_ms=START_MS, assignment=f"start {agent}")
        for _ in range(40 if wildly else 20):
            for _ in range(10):
                trade_at_random(engine, account, dice, wildly)
            fills, income = fills_of(account), income_of(account)
            dice.shuffle(fills)
            ledger.record_batch(fills[: len(fills) // 2])
            ledger.record_batch(fills, income)
            found = check_identity(
                ledger,
                "paper",
                exchange_wallet=account.wallet_usdt,
                exchange_quantities={symbol: account.position(symbol).quantity for symbol in SYMBOLS},
            )
            assert found.holds, (found.wallet_error, found.missing_usdt, found.missing_quantities)
            assert abs(found.rounding) < Decimal("1E-9") * max(1, len(fills))
        reasons = {trip.exit_reason for trip in round_trips(store, Where(exchange="paper"))}
        assert any(one.liquidation for one in fills_of(account)) == wildly
        assert [one for one in check(store) if one.problem] == []
        if wildly:
            return  # bankrupt: no margin for opposite positions to be closed one by one
        for (agent, symbol), state in sorted(ledger.positions("paper").items()):
            engine.clock_ms += 1
            side = Side.SELL if state.quantity > 0 else Side.BUY
            name = client_order_id(agent, symbol, engine.clock_ms, Leg.ORDER)
            request = OrderRequest(symbol, side, "MARKET", abs(state.quantity), client_order_id=name)
            assert desk.place_order(engine, account, request).executed_quantity == abs(state.quantity)
        assert {"SIGNAL", "SL_HIT", "TP_HIT", "PROTECTIVE_STOP", "EMERGENCY", "MANUAL"} <= reasons
        ledger.record_batch(fills_of(account), income_of(account))
        assert ledger.positions("paper") == {}
        assert sum(ledger.wallets("paper").values()) == account.wallet_usdt
