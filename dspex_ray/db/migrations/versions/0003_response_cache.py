"""The response cache: how long a model's answers may be replayed, and which ones were."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.add_column("models", sa.Column("cache_ttl_s", sa.Integer(), nullable=True))
    op.add_column(
        "lm_attempts",
        sa.Column("cached", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.add_column(
        "usage_minutes",
        sa.Column("cached", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )


def downgrade() -> None:
    op.drop_column("usage_minutes", "cached")
    op.drop_column("lm_attempts", "cached")
    op.drop_column("models", "cache_ttl_s")
