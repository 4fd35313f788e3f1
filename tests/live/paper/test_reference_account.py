"""The account as clients read it, against Binance's published figures and an account written a second time."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from fractions import Fraction as Q
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_margin import Bracket, Key, ReferenceAccount, Resting

from envs.instruments import default_instruments
from envs.market import Market
from live.paper.account import PaperAccount
from live.paper.calls import Call, Params
from live.paper.closing import liquidate_where_due
from live.paper.dispatch import ROUTES
from live.paper.errors import ApiError
from live.paper.exchange import PaperExchange
from live.paper.feeds import ReplayFeed
from live.paper.play import move_prices
from tests.live.paper.conftest import make_market

D = Decimal
SYMBOLS = ("BTCUSDT", "ETHUSDT")
RULES = default_instruments()
BRACKETS = {
    symbol: [
        Bracket(
            Q(one.notional_floor_usdt),
            Q(one.notional_cap_usdt),
            Q(one.maintenance_rate),
            Q(one.maintenance_amount_usdt),
        )
        for one in RULES[symbol].brackets
    ]
    for symbol in SYMBOLS
}
# Figures are booked to 1e-12 each; so many bookings as there are here keep within this part of what was turned over.
PRECISION = Q(1, 10**12)


def world() -> Market:
    return make_market({"BTCUSDT": [(50_000.0,) * 4] * 3, "ETHUSDT": [(2_500.0,) * 4] * 3})


class Pair:
    """The exchange's account and the reference, side by side."""

    def __init__(self, wallet: int) -> None:
        self.exchange = PaperExchange(ReplayFeed(world(), 1), [PaperAccount("key", "secret", D(wallet))])
        self.account = self.exchange.engine.accounts["key"]
        self.reference = ReferenceAccount(BRACKETS, dict.fromkeys(SYMBOLS, 20), Q(wallet))
        self.seen = dict.fromkeys(SYMBOLS, 0)
        self.liquidated = False
        self.outcomes: Counter[str] = Counter()

    def ask(self, method: str, path: str, **params: Any) -> Any:
        """A call as it arrives behind the signature."""
        texts = Params({name: str(value) for name, value in params.items()})
        answer = ROUTES[method, path].handler(Call(self.exchange, texts, self.account))
        self.exchange.flush()
        return answer

    def refused(self, method: str, path: str, **params: Any) -> int:
        """The code of a refusal, 0 for none."""
        try:
            self.ask(method, path, **params)
        except ApiError as problem:
            return problem.code
        return 0

    @property
    def marks(self) -> dict[str, Q]:
        return {row["symbol"]: Q(row["markPrice"]) for row in self.ask("GET", "/fapi/v1/premiumIndex")}

    def orders(self) -> list[Resting]:
        return [
            Resting(
                row["symbol"],
                row["positionSide"],
                row["side"] == "BUY",
                Q(row["origQty"]) - Q(row["executedQty"]),
                Q(row["price"]),
                closes(row),
            )
            for row in self.ask("GET", "/fapi/v1/openOrders")
        ]

    def fold(self) -> None:
        """Tell the reference of the fills since the last time."""
        for symbol in SYMBOLS:
            rows = self.ask(
                "GET", "/fapi/v1/userTrades", symbol=symbol, fromId=self.seen[symbol] + 1, limit=1000
            )
            for row in rows:
                order = self.ask("GET", "/fapi/v1/order", symbol=symbol, orderId=row["orderId"])
                self.liquidated |= order["clientOrderId"].startswith("autoclose")
                quantity, price, fee = Q(row["qty"]), Q(row["price"]), Q(row["commission"])
                rate = Q(RULES[symbol].maker_fee if row["maker"] else RULES[symbol].taker_fee)
                if not self.liquidated:
                    assert abs(fee - quantity * price * rate) <= Q(1, 10**12)
                before = self.reference.realized
                change = quantity if row["side"] == "BUY" else -quantity
                self.reference.fill((symbol, row["positionSide"]), change, price, fee)
                self.same(Q(row["realizedPnl"]), self.reference.realized - before)
            self.seen[symbol] += len(rows)

    def same(self, found: Q, expected: Q) -> None:
        assert abs(found - expected) <= PRECISION * max(Q(10_000), self.reference.turnover), (
            float(found),
            float(expected),
        )

    def compare(self) -> None:
        """Every figure that a client can read."""
        reference, marks, orders = self.reference, self.marks, self.orders()
        same = self.same
        view = self.ask("GET", "/fapi/v3/account")
        keys = reference.keys(orders)
        held = reference.keys()
        margins = {key: reference.open_order_margin(key, marks[key[0]], orders) for key in keys}
        initial = sum((reference.initial(key, marks[key[0]]) for key in held), Q(0))
        unrealized = sum((reference.unrealized(key, marks[key[0]]) for key in held), Q(0))
        cross = sum((reference.unrealized(key, marks[key[0]]) for key in reference.cross_keys()), Q(0))
        for name, expected in {
            "totalWalletBalance": reference.wallet,
            "totalCrossWalletBalance": reference.cross_wallet,
            "totalUnrealizedProfit": unrealized,
            "totalCrossUnPnl": cross,
            "totalMarginBalance": reference.wallet + unrealized,
            "totalMaintMargin": sum((reference.maintenance(key, marks[key[0]]) for key in held), Q(0)),
            "totalPositionInitialMargin": initial,
            "totalOpenOrderInitialMargin": sum(margins.values(), Q(0)),
            "totalInitialMargin": initial + sum(margins.values(), Q(0)),
            "availableBalance": reference.available(marks, orders),
            "maxWithdrawAmount": reference.withdrawable(marks, orders),
        }.items():
            same(Q(view[name]), expected)
        (balance,) = self.ask("GET", "/fapi/v3/balance")
        same(Q(balance["availableBalance"]), reference.available(marks, orders))
        rows = {(row["symbol"], row["positionSide"]): row for row in self.ask("GET", "/fapi/v3/positionRisk")}
        assert set(rows) == set(keys)
        for key, row in rows.items():
            self.compare_position(key, row, marks, margins[key])

    def compare_position(self, key: Key, row: Any, marks: dict[str, Q], order_margin: Q) -> None:
        reference, mark = self.reference, marks[key[0]]
        same = self.same
        one = reference.held.get(key)
        same(Q(row["openOrderInitialMargin"]), order_margin)
        if one is None or not one.quantity:
            assert (Q(row["positionAmt"]), row["liquidationPrice"]) == (0, "0")
            return
        assert Q(row["positionAmt"]) == one.quantity
        assert abs(Q(row["entryPrice"]) - one.entry) <= PRECISION * one.entry * 100
        same(Q(row["notional"]), one.quantity * mark)
        same(Q(row["unRealizedProfit"]), reference.unrealized(key, mark))
        same(Q(row["positionInitialMargin"]), reference.initial(key, mark))
        same(Q(row["maintMargin"]), reference.maintenance(key, mark))
        isolated = key[0] in reference.isolated
        same(Q(row["isolatedWallet"]), one.margin)
        same(Q(row["isolatedMargin"]), one.margin + reference.unrealized(key, mark) if isolated else Q(0))
        shown, expected = Q(row["liquidationPrice"]), reference.liquidation_price(key, marks)
        # Where a hedge is nearly closed the price is far away, and the last digits of the wallet move it.
        net = abs(
            sum((reference.held[k].quantity for k in reference.group_of(key)[0] if k[0] == key[0]), Q(0))
        )
        gross = sum((abs(h.quantity) for k, h in reference.held.items() if k[0] == key[0]), Q(0))
        if net * 20 > gross:
            room = PRECISION * max(Q(10_000), reference.turnover) / net + PRECISION * expected * 100
            assert abs(shown - expected) <= 2 * room, (key, float(shown), float(expected))


