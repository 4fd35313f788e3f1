"""Blind mode: what is hidden, and what comes back."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from llm_scripted import SYMBOLS, made, trader, user
from llm_servers import HOLD, opening

from agents.llm.blind import Blindfold
from agents.llm.decision import Decision
from agents.llm.request import Request
from agents.llm.scene import look
from agents.simulate import build_env, simulate
from envs.errors import ConfigError
from envs.synthetic import synthetic_market

CHEAP = ("ETHUSDT", "BNBUSDT", "XRPUSDT", "DOGEUSDT", "ADAUSDT", "AVAXUSDT")


def test_blind_the_same_decisions_lead_to_the_same_orders_and_nothing_shows_through(tmp_path: Path) -> None:
    market = synthetic_market(SYMBOLS, n=60, seed=5)
    rows, prompts, records = [], [], []
    for blind in (False, True):
        setup, provider, sink = made(tmp_path, trader, blind={"enabled": blind, "seed": 7})
        rows.append(simulate(setup, build_env(setup, market), keep_records=True).records)
        prompts.append([request.system + user(request) for request in provider.asked])
        records.append(sink.records)
    assert sum(1 for row in rows[0] if row.result == "filled") > 10
    for one, other in zip(*rows, strict=True):
        assert (one.symbol, one.action_type, one.quantity, one.fill_price) == (
            other.symbol, other.action_type, other.quantity, other.fill_price,
        )  # fmt: skip
    shown = "\n".join(prompts[1])
    year = prompts[0][0].split("Time: ")[1].split()[1][:4]
    for hidden in (*SYMBOLS, "BTC", "ETH", "itcoin", f" {year}-"):
        assert hidden not in shown
    # Prices of candles, positions, triggers and fills, quantities and volumes: what is long enough not to be there by
    # chance. Amounts of money, shares and indicators stay what they are, and have their own places.
    told = re.compile(r"(?<![\d.$])\d[\d.]*\d(?![\d%])")
    kept = re.compile(r"^Indicators:.*$|^Equity .*$|PnL \S+|\([^()]*%\)|[-+]?[\d.]+%", re.MULTILINE)
    real, hidden_ones = (
        {
            one
            for text in side
            for one in told.findall(kept.sub("", text))
            if len(one.strip("0.").replace(".", "")) > 4
        }
        for side in prompts
    )
    assert len(real) > 300
    assert not real & hidden_ones
    assert "not the real ones" in shown and "not the real ones" not in prompts[0][0]
    # Records are in real terms.
    assert {one.decision["symbol"] for one in records[1] if one.decision} <= set(SYMBOLS)
    assert {one.blind for one in records[1]} == {True}


@pytest.mark.parametrize("seed", range(4))
def test_blind_prices_and_quantities_come_back_exactly(seed: int, tmp_path: Path) -> None:
    market = synthetic_market(SYMBOLS, n=20, seed=seed)
    setup, _, _ = made(tmp_path, lambda _k, _request: HOLD)
    env = build_env(setup, market)
    observation, _ = env.reset()
    scene = look(env.view, env.spec_observation, observation, candles=4)
    fold = Blindfold(seed, scene)
    covered = {one.symbol: one for one in fold.cover(scene).symbols}
    for one in scene.symbols:
        disguise = fold.disguises[one.symbol]
        shown = covered[disguise.alias]
        assert 10 < shown.price < 1000
        for steps in (1, 7, 123_456):
            quantity = one.step_size * steps
            decision = Decision(
                action="OPEN_POSITION",
                symbol=disguise.alias,
                side="BUY",
                leverage=1.0,
                quantity=float(quantity / disguise.price_factor),
                stop_loss=float(shown.price),
            )
            back = fold.uncover(decision)
            assert back.symbol == one.symbol
            assert back.quantity == float(quantity)
            assert back.stop_loss == float(one.price)
        # Money stays what it is.
        assert shown.price * (one.step_size / disguise.price_factor) == one.price * Decimal(one.step_size)


_HELD = re.compile(
    r"^- (ASSET\d) (LONG|SHORT) ([\d.]+), .*, stop ([\d.]+) .*, take-profit ([\d.]+) ", re.MULTILINE
)


@pytest.mark.parametrize("seed", [16])
def test_blind_a_position_that_is_repeated_as_it_is_shown_stays_as_it_is(seed: int, tmp_path: Path) -> None:
    """What is shown has eight digits, fewer than a disguised quantity may have: it must not shrink step by step."""
    for pick in range(len(CHEAP)):

        def repeater(_k: int, request: Request, pick: int = pick) -> Any:
            held = _HELD.search(user(request))
            if held is not None:
                side = "BUY" if held[2] == "LONG" else "SELL"
                stop, take_profit = float(held[4]), float(held[5])
                return opening(
                    held[1],
                    side=side,
                    quantity=float(held[3]),
                    leverage=3,
                    stop_loss=stop,
                    take_profit=take_profit,
                )
            name = re.findall(r"^## (\S+)", user(request), re.MULTILINE)[pick]
            price = [float(one) for one in re.findall(r"^Price ([\d.]+)", user(request), re.MULTILINE)][pick]
            return opening(
                name, quantity=777.7 / price, leverage=2, stop_loss=price * 0.8, take_profit=price * 1.2
            )

        setup, _, sink = made(tmp_path, repeater, symbols=CHEAP, blind={"enabled": True, "seed": seed})
        market = synthetic_market(CHEAP, n=12, seed=seed)
        rows = simulate(setup, build_env(setup, market), keep_records=True).records
        assert [row.action_type for row in rows if row.result == "filled"] == ["open_long"]
        told = [
            (one.decision["quantity"], one.decision["stop_loss"], one.decision["take_profit"])
            for one in sink.records[1:]
            if one.decision is not None
        ]
        assert len(told) > 5
        assert len(set(told)) == 1


@pytest.mark.parametrize("side", ["BUY", "SELL"])
@pytest.mark.parametrize("field", ["quantity", "stop_loss", "take_profit"])
@pytest.mark.parametrize("value", [1e308, 5e-324])
def test_blind_no_number_becomes_infinite_or_nothing(
    field: str, value: float, side: str, tmp_path: Path
) -> None:
    """Mapped back, the largest and the smallest number would leave what a float can be."""
    setup, _, sink = made(
        tmp_path,
        lambda k, _r: opening(f"ASSET{k % 2 + 1}", **{"side": side, field: value}) if k < 2 else HOLD,
        symbols=("BTCUSDT", "DOGEUSDT"),
        blind={"enabled": True, "seed": 0},
    )
    simulate(setup, build_env(setup, synthetic_market(("BTCUSDT", "DOGEUSDT"), n=8, seed=1)))
    for one in sink.records[:2]:
        assert one.decision is not None
        assert 0 < one.decision[field] < float("inf")
        one.to_json()


def test_blind_an_indicator_that_tells_the_price_is_refused(tmp_path: Path) -> None:
    levels = {"indicators": [{"name": "rsi", "period": 3}, {"name": "pandas_ta", "kind": "sma"}]}
    made(tmp_path, lambda _k, _r: HOLD, features=levels)
    with pytest.raises(ConfigError, match="the indicator SMA_10 tells the level"):
        made(tmp_path, lambda _k, _r: HOLD, features=levels, blind={"enabled": True})
