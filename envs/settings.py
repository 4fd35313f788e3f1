"""Settings of a trading environment, simulated or live, and their form for the kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from envs import kernel
from envs.actions import ActionScheme, DecisionScheme, QuantityScheme, SignalScheme, TargetScheme
from envs.config import StrictModel
from envs.errors import ConfigError, InstrumentError
from envs.instruments import Instrument
from envs.rewards import DifferentialSharpe, DrawdownPenalised, LogReturn, Reward

_DEFAULT_EXCHANGE_LEVERAGE = 20


class EnvConfig(StrictModel):
    """What a trading environment needs to know besides its market.

    window_size: candles in the observation.
    initial_capital_usdt: wallet at the start of an episode.
    max_leverage: largest gross exposure that a step may ask for, as a multiple of equity.
    exchange_leverage: the leverage setting at the exchange. It only fixes the initial margin; None takes the larger
        of 20 and twice max_leverage, within the instrument's maximum, so that the margin of a full position leaves
        room for fees and for the gap between the close that an order is sized at and the open that it fills at.
    slippage_bps: how far a market order fills from the open, against the taker.
    taker_fee_fraction: commission of a market order as a fraction of its notional; None takes the instrument's.
    action: the action scheme.  reward: the reward.
    normalize_portfolio: exposure in the observation as a share of max_leverage (else as a multiple of equity).
    terminate_drawdown_fraction: an episode ends when the drawdown reaches it; None never.
    """

    window_size: int = Field(30, ge=1, le=10_000)
    initial_capital_usdt: float = Field(10_000.0, gt=0.0)
    max_leverage: float = Field(1.0, gt=0.0, le=125.0)
    exchange_leverage: int | None = Field(None, ge=1, le=150)
    slippage_bps: float = Field(1.0, ge=0.0, lt=10_000.0)
    taker_fee_fraction: float | None = Field(None, ge=0.0, lt=1.0)
    action: ActionScheme = Field(default_factory=TargetScheme)
    reward: Reward = Field(default_factory=LogReturn)
    normalize_portfolio: bool = True
    terminate_drawdown_fraction: float | None = Field(None, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _consistent(self) -> EnvConfig:
        if self.exchange_leverage is not None and self.exchange_leverage < self.max_leverage:
            raise ValueError(
                f"exchange_leverage {self.exchange_leverage} is below max_leverage {self.max_leverage}: "
                "the exchange would refuse full positions; raise exchange_leverage"
            )
        return self

    def leverage_setting(self, instrument: Instrument) -> int:
        """The integer leverage to set at the exchange for `instrument`."""
        if self.exchange_leverage is not None:
            setting = self.exchange_leverage
        else:
            setting = max(_DEFAULT_EXCHANGE_LEVERAGE, math.ceil(2 * self.max_leverage))
            setting = min(setting, instrument.max_leverage)
        if setting > instrument.max_leverage or setting < self.max_leverage:
            raise ConfigError(
                f"{instrument.symbol}: leverage {max(setting, self.max_leverage)} is above the exchange's "
                f"maximum of {instrument.max_leverage}; lower max_leverage or exchange_leverage"
            )
        return setting


def config_record(config: EnvConfig) -> Any:
    """`config` as an array of one CONFIG_DTYPE record."""
    record = np.zeros(1, kernel.CONFIG_DTYPE)
    row = record[0]
    action = config.action
    row["max_leverage"] = config.max_leverage
    row["stop_loss_fraction"] = action.stop_loss_fraction
    row["take_profit_fraction"] = action.take_profit_fraction
    match action:
        case TargetScheme():
            row["scheme"] = kernel.SCHEME_TARGET
            row["rebalance_band"] = action.rebalance_band
        case SignalScheme():
            row["scheme"] = kernel.SCHEME_SIGNAL
            row["hold_threshold"] = action.hold_threshold
            row["signal_fraction"] = action.signal_fraction
            row["signal_flips"] = action.flip
        case QuantityScheme():
            row["scheme"] = kernel.SCHEME_QUANTITY
        case DecisionScheme():
            row["scheme"] = kernel.SCHEME_DECISION
    match config.reward:
        case LogReturn():
            row["reward"] = kernel.REWARD_LOG_RETURN
        case DifferentialSharpe(rate=rate):
            row["reward"] = kernel.REWARD_DIFFERENTIAL_SHARPE
            row["reward_rate"] = rate
        case DrawdownPenalised(penalty=penalty):
            row["reward"] = kernel.REWARD_DRAWDOWN_PENALISED
            row["reward_penalty"] = penalty
    row["slippage_fraction"] = config.slippage_bps / 1e4
    row["fee_multiplier"] = 1.0
    row["terminate_drawdown"] = config.terminate_drawdown_fraction or 0.0
    row["window"] = config.window_size
    row["normalize_portfolio"] = config.normalize_portfolio
    row["initial_capital"] = config.initial_capital_usdt
    return record


def symbol_table(instruments: Sequence[Instrument], config: EnvConfig) -> Any:
    """The exchange's rules as an array [n] of SYMBOL_DTYPE."""
    table = np.zeros(len(instruments), kernel.SYMBOL_DTYPE)
    for row, instrument in zip(table, instruments, strict=True):
        leverage = config.leverage_setting(instrument)
        brackets = instrument.brackets
        if len(brackets) > kernel.MAX_BRACKETS:
            raise InstrumentError(
                f"{instrument.symbol} has {len(brackets)} leverage brackets; at most {kernel.MAX_BRACKETS} fit"
            )
        row["steps_per_unit"] = float(1 / instrument.step_size)
        row["ticks_per_unit"] = float(1 / instrument.tick_size)
        row["min_notional"] = float(instrument.min_notional_usdt)
        row["max_quantity"] = float(instrument.max_quantity_market)
        row["max_notional"] = float(instrument.max_notional_usdt(leverage))
        row["taker_fee"] = (
            float(instrument.taker_fee) if config.taker_fee_fraction is None else config.taker_fee_fraction
        )
        row["liquidation_fee"] = float(instrument.liquidation_fee)
        row["leverage"] = leverage
        row["brackets"] = len(brackets)
        row["bracket_cap"][: len(brackets)] = [float(b.notional_cap_usdt) for b in brackets]
        row["bracket_rate"][: len(brackets)] = [float(b.maintenance_rate) for b in brackets]
        row["bracket_amount"][: len(brackets)] = [float(b.maintenance_amount_usdt) for b in brackets]
    return table