def closes(row: Any) -> bool:
    if row["positionSide"] == "BOTH":
        return bool(row["reduceOnly"])
    return bool((row["positionSide"] == "LONG") == (row["side"] == "SELL"))


# --- random lives -------------------------------------------------------------------------------------

symbols = st.sampled_from(SYMBOLS)
sides = st.sampled_from(["BUY", "SELL"])
steps = st.integers(10, 2_500)
hedge_sides = st.sampled_from(["LONG", "SHORT"])
moves = st.integers(-150, 150).map(lambda bps: D(bps) / 10_000)
distances = st.integers(1, 300).map(lambda bps: D(bps) / 10_000)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("market"), symbols, sides, steps, hedge_sides, st.booleans()),
        st.tuples(st.just("market"), symbols, sides, steps, hedge_sides, st.just(False)),
        st.tuples(st.just("limit"), symbols, sides, steps, hedge_sides, distances),
        st.tuples(st.just("prices"), st.tuples(moves, moves), st.tuples(moves, moves)),
        st.tuples(st.just("funding"), st.tuples(moves, moves)),
        st.tuples(st.just("leverage"), symbols, st.integers(2, 50)),
        st.tuples(st.just("margin"), symbols, hedge_sides, st.integers(1, 2_000), st.sampled_from([1, 2])),
        st.tuples(st.just("type"), symbols, st.sampled_from(["ISOLATED", "CROSSED"])),
        st.tuples(st.just("cancel"), symbols),
    ),
    min_size=10,
    max_size=30,
)


