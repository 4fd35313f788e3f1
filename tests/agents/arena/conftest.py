"""A server for a module's tests, and a key in the environment."""

from llm_fixtures import key, running, server

__all__ = ["key", "running", "server"]
