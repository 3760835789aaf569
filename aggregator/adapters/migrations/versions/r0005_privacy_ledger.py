"""The privacy ledger: what each fold of a task with differential privacy cost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "privacy_ledger",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("entry_id", sa.String(32), nullable=False),
        sa.Column("noise_multiplier", sa.Float, nullable=False),
        sa.Column("sampling_rate", sa.Float, nullable=False),
        sa.Column("clip", sa.Float, nullable=False),
        sa.Column("count_noise", sa.Float),
        sa.Column("quantile", sa.Float),
        sa.Column("rate", sa.Float),
        sa.Column("initial_clip", sa.Float, nullable=False),
        sa.Column("cohort", sa.Integer, nullable=False),
        sa.Column("delta", sa.Float, nullable=False),
        sa.Column("epsilon", sa.Float, nullable=False),
        sa.Column("epsilon_unsampled", sa.Float, nullable=False),
        sa.Column("spent_unix_s", sa.Float, nullable=False),
        sa.Column("next_clip", sa.Float),
        sa.Column("noise_seed", sa.LargeBinary(32)),
        sa.ForeignKeyConstraint(["task", "round"], ["rounds.task", "rounds.round"]),
    )