def test_every_figure_agrees_with_the_reference() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=60, deadline=None)
    @given(
        actions=actions,
        wallet=st.integers(5_000, 200_000),
        hedge=st.booleans(),
        isolated=st.sets(symbols),
    )
    def lives(actions: list[Any], wallet: int, hedge: bool, isolated: set[str]) -> None:
        pair = Pair(wallet)
        if hedge:
            pair.ask("POST", "/fapi/v1/positionSide/dual", dualSidePosition="true")
        for symbol in sorted(isolated):
            pair.ask("POST", "/fapi/v1/marginType", symbol=symbol, marginType="ISOLATED")
            pair.reference.isolated.add(symbol)
        for action in actions:
            pair.exchange.engine.clock_ms += 1
            perform(pair, action, hedge=hedge)
            pair.fold()
            if pair.liquidated:
                seen["liquidated"] += 1
                break  # how a liquidation is booked is shown in test_candle_rules
            pair.compare()
        seen.update(pair.outcomes)
        seen["lives"] += 1

    lives()
    # They were worth something.
    assert seen["lives"] > 2 * seen["liquidated"]
    assert seen["filled"] > 150
    assert seen["refused for margin"] > 10


def perform(pair: Pair, action: Any, *, hedge: bool) -> None:
    kind, *rest = action
    reference, engine = pair.reference, pair.exchange.engine
    match kind:
        case "market" | "limit":
            place(pair, kind, *rest, hedge=hedge)
        case "prices":
            last, marks = (
                {
                    symbol: (engine.prices[symbol] * (1 + move)).quantize(RULES[symbol].tick_size)
                    for symbol, move in zip(SYMBOLS, row, strict=True)
                }
                for row in rest
            )
            # The mark stays within a tenth of its move of the last price, as marks do.
            near = {symbol: last[symbol] + (marks[symbol] - last[symbol]) / 10 for symbol in SYMBOLS}
            move_prices(engine, last, near)
        case "funding":
            per_unit = {s: engine.mark(s) * move / 10 for s, move in zip(SYMBOLS, rest[0], strict=True)}
            engine.book_funding(per_unit)
            for symbol, amount in per_unit.items():
                reference.charge_funding(symbol, Q(amount))
            liquidate_where_due(engine)
        case "leverage":
            symbol, leverage = rest
            if not pair.refused("POST", "/fapi/v1/leverage", symbol=symbol, leverage=leverage):
                reference.leverage[symbol] = leverage
        case "margin":
            symbol, side, amount, direction = rest
            wanted = {"symbol": symbol, "amount": amount, "type": direction}
            key = (symbol, side if hedge else "BOTH")
            if not pair.refused("POST", "/fapi/v1/positionMargin", **wanted, positionSide=key[1]):
                reference.held[key].margin += amount if direction == 1 else -amount
        case "type":
            symbol, margin_type = rest
            if not pair.refused("POST", "/fapi/v1/marginType", symbol=symbol, marginType=margin_type):
                (reference.isolated.add if margin_type == "ISOLATED" else reference.isolated.discard)(symbol)
        case "cancel":
            pair.ask("DELETE", "/fapi/v1/allOpenOrders", symbol=rest[0])


