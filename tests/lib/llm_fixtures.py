"""Fixtures of tests that ask a language model's server: a conftest takes those that it names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from llm_servers import HOLD, KEY, KEY_NAME, MODEL, LlmServer, say, serving


@pytest.fixture(scope="module")
def running() -> Iterator[LlmServer]:
    with serving() as server:
        yield server


@pytest.fixture
def server(running: LlmServer) -> LlmServer:
    running.plan(say(HOLD))
    running.checks.clear()
    running.models = (MODEL,)
    running.refused = {}
    running.key_status = 200
    running.slow_models = False
    return running


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_NAME, KEY)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
