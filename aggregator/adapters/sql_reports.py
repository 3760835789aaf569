"""What the page, the interface and the metrics show, read in a few grouped queries whatever the history's length.

Laws: reads only (SQLite is told so); every list is bounded by its caller, newest first; no call takes longer with more
rounds than it returns, but for ``totals``, which counts rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, select

from aggregator.adapters.sql_database import SqlDatabase
from aggregator.adapters.tables import COMMANDS, DEVICES, PARTICIPANTS, REFUSALS, ROUNDS, UPDATES, VERSIONS
from aggregator.core.records import CommandRecord, RoundRecord, RoundSummary, VersionRecord

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sqlalchemy import Connection

__all__ = ["DeviceActivity", "RoundReport", "SqlReports", "Totals"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """A round and the sums over its participants and updates."""

    record: RoundRecord
    summary: RoundSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceActivity:
    """What a device did; times are seconds of Unix time."""

    n_joined: int
    n_updates: int
    n_examples: int
    bytes_up: int
    bytes_down: int
    last_seen_unix_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts over everything, keyed by task and, where it says so, by state or reason."""

    rounds: dict[tuple[str, str], int]  # by state
    updates: dict[str, int]
    bytes_up: dict[str, int]
    bytes_down: dict[str, int]
    refusals: dict[tuple[str, str], int]  # by reason
    devices: dict[str, int]  # by status
    n_waiting_commands: int


