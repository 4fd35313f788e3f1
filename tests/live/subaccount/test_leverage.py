"""The exchange's leverage setting where several agents net: it stands in nobody's way who can afford the order."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from live_support import flat_market
from subaccount_support import paper_server, settings_of, shared
from support import market_of

from envs.errors import OrderRejectedError

D = Decimal
SYMBOLS = ("BTCUSDT",)


def test_a_close_that_takes_the_net_beyond_the_bracket_lowers_the_exchanges_leverage(tmp_path: Path) -> None:
    capital = {"A": "3000", "B": "3000", "C": "3000"}
    with (
        paper_server(flat_market()) as server,
        shared(server, tmp_path / "a.db", settings_of(capital, SYMBOLS), leverage=125) as account,
    ):
        account.trade("A", "5.9")  # at 125 times, 300,000 USDT are allowed: 6 BTC
        account.trade("B", "-0.6")
        account.trade("C", "0.5")
        assert account.trade("B", "0.6", reduce_only=True).executed_quantity == D("0.6")
        assert (account.held("B"), account.net()) == (0, D("6.4"))
        assert account.books.leverage["BTCUSDT"] == 100
        # An agent that begins again asks for its own leverage; the net is still too large for it.
        account.call(account.agents["A"].set_leverage("BTCUSDT", 125))
        assert account.books.leverage["BTCUSDT"] == 100
        with pytest.raises(OrderRejectedError, match="above the 300000 allowed at leverage 125") as refused:
            account.trade("A", "0.2")  # its own bracket binds each agent as before
        assert refused.value.code == -2027
        account.check()


def test_an_agent_may_leave_beside_one_that_has_lost_nearly_everything(tmp_path: Path) -> None:
    market = market_of([(50_000,) * 4, (50_000, 50_000, 45_800, 45_800), *[(45_800,) * 4] * 3])
    with paper_server(market, wallet="5020") as server:
        settings = settings_of({"A": "5000", "B": "20"}, SYMBOLS)
        with shared(server, tmp_path / "a.db", settings) as account:
            account.trade("A", "0.98")
            account.trade("B", "-0.003")
            account.advance()
            assert account.held("A") == D("0.98")  # about 860 USDT are left of 5,000
            # The net binds a tenth of 45,000 USDT at the exchange, more than the whole account has.
            assert account.trade("B", "0.003", reduce_only=True).executed_quantity == D("0.003")
            assert account.books.leverage["BTCUSDT"] == 150
            account.check()
        with shared(server, tmp_path / "a.db", settings) as account:  # where both ask for 10 again
            assert account.books.leverage["BTCUSDT"] == 150
            account.trade("A", "-0.98", reduce_only=True)
            account.call(account.agents["A"].set_leverage("BTCUSDT", 10))
            assert account.books.leverage["BTCUSDT"] == 10
            account.check()
