"""Where the database is, and how it is opened: SQLite in a file, or PostgreSQL by URL.

Laws: a transaction that returned survives a power cut on both (SQLite: WAL and ``synchronous=FULL``; PostgreSQL:
``synchronous_commit`` is not left to the server's settings); a password is never part of a URL, of ``repr`` or of an
error. A writer's engine on PostgreSQL has one connection, and that connection holds the lock that makes its service the
only one: a connection that is lost takes the lock with it, and no write can go over one that has no lock.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from host.durable import read_bytes
from protocol.errors import ConfigError

__all__ = ["PASSWORD_VARIABLE", "Database", "PostgresDatabase", "is_there", "open_engine", "postgres_of"]

PASSWORD_VARIABLE: Final = "EDGEFOLD_DATABASE_PASSWORD"  # noqa: S105 - its name
_BUSY_TIMEOUT_MS: Final = 5000  # a reader never blocks us; only a checkpoint or a backup does, for milliseconds
_CONNECT_DEADLINE_S: Final = 10
_MAX_PASSWORD_BYTES: Final = 4096
# A server that vanished without a word is noticed within half a minute, and its server drops our lock as soon.
_KEEPALIVES: Final = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresDatabase:
    """A PostgreSQL database; ``url`` has no password."""

    url: URL
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Return the URL, which has no secret."""
        return self.url.render_as_string(hide_password=True)


Database: TypeAlias = Path | PostgresDatabase


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lock:
    """An advisory lock: a number, one space a database, and whose it is."""

    number: int
    holder: str


_ONE_SERVICE: Final = _Lock(number=0x6564_6765_666F_6C64, holder="edgefold serve")  # "edgefold" in ASCII


def postgres_of(url: str, *, password_file: str | None) -> PostgresDatabase:
    """Return the database of a URL such as ``postgresql+psycopg://user@host/name``.

    Raises:
        ConfigError: it is none, or has a password in it; the password's file cannot be read (the user's fault).
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError("service.database: not a URL; expected postgresql+psycopg://USER@HOST/NAME") from error
    if parsed.drivername not in {"postgresql", "postgresql+psycopg"}:
        raise ConfigError(f"service.database: {parsed.drivername}:// is not known; expected postgresql+psycopg://")
    if parsed.password is not None or "password" in parsed.query:
        raise ConfigError(
            "service.database: no password in the URL, which shows in lists and logs: set "
            f"service.database_password_file, or the variable {PASSWORD_VARIABLE}"
        )
    if parsed.database is None:
        raise ConfigError("service.database: the URL names no database: postgresql+psycopg://USER@HOST/NAME")
    password = os.environ.get(PASSWORD_VARIABLE)
    if password_file is not None:
        try:
            password = read_bytes(Path(password_file), max_bytes=_MAX_PASSWORD_BYTES).decode().strip("\r\n")
        except (FileNotFoundError, UnicodeDecodeError) as error:
            raise ConfigError(f"service.database_password_file: {password_file}: cannot be read") from error
    return PostgresDatabase(url=parsed.set(drivername="postgresql+psycopg"), password=password)


def is_there(database: Database) -> bool:
    """Return whether a service may have run on ``database``: SQLite makes a file, PostgreSQL is always there."""
    return isinstance(database, PostgresDatabase) or database.exists()


def open_engine(
    database: Database, *, is_read_only: bool = False, is_service: bool = False, worker: str | None = None
) -> Engine:
    """Return an engine on ``database``; nothing is connected yet.

    Args:
        database: where.
        is_read_only: refuse to write.
        is_service: of the one service that may write everything; on PostgreSQL its connection holds the lock, and
            connecting raises ``ConfigError`` while another service has it.
        worker: of the one ingest worker of this name, in the same way.
    """
    if isinstance(database, Path):
        return _open_sqlite(database, is_read_only=is_read_only)
    lock = _worker_lock(worker) if worker is not None else _ONE_SERVICE if is_service else None
    return _open_postgres(database, is_read_only=is_read_only, lock=lock)


def _open_sqlite(database: Path, *, is_read_only: bool) -> Engine:
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


def _open_postgres(database: PostgresDatabase, *, is_read_only: bool, lock: _Lock | None) -> Engine:
    try:
        import psycopg  # noqa: F401, PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ConfigError("PostgreSQL needs psycopg; run: pip install 'edgefold[postgres]'") from error
    url = database.url.set(password=database.password)
    arguments = {"connect_timeout": _CONNECT_DEADLINE_S, "application_name": "edgefold", **_KEEPALIVES}
    pool = {"pool_size": 1, "max_overflow": 0} if lock else {"pool_size": 2, "max_overflow": 3}
    engine = create_engine(url, connect_args=arguments, pool_pre_ping=lock is None, hide_parameters=True, **pool)

    @event.listens_for(engine, "connect")
    def _settle(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's connection
        with connection.cursor() as cursor:
            cursor.execute("SET synchronous_commit = on")
            cursor.execute("SET timezone = 'UTC'")
            if is_read_only:
                cursor.execute("SET default_transaction_read_only = on")
            if lock is not None:
                _take_lock(cursor, database, lock)
        connection.commit()

    return engine


def _worker_lock(worker: str) -> _Lock:
    number = int.from_bytes(hashlib.sha256(f"edgefold ingest {worker}".encode()).digest()[:8], signed=True)
    return _Lock(number=number, holder=f"ingest worker called {worker}")


def _take_lock(cursor: Any, database: PostgresDatabase, lock: _Lock) -> None:  # noqa: ANN401 - the driver's cursor
    cursor.execute("SELECT pg_try_advisory_lock(%s)", [lock.number])
    if not cursor.fetchone()[0]:
        raise ConfigError(f"{database}: another {lock.holder} runs on this database")
