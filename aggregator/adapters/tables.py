"""The database's tables as SQLAlchemy Core sees them; ``migrations`` makes them, and a test compares the two."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

__all__ = [
    "BUFFERED",
    "CERTIFICATES",
    "COMMANDS",
    "CREATED_TASKS",
    "DEVICES",
    "DEVICE_METRICS",
    "EVALUATIONS",
    "HTTP_TOKENS",
    "INGEST_TASKS",
    "INGEST_WORKERS",
    "METADATA",
    "PARTICIPANTS",
    "PAST_DEVICES",
    "PRIVACY_LEDGER",
    "REFUSALS",
    "RETENTION",
    "ROUNDS",
    "SERVICE_FACTS",
    "STAGED_UPDATES",
    "STANDINGS",
    "SUMS",
    "SUM_MESSAGES",
    "SUM_STEPS",
    "TASKS",
    "TOKENS",
    "UPDATES",
    "UPLOADS",
    "UPLOAD_CHUNKS",
    "VERSIONS",
]

NAME: Final = String(64)  # protocol.fields.Name
DIGEST: Final = String(64)  # hex SHA-256

METADATA: Final = MetaData()

TASKS: Final = Table(
    "tasks",
    METADATA,
    Column("task", NAME, primary_key=True),
    Column("bundle_id", DIGEST, nullable=False),
    Column("strategy", NAME, nullable=False),
    Column("state", String(16), nullable=False),
)
ROUNDS: Final = Table(
    "rounds",
    METADATA,
    Column("task", NAME, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("opened_unix_s", Float, nullable=False),
    Column("deadline_unix_s", Float, nullable=False),
    Column("closed_unix_s", Float),
    ForeignKeyConstraint(["task"], ["tasks.task"]),
)
PARTICIPANTS: Final = Table(
    "participants",
    METADATA,
    Column("task", NAME, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("device", NAME, primary_key=True),
    Column("joined_unix_s", Float, nullable=False),
    Column("up_bytes", BigInteger, nullable=False),
    Column("down_bytes", BigInteger, nullable=False),
    ForeignKeyConstraint(["task", "round"], ["rounds.task", "rounds.round"]),
)
UPDATES: Final = Table(
    "updates",
    METADATA,
    Column("update_id", LargeBinary(16), primary_key=True),
    Column("task", NAME, nullable=False),
    Column("round", Integer, nullable=False),
    Column("device", NAME, nullable=False),
    Column("blob", DIGEST, nullable=False),
    Column("n_bytes", Integer, nullable=False),
    Column("payload_bytes", Integer, nullable=False),
    Column("n_examples", Integer, nullable=False),
    Column("loss", Float, nullable=False),
    Column("train_s", Float, nullable=False),
    Column("status", String(16), nullable=False),
    Column("taken_unix_s", Float, nullable=False),
    # The database itself refuses a second update of a device in a round.
    UniqueConstraint("task", "round", "device", name="one_update_per_device_and_round"),
    ForeignKeyConstraint(
        ["task", "round", "device"], ["participants.task", "participants.round", "participants.device"]
    ),
)
# What devices told of how they learn, with these updates.
DEVICE_METRICS: Final = Table(
    "device_metrics",
    METADATA,
    Column("task", NAME, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("device", NAME, primary_key=True),
    Column("name", String(32), primary_key=True),
    Column("value", Float, nullable=False),
    ForeignKeyConstraint(
        ["task", "round", "device"], ["participants.task", "participants.round", "participants.device"]
    ),
)
# Asynchronous updates: the buffer that folds each, and no other can.
BUFFERED: Final = Table(
    "buffered",
    METADATA,
    Column("update_id", LargeBinary(16), primary_key=True),
    Column("task", NAME, nullable=False),
    Column("buffer", Integer, nullable=False),
    Column("version", Integer, nullable=False),  # that the update is based on
    ForeignKeyConstraint(["update_id"], ["updates.update_id"]),
    ForeignKeyConstraint(["task", "buffer"], ["rounds.task", "rounds.round"]),
    Index("buffered_by_buffer", "task", "buffer"),
)
VERSIONS: Final = Table(
    "versions",
    METADATA,
    Column("task", NAME, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("round", Integer),
    Column("state", Text, nullable=False),  # JSON: name of a vector -> its blob
    Column("n_updates", Integer, nullable=False),
    Column("created_unix_s", Float, nullable=False),
    # ... and a second version out of one round.
    UniqueConstraint("task", "round", name="one_version_per_round"),
    ForeignKeyConstraint(["task"], ["tasks.task"]),
)
EVALUATIONS: Final = Table(
    "evaluations",
    METADATA,
    Column("task", NAME, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("set_name", NAME, primary_key=True),
    Column("accuracy", Float, nullable=False),
    Column("loss", Float, nullable=False),
    Column("n_examples", Integer, nullable=False),
    Column("wall_s", Float, nullable=False),
    ForeignKeyConstraint(["task", "version"], ["versions.task", "versions.version"]),
)
# Task "" counts what could not be told to belong to a task. No device column: strangers must not make it grow.
REFUSALS: Final = Table(
    "refusals",
    METADATA,
    Column("task", NAME, primary_key=True),
    Column("reason", String(32), primary_key=True),
    Column("count", Integer, nullable=False),
)
DEVICES: Final = Table(
    "devices",
    METADATA,
    Column("device", NAME, primary_key=True),
    Column("verify_key", LargeBinary(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("since_unix_s", Float, nullable=False),
    Column("is_shut_out", Boolean, nullable=False),
    Column("second_key", LargeBinary(1952)),  # ML-DSA-65
)
CERTIFICATES: Final = Table(
    "certificates",
    METADATA,
    Column("serial", String(40), primary_key=True),  # hex of at most 160 bits (RFC 5280, section 4.1.2.2)
    Column("device", NAME, nullable=False),
    Column("ends_unix_s", Float, nullable=False),
    Column("der", LargeBinary, nullable=False),
    ForeignKeyConstraint(["device"], ["devices.device"]),
)
TOKENS: Final = Table(
    "tokens",
    METADATA,
    Column("digest", LargeBinary(32), primary_key=True),  # SHA-256 of the secret, which is not kept
    Column("expires_unix_s", Float, nullable=False),
    Column("device", NAME),
    Column("verify_key", LargeBinary(32)),
    Column("tls_key", LargeBinary(32)),
    Column("serial", String(40)),
    ForeignKeyConstraint(["device"], ["devices.device"]),
    ForeignKeyConstraint(["serial"], ["certificates.serial"]),
)
PRIVACY_LEDGER: Final = Table(
    "privacy_ledger",
    METADATA,
    Column("task", NAME, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("entry_id", String(32), nullable=False),
    Column("noise_multiplier", Float, nullable=False),
    Column("sampling_rate", Float, nullable=False),
    Column("clip", Float, nullable=False),
    Column("count_noise", Float),
    Column("quantile", Float),
    Column("rate", Float),
    Column("initial_clip", Float, nullable=False),
    Column("cohort", Integer, nullable=False),
    Column("delta", Float, nullable=False),
    Column("epsilon", Float, nullable=False),
    Column("epsilon_unsampled", Float, nullable=False),
    Column("spent_unix_s", Float, nullable=False),
    Column("next_clip", Float),
    Column("noise_seed", LargeBinary(32)),
    ForeignKeyConstraint(["task", "round"], ["rounds.task", "rounds.round"]),
)
# One row for each secure sum: where it is, and the running sum. No vector of a single device is in any table.
SUMS: Final = Table(
    "sums",
    METADATA,
    Column("task", NAME, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("state", LargeBinary, nullable=False),  # SumServer.pack()
    ForeignKeyConstraint(["task", "round"], ["rounds.task", "rounds.round"]),
)
# Which message of which device was taken, by its id: the same one again is answered, another is refused.
SUM_STEPS: Final = Table(
    "sum_steps",
    METADATA,
    Column("task", NAME, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("step", String(16), primary_key=True),
    Column("device", NAME, primary_key=True),
    Column("update_id", LargeBinary(16), nullable=False),
    ForeignKeyConstraint(["task", "round"], ["rounds.task", "rounds.round"]),
)
# What the present step was begun with, for devices that did not hear it.
SUM_MESSAGES: Final = Table(
    "sum_messages",
    METADATA,
    Column("task", NAME, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("device", NAME, primary_key=True),
    Column("step", String(16), nullable=False),
    Column("message", LargeBinary, nullable=False),
    ForeignKeyConstraint(["task", "round"], ["rounds.task", "rounds.round"]),
)
# What devices are sending in chunks: one upload of each at a time, until its whole is taken.
UPLOADS: Final = Table(
    "uploads",
    METADATA,
    Column("device", NAME, primary_key=True),
    Column("manifest", LargeBinary, nullable=False),  # the body of protocol.uploads.Upload
    Column("n_bytes", BigInteger, nullable=False),  # of the whole
    Column("touched_unix_s", Float, nullable=False),
)
UPLOAD_CHUNKS: Final = Table(
    "upload_chunks",
    METADATA,
    Column("device", NAME, primary_key=True),
    Column("chunk", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),
    ForeignKeyConstraint(["device"], ["uploads.device"]),
)
# What ingest workers found and the service has not decided on yet; ``core.staging.Staged`` says what the columns are.
STAGED_UPDATES: Final = Table(
    "staged_updates",
    METADATA,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),  # counted up by the database
    Column("worker", NAME, nullable=False),
    Column("device", NAME, nullable=False),
    Column("update_id", LargeBinary(16), nullable=False),
    Column("task", NAME, nullable=False),
    Column("round", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("bundle_id", DIGEST, nullable=False),
    Column("n_bytes", Integer, nullable=False),
    Column("sealed_bytes", Integer, nullable=False),
    Column("blob", DIGEST),
    Column("figures", Text),  # JSON of core.opening.Figures
    Column("reason", String(32)),
    Column("detail", Text, nullable=False),
    UniqueConstraint("device", "update_id", name="one_staging_per_update"),
)
INGEST_WORKERS: Final = Table(
    "ingest_workers",
    METADATA,
    Column("worker", NAME, primary_key=True),
    Column("since_unix_s", Float, nullable=False),
    Column("seen_unix_s", Float, nullable=False),
    Column("n_staged", BigInteger, nullable=False),  # since then
)
# Which settings the service decides by: a worker with others leaves its task's updates unopened.
INGEST_TASKS: Final = Table(
    "ingest_tasks",
    METADATA,
    Column("task", NAME, primary_key=True),
    Column("terms", DIGEST, nullable=False),
)
# Tasks that came by command, beside those of the configuration file.
CREATED_TASKS: Final = Table(
    "created_tasks",
    METADATA,
    Column("task", NAME, primary_key=True),
    Column("settings", Text, nullable=False),  # canonical JSON of config.TaskSettings
    Column("digest", DIGEST, nullable=False),
    Column("created_unix_s", Float, nullable=False),
)
COMMANDS: Final = Table(
    "commands",
    METADATA,
    Column("command", Integer, primary_key=True),
    Column("task", NAME, nullable=False),
    Column("verb", String(16), nullable=False),
    Column("version", Integer),
    Column("status", String(16), nullable=False),
    Column("why", Text, nullable=False),
    Column("asked_unix_s", Float, nullable=False),
)
STANDINGS: Final = Table(
    "standings",
    METADATA,
    Column("task", NAME, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("status", String(16), nullable=False),
    Column("why", Text, nullable=False),
    Column("origin", Integer),
    Column("decided_unix_s", Float, nullable=False),
    ForeignKeyConstraint(["task", "version"], ["versions.task", "versions.version"]),
)
# Bearer tokens of the HTTP interface.
HTTP_TOKENS: Final = Table(
    "http_tokens",
    METADATA,
    Column("name", NAME, primary_key=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),  # SHA-256 of the secret, which is not kept
    Column("role", String(16), nullable=False),
    Column("created_unix_s", Float, nullable=False),
    Column("expires_unix_s", Float, nullable=False),
)
# What was retired of a task: rows below these numbers are gone, and how many rounds they were.
RETENTION: Final = Table(
    "retention",
    METADATA,
    Column("task", NAME, primary_key=True),
    Column("versions_since", Integer, nullable=False),
    Column("rounds_since", Integer, nullable=False),
    Column("updates_since", Integer, nullable=False),  # the first round whose folded updates may still have blobs
    Column("n_folded", Integer, nullable=False),
    Column("n_abandoned", Integer, nullable=False),
    ForeignKeyConstraint(["task"], ["tasks.task"]),
)
# The retired rounds' participants and updates, added up.
PAST_DEVICES: Final = Table(
    "past_devices",
    METADATA,
    Column("task", NAME, primary_key=True),
    Column("device", NAME, primary_key=True),
    Column("n_joined", BigInteger, nullable=False),
    Column("n_updates", BigInteger, nullable=False),
    Column("n_folded", BigInteger, nullable=False),
    Column("n_examples", BigInteger, nullable=False),
    Column("up_bytes", BigInteger, nullable=False),
    Column("down_bytes", BigInteger, nullable=False),
    Column("last_seen_unix_s", Float, nullable=False),
    ForeignKeyConstraint(["task"], ["tasks.task"]),
)
# Facts about this database as a whole, such as which blobs are its own.
SERVICE_FACTS: Final = Table(
    "service_facts",
    METADATA,
    Column("name", String(32), primary_key=True),
    Column("value", Text, nullable=False),
)
