"""The store: one database for everything that a run must remember (`docs/store.md`).

`Store.open(url)` gives transactions over SQLite or PostgreSQL; `models` are its tables; `live.ledger` keeps the
truth in them. Money is `Decimal`, exactly, in both.
"""

from live.store.database import Store, database_url
from live.store.journal import Decision, Emergency, Equity, Journal, OrderRecord

__all__ = ["Decision", "Emergency", "Equity", "Journal", "OrderRecord", "Store", "database_url"]
