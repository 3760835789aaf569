"""Secure sums: their state, which messages were taken, and what the present step was begun with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    of_round = ["task", "round"], ["rounds.task", "rounds.round"]
    op.create_table(
        "sums",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(*of_round),
    )
    op.create_table(
        "sum_steps",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("step", sa.String(16), primary_key=True),
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("update_id", sa.LargeBinary(16), nullable=False),
        sa.ForeignKeyConstraint(*of_round),
    )
    op.create_table(
        "sum_messages",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("step", sa.String(16), nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(*of_round),
    )
