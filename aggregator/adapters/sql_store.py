"""The store of tasks, rounds, updates and versions in SQL.

Laws: those of ``sql_database``; every writing method is one transaction.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import ColumnElement, and_, func, select

from aggregator.adapters import sql_buffers, sql_metrics, sql_privacy
from aggregator.adapters.sql_blob_names import blobs_in_use
from aggregator.adapters.sql_database import SqlDatabase, insert_into
from aggregator.adapters.sql_metrics import NO_METRICS
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
    Traffic,
    UpdateRecord,
    VersionRecord,
)
from aggregator.core.rounds import fire
from protocol.errors import StorageError
from protocol.fields import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, Table

    from aggregator.core.buffer import Buffered
    from aggregator.core.privacy.ledger import LedgerEntry, PrivateFold
    from aggregator.core.rounds import RoundEvent
    from protocol.enrolment import ClaimReason
    from protocol.messages import Reason

__all__ = [
    "SqlStore",
    "count_traffic",
    "end_round",
    "fire_round",
    "of_device",
    "of_round",
    "version_row",
]

R = TypeVar("R", TaskRecord, RoundRecord, UpdateRecord)


class SqlStore(SqlDatabase):
    """Implements ``aggregator.ports.Store`` on an upgraded database; ``close`` it at the end."""

    # -- reads -------------------------------------------------------------------------------------------------------

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
        """Return the devices with work of round ``since`` or later and no update for it."""
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

    # -- transactions ------------------------------------------------------------------------------------------------

    def add_task(self, task: TaskRecord, version: VersionRecord, first_round: RoundRecord) -> None:
        """Keep a new task with version 0 and its first round."""
        with self._writing() as connection:
            connection.execute(TASKS.insert(), plain(task))
            connection.execute(VERSIONS.insert(), version_row(version))
            connection.execute(ROUNDS.insert(), plain(first_round))

    def join(self, task: str, round_: int, device: str, *, traffic: Traffic, unix_s: float) -> None:
        """Keep that the device takes part, if it is not known, and count its traffic."""
        row = {"task": task, "round": round_, "device": device, "joined_unix_s": unix_s, "up_bytes": 0, "down_bytes": 0}
        with self._writing() as connection:
            connection.execute(insert_into(connection, PARTICIPANTS).values(row).on_conflict_do_nothing())
            count_traffic(connection, task, round_, device, traffic)

    def accept(
        self,
        update: UpdateRecord,
        *,
        traffic: Traffic,
        unix_s: float,
        buffer: int | None = None,
        metrics: Mapping[str, float] = NO_METRICS,
    ) -> None:
        """Keep an update, in ``buffer`` if it is for one, and what its device told with it."""
        with self._writing() as connection:
            fire_round(connection, update.task, buffer or update.round, "update-accepted")
            connection.execute(UPDATES.insert(), {**plain(update), "taken_unix_s": unix_s})
            if buffer is not None:
                sql_buffers.add_to(connection, update, buffer)
            sql_metrics.add(connection, update, metrics)
            count_traffic(connection, update.task, update.round, update.device, traffic)

    def refuse(
        self,
        reason: Reason | ClaimReason,
        *,
        task: str = "",
        round_: int = 0,
        device: str = "",
        traffic: Traffic | None = None,
    ) -> None:
        """Count a refusal, for the task if it is a known one, and the traffic if the device takes part in the round."""
        more = {"count": REFUSALS.c["count"] + 1}
        with self._writing() as connection:
            counted = insert_into(connection, REFUSALS).values(task=task, reason=reason, count=1)
            connection.execute(counted.on_conflict_do_update(index_elements=["task", "reason"], set_=more))
            if traffic is not None:
                count_traffic(connection, task, round_, device, traffic)

    def start_closing(
        self, task: str, round_: int, round_event: RoundEvent, *, entry: LedgerEntry | None = None
    ) -> None:
        """Fix the round's updates for the reason ``round_event`` and, with ``entry``, what their fold costs."""
        with self._writing() as connection:
            fire_round(connection, task, round_, round_event)
            if entry is not None:
                sql_privacy.add_entry(connection, entry)

    def charge(self, entry: LedgerEntry) -> None:
        """Keep what a round's secure sum costs, before it is masked."""
        with self._writing() as connection:
            sql_privacy.add_entry(connection, entry)

    def fold(
        self,
        task: str,
        round_: int,
        *,
        version: VersionRecord,
        next_round: RoundRecord | None,
        is_last: bool = False,
        private: PrivateFold | None = None,
    ) -> None:
        """Close the round by its version; open the next if there is one, finish the task if it was the last."""
        with self._writing() as connection:
            fire_round(connection, task, round_, "folded", closed_unix_s=version.created_unix_s)
            connection.execute(VERSIONS.insert(), version_row(version))
            of_fold = sql_buffers.is_folded_in(task, round_)
            connection.execute(UPDATES.update().where(of_fold).values(status="folded"))
            if private is not None:
                sql_privacy.complete_entry(connection, task, round_, private)
            if is_last:
                connection.execute(TASKS.update().where(TASKS.c.task == task).values(state="finished"))
            if next_round is not None:
                connection.execute(ROUNDS.insert(), plain(next_round))

    def abandon(
        self, task: str, round_: int, round_event: RoundEvent, *, next_round: RoundRecord | None, unix_s: float
    ) -> None:
        """Close the round without a version, discard its updates and open the next, if there is one."""
        with self._writing() as connection:
            end_round(connection, task, round_, round_event, unix_s=unix_s)
            if next_round is not None:
                connection.execute(ROUNDS.insert(), plain(next_round))

    def carry_over(self, task: str, buffer: int, *, next_round: RoundRecord, unix_s: float) -> None:
        """Close a buffer without a version and open the next, in which its updates wait on."""
        with self._writing() as connection:
            fire_round(connection, task, buffer, "carried-over", closed_unix_s=unix_s)
            connection.execute(ROUNDS.insert(), plain(next_round))
            sql_buffers.carry(connection, task, buffer, into=next_round.round)

    def open_round(self, round_: RoundRecord) -> None:
        """Open a round of a task that has none."""
        with self._writing() as connection:
            connection.execute(ROUNDS.insert(), plain(round_))

    def finish(self, task: str, round_: int, *, unix_s: float) -> None:
        """End a task that was given fewer rounds than it has; its open round is abandoned."""
        with self._writing() as connection:
            end_round(connection, task, round_, "withdrawn", unix_s=unix_s)
            connection.execute(TASKS.update().where(TASKS.c.task == task).values(state="finished"))

    def add_evaluation(self, evaluation: Evaluation) -> None:
        """Keep a version's metrics, in place of older ones."""
        common = {"task": evaluation.task, "version": evaluation.version, "wall_s": evaluation.wall_s}
        rows = [{**common, "set_name": name, **plain(score)} for name, score in evaluation.sets.items()]
        of_version = and_(EVALUATIONS.c.task == evaluation.task, EVALUATIONS.c.version == evaluation.version)
        with self._writing() as connection:
            connection.execute(EVALUATIONS.delete().where(of_version))
            connection.execute(EVALUATIONS.insert(), rows)

    # -- how ---------------------------------------------------------------------------------------------------------

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


