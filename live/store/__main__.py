"""`python -m live.store`."""

from live.store.cli import app

if __name__ == "__main__":
    app()
