"""`python -m live.sync`."""

from live.sync.cli import app

app()
