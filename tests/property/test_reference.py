"""The compiled kernel against a second simulator in Decimal, on random actions over rough synthetic markets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from reference_account import RefCandle, ReferenceAccount, RefSettings
from support import counting_features

from envs.account import OrderStatus
from envs.candles import CandleSet
from envs.funding import FundingSeries
from envs.futures_env import FuturesEnv
from envs.instruments import get_instruments
from envs.market import Market, build_market
from envs.planning import to_decimal
from envs.settings import EnvConfig
from envs.synthetic import synthetic_candles

HOUR_MS = 3_600_000
REL = 1e-9


@dataclass(frozen=True)
class Case:
    """A market and settings to compare the two simulators on."""

    symbols: tuple[str, ...] = ("BTCUSDT",)
    interval: str = "1h"
    candles: int = 400
    volatility: float = 1.5
    marks: bool = False
    funding_scale: float = 1.0
    config: Any = None


def rough(candles: CandleSet, rng: np.random.Generator) -> CandleSet:
    """The candles with gaps between them: each is shifted by up to a few percent as a whole."""
    shift = np.exp(rng.normal(0.0, 0.01, len(candles)) * (rng.random(len(candles)) < 0.2))
    prices = {name: np.round(getattr(candles, name) * shift, 4) for name in ("open", "high", "low", "close")}
    return CandleSet(
        candles.symbol,
        candles.interval_ms,
        candles.open_time_ms,
        **prices,
        volume=candles.volume,
        source="test",
        synthetic=True,
    )


def fundings(candles: CandleSet, rng: np.random.Generator, scale: float) -> FundingSeries:
    """Rates of either sign every four hours, some at a candle's open and some inside, some 17 minutes off."""
    start, end = int(candles.open_time_ms[0]), int(candles.close_time_ms[-1])
    times = np.arange(start, end + 4 * HOUR_MS, 4 * HOUR_MS, dtype=np.int64)
    times += np.where(rng.random(len(times)) < 0.3, 17 * 60_000, 0)
    return FundingSeries(candles.symbol, times, rng.normal(0, 0.002 * scale, len(times)).round(8), "test")


def build(case: Case, seed: int) -> tuple[FuturesEnv, ReferenceAccount, np.random.Generator]:
    """Both simulators over one market."""
    rng = np.random.default_rng(seed)
    sets = [
        rough(
            synthetic_candles(
                s, interval=case.interval, n=case.candles, seed=seed, volatility_annual=case.volatility
            ),
            rng,
        )
        for s in case.symbols
    ]
    funding = {one.symbol: fundings(one, rng, case.funding_scale) for one in sets}
    marks = {}
    if case.marks:
        marks = {
            one.symbol: synthetic_candles(one.symbol, interval="1h", n=200, seed=seed + 1) for one in sets
        }
    market = build_market(sets, funding=funding, marks=marks)
    config = EnvConfig.parse({"window_size": 1, **(case.config or {})})
    env = FuturesEnv(market, features=counting_features(market), config=config)
    return env, reference(env, market, funding, marks), rng


def reference(
    env: FuturesEnv,
    market: Market,
    funding: dict[str, FundingSeries],
    marks: dict[str, CandleSet],
) -> ReferenceAccount:
    """The second simulator with the environment's settings, fed from the raw candles and fundings."""
    config, action = env.config, env.config.action
    rules = get_instruments(market.symbols)
    settings = RefSettings(
        capital=to_decimal(config.initial_capital_usdt),
        max_leverage=to_decimal(config.max_leverage),
        leverage=tuple(config.leverage_setting(one) for one in rules),
        slippage=to_decimal(config.slippage_bps) / 10_000,
        scheme=action.scheme,
        band=to_decimal(getattr(action, "rebalance_band", 0.0)),
        threshold=to_decimal(getattr(action, "hold_threshold", 0.0)),
        fraction=to_decimal(getattr(action, "signal_fraction", 0.0)),
        flip=getattr(action, "flip", True),
        stop=to_decimal(action.stop_loss_fraction),
        take_profit=to_decimal(action.take_profit_fraction),
        terminate_drawdown=None
        if config.terminate_drawdown_fraction is None
        else to_decimal(config.terminate_drawdown_fraction),
    )
    candles = [
        [
            RefCandle(
                int(one.open_time_ms[t]),
                *(to_decimal(getattr(one, n)[t]) for n in ("open", "high", "low", "close")),
            )
            for one in market.candles
        ]
        for t in range(len(market))
    ]
    rates = [
        [
            (int(time), to_decimal(rate))
            for time, rate in zip(funding[s].time_ms, funding[s].rate, strict=True)
        ]
        for s in market.symbols
    ]
    prices = [
        {
            int(time): to_decimal(price)
            for time, price in zip(marks[s].open_time_ms, marks[s].open, strict=True)
        }
        if s in marks
        else {}
        for s in market.symbols
    ]
    return ReferenceAccount(candles, rates, prices, rules, settings, market.interval_ms)


