"""Funding, deposits and events of agents that share an account."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

from live_support import flat_market
from subaccount_support import Shared, paper_server, settings_of, shared

from live.exchange.base import FillEvent, OrderEvent, Resync, UserEvent
from live.exchange.candle_stream import CandleStream

D = Decimal
SYMBOLS = ("BTCUSDT",)
AGENTS = {"A": "2000", "B": "2000"}


def funding_of(account: Shared, agent: str) -> list[Decimal]:
    booked = account.call(account.agents[agent].funding_payments(since_ms=0))
    return [one.amount_usdt for one in booked if one.amount_usdt]


def test_funding_is_paid_between_agents_whose_net_is_zero(tmp_path: Path) -> None:
    rates = [(60 * hour, 0.001 if hour in (2, 3) else 0.0) for hour in range(13)]
    market = flat_market(10_000.0, funding={"BTCUSDT": rates})
    with (
        paper_server(market) as server,
        shared(server, tmp_path / "a.db", settings_of(AGENTS, SYMBOLS)) as two,
    ):
        two.trade("A", "0.4")
        two.trade("B", "-0.4")
        two.advance()
        assert (funding_of(two, "A"), funding_of(two, "B")) == ([-4], [4])
        two.trade("B", "0.3")  # the net is 0.3 now, and the exchange books 3
        two.advance()
        assert (funding_of(two, "A"), funding_of(two, "B")) == ([-4, -4], [4, 1])
        account = two.call(two.agents["A"].account())
        assert account.wallet_usdt == 2000 - 2 - 8
        two.check()


def test_what_is_paid_in_is_manuals_and_no_profit_of_the_accounts(tmp_path: Path) -> None:
    settings = settings_of(AGENTS, SYMBOLS, limits={"max_drawdown_fraction": "0.05"})
    with paper_server(flat_market()) as server, shared(server, tmp_path / "a.db", settings) as two:
        two.happen(kind="transfer", amount_usdt="30000")
        two.settle()
        assert two.wallets() == {"A": 2000, "B": 2000, "MANUAL": 36_000}
        assert two.account.keeper.state.peak_equity_usdt == 40_000
        two.happen(kind="transfer", amount_usdt="-20000")
        two.settle()
        assert two.account.desk.halted == ""
        assert two.account.keeper.state.peak_equity_usdt == 20_000
        two.check()


def test_an_agent_hears_of_its_own_fills_and_of_nobody_elses(tmp_path: Path) -> None:
    with (
        paper_server(flat_market()) as server,
        shared(server, tmp_path / "a.db", settings_of(AGENTS, SYMBOLS)) as two,
    ):
        stream = two.call(_opened(two, "A"))
        two.trade("A", "0.01")
        two.trade("B", "0.02")
        two.happen(kind="manual_trade", symbol="BTCUSDT", side="BUY", quantity="0.01")
        two.settle()
        events: list[UserEvent] = []
        while len(events) < 3:
            (event,) = two.call(_read(stream, 1))
            if isinstance(event, OrderEvent):
                assert event.client_order_id.startswith("A_")
            else:
                events.append(event)
        first, second, third = events
        assert isinstance(first, Resync)
        assert isinstance(second, FillEvent)
        assert second.fill.client_order_id.startswith("A_")
        assert isinstance(third, Resync)
        assert stream.connected
        two.call(stream.aclose())
        assert not stream.connected


async def _opened(two: Shared, agent: str):  # type: ignore[no-untyped-def]
    return two.agents[agent].stream_user_events()


async def _read(stream, count: int) -> list[UserEvent]:  # type: ignore[no-untyped-def]
    return [await asyncio.wait_for(anext(stream), 30) for _ in range(count)]


def test_two_agents_read_one_stream_of_candles_each_in_full(tmp_path: Path) -> None:
    market = flat_market(count=8)
    with (
        paper_server(market) as server,
        shared(server, tmp_path / "a.db", settings_of(AGENTS, SYMBOLS)) as two,
    ):
        (last,) = two.call(two.agents["A"].candles("BTCUSDT", market.interval_ms, limit=1))

        async def subscribe(agent: str):  # type: ignore[no-untyped-def]
            return two.agents[agent].stream_candles(SYMBOLS, market.interval_ms, after_ms=last.open_time_ms)

        first = two.call(subscribe("A"))
        two.advance(2)
        second = two.call(subscribe("B"))  # comes later, and gets what it missed from the history
        two.advance()
        expected = [last.open_time_ms + market.interval_ms * n for n in (1, 2, 3)]
        for stream in (first, second):
            candles = two.call(_read(stream, 3))
            assert [one.open_time_ms for one in candles] == expected
        shared_streams = [one for one in two.exchange._open_streams if isinstance(one, CandleStream)]
        assert len(shared_streams) == 1


def test_the_positions_are_compared_beside_the_agents(tmp_path: Path) -> None:
    with (
        paper_server(flat_market()) as server,
        shared(server, tmp_path / "a.db", settings_of(AGENTS, SYMBOLS)) as two,
    ):
        two.trade("A", "0.01")
        two.trade("B", "-0.02")
        report = two.call(two.account.positions.once())
        assert report.holds
        assert two.account.positions.invariant_holds
