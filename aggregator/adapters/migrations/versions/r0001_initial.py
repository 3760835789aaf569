"""The first schema: tasks, rounds, participants, updates, versions, evaluations, refusals."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    _make_rounds()
    _make_updates()
    _make_versions()
    op.create_table(
        "refusals",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("reason", sa.String(32), primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
    )


def _make_rounds() -> None:
    op.create_table(
        "tasks",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("bundle_id", sa.String(64), nullable=False),
        sa.Column("strategy", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
    )
    op.create_table(
        "rounds",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("opened_unix_s", sa.Float, nullable=False),
        sa.Column("deadline_unix_s", sa.Float, nullable=False),
        sa.Column("closed_unix_s", sa.Float),
        sa.ForeignKeyConstraint(["task"], ["tasks.task"]),
    )


def _make_updates() -> None:
    op.create_table(
        "participants",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("joined_unix_s", sa.Float, nullable=False),
        sa.Column("up_bytes", sa.BigInteger, nullable=False),
        sa.Column("down_bytes", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["task", "round"], ["rounds.task", "rounds.round"]),
    )
    op.create_table(
        "updates",
        sa.Column("update_id", sa.LargeBinary(16), primary_key=True),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("blob", sa.String(64), nullable=False),
        sa.Column("n_bytes", sa.Integer, nullable=False),
        sa.Column("payload_bytes", sa.Integer, nullable=False),
        sa.Column("n_examples", sa.Integer, nullable=False),
        sa.Column("loss", sa.Float, nullable=False),
        sa.Column("train_s", sa.Float, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("taken_unix_s", sa.Float, nullable=False),
        sa.UniqueConstraint("task", "round", "device", name="one_update_per_device_and_round"),
        sa.ForeignKeyConstraint(
            ["task", "round", "device"], ["participants.task", "participants.round", "participants.device"]
        ),
    )


def _make_versions() -> None:
    op.create_table(
        "versions",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("round", sa.Integer),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("n_updates", sa.Integer, nullable=False),
        sa.Column("created_unix_s", sa.Float, nullable=False),
        sa.UniqueConstraint("task", "round", name="one_version_per_round"),
        sa.ForeignKeyConstraint(["task"], ["tasks.task"]),
    )
    op.create_table(
        "evaluations",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("set_name", sa.String(64), primary_key=True),
        sa.Column("accuracy", sa.Float, nullable=False),
        sa.Column("loss", sa.Float, nullable=False),
        sa.Column("n_examples", sa.Integer, nullable=False),
        sa.Column("wall_s", sa.Float, nullable=False),
        sa.ForeignKeyConstraint(["task", "version"], ["versions.task", "versions.version"]),
    )
