"""What a backtest reads from its config file, and the span that it runs over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from agents.backtest_files import iso_time
from agents.catalog import ACTIONS_PREFIX, LLM_PREFIX, find_training_run, is_training_run, meant_for
from agents.data import Notice, load_market
from agents.training_data import training_market
from envs.config import StrictModel, read_yaml
from envs.errors import ConfigError
from envs.market import Market
from envs.synthetic import synthetic_market
from envs.time_grid import format_time, parse_time_ms

Time = str | int | datetime | date | None
"""As `envs.time_grid.parse_time_ms` reads it."""


class RunSection(StrictModel):
    """What to run over what. The command line's options of the same names come before it.

    agent: a rule's name, `actions:FILE`, `llm:FILE`, or a training run.
    candles, funding, mark: files, relative to the working directory.
    symbols: which, in the order of the action vector; None takes those of the candle files.
    start, end: half open span by open time.
    seed: of agents that draw, and of a synthetic market.
    """

    agent: str | None = None
    candles: tuple[str, ...] = ()
    funding: tuple[str, ...] = ()
    mark: tuple[str, ...] = ()
    symbols: tuple[str, ...] | None = None
    start: Time = None
    end: Time = None
    seed: int = Field(0, ge=0)


class SyntheticSection(StrictModel):
    """The market when no candles are given.

    interval: length of its candles.  candles: how many.
    volatility_annual: standard deviation of a year's log return, as a fraction.
    falling: a steady fall instead, for trying risk limits.
    """

    interval: str = "1h"
    candles: int = Field(5_000, ge=2, le=2_000_000)
    volatility_annual: float = Field(0.6, gt=0.0, le=10.0)
    falling: bool = False


class MarketSection(StrictModel):
    """The market.

    constant_funding_rate: charged every eight hours in a symbol without funding file, as a fraction.
    fill_gaps: put candles of the previous close where candles are missing; otherwise a gap is an error.
    synthetic: the market when no candles are given; a training run brings the one that it was trained on.
    """

    constant_funding_rate: float = Field(0.0001, gt=-0.5, lt=0.5)
    fill_gaps: bool = False
    synthetic: SyntheticSection = Field(default_factory=SyntheticSection)


class BacktestConfig(StrictModel):
    """A backtest's config file, section by section.

    run, market: above.
    agent, env, features, risk: overrides of the agent's own settings; see `agents.catalog.make_agent`.
    record: what an earlier backtest wrote about itself; `data_hash` is compared, the rest is for people.
    """

    run: RunSection = Field(default_factory=RunSection)
    market: MarketSection = Field(default_factory=MarketSection)
    agent: dict[str, Any] | None = None
    env: dict[str, Any] | None = None
    features: dict[str, Any] | None = None
    risk: dict[str, Any] | None = None
    record: dict[str, Any] | None = None

    @classmethod
    def read(cls, path: Path | None) -> BacktestConfig:
        """The file's settings; the defaults when there is no file.

        Raises:
            ConfigError: the file is missing, not YAML, or has an unknown setting.
        """
        return cls() if path is None else cls.parse(read_yaml(path), where=str(path))

    def overrides(self) -> dict[str, dict[str, Any]]:
        """The sections that `make_agent` takes, as far as they are given."""
        sections = {"agent": self.agent, "env": self.env, "features": self.features, "risk": self.risk}
        return {name: dict(values) for name, values in sections.items() if values}


def open_market(config: BacktestConfig, agent: str, training_runs: Path, notice: Notice) -> Market:
    """The market of a backtest: from candle files; without any, what a training run was trained on, or a synthetic one.

    Raises:
        InputError: a file cannot be used, or a setting is wrong.
    """
    run = config.run
    if run.candles:
        return load_market(
            [Path(path) for path in run.candles],
            funding=[Path(path) for path in run.funding],
            marks=[Path(path) for path in run.mark],
            symbols=run.symbols,
            start=run.start,
            end=run.end,
            constant_funding_rate=config.market.constant_funding_rate,
            fill_gaps=config.market.fill_gaps,
            notice=notice,
        )
    for name in ("funding", "mark"):
        if getattr(run, name):
            raise ConfigError(f"{name} files without candle files; give the candles with --candles")
    synthetic = config.market.synthetic
    named = meant_for(agent)
    symbols, interval = run.symbols or ("BTCUSDT",), synthetic.interval
    if named is not None:
        symbols = run.symbols or named[0]
        interval = synthetic.interval if "interval" in synthetic.model_fields_set else named[1]
    if is_training_run(agent):
        metadata = find_training_run(agent, training_runs).metadata()
        own = run.symbols in (None, metadata.symbols) and "synthetic" not in config.market.model_fields_set
        if own and metadata.values.get("data"):
            return training_market(metadata, notice)
        symbols, interval = run.symbols or metadata.symbols, metadata.interval
    return synthetic_market(
        symbols,
        interval=interval,
        n=synthetic.candles,
        seed=run.seed,
        volatility_annual=synthetic.volatility_annual,
        falling=synthetic.falling,
    )


@dataclass(frozen=True, slots=True)
class Span:
    """Half open, by open time, UTC ms; None leaves that side open."""

    start_ms: int | None
    end_ms: int | None


def choose_span(
    config: BacktestConfig, market: Market, agent: str, training_runs: Path, notice: Notice
) -> Span:
    """The span asked for; else, for a training run over candles that reach into it, its test span.

    Spans say nothing about a synthetic market, unless it is the one that the run was trained on. The user is told
    when a policy is judged by candles that it was trained on.
    """
    asked = Span(parse_time_ms(config.run.start), parse_time_ms(config.run.end))
    if not is_training_run(agent):
        return asked
    metadata = find_training_run(agent, training_runs).metadata()
    if market.synthetic and metadata.values["market"].get("hash") != market.data_hash():
        return asked
    spans = metadata.spans
    first_ms, last_ms = int(market.open_time_ms[0]), int(market.open_time_ms[-1])
    test = spans.get("test")
    if test is not None and asked == Span(None, None) and test.start_ms < last_ms and test.end_ms > first_ms:
        notice(
            f"no span was asked for: the test span of the training run, {format_time(test.start_ms)} to "
            f"{format_time(test.end_ms)} (excluded)"
        )
        return Span(test.start_ms, test.end_ms)
    start_ms = first_ms if asked.start_ms is None else max(asked.start_ms, first_ms)
    end_ms = last_ms + 1 if asked.end_ms is None else asked.end_ms
    for name in ("train", "validation"):
        span = spans.get(name)
        if span is not None and span.start_ms < end_ms and span.end_ms > start_ms:
            notice(
                f"in-sample: the span overlaps the run's {name} span ({format_time(span.start_ms)} to "
                f"{format_time(span.end_ms)}); such figures say little about the future"
            )
    return asked


def recorded_run(settings: BacktestConfig, market: Market, span: Span) -> dict[str, Any]:
    """The section `run` of config.yaml: what was chosen by default is written out, files absolutely."""
    run = settings.run
    values = run.model_dump(mode="json")
    for name in ("candles", "funding", "mark"):
        values[name] = [str(Path(path).resolve()) for path in getattr(run, name)]
    for prefix in (ACTIONS_PREFIX, LLM_PREFIX):
        if run.agent is not None and run.agent.startswith(prefix):
            values["agent"] = f"{prefix}{Path(run.agent.removeprefix(prefix)).expanduser().resolve()}"
    values["symbols"] = list(market.symbols)
    values["start"] = None if span.start_ms is None else iso_time(span.start_ms)
    values["end"] = None if span.end_ms is None else iso_time(span.end_ms)
    return values
