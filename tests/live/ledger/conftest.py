"""Databases of both kinds."""

from databases import database, store

__all__ = ["database", "store"]
