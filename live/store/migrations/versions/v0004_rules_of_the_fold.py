"""Books say by which rules they were folded.

Revision 0004, after 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What is there was folded by the first rules: the next start folds it anew."""
    with op.batch_alter_table("books") as batch:
        batch.add_column(sa.Column("rules", sa.BigInteger(), nullable=False, server_default="1"))
    with op.batch_alter_table("books") as batch:
        batch.alter_column("rules", existing_type=sa.BigInteger(), server_default=None)


def downgrade() -> None:
    """What was folded stays: an older program's check may find that liquidations' fees were booked otherwise."""
    with op.batch_alter_table("books") as batch:
        batch.drop_column("rules")
