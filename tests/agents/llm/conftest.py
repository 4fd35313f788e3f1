"""A server for a module's tests, and a key in the environment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from llm_fixtures import key, running, server
from llm_scripted import close_all

__all__ = ["closed", "key", "running", "server"]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_all()
