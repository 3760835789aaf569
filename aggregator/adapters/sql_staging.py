"""What ingest workers found, in the service's database, until the service has decided on it.

Laws: a row is there once its blob is durable, and both in one transaction of the worker: the row's uniqueness is held
while the blob is put, so that nobody decides on, or tidies up, what is only half there; of a device's update there is
one row at a time. Whoever tidies blobs up does so under ``sweeping``, which no staging overlaps. On SQLite, which has
one writer at a time, the locks of transactions are enough; several processes are PostgreSQL's.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete, func, select, text

from aggregator.adapters.sql_blob_names import blobs_in_use
from aggregator.adapters.sql_database import SqlDatabase, insert_into
from aggregator.adapters.tables import INGEST_TASKS, INGEST_WORKERS, STAGED_UPDATES
from aggregator.core.opening import Figures
from aggregator.core.staging import MAX_DETAIL_CHARS, Staged, WorkerRecord
from protocol.fields import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from aggregator.core.staging import Found
    from protocol.reasons import Reason

__all__ = ["SqlStaging"]

_SWEEP_LOCK: Final = 0x6564_6765_7377_6570  # "edgeswep" in ASCII: advisory locks are numbers, one space a database


class SqlStaging(SqlDatabase):
    """Implements ``aggregator.staged_desk.StagedStore`` and ``aggregator.ingest_worker.StagingStore``."""

    # -- the worker's side -------------------------------------------------------------------------------------------

    def stage(self, found: Sequence[Found], put: Callable[[Sequence[bytes]], None]) -> int:
        """Keep what is new of ``found``, and its sealed bytes by ``put``; return how many were new.

        Raises:
            StorageError: nothing of it was kept; bytes that no row names may be.
        """
        with self._writing() as connection:
            _lock(connection, "pg_advisory_xact_lock_shared")
            # In one order for all workers, so that no two wait for each other.
            ordered = sorted(found, key=lambda one: (one.staged.device, one.staged.update_id))
            new = [one for one in ordered if _is_new(connection, one.staged)]
            put([one.sealed for one in new if one.sealed is not None])
        return len(new)

    def n_waiting(self) -> int:
        """Return how many wait for the service."""
        with self._reading() as connection:
            return int(connection.execute(select(func.count()).select_from(STAGED_UPDATES)).scalar_one())

    def terms(self) -> dict[str, str]:
        """Return the digest of the settings by which the service decides, by task."""
        with self._reading() as connection:
            return {row.task: row.terms for row in connection.execute(select(INGEST_TASKS))}

    def beat(self, record: WorkerRecord) -> None:
        """Keep that a worker lives."""
        row = plain(record)
        with self._writing() as connection:
            put = insert_into(connection, INGEST_WORKERS).values(row)
            connection.execute(put.on_conflict_do_update(index_elements=["worker"], set_=row))

    # -- the service's side ------------------------------------------------------------------------------------------

    def waiting(self, *, limit: int) -> tuple[Staged, ...]:
        """Return the oldest ``limit`` that wait."""
        query = select(STAGED_UPDATES).order_by(STAGED_UPDATES.c.number).limit(limit)
        with self._reading() as connection:
            return tuple(_staged(row) for row in connection.execute(query).mappings())

    def refuse(self, number: int, reason: Reason, detail: str) -> None:
        """Keep that one is refused for good, before its bytes go."""
        marked = STAGED_UPDATES.update().where(STAGED_UPDATES.c.number == number)
        with self._writing() as connection:
            connection.execute(marked.values(reason=reason, detail=detail[:MAX_DETAIL_CHARS], figures=None))

    def tidy(self, number: int, blob: str, *, keep_folded: bool, remove: Callable[[str], None]) -> None:
        """Remove a staged row's bytes by ``remove``, unless another row needs the same; no staging overlaps it."""
        with self._reading() as connection:
            _lock(connection, "pg_advisory_xact_lock")
            if blob not in blobs_in_use(connection, keep_folded=keep_folded, but_staged=number):
                remove(blob)

    def done(self, numbers: Sequence[int]) -> None:
        """Forget those that were decided on."""
        with self._writing() as connection:
            connection.execute(delete(STAGED_UPDATES).where(STAGED_UPDATES.c.number.in_(numbers)))

    def set_terms(self, terms: Mapping[str, str]) -> None:
        """Keep by which settings the service decides from now on."""
        with self._writing() as connection:
            connection.execute(delete(INGEST_TASKS))
            if terms:
                connection.execute(INGEST_TASKS.insert(), [{"task": task, "terms": one} for task, one in terms.items()])

    def workers(self) -> tuple[WorkerRecord, ...]:
        """Return the workers that were ever seen, by name."""
        with self._reading() as connection:
            rows = connection.execute(select(INGEST_WORKERS).order_by(INGEST_WORKERS.c.worker)).mappings()
            return tuple(WorkerRecord(**row) for row in rows)

    def forget_workers(self, *, but: Sequence[str]) -> None:
        """Forget the workers that the settings do not name any more."""
        with self._writing() as connection:
            connection.execute(delete(INGEST_WORKERS).where(INGEST_WORKERS.c.worker.not_in(but)))

    @contextmanager
    def sweeping(self) -> Iterator[None]:
        """Hold off all staging: what is in no row now, and on the disk, is an orphan. Needs a connection of its own."""
        with self._reading() as connection:
            _lock(connection, "pg_advisory_xact_lock")
            yield


def _lock(connection: Connection, function: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT {function}({_SWEEP_LOCK})"))


def _is_new(connection: Connection, staged: Staged) -> bool:
    put = insert_into(connection, STAGED_UPDATES).values(_row(staged))
    put = put.on_conflict_do_nothing(index_elements=["device", "update_id"])
    return connection.execute(put.returning(STAGED_UPDATES.c.number)).first() is not None


def _row(staged: Staged) -> dict[str, Any]:
    row = {name: getattr(staged, name) for name in Staged.__dataclass_fields__ if name not in {"number", "figures"}}
    figures = None if staged.figures is None else json.dumps(plain(staged.figures), sort_keys=True)
    return {**row, "figures": figures}


def _staged(row: Mapping[Any, Any]) -> Staged:
    figures = None if row["figures"] is None else Figures(**json.loads(row["figures"]))
    return Staged(**{**row, "update_id": bytes(row["update_id"]), "figures": figures})
