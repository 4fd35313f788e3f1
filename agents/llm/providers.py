"""Providers on the real SDKs: what both have in common, and how one is made from its settings."""

from __future__ import annotations

import abc
import asyncio
import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agents.llm.config import ProviderConfig
from agents.llm.errors import ProviderError
from agents.llm.request import Provider, Reply, Request
from agents.llm.text import plain, redacted, without
from envs.errors import ConfigError, CredentialsError

if TYPE_CHECKING:
    from types import ModuleType

TOOL = "decide"
"""Name of the tool, or of the schema, that a decision is given through."""

UNREADABLE = (
    ValueError,
    TypeError,
    OSError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)
"""What becomes of an SDK, or of us, at a body that is no reply: nested too deeply, infinite, of another form."""

_MODES = ("schema", "tool", "json", "text")
_ERROR_CHARS = 300
_RETRYABLE = frozenset((408, 409, 425, 429))
# A model that refuses more than this is not the one that was meant.
_MOST_REFUSALS = 10
_MOST_TOKENS = 10**9
# What a forced tool call may do without.
_TOOL_SWITCHES = ("strict", "tool_choice")


def make_provider(config: ProviderConfig, environ: Mapping[str, str] | None = None) -> Provider:
    """The provider of these settings, with its key from the environment.

    Raises:
        ConfigError: its SDK is not installed.
        CredentialsError: the key is not set.
    """
    sdk = import_sdk(config.kind)
    key = _key(config, os.environ if environ is None else environ)
    # Imported here: the SDKs are an extra, and each takes its time.
    if config.kind == "anthropic":
        from agents.llm.anthropic_provider import AnthropicProvider

        return AnthropicProvider(config, key, sdk)
    from agents.llm.openai_provider import OpenAIProvider

    return OpenAIProvider(config, key, sdk)


