"""Claude by the Anthropic SDK: messages with structured output, a forced tool, or JSON in words."""

from __future__ import annotations

import json
from typing import Any

from agents.llm.config import ProviderConfig
from agents.llm.errors import ProviderError
from agents.llm.providers import TOOL, UNREADABLE, SdkProvider, tokens
from agents.llm.request import Reply, Request, Usage

_BASE_URL = "https://api.anthropic.com"
_TOOL_TEXT = "Give your decision."


class AnthropicProvider(SdkProvider):
    """See `Provider`. The system prompt is marked for the provider's prompt cache."""

    def __init__(self, config: ProviderConfig, key: str, sdk: Any) -> None:
        super().__init__(config, key)
        self._sdk = sdk
        self._client: Any = None

    async def _ask(self, request: Request) -> Reply:
        body: dict[str, Any] = self.extras(request)
        if self.mode == "schema":
            body["output_config"] = {"format": {"type": "json_schema", "schema": dict(request.schema)}}
        elif self.mode == "tool":
            tool: dict[str, Any] = {
                "name": TOOL,
                "description": _TOOL_TEXT,
                "input_schema": dict(request.schema),
            }
            if "strict" not in self.refused:
                tool["strict"] = True
            body["tools"] = [tool]
            if "tool_choice" not in self.refused:
                body["tool_choice"] = {"type": "tool", "name": TOOL, "disable_parallel_tool_use": True}
        message = await self._call(
            self._connected().messages.create(
                model=request.model,
                max_tokens=request.max_output_tokens,
                system=[{"type": "text", "text": request.system, "cache_control": {"type": "ephemeral"}}],
                messages=[{"role": one.role, "content": one.text} for one in request.messages],
                # Not as arguments: the SDK's list of parameters follows its newest models.
                extra_body=body,
            )
        )
        if not isinstance(message, self._sdk.types.Message):
            raise ProviderError(self.said(f"the reply is no message: {message}"), retryable=True)
        try:
            return _read(message)
        except UNREADABLE as error:
            raise ProviderError(self.said(f"the reply cannot be read: {error}"), retryable=True) from None

    async def _check(self) -> None:
        sdk = self._sdk
        try:
            await self._connected().models.retrieve(self.config.model)
        except sdk.NotFoundError as error:
            raise self.no_model(self.said(error.message)) from None
        except (sdk.AuthenticationError, sdk.PermissionDeniedError) as error:
            raise self.no_entry(error.status_code, error.message) from None
        except (sdk.AnthropicError, *UNREADABLE) as error:
            raise self.failure(error) from None

    async def _call(self, coroutine: Any) -> Any:
        sdk = self._sdk
        try:
            return await coroutine
        except sdk.APIStatusError as error:
            text = error.api_message or error.message
            raise self.refusal(error.status_code, text, error.response.headers) from None
        except (sdk.AnthropicError, *UNREADABLE) as error:
            raise self.failure(error) from None

    def _mode_words(self, mode: str) -> tuple[str, ...]:
        return {
            "schema": ("output_config", "output_format", "json_schema", "schema", "structured outputs"),
            "tool": ("tool_choice", "tools", "tool", "strict", "input_schema"),
        }.get(mode, ())

    def _connected(self) -> Any:
        if self._client is None:
            self._client = self._sdk.AsyncAnthropic(
                api_key=self._key or "none",
                base_url=self.config.base_url or _BASE_URL,
                max_retries=0,
                timeout=self.config.timeout_s,
            )
        return self._client

    async def close(self) -> None:
        """See `Provider.close`."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _read(message: Any) -> Reply:
    words: list[str] = []
    for block in message.content or ():
        if block.type == "tool_use":
            # As text, so that there is one way to read a decision.
            words.append(json.dumps(block.input))
        elif block.type == "text":
            words.append(block.text)
    ending = {"max_tokens": "truncated", "model_context_window_exceeded": "truncated", "refusal": "refused"}
    usage = message.usage
    return Reply(
        "\n".join(words),
        ending.get(message.stop_reason or "", "complete"),  # type: ignore[arg-type]
        Usage(
            input_tokens=tokens(getattr(usage, "input_tokens", None)),
            cached_tokens=tokens(getattr(usage, "cache_read_input_tokens", None)),
            cache_write_tokens=tokens(getattr(usage, "cache_creation_input_tokens", None)),
            output_tokens=tokens(getattr(usage, "output_tokens", None)),
        ),
    )
