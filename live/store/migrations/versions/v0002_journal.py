"""The journal beside the ledger: orders, decisions, equity, emergencies.

Revision 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

from live.store.types import ExactDecimal, JsonText

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ID = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
MONEY = ExactDecimal()
JSON = JsonText()


def upgrade() -> None:
    """Make the journal's tables."""
    op.create_table(
        "decisions",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("account_id", KEY, nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.Column("symbol", sa.String(length=32), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("decision", JSON, nullable=True),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("provider", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("template", sa.String(length=128), nullable=False),
        sa.Column("prompt_hash", sa.String(length=64), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=True),
        sa.Column("reply", sa.Text(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd", MONEY, nullable=False),
        sa.Column("latency_ms", sa.BigInteger(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("client_order_id", sa.String(length=64), nullable=False),
        sa.CheckConstraint(
            "verdict IN ('ACCEPTED', 'REDUCED', 'REJECTED', 'INVALID', 'FAILED', 'OVER_BUDGET')",
            name=op.f("ck_decisions_verdict_known"),
        ),
        sa.CheckConstraint(
            "CAST(cost_usd AS DOUBLE PRECISION) >= 0", name=op.f("ck_decisions_cost_usd_not_negative")
        ),
        sa.CheckConstraint(
            "input_tokens >= 0 AND cached_tokens >= 0 AND output_tokens >= 0 AND latency_ms >= 0 AND calls >= 0",
            name=op.f("ck_decisions_counts"),
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_decisions_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
    )
    op.create_index("ix_decisions_account", "decisions", ["account_id", "time_ms"], unique=False)
    op.create_table(
        "emergencies",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("exchange_id", KEY, nullable=False),
        sa.Column("account_id", KEY, nullable=True),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("drawdown_fraction", MONEY, nullable=False),
        sa.Column("limit_fraction", MONEY, nullable=True),
        sa.Column("peak_usdt", MONEY, nullable=False),
        sa.Column("equity_before_usdt", MONEY, nullable=False),
        sa.Column("equity_after_usdt", MONEY, nullable=False),
        sa.Column("tries", sa.BigInteger(), nullable=False),
        sa.Column("succeeded", sa.Boolean(), nullable=False),
        sa.Column("failures", JSON, nullable=False),
        sa.Column("acknowledged_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("tries >= 0", name=op.f("ck_emergencies_counts")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_emergencies_account_id")),
        sa.ForeignKeyConstraint(["exchange_id"], ["exchanges.id"], name=op.f("fk_emergencies_exchange_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_emergencies")),
        sa.UniqueConstraint(
            "exchange_id", "account_id", "time_ms", name=op.f("uq_emergencies_exchange_id_account_id_time_ms")
        ),
    )
    op.create_table(
        "equity",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("account_id", KEY, nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.Column("wallet_usdt", MONEY, nullable=False),
        sa.Column("unrealized_usdt", MONEY, nullable=False),
        sa.Column("equity_usdt", MONEY, nullable=False),
        sa.Column("peak_usdt", MONEY, nullable=False),
        sa.Column("drawdown_fraction", MONEY, nullable=False),
        sa.Column("initial_margin_usdt", MONEY, nullable=False),
        sa.Column("maintenance_margin_usdt", MONEY, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_equity_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_equity")),
        sa.UniqueConstraint("account_id", "time_ms", name=op.f("uq_equity_account_id_time_ms")),
    )
    op.create_table(
        "orders",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("exchange_id", KEY, nullable=False),
        sa.Column("account_id", KEY, nullable=True),
        sa.Column("symbol", sa.String(length=32), nullable=False),
        sa.Column("order_id", ID, nullable=False),
        sa.Column("client_order_id", sa.String(length=64), nullable=False),
        sa.Column("side", sa.String(length=4), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("quantity", MONEY, nullable=False),
        sa.Column("price", MONEY, nullable=True),
        sa.Column("reduce_only", sa.Boolean(), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("executed_quantity", MONEY, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("side IN ('BUY', 'SELL')", name=op.f("ck_orders_side_known")),
        sa.CheckConstraint(
            "CAST(executed_quantity AS DOUBLE PRECISION) >= 0",
            name=op.f("ck_orders_executed_quantity_not_negative"),
        ),
        sa.CheckConstraint(
            "CAST(quantity AS DOUBLE PRECISION) >= 0", name=op.f("ck_orders_quantity_not_negative")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_orders_account_id")),
        sa.ForeignKeyConstraint(["exchange_id"], ["exchanges.id"], name=op.f("fk_orders_exchange_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
        sa.UniqueConstraint(
            "exchange_id", "symbol", "order_id", name=op.f("uq_orders_exchange_id_symbol_order_id")
        ),
    )
    op.create_index("ix_orders_client_order_id", "orders", ["exchange_id", "client_order_id"], unique=False)


def downgrade() -> None:
    """Remove them, and what they hold."""
    for table in (
        "orders",
        "equity",
        "emergencies",
        "decisions",
    ):
        op.drop_table(table)
