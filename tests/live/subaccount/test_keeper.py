"""Virtual liquidation, and the limits of the account above those of its agents."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from subaccount_support import paper_server, settings_of, shared
from support import market_of

from envs.account import Leg
from envs.errors import HaltedError, OrderRejectedError
from envs.risk_state import FileRiskStore
from live.store.journal import Journal

D = Decimal
SYMBOLS = ("BTCUSDT",)
FALL = [
    (10000.0, 10000.0, 10000.0, 10000.0),
    (10000.0, 10000.0, 9100.0, 9100.0),
    (9100.0, 9100.0, 9100.0, 9100.0),
    (9100.0, 9100.0, 9100.0, 9100.0),
]


def test_an_agent_at_its_own_maintenance_margin_is_closed_before_it_owes_anybody(tmp_path: Path) -> None:
    with (
        paper_server(market_of(FALL)) as server,
        shared(server, tmp_path / "a.db", settings_of({"A": "100", "B": "5000"}, SYMBOLS)) as two,
    ):
        two.trade("A", "0.095")  # 950 of 1000: at 9100 it has lost 85.5 of 99.525
        two.trade("B", "-0.2")
        two.rest("A", "SELL", Leg.STOP, "8000", "0.095")
        assert not two.account.keeper.must_liquidate("A")
        two.advance()
        assert (two.held("A"), two.held("B"), two.net()) == (D("0.095"), D("-0.2"), D("-0.105"))
        two.account.view.prices["BTCUSDT"] = D("8980")
        two.call(two.account.keep())
        assert (two.held("A"), two.held("B"), two.net()) == (0, D("-0.2"), D("-0.2"))
        assert two.call(two.agents["A"].open_orders()) == []
        assert two.wallets()["A"] == D("100") - D("0.475") - D("85.5") - D("0.095") * 9100 * D("0.0005")
        fills = two.call(two.agents["A"].fills("BTCUSDT"))
        assert [one.liquidation for one in fills] == [False, True]
        (emergency,) = Journal(two.ledger.store).emergencies("paper")
        assert (emergency.agent, emergency.succeeded) == ("A", True)
        assert emergency.reason.startswith("virtual liquidation: equity 2.625")
        two.trade("A", "0.012")  # what is left may be traded with
        two.check()


def test_what_the_exchange_has_liquidated_itself_is_not_closed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The news of it may come late, and an order for what is gone would open the opposite."""
    market = market_of([(10000.0,) * 4, (10000.0, 10000.0, 8000.0, 8000.0), *[(8000.0,) * 4] * 2])
    with (
        paper_server(market, wallet="500") as server,
        shared(server, tmp_path / "a.db", settings_of({"A": "400", "B": "100"}, SYMBOLS)) as two,
    ):
        two.trade("A", "0.35")
        two.trade("B", "-0.09")
        monkeypatch.setattr(two.account.sync, "_hear", lambda _event: None)
        two.call(two.lock_step.request_candle())
        assert (two.net(), two.books.wallet_usdt, two.held("A")) == (0, 0, D("0.35"))
        two.account.view.prices["BTCUSDT"] = D("8000")
        journal = Journal(two.ledger.store)
        for times in (1, 2):  # at one moment of the exchange's clock
            two.call(two.account.keep())
            assert (two.held("A"), two.held("B")) == (D("0.09"), D("-0.09"))
            # What is left of both is not there at the exchange, and there is no money to trade with.
            (emergency,) = journal.emergencies("paper")
            assert not emergency.succeeded
            assert emergency.tries == len(emergency.failures) >= 6 * times
            assert [one for one in emergency.failures if not one.startswith("SELL 0.09")] == []
        two.happen(kind="transfer", amount_usdt="100")
        two.call(two.account.keep())
        assert (two.held("A"), two.held("B"), two.net()) == (0, D("-0.09"), D("-0.09"))
        (emergency,) = journal.emergencies("paper")
        assert emergency.succeeded
        assert emergency.tries > len(emergency.failures)
        two.call(two.account.sync.read_bookings_again(0))
        two.check()


def test_a_liquidation_that_was_cut_short_is_finished_at_the_next_start(tmp_path: Path) -> None:
    prices = {
        "BTCUSDT": [(10000.0, 10000.0, 10000.0, 10000.0)] * 4,
        "ETHUSDT": [(10000.0, 10000.0, 10000.0, 10000.0)] * 4,
    }
    settings = settings_of({"A": "100", "B": "5000"}, ("BTCUSDT", "ETHUSDT"))
    with paper_server(market_of(prices)) as server:
        with shared(server, tmp_path / "a.db", settings) as two:
            two.trade("A", "0.03")
            two.trade("A", "-0.03", "ETHUSDT")
            two.call(two.account.desk.close("A", "BTCUSDT", D("0.03"), 1))  # killed behind the first of two
        with shared(server, tmp_path / "a.db", settings) as two:
            two.settle()
            assert two.held("A", "ETHUSDT") == 0
            two.trade("A", "0.02")
            two.settle()
            assert two.held("A") == D("0.02")
            two.check()


def test_the_accounts_drawdown_flattens_and_halts_everybody(tmp_path: Path) -> None:
    limits = {"max_drawdown_fraction": "0.05"}
    settings = settings_of({"A": "4000", "B": "5000"}, SYMBOLS, limits=limits)
    store = FileRiskStore(tmp_path / "risk.json")
    with paper_server(market_of(FALL)) as server:
        with shared(server, tmp_path / "a.db", settings, store=store) as two:
            two.trade("A", "0.8")
            two.trade("B", "-0.1")
            two.rest("A", "SELL", Leg.STOP, "8000", "0.8")
            two.advance()  # 0.7 * 900 = 630 of 10000
            assert (two.held("A"), two.held("B"), two.net()) == (0, 0, 0)
            assert two.books.open_algo_orders == {}
            with pytest.raises(OrderRejectedError, match="drawdown"):
                two.trade("B", "0.02")
            (emergency,) = Journal(two.ledger.store).emergencies("paper")
            assert (emergency.agent, emergency.succeeded, emergency.limit_fraction) == ("", True, D("0.05"))
            two.check()
        with (
            pytest.raises(HaltedError, match="drawdown"),
            shared(server, tmp_path / "a.db", settings, store=store),
        ):
            pass
        with shared(server, tmp_path / "a.db", settings, store=store, acknowledge=True) as two:
            two.trade("B", "0.02")
            assert Journal(two.ledger.store).emergencies("paper", unacknowledged=True) == []


def test_an_order_beyond_the_accounts_net_leverage_is_refused_and_opposite_ones_are_not(
    tmp_path: Path,
) -> None:
    settings = settings_of({"A": "4000", "B": "5000"}, SYMBOLS, limits={"max_net_leverage": "1"})
    with (
        paper_server(market_of([(10000.0, 10000.0, 10000.0, 10000.0)] * 3)) as server,
        shared(server, tmp_path / "a.db", settings) as two,
    ):
        two.trade("A", "0.9")
        with pytest.raises(OrderRejectedError, match="net positions"):
            two.trade("B", "0.2")
        two.trade("B", "-1.5")
        assert two.net() == D("-0.6")
        # Somebody else goes beyond it.
        two.happen(kind="manual_trade", symbol="BTCUSDT", side="SELL", quantity="0.6")
        two.settle()
        assert two.account.desk.halted.startswith("the account's net positions")
        assert two.held("A") == two.held("B") == 0
        two.check()
