"""What a prompt holds: nothing of the future, and all that there is to know. And what a verdict names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llm_scripted import SYMBOLS, calm_market, made, trader, user
from llm_servers import HOLD, llm_file, opening
from support import instrument

from agents.llm.agent import LlmAgent
from agents.llm.config import LlmConfig
from agents.run import run
from agents.simulate import build_env, simulate
from envs.candles import CandleSet
from envs.decisions import Decided, decision_action
from envs.features import market_features
from envs.futures_env import FuturesEnv
from envs.market import Market, build_market
from envs.risk_state import fresh_state
from envs.synthetic import synthetic_market
from envs.wrappers import RiskControl, StepLog

# --- the future -------------------------------------------------------------------------------------------


def other_future(market: Market, row: int) -> Market:
    def changed(candles: CandleSet) -> CandleSet:
        after = np.arange(len(candles)) > row
        factor = np.where(after, 1.5, 1.0)
        return replace(
            candles,
            open=candles.open * factor,
            high=candles.high * factor,
            low=candles.low * factor,
            close=candles.close * factor,
            volume=candles.volume * np.where(after, 3.0, 1.0),
        )

    funding = {one.symbol: replace(one, rate=np.where(one.time_ms > market.close_time_ms[row], -3.0, 1.0) * one.rate)
               for one in market.funding if one is not None}  # fmt: skip
    return build_market([changed(candles) for candles in market.candles], funding=funding)


@pytest.mark.parametrize("blind", [False, True])
def test_a_prompt_holds_nothing_later_than_its_candle(blind: bool, tmp_path: Path) -> None:
    market = synthetic_market(SYMBOLS, n=60, seed=4)
    row = 30
    prompts = []
    for one in (market, other_future(market, row)):
        indicators = {"indicators": [{"name": "rsi", "period": 3}, {"name": "funding_rate"}]}
        setup, provider, _ = made(tmp_path, trader, blind={"enabled": blind}, features=indicators)
        env = build_env(setup, one)
        simulate(setup, env)
        prompts.append([(request.system, user(request)) for request in provider.asked])
        known = row - env.first_index + 1
    assert known > 20
    assert prompts[0][:known] == prompts[1][:known]
    # The next one sees the change: the test would notice a leak.
    assert prompts[0][known] != prompts[1][known]


# --- verdicts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "leverage", "limits", "verdict", "check"),
    [
        (5.0004, 3, {}, "accepted", ""),  # what is held, but for the quantity step
        (40, 3, {"max_leverage": None}, "reduced", "leverage"),
        (8, 0.7, {}, "reduced", "leverage"),  # the decision's own
        (9, 3, {"max_leverage": 0.8}, "reduced", "max_leverage"),
        (9, 1e-6, {"max_leverage": None}, "reduced", "leverage"),  # nothing of it is left: closed
        (7, 3, {"max_order_notional_usdt": 100}, "reduced", "max_order_notional"),
        (7, 3, {"allowed_symbols": ["ETHUSDT"]}, "rejected", "symbol_allowed"),
    ],
)
def test_a_verdict_names_the_limit(
    quantity: float, leverage: float, limits: Any, verdict: str, check: str, tmp_path: Path
) -> None:
    """5 BTC of 100 are held, of 1000 USDT; then the decision."""
    setup, _, sink = made(
        tmp_path, lambda _k, _r: opening(quantity=quantity, leverage=leverage), risk=limits,
        features={"indicators": [{"name": "high_low_range"}]}, prompt={"candles": 2},
    )  # fmt: skip
    market = calm_market(*[100.0] * 6)
    env = FuturesEnv(
        market,
        features=market_features(market, setup.features),
        config=setup.env,
        instruments={symbol: instrument(symbol, taker_fee="0") for symbol in SYMBOLS},
    )
    observation, info = env.reset()
    env.step(decision_action(SYMBOLS, {"BTCUSDT": Decided(5.0)}))
    risk = RiskControl(env, setup.limits)
    # The position is there already: only what the wrapper remembers is made anew.
    risk._state = fresh_state(env.account().equity_usdt, env.account().time_ms)
    setup.agent.reset(env.spec_observation)
    plan = risk.plan(setup.agent.act(observation, {**info, "view": env.view}))
    assert isinstance(setup.agent, LlmAgent)
    setup.agent.on_execution(plan, risk.execute(plan))
    (record,) = sink.records
    assert (record.verdict.value, record.check) == (verdict, check), record.detail


# --- what is shown ----------------------------------------------------------------------------------------


def test_the_account_positions_and_outcomes_are_shown(tmp_path: Path) -> None:
    script = [
        opening("BTCUSDT", quantity=10, leverage=3, stop_loss=90, take_profit=150, strategy="dip"),
        HOLD,
        HOLD,
        opening("ETHUSDT", quantity=0.1, leverage=1),
        opening("ETHUSDT", quantity=500, leverage=3),
        HOLD,
    ]
    setup, provider, sink = made(
        tmp_path,
        lambda k, _request: script[min(k, len(script) - 1)],
        features={"indicators": [{"name": "high_low_range"}]},
        prompt={"candles": 2},
    )
    market = calm_market(100, 110, 105, 80, 80, 80, 80, 80)
    env = FuturesEnv(
        market,
        features=market_features(market, setup.features),
        config=setup.env,
        instruments={symbol: instrument(symbol, taker_fee="0") for symbol in SYMBOLS},
        agent=setup.agent.name,
    )
    run(StepLog(RiskControl(env, setup.limits), agent="llm-t", keep_records=True), setup.agent)
    texts = [user(request) for request in provider.asked]
    assert "None." in texts[0] and "None yet." in texts[0]
    # Bought 10 at the next open of 110; marked at 110, then at 105.
    assert "BTCUSDT LONG 10, entry 110, price 110, PnL +0.00 USDT (+0.00%)" in texts[1]
    assert "BTCUSDT LONG 10, entry 110, price 105, PnL -50.00 USDT (-4.55%)" in texts[2]
    assert "stop 90 (-14.29%), take-profit 150 (+42.86%), liquidation 10.2 (-90.29%)" in texts[2]
    assert "Equity 950.00 USDT" in texts[2]
    past = [json.loads(line) for line in texts[3].splitlines() if line.startswith("{")]
    # The gap to 80 filled the stop at the open.
    assert past[0]["fills"] == ["filled 10 at 110", "stop_loss -10 at 80"]
    assert past[0]["outcome"] == "accepted" and past[0]["strategy"] == "dip"
    assert [one.verdict.value for one in sink.records[:5]] == [
        "accepted", "accepted", "accepted", "rejected", "reduced",
    ]  # fmt: skip
    assert [one.check for one in sink.records[3:5]] == ["min_notional", "max_leverage"]


def test_the_liquidation_price_is_where_the_simulation_liquidates(tmp_path: Path) -> None:
    """Long and short alone, by the bracket's rate of 1 %: checked against the account's own arithmetic."""
    from decimal import Decimal

    from agents.llm.scene import liquidation_price

    for side in ("BUY", "SELL"):
        setup, _, _ = made(
            tmp_path,
            lambda _k, _r, side=side: opening(quantity=25, leverage=3, side=side),
            risk={"max_leverage": 3},
        )
        market = calm_market(*[100.0] * 8)
        env = FuturesEnv(
            market,
            features=market_features(market, setup.features),
            config=setup.env,
            instruments={symbol: instrument(symbol, taker_fee="0", tick="0.000001") for symbol in SYMBOLS},
        )
        run(RiskControl(env, setup.limits), setup.agent, max_steps=1)
        account = env.account()
        price = liquidation_price(account.positions["BTCUSDT"], account, env.instruments[0])
        assert price is not None
        quantity = account.positions["BTCUSDT"].quantity
        equity = account.equity_usdt + quantity * (price - 100)
        assert equity == pytest.approx(abs(quantity) * price * Decimal("0.01"), rel=Decimal("1e-6"))


def test_over_budget_holds_without_asking(tmp_path: Path) -> None:
    setup, provider, sink = made(tmp_path, lambda _k, _r: {"action": "HOLD"}, interval="5m",
                                 budget={"decisions_per_hour": 3})  # fmt: skip
    market = synthetic_market(SYMBOLS, interval="5m", n=40, seed=1)
    simulate(setup, build_env(setup, market))
    verdicts = [one.verdict.value for one in sink.records]
    assert verdicts[:15] == ["accepted"] * 3 + ["over_budget"] * 9 + ["accepted"] * 3
    assert len(provider.asked) == verdicts.count("accepted")
    assert sink.records[3].check == "decisions_per_hour"


def test_a_template_and_a_personality_of_ones_own(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "system.md").write_text("Be $personality. $limits")
    (folder / "user.md").write_text("$time $$ $market")
    (folder / "repair.md").write_text("No: $problem")
    (tmp_path / "bold.txt").write_text("bold\n")
    prompt = {"template": str(folder), "personality": str(tmp_path / "bold.txt")}
    setup, provider, _ = made(tmp_path, lambda _k, _request: HOLD, prompt=prompt)
    market = synthetic_market(SYMBOLS, n=8, seed=1)
    simulate(setup, build_env(setup, market))
    assert provider.asked[0].system.startswith("Be bold. - All positions together: at most 2 times equity.")
    assert " $ ## BTCUSDT" in user(provider.asked[0])
    (folder / "user.md").write_text("$tim")
    setup, _, _ = made(tmp_path, lambda _k, _request: HOLD, prompt=prompt)
    with pytest.raises(Exception, match="placeholder 'tim' is unknown"):
        simulate(setup, build_env(setup, market))


def test_reading_a_setting_is_reading_its_file(tmp_path: Path) -> None:
    config = LlmConfig.read(llm_file(tmp_path, prompt={"text_chars": 0}))
    assert config.prompt.text_chars == 0
    setup, provider, _ = made(
        tmp_path,
        lambda k, _r: opening(quantity=0.01, leverage=1, reasoning="secret plan"),
        prompt={"text_chars": 0},
    )
    assert isinstance(setup.agent, LlmAgent)
    simulate(setup, build_env(setup, synthetic_market(SYMBOLS, n=8, seed=1)))
    assert "secret" not in user(provider.asked[-1])