def near(actual: object, expected: object, scale: float = 1.0) -> bool:
    """Within 1e-9 of the expected value, or of `scale` where that is larger (differences of large numbers)."""
    return abs(float(actual) - float(expected)) <= REL * max(abs(float(expected)), scale)  # type: ignore[arg-type]


def compare(env: FuturesEnv, ref: ReferenceAccount, action: np.ndarray, capital: float) -> bool:
    """One step of both, held against each other. Whether the episode ended."""
    execution = env.execute(env.plan(action))
    _, _, terminated, truncated, info = env.advance()
    expected = ref.step(action.tolist())
    where = f"candle {ref.t}"

    got = [("order", fill) for r in execution.results for fill in r.fills]
    got = [("liquidation" if fill.liquidation else kind, fill) for kind, fill in got]
    got += [(event.action_type.value, event.fill) for event in info["events"]]
    # The kernel names one fill per symbol and phase; order within a candle is compared by symbol.
    key = lambda item: (item[0] != "order", item[1])  # noqa: E731
    actual_fills = sorted(((kind, env.symbols.index(fill.symbol), fill) for kind, fill in got), key=key)
    expected_fills = sorted(((f.kind, f.symbol, f) for f in expected.fills), key=key)
    assert [a[:2] for a in actual_fills] == [e[:2] for e in expected_fills], where
    for (_, _, fill), (_, _, ref_fill) in zip(actual_fills, expected_fills, strict=True):
        assert fill.signed_quantity == ref_fill.quantity, where
        assert near(fill.price, ref_fill.price), where
        assert near(fill.commission, ref_fill.fee, capital), where
        assert near(fill.realized_pnl, ref_fill.pnl, capital), where

    statuses = [r.status for r in execution.results]
    assert [i for i, s in enumerate(statuses) if s is OrderStatus.REJECTED] == sorted(expected.refused), where
    if not any(fill.liquidation for r in execution.results for fill in r.fills):
        assert [i for i, s in enumerate(statuses) if s is OrderStatus.SKIPPED] == expected.skipped, where
    funding = [execution.funding_usdt[s] + info["funding_usdt"][s] for s in env.symbols]
    for paid, ref_paid in zip(funding, expected.funding, strict=True):
        assert near(paid, ref_paid, capital), where

    totals = env.totals()
    for name, value in (
        ("wallet", ref.wallet),
        ("fees", ref.fees),
        ("funding", ref.funding_total),
        ("realized_pnl", ref.realized),
        ("insurance", ref.insurance),
        ("equity", ref.equity(ref.closes())),
        ("peak_equity", ref.peak),
    ):
        assert near(totals[name], value, capital), f"{where}: {name} {totals[name]} against {value}"
    assert near(totals["max_drawdown"], ref.max_drawdown), where
    for symbol, position in zip(env.symbols, ref.positions, strict=True):
        actual = env.account().positions[symbol]
        assert actual.quantity == position.quantity, where
        assert near(actual.entry_price, position.entry), where
        assert actual.candles_held == position.held, where
        assert actual.protection.stop_price == position.stop, where
        assert actual.protection.take_profit_price == position.take_profit, where
    assert terminated == expected.ended, where
    return terminated or truncated


