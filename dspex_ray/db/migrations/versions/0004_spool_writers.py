"""Who wrote into which spool: what a lost node's disk still held can be counted."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.create_table(
        "spool_writers",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("node", sa.Text(), nullable=True),
        sa.Column("appended", sa.BigInteger(), nullable=False),
        sa.Column("drained", sa.BigInteger(), nullable=False),
        sa.Column("lost", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spool_writers")),
    )


def downgrade() -> None:
    op.drop_table("spool_writers")