class SqlReports(SqlDatabase):
    """Reads beside a running service; ``close`` it at the end."""

    def __init__(self, database: Path) -> None:
        """Open ``database`` to read; errors as in ``SqlDatabase``."""
        super().__init__(database, is_read_only=True)

    def rounds(self, task: str, *, limit: int, before: int | None = None) -> list[RoundReport]:
        """Return the task's newest rounds, newest first; ``before`` leaves out that round and newer ones."""
        where = [ROUNDS.c.task == task] + ([] if before is None else [ROUNDS.c.round < before])
        columns = [ROUNDS.c[name] for name in RoundRecord.__dataclass_fields__]
        with self._reading() as connection:
            found = connection.execute(select(*columns).where(*where).order_by(ROUNDS.c.round.desc()).limit(limit))
            records = [RoundRecord(**row) for row in found.mappings()]
            sums = _summaries(connection, task, [one.round for one in records])
        return [RoundReport(record=one, summary=sums[one.round]) for one in records]

    def versions(self, task: str, *, limit: int, before: int | None = None) -> list[VersionRecord]:
        """Return the task's newest versions, newest first."""
        where = [VERSIONS.c.task == task] + ([] if before is None else [VERSIONS.c.version < before])
        query = select(VERSIONS).where(*where).order_by(VERSIONS.c.version.desc()).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(query).mappings()
            return [VersionRecord(**{**row, "state": json.loads(row["state"])}) for row in rows]

    def totals_of(self, task: str) -> dict[str, int]:
        """Return how many rounds a task folded, how many updates it took, and the bytes that crossed the broker."""
        p = PARTICIPANTS.c
        folded = select(func.count()).where(ROUNDS.c.task == task, ROUNDS.c.state == "folded")
        taken = select(func.count()).where(UPDATES.c.task == task)
        traffic = select(func.sum(p.up_bytes), func.sum(p.down_bytes)).where(p.task == task)
        with self._reading() as connection:
            up, down = connection.execute(traffic).one()
            return {
                "n_folded": connection.execute(folded).scalar_one(),
                "n_updates": connection.execute(taken).scalar_one(),
                "bytes_up": up or 0,
                "bytes_down": down or 0,
            }

    def commands(self, task: str, *, limit: int) -> list[CommandRecord]:
        """Return what was last asked of a task, newest first."""
        query = select(COMMANDS).where(COMMANDS.c.task == task).order_by(COMMANDS.c.command.desc()).limit(limit)
        with self._reading() as connection:
            return [CommandRecord(**row) for row in connection.execute(query).mappings()]

    def command(self, command: int) -> CommandRecord | None:
        """Return one command, or None."""
        with self._reading() as connection:
            row = connection.execute(select(COMMANDS).where(COMMANDS.c.command == command)).mappings().first()
            return None if row is None else CommandRecord(**row)

    def activity(self, devices: Sequence[str]) -> dict[str, DeviceActivity]:
        """Return what each of ``devices`` did, if it ever took part."""
        p, u = PARTICIPANTS.c, UPDATES.c
        joined = select(p.device, func.count(), func.sum(p.up_bytes), func.sum(p.down_bytes), func.max(p.joined_unix_s))
        taken = select(u.device, func.count(), func.sum(u.n_examples), func.max(u.taken_unix_s))
        with self._reading() as connection:
            of = connection.execute(taken.where(u.device.in_(devices)).group_by(u.device))
            updates = {device: (count, examples, last) for device, count, examples, last in of}
            found = connection.execute(joined.where(p.device.in_(devices)).group_by(p.device)).all()
        activity = {}
        for device, n_joined, up, down, last_joined in found:
            n_updates, n_examples, last_taken = updates.get(device, (0, 0, 0.0))
            activity[device] = DeviceActivity(
                n_joined=n_joined,
                n_updates=n_updates,
                n_examples=n_examples,
                bytes_up=up,
                bytes_down=down,
                last_seen_unix_s=max(last_joined, last_taken),
            )
        return activity

    def participants(self) -> list[str]:
        """Return every device that ever took part, by name: those of ``devices.toml`` have no row of their own."""
        with self._reading() as connection:
            return list(connection.execute(select(PARTICIPANTS.c.device).distinct().order_by("device")).scalars())

    def totals(self) -> Totals:
        """Return the counts that the metrics show."""
        p = PARTICIPANTS.c
        with self._reading() as connection:

            def counted(*keys: Any) -> list[Any]:  # noqa: ANN401 - SQLAlchemy's columns and rows
                return list(connection.execute(select(*keys, func.count()).group_by(*keys)).all())

            traffic = connection.execute(
                select(p.task, func.sum(p.up_bytes), func.sum(p.down_bytes)).group_by(p.task)
            ).all()
            waiting = select(func.count()).select_from(COMMANDS).where(COMMANDS.c.status == "waiting")
            refused = connection.execute(select(REFUSALS.c.task, REFUSALS.c.reason, REFUSALS.c["count"]))
            return Totals(
                rounds={(task, state): n for task, state, n in counted(ROUNDS.c.task, ROUNDS.c.state)},
                updates=dict(tuple(row) for row in counted(UPDATES.c.task)),
                bytes_up={task: up for task, up, _ in traffic},
                bytes_down={task: down for task, _, down in traffic},
                refusals={(task, reason): n for task, reason, n in refused},
                devices=dict(tuple(row) for row in counted(DEVICES.c.status)),
                n_waiting_commands=connection.execute(waiting).scalar_one(),
            )


def _summaries(connection: Connection, task: str, rounds: Sequence[int]) -> dict[int, RoundSummary]:
    p, u = PARTICIPANTS.c, UPDATES.c
    joined = select(p.round, func.count(), func.sum(p.up_bytes), func.sum(p.down_bytes))
    taken = select(u.round, func.count(), func.max(u.train_s), func.sum(u.loss * u.n_examples), func.sum(u.n_examples))
    of_joined = connection.execute(joined.where(and_(p.task == task, p.round.in_(rounds))).group_by(p.round))
    participants = {number: figures for number, *figures in of_joined}
    of_taken = connection.execute(taken.where(and_(u.task == task, u.round.in_(rounds))).group_by(u.round))
    updates = {number: figures for number, *figures in of_taken}
    summaries = {}
    for number in rounds:
        n_joined, up, down = participants.get(number, (0, 0, 0))
        n_taken, train_s, loss, n_examples = updates.get(number, (0, 0.0, 0.0, 0))
        summaries[number] = RoundSummary(
            n_participants=n_joined,
            n_updates=n_taken,
            train_s_max=train_s,
            loss=loss / n_examples if n_examples else None,
            bytes_up=up,
            bytes_down=down,
        )
    return summaries
