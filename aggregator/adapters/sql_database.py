"""The database that all stores share: SQLite by SQLAlchemy Core, write-ahead log, synchronous=FULL.

Laws: every writing is one transaction that a power cut cannot halve; foreign SQL errors leave as ``StorageError``, at
this one boundary; the service's threads write, other processes (``edgefold task show``) may read.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import SQLAlchemyError

from aggregator.adapters import migrations
from protocol.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Table

__all__ = ["SqlDatabase", "begin_snapshot", "changed_database", "insert_into", "upgrade_database"]

_BUSY_TIMEOUT_MS: Final = 5000  # a reader never blocks us; only a checkpoint or a backup does, for milliseconds


class SqlDatabase:
    """An upgraded database, opened; a store of one concern builds on it. ``close`` it at the end."""

    def __init__(self, database: Path, *, is_read_only: bool = False) -> None:
        """Open ``database``; ``is_read_only`` makes SQLite refuse to write.

        Raises:
            StorageError: it is not there or not of the newest revision; see ``upgrade_database``.
        """
        if not migrations.is_current(database):
            raise StorageError(f"{database}: no database of the newest revision; edgefold serve makes it")
        self._database, self._engine = database, _open_engine(database, is_read_only=is_read_only)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with _translated(self._database), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with _translated(self._database), self._engine.begin() as connection:
            yield connection


def begin_snapshot(connection: Connection) -> Connection:
    """Begin a transaction that sees one state to its end, whatever others write."""
    connection.exec_driver_sql("BEGIN")  # Python's driver begins none before a SELECT
    return connection


def insert_into(_connection: Connection, table: Table) -> sqlite.Insert:
    """Return an insertion that may say what to do about a row that is there already."""
    return sqlite.insert(table)


def upgrade_database(database: Path) -> None:
    """Make the database, or bring it to the newest revision.

    Raises:
        StorageError: it cannot be written, or is no database of ours.
    """
    if migrations.is_current(database):
        return
    with changed_database(database) as connection:
        migrations.upgrade(connection)


@contextmanager
def changed_database(database: Path) -> Iterator[Connection]:
    """Give one transaction on a database of any revision, made if it is missing; all of it or nothing is kept.

    Raises:
        StorageError: it cannot be written, or is no database of ours.
    """
    engine = _open_engine(database)
    try:
        with _translated(database), engine.begin() as connection:
            migrations.begin_schema(connection)
            yield connection
    finally:
        engine.dispose()


def _open_engine(database: Path, *, is_read_only: bool = False) -> Engine:
    engine = create_engine(f"sqlite+pysqlite:///{database}")

    @event.listens_for(engine, "connect")
    def _settle(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's connection
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")  # with WAL the default would lose commits in a power cut
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA secure_delete = ON")  # a fold's noise seed is overwritten, not only unlinked
        cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        if is_read_only:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    return engine


@contextmanager
def _translated(database: Path) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise StorageError(f"{database}: {type(cause).__name__}: {cause}") from error
