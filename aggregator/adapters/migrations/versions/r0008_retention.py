"""What is left of a task's past once its rows were retired, and facts about the database itself."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "retention",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("versions_since", sa.Integer, nullable=False),
        sa.Column("rounds_since", sa.Integer, nullable=False),
        sa.Column("updates_since", sa.Integer, nullable=False),
        sa.Column("n_folded", sa.Integer, nullable=False),
        sa.Column("n_abandoned", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["task"], ["tasks.task"]),
    )
    op.create_table(
        "past_devices",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("n_joined", sa.BigInteger, nullable=False),
        sa.Column("n_updates", sa.BigInteger, nullable=False),
        sa.Column("n_folded", sa.BigInteger, nullable=False),
        sa.Column("n_examples", sa.BigInteger, nullable=False),
        sa.Column("up_bytes", sa.BigInteger, nullable=False),
        sa.Column("down_bytes", sa.BigInteger, nullable=False),
        sa.Column("last_seen_unix_s", sa.Float, nullable=False),
        sa.ForeignKeyConstraint(["task"], ["tasks.task"]),
    )
    op.create_table(
        "service_facts",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
