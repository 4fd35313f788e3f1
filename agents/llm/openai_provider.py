"""OpenAI, DeepSeek, and every server that speaks OpenAI's chat completions, by the OpenAI SDK."""

from __future__ import annotations

from typing import Any

from agents.llm.config import ProviderConfig
from agents.llm.errors import ProviderError
from agents.llm.providers import TOOL, UNREADABLE, SdkProvider, tokens
from agents.llm.request import Reply, Request, Usage

_BASE_URL = "https://api.openai.com/v1"
_TOOL_TEXT = "Give your decision."
_LIMITS = ("max_completion_tokens", "max_tokens")


class OpenAIProvider(SdkProvider):
    """See `Provider`. Chat completions: what compatible servers have in common with OpenAI."""

    def __init__(self, config: ProviderConfig, key: str, sdk: Any) -> None:
        super().__init__(config, key)
        self._sdk = sdk
        self._client: Any = None
        # OpenAI's newer models refuse max_tokens; most compatible servers know nothing else.
        self._limit = _LIMITS[0] if config.base_url is None else _LIMITS[1]
        self._swapped = False

    async def _ask(self, request: Request) -> Reply:
        body: dict[str, Any] = {**self.extras(request), self._limit: request.max_output_tokens}
        schema = dict(request.schema)
        if self.mode == "schema":
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": TOOL, "schema": schema, "strict": True},
            }
        elif self.mode == "tool":
            function: dict[str, Any] = {"name": TOOL, "description": _TOOL_TEXT, "parameters": schema}
            if "strict" not in self.refused:
                function["strict"] = True
            body["tools"] = [{"type": "function", "function": function}]
            if "tool_choice" not in self.refused:
                body["tool_choice"] = {"type": "function", "function": {"name": TOOL}}
        elif self.mode == "json":
            body["response_format"] = {"type": "json_object"}
        completion = await self._call(
            self._connected().chat.completions.create(
                model=request.model,
                messages=[
                    {"role": "system", "content": request.system},
                    *({"role": one.role, "content": one.text} for one in request.messages),
                ],
                extra_body=body,
            )
        )
        if not isinstance(completion, self._sdk.types.chat.ChatCompletion):
            raise ProviderError(self.said(f"the reply is no completion: {completion}"), retryable=True)
        try:
            return _read(completion)
        except UNREADABLE as error:
            raise ProviderError(self.said(f"the reply cannot be read: {error}"), retryable=True) from None

    async def _check(self) -> None:
        """A server that does not tell of its models is taken at its word until it is asked."""
        sdk, models = self._sdk, self._connected().models
        try:
            await models.retrieve(self.config.model)
        except (sdk.NotFoundError, sdk.BadRequestError, sdk.UnprocessableEntityError) as error:
            known = await self._listed()
            if known is not None and self.config.model not in known:
                raise self.no_model(self.said(error.message), known) from None
        except (sdk.AuthenticationError, sdk.PermissionDeniedError) as error:
            raise self.no_entry(error.status_code, error.message) from None
        except sdk.APIStatusError as error:
            if error.status_code not in (405, 501):
                raise self.failure(error) from None
        except (sdk.OpenAIError, *UNREADABLE) as error:
            raise self.failure(error) from None

    async def _listed(self) -> tuple[str, ...] | None:
        """The models that the server tells of; None when it tells of none."""
        sdk = self._sdk
        try:
            page = await self._connected().models.list()
            return tuple(str(one.id) for one in page.data) or None
        except sdk.APIStatusError as error:
            if error.status_code in (400, 404, 405, 422, 501):
                return None
            raise self.failure(error) from None
        except (AttributeError, TypeError):
            return None
        except (sdk.OpenAIError, *UNREADABLE) as error:
            raise self.failure(error) from None

    async def _call(self, coroutine: Any) -> Any:
        sdk = self._sdk
        try:
            return await coroutine
        except sdk.APIStatusError as error:
            headers = error.response.headers
            # Some servers' error is a bare string, which the SDK keeps to itself.
            said = f"{error.message}: {error.body}" if isinstance(error.body, str) else error.message
            raise self.refusal(error.status_code, said, headers, error.param) from None
        except (sdk.OpenAIError, *UNREADABLE) as error:
            raise self.failure(error) from None

    def _swap(self, words: str) -> bool:
        if self._swapped or self._limit not in words:
            return False
        self._swapped = True
        self._limit = _LIMITS[1 - _LIMITS.index(self._limit)]
        return True

    def _mode_words(self, mode: str) -> tuple[str, ...]:
        return {
            "schema": ("response_format", "json_schema", "schema", "structured outputs"),
            "tool": ("tool_choice", "tools", "tool", "function", "functions", "strict"),
            "json": ("response_format", "json_object"),
        }.get(mode, ())

    def _connected(self) -> Any:
        if self._client is None:
            self._client = self._sdk.AsyncOpenAI(
                api_key=self._key or "none",
                base_url=self.config.base_url or _BASE_URL,
                max_retries=0,
                timeout=self.config.timeout_s,
            )
            if self.config.base_url is not None:
                # The SDK takes these from the environment; they are nobody else's business.
                self._client.organization = self._client.project = None
        return self._client

    async def close(self) -> None:
        """See `Provider.close`."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _read(completion: Any) -> Reply:
    choice = completion.choices[0]
    message = choice.message
    words = [
        call.function.arguments
        for call in message.tool_calls or ()
        if getattr(call, "type", "") == "function"
    ]
    if message.content:
        words.append(message.content)
    refused = bool(message.refusal) or choice.finish_reason == "content_filter"
    ending = "refused" if refused else "truncated" if choice.finish_reason == "length" else "complete"
    return Reply("\n".join([*words, message.refusal or ""]).strip(), ending, _usage(completion.usage))  # type: ignore[arg-type]


def _usage(usage: Any) -> Usage:
    if usage is None:
        return Usage()
    details = getattr(usage, "prompt_tokens_details", None)
    # DeepSeek has a name of its own.
    cached = tokens(getattr(details, "cached_tokens", getattr(usage, "prompt_cache_hit_tokens", None)))
    written = tokens(getattr(details, "cache_write_tokens", None))
    return Usage(
        input_tokens=max(tokens(getattr(usage, "prompt_tokens", None)) - cached - written, 0),
        cached_tokens=cached,
        cache_write_tokens=written,
        output_tokens=tokens(getattr(usage, "completion_tokens", None)),
    )
