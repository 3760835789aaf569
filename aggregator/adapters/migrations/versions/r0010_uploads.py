"""What devices are sending in chunks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "uploads",
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("manifest", sa.LargeBinary, nullable=False),
        sa.Column("n_bytes", sa.BigInteger, nullable=False),
        sa.Column("touched_unix_s", sa.Float, nullable=False),
    )
    op.create_table(
        "upload_chunks",
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("chunk", sa.Integer, primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(["device"], ["uploads.device"]),
    )
