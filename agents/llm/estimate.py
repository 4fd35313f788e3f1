"""What an LLM backtest will cost, about, before it begins."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from agents.base import AgentSetup
from agents.llm.agent import LlmAgent
from agents.llm.budget import Price, PriceTable
from agents.llm.config import LlmConfig
from agents.llm.request import Request, Usage
from envs.futures_env import FuturesEnv

# Numbers and JSON take more tokens than prose does.
_CHARS_PER_TOKEN = 2.8
_REPLY_TOKENS = 260
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


@dataclass(frozen=True, slots=True)
class Estimate:
    """A guess from one sample prompt, for a run in which no reply is in the replay cache yet.

    Attributes:
        decisions: questions, after the hourly budget.
        prefix_tokens, scene_tokens, reply_tokens: of one question: what stays the same, what does not, the reply.
        usd_cached, usd_full: when the provider's prompt cache serves the prefix every time, and when it never does;
            None where the price is unknown.
    """

    decisions: int
    prefix_tokens: int
    scene_tokens: int
    reply_tokens: int
    usd_cached: float | None
    usd_full: float | None

    @property
    def tokens(self) -> int:
        """Of the whole run."""
        return self.decisions * (self.prefix_tokens + self.scene_tokens + self.reply_tokens)


def estimate(
    config: LlmConfig, request: Request, steps: int, interval_ms: int, price: Price | None
) -> Estimate:
    """The estimate for so many steps of so long candles, given a sample question."""
    decisions = steps
    hourly = config.budget.decisions_per_hour
    if hourly is not None:
        decisions = min(decisions, -(-steps * interval_ms // _HOUR_MS) * hourly)
    prefix = _tokens(request.system) + _tokens(json.dumps(request.schema))
    scene = sum(_tokens(message.text) for message in request.messages)
    reply = min(_REPLY_TOKENS, config.provider.max_output_tokens)
    cached = full = None
    if price is not None:
        cached = decisions * price.cost_usd(Usage(scene, prefix, 0, reply))
        full = decisions * price.cost_usd(Usage(scene + prefix, 0, 0, reply))
    return Estimate(decisions, prefix, scene, reply, cached, full)


def _tokens(text: str) -> int:
    return round(len(text) / _CHARS_PER_TOKEN)


def describe(config: LlmConfig, guess: Estimate, interval_ms: int) -> list[str]:
    """The estimate in words, one line each."""
    each = f"{guess.prefix_tokens + guess.scene_tokens:,} tokens in, {guess.reply_tokens} out"
    lines = [
        f"{config.name} asks {config.provider.model} about {guess.decisions:,} times ({each}): {guess.tokens:,} tokens"
    ]
    if config.offline:
        lines.append("offline: every answer comes from the replay cache and costs nothing")
    elif guess.usd_cached is None or guess.usd_full is None:
        lines.append("its price is not in the price table: the cost is unknown")
    else:
        lines.append(
            f"estimated cost {guess.usd_cached:,.2f} to {guess.usd_full:,.2f} USD, with and without the provider's "
            "prompt cache; what is in the replay cache costs nothing"
        )
    days = max(1.0, guess.decisions * interval_ms / _DAY_MS)
    budget = config.budget
    if budget.usd_per_day is not None:
        lines.append(
            f"budget {budget.usd_per_day:g} USD per day of candles: at most about {budget.usd_per_day * days:,.2f}"
        )
    if budget.tokens_per_day is not None:
        lines.append(f"budget {budget.tokens_per_day:,} tokens per day of candles")
    return lines


def sample(agent: LlmAgent, env: FuturesEnv) -> Request:
    """The first question that a run over `env` would ask; nobody is asked."""
    observation, _ = env.reset()
    return agent.preview(env.spec_observation, observation, env.view)


def guess(
    agent: LlmAgent, env: FuturesEnv, *, steps: int | None = None, request: Request | None = None
) -> Estimate:
    """The estimate for a run over `env`, or over so many of its candles, from its first question."""
    config = agent.config
    price = PriceTable.of(config.prices).price_of(config.provider.model)
    whole = env.last_index - env.first_index
    question = sample(agent, env) if request is None else request
    return estimate(config, question, whole if steps is None else steps, env.market.interval_ms, price)


def show_estimate(setup: AgentSetup, env: FuturesEnv, *, prompt: bool, quiet: bool) -> None:
    """Print the estimate for a run over `env`, and a sample prompt where one is asked for."""
    agent = setup.agent
    assert isinstance(agent, LlmAgent)
    if quiet and not prompt:
        return
    request = sample(agent, env)
    lines = describe(agent.config, guess(agent, env, request=request), env.market.interval_ms)
    if prompt:
        words = "\n\n".join(message.text for message in request.messages)
        lines += ["", "--- system ---", request.system, "--- user ---", words]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
