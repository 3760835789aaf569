"""Which asynchronous update is in which buffer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "buffered",
        sa.Column("update_id", sa.LargeBinary(16), primary_key=True),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("buffer", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["update_id"], ["updates.update_id"]),
        sa.ForeignKeyConstraint(["task", "buffer"], ["rounds.task", "rounds.round"]),
    )
    op.create_index("buffered_by_buffer", "buffered", ["task", "buffer"])