def of_round(table: Table, task: str, round_: int) -> ColumnElement[bool]:
    """Return the condition that a row is of one round."""
    return and_(table.c.task == task, table.c.round == round_)


def of_device(table: Table, task: str, round_: int, device: str) -> ColumnElement[bool]:
    """Return the condition that a row is of one device in one round."""
    return and_(of_round(table, task, round_), table.c.device == device)


def version_row(version: VersionRecord) -> Mapping[str, object]:
    """Return a version as a row."""
    return {**plain(version), "round": version.round, "state": json.dumps(plain(version.state), sort_keys=True)}


def count_traffic(connection: Connection, task: str, round_: int, device: str, traffic: Traffic) -> None:
    """Add to a participant's traffic, if the device is one."""
    columns = PARTICIPANTS.c
    more = {"up_bytes": columns.up_bytes + traffic.up_bytes, "down_bytes": columns.down_bytes + traffic.down_bytes}
    connection.execute(PARTICIPANTS.update().where(of_device(PARTICIPANTS, task, round_, device)).values(**more))


def fire_round(
    connection: Connection, task: str, round_: int, round_event: RoundEvent, *, closed_unix_s: float | None = None
) -> None:
    """Move the round along the table of ``core.rounds``, inside the caller's transaction."""
    this = of_round(ROUNDS, task, round_)
    state = fire(connection.execute(select(ROUNDS.c.state).where(this)).scalar_one(), round_event)
    connection.execute(ROUNDS.update().where(this).values(state=state, closed_unix_s=closed_unix_s))


def end_round(connection: Connection, task: str, round_: int, round_event: RoundEvent, *, unix_s: float) -> None:
    """Abandon a round for the reason ``round_event`` and discard its updates."""
    fire_round(connection, task, round_, round_event, closed_unix_s=unix_s)
    connection.execute(UPDATES.update().where(sql_buffers.is_folded_in(task, round_)).values(status="discarded"))
