"""Databases of both kinds."""

from databases import database

__all__ = ["database"]
