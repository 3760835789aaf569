"""The transactions of tasks, rounds, updates and versions in SQL.

Laws: those of ``sql_database``; every method here is one transaction; what they read is ``sql_reader``'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_

from aggregator.adapters import sql_buffers, sql_metrics, sql_privacy
from aggregator.adapters.sql_database import insert_into
from aggregator.adapters.sql_metrics import NO_METRICS
from aggregator.adapters.sql_reader import SqlReader
from aggregator.adapters.sql_rounds import count_traffic, end_round, fire_round, version_row
from aggregator.adapters.tables import EVALUATIONS, PARTICIPANTS, REFUSALS, ROUNDS, TASKS, UPDATES, VERSIONS
from protocol.fields import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.core.privacy.ledger import LedgerEntry, PrivateFold
    from aggregator.core.records import Evaluation, RoundRecord, TaskRecord, Traffic, UpdateRecord, VersionRecord
    from aggregator.core.rounds import RoundEvent
    from protocol.enrolment import ClaimReason
    from protocol.reasons import Reason

__all__ = ["SqlStore"]


class SqlStore(SqlReader):
    """Implements ``aggregator.store_ports.Store`` on an upgraded database; ``close`` it at the end."""

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
