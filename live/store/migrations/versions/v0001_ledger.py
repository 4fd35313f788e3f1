"""The ledger: what the exchange booked, and what is folded from it.

Revision 0001, after nothing.
"""

import sqlalchemy as sa
from alembic import op

from live.store.types import ExactDecimal, JsonText

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ID = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
MONEY = ExactDecimal()
JSON = JsonText()


def upgrade() -> None:
    """Make the ledger's tables."""
    op.create_table(
        "exchanges",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exchanges")),
        sa.UniqueConstraint("name", name=op.f("uq_exchanges_name")),
    )
    op.create_table(
        "accounts",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("exchange_id", KEY, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.CheckConstraint("name <> ''", name=op.f("ck_accounts_name_given")),
        sa.ForeignKeyConstraint(["exchange_id"], ["exchanges.id"], name=op.f("fk_accounts_exchange_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("exchange_id", "name", name=op.f("uq_accounts_exchange_id_name")),
    )
    op.create_table(
        "books",
        sa.Column("exchange_id", KEY, nullable=False),
        sa.Column("symbol", sa.String(length=32), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("fills", sa.BigInteger(), nullable=False),
        sa.Column("income", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("fills >= 0 AND income >= 0 AND version >= 0", name=op.f("ck_books_counts")),
        sa.ForeignKeyConstraint(["exchange_id"], ["exchanges.id"], name=op.f("fk_books_exchange_id")),
        sa.PrimaryKeyConstraint("exchange_id", "symbol", name=op.f("pk_books")),
    )
    op.create_table(
        "funding",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("exchange_id", KEY, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("symbol", sa.String(length=32), nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.Column("transaction_id", ID, nullable=False),
        sa.Column("amount_usdt", MONEY, nullable=False),
        sa.Column("rate", MONEY, nullable=True),
        sa.Column("mark_price", MONEY, nullable=True),
        sa.CheckConstraint("kind IN ('FUNDING', 'CLEARANCE')", name=op.f("ck_funding_kind_known")),
        sa.CheckConstraint("time_ms > 0", name=op.f("ck_funding_time_ms_above_zero")),
        sa.ForeignKeyConstraint(["exchange_id"], ["exchanges.id"], name=op.f("fk_funding_exchange_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_funding")),
        sa.UniqueConstraint(
            "exchange_id",
            "kind",
            "symbol",
            "time_ms",
            "transaction_id",
            name=op.f("uq_funding_exchange_id_kind_symbol_time_ms_transaction_id"),
        ),
    )
    op.create_table(
        "sync_cursors",
        sa.Column("exchange_id", KEY, nullable=False),
        sa.Column("stream", sa.String(length=32), nullable=False),
        sa.Column("symbol", sa.String(length=32), nullable=False),
        sa.Column("position", ID, nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["exchange_id"], ["exchanges.id"], name=op.f("fk_sync_cursors_exchange_id")),
        sa.PrimaryKeyConstraint("exchange_id", "stream", "symbol", name=op.f("pk_sync_cursors")),
    )
    op.create_table(
        "allocations",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("exchange_id", KEY, nullable=False),
        sa.Column("symbol", sa.String(length=32), nullable=False),
        sa.Column("account_id", KEY, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("reference", ID, nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.Column("quantity", MONEY, nullable=False),
        sa.Column("amount", MONEY, nullable=False),
        sa.CheckConstraint(
            "kind IN ('FILL', 'FUNDING', 'CLEARANCE')", name=op.f("ck_allocations_kind_known")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_allocations_account_id")),
        sa.ForeignKeyConstraint(["exchange_id"], ["exchanges.id"], name=op.f("fk_allocations_exchange_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_allocations")),
    )
    op.create_index("ix_allocations_account", "allocations", ["account_id", "time_ms"], unique=False)
    op.create_index("ix_allocations_book", "allocations", ["exchange_id", "symbol", "time_ms"], unique=False)
    op.create_table(
        "fills",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("exchange_id", KEY, nullable=False),
        sa.Column("symbol", sa.String(length=32), nullable=False),
        sa.Column("trade_id", ID, nullable=False),
        sa.Column("order_id", ID, nullable=False),
        sa.Column("client_order_id", sa.String(length=64), nullable=False),
        sa.Column("account_id", KEY, nullable=True),
        sa.Column("side", sa.String(length=4), nullable=False),
        sa.Column("quantity", MONEY, nullable=False),
        sa.Column("price", MONEY, nullable=False),
        sa.Column("quote_quantity", MONEY, nullable=False),
        sa.Column("commission", MONEY, nullable=False),
        sa.Column("commission_asset", sa.String(length=16), nullable=False),
        sa.Column("realized_pnl", MONEY, nullable=False),
        sa.Column("maker", sa.Boolean(), nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("side IN ('BUY', 'SELL')", name=op.f("ck_fills_side_known")),
        sa.CheckConstraint("symbol <> '' AND trade_id <> ''", name=op.f("ck_fills_key_given")),
        sa.CheckConstraint("CAST(price AS DOUBLE PRECISION) > 0", name=op.f("ck_fills_price_above_zero")),
        sa.CheckConstraint(
            "CAST(quantity AS DOUBLE PRECISION) > 0", name=op.f("ck_fills_quantity_above_zero")
        ),
        sa.CheckConstraint("time_ms > 0", name=op.f("ck_fills_time_ms_above_zero")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_fills_account_id")),
        sa.ForeignKeyConstraint(["exchange_id"], ["exchanges.id"], name=op.f("fk_fills_exchange_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fills")),
        sa.UniqueConstraint(
            "exchange_id", "symbol", "trade_id", name=op.f("uq_fills_exchange_id_symbol_trade_id")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_fills_account", "fills", ["account_id", "time_ms"], unique=False)
    op.create_index("ix_fills_book", "fills", ["exchange_id", "symbol", "time_ms"], unique=False)
    op.create_table(
        "snapshots",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("exchange_id", sa.BigInteger(), nullable=False),
        sa.Column("symbol", sa.String(length=32), nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("net_quantity", MONEY, nullable=False),
        sa.Column("net_cost", MONEY, nullable=False),
        sa.Column("net_realized", MONEY, nullable=False),
        sa.Column("net_fees", MONEY, nullable=False),
        sa.Column("net_income", MONEY, nullable=False),
        sa.Column("reported_realized", MONEY, nullable=False),
        sa.Column("liquidated", JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["exchange_id", "symbol"],
            ["books.exchange_id", "books.symbol"],
            name=op.f("fk_snapshots_exchange_id_symbol"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshots")),
        sa.UniqueConstraint(
            "exchange_id", "symbol", "time_ms", name=op.f("uq_snapshots_exchange_id_symbol_time_ms")
        ),
    )
    op.create_table(
        "transfers",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("exchange_id", KEY, nullable=False),
        sa.Column("account_id", KEY, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("transaction_id", ID, nullable=False),
        sa.Column("amount_usdt", MONEY, nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.CheckConstraint("kind IN ('DEPOSIT', 'CAPITAL')", name=op.f("ck_transfers_kind_known")),
        sa.CheckConstraint(
            "CAST(amount_usdt AS DOUBLE PRECISION) <> 0", name=op.f("ck_transfers_amount_not_zero")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_transfers_account_id")),
        sa.ForeignKeyConstraint(["exchange_id"], ["exchanges.id"], name=op.f("fk_transfers_exchange_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transfers")),
        sa.UniqueConstraint(
            "exchange_id",
            "transaction_id",
            "account_id",
            name=op.f("uq_transfers_exchange_id_transaction_id_account_id"),
        ),
    )
    op.create_table(
        "positions",
        sa.Column("snapshot_id", KEY, nullable=False),
        sa.Column("account_id", KEY, nullable=False),
        sa.Column("p1", MONEY, nullable=False),
        sa.Column("p2", MONEY, nullable=False),
        sa.Column("p1_fee", MONEY, nullable=False),
        sa.Column("p2_fee", MONEY, nullable=False),
        sa.Column("cost", MONEY, nullable=False),
        sa.Column("realized", MONEY, nullable=False),
        sa.Column("fees", MONEY, nullable=False),
        sa.Column("funding", MONEY, nullable=False),
        sa.Column("clearance", MONEY, nullable=False),
        sa.Column("cash", MONEY, nullable=False),
        sa.Column("volume", MONEY, nullable=False),
        sa.Column("other_fees", JSON, nullable=False),
        sa.Column("fills", sa.BigInteger(), nullable=False),
        sa.Column("opened_ms", sa.BigInteger(), nullable=False),
        sa.Column("opened_by", ID, nullable=False),
        sa.Column("entry_quantity", MONEY, nullable=False),
        sa.Column("entry_quote", MONEY, nullable=False),
        sa.Column("exit_quantity", MONEY, nullable=False),
        sa.Column("exit_quote", MONEY, nullable=False),
        sa.Column("trip_realized", MONEY, nullable=False),
        sa.Column("trip_funding", MONEY, nullable=False),
        sa.Column("trip_clearance", MONEY, nullable=False),
        sa.Column("trip_fills", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "CAST(p1_fee AS DOUBLE PRECISION) >= 0", name=op.f("ck_positions_p1_fee_not_negative")
        ),
        sa.CheckConstraint("fills >= 0 AND trip_fills >= 0", name=op.f("ck_positions_counts")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_positions_account_id")),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["snapshots.id"], name=op.f("fk_positions_snapshot_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("snapshot_id", "account_id", name=op.f("pk_positions")),
    )
    op.create_table(
        "transactions",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("exchange_id", KEY, nullable=False),
        sa.Column("account_id", KEY, nullable=False),
        sa.Column("symbol", sa.String(length=32), nullable=False),
        sa.Column("side", sa.String(length=5), nullable=False),
        sa.Column("entry_ms", sa.BigInteger(), nullable=False),
        sa.Column("entry_trade_id", ID, nullable=False),
        sa.Column("exit_ms", sa.BigInteger(), nullable=True),
        sa.Column("exit_trade_id", ID, nullable=False),
        sa.Column("exit_reason", sa.String(length=16), nullable=False),
        sa.Column("quantity", MONEY, nullable=False),
        sa.Column("open_quantity", MONEY, nullable=False),
        sa.Column("entry_price", MONEY, nullable=False),
        sa.Column("exit_price", MONEY, nullable=True),
        sa.Column("open_cost", MONEY, nullable=False),
        sa.Column("entry_quote", MONEY, nullable=False),
        sa.Column("exit_quote", MONEY, nullable=False),
        sa.Column("realized", MONEY, nullable=False),
        sa.Column("fees", MONEY, nullable=False),
        sa.Column("funding", MONEY, nullable=False),
        sa.Column("clearance", MONEY, nullable=False),
        sa.Column("fills", sa.BigInteger(), nullable=False),
        sa.Column("last_price", MONEY, nullable=True),
        sa.Column("last_price_ms", sa.BigInteger(), nullable=True),
        sa.Column("unrealized", MONEY, nullable=True),
        sa.CheckConstraint(
            "(exit_ms IS NULL) = (exit_reason = '')", name=op.f("ck_transactions_exit_has_reason")
        ),
        sa.CheckConstraint(
            "exit_reason IN ('', 'TP_HIT', 'SL_HIT', 'SIGNAL', 'PROTECTIVE_STOP', 'EMERGENCY', "
            "'LIQUIDATION', 'ADL', 'MANUAL')",
            name=op.f("ck_transactions_exit_reason_known"),
        ),
        sa.CheckConstraint("side IN ('LONG', 'SHORT')", name=op.f("ck_transactions_side_known")),
        sa.CheckConstraint(
            "CAST(quantity AS DOUBLE PRECISION) > 0", name=op.f("ck_transactions_quantity_above_zero")
        ),
        sa.CheckConstraint(
            "exit_ms IS NULL OR exit_ms >= entry_ms", name=op.f("ck_transactions_exit_after_entry")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_transactions_account_id")),
        sa.ForeignKeyConstraint(
            ["exchange_id", "symbol", "entry_trade_id"],
            ["fills.exchange_id", "fills.symbol", "fills.trade_id"],
            name=op.f("fk_transactions_exchange_id_symbol_entry_trade_id"),
        ),
        sa.ForeignKeyConstraint(["exchange_id"], ["exchanges.id"], name=op.f("fk_transactions_exchange_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transactions")),
        sa.UniqueConstraint(
            "account_id",
            "symbol",
            "entry_trade_id",
            name=op.f("uq_transactions_account_id_symbol_entry_trade_id"),
        ),
    )
    op.create_index(
        "ix_transactions_book", "transactions", ["exchange_id", "symbol", "exit_ms"], unique=False
    )


def downgrade() -> None:
    """Remove them, and what they hold."""
    for table in (
        "transactions",
        "positions",
        "transfers",
        "snapshots",
        "fills",
        "allocations",
        "sync_cursors",
        "funding",
        "books",
        "accounts",
        "exchanges",
    ):
        op.drop_table(table)
