"""The settings of one LLM agent: a file of configs/agents/."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from envs.config import StrictModel, read_yaml
from envs.time_grid import interval_to_ms


class ProviderConfig(StrictModel):
    """Whom to ask, and how.

    kind: `anthropic`, or `openai` for OpenAI itself and every server that speaks its chat completions.
    model: as the provider calls it.
    base_url: None takes the provider's own.
    api_key_env: the environment variable that holds the key; None for a local server without one.
    temperature: None leaves it to the provider. A model that refuses it is asked without it.
    max_output_tokens: longest reply, thinking included.
    reply: how the reply is bound to its form. `schema` (structured output), `tool` (a forced tool call), `json`;
        `auto` takes the first of these that the model does not refuse.
    timeout_s: for a whole decision, its retry and its repair included.
    retry_delay_s: wait before the one retry of a failed call.
    check_model: ask at the start whether the model exists.
    extra_body: further fields of the request, e.g. a provider's own switches.
    """

    kind: Literal["anthropic", "openai"]
    model: str = Field(min_length=1)
    base_url: str | None = None
    api_key_env: str | None = None
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    max_output_tokens: int = Field(1024, ge=64, le=100_000)
    reply: Literal["auto", "schema", "tool", "json"] = "auto"
    timeout_s: float = Field(60.0, gt=0.0, le=3600.0)
    retry_delay_s: float = Field(1.0, ge=0.0, le=60.0)
    check_model: bool = True
    extra_body: dict[str, Any] = Field(default_factory=dict)


class PromptConfig(StrictModel):
    """What the model reads.

    template: a version that ships with perpgym (`v1`), or a folder with system.md, user.md and repair.md.
    personality: `conservative`, `balanced`, `aggressive`, or a text file.
    candles: closed candles shown per symbol.
    decisions: its own last decisions that are shown to it.
    text_chars: of each of those, how much of its own words.
    """

    template: str = "v1"
    personality: str = "balanced"
    candles: int = Field(24, ge=1, le=500)
    decisions: int = Field(8, ge=0, le=50)
    text_chars: int = Field(160, ge=0, le=1000)


class BudgetConfig(StrictModel):
    """What may be spent; None is no limit. Time is that of the candles.

    decisions_per_hour: questions in any hour.
    tokens_per_day, usd_per_day: per UTC day, at the prices of the price table. The decision that crosses the limit is
        still made, those after it are not.
    """

    decisions_per_hour: int | None = Field(12, ge=1)
    tokens_per_day: int | None = Field(None, ge=1)
    usd_per_day: float | None = Field(None, gt=0.0)


class RulesConfig(StrictModel):
    """Rules of the game beside the risk limits: a decision that breaks one is rejected.

    require_stop_loss: an opened position must have a stop.
    min_confidence: a position is opened only by a decision at least this sure of itself.
    """

    require_stop_loss: bool = False
    min_confidence: float = Field(0.0, ge=0.0, le=1.0)


class BlindConfig(StrictModel):
    """Blind mode: symbols renamed, prices and volumes rebased, dates shifted, all drawn from `seed`."""

    enabled: bool = False
    seed: int = Field(0, ge=0)


class RecordsConfig(StrictModel):
    """What is written down.

    log: one JSON line per decision; None writes none.
    rejected_prompts: share of the decisions that came to nothing whose prompts are kept in full, chosen by `seed`.
    """

    log: str | None = "logs/llm_decisions.log"
    rejected_prompts: float = Field(0.1, ge=0.0, le=1.0)
    seed: int = Field(0, ge=0)


class LlmConfig(StrictModel):
    """One LLM agent.

    name: in step logs and client order ids.
    symbols, interval: what it trades where no candles say otherwise.
    prices: the price table; None takes configs/llm_prices.yaml.
    cache: folder of the replay cache; None keeps no replies.
    offline: answer from the cache only; a question that was never asked is an error.
    env, features, risk: its environment, as in other config files.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9.-]+$")
    provider: ProviderConfig
    prompt: PromptConfig = Field(default_factory=PromptConfig)
    symbols: tuple[str, ...] = Field(("BTCUSDT",), min_length=1)
    interval: str = "5m"
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    rules: RulesConfig = Field(default_factory=RulesConfig)
    records: RecordsConfig = Field(default_factory=RecordsConfig)
    blind: BlindConfig = Field(default_factory=BlindConfig)
    prices: str | None = None
    cache: str | None = "runs/llm-cache"
    offline: bool = False
    env: dict[str, Any] = Field(default_factory=dict)
    features: dict[str, Any] = Field(default_factory=dict)
    risk: dict[str, Any] = Field(default_factory=dict)

    @field_validator("interval")
    @classmethod
    def _known_interval(cls, value: str) -> str:
        interval_to_ms(value)
        return value

    @classmethod
    def read(cls, path: Path) -> LlmConfig:
        """The file's settings.

        Raises:
            ConfigError: the file is missing or not YAML, or a setting is wrong.
        """
        return cls.parse(read_yaml(path), where=str(path))
