"""FuturesEnv as a Gymnasium environment: contract, spans, seeds, episodes, and what it refuses."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from support import START_MS, counting_features, env_of, flat_rows, instrument, market_of, phases

import envs  # noqa: F401  (registers perpgym/Futures-v0)
from envs.account import Leg, OrderStatus
from envs.errors import CandleError, ConfigError, InstrumentError, TrainingRunError
from envs.features import default_features, market_features
from envs.futures_env import FuturesEnv
from envs.scaler import fit_scaler, identity_scaler
from envs.settings import EnvConfig
from envs.synthetic import synthetic_market

HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def market() -> Any:
    return synthetic_market(("BTCUSDT", "ETHUSDT"), n=400, seed=5)


@pytest.mark.parametrize("scheme", ["target", "signal"])
def test_gymnasium_accepts_it(market: Any, scheme: str) -> None:
    env = FuturesEnv(market, config=EnvConfig.parse({"action": {"scheme": scheme}}), episode_candles=50)
    check_env(env, skip_render_check=True)


def test_gymnasium_accepts_quantities_too(market: Any) -> None:
    env = FuturesEnv(market, config=EnvConfig.parse({"action": {"scheme": "quantity"}}), episode_candles=50)
    with warnings.catch_warnings():
        # Quantities have no bounds, which the checker finds odd and says so.
        warnings.filterwarnings("ignore", message=".*(infinity|recommend using a symmetric).*")
        check_env(env, skip_render_check=True)


def test_stable_baselines_accepts_it(market: Any) -> None:
    checker = pytest.importorskip(
        "stable_baselines3.common.env_checker", reason="stable_baselines3 is not installed"
    )
    checker.check_env(FuturesEnv(market, episode_candles=50))


def test_it_is_registered() -> None:
    env = gym.make("perpgym/Futures-v0", episode_candles=3)
    assert isinstance(env.unwrapped, FuturesEnv)
    assert env.unwrapped.market.synthetic
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    ended = [env.step(env.action_space.sample())[3] for _ in range(3)]
    assert ended == [False, False, True]


def test_the_same_seed_gives_the_same_episode(market: Any) -> None:
    def episode(seed: int) -> tuple[Any, ...]:
        env = FuturesEnv(market, random_start=True, episode_candles=20)
        env.action_space.seed(seed)
        first, _ = env.reset(seed=seed)
        steps = [env.step(env.action_space.sample()) for _ in range(20)]
        return first.tobytes(), [(o.tobytes(), r, te, tr) for o, r, te, tr, _ in steps], env.candle_index

    assert episode(3) == episode(3)
    assert episode(3) != episode(4)


def test_resets_without_a_seed_go_on_along_the_generator(market: Any) -> None:
    env = FuturesEnv(market, random_start=True, episode_candles=1)
    env.reset(seed=0)
    starts = set()
    for _ in range(30):
        env.reset()
        starts.add(env.candle_index)
    assert len(starts) > 20
    assert min(starts) >= env.first_index and max(starts) < env.last_index


def test_an_episode_is_as_long_as_its_span() -> None:
    env = env_of(market_of(flat_rows(*[100] * 5)))
    env.reset()
    results = [env.step(np.zeros(1)) for _ in range(4)]
    assert [r[3] for r in results] == [False, False, False, True]
    assert [r[2] for r in results] == [False] * 4
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(1))
    with pytest.raises(gym.error.ResetNeeded):
        env.plan(np.zeros(1))


def test_phases_before_the_first_reset_are_refused() -> None:
    env = env_of(market_of(flat_rows(*[100] * 5)))
    for call in (
        lambda: env.plan(np.zeros(1)),
        lambda: env.step(np.zeros(1)),
        env.advance,
    ):
        with pytest.raises(gym.error.ResetNeeded):
            call()


def test_a_reset_in_the_middle_of_a_step_starts_clean() -> None:
    env = env_of(market_of(flat_rows(100, 100, 110, 110)))
    env.reset()
    env.execute(env.plan(np.array([1.0])))
    env.reset()
    assert env.account().is_flat and env.account().wallet_usdt == 1000
    _, reward, *_ = env.step(np.zeros(1))
    assert reward == 0.0


def test_advance_without_an_execution_holds() -> None:
    env = env_of(market_of(flat_rows(100, 100, 110, 121)), taker_fee_fraction=0.0)
    env.reset()
    phases(env, 1.0)
    _, reward, *_ = env.advance()
    assert reward == pytest.approx(np.log(1010 / 1000))


def test_terminates_at_its_own_drawdown_limit() -> None:
    env = env_of(
        market_of(flat_rows(100, 100, 95.1, 95, 95)), taker_fee_fraction=0.0, terminate_drawdown_fraction=0.05
    )
    env.reset()
    seen = [phases(env, 10.0)[1][2:4] for _ in range(3)]
    # Equity 1000, 951, 950: a drawdown of 5 % is reached at the third close.
    assert seen == [(False, False), (False, False), (True, False)]


def test_start_and_end_choose_the_span(market: Any) -> None:
    times = market.open_time_ms
    env = FuturesEnv(market, start=int(times[200]), end=int(times[210]))
    env.reset()
    assert (env.first_index, env.last_index) == (200, 209)
    assert env.candle_index == 200
    count = 0
    while not any(env.step(np.zeros(2))[2:4]):
        count += 1
    assert env.candle_index == 209


def test_the_first_decision_waits_for_features_and_window(market: Any) -> None:
    features = market_features(market, default_features())
    env = FuturesEnv(market, features=features, config=EnvConfig(window_size=7))
    assert env.first_index == features.warmup + 6
    observation, _ = env.reset()
    assert np.isfinite(observation).all()


def test_a_named_start(market: Any) -> None:
    env = FuturesEnv(market)
    env.reset(options={"start_index": 300})
    assert env.candle_index == 300
    for outside in (0, env.last_index, 10_000):
        with pytest.raises(ConfigError, match="start_index"):
            env.reset(options={"start_index": outside})


def test_times_are_closes() -> None:
    env = env_of(market_of(flat_rows(*[100] * 3)))
    env.reset()
    assert env.account().time_ms == START_MS + HOUR_MS - 1
    execution, _ = phases(env, 1.0)
    assert execution.account.time_ms == START_MS + HOUR_MS - 1
    assert execution.results[0].fills[0].time_ms == START_MS + HOUR_MS  # the open of the next candle
    assert env.account().time_ms == START_MS + 2 * HOUR_MS - 1


def test_fills_name_agent_symbol_and_candle() -> None:
    env = env_of(market_of(flat_rows(*[100] * 4)), agent="ema")
    env.reset()
    first, _ = phases(env, 1.0)
    second, _ = phases(env, 0.0)
    fills = [e.results[0].fills[0] for e in (first, second)]
    assert fills[0].client_order_id == f"ema_BTCUSDT_{START_MS + HOUR_MS - 1}o"
    assert [f.trade_id for f in fills] == ["1", "2"]
    assert {f.exchange for f in fills} == {"simulation"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"render_mode": "human"}, ConfigError, "render_mode"),
        ({"episode_candles": 0}, ConfigError, "episode_candles = 0"),
        ({"start": "2030-01-01"}, CandleError, "no step"),
        ({"end": "2023-01-01T05:00:00"}, CandleError, "no step"),
        ({"config": EnvConfig(window_size=9_000)}, CandleError, "no step"),
        ({"instruments": {}}, InstrumentError, "BTCUSDT"),
    ],
)
def test_what_it_refuses(
    market: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        FuturesEnv(market, **arguments)


def test_features_of_another_market_are_refused(market: Any) -> None:
    other = synthetic_market(("BTCUSDT", "ETHUSDT"), n=300)
    with pytest.raises(ConfigError, match=r"300 rows, the market 400"):
        FuturesEnv(market, features=market_features(other, default_features()))


def test_a_scaler_of_other_features_is_refused(market: Any) -> None:
    names = market_features(market, default_features()).names
    with pytest.raises(TrainingRunError, match="other features"):
        FuturesEnv(market, scaler=identity_scaler([f"x{i}" for i in range(len(names))]))


def test_a_scaler_of_the_same_features_of_other_symbols_will_do(market: Any) -> None:
    other = market_features(synthetic_market(("BNBUSDT", "ADAUSDT"), n=300), default_features())
    FuturesEnv(market, scaler=fit_scaler(other, rows=slice(0, 300)))


def test_a_leverage_that_the_exchange_does_not_offer_is_refused() -> None:
    rules = instrument(brackets=[("1000", "0.01", 10)])
    market = market_of(flat_rows(*[100] * 4))
    for settings in ({"exchange_leverage": 11, "max_leverage": 1}, {"max_leverage": 11}):
        with pytest.raises(ConfigError, match="above the exchange's maximum of 10"):
            FuturesEnv(
                market,
                features=counting_features(market),
                config=EnvConfig.parse({"window_size": 1, **settings}),
                instruments={"BTCUSDT": rules},
            )


class TestFlatten:
    def test_closes_everything_at_the_next_open(self) -> None:
        market = market_of({"AAAUSDT": flat_rows(100, 100, 90, 90), "BBBUSDT": flat_rows(10, 10, 12, 12)})
        env = env_of(market, slippage_bps=100.0, taker_fee_fraction=0.0)
        env.reset()
        phases(env, 1.0, -5.0)
        execution = env.flatten("enough")
        # Bought at 101, sold at 90 * 0.99; sold at 9.9, bought back at 12 * 1.01.
        assert [float(r.fills[0].price) for r in execution.results] == pytest.approx([89.1, 12.12])
        assert {r.fills[0].leg for r in execution.results} == {Leg.EMERGENCY}
        assert {r.planned.action_type for r in execution.results} == {"emergency_close"}
        assert execution.account.is_flat
        assert float(execution.account.wallet_usdt) == pytest.approx(1000 - 11.9 - 5 * 2.22)

    def test_after_the_last_candle_it_closes_at_its_close(self) -> None:
        env = env_of(market_of([(100, 100, 100, 100), (100, 108, 99, 107)]), taker_fee_fraction=0.0)
        env.reset()
        phases(env, 1.0)
        execution = env.flatten("the end")
        assert float(execution.results[0].fills[0].price) == 107.0
        assert float(execution.account.wallet_usdt) == 1007.0

    def test_pays_the_funding_of_the_open_first(self) -> None:
        market = market_of(flat_rows(*[100] * 4), funding={"BTCUSDT": [(120, 0.01)]})
        env = env_of(market, taker_fee_fraction=0.0)
        env.reset()
        phases(env, 2.0)
        execution = env.flatten("enough")
        assert float(execution.funding_usdt["BTCUSDT"]) == pytest.approx(-2)
        assert float(execution.account.wallet_usdt) == pytest.approx(998)

    def test_of_a_flat_account_does_nothing(self) -> None:
        env = env_of(market_of(flat_rows(*[100] * 3)))
        env.reset()
        execution = env.flatten("enough")
        assert [r.status for r in execution.results] == [OrderStatus.NONE]

    def test_that_finds_the_account_liquidated_at_the_open_says_so(self) -> None:
        env = env_of(market_of([*flat_rows(100, 100), (50, 50, 50, 50), (50, 50, 50, 50)]))
        env.reset()
        phases(env, 50.0)
        (result,) = env.flatten("enough").results
        assert (result.planned.action_type, result.fills[0].liquidation) == ("liquidation", True)
        assert env.account().is_flat
