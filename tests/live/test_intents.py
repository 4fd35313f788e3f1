"""A process is killed between a decision's order and its triggers: the next one sets those that the decision named."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from live_support import Rig, flat_market, rig

from envs.decisions import Decided, decision_action
from envs.errors import StepLogError
from envs.settings import EnvConfig
from live.exchange.base import TriggerOrder, TriggerReport
from live.exchange.binance import BinanceExchange
from live.intent import Intent, IntentFile
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.runtime import PaperServer
from live.resume import Resume

D = Decimal
DECIDES = EnvConfig.parse({"window_size": 1, "max_leverage": 10.0, "action": {"scheme": "decision"}})
WITH_A_STOP = EnvConfig.parse(
    {
        "window_size": 1,
        "max_leverage": 10.0,
        "action": {"scheme": "decision", "stop_loss_fraction": 0.1, "take_profit_fraction": 0.3},
    }
)
NAMED = Decided(0.1, stop_price=48_000.04, take_profit_price=53_000.0)


class Killed(BaseException):
    """The process is gone."""


class Dying(BinanceExchange):
    """Its process is killed before it can set a trigger."""

    async def place_trigger(self, trigger: TriggerOrder) -> TriggerReport:
        raise Killed


def paper() -> PaperServer:
    return PaperServer.start(ReplayFeed(flat_market(), 1), (PaperAccount(wallet_usdt=D(10_000)),))


def decide(found: Rig, decided: Decided | None = None) -> None:
    plan = found.stack.plan(decision_action(("BTCUSDT",), {} if decided is None else {"BTCUSDT": decided}))
    found.stack.execute(plan)


def resting(found: Rig) -> dict[str, tuple[Decimal, Decimal]]:
    """Price and quantity by the order's last letter."""
    rows = found.bridge.call(found.exchange.open_orders("BTCUSDT"))
    return {row.client_order_id[-1]: (row.price, row.quantity) for row in rows}


@pytest.mark.parametrize(
    "config", [DECIDES, WITH_A_STOP], ids=["no stop of the scheme", "another of the scheme"]
)
def test_the_decisions_own_triggers_are_set_after_a_kill(config: EnvConfig, tmp_path: Path) -> None:
    file = IntentFile(tmp_path, "paper")
    server = paper()
    try:
        with rig(
            flat_market(), config=config, server=server, exchange_type=Dying, on_intents=file.save
        ) as first:
            first.stack.reset()
            with pytest.raises(Killed):
                decide(first, NAMED)
            assert first.held() == D("0.1") and not resting(first)
        resume = Resume(intents=file.load())
        with rig(flat_market(), config=config, server=server, resume=resume, on_intents=file.save) as second:
            second.stack.reset()
            # Whatever is decided now, this candle's order is done already.
            decide(second)
            # To the tick that is nearer to the price.
            assert resting(second) == {"s": (D("48000.1"), D("0.1")), "t": (D("53000.0"), D("0.1"))}
            assert second.held() == D("0.1")
    finally:
        server.stop()


def test_a_killed_enlargement_moves_the_stop_that_rests(tmp_path: Path) -> None:
    file = IntentFile(tmp_path, "paper")
    server = paper()
    try:
        with rig(flat_market(), config=DECIDES, server=server, on_intents=file.save) as first:
            first.stack.reset()
            decide(first, Decided(0.1, stop_price=45_000.0, take_profit_price=60_000.0))
            assert resting(first) == {"s": (D(45_000), D("0.1")), "t": (D(60_000), D("0.1"))}
            first.stack.advance()
            first.exchange.place_trigger = Dying.place_trigger.__get__(first.exchange)  # type: ignore[method-assign]
            with pytest.raises(Killed):
                decide(first, Decided(0.2, stop_price=49_000.0))
        with rig(flat_market(), config=DECIDES, server=server, resume=Resume(intents=file.load())) as second:
            second.stack.reset()
            decide(second)
            # The decision named no take-profit: the one that rests stays, over the whole position.
            assert resting(second) == {"s": (D(49_000), D("0.2")), "t": (D(60_000), D("0.2"))}
    finally:
        server.stop()


def test_an_intent_whose_order_never_was_means_nothing(tmp_path: Path) -> None:
    server = paper()
    try:
        with rig(flat_market(), config=DECIDES, server=server) as first:
            first.stack.reset()
            decide(first, Decided(0.1))
        never = Intent(first.env.time_ms + 3_600_000, True, D("0.2"), D(49_000), None)
        other_side = Intent(first.env.time_ms, True, D("-0.2"), D(51_000), None)
        for intent in (never, other_side):
            with rig(
                flat_market(), config=DECIDES, server=server, resume=Resume(intents={"BTCUSDT": intent})
            ) as second:
                second.stack.reset()
                decide(second)
                assert resting(second) == {} and second.held() == D("0.1")
    finally:
        server.stop()


def test_the_file_says_what_was_written_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    file = IntentFile(tmp_path, "paper")
    assert file.load() == {}
    intents = {
        "BTCUSDT": Intent(1_699_999_999_999, True, D("-0.10"), D("51000.50"), None),
        "ETHUSDT": Intent(1_699_999_999_999, False, D(3), None, D("2500")),
    }
    file.save(intents)
    assert IntentFile(tmp_path, "paper").load() == intents
    assert IntentFile(tmp_path, "another").load() == {}
    file.path.write_text('{"BTCUSDT": {"close_ms": 1}}')
    with pytest.raises(StepLogError, match=r"intents_paper.json is damaged.*delete it"):
        file.load()
