"""Updates that ingest workers found, until the service has decided on them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "staged_updates",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("worker", sa.String(64), nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("update_id", sa.LargeBinary(16), nullable=False),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("bundle_id", sa.String(64), nullable=False),
        sa.Column("n_bytes", sa.Integer, nullable=False),
        sa.Column("sealed_bytes", sa.Integer, nullable=False),
        sa.Column("blob", sa.String(64)),
        sa.Column("figures", sa.Text),
        sa.Column("reason", sa.String(32)),
        sa.Column("detail", sa.Text, nullable=False),
        sa.UniqueConstraint("device", "update_id", name="one_staging_per_update"),
    )
    op.create_table(
        "ingest_workers",
        sa.Column("worker", sa.String(64), primary_key=True),
        sa.Column("since_unix_s", sa.Float, nullable=False),
        sa.Column("seen_unix_s", sa.Float, nullable=False),
        sa.Column("n_staged", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "ingest_tasks",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("terms", sa.String(64), nullable=False),
    )
