"""When the account is read before the order, and when what was told of it suffices."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal

import pytest
from live_support import Rig, env_config, rig, step
from support import market_of

from envs.account import ActionType
from envs.risk import RiskLimits

CALM = [(50_000.0, 50_100.0, 49_900.0, 50_000.0)] * 12
ACCOUNT = "GET /fapi/v3/account"


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    give_up_s = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.005)


def reads_before_the_order(one: Rig, action: float) -> int:
    """Play a candle, then have a step's order sent; how often the account was read in between."""
    assert one.proxy is not None
    one.proxy.seen.clear()
    one.stack.advance()
    one.stack.execute(one.stack.plan([action]))
    seen = one.proxy.seen
    order = next(index for index, name in enumerate(seen) if name == "POST /fapi/v1/order")
    return seen[:order].count(ACCOUNT)


def test_an_untouched_account_is_not_read_before_the_order_but_after_it() -> None:
    with rig(market_of(CALM), with_proxy=True) as one:
        one.stack.reset()
        one.stack.execute(one.stack.plan([0.1]))
        for action in (0.2, 0.1, -0.1, 0.3):
            assert reads_before_the_order(one, action) == 0
            assert one.proxy is not None and one.proxy.seen.count(ACCOUNT) == 1
            assert one.held() == Decimal(str(action))


def happens(**fault: str) -> Callable[[Rig], None]:
    return lambda one: one.happen(**fault)


@pytest.mark.parametrize(
    "event",
    [
        happens(kind="manual_trade", symbol="BTCUSDT", side="SELL", quantity="0.05"),
        happens(kind="transfer", amount_usdt="25"),
        happens(kind="close_sockets", category="private"),
        happens(kind="drop_sockets", category="private"),
        happens(kind="expire_listen_keys"),
    ],
    ids=["manual trade", "transfer", "stream closed", "stream dropped", "listen key expired"],
)
def test_what_the_stream_tells_or_cannot_tell_makes_the_account_be_read(event: Callable[[Rig], None]) -> None:
    with rig(market_of(CALM), with_proxy=True) as one:
        one.stack.reset()
        one.stack.execute(one.stack.plan([0.1]))
        assert reads_before_the_order(one, 0.2) == 0
        event(one)
        until(lambda: not one.env.is_unchanged())
        assert reads_before_the_order(one, 0.4) == 1
        assert one.held() == Decimal("0.4"), (
            "the order was made for what the account holds, not for what it held"
        )
        assert one.env.account().wallet_usdt == one.account.wallet_usdt


def test_a_stop_that_the_candle_reached_makes_the_account_be_read() -> None:
    dip = (50_000.0, 50_100.0, 48_500.0, 50_000.0)
    config = env_config(action={"scheme": "quantity", "stop_loss_fraction": 0.02})
    with rig(market_of([*CALM[:3], dip, *CALM]), config=config, with_proxy=True) as one:
        one.stack.reset()
        step(one, 0.1)
        step(one, 0.1)
        one.stack.execute(one.stack.plan([0.1]))
        assert reads_before_the_order(one, 0.2) == 1
        kinds = [record.action_type for record in one.stack.records]
        assert kinds[-2:] == [ActionType.STOP_LOSS, ActionType.OPEN_LONG]


def test_a_gap_beyond_the_stop_counts_as_reaching_it() -> None:
    after = (48_000.0, 48_100.0, 47_900.0, 48_000.0)
    config = env_config(action={"scheme": "quantity", "stop_loss_fraction": 0.02})
    with rig(market_of([*CALM[:2], *[after] * 4]), config=config, with_proxy=True) as one:
        one.stack.reset()
        one.stack.execute(one.stack.plan([0.1]))
        one.stack.advance()
        one.stack.execute(one.stack.plan([0.1]))
        assert reads_before_the_order(one, 0.2) == 1


def test_near_liquidation_the_account_is_read() -> None:
    # 1.9 BTC at 50,000 with 10,000 USDT: at 45,000 equity is 500, the maintenance margin 342.
    fall = (50_000.0, 50_000.0, 45_000.0, 45_500.0)
    with rig(
        market_of([*CALM[:2], fall, *[(45_500.0,) * 4] * 3]), with_proxy=True, limits=RiskLimits()
    ) as one:
        one.stack.reset()
        one.stack.execute(one.stack.plan([1.9]))
        one.stack.advance()
        one.stack.execute(one.stack.plan([1.9]))
        assert reads_before_the_order(one, 0.5) == 1


def test_funding_at_the_boundary_is_asked_for_after_the_order() -> None:
    # Held 0.1 at 50,000 over a settlement of 0.1 %: 5 USDT, in the row of the step whose orders follow it.
    market = market_of(CALM[:7], funding={"BTCUSDT": [(180, 0.001)]})
    with rig(market, with_proxy=True) as one:
        one.stack.reset()
        step(one, 0.1)
        one.stack.execute(one.stack.plan([0.1]))
        assert one.proxy is not None
        reads = reads_before_the_order(one, 0.2)
        assert reads == 0
        assert one.proxy.seen.index("POST /fapi/v1/order") < one.proxy.seen.index("GET /fapi/v1/income")
        assert one.row()["funding"] == Decimal(-5)