CASES = {
    "target 1x": Case(config={"max_leverage": 1.0}),
    "target 5x, stops": Case(
        config={
            "max_leverage": 5.0,
            "slippage_bps": 7.0,
            "action": {"scheme": "target", "stop_loss_fraction": 0.01, "take_profit_fraction": 0.015},
        }
    ),
    "target 50x": Case(volatility=0.8, config={"max_leverage": 50.0, "exchange_leverage": 50}),
    "target 30x, wide stops": Case(
        config={"max_leverage": 30.0, "action": {"scheme": "target", "stop_loss_fraction": 0.03}}
    ),
    "large capital, brackets": Case(
        config={"max_leverage": 20.0, "exchange_leverage": 20, "initial_capital_usdt": 4e6}
    ),
    "small capital, minimum notional": Case(
        config={"initial_capital_usdt": 150.0, "action": {"scheme": "target", "rebalance_band": 0.0}}
    ),
    "signal, flips": Case(
        config={
            "max_leverage": 3.0,
            "action": {
                "scheme": "signal",
                "hold_threshold": 0.6,
                "signal_fraction": 2.0,
                "stop_loss_fraction": 0.02,
            },
        }
    ),
    "signal, closes": Case(
        config={"max_leverage": 3.0, "action": {"scheme": "signal", "hold_threshold": 0.3, "flip": False}}
    ),
    "12h candles": Case(
        interval="12h",
        candles=200,
        funding_scale=3.0,
        config={"max_leverage": 4.0, "action": {"scheme": "target", "stop_loss_fraction": 0.05}},
    ),
    "mark series": Case(
        interval="2h", candles=95, marks=True, funding_scale=5.0, config={"max_leverage": 3.0}
    ),
    "three symbols, 6x": Case(
        symbols=("BTCUSDT", "DOGEUSDT", "XRPUSDT"),
        config={
            "max_leverage": 6.0,
            "action": {"scheme": "target", "stop_loss_fraction": 0.02, "take_profit_fraction": 0.01},
        },
    ),
    "three symbols, signal": Case(
        symbols=("BTCUSDT", "ETHUSDT", "BNBUSDT"),
        config={
            "max_leverage": 2.0,
            "action": {"scheme": "signal", "hold_threshold": 0.5, "signal_fraction": 1.2},
        },
    ),
    "three symbols, 25x": Case(
        symbols=("ETHUSDT", "AVAXUSDT", "BNBUSDT"),
        volatility=0.9,
        funding_scale=4.0,
        config={
            "max_leverage": 25.0,
            "exchange_leverage": 25,
            "initial_capital_usdt": 200_000.0,
            "action": {"scheme": "target", "stop_loss_fraction": 0.015},
        },
    ),
    "three symbols, 12h, drawdown limit": Case(
        symbols=("BTCUSDT", "ETHUSDT", "ADAUSDT"),
        interval="12h",
        candles=200,
        config={"max_leverage": 5.0, "terminate_drawdown_fraction": 0.4},
    ),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_kernel_and_reference_agree(name: str, seed: int) -> None:
    env, ref, rng = build(CASES[name], seed)
    capital = env.config.initial_capital_usdt
    env.reset(options={"start_index": 0})
    action = np.zeros(len(env.symbols))
    while True:
        # Some symbols change their mind, some stay, some go flat, some all in.
        fresh = rng.uniform(-1, 1, len(action)).astype(np.float32).astype(np.float64)
        kind = rng.random(len(action))
        action = np.where(
            kind < 0.5, fresh, np.where(kind < 0.6, 0.0, np.where(kind < 0.7, np.sign(fresh), action))
        )
        if not compare(env, ref, action, capital):
            continue
        if ref.t >= env.last_index:
            break
        # Ended by liquidation: a new account goes on from here, so that the whole market is used.
        env.reset(options={"start_index": ref.t})
        ref.reset(ref.t)


def test_the_cases_reach_what_they_are_for() -> None:
    """Stops, take-profits, liquidations, margin refusals, skips and insurance all occur above."""
    seen: set[str] = set()
    for name in ("target 5x, stops", "target 50x", "small capital, minimum notional", "three symbols, 25x"):
        env, ref, rng = build(CASES[name], 0)
        while ref.t < env.last_index:
            out = ref.step(rng.uniform(-1, 1, len(env.symbols)).tolist())
            seen |= {fill.kind for fill in out.fills}
            seen |= {"refused"} if out.refused else set()
            seen |= {"skipped"} if out.skipped else set()
            seen |= {"insurance"} if ref.insurance else set()
            if out.ended:
                ref.reset(ref.t)
    assert seen >= {"order", "stop_loss", "take_profit", "liquidation", "refused", "skipped"}
