"""The database's rows as text and back: one JSON line a row, the same from SQLite and from PostgreSQL.

Laws: all tables are read in one snapshot beside a running service, so they agree with each other; noise seeds leave
only if asked for; commands and bearer tokens stay behind, since what was asked for or taken back later must not come
again, and unfinished uploads and what ingest workers staged, which devices send anew. Loading is one transaction on an
empty database of the dump's own schema. Memory: a page of rows.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import MetaData, Table, select

from aggregator.adapters.sql_blob_names import kept_blobs, state_blobs
from aggregator.adapters.sql_database import SqlDatabase, begin_snapshot
from aggregator.adapters.tables import METADATA, TASKS
from protocol.errors import TrustError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection

__all__ = ["LEFT_BEHIND", "Snapshot", "SqlDump", "is_empty", "load_table"]

LEFT_BEHIND: Final = frozenset(
    {
        "commands",
        "http_tokens",
        "ingest_tasks",
        "ingest_workers",
        "service_facts",
        "staged_updates",
        "uploads",
        "upload_chunks",
    }
)
_SECRET_COLUMNS: Final = frozenset({("privacy_ledger", "noise_seed")})
_PAGE_ROWS: Final = 500


class Snapshot:
    """The database as it was at one moment."""

    def __init__(self, connection: Connection) -> None:
        """Read through ``connection``, whose transaction sees one state."""
        self._connection = connection

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that have begun."""
        return tuple(self._connection.execute(select(TASKS.c.task).order_by(TASKS.c.task)).scalars())

    @property
    def table_names(self) -> list[str]:
        """Return the tables that are dumped, those first that others refer to."""
        return [table.name for table in METADATA.sorted_tables if table.name not in LEFT_BEHIND]

    def lines(self, name: str, *, with_secrets: bool) -> Iterator[bytes]:
        """Return a table as lines: its columns' names, then a row each."""
        table = METADATA.tables[name]
        columns = [one.name for one in table.columns if with_secrets or (name, one.name) not in _SECRET_COLUMNS]
        yield _line(columns)
        query = select(*(table.c[column] for column in columns)).execution_options(yield_per=_PAGE_ROWS)
        for row in self._connection.execute(query):
            yield _line([_plain(value) for value in row])

    def blobs(self, *, keep_folded: bool) -> list[str]:
        """Return the blobs that a restored service needs: a round that is open now is given up by a restore."""
        names = state_blobs(self._connection)
        if keep_folded:
            names |= kept_blobs(self._connection)
        return sorted(names)


class SqlDump(SqlDatabase):
    """Reads whole databases; ``close`` it at the end."""

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Give the database as it is now, whatever is written meanwhile.

        Raises:
            StorageError: it cannot be read.
        """
        with self._reading() as connection:
            yield Snapshot(begin_snapshot(connection))


def is_empty(connection: Connection) -> bool:
    """Return whether a database of ours has no row that a restore would mix with."""
    tables = [table for table in METADATA.sorted_tables if table.name != "service_facts"]
    return all(connection.execute(select(table).limit(1)).first() is None for table in tables)


def load_table(connection: Connection, name: str, lines: Iterable[bytes]) -> int:
    """Insert a dumped table's rows; return how many. The table is looked up in the database, whatever its revision.

    Raises:
        TrustError: the lines are no dump of this table.
    """
    table = Table(name, MetaData(), autoload_with=connection)
    rows, columns, n_rows = [], None, 0
    for line in lines:
        values = _parsed(name, line)
        if columns is None:
            columns = _known_columns(table, values)
            continue
        if len(values) != len(columns):
            raise TrustError(f"{name}: a row of {len(values)} values, expected {len(columns)}")
        rows.append(dict(zip(columns, map(_value, values), strict=True)))
        n_rows += 1
        if len(rows) == _PAGE_ROWS:
            connection.execute(table.insert(), rows)
            rows = []
    if rows:
        connection.execute(table.insert(), rows)
    return n_rows


def _known_columns(table: Table, names: list[Any]) -> list[str]:
    if not all(isinstance(name, str) and name in table.c for name in names) or len(set(names)) != len(names):
        raise TrustError(f"{table.name}: these are not its columns: {str(names)[:200]}")
    return names


def _parsed(name: str, line: bytes) -> list[Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TrustError(f"{name}: not a row: {error}") from error
    if not isinstance(values, list):
        raise TrustError(f"{name}: not a row")
    return values


def _line(values: list[Any]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def _plain(value: Any) -> Any:  # noqa: ANN401 - a column's value
    return {"hex": bytes(value).hex()} if isinstance(value, (bytes, memoryview)) else value


def _value(value: Any) -> Any:  # noqa: ANN401 - likewise
    if isinstance(value, dict):
        try:
            return bytes.fromhex(value["hex"])
        except (KeyError, TypeError, ValueError) as error:
            raise TrustError("bytes in a row are not hex digits") from error
    return value
