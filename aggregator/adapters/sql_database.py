"""The database that all stores share, by SQLAlchemy Core: SQLite or PostgreSQL (``engines`` says how each is opened).

Laws: every writing is one transaction that a power cut cannot halve; foreign SQL errors leave as ``StorageError``, at
this one boundary, and as ``DatabaseAwayError`` where the database may come back by itself; the service's threads write,
other processes (``edgefold task show``) may read.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from aggregator.adapters import migrations
from aggregator.adapters.engines import Database, PostgresDatabase, open_engine
from aggregator.away import DatabaseAwayError
from protocol.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine, Table

__all__ = ["SqlDatabase", "begin_snapshot", "changed_database", "insert_into", "translated", "upgrade_database"]

# SQLSTATE classes and codes of a server that is not there, is going, or has no room just now; PostgreSQL, appendix A.
_AWAY_STATES: Final = ("08", "57P01", "57P02", "57P03", "53300")


class SqlDatabase:
    """An upgraded database, opened; a store of one concern builds on it. ``close`` it at the end."""

    def __init__(self, database: Database, *, is_read_only: bool = False, engine: Engine | None = None) -> None:
        """Open ``database``.

        Args:
            database: where.
            is_read_only: make it refuse to write.
            engine: on an upgraded database, to be used instead of one of its own, and closed by its owner.

        Raises:
            StorageError: it is not there or not of the newest revision; see ``upgrade_database``.
        """
        with translated(database):
            if engine is None and not migrations.is_current(database):
                raise StorageError(f"{database}: no database of the newest revision; edgefold serve makes it")
        self._database, self._is_shared = database, engine is not None
        self._engine = engine or open_engine(database, is_read_only=is_read_only)

    def close(self) -> None:
        """Close all connections of its own."""
        if not self._is_shared:
            self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with translated(self._database), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with translated(self._database), self._engine.begin() as connection:
            yield connection


def begin_snapshot(connection: Connection) -> Connection:
    """Begin a transaction that sees one state to its end, whatever others write."""
    if connection.dialect.name == "postgresql":
        return connection.execution_options(isolation_level="REPEATABLE READ")
    connection.exec_driver_sql("BEGIN")  # Python's driver begins none before a SELECT
    return connection


def insert_into(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Return an insertion that may say what to do about a row that is there already."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def upgrade_database(database: Database) -> None:
    """Make the database's tables, or bring them to the newest revision.

    Raises:
        StorageError: it cannot be written, or is no database of ours.
    """
    with translated(database):
        if migrations.is_current(database):
            return
    with changed_database(database) as connection:
        migrations.upgrade(connection)


@contextmanager
def changed_database(database: Database) -> Iterator[Connection]:
    """Give one transaction on a database of any revision, made if it is missing; all of it or nothing is kept.

    Raises:
        StorageError: it cannot be written, or is no database of ours.
    """
    engine = open_engine(database)
    try:
        with translated(database), engine.begin() as connection:
            migrations.begin_schema(connection)
            yield connection
    finally:
        engine.dispose()


@contextmanager
def translated(database: Database) -> Iterator[None]:
    """Let foreign SQL errors leave as ours."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        kind = DatabaseAwayError if _is_away(database, error) else StorageError
        said = " ".join(str(cause).split())  # a server's messages have lines
        raise kind(f"{database}: {type(cause).__name__}: {said}") from error


def _is_away(database: Database, error: SQLAlchemyError) -> bool:
    """Return whether the same may go well later, without anybody's doing."""
    if not isinstance(error, DBAPIError):
        return False
    if not isinstance(database, PostgresDatabase):
        return "database is locked" in str(error.orig)
    state = getattr(error.orig, "sqlstate", None)
    if state is None:  # no server said it: the connection could not be made, or broke
        return error.connection_invalidated or type(error.orig).__name__ == "OperationalError"
    return str(state).startswith(_AWAY_STATES)