def place(
    pair: Pair, kind: str, symbol: str, side: str, size: int, hedge_side: str, extra: Any, *, hedge: bool
) -> None:
    """Place an order; a MARKET order is accepted exactly where the reference can afford it."""
    engine, reference = pair.exchange.engine, pair.reference
    quantity = D(size) / 1000 * (1 if symbol == "BTCUSDT" else 20)
    key = (symbol, hedge_side if hedge else "BOTH")
    wanted: dict[str, Any] = {"symbol": symbol, "side": side, "type": kind.upper(), "quantity": quantity}
    wanted["positionSide"] = key[1]
    last = engine.prices[symbol]
    if kind == "limit":
        sign = -1 if side == "BUY" else 1
        price = (last * (1 + sign * extra)).quantize(RULES[symbol].tick_size)
        pair.refused("POST", "/fapi/v1/order", **wanted, price=price, timeInForce="GTC")
        return
    if extra and not hedge:
        wanted["reduceOnly"] = "true"
    change = Q(quantity) * (1 if side == "BUY" else -1)
    one = reference.held.get(key)
    reduces = one is not None and one.quantity * change < 0 and abs(change) <= abs(one.quantity)
    fee = abs(change) * Q(last) * Q(RULES[symbol].taker_fee)
    left = reference.affords(key, change, Q(last), fee, pair.marks, pair.orders())
    code = pair.refused("POST", "/fapi/v1/order", **wanted)
    pair.outcomes["filled" if code == 0 else "refused for margin" if code == -2019 else "refused"] += 1
    if code not in (0, -2019) or reduces or "reduceOnly" in wanted:
        assert code != -2019, "what only reduces is never refused for margin"
        return
    if abs(left) > Q(1, 10**6):
        assert (left >= 0) is (code == 0), float(left)


# --- published figures --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "expected"), [("BUY", "57228.915662650602"), ("SELL", "62749.003984063745")]
)
def test_the_published_liquidation_example_isolated(side: str, expected: str) -> None:
    # 1 BTC at 60000 with 3000 of margin: 57000 / 0.996 and 63000 / 1.004.
    pair = Pair(100_000)
    pair.exchange.engine.prices = {**pair.exchange.engine.prices, "BTCUSDT": D(60_000)}
    pair.ask("POST", "/fapi/v1/marginType", symbol="BTCUSDT", marginType="ISOLATED")
    pair.ask("POST", "/fapi/v1/order", symbol="BTCUSDT", side=side, type="MARKET", quantity=1)
    # 60000 / 20 less the fee of 30 is there; the fee is put back.
    pair.ask("POST", "/fapi/v1/positionMargin", symbol="BTCUSDT", amount=30, type=1)
    (row,) = pair.ask("GET", "/fapi/v3/positionRisk")
    assert (row["isolatedWallet"], row["liquidationPrice"]) == ("3000.00000000", expected)


