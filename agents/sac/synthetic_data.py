"""The synthetic market of a training, made from its settings; and made again for a backtest or a paper run."""

from __future__ import annotations

from agents.sac.config import DataConfig
from agents.training_run import RunMetadata
from envs.errors import ConfigError
from envs.market import Market
from envs.synthetic import synthetic_market


def synthetic_data(data: DataConfig) -> Market:
    """The synthetic market that `data` describes.

    Raises:
        ConfigError: `data` describes none.
    """
    settings = data.synthetic
    if settings is None:
        raise ConfigError("data.synthetic is missing: there is no synthetic market to make")
    market = synthetic_market(
        data.symbols or settings.symbols,
        interval=settings.interval,
        n=settings.candles,
        seed=settings.seed,
        start=settings.start,
        volatility_annual=settings.volatility_annual,
        regimes=settings.regimes,
        jumps=settings.jumps,
        drift_annual=settings.drift_annual,
        signal_strength=settings.signal_strength,
    )
    return market if data.end is None else market.slice(end=data.end)


def trained_market(metadata: RunMetadata) -> Market | None:
    """The synthetic market that a run was trained on, the same to the last digit; None for a run on real candles."""
    if not metadata.values.get("market", {}).get("synthetic", False):
        return None
    data = DataConfig.parse(metadata.values["data"], where=f"{metadata.train_id}: data")
    return None if data.candles else synthetic_data(data)


def is_trained_on(metadata: RunMetadata, market: Market) -> bool:
    """Whether `market` is the synthetic one that the run was trained on, so that its spans apply."""
    return bool(metadata.values.get("market", {}).get("hash") == market.data_hash())
