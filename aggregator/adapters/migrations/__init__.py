"""The database's schema as a row of revisions (Alembic), applied by ``upgrade`` when the service starts.

Laws: revisions are only ever added, and none goes down: revocations, verdicts, answered steps and spent budgets must
not be forgotten. Alembic costs 11 MB of memory, so ``sql_database`` asks ``is_current`` first, and the service lets a
child process (``python -m aggregator.adapters.migrations DATABASE``) do the upgrade.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aggregator.adapters.engines import open_engine
from protocol.errors import StorageError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from aggregator.adapters.engines import Database, PostgresDatabase

__all__ = ["HEAD", "begin_schema", "is_current", "upgrade"]

_SCHEMA_LOCK: Final = 0x6564_6765_7363_6865  # "edgesche" in ASCII
HEAD: Final = "0012"


def is_current(database: Database) -> bool:
    """Return whether ``database`` is there and of the newest revision.

    Raises:
        StorageError: it is no database of ours, or made by a newer edgefold.
        SQLAlchemyError: the server cannot be reached.
    """
    revision = _revision_of_file(database) if isinstance(database, Path) else _revision_of_server(database)
    if revision is not None and revision > HEAD:
        raise StorageError(f"{database}: revision {revision} was made by a newer edgefold, this one knows {HEAD}")
    return revision == HEAD


def _revision_of_file(database: Path) -> str | None:
    if not database.exists():
        return None
    try:
        with closing(sqlite3.connect(database)) as connection:
            names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            if "alembic_version" not in names:
                return None
            revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        raise StorageError(f"{database}: not a database of edgefold: {error}") from error
    return None if revision is None else str(revision[0])


def _revision_of_server(database: PostgresDatabase) -> str | None:
    engine = open_engine(database)
    try:
        with engine.connect() as connection:
            if connection.exec_driver_sql("SELECT to_regclass('alembic_version')").scalar() is None:
                return None
            revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    finally:
        engine.dispose()
    return None if revision is None else str(revision)


def begin_schema(connection: Connection) -> None:
    """Begin a transaction in which the schema may change."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")  # one upgrade at a time
    else:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # Python's driver begins none before DDL


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the database to ``revision`` inside the caller's transaction, which ``begin_schema`` began."""
    from alembic import command  # noqa: PLC0415 - 11 MB that the running service does without
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
