"""Stops and take-profits of agents that share an account."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest
from subaccount_support import paper_server, settings_of, shared
from support import market_of

from envs.account import Leg
from envs.errors import OrderRejectedError
from live.exchange.base import TriggerReport
from live.exchange.client_ids import parse_client_order_id
from live.ledger.queries import round_trips

D = Decimal
SYMBOLS = ("BTCUSDT",)
AGENTS = {"A": "1000", "B": "1000"}


def resting(account, agent: str) -> set[str]:  # type: ignore[no-untyped-def]
    return {one.client_order_id for one in account.call(account.agents[agent].open_orders("BTCUSDT"))}


def test_a_stop_closes_its_agent_though_the_net_is_on_the_other_side(tmp_path: Path) -> None:
    market = market_of(
        [
            (10000, 10000, 10000, 10000),
            (10000, 10000, 9400, 9600),
            (9600, 9700, 9500, 9600),
            (9600, 9600, 9600, 9600),
        ]
    )
    with (
        paper_server(market) as server,
        shared(server, tmp_path / "a.db", settings_of(AGENTS, SYMBOLS)) as two,
    ):
        two.trade("A", "0.02")
        two.trade("B", "-0.05")
        stop = two.rest("A", "SELL", Leg.STOP, "9500", "0.02")
        take = two.rest("A", "SELL", Leg.TAKE_PROFIT, "12000", "0.02")
        other = two.rest("B", "BUY", Leg.STOP, "13000", "0.05")
        assert resting(two, "A") == {stop, take}
        assert all(not one.reduce_only for one in two.call(two.agents["A"].open_orders()))
        two.advance()
        assert (two.held("A"), two.held("B"), two.net()) == (0, D("-0.05"), D("-0.05"))
        # The take-profit went with its stop; the other agent's stop stayed.
        assert (resting(two, "A"), resting(two, "B")) == (set(), {other})
        (trip,) = round_trips(two.ledger.store, is_open=False)
        assert (trip.agent, trip.exit_reason, trip.realized) == ("A", "SL_HIT", -10)
        two.check()


def test_a_trigger_that_is_gone_already_is_not_cancelled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def cancel(symbol: str, name: str) -> TriggerReport | None:
        asked.append(name)
        return await really(symbol, name)

    async def both(name: str) -> list[TriggerReport | None]:
        desk = two.account.desk
        return await asyncio.gather(*(desk.cancel_trigger("A", "BTCUSDT", name) for _ in range(2)))

    with (
        paper_server(market_of([(10000, 10000, 10000, 10000)] * 3)) as server,
        shared(server, tmp_path / "a.db", settings_of(AGENTS, SYMBOLS)) as two,
    ):
        really = two.exchange.cancel_trigger
        monkeypatch.setattr(two.exchange, "cancel_trigger", cancel)
        two.trade("A", "0.02")
        stop = two.rest("A", "SELL", Leg.STOP, "9500", "0.02")
        take = two.rest("A", "SELL", Leg.TAKE_PROFIT, "12000", "0.02")
        two.trade("A", "-0.02", reduce_only=True)
        two.settle()  # the account has cancelled both, since they would open a short
        assert sorted(asked) == sorted((stop, take))
        report = two.call(two.agents["A"].cancel_trigger("BTCUSDT", take))
        assert (report.client_order_id, report.status) == (take, "CANCELED")
        assert len(asked) == 2
        two.trade("A", "0.02")
        stop = two.rest("A", "SELL", Leg.STOP, "9500", "0.02")
        assert [one.status for one in two.call(both(stop))] == ["CANCELED", "CANCELED"]
        assert asked[2:] == [stop]
        assert two.books.open_algo_orders == {}


def test_the_excess_of_two_that_fill_is_closed_at_once(tmp_path: Path) -> None:
    market = market_of(
        [
            (10000, 10000, 10000, 10000),
            (10000, 10000, 9400, 9400),
            (9400, 9500, 9400, 9400),
            (9400, 9400, 9400, 9400),
        ]
    )
    with (
        paper_server(market) as server,
        shared(server, tmp_path / "a.db", settings_of(AGENTS, SYMBOLS)) as two,
    ):
        two.trade("A", "0.02")
        two.trade("B", "-0.05")
        two.rest("A", "SELL", Leg.STOP, "9700", "0.02")
        two.rest("A", "SELL", Leg.PROTECTIVE_STOP, "9500", "0.02")  # both lie inside the candle
        two.advance()
        assert (two.held("A"), two.held("B")) == (0, D("-0.05"))
        fills = two.call(two.agents["A"].fills("BTCUSDT"))
        parsed = [parse_client_order_id(one.client_order_id) for one in fills]
        assert [one.leg for one in parsed if one] == [
            Leg.ORDER,
            Leg.STOP,
            Leg.PROTECTIVE_STOP,
            Leg.EMERGENCY,
        ]
        assert [one.signed_quantity for one in fills] == [D("0.02"), D("-0.02"), D("-0.02"), D("0.02")]
        two.check()


def test_an_excess_from_before_a_restart_is_closed_at_the_start(database: str) -> None:
    market = market_of(
        [
            (10000, 10000, 10000, 10000),
            (10000, 10000, 9400, 9400),
            (9400, 9500, 9400, 9400),
            (9400, 9400, 9400, 9400),
        ]
    )
    settings = settings_of(AGENTS, SYMBOLS)
    with paper_server(market) as server:
        with shared(server, database, settings) as two:
            two.trade("A", "0.02")
            two.rest("A", "SELL", Leg.STOP, "9700", "0.02")
            two.rest("A", "SELL", Leg.PROTECTIVE_STOP, "9500", "0.02")
        server.advance()
        with shared(server, database, settings) as two:
            two.settle()
            assert two.net() == two.held("A") == 0
            two.check()


def test_a_trigger_never_rests_over_more_than_its_agent_holds(tmp_path: Path) -> None:
    market = market_of([(10000, 10000, 10000, 10000)] * 3)
    with (
        paper_server(market) as server,
        shared(server, tmp_path / "a.db", settings_of(AGENTS, SYMBOLS)) as two,
    ):
        two.trade("A", "0.02")
        two.trade("B", "0.02")
        two.rest("A", "SELL", Leg.STOP, "9700", "0.04")
        (order,) = two.call(two.agents["A"].open_orders("BTCUSDT"))
        assert order.quantity == D("0.02")
        two.call(two.agents["B"].cancel_all("BTCUSDT"))
        assert len(resting(two, "A")) == 1
        assert two.call(two.agents["B"].cancel_trigger("BTCUSDT", order.client_order_id)) is None
        assert len(resting(two, "A")) == 1
        two.call(two.agents["A"].cancel_all("BTCUSDT"))
        assert resting(two, "A") == set()


def test_the_only_trader_of_a_symbol_rests_reduce_only_stops(tmp_path: Path) -> None:
    market = market_of([(10000, 10000, 10000, 10000)] * 3)
    agents = {
        "A": {"capital_usdt": 1000, "symbols": ["BTCUSDT"]},
        "B": {"capital_usdt": 1000, "symbols": []},
    }
    settings = settings_of({}, SYMBOLS, agents=agents)
    with paper_server(market) as server, shared(server, tmp_path / "a.db", settings) as two:
        two.trade("A", "0.02")
        two.rest("A", "SELL", Leg.STOP, "9700", "0.02")
        (order,) = two.call(two.agents["A"].open_orders("BTCUSDT"))
        assert order.reduce_only


def test_a_close_that_comes_after_the_stop_opens_nothing(tmp_path: Path) -> None:
    market = market_of([(10000, 10000, 10000, 10000), (10000, 10000, 9400, 9400), (9400, 9400, 9400, 9400)])
    with (
        paper_server(market) as server,
        shared(server, tmp_path / "a.db", settings_of({"A": "1000"}, SYMBOLS)) as one,
    ):
        one.trade("A", "0.02")
        one.rest("A", "SELL", Leg.STOP, "9500", "0.02")
        one.happen(kind="stream_lose", stream="user", count=50)  # nobody hears of the stop
        one.call(one.lock_step.request_candle())
        assert one.net() == 0
        assert one.held("A") == D("0.02")
        with pytest.raises(OrderRejectedError) as refused:
            one.trade("A", "-0.02", reduce_only=True)
        assert refused.value.code == -2022
        assert one.net() == one.held("A") == 0
        one.check()


def test_a_close_that_the_exchange_refuses_as_reduce_only_is_sent_again(tmp_path: Path) -> None:
    with (
        paper_server(market_of([(10000, 10000, 10000, 10000)] * 3)) as server,
        shared(server, tmp_path / "a.db", settings_of(AGENTS, SYMBOLS)) as two,
    ):
        two.trade("A", "0.02")
        two.trade("B", "0.03")
        two.happen(kind="reject_reduce_only", method="POST", path="/fapi/v1/order")
        assert two.trade("A", "-0.02", reduce_only=True).executed_quantity == D("0.02")
        assert (two.held("A"), two.held("B"), two.net()) == (0, D("0.03"), D("0.03"))
        two.check()


def test_an_excess_that_nobody_heard_of_is_closed_once_it_is_read(tmp_path: Path) -> None:
    market = market_of([(10000, 10000, 10000, 10000), (10000, 10000, 9400, 9400), (9400, 9400, 9400, 9400)])
    with (
        paper_server(market) as server,
        shared(server, tmp_path / "a.db", settings_of(AGENTS, SYMBOLS)) as two,
    ):
        two.trade("A", "0.02")
        two.trade("B", "-0.05")
        two.rest("A", "SELL", Leg.STOP, "9500", "0.02")
        two.happen(kind="stream_lose", stream="user", count=50)
        two.call(two.lock_step.request_candle())
        two.trade("A", "-0.02", reduce_only=True)  # plain at the exchange, and the stop has filled already
        assert two.net() == D("-0.07")
        two.settle()
        assert (two.held("A"), two.held("B"), two.net()) == (0, D("-0.05"), D("-0.05"))
        two.check()
