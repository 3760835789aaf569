"""Enrolment: devices, the certificates that they were given, and tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "devices",
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("verify_key", sa.LargeBinary(32), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("since_unix_s", sa.Float, nullable=False),
        sa.Column("is_shut_out", sa.Boolean, nullable=False),
    )
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(40), primary_key=True),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("ends_unix_s", sa.Float, nullable=False),
        sa.Column("der", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.device"]),
    )
    op.create_table(
        "tokens",
        sa.Column("digest", sa.LargeBinary(32), primary_key=True),
        sa.Column("expires_unix_s", sa.Float, nullable=False),
        sa.Column("device", sa.String(64)),
        sa.Column("verify_key", sa.LargeBinary(32)),
        sa.Column("tls_key", sa.LargeBinary(32)),
        sa.Column("serial", sa.String(40)),
        sa.ForeignKeyConstraint(["device"], ["devices.device"]),
        sa.ForeignKeyConstraint(["serial"], ["certificates.serial"]),
    )
