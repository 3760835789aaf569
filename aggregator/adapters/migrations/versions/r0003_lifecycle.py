"""The life of a task: those made by command, what operators asked for, and what was decided about versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "created_tasks",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_unix_s", sa.Float, nullable=False),
    )
    op.create_table(
        "commands",
        sa.Column("command", sa.Integer, primary_key=True),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("verb", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("asked_unix_s", sa.Float, nullable=False),
    )
    op.create_table(
        "standings",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("origin", sa.Integer),
        sa.Column("decided_unix_s", sa.Float, nullable=False),
        sa.ForeignKeyConstraint(["task", "version"], ["versions.task", "versions.version"]),
    )
