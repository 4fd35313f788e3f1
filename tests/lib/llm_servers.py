"""A local server that speaks Anthropic's and OpenAI's wire protocols, and misbehaves as told.

Real SDKs talk to it over loopback. What it answers comes from a script: one `Answer` per question, the last one
again and again; or a function of the question.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from live.bridge import LoopThread

MODEL = "test-model"
KEY_NAME = "PERPGYM_TEST_LLM_KEY"
KEY = "sk-test-1234567890abcdef"

HOLD = {"action": "HOLD"}


@dataclass(frozen=True)
class Answer:
    """What the server does with one question.

    kind: `say` answers `text` (as tool input where a tool is forced and the text is an object); `refuse`, `truncate`
    and `empty` are endings of their own; `status` is an HTTP error; `html` no JSON at all; `broken` and `odd` are JSON
    that is cut or of another form; `raw` is `text` as the body, `raw_error` the same with `status`; `cut` breaks the
    connection in the body, `drop` before it; `hang` never answers;
    `drip` sends a byte now and then.
    """

    kind: str = "say"
    text: str = ""
    status: int = 500
    message: str = "it does not work"
    headers: dict[str, str] = field(default_factory=dict)
    usage: Any = None


def say(value: Any) -> Answer:
    """Answers with a decision, or with any words."""
    return Answer("say", value if isinstance(value, str) else json.dumps(value))


def opening(symbol: str = "BTCUSDT", **changes: Any) -> dict[str, Any]:
    """A whole decision that opens a long."""
    return {
        "action": "OPEN_POSITION",
        "symbol": symbol,
        "strategy": "test",
        "side": "BUY",
        "leverage": 2,
        "quantity": 1,
        "stop_loss": None,
        "take_profit": None,
        "confidence": 0.9,
        "reasoning": "because",
        **changes,
    }


@dataclass
class Question:
    """What the server was asked."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def system(self) -> str:
        """The system prompt."""
        if "system" in self.body:
            return "".join(block["text"] for block in self.body["system"])
        return str(self.body["messages"][0]["content"])

    @property
    def user(self) -> str:
        """The last words of the user."""
        return str(self.body["messages"][-1]["content"])


