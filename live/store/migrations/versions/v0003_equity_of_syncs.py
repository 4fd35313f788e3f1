"""Equity rows say what wrote them: a step, or a sync, which does not work margins out.

Revision 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op

from live.store.types import ExactDecimal

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MARGINS = ("initial_margin_usdt", "maintenance_margin_usdt")


def upgrade() -> None:
    """Every row so far is a step's."""
    with op.batch_alter_table("equity") as batch:
        batch.add_column(sa.Column("kind", sa.String(length=8), nullable=False, server_default="STEP"))
        for name in MARGINS:
            batch.alter_column(name, existing_type=ExactDecimal(), nullable=True)
        batch.drop_constraint(op.f("uq_equity_account_id_time_ms"), type_="unique")
        batch.create_unique_constraint(
            op.f("uq_equity_account_id_kind_time_ms"), ["account_id", "kind", "time_ms"]
        )
        batch.create_check_constraint(op.f("ck_equity_kind_known"), "kind IN ('STEP', 'SYNC')")
    with op.batch_alter_table("equity") as batch:
        batch.alter_column("kind", existing_type=sa.String(length=8), server_default=None)


def downgrade() -> None:
    """What the syncs wrote has no place in the older schema."""
    op.execute("DELETE FROM equity WHERE kind <> 'STEP'")
    with op.batch_alter_table("equity") as batch:
        batch.drop_constraint(op.f("uq_equity_account_id_kind_time_ms"), type_="unique")
        batch.drop_constraint(op.f("ck_equity_kind_known"), type_="check")
        batch.drop_column("kind")
        for name in MARGINS:
            batch.alter_column(name, existing_type=ExactDecimal(), nullable=False)
        batch.create_unique_constraint(op.f("uq_equity_account_id_time_ms"), ["account_id", "time_ms"])
