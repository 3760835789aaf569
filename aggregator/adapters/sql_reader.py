"""What is kept of tasks, rounds, updates and versions, read from SQL.

Laws: those of ``sql_database``; changes nothing, so other processes may read beside the service.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import ColumnElement, and_, func, select

from aggregator.adapters import sql_buffers, sql_privacy
from aggregator.adapters.sql_blob_names import blobs_in_use
from aggregator.adapters.sql_database import SqlDatabase
from aggregator.adapters.sql_rounds import of_device, of_round
from aggregator.adapters.tables import (
    EVALUATIONS,
    PARTICIPANTS,
    REFUSALS,
    RETENTION,
    ROUNDS,
    TASKS,
    UPDATES,
    VERSIONS,
)
from aggregator.core.pace import Participation
from aggregator.core.records import (
    Evaluation,
    RoundRecord,
    RoundSummary,
    SetScore,
    TaskRecord,
    UpdateRecord,
    VersionRecord,
)
from protocol.errors import StorageError

if TYPE_CHECKING:
    from sqlalchemy import Table

    from aggregator.core.buffer import Buffered
    from aggregator.core.privacy.ledger import LedgerEntry

__all__ = ["SqlReader"]

R = TypeVar("R", TaskRecord, RoundRecord, UpdateRecord)


class SqlReader(SqlDatabase):
    """Implements ``aggregator.store_ports.StoreReader`` on an upgraded database; ``close`` it at the end."""

    def tasks(self) -> tuple[TaskRecord, ...]:
        """Return all tasks by name."""
        return tuple(self._records(TaskRecord, TASKS, order=TASKS.c.task))

    def task(self, task: str) -> TaskRecord | None:
        """Return the task, or None."""
        return self._first(TaskRecord, TASKS, TASKS.c.task == task)

    def rounds(self, task: str) -> tuple[RoundRecord, ...]:
        """Return the task's rounds, oldest first."""
        return tuple(self._records(RoundRecord, ROUNDS, ROUNDS.c.task == task, order=ROUNDS.c.round))

    def n_folded(self, task: str) -> int:
        """Return how many rounds the task folded, retired ones included."""
        folded = self._count(ROUNDS, and_(ROUNDS.c.task == task, ROUNDS.c.state == "folded"))
        with self._reading() as connection:
            retired = connection.execute(select(RETENTION.c.n_folded).where(RETENTION.c.task == task)).scalar()
        return folded + (retired or 0)

    def latest_round(self, task: str) -> RoundRecord:
        """Return the task's newest round."""
        latest = self._first(RoundRecord, ROUNDS, ROUNDS.c.task == task, order=ROUNDS.c.round.desc())
        if latest is None:
            raise StorageError(f"{self._database}: task {task} has no round")
        return latest

    def latest_version(self, task: str) -> VersionRecord:
        """Return the task's newest version."""
        versions = self._versions(task, limit=1)
        if not versions:
            raise StorageError(f"{self._database}: task {task} has no version")
        return versions[0]

    def versions(self, task: str) -> tuple[VersionRecord, ...]:
        """Return the task's versions, oldest first."""
        return tuple(reversed(self._versions(task)))

    def is_joined(self, task: str, round_: int, device: str) -> bool:
        """Return whether the device takes part in the round."""
        return self._count(PARTICIPANTS, of_device(PARTICIPANTS, task, round_, device)) > 0

    def n_joined(self, task: str, round_: int) -> int:
        """Return how many devices take part in the round."""
        return self._count(PARTICIPANTS, of_round(PARTICIPANTS, task, round_))

    def joined(self, task: str, round_: int) -> tuple[str, ...]:
        """Return the devices that take part in the round, by name."""
        query = select(PARTICIPANTS.c.device).where(of_round(PARTICIPANTS, task, round_))
        with self._reading() as connection:
            return tuple(connection.execute(query.order_by(PARTICIPANTS.c.device)).scalars())

    def answer_times(self, task: str, round_: int) -> dict[str, float]:
        """Return the seconds between each device's join and its accepted update; 0 where the wall clock went back."""
        p, u = PARTICIPANTS.c, UPDATES.c
        pair = and_(p.task == u.task, p.round == u.round, p.device == u.device)
        query = select(u.device, u.taken_unix_s - p.joined_unix_s).join_from(UPDATES, PARTICIPANTS, pair)
        with self._reading() as connection:
            rows = connection.execute(query.where(of_round(UPDATES, task, round_)))
            return {device: max(0.0, took_s) for device, took_s in rows}

    def last_participation(self, task: str, device: str) -> Participation | None:
        """Return the device's last round that it answered or that is over; None if there is none."""
        p, u, r = PARTICIPANTS.c, UPDATES.c, ROUNDS.c
        pair = and_(p.task == u.task, p.round == u.round, p.device == u.device)
        seconds = func.coalesce(u.taken_unix_s, r.closed_unix_s) - p.joined_unix_s
        query = (
            select(seconds, u.update_id.is_not(None))
            .outerjoin_from(PARTICIPANTS, UPDATES, pair)
            .join(ROUNDS, and_(r.task == p.task, r.round == p.round))
            .where(p.task == task, p.device == device, seconds.is_not(None))
            .order_by(p.round.desc())
            .limit(1)
        )
        with self._reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else Participation(seconds=max(0.0, row[0]), is_answered=bool(row[1]))

    def taken(self, update_id: bytes) -> UpdateRecord | None:
        """Return the accepted update with this id."""
        return self._first(UpdateRecord, UPDATES, UPDATES.c.update_id == update_id)

    def taken_from(self, task: str, round_: int, device: str) -> UpdateRecord | None:
        """Return the device's accepted update of the round."""
        return self._first(UpdateRecord, UPDATES, of_device(UPDATES, task, round_, device))

    def updates(self, task: str, round_: int) -> tuple[UpdateRecord, ...]:
        """Return the round's accepted updates, by device."""
        return tuple(self._records(UpdateRecord, UPDATES, of_round(UPDATES, task, round_), order=UPDATES.c.device))

    def buffered(self, task: str, buffer: int) -> tuple[Buffered, ...]:
        """Return the updates of a buffer, each with the version that it is based on, by device and work."""
        with self._reading() as connection:
            return sql_buffers.buffered_in(connection, task, buffer)

    def at_work(self, task: str, *, since: int) -> tuple[str, ...]:
        """Return the devices whose newest work is of round ``since`` or later and has no update yet."""
        with self._reading() as connection:
            return sql_buffers.at_work_in(connection, task, since=since)

    def oldest_work(self, task: str, *, since: int) -> int | None:
        """Return the oldest round whose work is in buffer ``since`` or a later one; None if they are empty."""
        with self._reading() as connection:
            return sql_buffers.oldest_work_in(connection, task, since=since)

    def rounds_from(self, task: str, *, version: int) -> tuple[RoundRecord, ...]:
        """Return the task's rounds on ``version`` and later ones, oldest first."""
        with self._reading() as connection:
            return sql_buffers.rounds_from(connection, task, version=version)

    def restored(self, task: str) -> int:
        """Return the newest version that is no fold: the bundle's own, or what an operator went back to."""
        with self._reading() as connection:
            return sql_buffers.restored_in(connection, task)

    def rejected(self, task: str) -> frozenset[int]:
        """Return the versions that a gate refused."""
        with self._reading() as connection:
            return sql_buffers.rejected_in(connection, task)

    def summary(self, task: str, round_: int) -> RoundSummary:
        """Return the sums over a round's participants and updates."""
        p, u = PARTICIPANTS.c, UPDATES.c
        joined = select(func.count(), func.sum(p.up_bytes), func.sum(p.down_bytes))
        taken = select(func.count(), func.max(u.train_s), func.sum(u.loss * u.n_examples), func.sum(u.n_examples))
        with self._reading() as connection:
            n_joined, up, down = connection.execute(joined.where(of_round(PARTICIPANTS, task, round_))).one()
            n_taken, train_s, loss, n = connection.execute(taken.where(sql_buffers.is_folded_in(task, round_))).one()
            folded = select(VERSIONS.c.n_updates).where(of_round(VERSIONS, task, round_))
            n_folded = connection.execute(folded).scalar()
        return RoundSummary(
            n_participants=n_joined,
            n_updates=n_taken or n_folded or 0,  # of a secure sum no single update is known
            train_s_max=train_s or 0.0,
            loss=loss / n if n else None,
            bytes_up=int(up or 0),
            bytes_down=int(down or 0),
        )

    def evaluations(self, task: str, *, since: int = 0) -> dict[int, Evaluation]:
        """Return the metrics of the task's versions from ``since`` on that have any."""
        query = select(EVALUATIONS).where(EVALUATIONS.c.task == task, EVALUATIONS.c.version >= since)
        sets: dict[int, dict[str, SetScore]] = {}
        wall_s: dict[int, float] = {}
        with self._reading() as connection:
            for row in connection.execute(query.order_by(EVALUATIONS.c.version, EVALUATIONS.c.set_name)).mappings():
                score = SetScore(accuracy=row["accuracy"], loss=row["loss"], n_examples=row["n_examples"])
                sets.setdefault(row["version"], {})[row["set_name"]] = score
                wall_s[row["version"]] = row["wall_s"]
        return {v: Evaluation(task=task, version=v, sets=sets[v], wall_s=wall_s[v]) for v in sets}

    def refusals(self, task: str) -> dict[str, int]:
        """Return how often each reason was counted for ``task``; ``""`` for messages of no known task."""
        query = select(REFUSALS.c.reason, REFUSALS.c["count"]).where(REFUSALS.c.task == task)
        with self._reading() as connection:
            return {row.reason: row[1] for row in connection.execute(query.order_by(REFUSALS.c.reason))}

    def ledger(self, task: str) -> tuple[LedgerEntry, ...]:
        """Return what the task's folds cost, by round."""
        with self._reading() as connection:
            return sql_privacy.entries_of(connection, task)

    def participation(self, task: str) -> dict[str, int]:
        """Return in how many folds each device's update was."""
        with self._reading() as connection:
            return sql_privacy.participation_in(connection, task)

    def blobs_in_use(self, *, keep_folded: bool) -> set[str]:
        """Return the names of the blobs that rows need."""
        with self._reading() as connection:
            return blobs_in_use(connection, keep_folded=keep_folded)

    def _records(
        self,
        cls: type[R],
        table: Table,
        *where: ColumnElement[bool],
        order: Any = None,  # noqa: ANN401 - SQLAlchemy's expressions
        limit: int | None = None,
    ) -> list[R]:
        columns = [table.c[name] for name in cls.__dataclass_fields__]
        query = select(*columns).where(*where).order_by(order).limit(limit)
        with self._reading() as connection:
            return [cls(**row) for row in connection.execute(query).mappings()]

    def _first(self, cls: type[R], table: Table, *where: ColumnElement[bool], order: Any = None) -> R | None:  # noqa: ANN401 - SQLAlchemy's expressions
        found = self._records(cls, table, *where, order=order, limit=1)
        return found[0] if found else None

    def _versions(self, task: str, *, limit: int | None = None) -> list[VersionRecord]:
        query = select(VERSIONS).where(VERSIONS.c.task == task).order_by(VERSIONS.c.version.desc()).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(query).mappings()
            return [VersionRecord(**{**row, "state": json.loads(row["state"])}) for row in rows]

    def _count(self, table: Table, where: ColumnElement[bool]) -> int:
        with self._reading() as connection:
            return int(connection.execute(select(func.count()).select_from(table).where(where)).scalar_one())
