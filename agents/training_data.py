"""The market of a training: from its settings, and made again for a backtest or a paper run of the policy."""

from __future__ import annotations

from agents.data import Notice, load_market
from agents.sac.config import DataConfig
from agents.training_run import RunMetadata
from envs.errors import ConfigError
from envs.market import Market
from envs.synthetic import synthetic_market


def market_of(data: DataConfig, notice: Notice) -> Market:
    """The market that a training's data settings describe.

    Raises:
        InputError: a file is missing or breaks a rule.
    """
    if not data.candles:
        return _synthetic(data)
    for path in data.candles:
        if not path.exists():
            raise ConfigError(
                f"data.candles: {path} does not exist; download it with python -m live.download SYMBOL INTERVAL "
                f"START END, or name another file with --candles"
            )
    return load_market(
        data.candles,
        funding=data.funding,
        marks=data.marks,
        symbols=data.symbols or None,
        start=data.start,
        end=data.end,
        constant_funding_rate=data.constant_funding_rate,
        fill_gaps=data.fill_gaps,
        notice=notice,
    )


def training_market(metadata: RunMetadata, notice: Notice) -> Market:
    """The market that a run was trained on, with all its spans.

    Raises:
        ConfigError: its candle files are no longer where they were.
    """
    data = DataConfig.parse(metadata.values["data"], where=f"{metadata.train_id}: data")
    missing = [str(path) for path in data.candles if not path.is_file()]
    if missing:
        raise ConfigError(
            f"no candles were given, and those that {metadata.train_id} was trained on are not at "
            f"{', '.join(missing)}; give some with --candles"
        )
    if data.candles:
        notice(
            f"no candles were given: those that the run was trained on, {', '.join(map(str, data.candles))}"
        )
    return market_of(data, notice)


def synthetic_training_market(metadata: RunMetadata) -> Market | None:
    """The synthetic market that a run was trained on, the same to the last digit; None for a run on candles."""
    if not metadata.values.get("data"):
        return None
    data = DataConfig.parse(metadata.values["data"], where=f"{metadata.train_id}: data")
    return None if data.candles else _synthetic(data)


def _synthetic(data: DataConfig) -> Market:
    settings = data.synthetic
    assert settings is not None  # DataConfig holds candles or this
    made = settings.model_dump(exclude={"symbols", "candles"})
    market = synthetic_market(data.symbols or settings.symbols, n=settings.candles, **made)
    return market if data.end is None else market.slice(end=data.end)