class LlmServer:
    """Both protocols at one address; `url` for Anthropic, `url + "/v1"` for OpenAI."""

    def __init__(self) -> None:
        self.url = ""
        self.questions: list[Question] = []
        self.checks: list[str] = []
        self.script: list[Answer] | Callable[[Question], Answer] = [say(HOLD)]
        self.models: tuple[str, ...] | None = (MODEL,)
        self.refused: dict[str, str] = {}
        self.key_status = 200
        self.slow_models = False
        self._held = asyncio.Event()
        self._over = asyncio.Event()

    def plan(self, *answers: Answer) -> None:
        """Answer so, one after the other; the last one stays."""
        self.script = list(answers)
        self.questions.clear()
        self._held.clear()

    # --- life --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen on a free port of this machine."""
        self._loop = asyncio.get_running_loop()
        app = web.Application()
        app.router.add_post("/v1/messages", self._anthropic)
        app.router.add_post("/v1/chat/completions", self._openai)
        app.router.add_get("/v1/models", self._list)
        app.router.add_get("/v1/models/{name}", self._model)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0][:2])

    def let_go(self) -> None:
        """Answer what hangs, with nothing, and hang no more until the next plan."""
        self._loop.call_soon_threadsafe(self._held.set)

    async def stop(self) -> None:
        """Let go of everything that is held."""
        self._over.set()
        self._held.set()
        await self._runner.cleanup()

    # --- models ------------------------------------------------------------------------------------------

    async def _model(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.checks.append(name)
        if self.slow_models:
            return await self._drip(request, b'{"id": "' + b"x" * 100_000)
        if self.key_status != 200:
            return self._error(request, self.key_status, f"invalid x-api-key {KEY}")
        if self.models is None or name not in self.models:
            return self._error(request, 404, f"model: {name}")
        return web.json_response({"id": name, "type": "model", "object": "model", "display_name": name})

    async def _list(self, request: web.Request) -> web.Response:
        if self.models is None:
            return self._error(request, 404, "not found")
        rows = [{"id": name, "object": "model", "created": 0, "owned_by": "test"} for name in self.models]
        return web.json_response({"object": "list", "data": rows})

    # --- questions ---------------------------------------------------------------------------------------

    async def _anthropic(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, self._message)

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, self._completion)

    async def _answer(
        self, request: web.Request, form: Callable[[Answer, dict[str, Any]], dict[str, Any]]
    ) -> web.StreamResponse:
        body = await request.json()
        for name, message in self.refused.items():
            if name in body:
                return self._error(request, 400, message, param=name)
        headers = {name.lower(): value for name, value in request.headers.items()}
        question = Question(request.path, headers, body)
        self.questions.append(question)
        if callable(self.script):
            answer = self.script(question)
        else:
            answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        match answer.kind:
            case "status":
                return self._error(request, answer.status, answer.message, headers=answer.headers)
            case "html":
                return web.Response(text="<html>gateway</html>", content_type="text/html")
            case "raw" | "raw_error":
                status = 200 if answer.kind == "raw" else answer.status
                return web.Response(text=answer.text, content_type="application/json", status=status)
            case "broken":
                return web.Response(text='{"id": "x", "cont', content_type="application/json")
            case "odd":
                return web.json_response(
                    {"content": 7, "choices": 7, "usage": None, "stop_reason": "end_turn"}
                )
            case "drop":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case "hang":
                await self._held.wait()
                return web.Response()
        said = form(answer, body)
        text = json.dumps(said if answer.usage is None else {**said, "usage": answer.usage}).encode()
        if answer.kind == "drip":
            return await self._drip(request, text)
        if answer.kind != "cut":
            return web.Response(body=text, content_type="application/json")
        response = _stream(text)
        await response.prepare(request)
        await response.write(text[: len(text) // 2])
        assert request.transport is not None
        request.transport.abort()
        return response

    async def _drip(self, request: web.Request, text: bytes) -> web.StreamResponse:
        response = _stream(text)
        await response.prepare(request)
        for byte in text:
            if self._over.is_set() or request.transport is None or request.transport.is_closing():
                break
            await response.write(bytes([byte]))
            await asyncio.sleep(0.05)
        return response

    @staticmethod
    def _error(
        request: web.Request,
        status: int,
        message: str,
        *,
        param: str = "",
        headers: dict[str, str] | None = None,
    ) -> web.Response:
        kind = (
            "not_found_error" if status == 404 else "invalid_request_error" if status == 400 else "api_error"
        )
        if request.path == "/v1/messages" or "anthropic-version" in request.headers:
            body: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": message}}
        else:
            body = {"error": {"message": message, "type": kind, "param": param or None, "code": None}}
        return web.json_response(body, status=status, headers=headers or {})

    def _message(self, answer: Answer, body: dict[str, Any]) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        stop = {"truncate": "max_tokens", "refuse": "refusal"}.get(answer.kind, "end_turn")
        value = _object(answer.text)
        if body.get("tool_choice") and value is not None and answer.kind != "truncate":
            content = [{"type": "tool_use", "id": "t1", "name": "decide", "input": value}]
            stop = "tool_use" if stop == "end_turn" else stop
        elif answer.text:
            content = [{"type": "text", "text": answer.text}]
        return {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": {
                "input_tokens": 100,
                "output_tokens": 20,
                "cache_read_input_tokens": 1000,
                "cache_creation_input_tokens": 0,
            },
        }

    def _completion(self, answer: Answer, body: dict[str, Any]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text or None, "refusal": None}
        finish = {"truncate": "length"}.get(answer.kind, "stop")
        if answer.kind == "refuse":
            message |= {"content": None, "refusal": answer.text or "I cannot help with that."}
        elif body.get("tool_choice") and answer.text:
            function = {"name": "decide", "arguments": answer.text}
            message |= {
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": function}],
            }
        return {
            "id": "c1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
            "usage": {
                "prompt_tokens": 1100,
                "completion_tokens": 20,
                "total_tokens": 1120,
                "prompt_tokens_details": {"cached_tokens": 1000},
            },
        }


def _stream(text: bytes) -> web.StreamResponse:
    return web.StreamResponse(headers={"Content-Length": str(len(text)), "Content-Type": "application/json"})


def _object(text: str) -> Any:
    """The object that a tool is called with: as the API, which only ever sends one."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


@contextmanager
def serving() -> Iterable[LlmServer]:  # type: ignore[misc]
    """A running server."""
    with LoopThread() as bridge:
        server = bridge.call(_made())
        try:
            yield server
        finally:
            bridge.call(server.stop())


async def _made() -> LlmServer:
    server = LlmServer()
    await server.start()
    return server


def llm_file(folder: Path, url: str = "http://127.0.0.1:9", kind: str = "anthropic", **changes: Any) -> Path:
    """An agent's file that asks the server at `url`; `changes` go over it, sections key by key."""
    base: dict[str, Any] = {
        "name": "llm-t",
        "provider": {
            "kind": kind,
            "model": MODEL,
            "base_url": url if kind == "anthropic" else f"{url}/v1",
            "api_key_env": KEY_NAME,
            "temperature": 0.5,
            "timeout_s": 20.0,
            "retry_delay_s": 0.0,
        },
        "prompt": {"candles": 4},
        "symbols": ["BTCUSDT", "ETHUSDT"],
        "interval": "1h",
        "budget": {"decisions_per_hour": None},
        "records": {"log": str(folder / "decisions.log"), "rejected_prompts": 1.0},
        "cache": str(folder / "cache"),
        "env": {"initial_capital_usdt": 1000.0, "max_leverage": 3.0, "slippage_bps": 0.0},
        "features": {"indicators": [{"name": "log_return", "periods": 1}, {"name": "rsi", "period": 3}]},
        "risk": {"max_leverage": 2.0},
    }
    for name, value in changes.items():
        base[name] = (
            {**base[name], **value} if isinstance(value, dict) and isinstance(base.get(name), dict) else value
        )
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(base), encoding="utf-8")
    return path


def records(folder: Path) -> list[dict[str, Any]]:
    """What the decision log holds, but for a torn line."""
    path = folder / "decisions.log"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]
