"""What decisions cost, and when there have been enough of them. Time is that of the candles, never a clock."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import Field

from agents.llm.config import BudgetConfig
from agents.llm.request import Usage
from envs.config import StrictModel, read_yaml
from envs.errors import ConfigError

SHIPPED_PRICES = Path(__file__).resolve().parents[2] / "configs" / "llm_prices.yaml"

_MILLION = 1_000_000
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


class Price(StrictModel):
    """USD per million tokens. What is read from or written to the provider's prompt cache has prices of its own."""

    input: float = Field(ge=0.0)
    output: float = Field(ge=0.0)
    cached_input: float | None = Field(None, ge=0.0)
    cache_write: float | None = Field(None, ge=0.0)

    def cost_usd(self, usage: Usage) -> float:
        """What a call with this usage costs."""
        cached = self.input if self.cached_input is None else self.cached_input
        write = self.input if self.cache_write is None else self.cache_write
        return (
            usage.input_tokens * self.input
            + usage.cached_tokens * cached
            + usage.cache_write_tokens * write
            + usage.output_tokens * self.output
        ) / _MILLION


class PriceTable(StrictModel):
    """Prices by model, as the provider calls it."""

    models: Mapping[str, Price]

    @classmethod
    def read(cls, path: Path | None = None) -> PriceTable:
        """The table of this file, or the one that ships with perpgym.

        Raises:
            ConfigError: it cannot be read.
        """
        path = SHIPPED_PRICES if path is None else path
        table = cls.parse(read_yaml(path), where=str(path))
        return table.model_copy(update={"models": MappingProxyType(dict(table.models))})

    @classmethod
    def of(cls, setting: str | None) -> PriceTable:
        """The table that an agent's setting names."""
        return cls.read(None if setting is None else Path(setting).expanduser())

    def price_of(self, model: str) -> Price | None:
        """The price of this model, or of the one that it is a dated version of; None where there is none."""
        if model in self.models:
            return self.models[model]
        stems = [name for name in self.models if model.startswith(f"{name}-2")]
        return self.models[max(stems, key=len)] if stems else None


class Budget:
    """Counts decisions, tokens and USD against their limits.

    Args:
        price: None where it is unknown.
        priced: models whose prices are known, for those who mistype theirs.

    Raises:
        ConfigError: a limit in USD without a price.
    """

    def __init__(
        self, config: BudgetConfig, price: Price | None, model: str, priced: Iterable[str] = ()
    ) -> None:
        if price is None and config.usd_per_day is not None:
            near = difflib.get_close_matches(model, tuple(priced), n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ConfigError(
                f"budget.usd_per_day = {config.usd_per_day:g} cannot be kept: the price table has no model {model!r}"
                f"{hint}; add its price, or set budget.usd_per_day: null"
            )
        self._config = config
        self.price = price
        self.reset()

    def reset(self) -> None:
        """Forget what was spent."""
        self._decisions_ms: list[int] = []
        self._day = -1
        self._tokens = 0
        self._usd = 0.0

    def cost_usd(self, usage: Usage) -> float | None:
        """What a call costs; None where the price is not known."""
        return None if self.price is None else self.price.cost_usd(usage)

    def over(self, time_ms: int) -> str:
        """Which limit is reached at this time, in words; empty when none is."""
        config = self._config
        self._turn(time_ms)
        if config.decisions_per_hour is not None and len(self._decisions_ms) >= config.decisions_per_hour:
            return f"decisions_per_hour: {len(self._decisions_ms)} of {config.decisions_per_hour}"
        if config.tokens_per_day is not None and self._tokens >= config.tokens_per_day:
            return f"tokens_per_day: {self._tokens} of {config.tokens_per_day}"
        if config.usd_per_day is not None and self._usd >= config.usd_per_day:
            return f"usd_per_day: {self._usd:.4f} of {config.usd_per_day:g}"
        return ""

    def begin(self, time_ms: int) -> None:
        """Count a decision."""
        self._turn(time_ms)
        self._decisions_ms.append(time_ms)

    def spend(self, time_ms: int, usage: Usage) -> None:
        """Count what it took."""
        self._turn(time_ms)
        self._tokens += usage.total
        self._usd += self.cost_usd(usage) or 0.0

    def _turn(self, time_ms: int) -> None:
        if time_ms // _DAY_MS != self._day:
            self._day, self._tokens, self._usd = time_ms // _DAY_MS, 0, 0.0
        self._decisions_ms = [one for one in self._decisions_ms if time_ms - one < _HOUR_MS]
