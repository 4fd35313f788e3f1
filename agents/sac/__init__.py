"""Soft actor-critic: loading, running and training policies."""