def test_a_hedge_by_hand() -> None:
    # Cross, 2 BTC long from 50000 and 0.5 short from 51000; wallet 20000 less fees 50 and 12.75.
    pair = Pair(20_000)
    pair.ask("POST", "/fapi/v1/positionSide/dual", dualSidePosition="true")
    order = {"symbol": "BTCUSDT", "type": "MARKET"}
    pair.ask("POST", "/fapi/v1/order", **order, side="BUY", quantity=2, positionSide="LONG")
    pair.exchange.engine.prices = {**pair.exchange.engine.prices, "BTCUSDT": D(51_000)}
    pair.ask("POST", "/fapi/v1/order", **order, side="SELL", quantity="0.5", positionSide="SHORT")
    long, short = pair.ask("GET", "/fapi/v3/positionRisk")
    # (19937.25 - 2 * 50000 + 0.5 * 51000) / (2 * 0.004 + 0.5 * 0.004 - 2 + 0.5) = -54562.75 / -1.49
    assert Q(long["liquidationPrice"]) == Q(short["liquidationPrice"]) == Q("36619.295302013423")
    view = pair.ask("GET", "/fapi/v3/account")
    assert Q(view["totalMaintMargin"]) == Q(102_000 + 25_500) * Q(4, 1000)
    assert Q(view["totalInitialMargin"]) == Q(102_000 + 25_500) / 20
    assert Q(view["availableBalance"]) == Q("19937.25") + 2_000 - Q(127_500) / 20


@pytest.mark.parametrize("margin_type", ["CROSSED", "ISOLATED"])
@pytest.mark.parametrize(
    ("side", "quantity"), [("BUY", "1.5"), ("SELL", "1.5"), ("BUY", "30"), ("SELL", "16")]
)
def test_the_price_shown_is_the_price_that_liquidates(margin_type: str, side: str, quantity: str) -> None:
    pair = Pair(200_000)
    if margin_type == "ISOLATED":
        pair.ask("POST", "/fapi/v1/marginType", symbol="BTCUSDT", marginType=margin_type)
    pair.ask("POST", "/fapi/v1/order", symbol="BTCUSDT", side=side, type="MARKET", quantity=quantity)
    pair.ask("POST", "/fapi/v1/order", symbol="ETHUSDT", side="BUY", type="MARKET", quantity=20)
    row = next(one for one in pair.ask("GET", "/fapi/v3/positionRisk") if one["symbol"] == "BTCUSDT")
    price = D(row["liquidationPrice"])
    if not price:
        assert (margin_type, side, quantity) == ("CROSSED", "BUY", "1.5")  # the wallet carries it to zero
        return
    outwards = -1 if side == "BUY" else 1
    for at, gone in ((price - outwards * D("1e-6"), False), (price + outwards * D("1e-6"), True)):
        pair.exchange.engine.prices = {**pair.exchange.engine.prices, "BTCUSDT": at}
        liquidate_where_due(pair.exchange.engine)
        assert (not pair.account.position("BTCUSDT").quantity) is gone


def test_maintenance_margin_is_continuous_at_every_border() -> None:
    pair = Pair(100)
    for symbol in SYMBOLS:
        assert BRACKETS[symbol][0].cum == 0
        for lower, upper in zip(BRACKETS[symbol], BRACKETS[symbol][1:], strict=False):
            # cum of a bracket, as published: what makes both formulas meet at the border.
            assert lower.cap * lower.rate - lower.cum == lower.cap * upper.rate - upper.cum
            assert RULES[symbol].maintenance_margin_usdt(D(int(lower.cap))) == D(
                str(float(lower.cap * lower.rate - lower.cum))
            )
        rows = pair.ask("GET", "/fapi/v1/leverageBracket", symbol=symbol)[0]["brackets"]
        assert [Q(row["notionalCap"]) for row in rows] == [one.cap for one in BRACKETS[symbol]]
