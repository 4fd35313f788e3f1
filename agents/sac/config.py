"""Settings of a SAC training: the sections of configs/train/*.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from envs.config import StrictModel
from envs.errors import ConfigError
from envs.features import FeatureConfig, default_features
from envs.risk import RiskLimits
from envs.settings import EnvConfig
from envs.time_grid import parse_time_ms


def _time_text(value: Any) -> Any:
    """YAML reads 2023-01-01 as a date; keep times as text that `parse_time_ms` reads back."""
    parse_time_ms(value)
    return value.isoformat() if isinstance(value, date | datetime) else value


def _listed(value: Any) -> Any:
    """One file or symbol may stand for a list of one."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str | Path) else value


Time = Annotated[str | int | None, BeforeValidator(_time_text)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(_listed)]
Symbols = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class SyntheticConfig(StrictModel):
    """A synthetic market to train on, instead of files; see `envs.synthetic`.

    signal_strength: how much of a candle's move can be known the candle before, in standard deviations.
    """

    symbols: Symbols = ("BTCUSDT",)
    interval: str = "1h"
    candles: int = Field(10_000, ge=100)
    seed: int = Field(0, ge=0)
    start: Time = "2023-01-01"
    volatility_annual: float = Field(0.6, gt=0.0, le=10.0)
    regimes: bool = True
    jumps: bool = True
    drift_annual: float = 0.0
    signal_strength: float = Field(0.0, ge=0.0, le=1.0)


class DataConfig(StrictModel):
    """What to train on: files, or a synthetic market where no candle file is given.

    candles, funding, marks: files, one per symbol; see `agents.data.load_market`. `*` in a name stands for anything.
    symbols: None takes those of the candle files.
    start, end: half open span by open time; None is all there is.
    constant_funding_rate: for symbols without funding file, every eight hours, as a fraction.
    fill_gaps: put candles of the previous close and zero volume where candles are missing.
    """

    candles: Paths = ()
    funding: Paths = ()
    marks: Paths = ()
    symbols: Symbols = ()
    start: Time = None
    end: Time = None
    constant_funding_rate: float = Field(0.0001, gt=-0.5, lt=0.5)
    fill_gaps: bool = False
    synthetic: SyntheticConfig | None = None

    @model_validator(mode="after")
    def _something(self) -> DataConfig:
        if not self.candles and self.synthetic is None:
            raise ConfigError("data: give candles (files), or synthetic (a made-up market)")
        return self


class SplitConfig(StrictModel):
    """Where training, validation and test lie: by time, in this order, without a candle in common.

    validation_fraction, test_fraction: of the candles of the span, counted from its end.
    validation_start, test_start: times instead of fractions; give both or none.
    """

    validation_fraction: float = Field(0.15, gt=0.0, lt=1.0)
    test_fraction: float = Field(0.15, gt=0.0, lt=1.0)
    validation_start: Time = None
    test_start: Time = None

    @model_validator(mode="after")
    def _consistent(self) -> SplitConfig:
        if (self.validation_start is None) != (self.test_start is None):
            raise ConfigError("split: give both validation_start and test_start, or neither")
        if self.validation_fraction + self.test_fraction >= 1.0:
            raise ConfigError("split: validation_fraction and test_fraction leave nothing to train on")
        return self


