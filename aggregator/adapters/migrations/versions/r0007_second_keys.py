"""Devices' second keys, for signatures that outlast quantum computers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; devices that enrolled before have no such key."""
    op.add_column("devices", sa.Column("second_key", sa.LargeBinary(1952)))