def import_sdk(name: str) -> ModuleType:
    """The SDK.

    Raises:
        ConfigError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"an LLM agent of kind {name} needs the package {name} ({error}): pip install 'perpgym[llm]', or "
            f"pip install {name}"
        ) from error


def _key(config: ProviderConfig, environ: Mapping[str, str]) -> str:
    if config.api_key_env is None:
        return ""
    key = environ.get(config.api_key_env, "").strip()
    if not key:
        raise CredentialsError(
            f"the key of {config.model} is missing: set the environment variable {config.api_key_env}; a "
            "backtest can also run --offline from the replay cache"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise CredentialsError(
            f"the key in {config.api_key_env} holds a blank or a character that no key has: copy it again"
        )
    return key


def tokens(value: object) -> int:
    """A count of tokens as a server gave it; 0 where it gave none."""
    if isinstance(value, int | float) and 0 <= value <= _MOST_TOKENS:
        return int(value)
    return 0


class SdkProvider(abc.ABC):
    """A provider that remembers which parameters its model refuses."""

    def __init__(self, config: ProviderConfig, key: str) -> None:
        self.config = config
        self._key = key
        self._modes = list(_MODES) if config.reply == "auto" else [config.reply]
        self._dropped: set[str] = set()
        self._answered = False

    @property
    def mode(self) -> str:
        """How replies are bound to their form now: schema, tool, json or text."""
        return self._modes[0]

    @property
    def refused(self) -> frozenset[str]:
        """Parameters that the model refused."""
        return frozenset(self._dropped)

    async def ask(self, request: Request) -> Reply:
        """See `Provider.ask`. A parameter that is refused is left out from then on.

        Raises:
            ConfigError: there is no such model, and there never was an answer.
        """
        for _ in range(_MOST_REFUSALS):
            try:
                reply = await self._ask(request)
                self._answered = True
                return replace(reply, text=without(reply.text, self._key))
            except _RefusedError as refusal:
                if not self._give_way(refusal, request):
                    raise ProviderError(str(refusal)) from None
        raise ProviderError(
            f"{request.model} refuses one parameter after another; check provider in its settings"
        )

    @abc.abstractmethod
    async def _ask(self, request: Request) -> Reply:
        """Ask once."""

    async def check(self) -> None:
        """See `Provider.check`. Takes no longer than a decision may."""
        try:
            async with asyncio.timeout(self.config.timeout_s):
                await self._check()
        except TimeoutError:
            raise ProviderError(f"no answer within {self.config.timeout_s:g} s", retryable=True) from None

    @abc.abstractmethod
    async def _check(self) -> None:
        """Check without a time limit."""

    @abc.abstractmethod
    async def close(self) -> None:
        """See `Provider.close`."""

    @abc.abstractmethod
    def _mode_words(self, mode: str) -> tuple[str, ...]:
        """What a refusal of this mode speaks of."""

    def _swap(self, _words: str) -> bool:
        """Put another parameter in the place of a refused one, where a provider has two for the same."""
        return False

    def _give_way(self, refusal: _RefusedError, request: Request) -> bool:
        """Leave out what was refused; False when it is nothing that can be left out."""
        words = refusal.words
        if self._swap(words):
            return True
        droppable = [*(["temperature"] if request.temperature is not None else []), *request.extra_body]
        for name in droppable:
            if name not in self._dropped and _speaks_of(words, name):
                self._dropped.add(name)
                return True
        for name in _TOOL_SWITCHES if self.mode == "tool" else ():
            if name not in self._dropped and _speaks_of(words, name):
                self._dropped.add(name)
                return True
        if len(self._modes) > 1 and any(_speaks_of(words, word) for word in self._mode_words(self.mode)):
            del self._modes[0]
            return True
        return False

    def extras(self, request: Request) -> dict[str, Any]:
        """Temperature and further fields, as far as they are not refused."""
        fields = dict(request.extra_body)
        if request.temperature is not None:
            fields["temperature"] = request.temperature
        return {name: value for name, value in fields.items() if name not in self._dropped}

    # --- failures ----------------------------------------------------------------------------------------

    def said(self, text: object) -> str:
        """What a provider said, on one line, without keys."""
        return plain(redacted(str(text), (self._key,)), _ERROR_CHARS)

    def failure(self, error: Exception) -> ProviderError:
        """An error of the SDK that is no reply of the provider."""
        cause = error.__cause__
        detail = f" ({type(cause).__name__}: {cause})" if cause is not None and str(cause) else ""
        return ProviderError(self.said(f"{type(error).__name__}: {error}{detail}"), retryable=True)

    def refusal(
        self, status: int, message: object, headers: Mapping[str, str], param: object = None
    ) -> Exception:
        """What an HTTP error of the provider means. `message` and `param` are whatever its JSON holds."""
        text = self.said(f"HTTP {status}: {message}")
        if status in (400, 422):
            return _RefusedError(text, param if isinstance(param, str) and param else str(message))
        if status == 404 and not self._answered:
            # Not a hold at every candle: the server could not be asked at the start, or does not tell of its models.
            return self.no_model(text)
        retryable = status in _RETRYABLE or status >= 500
        return ProviderError(text, retryable=retryable, retry_after_s=_retry_after(headers))

    def no_model(self, detail: str, known: tuple[str, ...] = ()) -> ConfigError:
        """The error of a model that there is not."""
        import difflib

        near = difflib.get_close_matches(self.config.model, known, n=3, cutoff=0.4) or list(known[:5])
        hint = f" It has {', '.join(near)}." if near else ""
        return ConfigError(
            f"{self.config.kind} has no model {self.config.model!r} ({detail}): it is unknown or retired, or "
            f"provider.base_url is not where it is.{hint} Set provider.model, or provider.check_model: false for a "
            "name that the server does not list"
        )

    def no_entry(self, status: int, message: object) -> CredentialsError:
        """The error of a key that is refused."""
        return CredentialsError(
            self.said(
                f"{self.config.kind} refuses the key in {self.config.api_key_env or 'no variable'} for "
                f"{self.config.model} (HTTP {status}: {message})"
            )
        )


class _RefusedError(ProviderError):
    """The provider calls the request wrong; `words` say what is wrong with it."""

    def __init__(self, message: str, words: str) -> None:
        super().__init__(message)
        self.words = words.lower()


def _speaks_of(words: str, name: str) -> bool:
    return re.search(rf"(?<![a-z]){re.escape(name.lower())}(?![a-z])", words) is not None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if seconds >= 0 else None