class SacConfig(StrictModel):
    """Stable-Baselines3's SAC, with its defaults where no other reason is given.

    timesteps: candles to trade, all episodes of all environments together.
    n_envs: environments that trade side by side.
    learning_rate_schedule: how the learning rate goes on: `constant`, or falling along a line (`linear`) or half a
        cosine (`cosine`) to learning_rate_end_fraction of it at the last timestep.
    buffer_size: transitions kept for replay; never more than timesteps are allocated.
    learning_starts: random candles before the first gradient step.
    train_freq, gradient_steps: after every train_freq candles of each environment, so many gradient steps; -1 does
        one per transition, train_freq * n_envs.
    ent_coef: entropy coefficient; `auto` learns it, `auto_0.1` learns it from 0.1 on.
    target_entropy: of the policy, which a learned coefficient holds; `auto` is minus the number of symbols.
    net_arch: hidden layers of the actor, and of the critics where critic_net_arch is None.
    episode_candles: candles per episode; each begins at a random candle of the training span.
    reward_scale: factor on the reward. A candle's log return is about 0.005, far below the entropy bonus; `auto`
        makes its standard deviation over the training span about one.
    seed: of weights, exploration, replay and episode starts.
    device: auto takes a GPU where there is one.
    torch_threads: CPU threads; the result depends on their number, and small networks do not gain from more.
    """

    timesteps: int = Field(100_000, ge=1)
    n_envs: int = Field(8, ge=1, le=65_536)
    learning_rate: float = Field(3e-4, gt=0.0, lt=1.0)
    learning_rate_schedule: Literal["constant", "linear", "cosine"] = "constant"
    learning_rate_end_fraction: float = Field(0.1, ge=0.0, le=1.0)
    batch_size: int = Field(256, ge=2)
    buffer_size: int = Field(1_000_000, ge=1)
    learning_starts: int = Field(100, ge=1)
    train_freq: int = Field(1, ge=1)
    gradient_steps: int = Field(-1, ge=-1)
    gamma: float = Field(0.99, ge=0.0, le=1.0)
    tau: float = Field(0.005, gt=0.0, le=1.0)
    ent_coef: float | Annotated[str, Field(pattern=r"^auto(_\d*\.?\d+)?$")] = "auto"
    target_entropy: float | Literal["auto"] = "auto"
    net_arch: tuple[int, ...] = Field((256, 256), min_length=1)
    critic_net_arch: tuple[int, ...] | None = Field(None, min_length=1)
    activation: Literal["relu", "tanh"] = "relu"
    episode_candles: int = Field(720, ge=2)
    reward_scale: float | Literal["auto"] = "auto"
    seed: int = Field(0, ge=0, lt=2**32)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    torch_threads: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _positive(self) -> SacConfig:
        if any(width < 1 for width in (*self.net_arch, *(self.critic_net_arch or ()))):
            raise ConfigError("sac.net_arch, sac.critic_net_arch: every layer needs at least one unit")
        if self.gradient_steps == 0:
            raise ConfigError("sac.gradient_steps is 0, which learns nothing; give -1 or at least 1")
        if self.buffer_size < max(self.batch_size, self.n_envs):
            raise ConfigError(
                f"sac.buffer_size is {self.buffer_size}; it must hold a batch (batch_size {self.batch_size}) and a "
                f"candle of every environment (n_envs {self.n_envs})"
            )
        if self.n_envs * self.train_freq > self.timesteps:
            raise ConfigError(
                f"sac.n_envs * sac.train_freq is {self.n_envs * self.train_freq} candles, more than sac.timesteps "
                f"{self.timesteps}; lower n_envs or train_freq, or raise timesteps"
            )
        if self.reward_scale != "auto" and self.reward_scale <= 0:
            raise ConfigError(f"sac.reward_scale is {self.reward_scale}; give a number above 0, or auto")
        if not isinstance(self.ent_coef, str) and self.ent_coef < 0:
            raise ConfigError(f"sac.ent_coef is {self.ent_coef}; give a number of at least 0, or auto")
        return self


class EvaluationConfig(StrictModel):
    """When the policy is validated, and by what the best is kept.

    every_steps: candles traded between two validations.
    score: sharpe and total_return of the validation span, or the mean reward per candle there.
    """

    every_steps: int = Field(5_000, ge=1)
    score: Literal["sharpe", "total_return", "mean_reward"] = "sharpe"


class TrainConfig(StrictModel):
    """A whole training.

    env, features, scaler, risk: what the policy is run with later, stored in the training run.
    """

    data: DataConfig
    split: SplitConfig = Field(default_factory=SplitConfig)
    env: EnvConfig = Field(default_factory=EnvConfig)
    features: FeatureConfig = Field(default_factory=default_features)
    scaler: Literal["standard", "robust"] = "standard"
    risk: RiskLimits = Field(default_factory=RiskLimits)
    sac: SacConfig = Field(default_factory=SacConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)

    @model_validator(mode="after")
    def _bounded_actions(self) -> TrainConfig:
        if self.env.action.scheme in ("quantity", "decision"):
            raise ConfigError(
                f"env.action.scheme {self.env.action.scheme!r} has no bounds; SAC needs 'target' or 'signal'"
            )
        return self


def overridden(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `overrides` by dotted name, such as `{"sac.learning_rate": 1e-4}`; None overrides nothing."""
    result: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()
    }
    for name, value in overrides.items():
        if value is None:
            continue
        section, _, key = name.partition(".")
        group = result.get(section)
        result[section] = {**(group if isinstance(group, dict) else {}), key: value}
    return result


def located(config: TrainConfig, folder: Path | None) -> TrainConfig:
    """The training with absolute data paths: from the current directory, else from the config file's `folder`.

    A name with `*` or `?` stands for the files that match it, in order; a path that matches nothing stays as it is.
    """

    def find(path: Path) -> list[Path]:
        for base in (Path(), folder):
            found = [] if base is None else _matches(base / path)
            if found:
                return found
        return [path.absolute()]

    files = {
        name: tuple(file for path in getattr(config.data, name) for file in find(path))
        for name in ("candles", "funding", "marks")
    }
    return config.model_copy(update={"data": config.data.model_copy(update=files)})


def _matches(path: Path) -> list[Path]:
    if path.exists():
        return [path.absolute()]
    if not any(sign in path.name for sign in "*?"):
        return []
    return sorted(path.parent.absolute().glob(path.name))
