"""Bearer tokens of the HTTP interface."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "http_tokens",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("created_unix_s", sa.Float, nullable=False),
        sa.Column("expires_unix_s", sa.Float, nullable=False),
    )
