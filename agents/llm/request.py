"""What is asked of a model and what it answers, whichever provider it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

REQUEST_VERSION = 1


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class Request:
    """A question. `system` is the same in every question of a run, so that providers can cache it."""

    kind: str
    model: str
    system: str
    messages: tuple[Message, ...]
    schema: Mapping[str, Any]
    temperature: float | None
    max_output_tokens: int
    reply: str
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Names the question: SHA-256 over all that can change its answer. Where the server is does not."""
        canonical = json.dumps(
            {"version": REQUEST_VERSION, **asdict(self)}, sort_keys=True, separators=(",", ":")
        )
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def prompt_hash(self) -> str:
        """SHA-256 over the words alone."""
        words = "\0".join([self.system, *(message.text for message in self.messages)])
        return hashlib.sha256(words.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens. `input_tokens` are those that were neither read from the provider's cache nor written to it."""

    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.input_tokens + self.cached_tokens + self.cache_write_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.output_tokens + other.output_tokens,
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `ending` says whether it is whole, was cut at the longest length, or is a refusal to answer."""

    text: str
    ending: Literal["complete", "truncated", "refused"] = "complete"
    usage: Usage = field(default_factory=Usage)


class Provider(Protocol):
    """Asks a model. Every failure is a `ProviderError` without secrets."""

    async def ask(self, request: Request) -> Reply:
        """The reply. Whoever asks sets the time limit; nothing is retried here, but for refused parameters.

        Raises:
            ProviderError: no reply.
        """

    async def check(self) -> None:
        """Make sure that the model can be asked.

        Raises:
            ConfigError: the provider has no such model.
            CredentialsError: it refuses the key.
            ProviderError: it cannot be told now.
        """

    async def close(self) -> None:
        """Give back connections; asking again opens new ones."""
