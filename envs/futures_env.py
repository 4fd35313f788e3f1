"""The simulated trading environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs import kernel
from envs.account import (
    AccountSnapshot,
    Approved,
    Execution,
    Plan,
)
from envs.base import Action, Observation, StepResult, TradingEnv
from envs.candles import parse_time_ms
from envs.compiling import entry_point
from envs.errors import ActionError, CandleError, ConfigError
from envs.features import FeatureTable, default_features, market_features
from envs.instruments import Instrument, get_instruments
from envs.kernel_book import KernelBook
from envs.market import Market
from envs.observation import CLIP, observation_spec
from envs.planning import Planner, check_action
from envs.scaler import FeatureScaler, identity_scaler
from envs.settings import EnvConfig
from envs.synthetic import synthetic_market
from envs.time_grid import format_time
from envs.view import RecentCandles

_FLOAT32 = np.dtype(np.float32)

_CompiledStep = Callable[[int, Action, Observation], tuple[float, int]]


class AheadSteps(NamedTuple):
    """What `FuturesEnv.run_ahead` did.

    Attributes:
        first: candle of the first decision.
        wallet, position: before it, [n] of `kernel.POSITION_DTYPE`.
        bars, steps: what happened, [K, n] of `kernel.BAR_DTYPE` and [K] of `kernel.STEP_DTYPE`.
    """

    first: int
    wallet: float
    position: Any
    bars: Any
    steps: Any


class FuturesEnv(TradingEnv):
    """A cross-margin USD-M futures account over historical or synthetic candles.

    **Step.** At the close of candle t the agent acts. Its orders fill at the open of candle t+1, moved against the
    taker by `slippage_bps`; then candle t+1 plays (funding, stops, liquidation) and the account is marked at its
    close. docs/simulation.md has the rules to the last detail.

    **Action space.** `Box(-1, 1, (n,))` for the target and signal schemes, an unbounded Box for quantities, a row per
    symbol for decisions; see `envs.actions`.

    **Observation space.** `Box(-10, 10, (W * F + 3 * n + 2,))`, float32: the window of scaled features, oldest candle
    first, then per symbol exposure, unrealized PnL / equity, candles held / W, then drawdown and margin ratio;
    see `envs.observation`.

    **Reward.** The log return of equity, or another of `envs.rewards`.

    **Episode.** Starts at `start` (or at a random candle, with `random_start`), at the earliest when features and
    window are complete. Terminates on liquidation and at `terminate_drawdown_fraction`; truncates at the last
    candle or after `episode_candles`.

    Args:
        market: aligned candles of n symbols. None: a synthetic market, for trying things out.
        features: the market's feature table; None computes the default features.
        scaler: scales the features; None leaves them as they are.
        config: settings.
        instruments: the exchange's rules by symbol; None takes the bundled ones.
        start, end: the episode's span by open time, half open; candles before it still feed windows.
        random_start: reset to a random candle of the span instead of its first.
        episode_candles: most steps per episode.
        agent: name in fills and client order ids.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own convention)

    def __init__(
        self,
        market: Market | None = None,
        *,
        features: FeatureTable | None = None,
        scaler: FeatureScaler | None = None,
        config: EnvConfig | None = None,
        instruments: Mapping[str, Instrument] | None = None,
        start: str | int | None = None,
        end: str | int | None = None,
        random_start: bool = False,
        episode_candles: int | None = None,
        agent: str = "agent",
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None:
            raise ConfigError(f"render_mode {render_mode!r} is not supported: use the backtest's HTML report")
        self.market = synthetic_market(("BTCUSDT",), n=5_000) if market is None else market
        self.config = EnvConfig() if config is None else config
        self.symbols = self.market.symbols
        self.instruments = get_instruments(self.symbols, instruments)
        self.agent = agent
        self.render_mode = None
        table = market_features(self.market, default_features()) if features is None else features
        if table.values.shape[0] != len(self.market):
            raise ConfigError(
                f"the feature table has {table.values.shape[0]} rows, the market {len(self.market)} candles"
            )
        scaler = identity_scaler(table.names) if scaler is None else scaler
        self.spec_observation = observation_spec(
            self.symbols, self.market.interval_ms, table.names, self.config
        )
        named = observation_spec(self.symbols, self.market.interval_ms, scaler.names, self.config).features
        if named != self.spec_observation.features:
            scaler.require_names(table.names)  # raises, naming what differs
        self._features: NDArray[np.float32] = np.ascontiguousarray(scaler.transform(table.values))
        self._planner = Planner(self.config, self.instruments)
        self._set_span(table.warmup, start, end)
        if episode_candles is not None and episode_candles < 1:
            raise ConfigError(f"episode_candles = {episode_candles}: give at least 1")
        self._random_start = random_start
        self._episode_candles = episode_candles

        n = len(self.symbols)
        self._rows = self.market.kernel_array()
        self._config = self._planner.config_record
        self._symbol_table = self._planner.symbol_table
        self._book = KernelBook(self.instruments, self._symbol_table, agent)
        self._account = self._book.account
        self._position = self._book.position
        self._order = self._book.order
        self._action_shape = (n,)
        self._size = self.spec_observation.size
        self._needs_reset = True
        self._opened = False
        # The kernel's step for actions of float32, once it is compiled, while a step can begin.
        self._step_float32: _CompiledStep | None = None
        self._compiled: dict[np.dtype[Any], _CompiledStep] = {}

        self.action_space = self._planner.action_space
        self.observation_space = gym.spaces.Box(-CLIP, CLIP, (self._size,), np.float32)

    def _set_span(self, warmup: int, start: str | int | None, end: str | int | None) -> None:
        times = self.market.open_time_ms
        first = warmup + self.config.window_size - 1
        start_ms, end_ms = parse_time_ms(start), parse_time_ms(end)
        if start_ms is not None and end_ms is not None and start_ms >= end_ms:
            raise ConfigError(f"start {format_time(start_ms)} is not before end {format_time(end_ms)}")
        if start_ms is not None:
            first = max(first, int(np.searchsorted(times, start_ms)))
        last = len(times) - 1
        if end_ms is not None:
            last = min(last, int(np.searchsorted(times, end_ms)) - 1)
        if last - first < 1:
            begin = "the first" if start_ms is None else format_time(start_ms)
            stop = "the last" if end_ms is None else f"before {format_time(end_ms)}"
            raise CandleError(
                f"the span holds no step: asked for {begin} to {stop}; {len(times)} candles from "
                f"{format_time(times[0])} to {format_time(times[-1])}, {warmup} needed to warm the features up and "
                f"{self.config.window_size} for the window; give another start or end, more candles or a shorter window"
            )
        self.first_index = first
        self.last_index = last

    # --- Gymnasium ---------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode. `options["start_index"]` names the candle that the first decision is made on."""
        super().reset(seed=seed)
        start = self.first_index
        if options and "start_index" in options:
            start = int(options["start_index"])
            if not self.first_index <= start < self.last_index:
                raise ConfigError(
                    f"start_index {start} is outside [{self.first_index}, {self.last_index - 1}]"
                )
        elif self._random_start:
            start = int(self.np_random.integers(self.first_index, self.last_index))
        self._t = self._start = start
        self._episode_end = self.last_index
        if self._episode_candles is not None:
            self._episode_end = min(self.last_index, start + self._episode_candles)
        self._needs_reset = False
        self._opened = False
        self._step_float32 = self._compiled.get(_FLOAT32)
        self._liquidation_reported = False
        kernel.reset_account(self._config[0], self._account[0], self._position)
        self._book.skip_funding()
        return self.observation(), {}

    def step(self, action: Action) -> StepResult:
        """One step in one compiled call; equal to the phases, which a property test holds."""
        step = self._step_float32
        if (
            step is None
            or type(action) is not np.ndarray
            or action.dtype is not _FLOAT32
            or action.shape != self._action_shape
        ):
            return self._step_otherwise(action)
        observation = np.empty(self._size, _FLOAT32)
        reward, state = step(self._t, action, observation)
        if state != 0 or self._t + 1 >= self._episode_end:
            return self._last_step(action, observation, reward, state)
        self._t += 1
        return observation, reward, False, False, {}

    def _step_otherwise(self, action: Action) -> StepResult:
        """A first step, one of other numbers than float32, or one that was begun in phases."""
        self._require_running()
        if self._opened or self._planner.decides:
            return super().step(action)
        # An action of another shape would be read as if it had a number for every symbol.
        vector = check_action(action, len(self.symbols))
        if type(action) is np.ndarray and action.dtype is _FLOAT32:
            self._step_float32 = self._compiled_for(_FLOAT32)
            return self.step(vector.astype(_FLOAT32))
        observation = np.empty(self._size, _FLOAT32)
        reward, state = self._compiled_for(vector.dtype)(self._t, vector, observation)
        if state != 0 or self._t + 1 >= self._episode_end:
            return self._last_step(vector, observation, reward, state)
        self._t += 1
        return observation, reward, False, False, {}

    def _last_step(self, action: Action, observation: Observation, reward: float, state: int) -> StepResult:
        if state < 0:
            raise ActionError(f"action {action.tolist()} is not finite; the step is refused")
        self._t += 1
        self._needs_reset = True
        self._step_float32 = None
        return observation, reward, state == 1, state != 1, {}

    def _compiled_for(self, dtype: np.dtype[Any]) -> _CompiledStep:
        """The kernel's step on this environment's arrays: of (t, action, observation)."""
        if dtype not in self._compiled:
            arrays = (
                self._config,
                self._symbol_table,
                self._account,
                self._position,
                self._order,
                self._rows,
                self._features,
            )
            # An action may be any view, a column of a batch for instance: what numba calls layout "A".
            action = np.zeros((len(self.symbols), 2), dtype)[:, 0]
            observation = np.empty(self._size, _FLOAT32)
            entry = entry_point(kernel.step_env, *arrays, self._t, action, observation)
            self._compiled[dtype] = partial(entry, *arrays)
        return self._compiled[dtype]

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: machine code cannot go along, and points at this environment's arrays."""
        return {**self.__dict__, "_compiled": {}, "_step_float32": None}

    def _require_running(self) -> None:
        if self._needs_reset:
            raise gym.error.ResetNeeded("the episode is over: call reset() before the next step")

    def observation(self) -> Observation:
        """What the agent sees at the close of candle t."""
        observation = np.empty(self._size, np.float32)
        kernel.observe(
            self._config[0],
            self._symbol_table,
            self._account[0],
            self._position,
            self._rows,
            self._features,
            self._t,
            observation,
        )
        return observation

    def run_ahead(
        self,
        actions: NDArray[np.float64],
        limits: Any,
        *,
        seen: NDArray[np.bool_] | None = None,
    ) -> AheadSteps:
        """Steps whose actions are known, in one compiled call, which does them as `step` does. See `kernel.run_ahead`.

        The step after them is one that only the phases can do, or there is none: no action, or no candle, is left.

        Args:
            actions: [K, n], in the action space of the scheme.
            limits: [1] of `kernel.AHEAD_DTYPE`: which steps are left to a risk layer.
            seen: [n], changed in place: where it is true, the action is 0, and it becomes true where a position was
                observed. None: every action counts.
        """
        self._require_running()
        if self._opened:
            raise ActionError("run_ahead() was called within a step; call advance() first")
        n, actions = len(self.symbols), actions[: self._episode_end - self._t]
        before = AheadSteps(
            first=self._t,
            wallet=float(self._account[0]["wallet"]),
            position=self._position.copy(),
            bars=np.zeros((len(actions), n), kernel.BAR_DTYPE),
            steps=np.zeros(len(actions), kernel.STEP_DTYPE),
        )
        done = int(
            kernel.run_ahead(
                self._config[0],
                self._symbol_table,
                self._account,
                self._position,
                self._order,
                self._rows,
                self._t,
                np.ascontiguousarray(actions, np.float64),
                np.zeros(0, np.bool_) if seen is None else seen,
                limits[0],
                np.zeros(1, kernel.ACCOUNT_DTYPE),
                np.zeros(n, kernel.POSITION_DTYPE),
                np.zeros((2, n)),
                before.bars,
                before.steps,
            )
        )
        self._t += done
        self._book.skip_funding()
        if self._t >= self._episode_end:
            self._needs_reset = True
            self._step_float32 = None
        if done == len(actions):
            return before
        # A copy: a short run keeps no room that it did not use.
        return before._replace(bars=before.bars[:done].copy(), steps=before.steps[:done].copy())

    # --- phases ------------------------------------------------------------------------------------------

    @property
    def time_ms(self) -> int:
        """Close time of the last closed candle, UTC ms."""
        return int(self.market.open_time_ms[self._t]) + self.market.interval_ms - 1

    @property
    def interval_ms(self) -> int:
        """Length of a candle."""
        return self.market.interval_ms

    def recent_candles(self, count: int) -> RecentCandles:
        """The candles up to t."""
        market, rows = self.market, slice(max(0, self._t + 1 - count), self._t + 1)
        columns = (market.open, market.high, market.low, market.close, market.volume)
        return RecentCandles(market.open_time_ms[rows].copy(), *(column[rows].copy() for column in columns))

    @property
    def candle_index(self) -> int:
        """Index of the last closed candle in the market."""
        return self._t

    @property
    def steps_left(self) -> int:
        """Steps until the episode is truncated; 0 when it is over."""
        return 0 if self._needs_reset else self._episode_end - self._t

    def account(self) -> AccountSnapshot:
        """The account, marked at the close of candle t."""
        return self._book.snapshot(self._rows[self._t], self.time_ms)

    def plan(self, action: Action) -> Plan:
        """Orders sized at the close of candle t."""
        self._require_running()
        return self._planner.plan(
            action,
            step=self._t - self._start,
            candle_close_ms=self.time_ms,
            equity_usdt=float(self._account[0]["equity"]),
            position=self._position,
            close=np.ascontiguousarray(self._rows[self._t, :, kernel.CLOSE]),
            order=self._order,
        )

    def execute(self, plan: Plan | Approved[Plan]) -> Execution:
        """Fill the orders at the open of candle t+1, after its funding."""
        self._require_running()
        if self._opened:
            raise ActionError("execute() was already called in this step; call advance()")
        approved = plan.value if isinstance(plan, Approved) else plan
        liquidated = self._open()
        self._liquidation_reported = liquidated
        self._book.load_orders(approved.entries)
        if not liquidated:
            row = self._rows[self._t + 1]
            kernel.execute_orders(
                self._config[0], self._symbol_table, self._account[0], self._position, row, self._order
            )
            self._book.load_protection(approved.entries)
        kernel.mark(self._account[0], self._position, self._rows[self._t])
        results = self._book.results(approved.entries, self.time_ms, liquidated=liquidated)
        return Execution(results=results, account=self.account(), funding_usdt=self._book.take_funding())

    def advance(self) -> StepResult:
        """Play candle t+1 and mark at its close."""
        self._require_running()
        if not self._opened:
            self._open()
        account, row = self._account[0], self._rows[self._t + 1]
        if account["liquidated"] == 0:
            kernel.play_candle(self._config[0], self._symbol_table, account, self._position, row)
        kernel.close_candle(account, self._position, row)
        reward = kernel.step_reward(self._config[0], account, self._equity_before, self._drawdown_before)
        self._t += 1
        self._opened = False
        self._step_float32 = self._compiled.get(_FLOAT32)
        limit = self.config.terminate_drawdown_fraction
        terminated = bool(
            account["liquidated"] or account["equity"] <= 0.0 or (limit and account["drawdown"] >= limit)
        )
        truncated = not terminated and self._t >= self._episode_end
        if terminated or truncated:
            self._needs_reset = True
            self._step_float32 = None
        events = () if self._liquidation_reported else self._book.events(self.time_ms)
        info = {"events": events, "funding_usdt": self._book.take_funding()}
        return self.observation(), float(reward), terminated, truncated, info

    def flatten(self, reason: str) -> Execution:
        """Close everything at the open of candle t+1; at the close of candle t when it is the last."""
        if self._t < self._rows.shape[0] - 1:
            row = self._rows[self._t + 1]
            liquidated = not self._opened and self._open()
        else:
            row = self._rows[self._t].copy()
            row[:, kernel.OPEN] = row[:, kernel.CLOSE]
            liquidated = False
        entries = self._book.closing_entries(self._rows[self._t], reason)
        self._book.load_orders(entries)
        kernel.execute_orders(
            self._config[0], self._symbol_table, self._account[0], self._position, row, self._order
        )
        kernel.mark(self._account[0], self._position, self._rows[self._t])
        results = self._book.results(entries, self.time_ms, liquidated=liquidated)
        return Execution(results, self.account(), self._book.take_funding())

    # --- from and to the kernel --------------------------------------------------------------------------

    def _open(self) -> bool:
        """Enter candle t+1: funding at its open, liquidation at its open. True when liquidated."""
        account = self._account[0]
        self._equity_before = float(account["equity"])
        self._drawdown_before = float(account["drawdown"])
        kernel.open_candle(self._symbol_table, account, self._position, self._rows[self._t + 1])
        self._opened = True
        self._step_float32 = None
        return bool(account["liquidated"])

    def kernel_arrays(self) -> tuple[Any, Any, Any]:
        """What the kernel reads: market rows [T, n, 6], scaled features [T, F], the exchange's rules [n]."""
        return self._rows, self._features, self._symbol_table

    def config_array(self) -> Any:
        """A copy of the settings as the kernel reads them: [1] of CONFIG_DTYPE."""
        return self._config.copy()

    def totals(self) -> Mapping[str, float]:
        """Sums since reset: fees, funding, realized_pnl, insurance, trades, liquidations, drawdowns."""
        row = self._account[0]
        return {str(name): float(row[name]) for name in row.dtype.names}
