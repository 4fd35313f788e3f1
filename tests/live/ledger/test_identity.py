"""The agents' accounts and the exchange's wallet, to the last unit, against an exchange that rounds."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import ROUND_HALF_EVEN, Decimal

from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_support import SYMBOLS, T0, fill, random_fills

from envs.account import Fill
from live.ledger import MANUAL, Income, Ledger, Transfer
from live.ledger.arithmetic import exact
from live.ledger.identity import check_identity
from live.store import Store


class RoundingExchange:
    """A wallet as exchanges keep it: entry prices and realized PnL rounded to 8 decimals, fill by fill."""

    def __init__(self, wallet: Decimal) -> None:
        self.wallet = wallet
        self.held: dict[str, tuple[Decimal, Decimal]] = {}

    def trade(self, one: Fill) -> Fill:
        """The fill with its realized PnL."""
        quantity, entry = self.held.get(one.symbol, (Decimal(0), Decimal(0)))
        signed = one.signed_quantity
        after = quantity + signed
        realized = Decimal(0)
        if quantity * signed < 0:
            closed = min(abs(signed), abs(quantity)) * (1 if quantity > 0 else -1)
            realized = self.rounded(closed * (one.price - entry))
            if after * quantity < 0:
                entry = one.price
        else:
            entry = self.rounded((abs(quantity) * entry + abs(signed) * one.price) / abs(after))
        self.held[one.symbol] = after, entry if after else Decimal(0)
        self.wallet += realized - one.commission
        return replace(one, realized_pnl=realized)

    @staticmethod
    def rounded(value: Decimal) -> Decimal:
        return value.quantize(Decimal("1E-8"), ROUND_HALF_EVEN)

    @property
    def quantities(self) -> dict[str, Decimal]:
        return {symbol: quantity for symbol, (quantity, _) in self.held.items()}


@settings(max_examples=8)
@given(st.integers(0, 10**9))
def test_nothing_is_lost_between_the_agents_and_the_exchange(seed: int) -> None:
    dice = random.Random(seed)
    exchange = RoundingExchange(Decimal(1000))
    with Store.open("sqlite://") as store:
        ledger = Ledger(store, snapshot_every=7)
        ledger.record_transfers([Transfer("paper", MANUAL, Decimal(1000), T0, "opening")])
        for agent in ("LLM-A", "sac"):
            ledger.assign_capital("paper", agent, Decimal(100), time_ms=T0, assignment=f"start-{agent}")
        fills = [exchange.trade(one) for one in random_fills(40, seed)]
        for number, one in enumerate(fills):
            ledger.record(one)
            if number % 9 == 0:
                amount = Decimal(dice.randint(-99_999, 99_999)) / 10**8
                ledger.record_income(
                    [Income("paper", dice.choice(SYMBOLS), one.time_ms + 1, amount, f"f{number}")]
                )
                exchange.wallet += amount
        # At any moment, whatever is open:
        found = check_identity(
            ledger, "paper", exchange_wallet=exchange.wallet, exchange_quantities=exchange.quantities
        )
        assert found.holds, (found.wallet_error, found.missing_usdt, found.missing_quantities)
        marks = {symbol: Decimal(dice.randint(9 * 10**6, 11 * 10**6)) / 100 for symbol in SYMBOLS}
        with exact():
            equity = sum(found.wallets.values()) + sum(
                state.unrealized(marks[symbol]) for (_, symbol), state in ledger.positions("paper").items()
            )
            on_the_net = sum(
                book.net_quantity * marks[book.symbol] - book.net_cost for book in ledger.books("paper")
            )
            assert equity == exchange.wallet + on_the_net
        assert abs(found.rounding) < Decimal("1E-5")
        # Everybody closes: then the wallets alone make up the exchange's.
        number = 5_000_000_000
        for (agent, symbol), state in sorted(ledger.positions("paper").items()):
            number += 1
            close = fill(
                number,
                "SELL" if state.quantity > 0 else "BUY",
                str(abs(state.quantity)),
                "100000.01",
                agent=agent,
                symbol=symbol,
                time_ms=fills[-1].time_ms + number,
                commission="0.01",
            )
            ledger.record(exchange.trade(close))
        with exact():
            assert sum(ledger.wallets("paper").values()) == exchange.wallet
        flat = check_identity(ledger, "paper", exchange_wallet=exchange.wallet)
        assert flat.holds and flat.entry_difference == 0


def test_what_is_missing_is_named() -> None:
    with Store.open("sqlite://") as store:
        ledger = Ledger(store)
        ledger.record(fill(1, "BUY", "1", "100", commission="0.04"))
        found = check_identity(
            ledger,
            "paper",
            exchange_wallet=Decimal("-0.06"),
            exchange_quantities={"BTCUSDT": Decimal("1.5"), "ETHUSDT": Decimal(0)},
        )
        assert not found.holds
        assert found.missing_usdt == Decimal("-0.02")
        assert found.missing_quantities == {"BTCUSDT": Decimal("0.5")}
        assert found.wallet_error == 0
        assert check_identity(ledger, "paper").holds
